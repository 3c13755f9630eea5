"""From a trace to sketches and back: recipe, operators, encoding, decoding with a prior.

Names that need torch are loaded when they are first used (PEP 562), so that recipes, module
tables and skeletons can be read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recollect._late import late_names
from recollect.sketching.channel import Channel
from recollect.sketching.recipe import ModuleEntry, ModuleTable, Recipe, channel_recipe
from recollect.sketching.skeletons import Skeletons, Structure

if TYPE_CHECKING:
    from recollect.sketching.averages import Averages
    from recollect.sketching.cosines import Cosines
    from recollect.sketching.decode import Recollection
    from recollect.sketching.features import features_of
    from recollect.sketching.informed import InformedSketcher, first_tier
    from recollect.sketching.informed_reading import InformedRecollection
    from recollect.sketching.linear import LinearSketch, SketchedRegression
    from recollect.sketching.prior import Prior
    from recollect.sketching.projection import ModuleReading, Projection
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.sketching.structure import find_structure
    from recollect.sketching.subsketches import signatures, sub_sketches

_LAZY = {
    "Averages": "recollect.sketching.averages",
    "Cosines": "recollect.sketching.cosines",
    "InformedRecollection": "recollect.sketching.informed_reading",
    "InformedSketcher": "recollect.sketching.informed",
    "LinearSketch": "recollect.sketching.linear",
    "ModuleReading": "recollect.sketching.projection",
    "Prior": "recollect.sketching.prior",
    "Projection": "recollect.sketching.projection",
    "Recollection": "recollect.sketching.decode",
    "SketchedRegression": "recollect.sketching.linear",
    "Sketcher": "recollect.sketching.sketcher",
    "Sketches": "recollect.sketching.sketches",
    "features_of": "recollect.sketching.features",
    "find_structure": "recollect.sketching.structure",
    "first_tier": "recollect.sketching.informed",
    "signatures": "recollect.sketching.subsketches",
    "sub_sketches": "recollect.sketching.subsketches",
}

__all__ = [
    "Averages",
    "Channel",
    "Cosines",
    "InformedRecollection",
    "InformedSketcher",
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
    "channel_recipe",
    "features_of",
    "find_structure",
    "first_tier",
    "signatures",
    "sub_sketches",
]

__getattr__, __dir__ = late_names(__name__, _LAZY, __all__)
