"""From a network's run to a trace: which modules put out which objects, with what attributes."""

from __future__ import annotations

from recollect.tracing.columns import Column, Edges, Objects, Trace
from recollect.tracing.objects import Object

__all__ = ["Column", "Edges", "Object", "Objects", "Trace"]
