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
from recollect.sketching.bags import Bags
from recollect.sketching.joint import JointPrior
from recollect.sketching.known import Blocks, stretch_factor
from recollect.sketching.layout import ColumnCache, Layout
from recollect.sketching.methods import METHODS, PROPAGATED, decode_structure, has_kinds
from recollect.sketching.prior import Prior
from recollect.sketching.propagated import Sites, check_learnable
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.skeletons import unpack_structure
from recollect.sketching.sketches import Sketches
from recollect.sketching.solve import Solution, least_squares
from recollect.sketching.structure import Discovered, find_structure
from recollect.tracing import Column, Edges, Objects, Trace

if TYPE_CHECKING:
    from recollect.sketching.sketcher import Sketcher

__all__ = ["Decoder", "Recollection"]

# Glances of the prior that are held back to calibrate the others' error bars.
CALIBRATION_GLANCES = 48
# Glances of the prior by which a method is chosen, and how many it must hold for that.
CHOICE_GLANCES, LEAST_GLANCES = 16, 24

Floats = npt.NDArray[np.float64]


class Decoder:
    """What decoding with one prior, method and prefix needs more than once.

    Args:
        sketcher: makes the operators and holds the module table.
        prior: or None.
        method: one of ``methods.METHODS``.
        dim: numbers of the sketches to decode (the recipe's dim, or a prefix of it).
    """

    def __init__(self, sketcher: Sketcher, prior: Prior | None, method: str, dim: int) -> None:
        self.sketcher, self.prior, self.method, self.dim = sketcher, prior, method, dim
        self.encoder = sketcher.encoder()
        self.cache: ColumnCache = sketcher.column_cache
        self._joint: dict[tuple[str, ...], JointPrior] = {}
        self._layouts: dict[tuple[bytes, int], Layout] = {}
        self._roots: dict[str, Tensor] = {}

    def layout(self, packed: bytes) -> Layout:
        """Return the layout of a packed skeleton, kept for the next glance that has it."""
        key = (packed, len(self.sketcher.modules))
        if key not in self._layouts:
            if len(self._layouts) > 4096:
                self._layouts.clear()
            structure = unpack_structure(packed)
            self._layouts[key] = Layout(structure, self.sketcher.modules, self.encoder)
        return self._layouts[key]

    def joint(self, families: tuple[str, ...]) -> JointPrior:
        """Return the joint prior over some static families."""
        if families not in self._joint:
            assert self.prior is not None
            self._check_sizes(self.prior)
            self._joint[families] = JointPrior.build(
                self.prior.sample, families, self.encoder, self.sketcher.modules, self.dim,
                self.usual_noise,
            )  # fmt: skip
        return self._joint[families]

    def roots(self, blocks: Blocks) -> list[Tensor]:
        """Return the Cholesky factor of each block's covariance, one per module."""
        for module, f, v in zip(blocks.modules, blocks.factors, blocks.floors, strict=True):
            if module not in self._roots:
                self._roots[module] = torch.linalg.cholesky(f.T @ f + torch.diag(v))
        return [self._roots[module] for module in blocks.modules]

    def _check_sizes(self, prior: Prior) -> None:
        for name in prior.static:
            c, table = prior.sample.columns[name], self.sketcher.modules
            if name in table and (table[name].size, table[name].members) != (c.size, c.members):
                raise ValueError(
                    f"the prior knows module {name!r} with attributes of {c.size} numbers, these "
                    f"sketches hold {table[name].size}; fit the prior on the same network"
                )

    @cached_property
    def usual_noise(self) -> float:
        """Variance that rounding adds to each number of a sketch of the prior's glances."""
        assert self.prior is not None
        some = self.prior.sample[np.arange(min(len(self.prior.sample), 32))]
        return float(rounding_variance(self.sketcher.encode(some)).mean())

    @cached_property
    def bags(self) -> Bags:
        """The model of counts and sums, for questions without a skeleton."""
        assert self.prior is not None
        static = tuple(n for n in self.prior.static if n in self.sketcher.modules)
        joint = self.joint(static) if static else None
        return Bags(self, self.prior, joint)

    @cached_property
    def sites(self) -> Sites:
        """What each module's prior is beyond mean and covariance, for the method."""
        return Sites(self, self.method)

    @cached_property
    def linear(self) -> Decoder:
        """The linear decoder of the same prior and prefix."""
        made = Decoder(self.sketcher, self.prior, "joint", self.dim)
        made._joint, made._layouts, made._roots = self._joint, self._layouts, self._roots
        return made

    @cached_property
    def uses_kinds(self) -> bool:
        """Whether words and zeros read the prior's own held-back glances better."""
        if not has_kinds(self.prior):
            return False
        assert self.prior is not None
        if len(self.prior.sample) < LEAST_GLANCES:
            return any(
                kind != "dense" and name not in self.prior.static
                for name, kind in self.prior.kinds.items()
            )
        fitted, back = self.prior.hold_out(CHOICE_GLANCES)
        judges = [Decoder(self.sketcher, fitted, m, self.dim) for m in ("auto", "joint")]
        judges[0].__dict__["uses_kinds"] = True
        sketches = self.sketcher.encode(back).prefix(self.dim)
        by_kind, linear = (_mean_square(_errors(judge, sketches, back)) for judge in judges)
        return by_kind < linear

    @cached_property
    def calibration(self) -> dict[str, float]:
        """Family -> factor for the standard deviations, from held-back glances of the prior."""
        if self.prior is None or len(self.prior.sample) < 24:
            return {}
        slow = self.method in PROPAGATED or (self.method == "auto" and self.uses_kinds)
        fitted, back = self.prior.hold_out(
            CALIBRATION_GLANCES // 2 if slow else CALIBRATION_GLANCES
        )
        judge = Decoder(self.sketcher, fitted, self.method, self.dim)
        judge.__dict__["uses_kinds"] = self.uses_kinds
        sketches = self.sketcher.encode(back).prefix(self.dim)
        errors = _errors(judge, sketches, back)
        return {name: stretch_factor(*torch.cat(parts, 1)) for name, parts in errors.items()}


def _errors(judge: Decoder, sketches: Sketches, truth: Trace) -> dict[str, list[Tensor]]:
    """Family -> (2, n) tensors: errors and standard deviations of all numbers, scaled."""
    assert sketches.skeletons is not None
    errors: dict[str, list[Tensor]] = {}
    for rows, layout, solution in solve_all(judge, sketches, calibrate=False):
        for i, row in enumerate(rows.tolist()):
            _collect_errors(errors, truth[row], layout, solution, i)
    return errors


def _mean_square(errors: dict[str, list[Tensor]]) -> float:
    """Return the mean square of all scaled errors."""
    every = torch.cat([part[0] for parts in errors.values() for part in parts])
    return float(every.square().mean())


def _collect_errors(
    errors: dict[str, list[Tensor]], truth: Trace, layout: Layout, solution: Solution, row: int
) -> None:
    """Append each family's (2, n): errors and standard deviations of one glance, scaled."""
    start = 0
    place = {
        (c.name, int(r)): c.attributes[i]
        for c in truth.columns.values()
        for i, r in enumerate(c.rank.tolist())
    }
    for u in layout.unknowns:
        where = slice(start, start + u.entry.size)
        true = place[(u.entry.name, u.rank)].to(torch.float64) / u.entry.scale
        pair = torch.stack([solution.mean[row, where] - true, solution.std[row, where]])
        errors.setdefault(u.entry.name, []).append(pair)
        start += u.entry.size


def solve_all(
    decoder: Decoder, sketches: Sketches, *, calibrate: bool = True
) -> list[tuple[Tensor, Layout, Solution]]:
    """Solve all glances, skeleton by skeleton: (rows, layout, solution) of each."""
    assert sketches.skeletons is not None
    values = sketches.values.to(torch.float64)
    noise = rounding_variance(sketches)
    out = []
    for number, packed in enumerate(sketches.skeletons.table):
        rows = torch.from_numpy(np.flatnonzero(sketches.skeletons.index == number))
        if len(rows):
            layout = decoder.layout(packed)
            solution = decode_structure(
                decoder, layout, values[rows], noise[rows], calibrate=calibrate
            )
            out.append((rows, layout, solution))
    return out


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
        values = self.sketches.values.to(torch.float64)
        count = self.sketches.count
        if self.prior is None:
            all_names, estimate, std = _unprepared_counts(
                self._decoder, values, rounding_variance(self.sketches)
            )
        else:
            all_names, estimate, std = self._decoder.bags.counts(values, count)
        place = {name: i for i, name in enumerate(all_names)}
        asked = [i for i, name in enumerate(names) if name in place]
        picked = [place[names[i]] for i in asked]
        shape = (len(values), len(names))
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


def _unprepared_counts(
    decoder: Decoder, values: Tensor, noise: Tensor
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Counts without any prior: least squares over one bag of attributes and a count a module."""
    table = decoder.sketcher.modules
    rows: list[Tensor] = []
    names: list[str] = []
    for entry in table:
        rows.append(decoder.cache.columns(((entry.name,),), entry)[:, : decoder.dim])
        names.extend(entry.members)
    attributes = torch.cat(rows).to(torch.float64)
    columns = torch.stack([count_column(decoder, name) for name in names])
    a = torch.cat([attributes, columns])
    solution = least_squares(a, values, noise)
    start = len(attributes)
    return tuple(names), solution.mean[:, start:], solution.std[:, start:]


def count_column(decoder: Decoder, module: str) -> Tensor:
    """Return the (d,) image of one object of a module in the count block."""
    entry = decoder.sketcher.modules.family_of(decoder.sketcher.modules.id_of(module))
    if decoder.encoder.scheme == "paper":
        return decoder.encoder.counter(((entry.name, "0"),))[: decoder.dim].to(torch.float64)
    one = np.zeros((1, len(entry.members)), dtype=np.float32)
    one[0, entry.members.index(module)] = 1
    image = decoder.encoder.count_image({entry.name: (entry.members, one)}, 1)
    return image[0, : decoder.dim].to(torch.float64)


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
