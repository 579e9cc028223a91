"""ONNX Runtime, imported in the one place that sees to it that it stays quiet.

From 1.29 on its Linux wheels send usage events to Microsoft and keep a device id under
``~/.cache/Microsoft`` unless they are told not to (microsoft/onnxruntime#27379). Nothing that
streamface does may leave the machine, so everybody here imports ``ort`` from this module. Whoever
sets ORT_DISABLE_TELEMETRY beforehand is left their choice.
"""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

if os.environ["ORT_DISABLE_TELEMETRY"] == "1":
    ort.disable_telemetry_events()

# What a provider complains of while it starts; whether it did is asked, and told in one line.
ort.set_default_logger_severity(3)

__all__ = ["ort"]
