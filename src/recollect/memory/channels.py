"""The distribution channel of a memory's glances: from sketches to rows, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import RecipeMismatch
from recollect.memory.engine import Engine
from recollect.memory.tiers import CHANNEL, channel_kept
from recollect.sketching.recipe import Recipe

if TYPE_CHECKING:
    from recollect.sketching.sketches import Sketches

__all__ = ["channel_of", "channels_at"]

IntArray = npt.NDArray[np.int64]


def channel_of(
    sketches: Sketches, recipe: Recipe
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]] | None:
    """Return the channel's codes (B, c) and scales (B,) of sketches; None without a channel.

    Raises:
        RecipeMismatch: if the recipe has a channel and the sketches were read without theirs.
    """
    if recipe.channel is None:
        return None
    if sketches.channel is None or sketches.channel.scale is None:
        raise RecipeMismatch(
            f"the memory's recipe keeps a distribution channel ({recipe.channel}), and these "
            "sketches came without theirs; encode the trace again, or add the trace itself"
        )
    return sketches.channel.codes.numpy(), sketches.channel.scale.numpy()


def channels_at(engine: Engine, places: IntArray) -> Sketches:
    """Return the channel of the glances at some places, or as much as all of them keep of it.

    Raises:
        ValueError: if the recipe has none, or a glance keeps nothing of it any more.
    """
    import torch

    if engine.recipe.channel is None:
        raise ValueError(
            f"{engine.folder.path} keeps no distribution channel; a new memory does with "
            "Memory(path, sketcher=Sketcher(channel=True)), and can take this one's traces"
        )
    size = engine.recipe.channel.size
    if engine.rows.faded and len(places):
        left = channel_kept(engine.rows.kept()[places], engine.recipe.dim, size)
        size = int(left.min())
        if size == 0:
            raise ValueError(
                f"{(left == 0).sum():,} of these glances have faded and keep nothing of the "
                "distribution channel; whole hours are still answered from roll-ups, and "
                "memory.kept(ids) says what each glance keeps"
            )
    codes = np.zeros((0, size), np.int8)
    scale = np.zeros(0, np.float32)
    if len(places):
        codes, scale = engine.rows.channel_part(engine.rows.take(places, CHANNEL))
        codes = codes[:, :size]
    return sketching.Sketches(
        torch.from_numpy(np.array(codes)),
        torch.from_numpy(np.array(scale)),
        torch.ones(len(places), dtype=torch.int64),
        None,
        engine.modules,
        sketching.channel_recipe(engine.recipe),
    )
