"""Hand-built glances for the tests of sketching: random DAGs, scenes with repeated modules."""

from __future__ import annotations

import numpy as np
import torch

from recollect import Object, Trace


def random_dag(
    rng: np.random.Generator, depth: int, sizes: dict[str, int], top: int = 3
) -> list[Object]:
    """A glance of ``depth`` levels; unit attributes, weights that sum to one."""

    def siblings(count: int, level: int) -> list[Object]:
        weights = 0.5 / count + 0.5 * rng.dirichlet(np.ones(count))
        return [make(float(w), level) for w in weights]

    def make(weight: float, level: int) -> Object:
        module = str(rng.choice(list(sizes)))
        x = rng.standard_normal(sizes[module])
        inputs = siblings(int(rng.integers(1, 4)), level + 1) if level < depth else []
        return Object(module, x / np.linalg.norm(x), weight=weight, inputs=inputs)

    return siblings(top, 1)


def random_sizes(rng: np.random.Generator, count: int) -> dict[str, int]:
    return {f"module{i}": int(m) for i, m in enumerate(rng.integers(3, 40, count))}


class DigitLikeScenes:
    """Scenes of 1 to 6 objects of 5 modules; attributes are low-rank around the module's mean."""

    def __init__(self, seed: int = 0, modules: int = 5, size: int = 12, rank: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.means = rng.standard_normal((modules, size)).astype(np.float32)
        self.spread = rng.standard_normal((modules, rank, size)).astype(np.float32) * 0.5
        self.modules = modules

    def trace(self, glances: int, seed: int) -> Trace:
        rng = np.random.default_rng([1, seed])
        number = rng.integers(1, 7, glances)
        glance = np.repeat(np.arange(glances), number)
        kind = rng.choice(self.modules, len(glance), p=self._shares())
        code = rng.standard_normal((len(glance), self.spread.shape[1])).astype(np.float32)
        x = self.means[kind] + np.einsum("nr,nrm->nm", code, self.spread[kind])
        x += 0.05 * rng.standard_normal(x.shape)
        return Trace.from_columns(
            {
                f"thing{k}": {
                    "attributes": torch.from_numpy(x[kind == k].astype(np.float32)),
                    "glance": glance[kind == k],
                }
                for k in range(self.modules)
            },
            num_glances=glances,
        )

    def _shares(self) -> np.ndarray:
        shares = np.arange(1, self.modules + 1, dtype=float)
        return shares / shares.sum()


def static_network(
    glances: int, seed: int, *, sizes: tuple[int, ...] = (40, 16, 96, 7), rank: int = 10
) -> Trace:
    """A network whose modules all see the same few hidden causes."""
    fixed = np.random.default_rng(99)
    rng = np.random.default_rng([2, seed])
    code = rng.standard_normal((glances, rank))
    columns = {}
    for i, m in enumerate(sizes):
        turn = fixed.standard_normal((rank, m)) * (i + 1)
        x = code @ turn + fixed.standard_normal(m) + 0.1 * rng.standard_normal((glances, m))
        columns[f"layer{i}"] = torch.from_numpy(x.astype(np.float32))
    return Trace.from_columns(columns)
