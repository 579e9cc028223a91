"""What a pipeline measures about itself: busy time, queue fill, latency percentiles."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


class LatencyHistogram:
    """Latencies of a whole run in constant memory: logarithmic buckets, each 2 % wide.

    Percentiles are exact to the width of a bucket from 0.01 ms to about 30 minutes.
    """

    _GROWTH = 1.02
    _SMALLEST_S = 1e-5
    _BUCKETS = 960

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self._total = 0

    def add(self, latency_s: float) -> None:
        """Count one latency in seconds; values out of range go to the outermost bucket."""
        ratio = max(latency_s, self._SMALLEST_S) / self._SMALLEST_S
        bucket = int(math.log(ratio) / math.log(self._GROWTH))
        self._counts[min(bucket, self._BUCKETS - 1)] += 1
        self._total += 1

    def percentile_s(self, percent: float) -> float:
        """Return the latency in seconds that ``percent`` % of the frames did not exceed.

        0.0 while nothing was counted. percent: 0..100.
        """
        if self._total == 0:
            return 0.0
        rank = max(1, math.ceil(self._total * percent / 100))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return float(self._SMALLEST_S * self._GROWTH ** (bucket + 0.5))
        raise AssertionError("counts and total disagree")

    def __len__(self) -> int:
        return self._total


@dataclass(slots=True)
class StageStats:
    """One stage: written by its own thread, read by anybody."""

    name: str
    busy_s: float = 0.0
    """Wall time spent working, waiting for neighbours left out."""
    cpu_s: float = 0.0
    """CPU time of the stage's own thread (worker threads of FFmpeg are not in it)."""
    frames: int = 0
    queue_len: int = 0
    queue_capacity: int = 0

    def timed(self) -> _Timer:
        """Return a context manager that adds the time inside it."""
        return _Timer(self)


class _Timer:
    __slots__ = ("_cpu", "_stats", "_wall")

    def __init__(self, stats: StageStats) -> None:
        self._stats = stats

    def __enter__(self) -> None:
        self._wall = time.perf_counter()
        self._cpu = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._stats.busy_s += time.perf_counter() - self._wall
        self._stats.cpu_s += time.thread_time() - self._cpu


@dataclass(slots=True)
class PipelineStats:
    """All stages of a run, in order, the latency of finished frames, and drops by reason."""

    stages: list[StageStats]
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    drops: Counter[str] = field(default_factory=Counter)
    started_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_drop(self, reason: str, frames: int = 1) -> None:
        """Add ``frames`` to the drops under ``reason``."""
        with self._lock:
            self.drops[reason] += frames

    @property
    def elapsed_s(self) -> float:
        """Seconds since the pipeline was made."""
        return time.monotonic() - self.started_s
