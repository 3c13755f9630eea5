"""Recollections: what a sketch is read to hold, every number with a standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect._answers import Answer, interval
from recollect._checks import check_one_of, unknown_name
from recollect.sketching.decoder import Decoder, solve_all
from recollect.sketching.layout import Layout
from recollect.sketching.methods import METHODS
from recollect.sketching.prior import Prior
from recollect.sketching.propagated import check_learnable
from recollect.sketching.skeletons import unpack_structure
from recollect.sketching.sketches import Sketches
from recollect.sketching.solve import Solution
from recollect.sketching.structure import Discovered, find_structure
from recollect.sketching.unprepared import unprepared_counts
from recollect.tracing import Column, Edges, Objects, Trace

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Decoder", "Recollection"]

Floats = npt.NDArray[np.float64]


class Recollection:
    """What sketches are read to hold; computed when asked.

    Made by ``Sketcher.decode``.

    Attributes:
        sketches: what is read.
        prior: what it is read with, or None.
        method: how.
        discovered: what was found where the structure was searched for, else None.

    Example:
        >>> from recollect import Sketcher, Trace
        >>> t = Trace.from_columns({"cat": torch.tensor([[1.0, 2.0]])})
        >>> sketcher = Sketcher(dim=64, dtype="float32")
        >>> r = sketcher.decode(sketcher.encode(t))
        >>> r, r.objects("cat").attributes.round(decimals=3).tolist()
        (Recollection(1 sketch, load 0.03, no prior), [[1.0, 2.0]])
    """

    def __init__(
        self,
        sketcher: Sketcher,
        sketches: Sketches,
        prior: Prior | None,
        method: str,
        structure: str = "kept",
    ) -> None:
        check_one_of("method", method, METHODS)
        check_one_of("structure", structure, ("kept", "find"))
        check_learnable(prior, method, sketches.modules)
        self.discovered: Discovered | None = None
        if structure == "find":
            self.discovered = find_structure(sketcher, sketches)
            sketches = self.discovered.sketches
        self.sketches, self.prior, self.method = sketches, prior, method
        self._sketcher = sketcher
        self._decoder = sketcher.decoder(prior, method, sketches.dim)

    def __repr__(self) -> str:
        n = len(self.sketches)
        return (
            f"Recollection({n} sketch{'es' if n != 1 else ''}, load {self.load:.2f}, "
            f"{self.prior or 'no prior'})"
        )

    def __len__(self) -> int:
        return len(self.sketches)

    @property
    def load(self) -> float:
        """Unknowns per number of a sketch (of the fullest glance); beyond 1 a prior is needed."""
        skeletons = self.sketches.skeletons
        table = self.sketches.modules
        if skeletons is None:
            return sum(e.size * len(e.members) for e in table) / self.sketches.dim
        sizes = [
            sum(table.family_of(i).size for i in unpack_structure(p).modules.tolist())
            for p in skeletons.table
        ]
        return max(sizes, default=0) / self.sketches.dim

    @property
    def notes(self) -> list[str]:
        """What the reader of these estimates should know, beside the ``load``."""
        found = [] if self.discovered is None else self.discovered.answer().notes
        if self.prior is None and self.load > 1:
            return [
                *found,
                f"load {self.load:.2f}: more unknowns than numbers and no prior, so nothing can "
                "be said; fit a prior on traces of this network",
            ]
        return found

    # -- objects --------------------------------------------------------------------------

    @cached_property
    def _solutions(self) -> list[tuple[Tensor, Layout, Solution]]:
        if self.sketches.skeletons is None:
            raise ValueError(
                "single objects cannot be told apart in a sum of sketches, or without skeletons; "
                "ask for counts() or means(module), or decode single glances, with "
                'structure="find" where no skeletons were kept'
            )
        return solve_all(self._decoder, self.sketches)

    def objects(self, module: str) -> Objects:
        """Return the objects of a module, with estimated attributes and standard deviations.

        Without a prior and with more unknowns than numbers, attributes are NaN and their
        standard deviations infinite: refused, not guessed.

        Raises:
            NotRemembered: if no sketch knows the module (the nearest names are suggested).
            ValueError: if the sketches are sums, or were kept without skeletons.
        """
        self.sketches.modules.id_of(module)
        found: list[tuple[int, int, Tensor, Tensor, float, tuple[str, ...]]] = []
        for rows, layout, solution in self._solutions:
            start = 0
            for u in layout.unknowns:
                where = slice(start, start + u.entry.size)
                start += u.entry.size
                if u.module == module:
                    mean, std = solution.mean[:, where], solution.std[:, where]
                    found.extend(
                        (int(g), u.rank, mean[i], std[i], u.weight, u.names)
                        for i, g in enumerate(rows.tolist())
                    )
        found.sort(key=lambda f: f[:2])
        entry = self.sketches.modules.family_of(self.sketches.modules.id_of(module))
        empty = torch.zeros(0, entry.size, dtype=torch.float64)
        scale = entry.scale
        mean = torch.stack([f[2] for f in found]) if found else empty
        std = torch.stack([f[3] for f in found]) if found else empty
        return Objects(
            module,
            (mean * scale).to(torch.float32),
            torch.tensor([f[0] for f in found], dtype=torch.int64),
            torch.tensor([f[4] for f in found], dtype=torch.float32),
            [f[5] for f in found],
            (std * scale).to(torch.float32),
        )

    @cached_property
    def refused(self) -> npt.NDArray[np.bool_]:
        """(B,) whether something in a glance, or its structure, is refused instead of guessed."""
        out = np.zeros(len(self), dtype=bool)
        if self.discovered is not None:
            out |= self.discovered.refused
        for rows, _, solution in self._solutions:
            out[rows.numpy()] |= torch.isinf(solution.std).any(1).numpy()
        return out

    def at(self, path: Sequence[str]) -> Objects:
        """Return the objects at one path, with estimated attributes and standard deviations.

        Args:
            path: names of modules from the output down.

        Raises:
            NotRemembered: if no glance holds an object there (the nearest paths are suggested).
            ValueError: if the sketches are sums, or were kept without skeletons.

        Example:
            >>> from recollect import Object, Sketcher, Trace
            >>> cat = Object("cat", [1.0], inputs=[Object("face", [2.0])])
            >>> sketcher = Sketcher(dim=64, dtype="float32")
            >>> r = sketcher.decode(sketcher.encode(Trace.from_objects([[cat]])))
            >>> r.at(("cat", "face")).attributes.round(decimals=3).tolist()
            [[2.0]]
        """
        if isinstance(path, str):
            raise TypeError(
                f"a path is a sequence of module names from the output down, got {path!r}; "
                f"write at(({path!r},))"
            )
        wanted = tuple(path)
        there = {u.names for _, layout, _ in self._solutions for u in layout.unknowns}
        if wanted not in there:
            raise unknown_name("path", " > ".join(wanted), [" > ".join(p) for p in there])
        every = self.objects(wanted[-1])
        rows = [i for i, p in enumerate(every.path) if p == wanted]
        kept = torch.tensor(rows, dtype=torch.int64)
        std = None if every.std is None else every.std[kept]
        return Objects(
            every.module, every.attributes[kept], every.glance[kept], every.weight[kept],
            [every.path[i] for i in rows], std,
        )  # fmt: skip

    def trace(self) -> Trace:
        """Return the estimates as a trace again: the structure kept, the attributes decoded."""
        return self._as_trace(std=False)

    def deviations(self) -> Trace:
        """Return the standard deviations of all attributes as a trace of the same structure."""
        return self._as_trace(std=True)

    def _as_trace(self, *, std: bool) -> Trace:
        gathered: dict[str, list[tuple[int, int, int, Tensor, float]]] = {}
        edges: list[tuple[int, int, int, float]] = []
        flat = all(layout.structure.is_flat for _, layout, _ in self._solutions)
        for rows, layout, solution in self._solutions:
            chosen = solution.std if std else solution.mean
            s = layout.structure
            for i, g in enumerate(rows.tolist()):
                start = 0
                for u in layout.unknowns:
                    value = chosen[i, start : start + u.entry.size] * u.entry.scale
                    start += u.entry.size
                    gathered.setdefault(u.entry.name, []).append(
                        (g, u.rank, u.member, value, u.weight)
                    )
                edges.extend(
                    (g, p, c, w) for p, c, w in zip(s.parent.tolist(), s.child.tolist(),
                                                   s.weight.tolist(), strict=True)
                )  # fmt: skip
        columns = {
            name: _column(name, self.sketches.modules[name].members, rows_)
            for name, rows_ in gathered.items()
        }
        kept = None if flat else _edges(edges)
        return Trace(columns, len(self.sketches), kept)

    # -- without skeletons ----------------------------------------------------------------

    def count_estimates(
        self, modules: Sequence[str] | None = None
    ) -> tuple[tuple[str, ...], Floats, Floats]:
        """Estimate from the sketch alone how many objects of each module each row holds.

        Args:
            modules: which; all that are known, if None.

        Returns:
            names (P,), estimates (B, P) and standard deviations (B, P). Of a module that the prior
            has never met nothing can be said: NaN and infinite.

        Raises:
            NotRemembered: if a module is unknown.
        """
        table = self.sketches.modules
        names = tuple(modules) if modules is not None else table.names
        for name in names:
            table.id_of(name)
        if self.prior is None:
            all_names, estimate, std = unprepared_counts(self._decoder, self.sketches)
        else:
            values = self.sketches.values.to(torch.float64)
            all_names, estimate, std = self._decoder.bags.counts(values, self.sketches.count)
        place = {name: i for i, name in enumerate(all_names)}
        asked = [i for i, name in enumerate(names) if name in place]
        picked = [place[names[i]] for i in asked]
        shape = (len(estimate), len(names))
        estimates, deviations = np.full(shape, np.nan), np.full(shape, np.inf)
        estimates[:, asked] = estimate[:, picked].numpy()
        deviations[:, asked] = std[:, picked].numpy()
        return names, estimates, deviations

    def counts(self, modules: Sequence[str] | None = None) -> Answer:
        """Return the counts of each row and module, from the sketch alone, with 90 % intervals.

        Columns: glance, module, count (the nearest whole number), estimate, std, low, high.
        """
        names, estimate, std = self.count_estimates(modules)
        low, high = interval(estimate, std, floor=0.0)
        rows, place = np.divmod(np.arange(estimate.size), max(len(names), 1))
        flat = estimate.reshape(-1)
        whole = [round(v) if np.isfinite(v) else None for v in flat.tolist()]
        return Answer(
            {
                "glance": rows,
                "module": [names[i] for i in place.tolist()],
                "count": whole,
                "estimate": flat,
                "std": std.reshape(-1),
                "low": low.reshape(-1),
                "high": high.reshape(-1),
            },
            title="counts from the sketch alone",
            notes=self.notes,
        )

    def means(self, module: str, counts: npt.ArrayLike | None = None) -> tuple[Tensor, Tensor]:
        """Estimate the mean attribute of a module in each row; works on sums.

        Args:
            module: whose attributes.
            counts: (B,) objects of the module in each row, where they are known exactly;
                estimated from the sketch otherwise.

        Returns:
            mean (B, m) and standard deviation (B, m), float32.

        Raises:
            ValueError: if there is no prior.
            NotRemembered: if the module is unknown.
        """
        self.sketches.modules.id_of(module)
        if self.prior is None:
            raise ValueError(
                "the mean over many objects needs a prior: pass prior=Prior.fit(traces) to decode"
            )
        known = None if counts is None else torch.as_tensor(np.asarray(counts, np.float64))
        values = self.sketches.values.to(torch.float64)
        mean, std = self._decoder.bags.means(module, values, self.sketches.count, known)
        return mean.to(torch.float32), std.to(torch.float32)


def _column(
    name: str, members: tuple[str, ...], rows: list[tuple[int, int, int, Tensor, float]]
) -> Column:
    rows.sort(key=lambda r: r[:2])
    return Column(
        name,
        members,
        torch.stack([r[3] for r in rows]).to(torch.float32),
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[2] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.int64),
        np.array([r[4] for r in rows], dtype=np.float32),
    )


def _edges(rows: list[tuple[int, int, int, float]]) -> Edges:
    rows = sorted(rows, key=lambda r: r[0])
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    glance, parent, child = table[:, :3].astype(np.int64).T
    return Edges(glance, parent, child, table[:, 3].astype(np.float32))
