"""The command line: arguments to settings, errors to one line and an exit code.

Exit codes: 0 done; 1 run-time failure; 2 wrong usage; 3 some of several inputs, or of several
outputs of a live one, failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn, Self, TextIO, TypeVar

from streamface.batch import command as batch
from streamface.compute import AUTO, PRECISIONS, RUNTIMES
from streamface.errors import SourceError, StreamfaceError, UsageError
from streamface.network import parse_duration_s
from streamface.settings import COVERS, REENACTED, TASKS, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from streamface.app import Run
    from streamface.batch.driver import Batch
    from streamface.fleet.driver import Fleet

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

DONE, FAILED, USAGE, PARTIAL, INTERRUPTED = 0, 1, 2, 3, 130
_DATA_KINDS: Final = ("jsonl", "csv", "parquet", "vtt")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        arguments = _parsed(sys.argv[1:] if argv is None else argv)
    except SystemExit as exc:  # argparse's own: --help, --version or a usage error
        return int(exc.code or 0)
    try:
        return int(arguments.command(arguments))
    except StreamfaceError as exc:
        message, code = str(exc), exc.exit_code
    except KeyboardInterrupt:
        message, code = "interrupted; unfinished files were removed", INTERRUPTED
    except BrokenPipeError:
        # Whoever read our stdout left; point it elsewhere so that the interpreter's exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except MemoryError:
        message, code = "out of memory; try fewer or smaller sources", FAILED
    except Exception as exc:  # noqa: BLE001 - a user gets one line, whatever we overlooked
        _log.debug("unexpected", exc_info=True)
        message = f"unexpected {type(exc).__name__}: {exc} (--log-level debug says more)"
        code = FAILED
    _complain(message)
    return code


def _complain(message: str) -> None:
    sys.stderr.write(f"streamface: error: {' '.join(message.split())}\n")


def _parsed(argv: Sequence[str]) -> argparse.Namespace:
    if list(argv[:2]) == ["models", "build"]:  # `models NAME` leaves no room for a subcommand
        from streamface.builder import add_arguments

        parser = _Parser(prog="streamface models build", description=_BUILD_DESCRIPTION)
        add_arguments(parser)
        parser.set_defaults(command=_build)
        return parser.parse_args(argv[2:])
    return _parser().parse_args(argv)


class _Parser(argparse.ArgumentParser):
    """Usage errors in one line, as all others."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message} (see {self.prog} --help)")
        raise SystemExit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="streamface",
        description="Any video in, emotion-annotated video and tidy data out.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _add_run(commands.add_parser("run", help="process a source", description=_RUN_DESCRIPTION))
    _add_batch(
        commands.add_parser(
            "batch",
            help="process many files, resumably, on many cores or machines",
            description=batch.DESCRIPTION,
            conflict_handler="resolve",
        )
    )
    _add_generate(
        commands.add_parser(
            "generate", help="draw people who do not exist", description=_GENERATE_DESCRIPTION
        )
    )
    models = commands.add_parser(
        "models",
        help="list the shipped models, show a model's card, or build engines",
        epilog="`streamface models build MODEL…` builds TensorRT engines; it has its own --help.",
    )
    models.add_argument("name", nargs="?", metavar="MODEL", help="a shipped name or a card's path")
    models.set_defaults(command=_models)
    found = commands.add_parser("cameras", help="list the cameras of this machine")
    found.set_defaults(command=_cameras)
    doctor = commands.add_parser("doctor", help="print versions, runtimes and models")
    doctor.set_defaults(command=_doctor)
    return parser


_BUILD_DESCRIPTION: Final = (
    "Build TensorRT engines of models for the GPU of this machine, hold their answers against ONNX "
    "Runtime's, and keep them where `run` finds them. Without a GPU, TensorRT-RTX builds for all "
    "GPUs that it supports."
)
_RUN_DESCRIPTION: Final = (
    "Find the faces of a video, read their emotion and gender, and write an annotated video, "
    "data, or both. Press Ctrl-C once to stop and keep what is done, twice to cancel."
)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_run)
    parser.add_argument(
        "--source",
        "-s",
        required=True,
        action="append",
        metavar="S",
        help="file, folder, 'glob*', camera number, device, URL, 'demo', 'demo:portrait'; several, "
        "or a .streams file with one a line, run at once if any is live, else one by one",
    )
    _add_processing(parser)
    group = parser.add_argument_group("many machines")
    group.add_argument(
        "--cluster", metavar="ADDRESS",
        help="watch live sources on all machines of a Ray cluster: its head's address, or auto for "
        "the one at hand",
    )  # fmt: skip
    group.add_argument(
        "--threads", type=_whole, metavar="N",
        help="cores that are taken of each machine (default: all)",
    )  # fmt: skip


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_batch)
    _add_processing(parser)
    batch.add_arguments(parser)


def _add_processing(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to read")
    group.add_argument("--start", type=_seconds, default=0.0, metavar="T", help="s or h:mm:ss")
    group.add_argument("--end", type=_seconds, metavar="T", help="stop before this time")
    group.add_argument("--max-frames", type=_whole, metavar="N")
    group.add_argument("--vid-stride", type=_whole, default=1, metavar="N", help="every Nth frame")
    group.add_argument("--camera-size", metavar="WxH", help="size to ask a camera for")
    group.add_argument("--camera-fps", type=float, metavar="N", help="rate to ask a camera for")
    group.add_argument(
        "--simulate-live", action="store_true",
        help="play files at their own pace, as a camera would, dropping what comes too fast",
    )  # fmt: skip
    group.add_argument(
        "--inject", default="", metavar="TROUBLE",
        help="trouble for --simulate-live: drop=SHARE,stall=SECONDS,jitter=SECONDS",
    )  # fmt: skip
    group.add_argument(
        "--rtsp-transport", choices=("tcp", "udp"), default=_default("rtsp_transport"),
        help="how RTSP is carried (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--open-timeout", type=float, default=_default("open_timeout_s"), metavar="S",
        help="how long a network source or a camera may take to answer (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--read-timeout", type=float, metavar="S",
        help="how long nothing may come before a live source counts as lost (default 5; HLS 30)",
    )  # fmt: skip
    group.add_argument(
        "--reconnect", type=_whole, metavar="N",
        help="attempts after a live source was lost (default: for ever; 0: none)",
    )  # fmt: skip
    group.add_argument(
        "--on-gap", choices=("hold", "slate", "skip"), default=_default("on_gap"),
        help="what comes meanwhile: the last picture, a card that says so, or nothing "
        "(default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-staleness", type=float, metavar="S",
        help="drop live frames that are older than this before work on them begins",
    )  # fmt: skip
    group.add_argument(
        "--no-adapt", action="store_true",
        help="lose frames rather than look less closely, where a live source is too much",
    )  # fmt: skip
    group = parser.add_argument_group("what to find")
    group.add_argument(
        "--imgsz", type=_whole, default=_default("imgsz"), metavar="PX",
        help="longer side of the picture the detector sees (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--conf", type=float, default=_default("conf"), metavar="P",
        help="least detector score (default %(default)s)",
    )  # fmt: skip
    group.add_argument("--max-faces", type=_whole, default=_default("max_faces"), metavar="N")
    group.add_argument(
        "--detect-every", type=_whole, metavar="N",
        help="detect every Nth frame, follow by optical flow between (default 4; 2 to anonymize)",
    )  # fmt: skip
    group.add_argument("--detector-model", type=_path, metavar="ONNX", help="another YuNet file")
    group.add_argument(
        "--tasks", type=_words, default=TASKS, metavar="LIST", help="emotion,gender (default both)"
    )
    group.add_argument(
        "--emotion-model", type=_path, metavar="MODEL",
        help="a name that `streamface models` lists, such as emotion-ferplus, or a card's path",
    )  # fmt: skip
    group.add_argument("--gender-model", type=_path, metavar="MODEL", help="likewise")
    group.add_argument(
        "--classify-every", type=_whole, metavar="N",
        help="look at a face's emotion every Nth frame (default: about 10 times a second)",
    )  # fmt: skip
    group.add_argument(
        "--smoothing", type=float, default=_default("smoothing_s"), metavar="S",
        help="time constant of the labels in seconds, 0 for none (default %(default)s)",
    )  # fmt: skip
    _add_compute(parser)
    _add_outputs(parser)


def _add_compute(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where to compute")
    group.add_argument(
        "--device", default=AUTO, metavar="D", help="auto (default), cpu, cuda or cuda:N"
    )
    group.add_argument(
        "--runtime", default=AUTO, choices=RUNTIMES, metavar="R",
        help=f"{', '.join(RUNTIMES)}; what is named here is what runs, auto takes the fastest at "
        "hand and says why it is not a faster one",
    )  # fmt: skip
    group.add_argument(
        "--precision", default=AUTO, choices=PRECISIONS, metavar="P",
        help="fp32, fp16 (on a GPU) or int8 (default: fp16 on a GPU, int8 on a CPU)",
    )  # fmt: skip
    group.add_argument(
        "--provider", metavar="NAME[:DEVICE]",
        help="of ONNX Runtime: cpu, cuda, tensorrt, openvino, coreml, directml, where its package "
        "has them",
    )  # fmt: skip
    group.add_argument(
        "--require-gpu", action="store_true", help="fail rather than run a net on the CPU"
    )
    group.add_argument(
        "--build-engines", action="store_true",
        help="build TensorRT engines that are missing, before the run begins",
    )  # fmt: skip
    group.add_argument(
        "--hwaccel", metavar="D", help="decode on a GPU: cuda or cuda:N (default: on the CPU)"
    )


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what to draw")
    group.add_argument("--hide-boxes", action="store_true")
    group.add_argument("--hide-labels", action="store_true")
    group.add_argument("--hide-probs", action="store_true")
    group.add_argument("--chart", action="store_true", help="bars of the seven probabilities")
    group = parser.add_argument_group("covering faces")
    group.add_argument(
        "--anonymize", choices=COVERS, metavar="HOW",
        help="cover every face: blur, pixelate, solid, or synth, which draws somebody who does not "
        "exist over each; leaves sound and metadata out",
    )  # fmt: skip
    group.add_argument(
        "--head-margin", type=float, default=_default("head_margin"), metavar="F",
        help="share of the face box to cover around it (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--look-ahead", type=float, default=_default("look_ahead_s"), metavar="S",
        help="seconds before it is first seen that a face is covered; files only, held in memory "
        "(default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--keep-audio", action="store_true", help="keep sound and subtitles all the same"
    )
    group.add_argument(
        "--seed", type=_whole, metavar="N",
        help="draw the same people again with synth; without it nobody can",
    )  # fmt: skip
    group.add_argument("--synth-model", type=_path, metavar="MODEL", help="another one for synth")
    group = parser.add_argument_group("re-making faces")
    group.add_argument(
        "--reenact", choices=REENACTED, metavar="EMOTION",
        help="give every face this emotion; same: only re-make it from its codes",
    )  # fmt: skip
    group.add_argument(
        "--strength", type=float, default=_default("strength"), metavar="F",
        help="how much of it: 0 nothing, 2 a caricature (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--no-mark", action="store_true", help="do not write onto the picture that it was altered"
    )
    group.add_argument("--reenact-model", type=_path, metavar="MODEL", help="another one for it")
    group = parser.add_argument_group("what to write")
    group.add_argument(
        "--output", "-o", type=_output, action="append", metavar="O",
        help=".mp4 .mkv .webm .mov .jpg .png or a folder; .m3u8 for HLS; rtmp://, rtsp://, srt://, "
        "udp:// or tcp:// to send it there; may be given several times",
    )  # fmt: skip
    group.add_argument(
        "--segment", type=_duration, metavar="T",
        help="begin another file after so long: 90s, 10m, 1h",
    )  # fmt: skip
    group.add_argument("--codec", metavar="C", help="h264, hevc, vp9, av1 or an FFmpeg encoder")
    group.add_argument("--crf", type=float, metavar="Q", help="quality, lower is better")
    group.add_argument("--preset", metavar="P", help="encoder speed (x264: ultrafast … veryslow)")
    group.add_argument("--no-audio", action="store_true", help="leave sound and subtitles out")
    for kind in _DATA_KINDS:
        also = " ('-': stdout)" if kind == "jsonl" else ""
        group.add_argument(f"--save-{kind}", metavar="F", help=f"write {kind.upper()}{also}")
    group.add_argument("--overwrite", action="store_true", help="replace existing files")
    group = parser.add_argument_group("watching")
    group.add_argument(
        "--show", action="store_true",
        help="show it in a window: q or Esc stops, space pauses, s saves a picture, f fills the "
        "screen",
    )  # fmt: skip
    group.add_argument(
        "--serve", metavar="[HOST:]PORT",
        help="a page for browsers, with events, metrics and a record button; this machine only, "
        "unless a HOST is given",
    )  # fmt: skip
    group.add_argument(
        "--serve-token", metavar="T",
        help="what visitors of the page must show (default: made up where others can reach it; "
        "better given as $STREAMFACE_SERVE_TOKEN)",
    )  # fmt: skip
    group.add_argument(
        "--virtual-camera", nargs="?", const="", metavar="DEVICE",
        help="send it to other programs as a camera",
    )  # fmt: skip
    group = parser.add_argument_group("console")
    group.add_argument("--quiet", "-q", action="store_true", help="errors only")
    group.add_argument("--no-progress", action="store_true", help="no live panel")
    group.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))


_GENERATE_DESCRIPTION: Final = (
    "Draw new faces from nothing but random numbers: people who do not exist, as a grid or one by "
    "one. The files say in their metadata that they were generated."
)


def _add_generate(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(command=_generate)
    parser.add_argument(
        "--output", "-o", required=True, metavar="O",
        help=".png .jpg or .webp for a grid; a folder, or a name that ends in /, for a file a face",
    )  # fmt: skip
    parser.add_argument(
        "--emotion", default="all", metavar="E",
        help="angry, disgust, fear, happy, sad, surprise, neutral; or all, in turn (default)",
    )  # fmt: skip
    parser.add_argument(
        "--gender", default="any", metavar="G", help="male, female; or any, in turn (default)"
    )
    parser.add_argument(
        "--count", type=_whole, metavar="N",
        help="how many (default 16; with --same-person one of each emotion)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=_whole, metavar="N",
        help="the same number draws the same faces (default: a new one, which is told)",
    )  # fmt: skip
    parser.add_argument(
        "--size", type=_whole, default=128, metavar="PX", help="side of a face (default 128)"
    )
    parser.add_argument("--same-person", action="store_true", help="one person for all of them")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument("--model", metavar="CARD", help="another model that invents faces")


def _default(name: str) -> object:
    field = Settings.__dataclass_fields__[name]
    return field.default


def _path(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty")
    return Path(text)


def _output(text: str) -> Path | str:
    return text if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) else _path(text)


def _duration(text: str) -> float:
    try:
        return parse_duration_s(text, "--segment")
    except UsageError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _words(text: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in words:
        if word not in TASKS:
            raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(TASKS)}")
    return words


def _whole(text: str) -> int:
    """Parse an integer of a size that is safe in any arithmetic; ``Settings`` checks its range."""
    if re.fullmatch(r"[+-]?\d{1,15}", text.strip()) is None:
        raise argparse.ArgumentTypeError(f"'{_cut(text)}' is no whole number of at most 15 digits")
    return int(text)


def _cut(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}…"


def _seconds(text: str) -> float:
    """Parse ``12.5``, ``1:02`` or ``0:01:02.5``."""
    match = re.fullmatch(r"(?:(?:(\d{1,6}):)?(\d{1,9}):)?(\d{1,9}(?:\.\d*)?|\.\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"'{_cut(text)}' is no time; write seconds or h:mm:ss")
    hours, minutes, seconds = match.groups()
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds)


def _settings(arguments: argparse.Namespace) -> Settings:
    data = {kind: getattr(arguments, f"save_{kind}") for kind in _DATA_KINDS}
    return Settings(
        source=_one_or_all(arguments.source),
        start_s=arguments.start,
        end_s=arguments.end,
        max_frames=arguments.max_frames,
        vid_stride=arguments.vid_stride,
        camera_size=arguments.camera_size,
        camera_fps=arguments.camera_fps,
        simulate_live=arguments.simulate_live,
        inject=arguments.inject,
        rtsp_transport=arguments.rtsp_transport,
        open_timeout_s=arguments.open_timeout,
        read_timeout_s=arguments.read_timeout,
        reconnect=arguments.reconnect,
        on_gap=arguments.on_gap,
        max_staleness_s=arguments.max_staleness,
        adapt=not arguments.no_adapt,
        imgsz=arguments.imgsz,
        conf=arguments.conf,
        max_faces=arguments.max_faces,
        detect_every=arguments.detect_every,
        detector_model=arguments.detector_model,
        tasks=arguments.tasks,
        emotion_model=arguments.emotion_model,
        gender_model=arguments.gender_model,
        classify_every=arguments.classify_every,
        smoothing_s=arguments.smoothing,
        device=arguments.device,
        runtime=arguments.runtime,
        precision=arguments.precision,
        provider=arguments.provider,
        require_gpu=arguments.require_gpu,
        build_engines=arguments.build_engines,
        hwaccel=arguments.hwaccel,
        hide_boxes=arguments.hide_boxes,
        hide_labels=arguments.hide_labels,
        hide_probs=arguments.hide_probs,
        chart=arguments.chart,
        anonymize=arguments.anonymize,
        head_margin=arguments.head_margin,
        look_ahead_s=arguments.look_ahead,
        keep_audio=arguments.keep_audio,
        seed=arguments.seed,
        synth_model=arguments.synth_model,
        reenact=arguments.reenact,
        reenact_model=arguments.reenact_model,
        strength=arguments.strength,
        mark=not arguments.no_mark,
        output=_one_or_all(arguments.output or [None]),
        segment_s=arguments.segment,
        show=arguments.show,
        serve=arguments.serve,
        serve_token=arguments.serve_token or os.environ.get("STREAMFACE_SERVE_TOKEN"),
        virtual_camera=arguments.virtual_camera,
        codec=arguments.codec,
        crf=arguments.crf,
        preset=arguments.preset,
        audio=not arguments.no_audio,
        overwrite=arguments.overwrite,
        data={kind: target for kind, target in data.items() if target is not None},
    )


def _one_or_all(given: list[_T]) -> _T | tuple[_T, ...]:
    return given[0] if len(given) == 1 else tuple(given)


def _run(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    seen = settings.outputs or settings.is_watched
    for option, given in (("--anonymize", settings.anonymize), ("--reenact", settings.reenact)):
        if given is not None and not seen:
            raise UsageError(f"{option} changes the pictures, so it needs --output or --show")
    _set_up_logging("error" if arguments.quiet else arguments.log_level)
    if arguments.cluster is not None:
        return _fleet(arguments, settings)
    if arguments.threads is not None:
        raise UsageError("--threads is for --cluster")
    from streamface.app import Run

    with _Interrupts() as interrupts, Run(settings) as run:
        interrupts.run = run
        try:
            if arguments.quiet:
                run.drive(run.execute)
            else:
                from streamface.console import watch

                run.drive(partial(watch, run, live=not arguments.no_progress))
        except SourceError:
            if interrupts.count and not run.tally.frames:
                raise KeyboardInterrupt from None
            raise
    # Ctrl-C is how a live run ends; a file that was not read to its end is another matter.
    if interrupts.count and not run.is_live:
        return INTERRUPTED
    return PARTIAL if run.playlist.failures or run.failed_outputs else DONE


def _fleet(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.threads is not None and not 1 <= arguments.threads <= 1024:
        raise UsageError(f"--threads must be 1 to 1024, got {arguments.threads}")
    from streamface.fleet import command

    with _Interrupts() as interrupts:
        return command.main(
            settings,
            arguments.cluster,
            cores=arguments.threads,
            watch=interrupts.watch,
            quiet=arguments.quiet,
            live=not arguments.no_progress,
        )


def _batch(arguments: argparse.Namespace) -> int:
    # Source and outputs differ from file to file; what else a run is told holds for all of them.
    none = dict.fromkeys(f"save_{kind}" for kind in _DATA_KINDS)
    one_run = {**vars(arguments), **none, "source": "demo", "output": None}
    how = _settings(argparse.Namespace(**one_run))
    _set_up_logging("error" if arguments.quiet else arguments.log_level)
    with _Interrupts() as interrupts:
        return batch.main(arguments, how, interrupts.watch)


class _Interrupts:
    """First Ctrl-C (or SIGTERM): finish what is under way. Second: cancel.

    Until there is a ``run`` to stop, the first one cancels, and more are ignored: they could only
    keep unfinished files from being removed. Two within SAME_PRESS_S are one: supervisors
    (``timeout``, containers) signal the process and its group as well.
    """

    SAME_PRESS_S = 0.3

    def __init__(self) -> None:
        self.count = 0
        self._last_s = float("-inf")
        self.run: Run | Batch | Fleet | None = None

    def watch(self, run: Run | Batch | Fleet) -> None:
        """Stop that one from now on."""
        self.run = run

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if now_s - self._last_s < self.SAME_PRESS_S:
            return
        self._last_s = now_s
        self.count += 1
        if self.run is not None:
            # Neither takes a lock: the code that was interrupted may hold any.
            (self.run.stop if self.count == 1 else self.run.interrupt)()
        elif self.count == 1:
            raise KeyboardInterrupt


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is at the time: while the live panel stands, that is the panel.

    A line written around it would tear the panel apart.
    """

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """Keep nothing: the base class sets it once."""


class _Formatter(logging.Formatter):
    """Lines that begin as our errors do: ``streamface: warning: …``."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return f"streamface: {record.levelname.lower()}: {record.message}"


def _set_up_logging(level: str) -> None:
    handler = _StderrHandler()
    handler.setFormatter(_Formatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("streamface").setLevel(level.upper())


def _generate(arguments: argparse.Namespace) -> int:
    from streamface.kernelcache import prepare

    prepare()
    from streamface import generate

    names = "output emotion gender count seed same_person overwrite model".split()
    given = {name: getattr(arguments, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    with _Interrupts():
        options = generate.Options(size_px=arguments.size, **given)
        generate.run(options)
    sys.stderr.write(f"written: {options.output} (seed {options.seed})\n")
    return DONE


def _build(arguments: argparse.Namespace) -> int:
    _set_up_logging("info")
    from streamface.kernelcache import prepare

    prepare()
    from streamface import builder

    with _Interrupts():
        return builder.main(arguments)


def _models(arguments: argparse.Namespace) -> int:
    from streamface.doctor import print_card, print_models

    if arguments.name is None:
        print_models()
    else:
        print_card(arguments.name)
    return DONE


def _cameras(_: argparse.Namespace) -> int:
    from streamface.doctor import print_cameras

    print_cameras()
    return DONE


def _doctor(_: argparse.Namespace) -> int:
    from streamface.doctor import print_report

    return DONE if print_report() else FAILED


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("streamface")
    except metadata.PackageNotFoundError:
        return "unknown (not installed)"
