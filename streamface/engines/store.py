"""Where built engines lie: their names, what they were built for, and which of them fits.

An engine is a file of machine code for one GPU, one TensorRT and one model. Beside it lies a JSON
of the same name that says which; the engine is used only if all of that is so here, and is known
by its hash. A folder with engines must be one that only its owner can write to: what lies in it
is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from streamface.atomic import AtomicPath
from streamface.errors import ModelError, SinkError
from streamface.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from streamface.card import ModelCard
    from streamface.compute import Flavour, Precision
    from streamface.engines.gpu import Gpu

GRAPH_VERSION: Final = 1
"""Of what ``engines.graph`` makes of a model; engines of another version are stale."""
FOLDER_VARIABLE: Final = "STREAMFACE_ENGINES"
ANY_GPU: Final = "any"
_LOCK_S: Final = 1800.0  # a build on a large model takes minutes; nobody waits longer for another's
_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """All that an engine is bound to. Two engines of one key do the same."""

    model: str
    onnx_sha256: str
    graph: int = GRAPH_VERSION
    flavour: Flavour
    version: str
    """TensorRT's."""
    precision: Precision
    max_batch: int
    opt_batch: int
    gpu: str = ANY_GPU
    """The card's name; ANY_GPU: built without one, for all that its flavour supports."""
    compute_capability: str = ANY_GPU
    driver: str = ANY_GPU

    @property
    def stem(self) -> str:
        """The file name without its ending."""
        parts = (self.model, self.gpu, f"{self.flavour}-{self.version}", self.precision)
        return ".".join(re.sub(r"[^a-z0-9.]+", "-", part.lower()).strip("-") for part in parts)

    def misfits(self, here: EngineKey) -> list[str]:
        """Return what keeps an engine of this key from doing as one of ``here``, for people.

        Only what ``here`` says of the machine and the model counts: batch sizes are the engine's.
        """
        bound = ["onnx_sha256", "graph", "flavour", "version", "precision"]
        if self.gpu != ANY_GPU:
            bound += ["gpu", "compute_capability", "driver"]
        return [
            f"{_SPOKEN[name]} {_short(getattr(self, name))}, not {_short(getattr(here, name))}"
            for name in bound
            if getattr(self, name) != getattr(here, name)
        ]


_SPOKEN: Final = {
    "onnx_sha256": "made of the ONNX",
    "graph": "made by graph version",
    "flavour": "made for",
    "version": "made by TensorRT",
    "precision": "of precision",
    "gpu": "made for",
    "compute_capability": "made for compute capability",
    "driver": "made under driver",
}


def _short(value: object) -> str:
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text


def key_for(
    card: ModelCard,
    *,
    flavour: Flavour,
    version: str,
    precision: Precision,
    gpu: Gpu | None,
    batches: tuple[int, int] = (1, 1),
) -> EngineKey:
    """Return the key of a card's engine on this machine; batches: (opt, max)."""
    key = EngineKey(
        model=card.name,
        onnx_sha256=card.sha256,
        flavour=flavour,
        version=version,
        precision=precision,
        opt_batch=batches[0],
        max_batch=batches[1],
    )
    if gpu is None:
        return key
    capability = ".".join(map(str, gpu.compute_capability))
    bound = {"gpu": gpu.name, "compute_capability": capability, "driver": gpu.driver}
    return EngineKey(**(asdict(key) | bound))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRecord:
    """What the JSON beside an engine says."""

    key: EngineKey
    sha256: str
    """Of the engine."""
    size_bytes: int
    build_s: float
    check: Mapping[str, object] | None = None
    """How its outputs compare with ONNX Runtime's; None: it awaits a GPU to be run on."""
    calibration: str | None = None
    """What int8 took its ranges from."""
    path: Path = field(default=Path(), compare=False)
    """Of the engine."""


def default_folder() -> Path:
    """Return $STREAMFACE_ENGINES, else ``engines/`` of a source checkout, else the user's cache."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").is_file():
        return root / "engines"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "streamface" / "engines"


class EngineStore:
    """The engines of one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default_folder() if folder is None else folder

    def records(self) -> tuple[EngineRecord, ...]:
        """Return what is known of every engine, by name; files of others are passed over."""
        found = (self._record(path) for path in sorted(self.folder.glob("*.json")))
        return tuple(record for record in found if record is not None)

    def find(self, here: EngineKey) -> EngineRecord | str:
        """Return the engine that does as ``here`` says, or why there is none, for people.

        One built on this very card is preferred to one for any card.
        """
        near: list[tuple[int, str]] = []
        fitting = []
        for record in self.records():
            if record.key.model != here.model:
                continue
            misfits = record.key.misfits(here)
            if not misfits:
                fitting.append(record)
            near.append((len(misfits), f"{record.path.name} is {'; '.join(misfits)}"))
        if fitting:
            return min(fitting, key=lambda record: record.key.gpu == ANY_GPU)
        if near:
            return min(near)[1]
        return f"no engine for {here.model} in {self.folder}"

    def read(self, record: EngineRecord) -> bytes:
        """Return an engine's bytes. Raises ModelError if they are not those of its JSON."""
        content = _content(record.path)
        if hashlib.sha256(content).hexdigest() == record.sha256:
            return content
        # Somebody may be replacing both files just now.
        with self.lock(record.key):
            again = self._record(record.path.with_suffix(".json"))
            content = _content(record.path)
        found = hashlib.sha256(content).hexdigest()
        if again is None or found != again.sha256:
            raise ModelError(
                f"{record.path} is damaged (SHA-256 {found}); {rebuild_line(record.key)}"
            )
        return content

    def save(self, record: EngineRecord, plan: bytes) -> EngineRecord:
        """Write an engine and its JSON, whole or not at all; return the record with its path.

        Hold ``lock`` meanwhile. An engine of the same name is replaced. Raises SinkError.
        """
        path = self.folder / f"{record.key.stem}.engine"
        data = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "path"}
        data["key"] = asdict(record.key)
        text = json.dumps(data, indent=1) + "\n"
        _write(path, plan)
        # Last: without it nobody takes the engine for one.
        _write(path.with_suffix(".json"), text.encode())
        return EngineRecord(**(data | {"key": record.key, "path": path}))

    @contextmanager
    def lock(self, key: EngineKey) -> Iterator[None]:
        """Let nobody else build or replace the engine of this key meanwhile. Raises SinkError."""
        path = self.folder / f".{key.stem}.lock"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise SinkError(f"cannot write to {self.folder}: {exc.strerror or exc}") from exc
        lock = FileLock(path)
        until_s = time.monotonic() + _LOCK_S
        while not lock.take():
            if time.monotonic() >= until_s:
                raise SinkError(f"{path} has been held for {_LOCK_S:.0f} s; is a build stuck?")
            time.sleep(_LOOK_EVERY_S)
        try:
            yield
        finally:
            lock.free()

    def _record(self, path: Path) -> EngineRecord | None:
        """Return what a JSON says, or None where it is not about an engine of ours."""
        try:
            data = cast("dict[str, Any]", json.loads(path.read_text("utf-8")))
            key = EngineKey(**data.pop("key"))
            return EngineRecord(key=key, path=path.with_suffix(".engine"), **data)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def rebuild_line(key: EngineKey) -> str:
    """Return the command that builds an engine again, for people."""
    flavour = key.flavour.replace("_", "-")
    return (
        f"`streamface models build {key.model} --flavour {flavour} --precision {key.precision} "
        f"--max-batch {key.max_batch}` builds it"
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ModelError(f"cannot read the engine {path}: {exc.strerror or exc}") from exc


def _write(path: Path, content: bytes) -> None:
    target = AtomicPath(path, overwrite=True)
    try:
        target.temporary.write_bytes(content)
    except OSError as exc:
        target.discard()
        raise SinkError(f"cannot write {path}: {exc.strerror or exc}") from exc
    except BaseException:
        target.discard()
        raise
    target.publish()
