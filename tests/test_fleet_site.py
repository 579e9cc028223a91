"""What a fleet tells monitors and people, and who may drain it."""

from __future__ import annotations

import asyncio
import json
import re
import time

import pytest
from fleet_fakes import FakeCluster, fleet, run

from streamface.fleet import console
from streamface.fleet.metrics import exposition
from streamface.fleet.view import CameraView, FleetView, StationView

TOKEN = "correct-horse-battery"


@pytest.fixture
def running():
    """A fleet of four cameras on two stations."""
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    return made, cluster


def samples(text):
    """Return the values of an exposition by name and labels; it must be well-formed."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line), line
            continue
        match = re.fullmatch(r"([a-z_]+)(\{.*\})? (\S+)", line)
        assert match, line
        assert match[1] + (match[2] or "") not in found
        found[match[1] + (match[2] or "")] = float(match[3])
    return found


def test_figures_are_told_by_station_and_stream(running):
    made, cluster = running
    found = samples(exposition(made.view))
    assert found['streamface_up{station="node0",stream="camera0"}'] == 1
    assert found['streamface_frames_total{station="node1",stream="camera1"}'] > 50
    assert found['streamface_station_cameras{station="node0"}'] == 2
    assert found["streamface_fleet_healthy"] == 1
    cluster.die("node1")
    run(made, cluster, 3)
    found = samples(exposition(made.view))
    assert found['streamface_fleet_moves_total{reason="lost"}'] == 2
    assert found['streamface_camera_moves_total{station="node0",stream="camera1"}'] == 1


def test_what_was_counted_stays_counted_when_a_camera_moves(running):
    made, cluster = running
    before = {camera.name: camera.frames for camera in made.view.cameras}
    cluster.die("node1")
    for _ in range(40):
        made.step()
        cluster.wait(0.25)
        now = {camera.name: camera.frames for camera in made.view.cameras}
        assert all(now[name] >= before[name] for name in now)
        before = now


def test_names_cannot_break_the_exposition():
    camera = CameraView('a"b\\c\nd', drops={"busy": 3}, ages_s=(0.1, 0.2, 0.3))
    assert samples(exposition(FleetView(cameras=(camera,))))


def view(*states, **values):
    cameras = [CameraView(f"c{n}", state=s, silent_s=1.0) for n, s in enumerate(states)]
    return FleetView(cameras=tuple(cameras), taken_s=time.monotonic(), **values)


@pytest.mark.parametrize(
    ("states", "health"),
    [
        (["running", "running"], "ok"),
        (["running", "ended"], "ok"),
        (["running", "waiting"], "degraded"),
        (["running", "lost"], "degraded"),
        (["opening", "waiting"], "down"),
    ],
)
def test_health(states, health):
    assert view(*states).health() == health


def test_a_driver_that_hangs_is_not_healthy():
    hung = view("running")
    assert hung.health(lambda: hung.taken_s + 30) == "stuck"


def test_a_camera_without_new_frames_is_not_well():
    assert not CameraView("c", state="running", silent_s=11.0).is_well
    assert not CameraView("c", state="running", silent_s=None).is_well


def ask(url, path="", method="GET", **options):
    """Return (status, body) of one request."""
    aiohttp = pytest.importorskip("aiohttp")

    async def asked():
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url + path, allow_redirects=False, **options) as answer,
        ):
            return answer.status, await answer.text()

    return asyncio.run(asked())


@pytest.fixture
def served(running):
    pytest.importorskip("aiohttp")
    from streamface.fleet.site import serve_fleet

    with serve_fleet(running[0], "0", None) as server:
        yield (*running, server.url)


def test_addresses(served):
    made, cluster, url = served
    run(made, cluster, 1)
    status, body = ask(url, "healthz")
    assert status == 200
    assert json.loads(body) == {"status": "ok", "cameras": 4, "well": 4, "stations": 2}
    assert samples(ask(url, "metrics")[1])
    told = json.loads(ask(url, "fleet")[1])
    assert [camera["station"] for camera in told["cameras"]] == ["node0", "node1"] * 2
    status, page = ask(url)
    assert status == 200
    assert "camera3" in page


def test_no_camera_with_frames_is_no_health(served):
    made, cluster, url = served
    cluster.alive.clear()
    run(made, cluster, 3)
    status, body = ask(url, "healthz")
    assert status == 503
    assert json.loads(body)["status"] == "down"


def test_drain_and_undrain(served):
    made, cluster, url = served
    assert ask(url, "drain?station=nowhere", "POST")[0] == 404
    assert ask(url, "undrain?station=node0", "POST")[0] == 404
    assert ask(url, "drain?station=node0")[0] == 405
    assert ask(url, "drain?station=node0", "POST")[0] == 202
    run(made, cluster, 5)
    assert set(map(tuple, cluster.where().values())) == {("node1",)}
    assert ask(url, "undrain?station=node0", "POST")[0] == 202
    run(made, cluster, 5)
    assert [station.state for station in made.view.stations] == ["up", "up"]


def test_other_sites_and_other_names_are_refused(served):
    _, _, url = served
    path = "drain?station=node0"
    assert ask(url, path, "POST", headers={"Origin": "http://evil.example"})[0] == 403
    assert ask(url, path, "POST", headers={"Host": "evil.example"})[0] == 403
    assert ask(url, path, "POST", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403


def test_a_token_is_asked_for(running):
    pytest.importorskip("aiohttp")
    from streamface.fleet.site import serve_fleet

    with serve_fleet(running[0], "0", TOKEN) as server:
        url = server.url.partition("?")[0]
        for path in ("", "metrics", "healthz", "fleet"):
            assert ask(url, path)[0] == 401
        assert ask(url, "drain?station=node0", "POST")[0] == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert ask(url, "metrics", headers=bearer)[0] == 200
        assert ask(url, "drain?station=node0", "POST", headers=bearer)[0] == 202


def test_the_page_shows_names_as_they_are():
    pytest.importorskip("aiohttp")
    from streamface.fleet.site import html

    page = html(FleetView(cameras=(CameraView("<script>alert(1)</script>"),)))
    assert "<script" not in page


# -- the console


def printed(renderable):
    from rich.console import Console

    terminal = Console(width=120, record=True, file=None, force_terminal=False, quiet=False)
    with terminal.capture() as captured:
        terminal.print(renderable)
    return captured.get()


def test_the_panel_shows_stations_and_cameras(running):
    made, _ = running
    text = printed(console.panel(made.view))
    for word in ("node0", "node1", "camera0", "camera3", "running", "25.0", "0.50/4"):
        assert word in text
    lost = FleetView(
        cameras=(CameraView("door", state="lost", reason="door: no route to host"),),
        stations=(StationView("node9"),),
        stopping=True,
    )
    text = printed(console.panel(lost))
    assert "no route to host" in text
    assert "down" in text
    assert "finishing all files" in text


def test_lines_for_a_log(running):
    made, _ = running
    line = console.progress_line(made.view)
    assert line.startswith("4 of 4 cameras on 2 of 2 stations, 100.0 fps")
    assert console.camera_line(made.view.cameras[0]).startswith("camera0: 25.0 fps on node0")
    assert console.camera_line(CameraView("x", reason="x: gone")) == "x: waiting (x: gone)"


def test_the_summary_tells_what_was_lost(running):
    made, cluster = running
    made._cameras[0].over, made._cameras[0].reason = "lost", "camera0: gone"
    run(made, cluster, 1)
    lines = console.summary(made)
    assert lines[0].startswith("4 cameras: ")
    assert "failed: 1 of 4 cameras" in lines
    assert "  camera0: gone" in lines
