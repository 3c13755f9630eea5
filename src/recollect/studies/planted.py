"""Planted compounds: scenes in which some things go together, with every truth known.

Every module has 16 prototypes of 32 numbers (unit length), and an object is one of them with
noise of half its length. A background scene holds about six objects of modules drawn at random; a
scene with a compound holds its three, always the same, and two at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recollect.tracing import Trace

__all__ = ["Planted", "plant"]

IntArray = npt.NDArray[np.int64]
MODULES, PROTOTYPES, SIZE = 64, 16, 32
FIXED, OTHERS, BACKGROUND = 3, 2, 6
NOISE, OWN_NOISE = 0.5, 0.1


@dataclass(frozen=True, eq=False)
class Planted:
    """Scenes and what they hold.

    Attributes:
        trace: N scenes.
        compound: (N,) which compound each scene holds, -1 for none.
        made_of: the modules of each compound.
    """

    trace: Trace
    compound: IntArray
    made_of: list[tuple[str, ...]]


def plant(
    seed: int, *, compounds: int = 6, each: int = 50, background: int = 600,
    own_noise: float = OWN_NOISE,
) -> Planted:  # fmt: skip
    """Make scenes in random order.

    Args:
        seed: of everything.
        compounds: how many kinds of compounds.
        each: scenes with each.
        background: scenes with none.
        own_noise: length of the noise on a compound's own objects.

    Example:
        >>> found = plant(0, compounds=1, each=3, background=5)
        >>> len(found.trace), int((found.compound == 0).sum())
        (8, 3)
    """
    rng = np.random.default_rng(seed)
    prototypes = rng.standard_normal((MODULES, PROTOTYPES, SIZE)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    fixed = [
        (rng.choice(MODULES, FIXED, replace=False), rng.integers(0, PROTOTYPES, FIXED))
        for _ in range(compounds)
    ]
    kinds = rng.permutation(np.r_[np.repeat(np.arange(compounds), each), np.full(background, -1)])
    glance, module, which, noise = [], [], [], []
    for g, kind in enumerate(kinds.tolist()):
        own = fixed[kind] if kind >= 0 else (np.zeros(0, np.int64),) * 2
        number = OTHERS if kind >= 0 else int(np.clip(rng.poisson(BACKGROUND), 1, MODULES))
        rest = rng.choice(np.setdiff1d(np.arange(MODULES), own[0]), number, replace=False)
        module += [*own[0], *rest]
        which += [*own[1], *rng.integers(0, PROTOTYPES, number)]
        noise += [own_noise] * len(own[0]) + [NOISE] * number
        glance += [g] * (len(own[0]) + number)
    of, at = np.array(module), np.array(glance)
    x = prototypes[of, np.array(which)]
    size = np.array(noise, np.float32)[:, None] / SIZE**0.5
    x = x + size * rng.standard_normal(x.shape).astype(np.float32)
    columns = {
        f"module/{m}": {"attributes": torch.from_numpy(x[of == m]), "glance": at[of == m]}
        for m in np.unique(of).tolist()
    }
    made_of = [tuple(sorted(f"module/{m}" for m in own.tolist())) for own, _ in fixed]
    return Planted(Trace.from_columns(columns, num_glances=len(kinds)), kinds, made_of)
