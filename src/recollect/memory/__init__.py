"""The memory on disk: glances, skeletons, roll-ups, a reservoir of records, priors, statistics.

Opening a memory and reading its roll-ups needs NumPy only; Lance is loaded for single glances,
torch for sketches.
"""

from __future__ import annotations

from recollect.memory.fading import Faded
from recollect.memory.followed import Streams
from recollect.memory.following import Follow, Following
from recollect.memory.memory import Added, Memory
from recollect.memory.report import Report
from recollect.memory.retention import Retention
from recollect.memory.rollups import RollUps
from recollect.memory.structures import SkeletonCounts

__all__ = [
    "Added",
    "Faded",
    "Follow",
    "Following",
    "Memory",
    "Report",
    "Retention",
    "RollUps",
    "SkeletonCounts",
    "Streams",
]
