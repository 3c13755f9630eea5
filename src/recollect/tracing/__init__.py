"""From a network's run to a trace: which modules put out which objects, with what attributes."""

from __future__ import annotations

from recollect.tracing.columns import Column, Edges, Objects, Trace
from recollect.tracing.coverage import Coverage
from recollect.tracing.detections import Detection, torchvision_detections, unit_box
from recollect.tracing.hooks import Capture, capture, trace
from recollect.tracing.objects import Object

__all__ = [
    "Capture",
    "Column",
    "Coverage",
    "Detection",
    "Edges",
    "Object",
    "Objects",
    "Trace",
    "capture",
    "torchvision_detections",
    "trace",
    "unit_box",
]
