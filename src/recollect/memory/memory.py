"""A memory: the glances of one network on disk, with one recipe and one module table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from recollect._checks import check_integer, check_one_of
from recollect.memory.beginning import begin_epoch, encode_informed
from recollect.memory.blocks import Block
from recollect.memory.channels import channel_of
from recollect.memory.clock import microseconds_of_all
from recollect.memory.concepts import NamedConcepts
from recollect.memory.engine import Engine
from recollect.memory.epochs import Epoch, InformedSketchers
from recollect.memory.fading import Faded, check_not_forgotten
from recollect.memory.following import Follow, Following, following_of
from recollect.memory.graph import Graph, signatures_of
from recollect.memory.intake import Added, ids_of_all, labels_of_all, sources_of_all
from recollect.memory.layout import Folder
from recollect.memory.merging import extend, merge
from recollect.memory.opening import create_meta, has_scales, read_meta, recipe_and_scales
from recollect.memory.policies import fade_by, policy_of, store_policy
from recollect.memory.priors import Priors
from recollect.memory.readable import Readable
from recollect.memory.retention import Retention
from recollect.memory.search import Searcher
from recollect.sketching.recipe import Recipe

if TYPE_CHECKING:
    from recollect.sketching.prior import Prior
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.tracing.columns import Trace

__all__ = ["Added", "Memory"]

IntArray = npt.NDArray[np.int64]
Source = str | Iterable[str | None] | None
Labels = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Memory(Readable):
    """Glances on disk: created if the folder is new or empty, else opened and checked.

    Reading needs no lock and sees what a writer in another process has added. The first writing
    call takes the writer's lock and keeps it until ``close``; an addition is acknowledged, and
    safe against a killed process, when it returns.

    Args:
        path: folder of the memory.
        sketcher: makes the sketches; by default ``Sketcher()`` for a new memory. Its scales are
            taken over if it has any; otherwise the scale of every module is measured when it is
            first seen, and frozen.
        timezone: name of the zone of the calendar (``"Europe/Berlin"``); kept, default UTC.
        reservoir: whole records to keep for priors and calibration, default 512; 0 for none.
        durability: ``"process"`` (safe against kill -9) or ``"power"`` (flushed to the disk).
        statistics: stream statistics to keep beside the sketches, module by module and hour by
            hour: True for the usual ones, a list of ``Follow``, or a ``Following``; default none.
        keep_skeletons: whether the structure of each glance is kept, default yes; without it
            counts come from the sketches alone.
        read_only: refuse to create or write.
        busy_timeout: seconds to wait for another writer.
        retention: how long how much is kept of a glance, a ``Retention`` or its words (``"full
            for 30 days, 256 dims for a year, roll-ups for ever"``); kept, default all for ever.
            It is applied by ``fade`` and by ``close``. Given anew it replaces the old one;
            ``"off"`` ends it.
        graph: whether a knowledge graph is built while glances arrive (``recall.graph``); kept,
            default no. An older memory may begin one.

    Raises:
        CorruptMemory: if the folder is no memory, of a newer format, or lost a file.
        RecipeMismatch: if the memory was made with another recipe; both are shown.
        TypeError: if a new memory is given anything but a ``Sketcher`` to begin with.
        ValueError: if an option differs from the one that the memory was made with, or a
            retention policy cannot be read or would grow data.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from recollect import Object, Trace
        >>> trace = Trace.from_objects([[Object("cat", [1.0, 2.0])], [Object("dog", [3.0])]])
        >>> with TemporaryDirectory() as folder, Memory(f"{folder}/room") as memory:
        ...     added = memory.add(trace, ["2026-01-01T08:10Z", "2026-01-01T08:20Z"], "hall")
        ...     print(added.added, len(memory), memory.rollups().count("cat"))
        ...     print(memory.glances(where="source = 'hall'").num_rows, memory.rollups().times)
        2 2 [1.]
        2 ['2026-01-01T08:00:00.000000']
    """

    def __init__(
        self,
        path: str | Path,
        sketcher: Sketcher | None = None,
        *,
        timezone: str | None = None,
        reservoir: int | None = None,
        durability: str = "process",
        keep_skeletons: bool | None = None,
        statistics: Following | Iterable[Follow] | bool | None = None,
        read_only: bool = False,
        busy_timeout: float = 10.0,
        retention: str | Retention | None = None,
        graph: bool = False,
    ) -> None:
        check_one_of("durability", durability, ("process", "power"))
        self._folder = Folder(Path(path), durability == "power")
        if reservoir is not None:
            check_integer("reservoir", reservoir, minimum=0)
        options = {
            "timezone": timezone, "reservoir": reservoir, "keep_skeletons": keep_skeletons,
            "statistics": following_of(statistics),
        }  # fmt: skip
        if timezone is not None:
            ZoneInfo(timezone)
        meta = read_meta(self._folder, read_only)
        if meta is None:
            made_with = recipe_and_scales(sketcher)
            policy = policy_of(retention, made_with["recipe"]["dim"])
            kept = {**options, "retention": None if policy is None else str(policy)}
            meta = create_meta(self._folder, made_with, kept)
        self._meta = meta
        self._recipe = Recipe.from_dict(meta["recipe"])
        if sketcher is not None:
            self._recipe.check_same(sketcher.recipe)
        for name, value in options.items():
            if value is not None and value != meta.get(name):
                raise ValueError(
                    f"{self.path} was made with {name}={meta.get(name)!r}, now {value!r} is asked "
                    f"for; leave {name} out, or make a new memory and merge this one into it"
                )
        followed = meta.get("statistics")
        self._engine = Engine(
            self._folder, self._recipe, meta["reservoir"], busy_timeout, read_only,
            None if followed is None else Following.from_dict(followed),
        )  # fmt: skip
        self._faded = False
        self._searcher = Searcher(self._engine.rows)
        self._priors = Priors(self._folder)
        self._informed = InformedSketchers(self._folder, self._priors)
        self._concepts = NamedConcepts(self._engine)
        if sketcher is not None and not len(self.modules) and has_scales(sketcher):
            extend(self.modules, sketcher.modules)
        if retention is not None:
            store_policy(self._engine, retention)
        self._graph = Graph(self._engine)
        if graph and not meta.get("graph"):
            self._begin_graph()
        self._engine.rows.signed = self.keeps_graph

    def __enter__(self) -> Memory:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Fade by the retention policy, write the roll-ups, join small files, free the lock.

        Fading and joining are a writer's work: a memory that was only read is left alone. What
        ``fade`` has done since the memory was opened is not done again.
        """
        try:
            if self._engine.lock.held and not self._faded and self.retention is not None:
                self.fade()
            if self._engine.lock.held and self.keeps_graph:
                self._graph.save()
        finally:
            self._engine.close()

    @property
    def graph(self) -> Graph:
        """The knowledge graph; ``recall.graph`` asks it."""
        return self._graph

    @property
    def keeps_graph(self) -> bool:
        """Whether the graph is built while glances arrive, and kept beside them."""
        return bool(self._meta.get("graph"))

    def _begin_graph(self) -> None:
        with self._engine.writing():
            self._engine.rows.add_part_signatures()
            self._meta = {**self._folder.read_json("meta.json"), "graph": True}
            self._folder.write_json("meta.json", self._meta)

    # -- writing --------------------------------------------------------------------------

    def add(
        self,
        trace: Trace,
        time: Any,
        source: Source = None,
        labels: Labels = None,
        ids: Iterable[int] | None = None,
    ) -> Added:
        """Sketch the glances of a trace and keep them.

        Args:
            trace: B glances.
            time: B times, or one for all: datetimes with zone, ISO strings with zone,
                ``numpy.datetime64`` (UTC by definition) or integer microseconds UTC. Any order.
            source: B names of where they come from, or one for all.
            labels: name -> one value or B values (strings, numbers, booleans), or B mappings.
            ids: B distinct 64-bit ids; by default the hash of (source, time, ordinal among
                equals in this call). A glance whose id is there replaces the older one.

        Returns:
            Ids, and how many are new and replaced. Everything is on disk by then.

        Raises:
            ValueError: on times without zone, wrong numbers, attributes that do not fit,
                glances of an hour of which only the roll-up is left, or modules that an informed
                epoch does not know.
            MemoryBusy: if another process is writing.
            OSError: if the disk is full; nothing of the call is stored.
        """
        given = self._intake(len(trace), time, source, labels, ids)
        with self._engine.writing():
            epoch = self._engine.epochs[-1]
            if epoch.informed:
                sketches = encode_informed(self, epoch, trace)
            else:
                self.sketcher.admit(trace, measure_scales=not self.sketcher.scales)
                sketches = self.sketcher.encode(trace)
            return self._store(sketches, given, trace, epoch.number)

    def _append(
        self,
        sketches: Sketches,
        time: Any,
        source: Source = None,
        labels: Labels = None,
        ids: Iterable[int] | None = None,
        trace: Trace | None = None,
    ) -> Added:
        """Keep sketches that were made with an epoch's recipe and this memory's module table."""
        given = self._intake(len(sketches), time, source, labels, ids)
        with self._engine.writing():
            if sketches.modules is not self.modules:
                extend(self.modules, sketches.modules)
            same = [e.number for e in self._engine.epochs if e.recipe == sketches.recipe]
            if not same:
                self._engine.epochs[-1].recipe.check_same(sketches.recipe)
            return self._store(sketches, given, trace, same[-1])

    def _intake(
        self, count: int, time: Any, source: Source, labels: Labels, ids: Iterable[int] | None
    ) -> tuple[IntArray, IntArray, list[str | None], dict[str, Any]]:
        times = microseconds_of_all(time, count)
        sources = sources_of_all(source, count)
        return ids_of_all(ids, sources, times), times, sources, labels_of_all(labels, count)

    def _store(self, sketches: Sketches, given: Any, trace: Trace | None, epoch: int) -> Added:
        if sketches.is_sum or sketches.dim != self._recipe.dim:
            raise ValueError(
                f"a memory keeps whole sketches of single glances, got {sketches!r} of "
                f"{sketches.dim} numbers"
            )
        ids, times, sources, labels = given
        if len(ids) == 0:
            return Added([], 0, 0)
        check_not_forgotten(self._engine, times)
        self._engine.store_modules()
        skeleton = np.full(len(ids), -1, np.int64)
        if self._meta["keep_skeletons"] and sketches.skeletons is not None:
            skeleton = self._engine.skeletons.add(sketches.skeletons.packed())
        host = sketches.cpu()
        scale = None if host.scale is None else host.scale.numpy()
        channel = channel_of(host, self._recipe)
        parts = None
        if self.keeps_graph:
            none: list[bytes | None] = [None] * len(ids)
            parts = none if trace is None else signatures_of(self.sketcher, trace)
        block = Block(
            ids, times, sources, labels, skeleton, scale, host.codes.numpy(), channel,
            epoch=np.full(len(ids), epoch, np.int64) if epoch else None, parts=parts,
        )  # fmt: skip
        replaced = self._engine.commit(block, trace)
        if self.keeps_graph:
            self._graph.keep_up()
        return Added(ids.tolist(), len(ids) - replaced, replaced)

    def watch(
        self,
        model: Any,
        loader: Iterable[tuple[Any, Mapping[str, Any]]],
        *,
        view: str = "modules",
        modules: Any = None,
        progress: Callable[[int], None] | None = None,
        **options: Any,
    ) -> int:
        """Run a network over batches and keep what it computed.

        Args:
            model: the network, an ``nn.Module``.
            loader: yields ``(batch, info)``; ``info`` maps ``time`` (needed), ``source``,
                ``labels`` and ``ids`` to what ``add`` takes.
            view: what becomes an object; see ``recollect.trace``.
            modules: which modules; see ``recollect.trace``.
            progress: called after each batch with the glances kept so far.
            options: passed on to ``recollect.trace``.

        Returns:
            The number of glances that were added or replaced.
        """
        run = import_module("recollect.tracing").trace
        total = 0
        for batch, about in loader:
            trace = run(model, batch, modules=modules, view=view, **options)
            self.add(trace, **about)
            total += len(trace)
            if progress is not None:
                progress(total)
        return total

    def delete(self, where: str) -> int:
        """Delete the glances that an SQL expression selects; roll-ups follow exactly.

        Args:
            where: over ``id``, ``time``, ``source`` and label columns.

        Returns:
            How many were deleted.

        Raises:
            ValueError: if the expression cannot be read.
        """
        if not isinstance(where, str) or not where.strip():
            raise ValueError("delete needs an SQL expression; for all glances say where='true'")
        with self._engine.writing():
            return self._engine.delete(where)

    def merge(self, other: Memory) -> Added:
        """Take in all glances of another memory; equal ids replace ours, unless they have faded.

        Roll-ups take in what the other has forgotten, too, and its named concepts are kept here.

        Raises:
            RecipeMismatch: if the recipes differ.
            ValueError: if a module has another size or scale there, or if a name means one thing
                here and another there (two concepts, or a concept and a module).
        """
        keep = bool(self._meta["keep_skeletons"])
        ids, replaced = merge(self._engine, other._engine, keep)
        return Added(ids, len(ids) - replaced, replaced)

    def new_epoch(
        self,
        *,
        informed: bool = True,
        prior: int | Prior | None = None,
        share: float = 0.75,
        like: Memory | None = None,
    ) -> Epoch:
        """Begin an epoch: glances from now on are sketched with another recipe.

        An informed epoch spends the first numbers of a sketch on the leading directions of a
        prior, and the rest on an oblivious sketch of what these leave. It is for networks whose
        every module is in every glance. Sketches of older epochs do not change, and questions
        read all epochs together. Sums are kept apart, epoch by epoch.

        Args:
            informed: False goes back to the first epoch's recipe, as when the network is given
                new modules, which a prior's directions do not know.
            prior: version of a kept prior, or a prior, which is then kept; default the newest.
            share: of the numbers of a sketch, how many lead (in steps of 64).
            like: take over the newest epoch of another memory, with its prior and directions, so
                that the two can be merged.

        Returns:
            The new epoch.

        Raises:
            ValueError: if there is no prior, or one of too few glances, of other modules or
                sizes, or of objects that come and go; if sketches are too short for two tiers;
                or if nothing would change.
            NotRemembered: if there is no prior of that version.
            OSError: if the memory was opened with ``read_only=True``.

        Example:
            >>> import torch
            >>> from recollect import Memory, Sketcher, Trace
            >>> g = torch.manual_seed(0)
            >>> x = torch.randn(200, 3, generator=g) @ torch.randn(3, 40, generator=g)
            >>> with Memory(getfixture("tmp_path") / "room", Sketcher(dim=128)) as memory:
            ...     _ = memory.add(Trace.from_columns({"layer": x}), "2026-01-01T08:00Z")
            ...     print(memory.fit_prior(), memory.new_epoch().words)
            1 epoch 1: 64 leading directions of prior 1, 64 numbers oblivious of the rest
        """
        with self._engine.writing():
            return begin_epoch(self, self._engine, informed, prior, share, like)

    def compact(self) -> None:
        """Join all small files, drop what was deleted, and write the roll-ups."""
        with self._engine.writing():
            self._engine.compact(everything=True)
            self._engine.reservoir.rewrite(self._engine.rows.version)

    def fade(
        self, now: Any = None, policy: str | Retention | None = None, *, dry_run: bool = False
    ) -> Faded:
        """Forget by the retention policy: old glances keep a prefix, or only their roll-ups.

        Roll-ups do not change. Whole UTC hours fade, once all of an hour is old enough. Records
        stay as long as their glance; before the first glances go, a prior is fitted if none is.

        Args:
            now: moment from which ages are counted, with zone; the present by default.
            policy: becomes the memory's policy first; ``"off"`` ends it.
            dry_run: change nothing, tell what would be.

        Raises:
            ValueError: if there is no policy, or it would grow data.
        """
        self._faded = self._faded or not dry_run
        return fade_by(self, self._engine, now, policy, dry_run)

    def fit_prior(self) -> int:
        """Fit a prior to the records, keep it beside the older ones, return its version.

        Raises:
            ValueError: if no record is kept.
        """
        with self._engine.writing():
            _, trace = self.records()
            if trace is None:
                raise ValueError(
                    f"{self.path} keeps no records to fit a prior to (reservoir="
                    f"{self._meta['reservoir']}, {len(self)} glances)"
                )
            return self._priors.fit(trace, self.sketcher)
