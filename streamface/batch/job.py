"""What a batch is told, what a worker is given, and what it answers. Plain values, picklable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from streamface.errors import UsageError
from streamface.records import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from streamface.batch.join import Stitched
    from streamface.batch.split import Drawn, Found, SegmentPlan
    from streamface.batch.steps import Step
    from streamface.settings import Settings

DATA_KINDS: Final = ("jsonl", "csv", "parquet", "vtt")
VIDEO: Final = "video"
"""The kind of the output that shows pictures."""

FailureKind: TypeAlias = Literal[
    "usage", "source", "sink", "no-space", "model", "stage", "unexpected",
    "crashed", "memory", "timeout", "lost", "clash", "exists", "split",
]  # fmt: skip
"""Why a file failed. crashed: its worker died; lost: its machine or Ray's process did, which is not
the file's fault; clash: another file has its output's name; exists: a file that is not ours has;
split: its segments do not fit together, and it is done whole."""
AUTO: Final = "auto"
NEVER: Final = "never"

# Settings that say where or how fast, and change nothing in the outputs; source and outputs are
# those of each file.
_WITHOUT_EFFECT: Final = frozenset("source output data overwrite require_gpu build_engines".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """Everything a batch can be told. Raises UsageError on wrong values."""

    sources: tuple[str, ...]
    output: str
    """A folder or the URL of one."""
    how: Settings
    """What is done with each file; its own source, output and data do not count."""
    video: bool = True
    suffix: str = ".mp4"
    """Of the videos that are written."""
    data: tuple[str, ...] = ("jsonl",)
    workers: int | None = None
    """None: one for each share of ``threads`` cores, of this machine or of the cluster."""
    threads: int | None = None
    """Cores of one worker; None: what there is, shared among the workers, at least 1."""
    gpus: float = 0.0
    """GPUs of one worker, or which part of one it may use; only a cluster counts them."""
    retries: int = 2
    """How often a file that failed is tried again in the same batch."""
    timeout_s: float | None = None
    """Most seconds for one file."""
    memory_mb: int | None = None
    """Most resident memory of one worker, in MiB."""
    split: float | Literal["auto", "never"] = NEVER
    """Seconds of the segments that long files are cut into; auto: where workers would be idle."""
    cluster: str | None = None
    """Address of a Ray cluster, or auto; None: this machine, without Ray."""
    only_failed: bool = False
    """Whether only files are done that failed in earlier batches."""
    overwrite: bool = False
    """Whether files that no batch has written may be replaced."""

    def __post_init__(self) -> None:
        if not self.sources or not all(each.strip() for each in self.sources):
            raise UsageError("a batch needs at least one source; give files, folders or patterns")
        if not self.output.strip():
            raise UsageError("--output is empty; name a folder")
        bounds = (
            ("--workers", self.workers, 1, 100_000),
            ("--threads", self.threads, 1, 1024),
            ("--gpus", self.gpus, 0, 64),
            ("--retries", self.retries, 0, 100),
            ("--timeout", self.timeout_s, 0.1, 1e7),
            ("--memory", self.memory_mb, 64, 10**8),
            ("--split", None if self.split in (AUTO, NEVER) else self.split, 1, 1e7),
        )
        for name, value, low, high in bounds:
            if value is not None and not low <= float(value) <= high:
                raise UsageError(f"{name} must be {low:g} to {high:g}, got {float(value):g}")
        unknown = [kind for kind in self.data if kind not in DATA_KINDS]
        if unknown:
            raise UsageError(f"unknown kind of data '{unknown[0]}'; use {', '.join(DATA_KINDS)}")
        if not self.video and not self.data:
            raise UsageError("nothing would be written: neither video nor data is asked for")
        from streamface.encode import VIDEO_SUFFIX_CODECS

        if self.suffix not in VIDEO_SUFFIX_CODECS:
            known = " ".join(VIDEO_SUFFIX_CODECS)
            raise UsageError(f"cannot write {self.suffix} videos; use one of {known}")
        if self.how.simulate_live:
            raise UsageError("--simulate-live is for `run`: a batch never drops frames")
        changed = self.how.anonymize or self.how.reenact
        if changed and not self.video:
            raise UsageError("--anonymize and --reenact change the pictures; leave --no-video out")

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is written for each file, the video first."""
        return ((VIDEO,) if self.video else ()) + self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may take for one file."""

    timeout_s: float | None = None
    memory_mb: int | None = None


@dataclass(frozen=True, slots=True)
class Auto:
    """Cut a file where workers would have nothing to do otherwise."""

    workers: int
    files_left: int
    """Files that are not done yet, this one among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One file to do."""

    number: int
    source: str
    """As ``Settings.source`` takes it."""
    key: str
    """What the manifest knows it by: the same for every spelling of a path."""
    fingerprint: str = ""
    size_bytes: int = 0
    targets: Mapping[str, str] = field(default_factory=dict)
    """Kind of output to its final place."""
    tries: int = 0
    """How often it failed before."""
    deaths: int = 0
    """How often its worker died of it."""
    losses: int = 0
    """How often its worker was lost through no fault of its own."""
    cut: float | Auto | None = None
    """How it may be cut into segments; None: it is done whole."""
    step: Step | None = None
    """Which part of the work on a file that is cut; None: all of it, or the plan for it."""

    @property
    def doing(self) -> str:
        """What of the file is done, for people; "" if all of it is."""
        return "" if self.step is None else self.step.described

    def again(self, *, tries: int = 0, deaths: int = 0, losses: int = 0) -> Task:
        """Return the same task with that many more failures behind it."""
        return replace(
            self,
            tries=self.tries + tries,
            deaths=self.deaths + deaths,
            losses=self.losses + losses,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """What became of a task."""

    task: Task
    kind: FailureKind | None = None
    """None: it is done, and all its outputs are in their places."""
    line: str = ""
    """The error, in one line."""
    frames: int = 0
    faces: int = 0
    """Faces summed over frames."""
    tracks: int = 0
    duration_s: float = 0.0
    """Seconds of the source that were processed."""
    seconds: float = 0.0
    """Wall time of its last try."""
    machine: str = ""
    outputs: Mapping[str, int] = field(default_factory=dict)
    """Final place of each output to its size in bytes."""
    models: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of every model that was used, by name."""
    warnings: tuple[str, ...] = ()
    answer: SegmentPlan | Found | Stitched | Drawn | None = None
    """What a step came to, where the file is not done with it."""


def relevant_options(options: BatchOptions) -> dict[str, object]:
    """Return all options that an output depends on, as plain data."""
    given = asdict(options.how)
    settings = {
        name: to_json(value) for name, value in given.items() if name not in _WITHOUT_EFFECT
    }
    # Labels may differ at seams, and a cut is only made where it is asked for.
    return {
        **settings,
        "kinds": list(options.kinds),
        "suffix": options.suffix,
        "split": options.split,
    }


def work_id(options: BatchOptions, models: Mapping[str, str], version: str) -> str:
    """Return what is the same for two outputs only if options, models and version are."""
    said = json.dumps([relevant_options(options), dict(models), version], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def expected_models(how: Settings) -> dict[str, str]:
    """Return the SHA-256 of every model that the settings may use, by file name.

    Of each model also that of its float32 or int8 sibling: which of both is taken is up to the
    machine, and what is done on another one shall not be done again. Raises ModelError.
    """
    from streamface.card import load
    from streamface.detect import find_model
    from streamface.likeness import NAME as LIKENESS
    from streamface.model import DEFAULT_MODELS, card_path
    from streamface.resynth import INVENT_MODEL, REENACT_MODEL
    from streamface.settings import SYNTH

    given = {"emotion": how.emotion_model, "gender": how.gender_model}
    names = [str(given[task] or DEFAULT_MODELS[task]) for task in how.tasks]
    if how.reenact is not None:
        names.append(str(how.reenact_model or REENACT_MODEL))
    if how.anonymize == SYNTH:
        names.append(str(how.synth_model or INVENT_MODEL))
        names += (str(how.emotion_model or DEFAULT_MODELS["emotion"]), LIKENESS)
    detector = find_model(how.detector_model)
    hashes = {"detector": hashlib.sha256(detector.read_bytes()).hexdigest()}
    for name in names:
        path = card_path(name)
        hashes[path.stem] = load(path).sha256
        for sibling in _siblings(path):
            hashes[sibling.stem] = load(sibling).sha256
    return hashes


def _siblings(path: Path) -> list[Path]:
    stem = path.stem.removesuffix("-int8")
    both = [path.with_name(f"{stem}.json"), path.with_name(f"{stem}-int8.json")]
    return [each for each in both if each != path and each.is_file()]
