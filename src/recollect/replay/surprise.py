"""How wrong a network was about each stored transition: absolute TD errors, in chunks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._checks import check_integer
from recollect.replay.ring import Batch, TransitionRing

__all__ = ["td_errors", "td_targets"]

FloatArray = npt.NDArray[np.float64]
Values = Callable[[Tensor], Tensor]


@torch.no_grad()
def td_targets(batch: Batch, target: Values, online: Values | None = None) -> Tensor:
    """Return r + discount * max_a target(s'), (n,); the choice of a by ``online`` if given.

    Args:
        batch: transitions, n of them.
        target: maps observations (n, ...) to the values of all actions, (n, A).
        online: chooses the action (double Q-learning).
    """
    following = torch.from_numpy(batch.following)
    values = target(following)  # (n, A)
    if online is None:
        best = values.max(1).values
    else:
        best = values.gather(1, online(following).argmax(1, keepdim=True))[:, 0]
    return torch.from_numpy(batch.rewards) + torch.from_numpy(batch.discounts) * best


@torch.no_grad()
def td_errors(
    ring: TransitionRing,
    online: Values,
    target: Values,
    *,
    double: bool = False,
    chunk: int = 4096,
) -> FloatArray:
    """Return |TD error| of every stored transition, (n,), in the order of time.

    Args:
        ring: of transitions with discrete actions.
        online: maps observations (n, ...) to the values of all actions, (n, A).
        target: the same, frozen.
        double: whether the loss that is trained is that of double Q-learning.
        chunk: transitions in one forward pass.

    Raises:
        ValueError: if ``chunk`` < 1 or the ring is empty.
    """
    check_integer("chunk", chunk, minimum=1)
    if not len(ring):
        raise ValueError("the ring is empty: there is nothing to be surprised by")
    found = []
    for start in range(0, len(ring), chunk):
        batch = ring.gather(np.arange(start, min(start + chunk, len(ring))))
        goal = td_targets(batch, target, online if double else None)
        taken = torch.from_numpy(batch.actions)[:, None]
        values = online(torch.from_numpy(batch.observations)).gather(1, taken)[:, 0]
        found.append((goal - values).abs().double().numpy())
    return np.concatenate(found)
