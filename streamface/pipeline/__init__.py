"""Threads and order: bounded channels, stages and the pipeline that joins them.

Nothing in this package knows of faces, video or models.
"""

from streamface.pipeline.channel import Cancelled, Channel
from streamface.pipeline.head import Head, Lane, Lanes
from streamface.pipeline.pipeline import Pipeline, Stage
from streamface.pipeline.stats import LatencyHistogram, PipelineStats, RecentAges, StageStats

__all__ = [
    "Cancelled",
    "Channel",
    "Head",
    "Lane",
    "Lanes",
    "LatencyHistogram",
    "Pipeline",
    "PipelineStats",
    "RecentAges",
    "Stage",
    "StageStats",
]
