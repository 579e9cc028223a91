"""Everything a run can be told, in one frozen value."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path  # noqa: TC003 - dataclass fields are read at run time
from typing import Final

from streamface.compute import AUTO, Compute
from streamface.errors import UsageError
from streamface.network import NetworkOptions, OnGap, RtspTransport

TASKS: Final = ("emotion", "gender")
_DETECT_EVERY: Final = 4
_DETECT_EVERY_TO_COVER: Final = 2  # at 4 some fast faces lag behind their cover
SYNTH: Final = "synth"
COVERS: Final = ("blur", "pixelate", "solid", SYNTH)
REENACTED: Final = ("same", "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""What ``reenact`` may be: plainly re-made, or one of ``frame.EMOTIONS``."""


STRENGTH: Final = 1.1
"""By which the change of an expression is multiplied: on 200 held-out faces a judge agrees with
76 % of them at 1 and with 85 % at 1.15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to read, what to find in it, and what to write. Raises UsageError on wrong values."""

    source: str | tuple[str, ...]
    """What to read, or several of it; a ``.streams`` file lists more (``streams.find_all``)."""
    # Reading
    start_s: float = 0.0
    end_s: float | None = None
    max_frames: int | None = None
    vid_stride: int = 1
    camera_size: str | None = None
    """WIDTHxHEIGHT to ask a camera for."""
    camera_fps: float | None = None
    """Frames per second to ask a camera for."""
    simulate_live: bool = False
    """Play files at their own pace, as a camera would, dropping what nobody is ready for."""
    inject: str = ""
    """Trouble of a simulated camera: drop=SHARE,stall=SECONDS,jitter=SECONDS."""
    rtsp_transport: RtspTransport = "tcp"
    """How network sources are opened and come back: ``network.NetworkOptions``, as what follows."""
    open_timeout_s: float = 10.0
    read_timeout_s: float | None = None
    reconnect: int | None = None
    on_gap: OnGap = "hold"
    max_staleness_s: float | None = None
    """How old, from its capture, a live frame may be before anything is done with it; None: no
    matter how old."""
    adapt: bool = True
    """Whether a live run does less work rather than lose frames (``adapt.STEPS``)."""
    # Finding
    imgsz: int = 640
    """Longer side, in pixels, of the picture the detector sees."""
    conf: float = 0.6
    """Least detector score, 0..1."""
    max_faces: int = 100
    detect_every: int | None = None
    """Frames between two detections; between them faces move by optical flow. None: 4, and 2 where
    faces are covered."""
    detector_model: Path | None = None
    # Reading faces
    tasks: tuple[str, ...] = TASKS
    emotion_model: Path | None = None
    """A shipped name or the path of a card, instead of the default; likewise gender_model."""
    gender_model: Path | None = None
    classify_every: int | None = None
    """Frames between two looks at a track's emotion; None: about 10 looks a second."""
    smoothing_s: float = 0.25
    """Time constant of the label's smoothing."""
    # Computing
    device: str = AUTO
    """Where nets run: auto, cpu, cuda or cuda:N; see ``compute.Compute``, also for what follows."""
    runtime: str = AUTO
    precision: str = AUTO
    provider: str | None = None
    require_gpu: bool = False
    build_engines: bool = False
    hwaccel: str | None = None
    """The GPU that decodes: cuda or cuda:N; None: the CPU."""
    # Drawing
    hide_boxes: bool = False
    hide_labels: bool = False
    hide_probs: bool = False
    chart: bool = False
    # Covering
    anonymize: str | None = None
    """How every face is covered: blur, pixelate, solid, or synth, by somebody who does not exist;
    None: not at all. Sound, subtitles and
    metadata are then left out, unless ``keep_audio`` asks for sound and subtitles."""
    head_margin: float = 0.35
    """Share of the face box that is covered around it, half as much again on top."""
    look_ahead_s: float = 1.0
    """How long before a face is first seen its place is covered already; not in live sources."""
    keep_audio: bool = False
    seed: int | None = None
    """Who stands in for whom under ``synth``; None: nobody can repeat it."""
    # Re-making
    reenact: str | None = None
    """The emotion that every face is given, or "same" to re-make it as it is; None: left alone."""
    strength: float = STRENGTH
    """How much of it: 0 nothing, 2 a caricature."""
    reenact_model: Path | None = None
    """As ``emotion_model``; likewise ``synth_model``."""
    synth_model: Path | None = None
    mark: bool = True
    """Write onto every re-enacted frame that it was altered."""
    # Writing
    output: Path | str | tuple[Path | str, ...] | None = None
    """Where pictures are written to, a path or the URL of a server; several get the same."""
    segment_s: float | None = None
    """Seconds of video after which a recording goes on in another file; None: one file."""
    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    audio: bool = True
    overwrite: bool = False
    # Watching
    show: bool = False
    """Show what is written in a window."""
    serve: str | None = None
    """[HOST:]PORT of a page for browsers."""
    serve_token: str | None = None
    """What its visitors must show; None: made up where other machines can reach it."""
    virtual_camera: str | None = None
    """Device to send to as a camera; "": the first one found."""
    data: dict[str, str] = field(default_factory=dict)
    """Data files by kind (jsonl, csv, parquet, vtt); "-" is stdout, for jsonl only."""

    def __post_init__(self) -> None:
        # Ten days and more than anybody films in one go; infinity and NaN fail the comparison.
        longest_s = 1e6
        bounds = (
            ("--imgsz", self.imgsz, 32, 8192),
            ("--conf", self.conf, 0, 1),
            ("--max-faces", self.max_faces, 1, 10_000),
            ("--detect-every", _given(self.detect_every, 1), 1, 1000),
            ("--classify-every", _given(self.classify_every, 1), 1, 1000),
            ("--crf", _given(self.crf, 0), 0, 63),
            ("--max-frames", _given(self.max_frames, 1), 1, 10**12),
            ("--vid-stride", self.vid_stride, 1, 1_000_000),
            ("--head-margin", self.head_margin, 0, 3),
            ("--look-ahead", self.look_ahead_s, 0, 60),
            ("--strength", self.strength, 0, 2),
            ("--smoothing", self.smoothing_s, 0, 60),
            ("--start", self.start_s, 0, longest_s),
            ("--end", _given(self.end_s, 0), 0, longest_s),
            ("--max-staleness", _given(self.max_staleness_s, 1), 0.001, 3600),
            ("--segment", _given(self.segment_s, 1), 1, longest_s),
        )
        for name, value, low, high in bounds:
            if not low <= value <= high:
                raise UsageError(f"{name} must be {low:g} to {high:g}, got {value}")
        self._check_devices()
        if self.end_s is not None and self.end_s <= self.start_s:
            raise UsageError(f"--end {self.end_s:g} must lie after --start {self.start_s:g}")
        if self.inject and not self.simulate_live:
            raise UsageError("--inject is for --simulate-live")
        if self.anonymize is not None and self.anonymize not in COVERS:
            raise UsageError(
                f"--anonymize must be one of {', '.join(COVERS)}, not {self.anonymize!r}"
            )
        if self.reenact is not None and self.reenact not in REENACTED:
            raise UsageError(
                f"--reenact must be one of {', '.join(REENACTED)}, not {self.reenact!r}"
            )
        if self.reenact is not None and self.anonymize is not None:
            raise UsageError("--reenact keeps who somebody is, --anonymize hides it; give one")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed must be 0 to 2^63 - 1, got {self.seed}")
        unknown = [task for task in self.tasks if task not in TASKS]
        if unknown:
            raise UsageError(f"unknown task '{unknown[0]}'; choose from {', '.join(TASKS)}")

    def _check_devices(self) -> None:
        _ = self.compute, self.network  # they refuse what can never be had
        if self.hwaccel is not None and re.fullmatch(r"cuda(:\d{1,3})?", self.hwaccel) is None:
            raise UsageError(f"--hwaccel must be cuda or cuda:N, not '{self.hwaccel}'")

    @property
    def sources(self) -> tuple[str, ...]:
        """All that is to be read."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def outputs(self) -> tuple[Path | str, ...]:
        """All that pictures are written to."""
        return several(self.output)

    @property
    def is_watched(self) -> bool:
        """Whether somebody sees the pictures while they are made."""
        return self.show or self.serve is not None or self.virtual_camera is not None

    @property
    def network(self) -> NetworkOptions:
        """How network sources are opened, and how they come back."""
        return NetworkOptions(
            rtsp_transport=self.rtsp_transport,
            open_timeout_s=self.open_timeout_s,
            read_timeout_s=self.read_timeout_s,
            reconnect=self.reconnect,
            on_gap=self.on_gap,
        )

    @property
    def compute(self) -> Compute:
        """Where and how nets are to run."""
        return Compute(**{f.name: getattr(self, f.name) for f in fields(Compute)})


def detect_every(settings: Settings) -> int:
    """Return the frames between two detections that the settings mean."""
    if settings.detect_every is not None:
        return settings.detect_every
    return _DETECT_EVERY if settings.anonymize is None else _DETECT_EVERY_TO_COVER


def several(output: Path | str | tuple[Path | str, ...] | None) -> tuple[Path | str, ...]:
    """Return none, one or several outputs as a tuple."""
    if output is None:
        return ()
    return output if isinstance(output, tuple) else (output,)


def _given(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
