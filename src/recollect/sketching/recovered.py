"""A network that runs, recovered from inputs and sketches alone.

``recover_network`` learns modules, attributes and wiring from the sketches (``recover_wiring``,
or ``read_signatures`` where columns carry names), then which modules fire on which input
(``Gates``), then every module's function of what it reads (``ModuleFunction``): the input, and
the attributes of the modules that feed it. What comes back can be called with new inputs.

Reference: "Recursive Sketches for Modular Deep Learning" (Ghazi, Panigrahy and Wang, 2019) for the
task; the fits are our own choice.

Shape letters: S glances, n numbers of an input, d numbers in a sketch, K sources, P modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recollect._answers import Answer
from recollect._checks import check_integer
from recollect._seeds import seed_of
from recollect.sketching.assigning import Placed, placed
from recollect.sketching.dictionary import BlockSparse, read_signatures
from recollect.sketching.functions import ModuleFunction, fit_function
from recollect.sketching.gates import Gates, fit_gates
from recollect.sketching.sparse_rows import ZERO, large
from recollect.sketching.wiring import Wiring, recover_wiring
from recollect.tracing import Object, Trace

__all__ = ["RecoveredNetwork", "recover_network"]

# Share of the glances that judge gates and functions.
HELD_OUT = 0.2
# A flat sketch's attribute is zero within so many deviations of what is read of zeros.
DEVIATIONS = 5.0
TOP = -1


@dataclass(frozen=True, eq=False)
class RecoveredNetwork:
    """What ``recover_network`` returns; call it with inputs.

    Attributes:
        wiring: modules, sources, edges, and what cannot be told.
        gates: for each parent (-1: the top) its modules and their gates.
        functions: of the modules of which enough was seen.
        placed: which source is which feature of which module under which parent.
        columns: (d, K) of the sources, as they are counted in ``attributes``.
        names: (K,) place of a source in its module's attribute as its column says; otherwise -1.
    """

    wiring: Wiring
    gates: Mapping[int, tuple[tuple[int, ...], Gates]]
    functions: Mapping[int, ModuleFunction]
    placed: Placed
    columns: Tensor
    names: Tensor

    def __call__(self, inputs: Tensor) -> Trace:
        """Return what the recovered network does with (S, n) inputs, as a trace.

        Modules are called ``module/0``, ``module/1``, ...
        """
        fires, values = self._run(inputs)
        return Trace.from_objects([self._glance(row, fires, values) for row in range(len(inputs))])

    def attributes(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return counts (S, P) whole numbers and sources (S, K), predicted from (S, n) inputs."""
        fires, values = self._run(inputs)
        wiring = self.wiring
        counts = torch.zeros(len(inputs), wiring.counts.shape[1], dtype=torch.int64)
        sources = torch.zeros(len(inputs), wiring.sources.shape[1], dtype=torch.float64)
        for (parent, module), on in fires.items():
            counts[:, module] += on
            for feature, source in enumerate(self.placed.sources.get((parent, module), ())):
                if source >= 0 and (parent, module) in values:
                    sources[:, source] = values[parent, module][:, feature] * on
        return counts, sources

    def sketches(self, inputs: Tensor) -> Tensor:
        """Return the sketches (S, d) that the hidden network is expected to leave."""
        counts, sources = self.attributes(inputs)
        found: Tensor = sources @ self.columns.T
        return found + counts.to(torch.float64) @ self.wiring.count_columns.T

    @cached_property
    def report(self) -> Answer:
        """How sure it is: a row for each module; the notes say what cannot be told."""
        rows = [self._row(p) for p in range(self.wiring.counts.shape[1])]
        notes = [
            f"module/{e.child} feeds module/{e.parent}: {e.glances} glances, chance {e.chance:.0e}"
            for e in self.wiring.edges
        ]
        notes += [*self.wiring.doubts, *(u.reason for u in self.wiring.unidentified)]
        notes += [
            f"module/{row['module']}: too few glances to fit its function"
            for row in rows
            if row["function"] is None
        ]
        names = list(rows[0]) if rows else ["module"]
        return Answer({k: [row[k] for row in rows] for k in names}, "recovered modules", notes)

    def _row(self, p: int) -> dict[str, object]:
        """Return one module's line of the report."""
        function = self.functions.get(p)
        accuracy, usual, rules = [], [], []
        for members, gates in self.gates.values():
            if p in members:
                place = members.index(p)
                accuracy.append(float(gates.accuracy[place]))
                usual.append(float(gates.usual[place]))
                rules.append(gates.rule + (f" {gates.number}" if gates.number else ""))
        share = (self.wiring.counts[:, p] > 0).to(torch.float64).mean()
        return {
            "module": p,
            "feeds": [q for q, child in sorted(self.placed.sources) if child == p and q >= 0],
            "is fed by": self.placed.children(p),
            "modules in one": int(self.wiring.members[p]),
            "attributes": self.placed.features(p),
            "fires": float(share),
            "gate": ", ".join(sorted(set(rules))),
            "gate accuracy": float(np.mean(accuracy)) if accuracy else None,
            "always or never": float(np.mean(usual)) if usual else None,
            "function": function.kind if function else None,
            "held-out R2": function.r2 if function else None,
        }

    def _run(
        self, inputs: Tensor
    ) -> tuple[dict[tuple[int, int], Tensor], dict[tuple[int, int], Tensor]]:
        """Return who fires where, (S,) bool, and with which attributes, (S, m)."""
        u = inputs.to(torch.float64)
        if u.ndim != 2:
            raise ValueError(f"inputs of shape (S, n) are expected, got {tuple(u.shape)}")
        fires: dict[tuple[int, int], Tensor] = {}
        for parent in sorted(self.gates):
            members, gates = self.gates[parent]
            above = fires[TOP, parent] if parent != TOP else torch.ones(len(u), dtype=torch.bool)
            for p, on in zip(members, gates(u).T, strict=True):
                fires[parent, p] = on & above
        values: dict[tuple[int, int], Tensor] = {}
        for leaves in (True, False):
            for (parent, p), on in fires.items():
                children = self.placed.children(p)
                if p not in self.functions or leaves == bool(children):
                    continue
                parts = [values[p, c] * fires[p, c][:, None] for c in children if (p, c) in values]
                values[parent, p] = self.functions[p](torch.cat([u, *parts], 1)) * on[:, None]
        return fires, values

    def _glance(
        self, row: int, fires: dict[tuple[int, int], Tensor], values: dict[tuple[int, int], Tensor]
    ) -> list[Object]:
        """Return one glance's objects."""

        def made(parent: int, p: int) -> Object:
            below = [made(p, c) for c in self.placed.children(p) if bool(fires[p, c][row])]
            known = values.get((parent, p))
            x = np.zeros(0) if known is None else known[row].numpy()
            return Object(f"module/{p}", x, inputs=below)

        return [made(TOP, p) for q, p in fires if q == TOP and bool(fires[q, p][row])]


def recover_network(
    inputs: Tensor, sketches: Tensor, *, maps: BlockSparse | None = None, seed: int = 0
) -> RecoveredNetwork:
    """Learn a hidden modular network from pairs of input and sketch; its operators are unknown.

    Args:
        inputs: (S, n).
        sketches: (S, d): of the energy scheme and of two levels, or flat ones of block-sparse
            operators.
        maps: the format of the words of block-sparse operators; None: recursive sketches.
        seed: of searches, and of which glances are held out to judge.

    Returns:
        A network that can be called, with ``wiring`` and ``report``.

    Raises:
        ValueError: if the pairs are too few (it says how many are needed), or do not belong
            together.
    """
    check_integer("seed", seed, minimum=0)
    u = inputs.to(torch.float64)
    if u.ndim != 2 or len(u) != len(sketches):
        raise ValueError(
            f"inputs (S, n) and sketches (S, d) of the same S glances are expected, got "
            f"{tuple(u.shape)} and {tuple(sketches.shape)}"
        )
    if not bool(u.isfinite().all()) or not bool(sketches.isfinite().all()):
        raise ValueError("inputs and sketches must be finite; leave out glances that are not")
    if len(u) < 8 * (u.shape[1] + 1):
        raise ValueError(
            f"{len(u)} pairs are too few to learn functions of {u.shape[1]} numbers: at least "
            f"{8 * (u.shape[1] + 1)} are needed"
        )
    names = torch.full((0,), -1)
    if maps is None:
        wiring = recover_wiring(sketches, seed=seed)
    else:
        wiring, names = _flat(sketches, maps)
    size = wiring.columns.norm(dim=0) if maps is None else torch.ones(wiring.columns.shape[1])
    size = torch.where(size > 0, size, 1.0).to(torch.float64)
    at = placed(u, wiring, size)
    generator = torch.Generator().manual_seed(seed_of(seed, "held out"))
    judge = torch.rand(len(u), generator=generator) < HELD_OUT
    gates = {}
    for parent in sorted({q for q, _ in at.fires}):
        members = tuple(sorted(p for q, p in at.fires if q == parent))
        known = torch.stack([at.known[parent, p] for p in members], 1).all(1)
        fires = torch.stack([at.fires[parent, p] for p in members], 1)
        if bool(known.any()):
            gates[parent] = members, fit_gates(u[known], fires[known], judge[known])
    functions = _functions(u, wiring.sources * size, at, judge)
    return RecoveredNetwork(wiring, gates, functions, at, wiring.columns / size, names)


def _functions(u: Tensor, x: Tensor, at: Placed, judge: Tensor) -> dict[int, ModuleFunction]:
    """Fit the function of every module that was seen often enough."""
    found = {}
    for p in sorted({p for _, p in at.fires}):
        reads, gives, judges = [], [], []
        for q in at.best_parents(p):
            rows = at.fires[q, p] & at.known[q, p]
            below = [x[rows][:, list(at.sources[p, c])] for c in at.children(p)]
            for part, c in zip(below, at.children(p), strict=True):
                part[:, [k < 0 for k in at.sources[p, c]]] = 0
            own = x[rows][:, list(at.sources[q, p])]
            own[:, [k < 0 for k in at.sources[q, p]]] = 0
            reads.append(torch.cat([u[rows], *below], 1))
            gives.append(own)
            judges.append(judge[rows])
        if reads and int((~torch.cat(judges)).sum()) > 2 * reads[0].shape[1]:
            found[p] = fit_function(torch.cat(reads), torch.cat(gives), torch.cat(judges))
    return found


def _flat(sketches: Tensor, maps: BlockSparse) -> tuple[Wiring, Tensor]:
    """Read flat sketches whose columns carry names: a wiring without edges, and places (K,)."""
    s = sketches.to(torch.float64)
    named = read_signatures(s, maps)
    number = torch.nonzero(named.found)[:, 0]
    if not len(number):
        raise ValueError(
            f"no column of these {len(s)} sketches could be read: more are needed, or fewer "
            "attributes that are active at once"
        )
    columns = named.columns[:, number]
    read = torch.linalg.lstsq(columns, s.T).solution.T
    sign = torch.sign(read.sum(0))
    read, columns = read * sign, columns * sign
    noise = 1.4826 * read.abs().median(0).values
    least = torch.maximum(DEVIATIONS * noise, ZERO * large(read))
    read = torch.where(read > least, read, 0.0)
    owner = number // maps.size
    counts = torch.zeros(len(s), maps.modules, dtype=torch.int64)
    for p in range(maps.modules):
        counts[:, p] = (read[:, owner == p] > 0).any(1)
    none = torch.zeros(s.shape[1], maps.modules, dtype=torch.float64)
    top = torch.full_like(owner, TOP)
    wiring = Wiring(counts, read, columns, none, owner, top, len(number) + maps.modules)
    return wiring, number % maps.size
