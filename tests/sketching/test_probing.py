"""Probes find the glances that hold a thing; whitening pays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import NotRemembered, Object, Sketcher, Trace
from recollect.sketching.probing import Prober


def repository(glances: int) -> tuple[Trace, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    prototypes = rng.standard_normal((16, 4, 16)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    present = rng.random((glances, 16)) < 0.3
    which = rng.integers(0, 4, (glances, 16))
    columns = {}
    for k in range(16):
        rows = np.flatnonzero(present[:, k])
        x = prototypes[k, which[rows, k]] + 0.1 * rng.standard_normal((len(rows), 16))
        columns[f"m{k}"] = {"attributes": torch.from_numpy(x.astype(np.float32)), "glance": rows}
    return (
        Trace.from_columns(columns, num_glances=glances),
        prototypes,
        np.where(present, which, -1),
    )


TRACE, PROTOTYPES, HELD = repository(2000)


def precision(score: np.ndarray, hits: np.ndarray) -> float:
    order = np.argsort(-score)
    return float(np.mean([hits[order[: i + 1]].mean() for i in np.flatnonzero(hits[order])]))


def test_whitened_probes_are_nearly_perfect_and_better_than_plain_ones() -> None:
    sketcher = Sketcher(dim=128)
    sketches = sketcher.encode(TRACE)
    prober = Prober(sketcher, sketches)
    found = {True: [], False: []}
    for k, j in ((0, 0), (3, 1), (7, 2), (15, 3)):
        for whitened in found:
            score = prober.scores(sketches, Object(f"m{k}", PROTOTYPES[k, j]), whitened=whitened)
            found[whitened].append(precision(score, HELD[:, k] == j))
    assert np.mean(found[True]) > 0.95
    assert np.mean(found[True]) > np.mean(found[False]) + 0.02


def test_scores_are_one_product_each() -> None:
    sketcher = Sketcher(dim=64)
    sketches = sketcher.encode(TRACE)
    prober = Prober(sketcher, sketches[:500])
    thing = Object("m3", PROTOTYPES[3, 0])
    values = sketches.values.double()
    mean, centred = values[:500].mean(0), values[:500] - values[:500].mean(0)
    spread = centred.T @ centred / 500
    spread += 1e-3 * spread.diagonal().mean() * torch.eye(64)
    image = sketcher.unrounded(Trace.from_objects([[thing]]))[0].double()
    true = (values - mean) @ torch.linalg.solve(spread, image)
    assert np.allclose(prober.scores(sketches, thing), true.numpy(), rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_refused() -> None:
    sketcher = Sketcher(dim=128)
    sketches = sketcher.encode(TRACE[:50])
    with pytest.raises(ValueError, match="two at least"):
        Prober(sketcher, sketches[:1])
    with pytest.raises(ValueError, match="ridge must be positive"):
        Prober(sketcher, sketches, ridge=0)
    prober = Prober(sketcher, sketches)
    with pytest.raises(ValueError, match="knows sketches of 128 numbers, got 64"):
        prober.scores(sketches.prefix(64), Object("m0", PROTOTYPES[0, 0]))
    with pytest.raises(NotRemembered, match="no module 'm99'"):
        prober.vector(Object("m99", [1.0]))
