"""All research clips: a batch writes what ``run`` writes, on worker processes and on Ray."""

from __future__ import annotations

import json

import pytest

from streamface import cli
from streamface.sources import VIDEO_SUFFIXES

KINDS = ("jsonl", "csv", "vtt")
FRAMES = "40"

pytestmark = [pytest.mark.clips, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def by_run(shared, tmp_path_factory):
    """What ``run`` writes of each clip, by name."""
    folder = tmp_path_factory.mktemp("by-run")
    made = {}
    for path in sorted((shared / "clips").iterdir()):
        if path.suffix not in VIDEO_SUFFIXES:
            continue
        targets = {kind: folder / f"{path.stem}.{kind}" for kind in KINDS}
        data = [each for kind, to in targets.items() for each in (f"--save-{kind}", str(to))]
        run = ["run", "--source", str(path), "--max-frames", FRAMES, "--quiet", *data]
        assert cli.main(run) == 0
        made |= {to.name: to.read_bytes() for to in targets.values()}
    return made


@pytest.mark.parametrize("where", ["pool", "ray"])
def test_data_files_are_those_of_run_to_the_byte(shared, by_run, tmp_path, where, request):
    workers = ["--workers", "2"]
    if where == "ray":
        request.getfixturevalue("quiet_ray")
        workers += ["--cluster", request.getfixturevalue("two_nodes").address]
    kinds = [f"--save-{kind}" for kind in KINDS]
    code = cli.main(
        ["batch", str(shared / "clips"), "--output", str(tmp_path / "out"), "--no-video", "--quiet",
         "--max-frames", FRAMES, "--json", str(tmp_path / "report"), *kinds, *workers]
    )  # fmt: skip
    report = json.loads((tmp_path / "report").read_text())
    assert code == 0, report["failures"]
    assert report["done"] == len(by_run) / len(KINDS)
    made = {
        path.name: path.read_bytes()
        for path in (tmp_path / "out").iterdir()
        if path.suffix.lstrip(".") in KINDS and path.stem != "manifest"
    }
    assert made.keys() == by_run.keys()
    assert [name for name in made if made[name] != by_run[name]] == []
