"""The run's figures as Prometheus reads them (text exposition format 0.0.4)."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from streamface.pipeline import LatencyHistogram
    from streamface.serve.hub import LiveHub

QUANTILES: Final = (50, 95, 99)
_STATM: Final = Path("/proc/self/statm")


class Exposition:
    """Lines of one answer, family by family."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def family(
        self,
        name: str,
        kind: str,
        what: str,
        samples: Iterable[tuple[Mapping[str, object], float]],
    ) -> None:
        """Add a metric; samples: labels and value."""
        self.lines += [f"# HELP {name} {what}", f"# TYPE {name} {kind}"]
        self.lines += [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]

    def one(self, name: str, kind: str, what: str, value: float) -> None:
        """Add a metric of one value."""
        self.family(name, kind, what, [({}, value)])

    def quantiles(self, name: str, what: str, histogram: LatencyHistogram) -> None:
        """Add a summary of durations in seconds."""
        samples = [({"quantile": q / 100}, histogram.percentile_s(q)) for q in QUANTILES]
        self.family(name, "summary", what, samples)
        self.lines.append(f"{name}_count {len(histogram)}")


def exposition(hub: LiveHub, *, viewers: int, shown: LatencyHistogram) -> str:
    """Return the whole answer. viewers: pages and streams open; shown: ages when a page drew."""
    text = Exposition()
    streams = hub.streams()
    text.one("streamface_frames_total", "counter", "Frames finished.", hub.count)
    for name, what, of in (
        ("fps", "Frames per second over the last seconds.", "fps"),
        ("faces", "Faces in the newest frame.", "faces"),
        ("silent_seconds", "Time since the newest frame.", "silent_s"),
    ):
        samples = [
            ({"stream": key, "source": state.source}, getattr(state, of))
            for key, state in streams.items()
        ]
        text.family(f"streamface_{name}", "gauge", what, samples)
    if hub.stats is not None:
        stats = hub.stats()
        drops = [({"reason": reason}, count) for reason, count in dict(stats.drops).items()]
        text.family("streamface_dropped_frames_total", "counter", "Frames dropped.", drops)
        text.quantiles("streamface_frame_age_seconds", "From capture to written.", stats.latency)
        busy = [({"stage": stage.name}, stage.busy_s) for stage in stats.stages]
        text.family("streamface_busy_seconds_total", "counter", "Time a stage worked.", busy)
    text.one("streamface_viewers", "gauge", "Pages and streams open.", viewers)
    text.quantiles("streamface_shown_age_seconds", "From capture to drawn by a page.", shown)
    _process(text)
    return "\n".join(text.lines) + "\n"


def _process(text: Exposition) -> None:
    cpu_s = time.process_time()
    text.one("process_cpu_seconds_total", "counter", "CPU time of the process.", cpu_s)
    memory = resident_bytes()
    if memory is not None:
        text.one("process_resident_memory_bytes", "gauge", "Memory of the process.", memory)


def resident_bytes() -> int | None:
    """Return the memory this process occupies, or None where the system does not say (no /proc)."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _labels(labels: Mapping[str, object]) -> str:
    if not labels:
        return ""
    pairs = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{pairs}}}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return f"{value:.9g}" if isinstance(value, float) else str(value)
