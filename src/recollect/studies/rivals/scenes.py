"""Glances of objects in one table, and what a code for them must do.

Attributes are scaled by module (deviation times root of the size, from the known glances).

Shape letters: B glances, n objects, m numbers of an attribute, P modules.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recollect.sketching import Prior
from recollect.tracing import Trace

__all__ = ["DynamicCode", "Floats", "Ints", "Scenes"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Scenes:
    """All objects of some glances in one table, by glance, then by module.

    Args:
        trace: every attribute of one size.
        names: modules, in the order of their numbers.
        means: (P, m) of the known glances; measured if None.
        scales: (P,) likewise.
    """

    def __init__(
        self,
        trace: Trace,
        names: list[str],
        means: Floats | None = None,
        scales: Floats | None = None,
    ) -> None:
        self.trace, self.names = trace, names
        parts = [trace.columns[k] for k in names if k in trace.columns]
        kind = np.concatenate([np.full(len(c), names.index(c.name)) for c in parts])
        glance = np.concatenate([c.glance for c in parts])
        raw = np.concatenate([c.attributes.numpy() for c in parts])
        order = np.lexsort((kind, glance))
        self.kind, self.glance, self.raw = kind[order], glance[order], raw[order]
        if means is None or scales is None:
            means = np.stack([self.raw[self.kind == p].mean(0) for p in range(len(names))])
            spread = [
                np.sqrt(((self.raw[self.kind == p] - means[p]) ** 2).sum(1).mean())
                for p in range(len(names))
            ]
            scales = np.maximum(np.array(spread, np.float32), 1e-6)
        self.means, self.scales = means.astype(np.float32), scales
        # Deviations from the module's mean, scaled.
        self.x: Floats = (self.raw - self.means[self.kind]) / self.scales[self.kind, None]

    def __len__(self) -> int:
        return len(self.trace)

    def like(self, trace: Trace) -> Scenes:
        """Return other glances in the same scaling."""
        return Scenes(trace, self.names, self.means, self.scales)

    @cached_property
    def prior(self) -> Prior:
        """What all sketches of these glances are read with."""
        return Prior.fit(self.trace)

    @property
    def number(self) -> Ints:
        """Objects in each glance, (B,)."""
        return np.bincount(self.glance, minlength=len(self))

    @property
    def counts(self) -> Floats:
        """Objects of each module in each glance, (B, P)."""
        table = np.zeros((len(self), len(self.names)), np.float32)
        np.add.at(table, (self.glance, self.kind), 1)
        return table

    @property
    def sums(self) -> Floats:
        """Sums of each module's deviations in each glance, (B, P m)."""
        table = np.zeros((len(self), len(self.names), self.x.shape[1]), np.float32)
        np.add.at(table, (self.glance, self.kind), self.x)
        return table.reshape(len(self), -1)

    def slots(self, most: int) -> Floats:
        """Return (B, most m): the deviations of each glance's objects side by side."""
        place = np.arange(len(self.glance)) - np.searchsorted(self.glance, self.glance)
        table = np.zeros((len(self), most, self.x.shape[1]), np.float32)
        kept = place < most
        table[self.glance[kept], place[kept]] = self.x[kept]
        return table.reshape(len(self), -1)


class DynamicCode(Protocol):
    """A way to keep glances of objects in so many bytes each."""

    def encode(self, scenes: Scenes) -> Any:
        """Return the codes."""
        ...

    def read(self, codes: Any, scenes: Scenes) -> Floats | None:
        """Return the (n, m) scaled deviations, given which modules there are; None: cannot."""
        ...

    def counts(self, codes: Any) -> Floats | None:
        """Return the (B, P) counts."""
        ...

    def day(self, codes: Any, rows: Ints) -> tuple[Floats, Floats] | None:
        """Return counts (P,) and mean deviations (P, m) of a day from one code's bytes."""
        ...

    def probe(self, codes: Any, kind: int, x: Floats) -> Floats | None:
        """Return (B,) scores of how well glances hold an object with these deviations."""
        ...
