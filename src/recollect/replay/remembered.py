"""Training from a memory: in which order its glances come back, and what comes back of them.

    remembered = Remembered(memory, targets)          # targets: id of a glance -> class
    batches = MemorySampler(memory, "reverse", 64, ids=targets)
    for sketches, classes in DataLoader(remembered, batch_sampler=batches): ...

A sampler yields ids, which name a glance for good; places would shift with every addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from recollect._checks import NotRemembered, check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.replay.introspection import IntrospectiveSampler

if TYPE_CHECKING:
    from recollect.memory import Memory

__all__ = ["MemorySampler", "Remembered"]

ORDERS = ("uniform", "reverse", "surprise")
IntArray = npt.NDArray[np.int64]
Surprise = Callable[[list[int]], Any]


class MemorySampler(Sampler[list[int]]):
    """Batches of glance ids of a memory, for the ``batch_sampler`` of a ``DataLoader``.

    The memory is read anew at every pass, so that what was added in between takes part.

    Args:
        memory: whose glances come back.
        order: ``"uniform"``: each glance once, in random order; ``"reverse"``: from the newest
            back to the oldest; ``"surprise"``: each batch looks back in time from a surprising
            glance, and 30 % of the batches are uniform (introspective replay).
        batch_size: glances of a batch, the last may be shorter.
        surprise: ids, in the order of time -> (n,) how surprising each glance is, for instance
            the present loss; asked at the beginning of every pass. Needed by ``"surprise"``.
        num_batches: batches of a pass; None: as many as hold every glance once. More than that
            begin again.
        where: SQL expression that restricts the glances.
        since: first moment (with zone).
        until: moment after the last.
        ids: only these of them, for instance those with a label.
        seed: of the order; every pass has another one.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if the order is unknown, a number below 1, or surprise missing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from recollect import Memory, Object, Trace
        >>> trace = Trace.from_objects([[Object("cat", [float(n)])] for n in range(5)])
        >>> hours = [f"2026-01-01T0{n}:00Z" for n in range(5)]
        >>> with TemporaryDirectory() as folder, Memory(f"{folder}/room") as memory:
        ...     added = memory.add(trace, hours, ids=range(10, 15))
        ...     print(list(MemorySampler(memory, "reverse", batch_size=2)))
        [[14, 13], [12, 11], [10]]
    """

    def __init__(
        self,
        memory: Memory,
        order: str = "uniform",
        batch_size: int = 64,
        *,
        surprise: Surprise | None = None,
        num_batches: int | None = None,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
        ids: Iterable[int] | None = None,
        seed: int = 0,
    ) -> None:
        self.memory = memory
        self.order = check_one_of("order", order, ORDERS)
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        if num_batches is not None:
            check_integer("num_batches", num_batches, minimum=1)
        if order == "surprise" and surprise is None:
            raise ValueError(
                "order='surprise' must know what surprises: give surprise=ids -> (n,) numbers, "
                "for instance the losses of the network that is trained"
            )
        self.surprise, self.num_batches, self.seed = surprise, num_batches, seed
        self.filter = {"where": where, "since": since, "until": until}
        self.ids = None if ids is None else np.array([int(i) for i in ids], np.int64)
        self.passes = 0

    def glances(self) -> IntArray:
        """Return the ids that take part now, (n,), in the order of time."""
        found = self.memory.glances(**self.filter, columns=["id"])["id"].to_numpy()
        return np.asarray(found if self.ids is None else found[np.isin(found, self.ids)], np.int64)

    def __len__(self) -> int:
        return self._count(len(self.glances()))

    def _count(self, glances: int) -> int:
        return -(-glances // self.batch_size) if self.num_batches is None else self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        ids = self.glances()
        if not len(ids):
            raise NotRemembered("no glance is there to be replayed; add some, or widen the filter")
        number, self.passes = self.passes, self.passes + 1
        seed = seed_of(self.seed, "remembered", number)
        count = self._count(len(ids))
        if self.order == "surprise":
            yield from self._surprising(ids, count, seed)
            return
        rng = np.random.default_rng(seed)
        left = count
        while left:
            order = ids[::-1] if self.order == "reverse" else rng.permutation(ids)
            for start in range(0, len(order), self.batch_size)[:left]:
                yield order[start : start + self.batch_size].tolist()
                left -= 1

    def _surprising(self, ids: IntArray, count: int, seed: int) -> Iterator[list[int]]:
        assert self.surprise is not None
        found = self.surprise(ids.tolist())
        values = np.asarray(found.detach().cpu() if isinstance(found, Tensor) else found)
        if values.shape != ids.shape:
            raise ValueError(
                f"surprise must return one number for each of {len(ids)} glances, got the shape "
                f"{values.shape}"
            )
        batch = min(self.batch_size, len(ids))
        inner = IntrospectiveSampler(batch, count, "uier", seed=seed)
        inner.refresh(values)
        for _ in range(count):
            yield ids[inner.sample()].tolist()


class Remembered(Dataset[tuple[Tensor, int]]):
    """Sketches of a memory's glances with what is to be learned about them, by id.

    A sketch is a linear image of what the network computed, and a fixed one: a small network
    learns from it as from features.

    Args:
        memory: that holds them.
        targets: id -> class (an integer).
        prefix: only the first numbers of each sketch.

    Raises:
        ValueError: if there are no targets, or the prefix does not fit the recipe.
        NotRemembered: if a target's glance is not in the memory.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from recollect import Memory, Object, Sketcher, Trace
        >>> trace = Trace.from_objects([[Object("cat", [1.0])], [Object("cat", [2.0])]])
        >>> with TemporaryDirectory() as folder, Memory(f"{folder}/m", Sketcher(64)) as memory:
        ...     added = memory.add(trace, "2026-01-01T00:00Z", ids=[7, 8])
        ...     sketches, classes = Remembered(memory, {7: 0, 8: 1}).batch([8, 7])
        >>> sketches.shape, classes
        (torch.Size([2, 64]), tensor([1, 0]))
    """

    def __init__(
        self, memory: Memory, targets: Mapping[int, int], prefix: int | None = None
    ) -> None:
        if not targets:
            raise ValueError("there are no targets: give a class for at least one glance id")
        self._place = {int(i): n for n, i in enumerate(targets)}
        self._targets = [int(v) for v in targets.values()]
        self._values = torch.from_numpy(memory.values(list(self._place), prefix))

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, glance: int) -> tuple[Tensor, int]:
        """Return the sketch (d,) and the class of one glance.

        Raises:
            NotRemembered: if it has no target.
        """
        place = self._place_of(glance)
        return self._values[place], self._targets[place]

    def _place_of(self, glance: int) -> int:
        if glance not in self._place:
            raise NotRemembered(
                f"glance {glance} has no target here; restrict the sampler with ids=targets"
            )
        return self._place[glance]

    def batch(self, glances: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return sketches (B, d) and classes (B,) at once, faster than one by one.

        Raises:
            NotRemembered: if one of them has no target.
        """
        places = [self._place_of(g) for g in glances]
        classes = torch.tensor([self._targets[p] for p in places])
        return self._values[places], classes
