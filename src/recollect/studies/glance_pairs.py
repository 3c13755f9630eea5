"""Pairs of glances that share something known: built by hand, and from real handwritten digits.

Each kind of pair shares one thing and nothing else: all modules with attributes a little moved,
all modules with other attributes, one object (at the same place, at another place, at another
depth), or nothing. The shared object is given too, so that probes can be made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from recollect.tracing import Object

__all__ = ["Digits", "Pair", "hand_built", "read_digits"]

FloatArray = npt.NDArray[np.float64]
Rng = np.random.Generator

POOL, OBJECTS, SIZE, GROUP = 64, 10, 32, 5


@dataclass(frozen=True, eq=False)
class Pair:
    """Two glances.

    Attributes:
        one: top-level objects of the first.
        other: of the second.
        shared: the object of the first that is looked for in the second, or None.
    """

    one: list[Object]
    other: list[Object]
    shared: Object | None = None


def unit(rng: Rng) -> FloatArray:
    """A random direction of ``SIZE`` numbers."""
    x = rng.standard_normal(SIZE)
    direction: FloatArray = x / np.linalg.norm(x)
    return direction


def hand_built(rng: Rng) -> dict[str, Pair]:
    """Make one pair of each kind of ten objects with 32 numbers, weights summing to one."""
    names = [f"module{i}" for i in rng.permutation(POOL)]
    mine, yours, third = names[:OBJECTS], names[OBJECTS : 2 * OBJECTS], names[2 * OBJECTS :]
    x = [unit(rng) for _ in mine]
    moved = [v + 0.2 * unit(rng) for v in x]
    moved = [v / np.linalg.norm(v) for v in moved]
    place = int(rng.integers(OBJECTS - 1))
    one = _flat(mine, x)
    others = [unit(rng) for _ in yours]

    def with_shared(at: int) -> list[Object]:
        glance = _flat(yours, others)
        glance[at] = Object(mine[place], x[place], weight=1 / OBJECTS)
        return glance

    deeper = _flat(yours, others)
    under = [Object(mine[place], x[place])]
    deeper[place] = Object(yours[place], others[place], weight=1 / OBJECTS, inputs=under)
    two_level = [_grouped(mine, x, third[:2], rng), _grouped(yours, others, third[2:4], rng)]
    same_parent = [*_grouped(yours, others, third[:2], rng)]
    for tree, group in ((two_level[1], 1), (same_parent, 0)):
        tree[group].inputs = [Object(mine[0], x[0], weight=1 / GROUP), *tree[group].inputs[1:]]
    first = two_level[0][0].inputs[0]
    return {
        "same modules, attributes moved by 0.2": Pair(one, _flat(mine, moved)),
        "same modules, other attributes": Pair(one, _flat(mine, others)),
        "one shared object, same slot": Pair(one, with_shared(place), one[place]),
        "one shared object, other slot": Pair(one, with_shared(place + 1), one[place]),
        "shared object one level deeper": Pair(one, deeper, one[place]),
        "shared input, same parent": Pair(two_level[0], same_parent, first),
        "shared input, other parent": Pair(two_level[0], two_level[1], first),
        "nothing shared": Pair(one, _flat(yours, others), one[place]),
        "nothing shared, two levels": Pair(
            two_level[0], _grouped(yours, others, third[2:4], rng), first
        ),
    }


def _flat(modules: Sequence[str], x: Sequence[FloatArray]) -> list[Object]:
    return [Object(m, v, weight=1 / len(modules)) for m, v in zip(modules, x, strict=True)]


def _grouped(
    modules: Sequence[str], x: Sequence[FloatArray], parents: Sequence[str], rng: Rng
) -> list[Object]:
    """Two parents with five inputs each."""
    halves = ((modules[:GROUP], x[:GROUP]), (modules[GROUP:], x[GROUP:]))
    return [
        Object(p, unit(rng), weight=0.5, inputs=_flat(m, v))
        for p, (m, v) in zip(parents, halves, strict=True)
    ]


class Digits:
    """Scenes of real handwritten digits: two frames with three digits each, and two loose ones.

    Every digit is an object of its class's module; its attribute is what the hidden layer of a
    small trained network made of the picture, its 32 leading components at equal size. A frame's
    attribute is the mean of its digits'.

    Args:
        features: (n, m) of every picture.
        labels: (n,) class of every picture.
        look: numbers of pictures to their features when they are looked at again, with noise.
    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: npt.NDArray[np.int64],
        look: Callable[[npt.NDArray[np.int64], Rng], torch.Tensor],
    ) -> None:
        self.features, self.labels, self.look = features, labels, look
        self.by_class = [np.flatnonzero(labels == k) for k in range(10)]

    def digit(self, picture: int, x: torch.Tensor | None = None) -> Object:
        """Return the object that a picture gives."""
        attribute = self.features[picture] if x is None else x
        return Object(f"digit/{self.labels[picture]}", attribute)

    def scene(self, pictures: Sequence[int], x: torch.Tensor | None = None) -> list[Object]:
        """Return the scene of eight pictures: three in the left frame, three right, two loose.

        Args:
            pictures: their numbers.
            x: (8, m) their features, if they are looked at anew.
        """
        seen = [self.digit(p, None if x is None else x[i]) for i, p in enumerate(pictures)]
        frames = [
            Object(side, torch.stack([d.attribute for d in part]).mean(0), inputs=part)
            for side, part in (("left", seen[:3]), ("right", seen[3:6]))
        ]
        return [*frames, *seen[6:]]

    def draw(self, rng: Rng, classes: Sequence[int], number: int) -> list[int]:
        """Draw pictures of some classes."""
        return [int(rng.choice(self.by_class[int(rng.choice(classes))])) for _ in range(number)]

    def pairs(self, rng: Rng) -> dict[str, Pair]:
        """Make one pair of each kind; but for what is said, no class is in both scenes."""
        classes = rng.permutation(10)
        mine, yours = classes[:5].tolist(), classes[5:].tolist()
        pictures, others = self.draw(rng, mine, 8), self.draw(rng, yours, 8)
        one = self.scene(pictures)
        again = self.look(np.array(pictures), rng)
        same = [int(rng.choice(self.by_class[self.labels[p]])) for p in pictures]

        def at(place: int) -> list[Object]:
            changed = list(others)
            changed[place] = pictures[0]
            return self.scene(changed)

        first = one[0].inputs[0]
        return {
            "the same scene, looked at again": Pair(one, self.scene(pictures, again)),
            "same classes, other pictures": Pair(one, self.scene(same)),
            "one shared picture, same frame": Pair(one, at(0), first),
            "one shared picture, other frame": Pair(one, at(3), first),
            "one shared picture, one level higher": Pair(one, at(6), first),
            "no class in common": Pair(one, self.scene(others), first),
        }


def read_digits(epochs: int) -> Digits:
    """Train a small network on a third of scikit-learn's digits, and read all of them with it.

    Args:
        epochs: of training.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    found = datasets.load_digits()
    pictures = torch.from_numpy((found.data / 16).astype(np.float32))
    labels = found.target.astype(np.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Sequential(nn.Linear(64, 128), nn.ReLU())
        network = nn.Sequential(hidden, nn.Linear(128, 10))
        adam = torch.optim.Adam(network.parameters(), lr=3e-3)
        train = torch.arange(0, len(pictures), 3)
        target = torch.from_numpy(labels)
        for _ in range(epochs):
            for rows in torch.split(train[torch.randperm(len(train))], 32):
                loss = nn.functional.cross_entropy(network(pictures[rows]), target[rows])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
    with torch.no_grad():
        seen = hidden(pictures[train])
        _, spread, axes = torch.linalg.svd(seen - seen.mean(0), full_matrices=False)
        white = axes[:SIZE].T / spread[:SIZE] * (len(train) / SIZE) ** 0.5

    @torch.no_grad()
    def features(x: torch.Tensor) -> torch.Tensor:
        read: torch.Tensor = (hidden(x) - seen.mean(0)) @ white
        return read

    def look(numbers: npt.NDArray[np.int64], rng: Rng) -> torch.Tensor:
        noise = rng.normal(0, 0.1, (len(numbers), 64)).astype(np.float32)
        return features(pictures[torch.from_numpy(numbers)] + torch.from_numpy(noise))

    return Digits(features(pictures), labels, look)
