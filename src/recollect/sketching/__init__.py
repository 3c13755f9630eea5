"""From a trace to sketches and back: recipe, operators, encoding, decoding with a prior.

Names that need torch are loaded when they are first used (PEP 562), so that recipes, module
tables and skeletons can be read without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recollect.sketching.recipe import ModuleEntry, ModuleTable, Recipe
from recollect.sketching.skeletons import Skeletons, Structure

if TYPE_CHECKING:
    from recollect.sketching.decode import Recollection
    from recollect.sketching.prior import Prior
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.sketching.structure import find_structure

_LAZY = {
    "Prior": "recollect.sketching.prior",
    "Recollection": "recollect.sketching.decode",
    "Sketcher": "recollect.sketching.sketcher",
    "Sketches": "recollect.sketching.sketches",
    "find_structure": "recollect.sketching.structure",
}

__all__ = [
    "ModuleEntry",
    "ModuleTable",
    "Prior",
    "Recipe",
    "Recollection",
    "Skeletons",
    "Sketcher",
    "Sketches",
    "Structure",
    "find_structure",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
