"""The published mechanism on one layer: what its transpose decoder reads, for every family.

Glances of five objects with 32 numbers each, weights summing to one, under ``scheme="paper"``,
without rounding. Each object is read back with its own columns alone (its path known), and each
module's number and mean by one projection on its own subspace (its path not known). All errors
should fall as the root of the size of the sketch. A full decode by least squares is timed beside
the projection: the price of reading one number with everything else.

Shape letters: d numbers in a sketch, m = 32 numbers in an attribute, n = 5 objects.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect._answers import Answer
from recollect.sketching import Sketcher, Sketches
from recollect.sketching.projection import Projection
from recollect.sketching.recipe import FAMILIES
from recollect.tracing import Object, Trace

__all__ = ["one_layer", "read_back", "study"]

FloatArray = npt.NDArray[np.float64]
OBJECTS, SIZE = 5, 32


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return the errors of the published decoder by family and size, and their exponents.

    Args:
        quick: fewer networks and sizes.
        data: not used.
    """
    sizes = (1024, 4096, 16384) if quick else (1024, 2048, 4096, 8192, 16384)
    rows: list[dict[str, Any]] = []
    for family in FAMILIES:
        found = [measure(family, d, range(3 if quick else 10)) for d in sizes]
        for name in ("path known", "number", "mean"):
            slope = np.polyfit(np.log(sizes), np.log([f[name] for f in found]), 1)[0]
            found[-1][f"{name}, exponent"] = float(slope)
        rows += found
    names = list(dict.fromkeys(n for r in rows[len(sizes) - 1 :] for n in r))
    return Answer(
        {n: [r.get(n, float("nan")) for r in rows] for n in names},
        title="one layer of five objects of 32 numbers, read by the published decoder",
        notes=[
            "path known: relative error of an attribute read with its own columns; sd over "
            "objects; theory: sqrt(|s|^2 m / d) / |column|",
            "number, mean: errors of one module's own subspace, path not known (true number one)",
            "exponent: of the error against the numbers in a sketch; -0.5 is expected",
            "decode / projection: time of reading one module by a full decode (least squares of "
            "all objects), over the time of its projection, operators warm",
        ],
    )


def one_layer(seed: int) -> Trace:
    """Make a glance of five objects of different modules with unit attributes, weights 1 / 5."""
    rng = np.random.default_rng([5, seed])
    x = rng.standard_normal((OBJECTS, SIZE))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    names = [f"module{i}" for i in rng.permutation(50)[:OBJECTS]]
    return Trace.from_objects(
        [[Object(m, v, weight=1 / OBJECTS) for m, v in zip(names, x, strict=True)]]
    )


def measure(family: str, dim: int, seeds: range) -> dict[str, Any]:
    """Return mean errors over some networks and operators of one family and size."""
    known, theory, number, mean, times = [], [], [], [], []
    for seed in seeds:
        glance = one_layer(seed)
        sketcher = Sketcher(dim=dim, seed=seed, scheme="paper", dtype="float32", operators=family)
        sketches = sketcher.encode(glance)
        errors, expected = read_back(sketcher, sketches, glance)
        known += errors
        theory += expected
        for module in glance.modules:
            read = Projection(sketcher, module, weight=1 / OBJECTS).read(sketches)
            true = glance.objects(module).attributes[0].double()
            number.append(float(read.number[0]) - 1)
            mean.append(float((read.sum[0] - true).norm()))
        if seed == seeds[0]:
            times.append(_ratio(sketcher, sketches, glance.modules[0]))
    return {
        "operators": family,
        "numbers": dim,
        "path known": float(np.mean(known)),
        "sd": float(np.std(known, ddof=1)),
        "theory": float(np.mean(theory)),
        "number": float(np.sqrt(np.mean(np.square(number)))),
        "mean": float(np.mean(mean)),
        "decode / projection": float(np.mean(times)),
    }


def read_back(
    sketcher: Sketcher, sketches: Sketches, glance: Trace
) -> tuple[list[float], list[float]]:
    """Return the relative error of every object read with its own columns, and its theory."""
    found = sketcher.decode(sketches, method="transpose")
    errors, expected = [], []
    for module in glance.modules:
        true = glance.objects(module).attributes[0].double()
        read = found.objects(module)
        errors.append(float((read.attributes[0].double() - true).norm() / true.norm()))
        assert read.std is not None
        expected.append(float(read.std[0].double().square().sum().sqrt() / true.norm()))
    return errors, expected


def _ratio(sketcher: Sketcher, sketches: Sketches, module: str) -> float:
    """Return how many times longer a full decode takes than a projection, operators warm."""
    projection = Projection(sketcher, module, weight=1 / OBJECTS)

    def project() -> None:
        projection.read(sketches)

    def decode() -> None:
        sketcher.decode(sketches).objects(module)

    return _seconds(decode, 3) / _seconds(project, 10)


def _seconds(action: Callable[[], None], times: int) -> float:
    """Return the least processor time of an action."""
    action()
    best = float("inf")
    with torch.no_grad():
        for _ in range(times):
            start = time.process_time()
            action()
            best = min(best, time.process_time() - start)
    return max(best, 1e-7)
