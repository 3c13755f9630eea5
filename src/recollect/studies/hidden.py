"""Hidden modular networks, to be recovered from their inputs and sketches.

``FlatNetwork`` has one level: of its modules, those of the highest gates fire, and each keeps the
largest of its rectified features of the input. ``HiddenNetwork`` has two.

Composers stand at the top; each has a few candidate inputs among the leaf modules, and leaves may
serve several composers. Which modules fire depends on the input. A leaf's attribute keeps the two
largest of its rectified features of the input; a composer's keeps the two largest of its own,
which read the input and the attributes of its leaves.

Shape letters: S glances, n numbers of an input, C composers, L leaves, m features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect.tracing import Object, Trace

__all__ = ["FlatNetwork", "HiddenNetwork"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HiddenNetwork:
    """The network; everything follows from the seed.

    Args:
        seed: of weights and wiring.
        composers: C.
        leaves: L, at most C times ``candidates``.
        candidates: leaves that a composer may read.
        size: m.
        inputs: n.
        kept: features of an attribute that are not zero.
        firm: a composer fires where its gate is above so many deviations.
    """

    seed: int
    composers: int = 4
    leaves: int = 12
    candidates: int = 4
    size: int = 5
    inputs: int = 24
    kept: int = 2
    firm: float = 0.3

    @cached_property
    def wiring(self) -> list[list[int]]:
        """The candidate leaves of each composer; every leaf serves one at least."""
        rng = np.random.default_rng([self.seed, 1])
        further = self.composers * self.candidates - self.leaves
        while True:
            slots = np.r_[
                rng.permutation(self.leaves), rng.choice(self.leaves, further, replace=False)
            ]
            rows = rng.permutation(slots).reshape(self.composers, self.candidates)
            if all(len(set(row)) == self.candidates for row in rows.tolist()):
                return [sorted(row) for row in rows.tolist()]

    @property
    def edges(self) -> set[tuple[str, str]]:
        """(composer, leaf) by name."""
        return {(f"composer/{c}", f"leaf/{k}") for c, row in enumerate(self.wiring) for k in row}

    def trace(self, u: Floats) -> Trace:
        """Return what the network does with (S, n) inputs."""
        rng = np.random.default_rng([self.seed, 2])
        of_leaves = self.leaf_weights().numpy()
        of_composers = rng.standard_normal((self.composers, self.size, self.inputs))
        mixing = rng.standard_normal((self.composers, self.size, self.leaves * self.size))
        gates = rng.standard_normal((self.composers, self.inputs))
        chooses = rng.standard_normal((self.composers, self.leaves, self.inputs))
        leaf = self._largest(np.einsum("sn,lmn->slm", u, of_leaves)) / 5
        glances = []
        for row, seen in zip(u, leaf, strict=True):
            gate = gates @ row
            firing = np.flatnonzero(gate > self.firm * np.linalg.norm(gates, axis=1))
            glance = []
            for c in firing.tolist() or [int(gate.argmax())]:
                chosen = self._chosen(self.wiring[c], chooses[c] @ row)
                read = np.zeros_like(seen)
                read[chosen] = seen[chosen]
                own = mixing[c] @ read.ravel() * 1.5 + of_composers[c] @ row
                inputs = [Object(f"leaf/{k}", seen[k], weight=0.5) for k in chosen]
                glance.append(Object(f"composer/{c}", self._largest(own) / 5, inputs=inputs))
            glances.append(glance)
        return Trace.from_objects(glances)

    def leaf_weights(self) -> Tensor:
        """Return the (L, m, n) weights of the leaves' features."""
        rng = np.random.default_rng([self.seed, 4])
        return torch.from_numpy(rng.standard_normal((self.leaves, self.size, self.inputs)))

    @staticmethod
    def _chosen(candidates: list[int], score: Floats) -> list[int]:
        """Return the candidates that fire: those of positive score, the best one at least."""
        return [k for k in candidates if score[k] > 0] or [max(candidates, key=score.__getitem__)]

    def _largest(self, features: Floats) -> Floats:
        """Rectify, and keep the largest few."""
        positive = np.maximum(features, 0) + 1e-9
        least = np.sort(positive, axis=-1)[..., -self.kept][..., None]
        kept: Floats = np.where(positive >= least, positive, 0)
        return kept


@dataclass(frozen=True)
class FlatNetwork:
    """A network of one level; everything follows from the seed.

    Args:
        seed: of weights and inputs.
        modules: P.
        size: m.
        inputs: n, the last ``context`` of which only gates read, and only they.
        context: numbers that decide who fires.
        firing: modules that fire on every input.
        kept: features of an attribute that are not zero.
    """

    seed: int
    modules: int = 16
    size: int = 16
    inputs: int = 32
    context: int = 8
    firing: int = 4
    kept: int = 2

    @cached_property
    def weights(self) -> Tensor:
        """The (P, m, n) weights of the features; zero for the context."""
        rng = np.random.default_rng([self.seed, 5])
        weights = rng.standard_normal((self.modules, self.size, self.inputs))
        weights[:, :, -self.context :] = 0
        return torch.from_numpy(weights)

    def inputs_of(self, number: int) -> Tensor:
        """Return (S, n) inputs."""
        rng = np.random.default_rng([self.seed, 6])
        return torch.from_numpy(rng.standard_normal((number, self.inputs)))

    def attributes(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return all attributes, (S, P m), and which modules fire, (S, P) of 0 and 1."""
        rng = np.random.default_rng([self.seed, 7])
        gates = torch.from_numpy(rng.standard_normal((self.context, self.modules)))
        gates = gates / gates.norm(dim=0)
        chosen = (u[:, -self.context :] @ gates).topk(self.firing, dim=1).indices
        fires = torch.zeros(len(u), self.modules, dtype=torch.int64).scatter(1, chosen, 1)
        features = torch.einsum("sn,pmn->spm", u, self.weights).clamp_min(0)
        least = features.topk(self.kept, dim=2).values[:, :, -1:]
        kept = torch.where(features >= least, features, 0.0)
        return (kept * fires[:, :, None]).flatten(1), fires
