"""Threads and order: bounded channels, stages and the pipeline that joins them.

Nothing in this package knows of faces, video or models.
"""

from streamface.pipeline.channel import Cancelled, Channel
from streamface.pipeline.pipeline import Pipeline, Stage
from streamface.pipeline.stats import LatencyHistogram, PipelineStats, StageStats

__all__ = [
    "Cancelled",
    "Channel",
    "LatencyHistogram",
    "Pipeline",
    "PipelineStats",
    "Stage",
    "StageStats",
]
