"""Faces of people who do not exist, as pictures: one by one in a folder, or in a grid.

Every file says in its metadata that it was generated, by which model and from which seed.
"""

from __future__ import annotations

import math
import os
import secrets
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngInfo

from streamface.atomic import AtomicPath, sink_error
from streamface.errors import UsageError
from streamface.frame import EMOTIONS, GENDERS
from streamface.resynth import INVENT_MODEL, Imagination, expression

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from streamface.frame import BatchF32, ImageU8

ALL: Final = "all"
"""What ``emotion`` takes beside EMOTIONS: the seven in turn."""
ANY: Final = "any"
"""What ``gender`` takes beside GENDERS: both in turn."""
_COUNT: Final = 16
_MOST: Final = 1000
_SEEDS: Final = 10**9  # few digits to type again
_MOST_SEED: Final = 10**15 - 1
_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
_SIDE_PX: Final = 16383  # as much as WebP holds; few programs open more of the other kinds
_QUALITY: Final = 95  # of JPEG and WebP; PNG loses nothing
_WHITE: Final = 255
# Seven rows of fewer or more faces would be a ribbon.
_COLUMNS_OF_EMOTIONS: Final = range(2, 15)


def fresh_seed() -> int:
    """Return a seed that nobody chose."""
    return secrets.randbelow(_SEEDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which faces, and where they go. Raises UsageError on wrong values."""

    output: str
    """The name of a picture; or a folder, one that exists or ends in a slash."""
    emotion: str = ALL
    gender: str = ANY
    count: int | None = None
    """None: 16, or of the same person as many as differ."""
    seed: int = field(default_factory=fresh_seed)
    size_px: int = 128
    """Side of a face in the picture."""
    same_person: bool = False
    overwrite: bool = False
    model: str = INVENT_MODEL

    def __post_init__(self) -> None:
        for name, value, known in (
            ("--emotion", self.emotion, (*EMOTIONS, ALL)),
            ("--gender", self.gender, (*GENDERS, ANY)),
        ):
            if value not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        for name, number, low, high in (
            ("--count", _COUNT if self.count is None else self.count, 1, _MOST),
            ("--seed", self.seed, 0, _MOST_SEED),
            ("--size", self.size_px, 16, 1024),
        ):
            if not low <= number <= high:
                raise UsageError(f"{name} must be {low} to {high}, got {number}")
        if not self.is_folder and Path(self.output).suffix.lower() not in _SUFFIXES:
            raise UsageError(
                f"--output must end in {', '.join(_SUFFIXES)} or, to be a folder, in a slash; "
                f"not as {self.output!r}"
            )

    @property
    def is_folder(self) -> bool:
        """Whether every face gets a file of its own."""
        if self.output.endswith(("/", os.sep)):
            return True
        try:
            return self.output != "" and Path(self.output).is_dir()
        except OSError:  # a name too long, before Python 3.14; opening it will say so
            return False

    @property
    def emotions(self) -> tuple[str, ...]:
        """What each face shows."""
        shown = EMOTIONS if self.emotion == ALL else (self.emotion,)
        count = self.count or (len(shown) if self.same_person else _COUNT)
        return tuple(shown[index % len(shown)] for index in range(count))

    @property
    def females(self) -> BatchF32:
        """(N,) float32: -1 male, 1 female. What *any* one person is depends on the seed."""
        count = len(self.emotions)
        if self.gender != ANY:
            return np.full(count, 1 if self.gender == "female" else -1, np.float32)
        turns = np.full(count, self.seed) if self.same_person else np.arange(count)
        return (2 * (turns % 2) - 1).astype(np.float32)


def run(options: Options) -> None:
    """Draw the faces and write them. Raises UsageError, ModelError, SinkError."""
    emotions, targets = options.emotions, _targets(options)
    model = Imagination.open(options.model)
    try:
        with _opened(targets, options) as files:
            made = faces(
                model, emotions, options.females, options.seed, same_person=options.same_person
            )
            told = note(model.card.name, options.seed)
            if options.is_folder:
                write((enlarged(each, options.size_px) for each in made), files, told)
            else:
                write([grid(made, emotions, options.size_px)], files, told)
    finally:
        model.close()


def faces(
    model: Imagination,
    emotions: Sequence[str],
    females: BatchF32,
    seed: int,
    *,
    same_person: bool = False,
) -> NDArray[np.uint8]:
    """Return (N, S, S, 3) uint8 RGB: face i, which shows ``emotions[i]``.

    females: (N,) float32, -1 male to 1 female. Who face i is depends on ``seed`` and i alone, so
    more faces leave the first ones as they were; with ``same_person`` each is who face 0 is.
    """
    channels, height, width = model.spec.shape
    out = np.empty((len(emotions), height, width, channels), np.uint8)
    for index, emotion in enumerate(emotions):
        child = np.random.SeedSequence(seed, spawn_key=(0 if same_person else index,))
        # One at a time: a batch of another size may round otherwise, and is no faster on a CPU.
        (made,) = model.invent(
            expression(emotion)[None], females[index : index + 1], np.random.default_rng(child)
        )
        out[index] = np.clip(np.rint(made), 0, 255).transpose(1, 2, 0)
    return out


def enlarged(picture: ImageU8, size_px: int) -> ImageU8:
    """Return (size_px, size_px, 3) of an (S, S, 3) picture, by cubic interpolation."""
    image = Image.fromarray(picture).resize((size_px, size_px), Image.Resampling.BICUBIC)
    return np.array(image, np.uint8)


def grid(pictures: NDArray[np.uint8], emotions: Sequence[str], size_px: int) -> ImageU8:
    """Return (H, W, 3): (N, S, S, 3) pictures in cells of ``size_px``, nearly a square of them.

    They stand in reading order; but one row an emotion where all seven come equally often. Cells
    that are left over are white.
    """
    down, across = cells(emotions)
    out = np.full((down * size_px, across * size_px, 3), _WHITE, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, across)
        if _is_by_emotion(emotions):
            column, row = divmod(index, down)
        top, left = row * size_px, column * size_px
        out[top : top + size_px, left : left + size_px] = enlarged(picture, size_px)
    return out


def cells(emotions: Sequence[str]) -> tuple[int, int]:
    """Return how many rows and columns the grid of these has."""
    count = len(emotions)
    if _is_by_emotion(emotions):
        return len(EMOTIONS), count // len(EMOTIONS)
    square = math.isqrt(count - 1) + 1
    across = min(square, square + 1, key=lambda each: -count % each)  # with fewest left over
    return -(-count // across), across


def _is_by_emotion(emotions: Sequence[str]) -> bool:
    rounds = len(emotions) // len(EMOTIONS)
    return rounds in _COLUMNS_OF_EMOTIONS and tuple(emotions) == EMOTIONS * rounds


def note(model: str, seed: int) -> str:
    """Return what the metadata say of where a picture is from."""
    return f"generated face, no real person (streamface generate, model {model}, seed {seed})"


def write(pictures: Iterable[ImageU8], files: Iterable[AtomicPath], told: str) -> None:
    """Encode each (H, W, 3) RGB picture into its file, which is the caller's to publish.

    told: the description in the metadata. Raises SinkError.
    """
    for picture, file in zip(pictures, files, strict=True):
        extra = _metadata(file.target.suffix.lower(), told)
        try:
            Image.fromarray(picture).save(file.temporary, quality=_QUALITY, **extra)
        except (OSError, ValueError) as exc:
            raise sink_error(file.target, exc) from exc


def _metadata(suffix: str, told: str) -> dict[str, Any]:
    """Return the arguments by which Pillow writes our name and ``told`` into a file."""
    software = f"streamface {_version()}"
    if suffix == ".png":
        chunks = PngInfo()
        chunks.add_text("Software", software)
        chunks.add_text("Description", told)
        return {"pnginfo": chunks}
    exif = Image.Exif()
    exif[Base.Software] = software
    exif[Base.ImageDescription] = told
    return {"exif": exif}


def _version() -> str:
    try:
        return metadata.version("streamface")
    except metadata.PackageNotFoundError:
        return "unknown"


def _targets(options: Options) -> list[Path]:
    """Return the files to write. Raises UsageError for a grid that no file could hold."""
    output, emotions = Path(options.output), options.emotions
    if options.is_folder:
        return [output / f"{each}-{number:04d}.png" for number, each in enumerate(emotions, 1)]
    height, width = (options.size_px * each for each in cells(emotions))
    if max(height, width) > _SIDE_PX:
        raise UsageError(
            f"a grid of {width}x{height} pixels is too large (at most {_SIDE_PX} a side); choose "
            "a smaller --size or --count, or a folder"
        )
    return [output]


@contextmanager
def _opened(targets: Sequence[Path], options: Options) -> Iterator[list[AtomicPath]]:
    """Open files that appear when the block has ended well; otherwise nothing is left of them."""
    with ExitStack() as cleanup:
        if options.is_folder:
            _make_folder(Path(options.output), cleanup)
        files = []
        for target in targets:
            try:
                files.append(AtomicPath(target, overwrite=options.overwrite))
            except OSError as exc:
                raise sink_error(target, exc) from exc
            cleanup.callback(files[-1].discard)
        yield files
        for file in files:
            file.publish()


def _make_folder(folder: Path, cleanup: ExitStack) -> None:
    """Make a folder with its parents; ``cleanup`` removes them again where they stayed empty."""
    try:
        missing = [each for each in (folder, *folder.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(exist_ok=True)
            cleanup.callback(_remove_if_empty, each)
    except OSError as exc:
        raise sink_error(folder, exc) from exc


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
