"""What a pipeline measures about itself: busy time, queue fill, latency percentiles."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class LatencyHistogram:
    """Latencies of a whole run in constant memory: logarithmic buckets, each 2 % wide.

    Percentiles are exact to the width of a bucket from 0.01 ms to about 30 minutes. Any thread may
    add.
    """

    _GROWTH = 1.02
    _SMALLEST_S = 1e-5
    _BUCKETS = 960

    def __init__(self) -> None:
        self._counts = [0] * self._BUCKETS
        self._total = 0
        self._lock = threading.Lock()

    def add(self, latency_s: float) -> None:
        """Count one latency in seconds; values out of range go to the outermost bucket."""
        ratio = max(latency_s, self._SMALLEST_S) / self._SMALLEST_S
        bucket = int(math.log(ratio) / math.log(self._GROWTH))
        with self._lock:
            self._counts[min(bucket, self._BUCKETS - 1)] += 1
            self._total += 1

    def percentile_s(self, percent: float) -> float:
        """Return the latency in seconds that ``percent`` % of the frames did not exceed.

        0.0 while nothing was counted. percent: 0..100.
        """
        with self._lock:
            counts, total = self._counts.copy(), self._total
        if total == 0:
            return 0.0
        rank = max(1, math.ceil(total * percent / 100))
        seen = 0
        for bucket, count in enumerate(counts):
            seen += count
            if seen >= rank:
                return float(self._SMALLEST_S * self._GROWTH ** (bucket + 0.5))
        raise AssertionError("counts and total disagree")

    def __len__(self) -> int:
        return self._total


class RecentAges:
    """Ages of the frames of the last moments, for percentiles that tell of now, not of the start.

    Knows no clock: time is an argument. Any thread may add or ask. Holds at most ``_MOST`` ages.
    """

    _MOST = 2048

    def __init__(self, window_s: float = 10.0) -> None:
        self._window_s = window_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=self._MOST)
        self._lock = threading.Lock()

    def add(self, now_s: float, age_s: float) -> None:
        """Note the age of a frame that is done at ``now_s``."""
        with self._lock:
            self._seen.append((now_s, age_s))

    def percentiles_s(self, now_s: float, percents: Sequence[float]) -> list[float] | None:
        """Return the ages that so many % of the window's frames did not exceed; None without any.

        percents: 0..100 each.
        """
        with self._lock:
            while self._seen and self._seen[0][0] < now_s - self._window_s:
                self._seen.popleft()
            ages = sorted(age_s for _, age_s in self._seen)
        if not ages:
            return None
        return [ages[max(1, math.ceil(len(ages) * percent / 100)) - 1] for percent in percents]


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
    """All stages of a run, in order, the latency of finished frames, and drops by reason.

    Where several sources are read at once, the first stage is the mean of those that read.
    """

    stages: list[StageStats]
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    ages: RecentAges = field(default_factory=RecentAges)
    """The same of the last seconds."""
    drops: Counter[str] = field(default_factory=Counter)
    lane_drops: dict[int, Counter[str]] = field(default_factory=dict)
    """The same by source."""
    started_s: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count_drop(self, reason: str, frames: int = 1, *, lane: int = 0) -> None:
        """Add ``frames`` of one source to the drops under ``reason``."""
        with self._lock:
            self.drops[reason] += frames
            self.lane_drops.setdefault(lane, Counter())[reason] += frames

    def drops_of(self, lane: int) -> dict[str, int]:
        """Return a copy of what one source lost, by reason."""
        with self._lock:
            return dict(self.lane_drops.get(lane, {}))

    @property
    def elapsed_s(self) -> float:
        """Seconds since the pipeline was made."""
        return time.monotonic() - self.started_s
