"""What the driver makes of machines that die, stations that are silent and cameras that fail."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from fleet_fakes import FakeCluster, cameras, fleet, run

from streamface.errors import ModelError, SourceError, UsageError
from streamface.fleet.driver import base_names
from streamface.fleet.orders import StationLost
from streamface.sources import Input


def test_cameras_are_shared_out_once_all_stations_are_there():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    assert not run(made, cluster, 5)
    where = cluster.where()
    assert {name: len(stations) for name, stations in where.items()} == dict.fromkeys(
        (f"camera{n}" for n in range(4)), 1
    )
    assert Counter(stations[0] for stations in where.values()) == {"node0": 2, "node1": 2}
    assert made.view.health(lambda: made.view.taken_s) == "ok"


def test_a_station_that_does_not_start_keeps_cameras_waiting_for_seconds_only():
    cluster = FakeCluster(2)
    cluster.cut_off.add("key1")
    made = fleet(cluster, 4)
    run(made, cluster, 8)
    assert not cluster.where()
    run(made, cluster, 5)
    assert {stations[0] for stations in cluster.where().values()} == {"node0"}


def test_a_dead_machines_cameras_run_elsewhere_and_the_others_stay():
    cluster = FakeCluster(3)
    made = fleet(cluster, 6)
    run(made, cluster, 5)
    before = cluster.where()
    cluster.die("node1")
    run(made, cluster, 3)
    after = cluster.where()
    assert after.keys() == before.keys()
    for camera, stations in before.items():
        assert len(after[camera]) == 1
        if stations != ["node1"]:
            assert after[camera] == stations, "a healthy camera is left alone"
    assert made.view.moves == {"lost": 2}
    assert len({file for file, _ in cluster.files}) == len(cluster.files)


def test_a_station_that_cannot_be_reached_is_ended_and_replaced_within_ten_seconds():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    silent = cluster.station("node1")
    began_s = cluster.now_s
    cluster.cut_off.add("key1")
    while len(cluster.where()) < 4:
        made.step()
        cluster.wait(0.25)
        assert cluster.now_s - began_s < 10
    assert silent.is_killed
    assert cluster.now_s - began_s > 3, "a station is given some seconds"


def test_a_machine_that_comes_later_gets_what_has_no_place():
    cluster = FakeCluster(1)
    machine = cluster.alive[0]
    cluster.alive = []
    made = fleet(cluster, 2)
    assert not run(made, cluster, 40)
    assert made.view.health(lambda: made.view.taken_s) == "down"
    cluster.alive = [machine]
    run(made, cluster, 3)
    assert cluster.where() == {"camera0": ["node0"], "camera1": ["node0"]}


def test_draining_finishes_files_before_cameras_begin_elsewhere():
    cluster = FakeCluster(2)
    cluster.finish_s = 2.0
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    left = cluster.station("node0")
    assert made.drain("node0")
    assert not made.drain("nowhere")
    run(made, cluster, 1)
    assert {len(stations) for stations in cluster.where().values()} == {1}
    assert set(cluster.where()) == {"camera1", "camera3"}, "nobody begins before the file is whole"
    run(made, cluster, 4)
    assert {stations[0] for stations in cluster.where().values()} == {"node1"}
    assert len(cluster.where()) == 4
    assert left.is_killed, "its machine is free"
    assert [s.state for s in made.view.stations] == ["drained", "up"]
    assert made.view.moves == {"drain": 2}
    run(made, cluster, 20)
    assert len(cluster.living()) == 1, "a drained machine gets no station"
    assert made.undrain("node0")
    run(made, cluster, 5)
    assert [s.state for s in made.view.stations] == ["up", "up"]


def test_a_machine_that_ray_drains_is_left_too():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    cluster.change("node1", is_draining=True)
    run(made, cluster, 5)
    assert {stations[0] for stations in cluster.where().values()} == {"node0"}
    assert {s.name: s.state for s in made.view.stations} == {"node0": "up", "node1": "drained"}


def test_a_file_that_takes_for_ever_to_finish_does_not_keep_its_camera():
    cluster = FakeCluster(2)
    cluster.finish_s = 1e9
    made = fleet(cluster, 2)
    run(made, cluster, 5)
    made.drain("node0")
    run(made, cluster, 20)
    assert cluster.where() == {"camera0": ["node1"], "camera1": ["node1"]}


def test_stop_finishes_all_and_ends():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    made.stop()
    assert run(made, cluster, 5)
    assert made.lost == {}
    assert all(not station.duties for station in cluster.living())
    assert {camera.state for camera in made.view.cameras} == {"ended"}
    assert all(camera.frames for camera in made.view.cameras)


def test_interrupt_cancels_on_every_station():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    wait = cluster.wait

    def pressed(seconds):
        cluster.wait = wait
        wait(seconds)
        made.interrupt()

    cluster.wait = pressed
    with pytest.raises(KeyboardInterrupt):
        made.execute()
    made.interrupt()  # a third press changes nothing
    assert set(cluster.cancelled) == {"node0", "node1"}


def test_cancelling_does_not_wait_for_whom_it_cannot_reach():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    cluster.cut_off.add("key1")
    began_s = cluster.now_s
    made._cancel()
    assert "node0" in cluster.cancelled
    assert cluster.now_s - began_s < 7


def test_it_ends_when_every_camera_has():
    cluster = FakeCluster(1)
    made = fleet(cluster, 2)
    run(made, cluster, 5)
    cluster.over |= {"camera0", "camera1"}
    made.execute()
    assert made.lost == {}
    assert {camera.state for camera in made.view.cameras} == {"ended"}


def test_a_camera_that_fails_is_tried_elsewhere_and_ever_later_but_for_ever():
    cluster = FakeCluster(2)
    made = fleet(cluster, 1)
    cluster.failures["camera0"] = "no route to host"
    run(made, cluster, 20)
    tried = [station for _, station in cluster.files]
    assert tried[:4] == ["node0", "node1", "node0", "node1"]
    assert 4 <= len(tried) <= 7
    assert made.view.cameras[0].reason == "camera0: no route to host"
    del cluster.failures["camera0"]
    run(made, cluster, 65)
    assert made.view.cameras[0].is_well


def test_a_camera_is_given_up_after_the_attempts_that_were_asked_for():
    cluster = FakeCluster(2)
    made = fleet(cluster, 2, reconnect=2)
    cluster.failures["camera0"] = "no route to host"
    run(made, cluster, 20)
    assert made.lost == {"camera0": "camera0: no route to host"}
    assert len([file for file, _ in cluster.files if file.startswith("camera0")]) == 3
    cluster.over.add("camera1")
    made.execute()


def test_a_camera_whose_last_picture_is_held_is_not_well():
    cluster = FakeCluster(1)
    made = fleet(cluster, 2)
    run(made, cluster, 5)
    cluster.silent.add("camera1")
    run(made, cluster, 15)
    well, silent = made.view.cameras
    assert (well.state, silent.state) == ("running", "silent")
    assert not silent.is_well
    assert silent.fps > 0, "its file goes on"
    assert made.view.health(lambda: made.view.taken_s) == "degraded"
    cluster.silent.clear()
    run(made, cluster, 2)
    assert made.view.cameras[1].is_well


def test_a_fleet_without_a_frame_is_an_error():
    cluster = FakeCluster(1)
    made = fleet(cluster, 2, reconnect=0)
    cluster.failures.update(camera0="gone", camera1="gone as well")
    with pytest.raises(SourceError, match="camera0: gone"):
        made.execute()


def test_a_camera_whose_pictures_kill_is_found_and_the_others_live():
    """Each crash takes a station along; in the end only the one whose doing it is is given up."""
    cluster = FakeCluster(2)
    made = fleet(cluster, 6)
    run(made, cluster, 30)
    cluster.killers.add("camera3")
    run(made, cluster, 240)
    assert list(made.lost) == ["camera3"]
    assert "SIGSEGV" in made.lost["camera3"]
    assert set(cluster.where()) == {f"camera{n}" for n in range(6)} - {"camera3"}
    assert all(camera.is_well for camera in made.view.cameras if camera.name != "camera3")


def test_one_crash_is_nobodys_fault():
    cluster = FakeCluster(2)
    made = fleet(cluster, 4)
    run(made, cluster, 30)
    cluster.station("node0").crash = "its process ended (SIGKILL)"
    run(made, cluster, 2)
    assert len(cluster.where()) == 4
    run(made, cluster, 10)
    assert [s.state for s in made.view.stations] == ["up", "up"]
    assert made.view.restarts == 1


def test_files_go_on_after_those_that_stand_there_already():
    cluster = FakeCluster(1)
    cluster.taken = {"camera0": 7}
    made = fleet(cluster, 2)
    run(made, cluster, 3)
    assert sorted(file for file, _ in cluster.files) == ["camera0-8", "camera1"]


def test_an_overloaded_station_gives_one_camera_away():
    cluster = FakeCluster(2, cores=2.0)
    cluster.costs.update(camera0=0.9, camera1=0.2, camera2=0.8, camera3=0.1)
    made = fleet(cluster, 4)
    run(made, cluster, 5)
    cluster.station("node0").lowered = "detect every 8"
    run(made, cluster, 60)
    assert made.view.moves == {"balance": 1}
    assert {len(stations) for stations in cluster.where().values()} == {1}


def refuse():
    raise StationLost("no such model", final=ModelError("no such model"))


def test_what_is_wrong_on_every_machine_ends_the_fleet():
    cluster = FakeCluster(2)
    made = fleet(cluster, 1)
    made.step()
    for station in cluster.stations:
        station.poll = refuse
    with pytest.raises(ModelError, match="no such model"):
        made.execute()


def test_a_machine_that_cannot_do_it_is_done_without():
    cluster = FakeCluster(2)
    made = fleet(cluster, 2)
    made.step()
    cluster.stations[0].poll = refuse
    made.step()
    cluster.cut_off.add("key0")  # its next stations never begin
    run(made, cluster, 20)
    assert set(map(tuple, cluster.where().values())) == {("node1",)}


def test_a_machine_of_another_version_that_joins_later_harms_nobody():
    cluster = FakeCluster(2)
    late = cluster.alive.pop()
    made = fleet(cluster, 2)
    run(made, cluster, 5)
    cluster.version = "0.0.1"
    cluster.alive.append(late)
    run(made, cluster, 30)
    assert set(map(tuple, cluster.where().values())) == {("node0",)}


def test_another_version_is_refused():
    cluster = FakeCluster(1)
    cluster.version = "0.0.1"
    with pytest.raises(UsageError, match=r"node0 has streamface 0\.0\.1"):
        fleet(cluster, 1).execute()


def test_names_of_files_cannot_be_mistaken():
    """The second file of "door" is no file of a camera that is called "door-2"."""
    names = ["door", "door-2", "door-2-001", "gate-3", "Door"]
    inputs = [Input("url", f"rtsp://{n}/", name) for n, name in enumerate(names)]
    assert base_names(inputs) == ["door", "door-2_", "door-2-001_", "gate-3", "Door_2"]
    assert base_names(cameras(2)) == ["camera0", "camera1"]


def strike(dice, cluster, made, everybody):
    """Do one thing at random."""
    machine = dice.choice(everybody)
    match dice.randrange(6):
        case 0:
            cluster.die(machine.host)
        case 1 if machine not in cluster.alive:
            cluster.alive.append(machine)
        case 2:
            cluster.cut_off.add(machine.key)
        case 3:
            cluster.cut_off.discard(machine.key)
        case 4:
            (made.drain if dice.random() < 0.5 else made.undrain)(machine.host)
        case 5:
            for station in cluster.living():
                station.crash = "its process ended" if dice.random() < 0.2 else ""


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_no_camera_is_read_twice_and_in_the_end_all_run(seed):
    """Machines come, go, are cut off and drained at random; stations crash; then there is peace."""
    dice = random.Random(seed)
    cluster = FakeCluster(3)
    made = fleet(cluster, 7)
    everybody = list(cluster.alive)
    for _ in range(40):
        strike(dice, cluster, made, everybody)
        for _ in range(dice.randrange(1, 40)):
            assert not made.step()
            cluster.wait(0.25)
            # One that cannot be reached may go on for a while, under another file's name.
            assert all(len(stations) == 1 for stations in cluster.where().values())
    cluster.alive, cluster.cut_off = everybody, set()
    for machine in everybody:
        made.undrain(machine.host)
    assert not run(made, cluster, 200)
    assert len(cluster.where()) == 7
    assert all(camera.is_well for camera in made.view.cameras)
    assert len({file for file, _ in cluster.files}) == len(cluster.files)
    made.stop()
    assert run(made, cluster, 10)
    assert made.lost == {}
