"""From the graph of an engine to its plan: the bytes that TensorRT runs.

One path for TensorRT 10.x, 11.x and RTX: strongly typed networks, and no flag that one of them
lacks. RTX builds without a GPU; TensorRT proper cannot even begin without one. Its Python bindings
(10.13 to 11.4) have all that is used here, and those of 11.4 have built every shipped model over
the library of RTX; its own library has not built anything here yet.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from streamface.atomic import AtomicPath, sink_error
from streamface.compute import FLAVOURS, Flavour, Precision
from streamface.engines.flavour import engine_log, load
from streamface.engines.graph import INPUT, PRECISIONS
from streamface.errors import BackendUnavailable, ModelError, SinkError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from streamface.card import ModelCard
    from streamface.engines.flavour import EngineLog

Target: TypeAlias = Literal["current", "portable"]
Progress: TypeAlias = "Callable[[str, int, int], None]"
"""Called with the name of a phase, the steps that are done and how many it has."""
MAX_BATCH: Final = 1024
_OPT_BATCH: Final = 8  # faces that are looked at together in a lively video
_LEVELS: Final = range(6)
_SIGNAL_S: Final = 0.2
_RTX: Final = "tensorrt_rtx"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How an engine is built; raises UsageError for what no engine can have."""

    flavour: Flavour
    precision: Precision
    """What the graph was made with; for the record, since the graph itself decides."""
    max_batch: int
    """Most rows of one call, 1..MAX_BATCH."""
    opt_batch: int | None = None
    """Rows that the engine is made fastest for; None: 8, or ``max_batch`` where that is less."""
    workspace_bytes: int | None = None
    """Most GPU memory for intermediate results; None: all there is."""
    optimisation_level: int | None = None
    """0 builds soonest, 5 runs fastest; None: TensorRT's own default."""
    timing_cache: Path | None = None
    """File that keeps what kernels took, to build faster next time. RTX has no such thing."""
    target: Target | None = None
    """The GPU at hand, or (RTX only) all that RTX knows; None: portable for RTX, else current."""

    def __post_init__(self) -> None:
        if self.flavour not in FLAVOURS or self.precision not in PRECISIONS:
            raise ValueError(f"no engine of {self.flavour!r} in {self.precision!r} can be built")
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise UsageError(f"the largest batch must be in 1..{MAX_BATCH}, not {self.max_batch}")
        if not 1 <= self.batches[1] <= self.max_batch:
            raise UsageError(
                f"the usual batch must be in 1..{self.max_batch}, the largest, not {self.opt_batch}"
            )
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise UsageError(f"the workspace must be positive, not {self.workspace_bytes} bytes")
        if self.optimisation_level is not None and self.optimisation_level not in _LEVELS:
            raise UsageError(
                f"the optimisation level must be in 0..{_LEVELS[-1]}, not {self.optimisation_level}"
            )
        if self.target == "portable" and self.flavour != _RTX:
            raise UsageError(f"{self.flavour} builds for the GPU at hand only; use {_RTX}")

    @property
    def batches(self) -> tuple[int, int, int]:
        """Fewest, usual and most rows of one call."""
        usual = min(_OPT_BATCH, self.max_batch) if self.opt_batch is None else self.opt_batch
        return 1, usual, self.max_batch

    @property
    def builds_for(self) -> Target:
        """What the plan runs on."""
        return self.target or ("portable" if self.flavour == _RTX else "current")


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """An input or output of a network."""

    name: str
    dtype: str
    """"uint8", "float32" and so on."""
    shape: tuple[int, ...]
    """-1 for an axis whose length is known when it runs."""
    profile: tuple[tuple[int, ...], ...] = ()
    """Smallest, usual and largest shape of an input; empty for an output."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What TensorRT makes of a graph before it builds: the interface of the engine to come."""

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    layers: int


def build_plan(
    graph: bytes,
    card: ModelCard,
    options: BuildOptions,
    *,
    progress: Progress | None = None,
    begin: Callable[[], None] | None = None,
) -> bytes:
    """Return the serialised engine of a graph by ``engine_graph``.

    It is built in a thread of its own, for TensorRT swallows a Ctrl-C that reaches Python inside
    one of its callbacks; here it stops the build and is raised. ``progress`` is called in that
    thread, and what it raises does the same. ``begin`` is called there first: TensorRT builds for
    the GPU that is the thread's current one.

    Raises BackendUnavailable if the flavour is not installed, cannot be loaded or cannot build on
    this machine, ModelError if it refuses the graph (both with TensorRT's own words), SinkError
    if the timing cache cannot be read or written.
    """
    stop = threading.Event()

    def work() -> bytes:
        if begin is not None:
            begin()
        return _build(graph, card, options, progress, stop)

    return _in_a_thread(work, stop)


def _in_a_thread(work: Callable[[], bytes], stop: threading.Event) -> bytes:
    """Return what ``work`` returns; if the waiting is interrupted, set ``stop`` and wait for it."""
    ready = threading.Event()
    result: Future[bytes] = Future()

    def run() -> None:
        ready.wait()
        if stop.is_set():
            return
        try:
            result.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - raised in the thread that waits
            result.set_exception(exc)

    thread = threading.Thread(target=run, name="streamface-build")
    try:
        thread.start()
        ready.set()  # not before: a thread whose start was interrupted cannot be joined
        # Python misses a signal that comes just before it blocks, until something else wakes it.
        while not result.done():
            wait((result,), _SIGNAL_S)
        return result.result()
    finally:
        stop.set()
        ready.set()
        if thread.is_alive():
            thread.join()


def _build(
    graph: bytes,
    card: ModelCard,
    options: BuildOptions,
    progress: Progress | None,
    stop: threading.Event,
) -> bytes:
    draft = _Draft(graph, card, options)
    config = draft.configured()
    cache = _timing_cache(config, options)
    monitor = _Monitor(draft.trt, progress, stop)
    config.progress_monitor = monitor.handle
    draft.log.forget()
    plan = draft.builder.build_serialized_network(draft.network, config)
    if monitor.raised is not None:
        raise monitor.raised
    if plan is None:
        raise draft.refused("build", draft.log.reason())
    if cache is not None:
        _write_cache(config, cache)
    return bytes(plan)


def network_facts(graph: bytes, card: ModelCard, options: BuildOptions) -> NetworkFacts:
    """Return what TensorRT reads in a graph, and the profile that it would be built with.

    A plan cannot be asked without a GPU (RTX neither loads one there nor judges it), so this is
    how an engine's interface is checked on a machine that has none. Errors as of ``build_plan``.
    """
    return _Draft(graph, card, options).facts


class _Draft:
    """A graph as TensorRT has read it, and checked against its card."""

    def __init__(self, graph: bytes, card: ModelCard, options: BuildOptions) -> None:
        self.trt = load(options.flavour)
        self.log: EngineLog = engine_log(options.flavour)
        self._card = card
        self._options = options
        self.log.forget()
        self.builder = self._builder()
        trt = self.trt
        typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(typed)
        # Weights stay the parser's own: it must live as long as the network.
        self._parser = trt.OnnxParser(self.network, self.log.handle)
        if not self._parser.parse(graph):
            raise self.refused("read", self._complaints())
        self.facts = self._facts()
        self._check()

    def _builder(self) -> Any:
        try:
            return self.trt.Builder(self.log.handle)
        except (TypeError, RuntimeError) as exc:  # pybind11's word for a null pointer
            raise BackendUnavailable(
                f"{self._runtime} cannot build on this machine: {self.log.reason()}; it needs an "
                f"NVIDIA GPU and its driver ({_RTX} builds without)"
            ) from exc

    @property
    def _runtime(self) -> str:
        return f"{self._options.flavour} {self.trt.__version__}"

    def refused(self, verb: str, reason: str) -> BackendUnavailable | ModelError:
        """Return the error for a graph or machine that TensorRT will not have."""
        message = f"{self._runtime} cannot {verb} {self._card.name}: {reason}"
        if self._options.builds_for == "current" and "cuda" in reason.lower():
            return BackendUnavailable(message)
        return ModelError(message)

    def _complaints(self) -> str:
        errors = [self._parser.get_error(i) for i in range(self._parser.num_errors)]
        lines = (f"{each.node_name() or 'the file'}: {each.desc()}" for each in errors)
        return " ".join("; ".join(lines).split()) or self.log.reason()

    def _facts(self) -> NetworkFacts:
        network = self.network
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        return NetworkFacts(
            tuple(self._tensor(each, self._profile(each)) for each in inputs),
            tuple(self._tensor(each) for each in outputs),
            network.num_layers,
        )

    def _tensor(self, tensor: Any, profile: tuple[tuple[int, ...], ...] = ()) -> TensorFacts:
        dtype = self.trt.nptype(tensor.dtype).__name__
        return TensorFacts(tensor.name, dtype, tuple(tensor.shape), profile)

    def _profile(self, tensor: Any) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of an input; none if more than its batch is open, which is refused."""
        rest = tuple(tensor.shape)[1:]
        return () if -1 in rest else tuple((rows, *rest) for rows in self._options.batches)

    def _check(self) -> None:
        """Raise ModelError unless the network has the card's inputs and outputs."""
        card = self._card
        wanted: dict[str, tuple[str, tuple[int, ...]]] = {INPUT: ("uint8", card.input.shape)}
        wanted |= {name: ("float32", shape) for name, shape in card.conditions.items()}
        found = [each.name for each in self.facts.inputs]
        if found != list(wanted):
            raise self._differs(", ".join(found), ", ".join(wanted))
        for each in self.facts.inputs:
            dtype, row = wanted[each.name]
            shape = (-1, *row)
            fits = len(each.shape) == len(shape) and all(
                a in (-1, b) for a, b in zip(each.shape, shape, strict=True)
            )
            if each.dtype != dtype or not fits:
                raise self._differs(
                    _told(each.name, each.dtype, each.shape), _told(each.name, dtype, shape)
                )
        outputs = [(each.name, each.dtype) for each in self.facts.outputs]
        if outputs != [(name, "float32") for name in card.outputs]:
            raise self._differs(
                ", ".join(f"{name} {dtype}" for name, dtype in outputs),
                ", ".join(f"{name} float32" for name in card.outputs),
            )

    def _differs(self, found: str, wanted: str) -> ModelError:
        return ModelError(
            f"the graph of {self._card.name} has {found or 'nothing'}, but its card says {wanted}; "
            "make it with engine_graph"
        )

    def configured(self) -> Any:
        """Return the builder's configuration, profile and all."""
        trt, options = self.trt, self._options
        config = self.builder.create_builder_config()
        # Ten bits instead of float32's 23 would undo what engine_graph keeps exact.
        config.clear_flag(trt.BuilderFlag.TF32)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.optimisation_level is not None:
            config.builder_optimization_level = options.optimisation_level
        if options.flavour == _RTX and options.builds_for == "current":
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.CURRENT, 0)
        if options.flavour == _RTX:
            # CUDA graphs need an engine that allocates nothing by itself (RTX 1.2's notes).
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
        profile = self.builder.create_optimization_profile()
        for each in self.facts.inputs:
            if each.profile:
                profile.set_shape(each.name, *each.profile)
        config.add_optimization_profile(profile)
        return config


def _told(name: str, dtype: str, shape: tuple[int, ...]) -> str:
    return f"{name} {dtype} {shape}"


class _Monitor:
    """Passes TensorRT's progress on; stops the build at ``stop`` or where the receiver raises."""

    def __init__(self, trt: Any, progress: Progress | None, stop: threading.Event) -> None:
        self.raised: BaseException | None = None
        self._progress = progress
        self._stop = stop
        self._steps: dict[str, int] = {}

        class _Handle(trt.IProgressMonitor):  # type: ignore[misc] # known only once imported
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)  # pybind11 asks for this very form

            def phase_start(handle, phase: str, _parent: str | None, steps: int) -> None:  # noqa: N805
                self._tell(phase, 0, steps)

            def step_complete(handle, phase: str, step: int) -> bool:  # noqa: N805
                return self._tell(phase, step + 1, self._steps[phase])

            def phase_finish(handle, phase: str) -> None:  # noqa: N805
                self._tell(phase, self._steps[phase], self._steps[phase])

        self.handle: Any = _Handle()

    def _tell(self, phase: str, done: int, steps: int) -> bool:
        """Return whether to go on. Nothing may be raised through TensorRT."""
        self._steps[phase] = steps
        try:
            if self._progress is not None and not self._stop.is_set():
                self._progress(phase, done, steps)
        except BaseException as exc:  # noqa: BLE001 - raised again once TensorRT has returned
            self.raised = exc
            self._stop.set()
        return not self._stop.is_set()


def _timing_cache(config: Any, options: BuildOptions) -> Path | None:
    """Load the timing cache; return where to write it, None where there is none.

    In RTX they are deprecated and do nothing.
    """
    path = options.timing_cache
    if path is None or options.flavour == _RTX:
        return None
    try:
        known = path.read_bytes() if path.exists() else b""
    except OSError as exc:
        raise SinkError(f"cannot read the timing cache {path}: {exc.strerror or exc}") from exc
    # One of another version or GPU is refused, and replaced by an empty one.
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)
    return path


def _write_cache(config: Any, path: Path) -> None:
    file = AtomicPath(path, overwrite=True)
    try:
        file.temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
        file.publish()
    except OSError as exc:
        raise sink_error(path, exc) from exc
    finally:
        file.discard()
