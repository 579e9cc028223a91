"""Settings to a running pipeline: the only module that knows every concrete class."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from streamface.adapt import Adaptation
from streamface.anonymize import Cover, CoverSettings
from streamface.decode import ReadOptions
from streamface.encode import VideoOptions
from streamface.errors import SinkError, SourceError, StageError, StreamfaceError, UsageError
from streamface.fanout import FanOut, QueuedSink, bequeath_packets
from streamface.gather import Gathering
from streamface.kernelcache import is_cold, prepare
from streamface.pipeline import Pipeline, StageStats
from streamface.playlist import Playlist
from streamface.push import push_name
from streamface.settings import SYNTH, detect_every
from streamface.sinks import open_sink, plan_outputs
from streamface.stages import MOST_BATCH_FRAMES, Classify, FindFaces, Paint
from streamface.streams import Found, find_all, plan_streams
from streamface.tally import StreamTally, Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence

    from streamface.anonymize import CoverMode
    from streamface.audience import Audience
    from streamface.classify import FaceClassifier
    from streamface.datasinks import DataSink
    from streamface.decode import StreamInfo
    from streamface.detect import YuNetDetector
    from streamface.frame import Frame
    from streamface.likeness import Likeness
    from streamface.model import Model
    from streamface.pipeline import PipelineStats, Stage
    from streamface.reconnect import SourceEvent
    from streamface.records import Json
    from streamface.remake import Budget, Remake, StandIns
    from streamface.resynth import Inventor, Reenactor
    from streamface.settings import Settings
    from streamface.sinks import Sink
    from streamface.sources import Input, Source
    from streamface.streams import LiveStream
    from streamface.track import FaceTracker

_log = logging.getLogger(__name__)

_HLS: Final = ".m3u8"
_EVENTS_KEPT: Final = 100
_Net = TypeVar("_Net", "Model", "Reenactor", "Inventor")
_AnyNet = TypeVar("_AnyNet", "Model", "Reenactor", "Inventor", "Likeness")


class Nets:
    """Nets that are opened once and serve several runs, one after another."""

    def __init__(self) -> None:
        self._opened: dict[Hashable, Any] = {}
        self._closing = ExitStack()

    def get(self, what: Hashable, opener: Callable[[], _AnyNet]) -> _AnyNet:
        """Return the net that ``what`` stands for, opened and warm; errors as of ``opener``."""
        if what not in self._opened:
            net = opener()
            self._closing.callback(net.close)
            net.warm_up()
            self._opened[what] = net
        return cast("_AnyNet", self._opened[what])

    def close(self) -> None:
        """Close them all."""
        self._opened.clear()
        self._closing.close()


class Run:
    """One run, from settings to finished files.

    Several sources of which one is live run at once, each a stream with its own tracker, outputs
    and end: what becomes of one is noted in ``playlist.failures`` and ends none of the others.

    Use it as a context manager::

        with Run(settings) as run:
            run.execute()

    or iterate ``run.frames()`` and take the frames yourself. Construction opens everything that
    can be wrong (source, models, outputs) and raises UsageError or another StreamfaceError, with
    nothing left behind. Leaving the block without ``execute`` having finished removes unfinished
    outputs.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        opener: Callable[..., Source] | None = None,
        find: Stage[Frame] | None = None,
        nets: Nets | None = None,
        streams: Sequence[LiveStream] | None = None,
        to_sink: Callable[[Path, StreamInfo, VideoOptions], Sink] = open_sink,
    ) -> None:
        """Open all that a run needs.

        opener: stands in for ``sources.open_source``. find: gives frames their faces and what is
        read in them, instead of the detector and the nets. to_sink: stands in for ``open_sink``.
        nets: keep what they open for the next run. streams: run these at once, in place of what the
        settings have as sources and outputs; more may be added (``add``).
        """
        self.settings = settings
        self._find = find
        self._streams = streams
        self._to_sink = to_sink
        self.tally = Tally()
        self.warnings: list[str] = []
        self.stopping = False
        """Whether ``stop`` was called."""
        self._interrupted = self._interruptible = False
        self._sinks: dict[int, Sink] = {}
        self._data: list[DataSink] = []
        self.failed_outputs: list[str] = []
        """Why some of several live outputs came to their end before their stream did."""
        self.cover: Cover | None = None
        """The stage that covers faces, where that was asked for."""
        self.remake: Remake | None = None
        """The stage that re-enacts them, likewise."""
        self.stand_ins: StandIns | None = None
        """Who draws other people over the faces that ``cover`` covers."""
        self._reenactor: Reenactor | None = None
        self._inventor: Inventor | None = None
        self._reader: Model | None = None
        self._likeness: Likeness | None = None
        self._classifier: FaceClassifier | None = None
        self._adaptation: Adaptation | None = None
        self.events: deque[SourceEvent] = deque(maxlen=_EVENTS_KEPT)
        """What happened to live sources lately."""
        _announce_compilation(settings)
        with ExitStack() as cleanup:
            self._nets = nets or Nets()
            if nets is None:
                cleanup.callback(self._nets.close)
            found = (
                find_all(settings.sources, simulate_live=settings.simulate_live)
                if streams is None
                else Found([each.what for each in streams], at_once=True)
            )
            kind = Gathering if found.at_once else Playlist
            self.playlist: Gathering | Playlist = kind(
                found.inputs,
                read_options(settings),
                opener=opener or _opener(settings, self._note_event),
            )
            cleanup.callback(self.playlist.close)
            cleanup.callback(self._abort)  # outputs with threads end before their sources close
            self.is_live = found.at_once or self.playlist.first.info.is_live
            self._targets = self._plan_targets()
            self._models = self._open_models()
            self._open_data()
            self._begin_first()
            self.pipeline = self._build()
            self.audience = self._open_audience(cleanup)
            self._writing = StageStats("write")
            self.pipeline.stats.stages.append(self._writing)
            self._cleanup = cleanup.pop_all()

    # -- building

    @property
    def at_once(self) -> bool:
        """Whether the inputs run at the same time, rather than one after another."""
        return isinstance(self.playlist, Gathering)

    def _begin_first(self) -> None:
        """Note which source comes first, and open what it is written to."""
        self.tally.stream = next(
            number
            for number, source in dict(self.playlist.opened).items()  # others may be opening
            if source is self.playlist.first
        )
        if self.is_live and len(self.playlist.inputs) == 1:
            self.tally.streams[0] = StreamTally(self.playlist.inputs[0].name)
        if self._streams is None:  # else what cannot be written is the end of one stream only
            self._open_sink(self.playlist.first.info, self.tally.stream)

    def _note_event(self, event: SourceEvent) -> None:
        """Keep what happened to a live source, which has told it; called by its own thread."""
        self.events.append(event)

    def _open_audience(self, cleanup: ExitStack) -> Audience | None:
        settings, playlist = self.settings, self.playlist
        if not settings.is_watched:
            return None
        from streamface.audience import Audience

        first = playlist.first.info
        shown = playlist.inputs if self.at_once else playlist.inputs[:1]
        infos = [getattr(playlist.opened.get(n), "info", first) for n in range(len(shown))]
        streams = [(each.name, info) for each, info in zip(shown, infos, strict=True)]
        header, video = self.header(), video_options(settings)
        audience = Audience(self, settings, streams, header=header, video=video)
        cleanup.callback(audience.close)
        return audience

    def _plan_targets(self) -> list[tuple[Path | str, ...]]:
        """Return the outputs of each input; an empty list where none is asked for."""
        settings, inputs = self.settings, self.playlist.inputs
        if self._streams is not None:
            given = [each.targets for each in self._streams]
            return list(given) if any(given) else []
        plan = plan_streams if self.at_once else plan_outputs
        servers = [output for output in settings.outputs if isinstance(output, str)]
        if servers and len(inputs) > 1:
            raise UsageError(
                f"{len(inputs)} sources cannot all be sent to {push_name(servers[0])}; give one"
            )
        try:
            plans: list[Sequence[Path | str]] = [
                [output] if isinstance(output, str) else plan(output, inputs)
                for output in settings.outputs
            ]
            files = [each for targets in plans for each in targets if isinstance(each, Path)]
            _check_targets(inputs, files, settings)
        except (OSError, RuntimeError) as exc:  # a name too long, a link that leads to itself
            raise SinkError(f"cannot write there: {getattr(exc, 'strerror', None) or exc}") from exc
        return list(zip(*plans, strict=True))

    def _open_models(self) -> dict[str, Model]:
        from streamface.builder import build_missing, check_kept
        from streamface.likeness import Likeness
        from streamface.model import DEFAULT_MODELS, Model
        from streamface.resynth import INVENT_MODEL, REENACT_MODEL, Inventor, Reenactor
        from streamface.runtimes import Runtimes

        settings = self.settings
        runtimes = Runtimes(settings.compute, build=build_missing, check=check_kept)

        def opened(kind: type[_Net], name: Path | None, otherwise: str, role: str = "") -> _Net:
            opener = partial(runtimes.open, named=name is not None)
            what = (name, otherwise, settings.compute, role)
            return self._nets.get(what, lambda: kind.open(name or otherwise, opener))

        given = {"emotion": settings.emotion_model, "gender": settings.gender_model}
        models = {task: opened(Model, given[task], DEFAULT_MODELS[task]) for task in settings.tasks}
        self._detector = open_detector(settings)
        if settings.reenact is not None:
            self._reenactor = opened(Reenactor, settings.reenact_model, REENACT_MODEL)
        if settings.anonymize == SYNTH:
            self._inventor = opened(Inventor, settings.synth_model, INVENT_MODEL)
            # Its own reader of expressions: a session of the runtime belongs to one thread.
            self._reader = opened(Model, given["emotion"], DEFAULT_MODELS["emotion"], "reader")
            spec = self._inventor.spec
            what = (Likeness, settings.synth_model)
            self._likeness = self._nets.get(what, lambda: Likeness.open(spec))
        for note in runtimes.notes:
            _log.warning("%s", note)
        return models

    def _open_data(self) -> None:
        from streamface.datasinks import open_data_sink

        if not self.settings.data:
            return
        header, overwrite = self.header(), self.settings.overwrite
        shift_s = self._output_shift_s()
        for kind, target in self.settings.data.items():
            self._data.append(
                open_data_sink(kind, target, header, overwrite=overwrite, shift_s=shift_s)
            )

    def _output_shift_s(self) -> float:
        """Return how much earlier the output is than its source; captions go with it."""
        info = self.playlist.first.info
        return float(info.shift * info.time_base) if self.settings.outputs else 0.0

    def _open_sink(self, info: StreamInfo, stream: int) -> None:
        if not self._targets:
            return
        if self._streams is not None:
            files = [each for each in self._targets[stream] if isinstance(each, Path)]
            _check_targets([self.playlist.inputs[stream]], files, self.settings)
        options = video_options(self.settings)
        sinks: list[Sink] = []
        with ExitStack() as undo:
            for target in self._targets[stream]:
                sink = _opened_sink(target, info, options, self.settings.segment_s, self._to_sink)
                undo.callback(sink.abort)
                if self.is_live:
                    sink = self._queued(sink, stream, target)
                    undo.callback(sink.abort)
                sinks.append(sink)
            undo.pop_all()
        told = self._lose_output if self.is_live else None
        self._sinks[stream] = sinks[0] if len(sinks) == 1 else FanOut(sinks, on_failure=told)
        self._warn(stream, self._sinks[stream].warnings)

    def _queued(self, sink: Sink, stream: int, target: Path | str) -> QueuedSink:
        """Return a sink of a live source that keeps nobody waiting."""
        return QueuedSink(
            sink,
            target.name if isinstance(target, Path) else "push",
            on_written=self._note_age,
            on_drop=lambda frames: self.stats.count_drop("output", frames, lane=stream),
        )

    def _lose_output(self, exc: SinkError) -> None:
        _log.warning("%s; the other outputs go on", exc)
        self.failed_outputs.append(str(exc))

    def _warn(self, stream: int, lines: Iterable[str]) -> None:
        name = self.playlist.inputs[stream].name
        told = [f"{name}: {line}" for line in lines]
        self.warnings += [line for line in told if line not in self.warnings]

    def _build(self) -> Pipeline[Frame]:
        from streamface.classify import ClassifySettings, FaceClassifier
        from streamface.overlay import Mark, OverlayStyle, Painter
        from streamface.smoothing import SmoothingSettings

        settings = self.settings
        finder = FindFaces(self._tracker_maker()) if self._find is None else None
        self._finder = finder
        stages: list[Stage[Frame]] = [step for step in (self._find, finder) if step is not None]
        if self._models:
            how = ClassifySettings(
                emotion_every=settings.classify_every,
                smoothing=SmoothingSettings(time_constant_s=settings.smoothing_s),
            )
            self._classifier = FaceClassifier(
                self._models.get("emotion"), self._models.get("gender"), how
            )
            streams = len(self.playlist.inputs) if self.at_once else 1
            if self._streams is not None:
                streams = MOST_BATCH_FRAMES  # more may come
            stages.append(Classify(self._classifier, streams))
        if self._reenactor is not None and settings.reenact is not None:
            from streamface.remake import Remake

            self.remake = Remake(
                self._reenactor, settings.reenact, self._budget(), strength=settings.strength
            )
            stages.append(self.remake)
        if settings.anonymize is not None:
            # Who cannot be replaced is blurred.
            mode = "blur" if settings.anonymize == SYNTH else settings.anonymize
            covering = CoverSettings(
                mode=cast("CoverMode", mode),
                margin=settings.head_margin,
                look_ahead_s=0.0 if self.is_live else settings.look_ahead_s,
            )
            self.cover = Cover(covering, self._stand_ins())
            stages.append(self.cover)
        if self._targets or settings.is_watched:
            style = OverlayStyle(
                boxes=not settings.hide_boxes,
                labels=not settings.hide_labels,
                probs=not settings.hide_probs,
                chart=settings.chart,
            )
            mark = Mark(f"altered: {settings.reenact}") if settings.reenact else None
            stages.append(Paint(Painter(style), mark if settings.mark else None))
        if self.is_live and settings.adapt:
            self._adaptation = Adaptation(settings.imgsz, detect_every(settings), self._turn_knobs)
        playlist = self.playlist
        return Pipeline(
            playlist.lanes() if isinstance(playlist, Gathering) else playlist,
            stages,
            number=lambda frame: frame.index,
            newest_wins=self.is_live,
            on_drop=bequeath_packets,
            is_stale=self._is_stale if self.is_live and settings.max_staleness_s else None,
            on_stop=playlist.stop,
        )

    def _is_stale(self, frame: Frame) -> bool:
        assert self.settings.max_staleness_s is not None
        return time.monotonic() - frame.captured_s > self.settings.max_staleness_s

    def _turn_knobs(self, imgsz: int, every: int, rarer: int) -> None:
        """Set how much is done from the next frame on."""
        self._detector.imgsz = imgsz
        if self._finder is not None:
            self._finder.detect_every = every
        if self._classifier is not None:
            self._classifier.rarer = rarer

    def _stand_ins(self) -> StandIns | None:
        if self._inventor is None or self._reader is None or self._likeness is None:
            return None
        from streamface.remake import StandIns

        self.stand_ins = StandIns(
            self._inventor,
            self._reader,
            self._likeness,
            seed=self.settings.seed,
            budget=self._budget(),
        )
        return self.stand_ins

    def _budget(self) -> Budget:
        """Return what may be spent on the faces of a frame: live sources do not wait.

        Several at once share the time between two frames of one of them.
        """
        from streamface.remake import FREE_SHARE, Budget

        rate = float(self.playlist.first.info.rate)
        streams = len(self.playlist.inputs) if self.at_once else 1
        return Budget(FREE_SHARE / (rate * streams) if self.is_live and rate else None)

    def _tracker_maker(self) -> Callable[[], FaceTracker]:
        from itertools import count

        from streamface.track import FaceTracker

        ids = count(1)
        every = detect_every(self.settings)
        return lambda: FaceTracker(self._detector, detect_every=every, ids=ids)

    # -- running

    @property
    def stats(self) -> PipelineStats:
        """Busy time, queues, latency and drops, live."""
        return self.pipeline.stats

    @property
    def info(self) -> StreamInfo:
        """The source whose frames are being written now."""
        source = self.playlist.opened.get(self.tally.stream)
        return (source or self.playlist.first).info

    def providers(self) -> dict[str, str]:
        """Return what really computes in each stage that has a net, by the stage's name."""
        covering = (self._inventor, self._reader, self._likeness)
        nets: dict[str, list[Model | Reenactor | Inventor | Likeness]] = {
            "classify": list(self._models.values()),
            "remake": [self._reenactor] if self._reenactor is not None else [],
            "cover": [net for net in covering if net is not None],
        }
        found = {"find": self._detector.provider}
        for stage, each in nets.items():
            if each:
                found[stage] = ", ".join(dict.fromkeys(net.provider for net in each))
        return found

    def model_hashes(self) -> dict[str, str]:
        """SHA-256 of every model in use, by name."""
        hashes = {name: model.card.sha256 for name, model in self._models.items()}
        if self._reenactor is not None:
            hashes["reenact"] = self._reenactor.card.sha256
        if self._inventor is not None:
            hashes["synth"] = self._inventor.card.sha256
        if self._likeness is not None:
            hashes["likeness"] = self._likeness.card.sha256
        return {"detector": self._detector.sha256, **hashes}

    def header(self) -> dict[str, Json]:
        """Return what a data file of this run says of itself."""
        from streamface import records

        return records.header(
            source=[each.name for each in self.playlist.inputs],
            models=self.model_hashes(),
            options=_options_for_header(self.settings),
        )

    def frames(self) -> Generator[Frame, None, None]:
        """Yield finished frames in order, writing each to the outputs before it is yielded.

        Close it (``contextlib.closing``) when leaving early: that ends the pipeline's threads.
        """
        self.tally.started_s = time.monotonic()
        with self.pipeline as finished:
            # From here on an interrupt meets a `with` block that ends every thread.
            self._interruptible = True
            try:
                self._heed_interrupt()
                for frame in finished:
                    self._heed_interrupt()
                    with self._writing.timed(), _named("write", frame.index):
                        written = self._write(frame)
                    if not written:
                        self.stats.count_drop("lost", lane=frame.stream)
                        continue
                    self._writing.frames += 1
                    # Live outputs tell themselves when they have written it.
                    if not (self.is_live and self._targets):
                        self._note_age(frame)
                    self._adapt()
                    yield frame
            finally:
                self._interruptible = False
        self._heed_interrupt()
        with _named("write", None):
            self._finish()

    def drive(self, work: Callable[[], None]) -> None:
        """Do ``work``, which executes the run; where there is a window, beside it.

        A window has to be served by the main thread, so the run goes to another one meanwhile.
        """
        window = self.audience.window if self.audience is not None else None
        if window is None:
            work()
        else:
            window.drive(work)

    def execute(self) -> None:
        """Run to the end (or to ``stop``). Raises StreamfaceError; outputs are whole or absent."""
        with closing(self.frames()) as frames:
            for _ in frames:
                pass

    def stop(self) -> None:
        """End the source; what is under way is finished and the files closed. Signal-safe."""
        self.stopping = True
        self.pipeline.stop()

    def add(self, stream: LiveStream) -> int | None:
        """Take in another of ``streams`` while the run goes on; return its number.

        For any one thread. None where the run is coming to its end and takes nothing in any more.
        """
        assert isinstance(self.playlist, Gathering), "only a run of streams can grow"
        if self._targets:
            self._targets.append(stream.targets)
        return self.pipeline.add_lane(self.playlist.add(stream.what))

    def end(self, stream: int) -> None:
        """End one of several streams: its file is finished, the others go on. For any thread."""
        assert isinstance(self.playlist, Gathering), "a run of one stream is stopped"
        self.pipeline.end_lane(stream)
        self.playlist.end(stream)

    def cancel(self) -> None:
        """Have the thread that runs raise KeyboardInterrupt soon: unfinished files are removed."""
        self.stopping = self._interrupted = True
        self.pipeline.stop()

    def interrupt(self) -> None:
        """End at once and remove unfinished files: raises KeyboardInterrupt, now or when it may.

        For a signal handler in the thread that runs. While threads start or end and while files
        get their names an exception would leave some behind; then the run raises it afterwards,
        or is complete.
        """
        self.cancel()
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def _heed_interrupt(self) -> None:
        if self._interrupted:
            raise KeyboardInterrupt

    def _note_age(self, frame: Frame) -> None:
        """Count how long a frame took from its capture; called by whoever wrote it."""
        now_s = time.monotonic()
        age_s = now_s - frame.captured_s
        self.stats.latency.add(age_s)
        self.stats.ages.add(now_s, age_s)
        stream = self.tally.streams.get(frame.stream)
        if stream is not None:
            stream.latency.add(age_s)
            stream.ages.add(now_s, age_s)

    def _adapt(self) -> None:
        """Do less, or more again, if it is time to, and say so."""
        if self._adaptation is None:
            return
        change = self._adaptation.update(time.monotonic(), self.stats, self.tally.frames)
        if change is not None:
            self.tally.lowered = self._adaptation.lowered()
            _log.warning("%s", change)

    def _write(self, frame: Frame) -> bool:
        """Write a frame to all outputs; return whether its stream still has any."""
        if isinstance(self.playlist, Gathering):
            return self._write_of_many(frame, self.playlist)
        if frame.stream != self.tally.stream:
            self._finish_stream(self.tally.stream)
            self.tally.begin(frame.stream)
            self._open_sink(self.playlist.opened[frame.stream].info, frame.stream)
        self._put_out(frame)
        return True

    def _write_of_many(self, frame: Frame, gathering: Gathering) -> bool:
        """Do the same where streams come in turn; an output that fails ends only its own."""
        stream, streams = frame.stream, self.tally.streams
        if stream not in streams:
            streams[stream] = StreamTally(gathering.inputs[stream].name)
        written = not streams[stream].has_ended
        if written:
            try:
                if stream not in self._sinks:
                    self._open_sink(gathering.opened[stream].info, stream)
                self._put_out(frame)
            except (SinkError, UsageError) as exc:
                written = False
                self._lose(stream, exc, gathering)
        for number in [number for number in streams if number in gathering.opened]:
            taken = self.pipeline.taken_in_all(number)
            if taken is not None and (streams[number].has_ended or taken == streams[number].frames):
                self._finish_one_of_many(number, gathering, wait=False)
        return written

    def _put_out(self, frame: Frame) -> None:
        name = self.playlist.inputs[frame.stream].name
        # A picture that stands in for one that did not come says nothing of anybody.
        for data in () if frame.held else tuple(self._data):
            with self._without(data):
                data.write(frame, name)
        sink = self._sinks.get(frame.stream)
        if sink is not None:
            with self._without(sink):
                sink.write(frame)
            # What is compressed already went to the file: a frame kept by the caller is light.
            frame.packets = ()
        if self.audience is not None:
            source = self.playlist.opened.get(frame.stream, self.playlist.first)
            self.audience.show(frame, name, source.info)
        self.tally.count(frame)

    @contextmanager
    def _without(self, output: DataSink | Sink) -> Iterator[None]:
        """Go on without an output of a live source that fails, if anything else is made of it.

        A file that cannot be written is no reason to lose the data, or what somebody watches.
        """
        try:
            yield
        except SinkError as exc:
            data = [each for each in self._data if each is not output]
            sinks = {stream: each for stream, each in self._sinks.items() if each is not output}
            is_picture = len(sinks) < len(self._sinks)
            # The pictures of one stream are no reason to go on with another that has none.
            others = bool(data) or self.audience is not None or bool(sinks and not is_picture)
            if not (self.is_live and others):
                raise
            self._data, self._sinks = data, sinks
            output.abort()
            self._lose_output(exc)

    def _lose(self, stream: int, exc: StreamfaceError, gathering: Gathering) -> None:
        """End one of several streams whose output has failed."""
        gathering.fail(stream, str(exc))
        self.pipeline.end_lane(stream)
        self.tally.streams[stream].end()
        sink = self._sinks.pop(stream, None)
        if sink is not None:
            sink.abort()

    def _finish_one_of_many(self, stream: int, gathering: Gathering, *, wait: bool) -> None:
        """Finish the output of one of several streams, unless it was lost, and close its source.

        Without ``wait`` only as far as that keeps nobody waiting; to be called again.
        """
        sink, tally = self._sinks.get(stream), self.tally.streams[stream]
        if not tally.has_ended:
            tally.end()
            if self.audience is not None:
                self.audience.forget(stream)
            if isinstance(sink, QueuedSink | FanOut):
                sink.begin_close(gathering.opened[stream].tail_packets)
        if isinstance(sink, QueuedSink | FanOut) and not (wait or sink.is_over):
            return
        try:
            self._close_sink(stream)
        except SinkError as exc:
            self._lose(stream, exc, gathering)
        gathering.release(stream)

    def _finish_stream(self, stream: int) -> None:
        if self.tally.stream_frames:
            self._close_sink(stream)
        elif stream in self._sinks:
            self._sinks[stream].abort()
            del self._sinks[stream]
        self.playlist.release(stream)

    def _close_sink(self, stream: int) -> None:
        source, sink = self.playlist.opened.get(stream), self._sinks.get(stream)
        if sink is not None:
            with self._without(sink):
                sink.close(source.tail_packets if source is not None else ())
                self._warn(stream, sink.warnings)  # a server may have been away
            # Only now: whatever interrupts the closing, an unfinished file is still ours to remove.
            self._sinks.pop(stream, None)

    def _finish(self) -> None:
        if self.tally.frames == 0:
            reasons = list(self.playlist.failures.values())
            raise SourceError(reasons[0] if reasons else "no frame was read before the stop")
        if isinstance(self.playlist, Gathering):
            for wait in (False, True):  # all begin before the first is waited for
                for number in [n for n in self.tally.streams if n in self.playlist.opened]:
                    self._finish_one_of_many(number, self.playlist, wait=wait)
        else:
            self._finish_stream(self.tally.stream)
        for data in self._data:
            data.close()
        self._data.clear()
        if self.audience is not None:
            self.audience.end()
        self.tally.ended_s = time.monotonic()
        for stream, lines in sorted(self.playlist.damage.items()):
            self._warn(stream, lines)

    def _abort(self) -> None:
        unfinished: list[DataSink | Sink] = [*self._data, *self._sinks.values()]
        self._data, self._sinks = [], {}
        with ExitStack() as aborts:
            for each in unfinished:
                aborts.callback(each.abort)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()


@contextmanager
def _named(stage: str, frame: int | None) -> Iterator[None]:
    """Let errors of the caller's thread name stage and frame, as those of the pipeline do."""
    try:
        yield
    except SinkError as exc:
        where = "" if frame is None else f" (stage '{stage}', frame {frame})"
        raise SinkError(f"{exc}{where}") from exc
    except StreamfaceError:
        raise
    except Exception as exc:
        raise StageError(stage, frame, exc) from exc


def _announce_compilation(settings: Settings) -> None:
    """Say why the first run after an installation begins slowly."""
    folder = prepare()
    # The kernels that every such run needs; others are compiled only once a face is seen.
    if is_cold(_kernels_of(settings), folder):
        _log.info("compiling kernels for this machine; this happens once and takes some seconds")


def _kernels_of(settings: Settings) -> tuple[str, ...]:
    """Return the kernels that a run cannot do without."""
    remade = settings.reenact is not None or settings.anonymize == SYNTH
    if remade:
        return ("shrink", "crop", "paste")
    return ("shrink", "crop") if settings.tasks else ("shrink",)


def _check_targets(inputs: Sequence[Input], outputs: Sequence[Path], settings: Settings) -> None:
    """Refuse to write a file twice, over a source or, unasked, over a file. Raises UsageError."""
    data = [(f"--save-{kind}", Path(to)) for kind, to in settings.data.items() if to != "-"]
    sources = {_identity(each.path) for each in inputs if each.path is not None}
    seen: dict[str, str] = {}
    for option, target in [*(("--output", path) for path in outputs), *data]:
        if target.exists() and not target.is_file():
            continue  # a device or a pipe; a folder is refused when it is opened
        final = str(target.resolve())
        if final in seen:
            raise UsageError(f"{seen[final]} and {option} would both write {target}")
        seen[final] = option
        if target.exists() and _identity(target) in sources:
            raise UsageError(f"{target} is the source itself; choose another {option}")
        if target.exists() and not settings.overwrite:
            raise UsageError(f"{target} exists; pass --overwrite to replace it")


def _identity(path: Path) -> tuple[int, int]:
    """Return what two names of one file share."""
    try:
        status = path.stat()
    except OSError:  # gone since it was listed; opening it will say so
        return -1, -1
    return status.st_dev, status.st_ino


def open_detector(settings: Settings) -> YuNetDetector:
    """Open the detector that the settings ask for. Raises ModelError."""
    from streamface.detect import YuNetDetector, find_model

    return YuNetDetector(
        find_model(settings.detector_model),
        conf=settings.conf,
        max_faces=settings.max_faces,
        imgsz=settings.imgsz,
    )


def _opened_sink(
    target: Path | str,
    info: StreamInfo,
    options: VideoOptions,
    segment_s: float | None,
    to_sink: Callable[[Path, StreamInfo, VideoOptions], Sink],
) -> Sink:
    """Open what writes to a target; to_sink: what opens a file. Raises UsageError, SinkError."""
    if isinstance(target, str) or target.suffix.lower() == _HLS:
        from streamface.push import open_live_sink

        return open_live_sink(str(target), info, options)
    if segment_s is not None:
        from streamface.segments import SegmentSink

        return SegmentSink(target, info, options, seconds=segment_s)
    return to_sink(target, info, options)


def _opener(settings: Settings, on_event: Callable[[SourceEvent], None]) -> Callable[..., Source]:
    """Return what opens an input: as it is, or played as if it were live."""
    from streamface.cameras import CameraOptions
    from streamface.sources import open_source

    camera = CameraOptions.parse(settings.camera_size, settings.camera_fps)
    if not settings.simulate_live:
        network = settings.network
        return partial(open_source, camera=camera, network=network, on_event=on_event)
    from streamface.live import SimulatedLive, Trouble

    trouble = Trouble.parse(settings.inject)

    def simulated(*arguments: Any, **options: Any) -> Source:
        return SimulatedLive(open_source(*arguments, camera=camera, **options), trouble)

    return simulated


def read_options(settings: Settings) -> ReadOptions:
    """Return which part of the source the settings want, and what decodes it."""
    return ReadOptions(
        settings.start_s,
        settings.end_s,
        settings.max_frames,
        settings.vid_stride,
        settings.hwaccel,
    )


def video_options(settings: Settings) -> VideoOptions:
    """Return how the settings want video to be written."""
    covered = settings.anonymize is not None
    comment = None
    if covered:
        comment = f"faces covered by streamface ({settings.anonymize})"
    if settings.anonymize == SYNTH:
        comment = "faces replaced by generated ones by streamface (synth)"
    if settings.reenact is not None:
        comment = f"faces altered by streamface (reenact {settings.reenact})"
    return VideoOptions(
        codec=settings.codec,
        crf=settings.crf,
        preset=settings.preset,
        audio=settings.audio and (settings.keep_audio or not covered),
        metadata=not covered,
        comment=comment,
        overwrite=settings.overwrite,
    )


def _options_for_header(settings: Settings) -> dict[str, object]:
    """Return what a reader of the data needs to judge it: how faces were found and read."""
    names = (
        "start_s", "end_s", "max_frames", "vid_stride", "imgsz", "conf", "max_faces",
        "detect_every", "classify_every", "smoothing_s", "tasks", "anonymize", "reenact",
        "strength",
    )  # fmt: skip
    options = {name: getattr(settings, name) for name in names}
    return options | {"detect_every": detect_every(settings)}
