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
    from recollect.sketching.linear import LinearSketch, SketchedRegression
    from recollect.sketching.prior import Prior
    from recollect.sketching.projection import ModuleReading, Projection
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches

_LAZY = {
    "LinearSketch": "recollect.sketching.linear",
    "ModuleReading": "recollect.sketching.projection",
    "Prior": "recollect.sketching.prior",
    "Projection": "recollect.sketching.projection",
    "Recollection": "recollect.sketching.decode",
    "SketchedRegression": "recollect.sketching.linear",
    "Sketcher": "recollect.sketching.sketcher",
    "Sketches": "recollect.sketching.sketches",
}

__all__ = [
    "LinearSketch",
    "ModuleEntry",
    "ModuleReading",
    "ModuleTable",
    "Prior",
    "Projection",
    "Recipe",
    "Recollection",
    "Skeletons",
    "SketchedRegression",
    "Sketcher",
    "Sketches",
    "Structure",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
