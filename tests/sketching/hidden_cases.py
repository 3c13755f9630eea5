"""Small hidden networks of two levels of which some edges cannot be told."""

from __future__ import annotations

import numpy as np
import torch

from recollect import Object, Trace

INPUTS = 16


def _largest(features: np.ndarray) -> np.ndarray:
    positive = np.maximum(features, 0) + 1e-9
    least = np.sort(positive)[-2]
    return np.where(positive >= least, positive, 0) / 5


def case(name: str, glances: int = 1500) -> tuple[torch.Tensor, Trace]:
    """Inputs, and what the network does with them; a, b, c stand on top, l3 to l7 below."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((8, 4, INPUTS))
    gates = rng.standard_normal((8, INPUTS))
    u = rng.standard_normal((glances, INPUTS))

    def glance(row: np.ndarray) -> list[Object]:
        gate = gates @ row

        def top(letter: str, *inputs: Object) -> Object:
            return Object(
                letter, _largest(weights["abc".index(letter)] @ row), inputs=list(inputs)
            )

        def leaf(k: int, function: int | None = None) -> Object:
            own = weights[k if function is None else function]
            return Object(f"l{k}", _largest(own @ row), weight=0.5)

        def gated(*numbers: int) -> list[Object]:
            return [leaf(k) for k in numbers if gate[k] > 0]

        a, b, c = (int(g > 0) for g in gate[:3])
        if name == "plain":
            parts = [top("a", *gated(3, 4))] * a + [top("b", *gated(6, 7, 3))] * b
        elif name == "leaves together":
            pair = [leaf(3), leaf(4)] if gate[3] > 0 else []
            parts = [top("a", *pair, *gated(5))] * a + [top("b", *gated(6, 7))] * b
        elif name == "parents together":
            parts = [top("a", *gated(3, 4)), top("b", *gated(5))] * a + [
                top("c", *gated(6, 7))
            ] * c
        elif name == "child with its parent":
            parts = [top("a", leaf(3), *gated(4))] * a + [top("b", *gated(6, 7))] * b
        elif name == "constant":
            parts = [top("a", *gated(3, 4))] + [top("b", *gated(6, 7))] * b
        else:
            copy = [leaf(6, function=3)] if gate[6] > 0 else []
            parts = [top("a", *gated(3, 4))] * a + [top("b", *gated(7), *copy)] * b
        return parts

    return torch.from_numpy(u), Trace.from_objects([glance(row) for row in u])


def found_names(counts: torch.Tensor, trace: Trace) -> list[str]:
    """The true modules that fire where each found one does, joined by +."""
    names = []
    for column in counts.T:
        same = []
        for module, c in trace.columns.items():
            fires = torch.from_numpy(np.bincount(c.glance, minlength=len(trace)) > 0)
            if float(((column > 0) == fires).double().mean()) > 0.99:
                same.append(module)
        names.append("+".join(sorted(same)))
    return names
