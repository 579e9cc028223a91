"""Invented faces: the seed says all, files are whole and say what they are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base

from streamface import cli, generate
from streamface.errors import UsageError
from streamface.frame import EMOTIONS
from streamface.generate import Options
from streamface.resynth import INVENT_MODEL, Imagination

SIDE_PX = 8
TOLD = f"generated face, no real person (streamface generate, model {INVENT_MODEL}, seed 7)"


class FakeInventor:
    """Draws plain pictures: red is who it is, green the emotion, blue the gender."""

    spec = SimpleNamespace(shape=(3, SIDE_PX, SIDE_PX))
    card = SimpleNamespace(name=INVENT_MODEL)
    opened = 0

    @classmethod
    def open(cls, _name):
        cls.opened += 1
        return cls()

    def invent(self, expressions, females, rng):
        who = rng.random(len(females)) * 255
        colours = np.stack([who, expressions.argmax(1) * 30, females * 100 + 120], 1)
        return np.tile(colours[:, :, None, None], (1, 1, SIDE_PX, SIDE_PX)).astype(np.float32)

    def close(self):
        type(self).opened -= 1


@pytest.fixture
def fake(monkeypatch):
    """No net is run."""
    monkeypatch.setattr(generate, "Imagination", FakeInventor)
    monkeypatch.setattr(FakeInventor, "opened", 0)
    yield
    assert FakeInventor.opened == 0


@pytest.fixture
def breaking_save(monkeypatch):
    """Let Pillow fail once it has written some pictures, and the next one in part."""

    def install(error, *, after):
        save, left = Image.Image.save, [after]

        def failing(self, target, **how):
            save(self, target, **how)
            left[0] -= 1
            if left[0] < 0:
                raise error

        monkeypatch.setattr(Image.Image, "save", failing)

    return install


@pytest.fixture(scope="module")
def model():
    inventor = Imagination.open()
    yield inventor
    inventor.close()


def draw(model, count, seed=7, **how):
    options = Options(output="o.png", count=count, **how)
    return generate.faces(
        model, options.emotions, options.females, seed, same_person=options.same_person
    )


def run(*arguments):
    return cli.main(["generate", *map(str, arguments)])


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def complaint(capfd):
    """Return the one line on stderr, having checked that it is one and no traceback."""
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("streamface: error: ")
    return line


# -- what is drawn


def test_the_shipped_net_draws_the_same_pixels_from_the_same_seed(model):
    one, again, other = draw(model, 2), draw(model, 2), draw(model, 2, seed=8)
    assert one.shape == (2, *model.spec.shape[1:], 3)
    assert one.dtype == np.uint8
    assert (one == again).all()
    assert (one != other).any()


def test_a_face_is_the_same_however_many_are_drawn(model):
    few, many = draw(model, 2), draw(model, 5)
    assert (few == many[:2]).all()
    assert (many[0] != many[1]).any()


def test_the_same_person_differs_only_in_what_it_shows():
    who, emotion, gender = draw(FakeInventor(), None, same_person=True)[:, 0, 0].T
    assert len(set(who)) == len(set(gender)) == 1
    assert list(emotion) == [30 * index for index in range(7)]


def test_without_same_person_everybody_is_somebody_else():
    who = draw(FakeInventor(), 10)[:, 0, 0, 0]
    assert len(set(who)) == 10


def test_emotions_and_genders_come_in_turn_unless_one_is_asked_for():
    options = Options(output="o.png", count=9)
    assert options.emotions == (*EMOTIONS, *EMOTIONS[:2])
    assert list(options.females) == [-1, 1, -1, 1, -1, 1, -1, 1, -1]
    options = Options(output="o.png", count=3, emotion="fear", gender="female")
    assert options.emotions == ("fear",) * 3
    assert list(options.females) == [1, 1, 1]
    assert options.females.dtype == np.float32


def test_by_default_there_are_sixteen_and_of_one_person_as_many_as_differ():
    assert len(Options(output="o.png").emotions) == 16
    assert Options(output="o.png", same_person=True).emotions == EMOTIONS
    assert Options(output="o.png", same_person=True, emotion="sad").emotions == ("sad",)


def test_what_any_one_person_is_depends_on_the_seed():
    signs = [Options(output="o.png", same_person=True, seed=seed).females for seed in (7, 8)]
    assert [list(each) for each in signs] == [[1] * 7, [-1] * 7]


# -- the grid


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (7, (2, 4)), (9, (3, 3)), (16, (4, 4))]
)
def test_a_grid_is_nearly_square(count, shape):
    assert generate.cells(["fear"] * count) == shape


@pytest.mark.parametrize("count", [*range(1, 200, 3), 1000])
def test_every_face_has_a_cell_and_no_row_or_column_is_idle(count):
    down, across = generate.cells(["fear"] * count)
    assert (down - 1) * across < count <= down * across
    assert 0 <= across - down <= 3


def test_there_is_one_row_an_emotion_where_that_comes_out_even():
    emotions = EMOTIONS * 3
    made = np.stack([np.full((4, 4, 3), EMOTIONS.index(each), np.uint8) for each in emotions])
    shown = generate.grid(made, emotions, 4)
    assert shown.shape == (28, 12, 3)
    assert (shown == np.repeat(np.arange(7), 4)[:, None, None]).all()


def test_faces_stand_in_reading_order_and_what_is_left_over_is_white():
    made = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    shown = generate.grid(made, ["sad"] * 5, 16)[8::16, 8::16, 0]
    assert shown.tolist() == [[0, 1, 2], [3, 4, 255]]


def test_a_face_is_enlarged_smoothly():
    ramp = np.tile(np.arange(0, 64, 8, dtype=np.uint8)[:, None], (8, 1, 3)).reshape(8, 8, 3)
    large = generate.enlarged(ramp, 64)
    assert large.shape == (64, 64, 3)
    assert np.diff(large[32, :, 0].astype(int)).max() <= 2


# -- the command


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("name", ["o.png", "o.PNG", "o.jpg", "o.jpeg", "o.webp"])
def test_a_file_says_that_it_was_generated_and_how(tmp_path, capfd, name):
    assert run("--seed", 7, "--output", tmp_path / name, "--size", 32) == 0
    assert f"written: {tmp_path / name} (seed 7)" in capfd.readouterr().err
    assert names(tmp_path) == [name]
    with Image.open(tmp_path / name) as image:
        assert image.size == (128, 128)
        exif = image.getexif()
        software = image.info.get("Software", exif.get(Base.Software))
        told = image.info.get("Description", exif.get(Base.ImageDescription))
    assert software == f"streamface {cli._version()}"
    assert told == TOLD


def test_the_command_gives_what_the_functions_give(tmp_path, model):
    """With the shipped net, through PNG, and at a size that is cubic interpolation's own."""
    how = ("--seed", 7, "--count", 3, "--emotion", "fear", "--gender", "female")
    assert run(*how, "--output", tmp_path / "o.png", "--size", 96) == 0
    made = draw(model, 3, emotion="fear", gender="female")
    assert (pixels(tmp_path / "o.png") == generate.grid(made, ["fear"] * 3, 96)).all()


@pytest.mark.usefixtures("fake")
def test_a_new_seed_is_told_and_gives_the_same_again(tmp_path, capfd):
    assert run("--output", tmp_path / "a.png") == 0
    seed = capfd.readouterr().err.rpartition("(seed ")[2].rstrip(")\n")
    assert run("--output", tmp_path / "b.png", "--seed", seed) == 0
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    assert run("--output", tmp_path / "c.png") == 0
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "c.png")).any()


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("folder", ["", "new/", "new/inner/"])
def test_a_folder_gets_a_file_a_face(tmp_path, folder):
    """An existing one, or one that is made."""
    assert run("--output", f"{tmp_path}/{folder}", "--count", 8, "--seed", 7, "--size", 24) == 0
    files = sorted((tmp_path / folder).glob("*.png"))
    assert [path.name for path in files] == sorted(
        f"{emotion}-{number:04d}.png" for number, emotion in enumerate((*EMOTIONS, "angry"), 1)
    )
    greens = {path.name: pixels(path)[0, 0, 1] for path in files}
    assert greens["sad-0005.png"] == 30 * EMOTIONS.index("sad")
    with Image.open(files[0]) as image:
        assert image.size == (24, 24)
        assert image.info["Description"] == TOLD


def test_help_names_what_can_be_asked_for(capfd):
    assert run("--help") == 0
    said = capfd.readouterr().out
    assert all(each in said for each in (*EMOTIONS, "female", "--same-person", "--seed"))


# -- mistakes


WRONG = {
    "emotion": (["--emotion", "joy"], "'joy'"),
    "gender": (["--gender", "both"], "'both'"),
    "no face": (["--count", "0"], "--count must be 1 to 1000"),
    "too many": (["--count", "1001"], "--count must be 1 to 1000"),
    "no number": (["--count", "few"], "'few'"),
    "seed": (["--seed", "-1"], "--seed must be"),
    "size": (["--size", "9999"], "--size must be"),
    "grid too large": (["--count", "1000", "--size", "1024"], "too large"),
    "extension": (["--output", "o.gif"], "'o.gif'"),
    "no extension": (["--output", "o"], "in a slash"),
    "no name": (["--output", ""], "''"),
}


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_exit_2_and_one_line(tmp_path, monkeypatch, capfd, case):
    arguments, reason = WRONG[case]
    monkeypatch.chdir(tmp_path)
    assert run("--output", "o.png", *arguments) == 2
    assert reason in complaint(capfd)
    assert names(tmp_path) == []


def test_the_output_is_required(capfd):
    assert run() == 2
    assert "--output" in complaint(capfd)


def test_options_are_checked_without_the_command_line_too():
    with pytest.raises(UsageError, match="angry, disgust"):
        Options(output="o.png", emotion="Fear")


@pytest.mark.usefixtures("fake")
def test_an_existing_file_is_replaced_only_when_asked(tmp_path, capfd):
    target = tmp_path / "o.png"
    target.write_text("mine")
    assert run("--output", target) == 2
    assert "--overwrite" in complaint(capfd)
    assert target.read_text() == "mine"
    assert run("--output", target, "--overwrite") == 0
    assert pixels(target).shape == (512, 512, 3)
    assert names(tmp_path) == ["o.png"]


@pytest.mark.usefixtures("fake")
def test_one_existing_file_in_a_folder_stops_all(tmp_path, capfd):
    (tmp_path / "fear-0003.png").write_text("mine")
    assert run("--output", tmp_path) == 2
    assert "fear-0003.png exists" in complaint(capfd)
    assert names(tmp_path) == ["fear-0003.png"]
    assert run("--output", tmp_path, "--overwrite") == 0
    assert len(names(tmp_path)) == 16


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("output", ["none/o.png", "file/", f"{'x' * 300}.png", f"{'x' * 300}/"])
def test_a_place_that_cannot_be_written_is_exit_1(tmp_path, capfd, output):
    (tmp_path / "file").write_text("")
    assert run("--output", f"{tmp_path}/{output}") == 1
    assert "cannot write" in complaint(capfd)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("card", ["nonesuch", "emotion"])
def test_a_model_that_invents_nobody_is_exit_1(tmp_path, capfd, card):
    """One that is not there, and a classifier."""
    assert run("--output", f"{tmp_path}/new/", "--model", card) == 1
    assert card in complaint(capfd)
    assert names(tmp_path) == []


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("output", ["o.png", "new/inner/"])
@pytest.mark.parametrize(
    "failure",
    [
        (OSError(28, "No space left on device"), 1, "No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oh"), 1, "unexpected"),
    ],
)
def test_a_failure_leaves_nothing_behind(tmp_path, breaking_save, capfd, output, failure):
    """At the fourth face, or the only grid: no file, no temporary one, no folder."""
    error, code, reason = failure
    breaking_save(error, after=3 if output.endswith("/") else 0)
    assert run("--output", f"{tmp_path}/{output}") == code
    assert reason in complaint(capfd)
    assert names(tmp_path) == []
