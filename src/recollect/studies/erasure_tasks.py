"""What the study of erasure is asked about: digit scenes, or a static network on pictures.

Shape letters: B judged glances, G glances of the prior, Q queries, P modules, D numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recollect.sketching import Sketcher
from recollect.sketching.cosines import MOST, true_cosines
from recollect.studies.digit_readers import trained_reader
from recollect.studies.pictures import digits
from recollect.tracing import Trace, trace

__all__ = ["Task", "digit_task", "picture_task"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

QUERIES = 100
HIDDEN, SLOTS = 32, 12
# Numbers of the sketches by which true cosines are known, to 1 / sqrt of them.
WIDE = 16384
COUNT_WEIGHT = 0.2


@dataclass(frozen=True, eq=False)
class Task:
    """Glances to remember, and the truth about them.

    Attributes:
        what: in words.
        sketcher: knows the modules' scales.
        fit: glances of the prior.
        judged: other glances.
        attributes: module -> (n, m) true attributes of the judged glances.
        names: the modules that counts are asked of.
        counts: (B, P) true counts; None in a static network.
        usual_counts: (P,) mean counts of the prior's glances.
        queries: (Q,) judged glances from which others are looked for.
        cosines: (Q, B) true cosines.
        slots: the rival's vectors for attributes, of the prior and judged: (G, D) and (B, D).
        bags: the rival's vectors for counts and cosines.
        count_of: takes counts (B, P) out of such vectors.
    """

    what: str
    sketcher: Sketcher
    fit: Trace
    judged: Trace
    attributes: dict[str, FloatArray]
    names: list[str]
    counts: FloatArray | None
    usual_counts: FloatArray
    queries: IntArray
    cosines: FloatArray
    slots: tuple[FloatArray, FloatArray]
    bags: tuple[FloatArray, FloatArray]
    count_of: Callable[[FloatArray], FloatArray]

    @cached_property
    def fit_cosines(self) -> FloatArray:
        """Cosines of the first glances of the prior, as a memory knows them of its records."""
        return true_cosines(self.sketcher, self.fit[np.arange(min(MOST, len(self.fit)))])

    @property
    def pairs(self) -> npt.NDArray[np.bool_]:
        """(Q, B): all pairs but those of a query with itself."""
        return np.asarray(self.queries[:, None] != np.arange(self.cosines.shape[1]))


# -- digit scenes ---------------------------------------------------------------------------


def digit_task(seed: int, sizes: tuple[int, int]) -> Task:
    """Return scenes of handwritten digits as a small network sees them.

    Args:
        seed: of scenes, network and operators.
        sizes: glances of the prior, and judged ones.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    pictures, labels = digits(0)
    network = trained_reader(
        (64, 64, HIDDEN, 10), pictures[:600], labels[:600],
        epochs=40, rate=2e-3, batch=50, seed=seed,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    fit, judged = (_scenes(network, pictures[600:], n, rng) for n in sizes)
    sketcher = Sketcher(dim=512, seed=seed)
    sketcher.admit(fit, measure_scales=True)
    names = [f"digit/{d}" for d in range(10)]
    wide = Sketcher(
        WIDE, seed, dtype="float32", scales={e.name: e.scale for e in sketcher.modules}
    )
    queries = np.arange(min(QUERIES, sizes[1]))
    vectors = wide.encode(judged).values.numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    means = {n: fit.objects(n).attributes.numpy().mean(0) for n in names}
    return Task(
        f"scenes of 2 to {SLOTS} digits ({HIDDEN} numbers each, 512 bytes whole)",
        sketcher,
        fit,
        judged,
        {n: judged.objects(n).attributes.numpy().astype(np.float64) for n in names},
        names,
        _counts(judged, names),
        _counts(fit, names).mean(0),
        queries,
        vectors[queries] @ vectors.T,
        (_slots(fit, names, means, sketcher), _slots(judged, names, means, sketcher)),
        (_bags(fit, names, sketcher), _bags(judged, names, sketcher)),
        lambda bags: bags[:, -len(names) :] / COUNT_WEIGHT,
    )


@torch.no_grad()
def _scenes(
    network: nn.Sequential, pictures: Tensor, number: int, rng: np.random.Generator
) -> Trace:
    """Return glances of 2 to 12 digits each, every one turned, moved and dimmed afresh."""
    glance = np.repeat(np.arange(number), rng.integers(2, SLOTS + 1, number))
    chosen = _afresh(pictures[rng.integers(0, len(pictures), len(glance))], rng)
    hidden = network[:-1](chosen)
    read = network[-1](hidden).argmax(1).numpy()
    return Trace.from_columns(
        {
            f"digit/{d}": {"attributes": hidden[read == d], "glance": glance[read == d]}
            for d in range(10)
        },
        num_glances=number,
    )


def _afresh(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Return pictures turned by up to 10 degrees, moved by half a pixel, and dimmed."""
    n = len(pictures)
    angle = np.deg2rad(rng.uniform(-10, 10, n))
    move = rng.uniform(-0.5, 0.5, (n, 2)) / 4  # the side is 8 pixels, from -1 to 1
    turn = np.stack(
        [
            np.stack([np.cos(angle), -np.sin(angle), move[:, 0]], 1),
            np.stack([np.sin(angle), np.cos(angle), move[:, 1]], 1),
        ],
        1,
    ).astype(np.float32)
    where = nn.functional.affine_grid(torch.from_numpy(turn), [n, 1, 8, 8], align_corners=False)
    light = torch.from_numpy(rng.uniform(0.8, 1, (n, 1, 1, 1)).astype(np.float32))
    return nn.functional.grid_sample(pictures, where, align_corners=False) * light


def _counts(t: Trace, names: list[str]) -> FloatArray:
    found = [np.bincount(t.objects(n).glance.numpy(), minlength=len(t)) for n in names]
    return np.stack(found, 1).astype(np.float64)


def _slots(t: Trace, names: list[str], means: dict[str, Any], sketcher: Sketcher) -> FloatArray:
    """Return each glance's objects side by side, less their modules' means, (B, 12 m)."""
    out = np.zeros((len(t), SLOTS, HIDDEN))
    free = np.zeros(len(t), np.int64)
    for name in names:
        o = t.objects(name)
        for g, x in zip(o.glance.tolist(), o.attributes.numpy(), strict=True):
            out[g, free[g]] = (x - means[name]) / sketcher.modules[name].scale
            free[g] += 1
    return out.reshape(len(t), -1)


def _bags(t: Trace, names: list[str], sketcher: Sketcher) -> FloatArray:
    """Return the sum of each module's attributes, and its weighted count, (B, P m + P)."""
    out = np.zeros((len(t), len(names), HIDDEN))
    for i, name in enumerate(names):
        o = t.objects(name)
        np.add.at(out[:, i], o.glance.numpy(), o.attributes.numpy() / sketcher.modules[name].scale)
    return np.concatenate([out.reshape(len(t), -1), COUNT_WEIGHT * _counts(t, names)], 1)


# -- a static network on pictures -----------------------------------------------------------


def picture_task(data: str, seed: int, sizes: tuple[int, int]) -> Task:
    """Return the channel means of MobileNetV2 on pictures of CIFAR-10.

    Args:
        data: folder with ``weights/`` and ``cifar10/``.
        seed: of the choice of pictures, and of the operators.
        sizes: glances of the prior, and judged ones.

    Raises:
        ImportError: if the repository's benchmarks, which load the network, cannot be imported.
    """
    try:
        static = import_module("benchmarks.static_network")
        networks = import_module("benchmarks.networks")
    except ImportError as error:
        raise ImportError(
            "with data this study loads its network by the benchmarks of the repository; run it "
            "from the repository's folder: PYTHONPATH=. recollect study erasure --data DIR"
        ) from error
    everything = _seen(data, sum(sizes), static, networks)
    order = np.random.default_rng(seed).permutation(sum(sizes))
    fit, judged = everything[order[: sizes[0]]], everything[order[sizes[0] :]]
    sketcher = Sketcher(dim=1024, seed=seed)
    sketcher.admit(fit, measure_scales=True)
    names = sorted(everything.columns)
    queries = np.arange(min(QUERIES, sizes[1]))
    vectors = [_features(t, names, sketcher) for t in (fit, judged)]
    unit = vectors[1] / np.linalg.norm(vectors[1], axis=1, keepdims=True)
    numbers = vectors[0].shape[1] - 1
    return Task(
        f"MobileNetV2 on CIFAR-10 ({numbers:,} numbers, 1,024 bytes whole)",
        sketcher,
        fit,
        judged,
        {n: judged.objects(n).attributes.numpy().astype(np.float64) for n in names},
        names,
        None,
        np.zeros(0),
        queries,
        unit[queries] @ unit.T,
        (vectors[0][:, :-1], vectors[1][:, :-1]),
        (vectors[0], vectors[1]),
        lambda bags: bags,
    )


_SEEN: dict[tuple[str, int], Trace] = {}


def _seen(data: str, number: int, static: Any, networks: Any) -> Trace:
    """Return what the network makes of the first pictures; computed once."""
    if (data, number) not in _SEEN:
        model, preprocess = networks.mobilenet_v2(data)
        wanted = [n for n, _ in model.named_modules() if n.startswith(("conv", "add"))]
        parts, left = [], number
        for batch in static.cifar_batches(data, preprocess):
            parts.append(trace(model, batch[:left], modules=wanted))
            left -= len(parts[-1])
            if left <= 0:
                break
        _SEEN[data, number] = Trace.concat(parts)
    return _SEEN[data, number]


def _features(t: Trace, names: list[str], sketcher: Sketcher) -> FloatArray:
    """Return all scaled attributes side by side, and the counts' constant, (B, D + 1)."""
    parts = [t.objects(n).attributes.numpy() / sketcher.modules[n].scale for n in names]
    constant = np.full((len(t), 1), COUNT_WEIGHT * len(names) ** 0.5)
    return np.concatenate([*parts, constant], 1).astype(np.float64)
