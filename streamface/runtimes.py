"""Where nets run: what was asked for, what this machine has, and which of it is taken.

``auto`` takes the fastest that is at hand and says in one line why it is not a faster one: a
matching TensorRT engine, torch on the GPU, ONNX Runtime on the GPU, ONNX Runtime on the CPU.
Whatever is asked for by name is what runs, or the run does not begin.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

from streamface.backends import open_backend
from streamface.card import load
from streamface.compute import AUTO, FLAVOURS, Compute, Flavour, Precision
from streamface.errors import BackendUnavailable, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from streamface.backends import Backend
    from streamface.card import ModelCard
    from streamface.engines.gpu import Gpu
    from streamface.engines.store import EngineKey, EngineRecord, EngineStore

_SMALL: Final = "-int8"


class Machine:
    """What this machine has; each is looked up once, when first asked for."""

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """NVIDIA GPUs that the driver shows."""
        from streamface.engines.gpu import gpus

        return gpus()

    @cached_property
    def flavours(self) -> tuple[Flavour, ...]:
        """Installed flavours of TensorRT."""
        from streamface.engines.flavour import installed

        return installed()

    @cached_property
    def has_torch(self) -> bool:
        """Whether torch is installed, with or without a GPU."""
        return importlib.util.find_spec("torch") is not None

    @cached_property
    def torch_has_cuda(self) -> bool:
        """Whether torch is installed and computes on a GPU; imports it, which takes seconds."""
        if not self.has_torch:
            return False
        from streamface.backends.torch_runtime import has_cuda

        return has_cuda()

    @cached_property
    def providers(self) -> tuple[str, ...]:
        """Providers that ONNX Runtime was built with."""
        from streamface.backends.ort_backend import providers

        return providers()


class Runtimes:
    """Opens models as they were asked for; one for a run, so that nothing is told twice."""

    def __init__(
        self,
        compute: Compute | None = None,
        machine: Machine | None = None,
        *,
        build: Builder | None = None,
        check: Checker | None = None,
    ) -> None:
        """Prepare; nothing is looked up or imported yet.

        build: makes an engine that is missing, where that was asked for. check: holds an engine
        that was built without a GPU to its model, when a GPU first runs it.
        """
        self.compute = compute or Compute()
        self._build = build
        self._check = check
        self.machine = machine or Machine()
        self._passed_over: dict[tuple[str, ...], list[str]] = {}

    def open(
        self, path: Path, *, named: bool = True, threads: int = 1
    ) -> tuple[ModelCard, Backend]:
        """Return a card and what runs it.

        path: of a card. named: whether it was asked for by that very name, so that auto may not
        take its float32 or int8 sibling. Raises BackendUnavailable, ModelError or UsageError where
        what was asked for by name cannot be had.
        """
        ask = _Ask(path, load(path), named=named, threads=threads)
        reasons: list[str] = []
        for way in self._ways():
            try:
                card, backend = way(ask)
            except BackendUnavailable as exc:
                if str(exc) not in reasons:
                    reasons.append(str(exc))
                continue
            if reasons:
                told = (backend.provider, *reasons)
                self._passed_over.setdefault(told, []).append(card.name)
            return card, backend
        # More than one way was open: nothing of it was asked for by name but a GPU.
        wanted = "a GPU was asked for: " if len(reasons) > 1 else ""
        raise BackendUnavailable(f"{ask.card.name}: {wanted}{'; '.join(reasons)}")

    @property
    def notes(self) -> list[str]:
        """Return why something slower than hoped for was taken, a line for each reason."""
        return [
            f"{', '.join(models)} on {provider}: {'; '.join(reasons)}"
            for (provider, *reasons), models in self._passed_over.items()
        ]

    def _ways(self) -> Iterator[_Way]:
        """Yield how a model could be run, fastest first; of what was named, nothing but that."""
        compute = self.compute
        on_gpu = self._gpu_ways()
        hoped_for = compute.wants_gpu or compute.build_engines or self.machine.gpus
        if compute.device == "cpu" or not hoped_for:
            on_gpu = ()
        yield from on_gpu
        on_cpu = not compute.wants_gpu and compute.runtime not in FLAVOURS
        if compute.provider is None and on_cpu:
            # Torch is slower than ONNX Runtime on a CPU: only where it is asked for.
            yield self._torch_on_cpu if compute.runtime == "torch" else self._ort_on_cpu

    def _gpu_ways(self) -> tuple[_Way, ...]:
        if self.compute.provider is not None:
            return (self._ort_provider,)
        ways: dict[str, _Way] = {
            "tensorrt": self._engine,
            "torch": self._torch_on_gpu,
            "onnxruntime": self._ort_on_gpu,
        }
        runtime = "tensorrt" if self.compute.runtime in FLAVOURS else self.compute.runtime
        return tuple(ways.values()) if runtime == AUTO else (ways[runtime],)

    # -- the ways; each raises BackendUnavailable where it is closed

    def _engine(self, ask: _Ask) -> _Opened:
        from streamface.engines.store import EngineStore, key_for

        gpu = self._gpu()
        runtime = self.compute.runtime
        names = [each for each in self.machine.flavours if runtime in {AUTO, "tensorrt", each}]
        if not names:
            wanted = "TensorRT-RTX" if runtime == "tensorrt_rtx" else "TensorRT"
            raise BackendUnavailable(
                f"{wanted} is not installed (pip install 'streamface[tensorrt-rtx]' or [tensorrt])"
            )
        path, card, precision = self._float_card(ask)
        store, reasons = EngineStore(), []
        for name in names:
            version = flavour_version(name)
            here = key_for(card, flavour=name, version=version, precision=precision, gpu=gpu)
            found = store.find(here)
            if isinstance(found, str) and self.compute.build_engines and self._build is not None:
                found = self._build(path, here, gpu)
            if isinstance(found, str):
                reasons.append(found)
                continue
            try:
                if found.check is None and self._check is not None:
                    found = self._check(path, found, gpu)
                return card, open_engine(card, found, store, gpu)
            except ModelError as exc:  # damaged, or not as its model: auto can do without it
                reasons.append(str(exc))
        raise BackendUnavailable(
            f"{'; '.join(reasons)} (`streamface models build {card.name}` makes one)"
        )

    def _torch_on_gpu(self, ask: _Ask) -> _Opened:
        self._gpu()
        if not self.machine.has_torch:
            raise BackendUnavailable("torch is not installed (pip install 'streamface[torch]')")
        if not self.machine.torch_has_cuda:
            raise BackendUnavailable("the installed torch cannot use the GPU")
        return self._torch(ask, f"cuda:{self.compute.gpu_index}")

    def _torch_on_cpu(self, ask: _Ask) -> _Opened:
        return self._torch(ask, "cpu")

    def _torch(self, ask: _Ask, device: str) -> _Opened:
        path, card, precision = self._float_card(ask)
        if device == "cpu" and self.compute.precision == AUTO and precision == "fp16":
            precision = "fp32"
        if precision == "int8":
            raise BackendUnavailable(
                "torch runs no int8 models here; give --precision fp16 or fp32"
            )
        backend = open_torch(path, device=device, precision=precision, threads=ask.threads)
        return card, backend

    def _ort_on_gpu(self, ask: _Ask) -> _Opened:
        self._gpu()
        return self._ort(ask, f"cuda:{self.compute.gpu_index}")

    def _ort_provider(self, ask: _Ask) -> _Opened:
        assert self.compute.provider is not None
        card, backend = self._ort(ask, self.compute.provider)
        if self.compute.require_gpu and not backend.on_gpu:
            backend.close()
            raise BackendUnavailable(f"--require-gpu: {backend.provider} is no GPU")
        return card, backend

    def _ort_on_cpu(self, ask: _Ask) -> _Opened:
        return self._ort(ask, "cpu")

    def _ort(self, ask: _Ask, provider: str) -> _Opened:
        precision = self.compute.precision
        if precision == "fp16":
            raise BackendUnavailable(
                "onnxruntime runs models as they are, and none here is fp16; give --precision fp32 "
                "or int8, or --runtime torch or tensorrt"
            )
        path = ask.path
        if precision == AUTO and not ask.named:
            # int8 is for CPUs: elsewhere its conversions cost more than they save.
            precision = "int8" if provider.startswith(("cpu", "openvino")) else "fp32"
        if precision != AUTO:
            path = ask.sibling(precision)
        return load(path), open_backend(path, threads=ask.threads, provider=provider)

    def _gpu(self) -> Gpu:
        index, gpus = self.compute.gpu_index, self.machine.gpus
        if not gpus:
            raise BackendUnavailable("no NVIDIA GPU or driver was found")
        if index >= len(gpus):
            count = "1 GPU" if len(gpus) == 1 else f"{len(gpus)} GPUs"
            raise BackendUnavailable(f"there is no cuda:{index}: this machine has {count}, from 0")
        return gpus[index]

    def _float_card(self, ask: _Ask) -> tuple[Path, ModelCard, Precision]:
        """Return the float32 card that engines and torch begin with, and the wanted precision."""
        precision = self.compute.precision
        if precision == "auto":
            precision = "int8" if ask.named and ask.card.precision == "int8" else "fp16"
        path = ask.sibling("fp32")
        return path, load(path), precision


@dataclass(frozen=True, slots=True)
class _Ask:
    """A model that somebody wants to run."""

    path: Path
    card: ModelCard
    named: bool
    threads: int

    def sibling(self, precision: str) -> Path:
        """Return the path of the same model's card in fp32 or int8. Raises ModelError."""
        if self.card.precision == precision:
            return self.path
        stem = self.path.stem.removesuffix(_SMALL) + (_SMALL if precision == "int8" else "")
        path = self.path.with_name(f"{stem}.json")
        if path == self.path or not path.is_file():
            raise ModelError(
                f"{self.path} is {self.card.precision}, and there is no {precision} model beside "
                f"it as {path.name}; tools/quantize.py makes int8 of a float32 model"
            )
        return path


def open_engine(card: ModelCard, found: EngineRecord, store: EngineStore, gpu: Gpu) -> Backend:
    """Open a kept engine. Raises ModelError, BackendUnavailable."""
    from streamface.backends import tensorrt

    key = found.key
    plan = store.read(found)
    return tensorrt.open_engine(plan, card, key.flavour, key.precision, device=gpu.index)


def open_torch(path: Path, *, device: str, precision: str, threads: int) -> Backend:
    """Open a float32 card's model with torch. Raises ModelError, BackendUnavailable."""
    from streamface.backends.torch_backend import TorchBackend

    return TorchBackend(path, device=device, precision=precision, threads=threads)


def flavour_version(name: Flavour) -> str:
    """Return the version of an installed flavour of TensorRT. Raises BackendUnavailable."""
    from streamface.engines import flavour

    return flavour.version(name)


Builder: TypeAlias = "Callable[[Path, EngineKey, Gpu], EngineRecord]"
"""Builds the engine of a card for a key on a GPU, keeps it, and returns what is known of it."""
Checker: TypeAlias = "Callable[[Path, EngineRecord, Gpu], EngineRecord]"
"""Returns what is known of a kept engine once its answers were compared; raises ModelError."""
_Opened: TypeAlias = "tuple[ModelCard, Backend]"
_Way: TypeAlias = "Callable[[_Ask], _Opened]"
