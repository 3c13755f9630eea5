"""Making a memory's folder, and checking that a folder is a memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recollect import sketching
from recollect._checks import CorruptMemory
from recollect.memory.layout import Folder
from recollect.memory.migrations import AS_IT_IS, FORMAT, check_format, migrate
from recollect.sketching.recipe import Recipe

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["create_meta", "has_scales", "read_meta", "recipe_and_scales"]


def read_meta(folder: Folder, read_only: bool) -> dict[str, Any] | None:
    """Read meta.json; None if there is no memory yet and one may be made.

    Raises:
        CorruptMemory: if something else is there, or it is of a newer format.
    """
    path = folder.path
    if path.exists() and not path.is_dir():
        raise CorruptMemory(f"{path} is a file; a memory is a folder")
    if not (folder / "meta.json").exists():
        found = [p.name for p in path.iterdir()] if path.exists() else []
        found = [n for n in found if n != "meta.json.part"]
        if found:
            raise CorruptMemory(
                f"{path} is not a memory: it holds {', '.join(sorted(found)[:4])} but no "
                "meta.json; name a new or empty folder, or the folder of a memory"
            )
        if read_only:
            raise CorruptMemory(f"there is no memory at {path}, and read_only=True makes none")
        return None
    meta: Any = folder.read_json("meta.json")
    if not isinstance(meta, dict) or meta.get("kind") != "recollect memory":
        raise CorruptMemory(f"{path} is not a memory: its meta.json is another program's")
    if not set(range(check_format(path, meta), FORMAT)) <= AS_IT_IS:
        if read_only:
            raise CorruptMemory(f"{path} is of an older format; open it once to write, to migrate")
        meta = migrate(path, meta)
        folder.write_json("meta.json", meta)
    return dict(meta)


def create_meta(
    folder: Folder, made_with: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the folder and write its meta.json; return what it says.

    Args:
        folder: of the memory.
        made_with: recipe and given scales, as plain values.
        options: timezone, reservoir, keep_skeletons, retention; None for the default.
    """
    defaults = {
        "timezone": "UTC", "reservoir": 512, "keep_skeletons": True, "retention": None,
        "epochs": [],
    }  # fmt: skip
    chosen = {k: v for k, v in options.items() if v is not None}
    meta = {"kind": "recollect memory", "format": FORMAT, **made_with, **defaults, **chosen}
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("meta.json", meta)
    return dict(json.loads(json.dumps(meta)))


def has_scales(sketcher: Sketcher) -> bool:
    """Whether a sketcher divides attributes by anything but one."""
    return bool(sketcher.scales) or any(entry.scale != 1.0 for entry in sketcher.modules)


def recipe_and_scales(sketcher: Sketcher | None) -> dict[str, Any]:
    """Return what a new memory takes over from a sketcher, as plain values.

    Raises:
        TypeError: if it is no plain ``Sketcher``.
    """
    if sketcher is None:
        return {"recipe": Recipe().to_dict(), "scales": {}}
    if not isinstance(sketcher, sketching.Sketcher):
        raise TypeError(
            f"a memory begins with a Sketcher, got {type(sketcher).__name__}; for an informed one "
            "add glances, memory.fit_prior(), and then memory.new_epoch(), because what it is "
            "informed by has to stand in the memory"
        )
    return {"recipe": sketcher.recipe.to_dict(), "scales": dict(sketcher.scales)}
