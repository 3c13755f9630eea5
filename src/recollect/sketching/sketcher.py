"""The sketcher: one recipe, one table of modules; encodes traces and decodes sketches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recollect._checks import RecipeMismatch
from recollect.sketching import decode as decoding
from recollect.sketching.channel import Channel
from recollect.sketching.encode import Encoder
from recollect.sketching.features import ChannelEncoder
from recollect.sketching.layout import ColumnCache
from recollect.sketching.masking import Reordered
from recollect.sketching.operators import Operators
from recollect.sketching.prior import Prior
from recollect.sketching.recipe import ModuleTable, Recipe
from recollect.sketching.skeletons import Skeletons, Structure, pack_structure
from recollect.sketching.sketches import Sketches, quantize
from recollect.sketching.unfolding import kept_weights
from recollect.tracing import Column, Edges, Object, Trace

__all__ = ["Sketcher"]

# Sets of lost numbers for which operators in another order are kept.
_MASKS = 8


class Sketcher:
    """Makes one short sketch per glance, and reads sketches again.

    Args:
        dim: numbers in a sketch, a multiple of 64.
        seed: root of all randomness; sketches of different seeds cannot be mixed.
        scheme: ``"energy"`` (default, decodable at every depth), ``"keyed"`` (one operator per
            path) or ``"paper"`` (the published recursion).
        dtype: how sketches are kept: ``"int8"``, ``"float16"`` or ``"float32"``.
        scales: module name -> positive number by which its attributes are divided, so that
            modules of very different size are remembered alike; missing ones are 1. A Memory
            measures them itself.
        slots: whether the place of an input among its siblings enters the sketch.
        operators: family of the attributes' operators: ``"hadamard"`` (default, fast), or, for
            conformance and study, ``"orthogonal"``, ``"gaussian"`` or ``"block-sparse"``.
        channel: a ``Channel`` to keep the distribution of attributes beside the sketches (True
            for the usual one); without it nothing changes.

    Raises:
        ValueError: on a dim that is no multiple of 64, or an unknown scheme, dtype or family.

    Example:
        >>> cat = Object("cat", [1.0, 2.0], inputs=[Object("face", [0.5, -0.5])])
        >>> t = Trace.from_objects([[cat], [Object("dog", [3.0])]])
        >>> sketcher = Sketcher(dim=128, dtype="float32")
        >>> s = sketcher.encode(t)
        >>> sketcher.decode(s).objects("face").attributes.round(decimals=3).tolist()
        [[0.5, -0.5]]
    """

    def __init__(
        self,
        dim: int = 1024,
        seed: int = 0,
        scheme: str = "energy",
        dtype: str = "int8",
        scales: Mapping[str, float] | None = None,
        *,
        slots: bool = False,
        operators: str = "hadamard",
        channel: Channel | bool | None = None,
    ) -> None:
        kept = (Channel() if channel else None) if isinstance(channel, bool) else channel
        self.recipe = Recipe(dim, seed, scheme, dtype, slots, operators=operators, channel=kept)
        self.modules = ModuleTable()
        self.scales = dict(scales or {})
        for name, scale in self.scales.items():
            if not 0 < scale < float("inf"):
                raise ValueError(f"the scale of module {name!r} must be positive, got {scale}")
        self._encoders: dict[torch.device, Encoder] = {}
        self._channels: dict[torch.device, ChannelEncoder] = {}
        self._without_prior: dict[Any, decoding.Decoder] = {}
        self._masked: dict[bytes, Sketcher] = {}

    @classmethod
    def from_recipe(cls, recipe: Recipe, modules: ModuleTable) -> Sketcher:
        """Make a sketcher that shares an existing table (as a Memory does).

        Raises:
            RecipeMismatch: if the recipe is an informed one, whose directions are not in it.
        """
        if recipe.leading:
            raise RecipeMismatch(
                f"this recipe leads with {recipe.leading} directions of a prior (basis "
                f"{recipe.basis}); make its sketcher from that prior: InformedSketcher(prior)"
            )
        made = cls(
            recipe.dim, recipe.seed, recipe.scheme, recipe.dtype,
            slots=recipe.slots, operators=recipe.operators, channel=recipe.channel,
        )  # fmt: skip
        made.modules = modules
        return made

    def __repr__(self) -> str:
        r = self.recipe
        return (
            f"Sketcher(dim={r.dim}, seed={r.seed}, scheme={r.scheme!r}, dtype={r.dtype!r}, "
            f"{len(self.modules)} modules seen)"
        )

    # -- encoding -------------------------------------------------------------------------

    def admit(self, trace: Trace, *, measure_scales: bool = False) -> list[str]:
        """Append the trace's new modules to the table and return their family names.

        Args:
            trace: its modules are admitted.
            measure_scales: freeze each new module's scale at its deviation times the root of its
                size, measured on this trace, instead of the scales given to the sketcher.

        Raises:
            ValueError: if a known module's attributes changed their size; nothing is admitted.
        """
        new = []
        for name, c in trace.columns.items():
            if name in self.modules:
                self.modules.add(name, c.size, c.members)
            else:
                new.append(name)
        for name in new:
            c = trace.columns[name]
            measured = _scale(c, len(trace)) if measure_scales else 1.0
            scale = self.scales.get(name, measured)
            self.modules.add(name, c.size, c.members, scale)
        return new

    def encode(self, trace: Trace) -> Sketches:
        """Return one sketch per glance.

        Row i depends on glance i alone, to the last bit, whatever else is in the batch.

        Args:
            trace: B glances; their attributes may be on any device.

        Raises:
            ValueError: if a module's attributes changed their size, or shared objects unfold to
                too many occurrences.
        """
        self.admit(trace)
        values = self.unrounded(trace)
        codes, scale = quantize(values, self.recipe.dtype)
        count = torch.ones(len(trace), dtype=torch.int64)
        return Sketches(
            codes, scale, count, self.skeletons(trace), self.modules, self.recipe,
            self.channel(trace),
        )  # fmt: skip

    def channel(self, trace: Trace) -> Sketches | None:
        """Return the distribution channel of a trace's glances, if the recipe keeps one."""
        if self.recipe.channel is None:
            return None
        encoder = self.channel_encoder(_device_of(trace))
        codes, scale = quantize(encoder.encode(trace, self.modules), "int8")
        count = torch.ones(len(trace), dtype=torch.int64)
        return Sketches(codes, scale, count, None, self.modules, encoder.recipe)

    def channel_encoder(self, device: torch.device | str = "cpu") -> ChannelEncoder:
        """Return the encoder of this recipe's distribution channel on a device.

        Raises:
            ValueError: if the recipe has none.
        """
        device = torch.device(device)
        if device not in self._channels:
            self._channels[device] = ChannelEncoder(self.recipe, device)
        return self._channels[device]

    def unrounded(self, trace: Trace) -> Tensor:
        """Return the (B, d) float32 sketches before they are rounded to the recipe's dtype."""
        self.admit(trace)
        return self.encoder(_device_of(trace)).encode(trace, self.modules)

    def encoder(self, device: torch.device | str = "cpu") -> Encoder:
        """Return the encoder with this recipe's operators on a device."""
        device = torch.device(device)
        if device not in self._encoders:
            operators = Operators(self.recipe, device)
            self._encoders[device] = Encoder(operators, self.recipe.scheme, self.recipe.slots)
        return self._encoders[device]

    def probe(self, thing: Object | Trace) -> Tensor:
        """Return the unrounded sketch of an object, or of a trace's first glance, without counts.

        Its product with a sketch measures how much of that object the glance holds.

        Returns:
            (d,) float32.

        Raises:
            NotRemembered: if the object's module has never been seen.
        """
        trace = Trace.from_objects([[thing]]) if isinstance(thing, Object) else thing[0]
        for name in trace.columns:
            if name not in self.modules:
                self.modules.id_of(name)
        self.admit(trace)
        encoder = self.encoder()
        return encoder.operators.leave(encoder.working(trace.cpu(), self.modules))[0]

    def parts(self, trace: Trace, split: Collection[str] = ()) -> dict[tuple[str, ...], Tensor]:
        """Split the unrounded sketches by path; the parts add up to the whole.

        Args:
            trace: B glances.
            split: families whose members are told apart (the classes of a classifier).

        Returns:
            path (family names from the output down) -> (B, d), and the empty path, which stands
            for the counts, -> (B, d).
        """
        self.admit(trace)
        encoder = self.encoder()
        parts: dict[tuple[str, ...], Tensor] = {}
        trace = trace.cpu()
        if trace.edges is None and self.recipe.scheme != "paper":
            # Objects that stand on top alone: what is not on the path need not be encoded.
            for path, column in _columns_alone(trace, split):
                alone = Trace({column.name: _ranked_alone(column)}, trace.num_glances)
                parts[path] = encoder.operators.leave(encoder.working(alone, self.modules))
            parts[()] = encoder.counts(trace)
            return parts
        nothing = encoder.operators.leave(encoder.working(_only(trace, {}), self.modules))
        for path, rows in _rows_by_path(trace, split).items():
            image = encoder.operators.leave(encoder.working(_only(trace, rows), self.modules))
            parts[path] = image - nothing
        counters = self.recipe.scheme == "paper"
        parts[()] = nothing if counters else encoder.counts(trace)
        return parts

    def skeletons(self, trace: Trace) -> Skeletons:
        """Return the structure of each glance; its modules must have been admitted."""
        return Skeletons.from_packed(_packed(trace, self.modules))

    # -- decoding -------------------------------------------------------------------------

    def decode(
        self,
        sketches: Sketches,
        prior: Prior | None = None,
        method: str = "auto",
        *,
        structure: str = "kept",
    ) -> decoding.Recollection:
        """Estimate what a sketch holds, each estimate with a standard deviation.

        Args:
            sketches: of this recipe; prefixes, masked ones and sums are welcome.
            prior: what is usual, fitted from traces at any time; without one, ``"auto"`` is
                least squares.
            method: ``"auto"``, ``"joint"``, ``"per-module"``, ``"mixture"``, ``"codebook"``,
                ``"sparse"``, ``"omp"``, ``"cosamp"``, ``"least_squares"`` or ``"transpose"``;
                ``recollect.sketching.methods`` says what each does.
            structure: ``"kept"`` reads the skeletons; ``"find"`` searches for the structure in
                the sketches alone (``recollect.sketching.structure``), and refuses the glances
                where none explains them. Attributes found so come multiplied with the root of
                their weight.

        Raises:
            RecipeMismatch: if the sketches were made with another recipe.
            ValueError: on an unknown method, or a prior that is missing, of another network, or
                of too few glances for it.
        """
        self.recipe.check_same(sketches.recipe)
        self._check_table(sketches.modules)
        if sketches.kept is not None:
            known = replace(sketches, kept=None, modules=self.modules)
            reordered = self._reordered(sketches.kept.cpu())
            return reordered.decode(known, prior, method, structure=structure)
        return decoding.Recollection(self, sketches.cpu(), prior, method, structure)

    def decoder(self, prior: Prior | None, method: str, dim: int) -> decoding.Decoder:
        """Return what decoding with a prior needs more than once, kept while the prior lives."""
        # Kept by the prior: a decoder holds its prior, but its sketcher only weakly.
        kept = self._without_prior if prior is None else prior.decoders.setdefault(self, {})
        key = (method, dim, len(self.modules))
        if key not in kept:
            kept[key] = decoding.Decoder(self, prior, method, dim)
        return kept[key]

    def _reordered(self, kept: Tensor) -> Sketcher:
        """Return a sketcher to which masked sketches are prefixes; the last few are kept."""
        key = kept.numpy().tobytes()
        if key not in self._masked:
            made = Sketcher.from_recipe(self.recipe, self.modules)
            operators = Reordered(self.encoder().operators, kept)
            made._encoders[torch.device("cpu")] = Encoder(
                operators, self.recipe.scheme, self.recipe.slots
            )
            while len(self._masked) >= _MASKS:
                del self._masked[next(iter(self._masked))]
            self._masked[key] = made
        return self._masked[key]

    @cached_property
    def column_cache(self) -> ColumnCache:
        """Recently used columns of the linear map from attributes to sketch."""
        return ColumnCache(self.encoder())

    def _check_table(self, table: ModuleTable) -> None:
        """Take over the modules of sketches made elsewhere; refuse other sizes and scales."""
        if table is self.modules:
            return
        for entry in table:
            known = self.modules.add(entry.name, entry.size, entry.members, entry.scale)
            if (known.scale, known.first_id) != (entry.scale, entry.first_id):
                raise ValueError(
                    f"these sketches hold module {entry.name!r} as number {entry.first_id} with "
                    f"scale {entry.scale:g}, this sketcher as number {known.first_id} with scale "
                    f"{known.scale:g}; decode them with the sketcher (or memory) that made them"
                )


def _device_of(trace: Trace) -> torch.device:
    """Device of a trace's attributes, the host if there are several."""
    devices = {c.attributes.device for c in trace.columns.values()}
    return next(iter(devices)) if len(devices) == 1 else torch.device("cpu")


def _scale(column: Column, glances: int) -> float:
    """Deviation times the root of the size; the size of the attributes if they do not vary.

    Of modules that come and go it is the size: their mean is no constant of the sketch, it tells
    that they are there, and a first batch may show one and the same object many times.
    """
    x = column.attributes.detach().to(torch.float64)
    whole = float(x.square().sum(1).mean().sqrt())
    if len(x) >= 8 and column.is_dense(glances):
        deviation = float((x - x.mean(0)).square().sum(1).mean().sqrt())
        if deviation > 1e-3 * whole:
            return deviation
    return whole if whole > 0 else 1.0


def _packed(trace: Trace, table: ModuleTable) -> list[bytes]:
    """Pack each glance's structure; glances of a static network share one."""
    columns = list(trace.columns.values())
    if columns and trace.edges is None and all(c.is_static(len(trace)) for c in columns):
        return [_static_skeleton(columns, table)] * len(trace)
    return [pack_structure(s) for s in _structures(trace, table)]


def _static_skeleton(columns: list[Column], table: ModuleTable) -> bytes:
    """Pack the structure that every glance of a static network has."""
    sizes = [len(c.members) for c in columns]
    rank = np.concatenate([c.rank[:k] for c, k in zip(columns, sizes, strict=True)])
    ids = np.concatenate(
        [table[c.name].first_id + np.arange(k) for c, k in zip(columns, sizes, strict=True)]
    )
    top = np.full(len(ids), -1, dtype=np.int64)
    ones = np.ones(len(ids), dtype=np.float32)
    return pack_structure(Structure(ids[np.argsort(rank)], top, np.arange(len(ids)), ones))


def _structures(trace: Trace, table: ModuleTable) -> list[Structure]:
    """Spell out each glance's structure with the table's module ids."""
    columns = list(trace.columns.values())
    empty = [np.zeros(0, np.int64)]
    glance = np.concatenate([c.glance for c in columns] or empty)
    rank = np.concatenate([c.rank for c in columns] or empty)
    ids = np.concatenate([table[c.name].first_id + c.member for c in columns] or empty)
    ids = ids[np.lexsort((rank, glance))]
    edges = trace.all_edges()
    objects = np.concatenate([[0], np.cumsum(np.bincount(glance, minlength=len(trace)))])
    links = np.concatenate([[0], np.cumsum(np.bincount(edges.glance, minlength=len(trace)))])
    weight = kept_weights(edges.weight).astype(np.float32)
    return [
        Structure(
            ids[objects[g] : objects[g + 1]],
            edges.parent[links[g] : links[g + 1]],
            edges.child[links[g] : links[g + 1]],
            weight[links[g] : links[g + 1]],
        )
        for g in range(len(trace))
    ]


def _columns_alone(
    trace: Trace, split: Collection[str]
) -> Iterator[tuple[tuple[str, ...], Column]]:
    """Yield path and column of each family, or of each member of the families to be split."""
    for name, c in trace.columns.items():
        if name not in split:
            yield (name,), c
            continue
        for j in np.unique(c.member).tolist():
            rows = np.flatnonzero(c.member == j)
            picked = torch.from_numpy(rows)
            yield (c.members[j],), replace(
                c, attributes=c.attributes[picked], glance=c.glance[rows],
                member=c.member[rows], rank=c.rank[rows], weight=c.weight[rows],
            )  # fmt: skip


def _rows_by_path(
    trace: Trace, split: Collection[str] = ()
) -> dict[tuple[str, ...], dict[str, list[int]]]:
    """Return path (family names) -> family -> rows; a shared object goes by its first path."""
    family_of = {
        m: m if c.name in split else c.name for c in trace.columns.values() for m in c.members
    }
    places: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for name in sorted(trace.columns):
        c = trace.columns[name]
        if trace.edges is None:
            places[(name,)] = {name: list(range(len(c)))}
            continue
        for row, path in enumerate(trace.paths(c.glance, c.rank)):
            key = tuple(family_of[m] for m in path)
            places.setdefault(key, {}).setdefault(name, []).append(row)
    return places


def _ranked_alone(column: Column) -> Column:
    """Return a column with the ranks its objects have when nothing else is in their glances."""
    order = np.lexsort((column.rank, column.glance))
    first = np.searchsorted(column.glance, column.glance)
    rank = np.empty(len(column), dtype=np.int64)
    rank[order] = np.arange(len(column)) - first
    return replace(column, rank=rank)


def _only(trace: Trace, rows: Mapping[str, list[int]]) -> Trace:
    """Return the trace with every attribute zero but those of some rows."""
    columns = {}
    for name, c in trace.columns.items():
        kept = torch.zeros_like(c.attributes)
        if name in rows:
            picked = torch.tensor(rows[name])
            kept[picked] = c.attributes[picked]
        columns[name] = Column(name, c.members, kept, c.glance, c.member, c.rank, c.weight)
    edges: Edges | None = trace.edges
    return Trace(columns, trace.num_glances, edges)
