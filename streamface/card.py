"""Model cards: the JSON beside an ONNX file that says what the model is and how to feed it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

import numpy as np

from streamface.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamface.frame import PointsF32

Colour: TypeAlias = Literal["grey", "rgb"]
CHANNELS: Final[dict[Colour, int]] = {"grey": 1, "rgb": 3}
_MAX_SIZE_PX: Final = 1024
_SHA256_DIGITS: Final = 64


@dataclass(frozen=True, slots=True, eq=False)
class InputSpec:
    """What a classifier wants to see: an aligned, normalised crop of one face."""

    size_px: tuple[int, int]
    """(width, height) of the crop."""
    colour: Colour
    landmarks_px: PointsF32
    """(5, 2) float32: where the points of frame.LANDMARKS fall in the crop."""
    mean: tuple[float, ...]
    """One a channel, on the 0..255 scale; the net sees (value - mean) / std."""
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.colour not in CHANNELS:
            raise ValueError(f"colour must be one of {', '.join(CHANNELS)}, not {self.colour!r}")
        if len(self.size_px) != 2 or not all(1 <= n <= _MAX_SIZE_PX for n in self.size_px):
            raise ValueError(f"size_px must be two numbers in 1..{_MAX_SIZE_PX}: {self.size_px}")
        if self.landmarks_px.shape != (5, 2) or self.landmarks_px.dtype != np.float32:
            raise ValueError(f"landmarks_px must be (5, 2) float32, not {self.landmarks_px.shape}")
        if not np.isfinite(self.landmarks_px).all() or not np.ptp(self.landmarks_px):
            raise ValueError("landmarks_px must be finite and not all the same")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must hold {self.channels} finite numbers, not {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")

    @property
    def channels(self) -> int:
        """Planes of the crop: 1 for grey, 3 for rgb."""
        return CHANNELS[self.colour]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one crop."""
        return self.channels, self.size_px[1], self.size_px[0]


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """What a model is; nothing about a model is written down anywhere else."""

    name: str
    kind: str
    onnx: str
    """File name of the ONNX, beside the card."""
    sha256: str
    input: InputSpec
    outputs: tuple[str, ...]
    """Names of the ONNX outputs; the first one holds the logits."""
    labels: tuple[str, ...]
    """Classes in the order of the logits."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax; fitted on validation."""
    uncertain_below: float = 0.0
    """Top probability below which a label is not worth showing; chosen on validation."""
    preprocess_probe: tuple[float, ...] = ()
    """preprocess.probe(input) when the model was made; a model refuses to open if it moved."""
    conditions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Further ONNX inputs of float32, in order: name to shape of one row, such as (7,)."""
    trained: Mapping[str, object] = field(default_factory=dict)
    """Data, licences, seed, commit, metrics, intended use and limits, for people to read."""

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels must be distinct and at least one, not {self.labels}")
        if not self.outputs:
            raise ValueError("outputs must name at least one ONNX output")
        if Path(self.onnx).name != self.onnx or not self.onnx:
            raise ValueError(f"onnx must be a bare file name, not {self.onnx!r}")
        if len(self.sha256) != _SHA256_DIGITS or set(self.sha256) - set("0123456789abcdef"):
            raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        for name, shape in self.conditions.items():
            if not name or not shape or not all(1 <= n <= _MAX_SIZE_PX for n in shape):
                raise ValueError(f"conditions must have names and shapes, not {name!r}: {shape}")
        if not 0 <= self.uncertain_below <= 1:
            raise ValueError(f"uncertain_below must be in 0..1, not {self.uncertain_below}")

    @property
    def precision(self) -> str:
        """What the ONNX computes with: fp32, fp16 or int8."""
        return str(self.trained.get("precision", "fp32"))


def load(path: Path) -> ModelCard:
    """Read and validate a card; raises ModelError naming the file and the field at fault."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as exc:
        raise ModelError(f"{path}: no such model card") from exc
    except (OSError, ValueError) as exc:
        raise ModelError(f"{path}: cannot read the model card: {exc}") from exc
    try:
        return _card(_Fields(data))
    except (ValueError, TypeError) as exc:
        raise ModelError(f"{path}: {exc}") from exc


def save(card: ModelCard, path: Path) -> None:
    """Write a card as JSON that ``load`` reads back."""
    data = {f.name: getattr(card, f.name) for f in dataclasses.fields(card)}
    data["input"] = {f.name: getattr(card.input, f.name) for f in dataclasses.fields(card.input)}
    data["input"]["landmarks_px"] = [
        [float(str(v)) for v in row] for row in card.input.landmarks_px
    ]
    data["trained"] = dict(card.trained)
    data["conditions"] = dict(card.conditions)
    if not card.conditions:
        del data["conditions"]
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_onnx(card: ModelCard, card_path: Path) -> bytes:
    """Return the ONNX beside the card; raises ModelError if it is missing or not the card's own."""
    path = card_path.parent / card.onnx
    try:
        content = path.read_bytes()
    except OSError as exc:
        reason = exc.strerror or exc
        raise ModelError(f"{path}: cannot read the model that {card_path} names: {reason}") from exc
    found = hashlib.sha256(content).hexdigest()
    if found != card.sha256:
        raise ModelError(
            f"{path} has SHA-256 {found}, but {card_path} expects {card.sha256}; "
            "reinstall streamface, or train and export the model again"
        )
    return content


class _Fields:
    """Checked access to a JSON object, with messages that name the field."""

    def __init__(self, data: object, where: str = "") -> None:
        if not isinstance(data, dict):
            raise TypeError(f"{where or 'a model card'} must be a JSON object")
        self._data = cast("dict[str, object]", data)
        self._where = f"{where}." if where else ""

    def get(self, name: str) -> object:
        if name not in self._data:
            raise ValueError(f"field '{self._where}{name}' is missing")
        return self._data[name]

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value:
            raise TypeError(f"field '{self._where}{name}' must be a non-empty string")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self.get(name)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise TypeError(f"field '{self._where}{name}' must be a list of strings")
        return tuple(value)

    def number(self, name: str) -> float:
        return self._number(self.get(name), name)

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self.get(name)
        if not isinstance(value, list):
            raise TypeError(f"field '{self._where}{name}' must be a list of numbers")
        return tuple(self._number(v, name) for v in value)

    def points(self, name: str) -> PointsF32:
        try:
            return np.array(self.get(name), np.float32)
        except (ValueError, TypeError) as exc:
            raise TypeError(f"field '{self._where}{name}' must be a list of (x, y)") from exc

    def inner(self, name: str) -> _Fields:
        return _Fields(self.get(name), f"{self._where}{name}")

    def shapes(self, name: str) -> Mapping[str, tuple[int, ...]]:
        """Return a field of shapes by name; empty where there is none."""
        if name not in self._data:
            return MappingProxyType({})
        inner = self.inner(name)
        shapes = {each: tuple(map(int, inner.numbers(each))) for each in inner._data}  # noqa: SLF001 - our own class
        return MappingProxyType(shapes)

    def mapping(self, name: str) -> Mapping[str, object]:
        return MappingProxyType(self.inner(name)._data)  # noqa: SLF001 - our own class

    def _number(self, value: object, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"field '{self._where}{name}' must hold numbers, not {value!r}")
        return float(value)


def _card(fields: _Fields) -> ModelCard:
    spec = fields.inner("input")
    size = spec.numbers("size_px")
    if len(size) != 2 or any(n != int(n) for n in size):
        raise ValueError(f"field 'input.size_px' must hold two whole numbers, not {size}")
    return ModelCard(
        name=fields.text("name"),
        kind=fields.text("kind"),
        onnx=fields.text("onnx"),
        sha256=fields.text("sha256"),
        input=InputSpec(
            size_px=(int(size[0]), int(size[1])),
            colour=cast("Colour", spec.text("colour")),
            landmarks_px=spec.points("landmarks_px"),
            mean=spec.numbers("mean"),
            std=spec.numbers("std"),
        ),
        outputs=fields.texts("outputs"),
        labels=fields.texts("labels"),
        temperature=fields.number("temperature"),
        uncertain_below=fields.number("uncertain_below"),
        preprocess_probe=fields.numbers("preprocess_probe"),
        conditions=fields.shapes("conditions"),
        trained=fields.mapping("trained"),
    )
