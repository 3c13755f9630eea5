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

from recollect import sketching
from recollect._checks import check_integer, check_one_of
from recollect.memory.audit import export, info, verify
from recollect.memory.blocks import Block
from recollect.memory.channels import channel_of, channels_at
from recollect.memory.clock import microseconds_of_all
from recollect.memory.concepts import NamedConcepts
from recollect.memory.engine import Engine
from recollect.memory.fading import Faded, check_not_forgotten
from recollect.memory.followed import Streams
from recollect.memory.following import Follow, Following, following_of
from recollect.memory.graph import Graph, signatures_of
from recollect.memory.intake import Added, filter_of, ids_of_all, labels_of_all, sources_of_all
from recollect.memory.layout import Folder
from recollect.memory.merging import extend, merge
from recollect.memory.opening import create_meta, has_scales, read_meta, recipe_and_scales
from recollect.memory.policies import fade_by, forgotten_in, policy_of, retention_of, store_policy
from recollect.memory.priors import Priors
from recollect.memory.reading import counts_at, glances_at, places_of, rollups_in, sketches_at
from recollect.memory.report import Report
from recollect.memory.retention import Retention
from recollect.memory.rollups import RollUps
from recollect.memory.search import Searcher
from recollect.memory.structures import SkeletonCounts
from recollect.sketching.recipe import ModuleTable, Recipe

if TYPE_CHECKING:
    from recollect.sketching.prior import Prior
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.tracing.columns import Trace

__all__ = ["Added", "Memory"]

IntArray = npt.NDArray[np.int64]
Source = str | Iterable[str | None] | None
Labels = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Memory:
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
        self._own: Sketcher | None = None
        self._faded = False
        self._searcher = Searcher(self._engine.rows)
        self._priors = Priors(self._folder)
        self._concepts = NamedConcepts(self._engine)
        if sketcher is not None and not len(self.modules) and has_scales(sketcher):
            extend(self.modules, sketcher.modules)
        if retention is not None:
            store_policy(self._engine, retention)
        self._graph = Graph(self._engine)
        if graph and not meta.get("graph"):
            self._begin_graph()
        self._engine.rows.signed = self.keeps_graph

    # -- what it is -----------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Folder of the memory."""
        return self._folder.path

    @property
    def recipe(self) -> Recipe:
        """What determines the operators of all sketches here."""
        return self._recipe

    @property
    def modules(self) -> ModuleTable:
        """Name, size and frozen scale of every module seen."""
        return self._engine.modules

    @property
    def timezone(self) -> str:
        """Name of the calendar's time zone."""
        return str(self._meta["timezone"])

    @property
    def concepts(self) -> NamedConcepts:
        """Concepts that were given a name (``recall.name``): list, rename, forget them."""
        return self._concepts

    @property
    def retention(self) -> Retention | None:
        """How long how much is kept of a glance; None if all is kept for ever."""
        return retention_of(self._folder)

    @property
    def sketcher(self) -> Sketcher:
        """A sketcher of this memory's recipe that shares its module table."""
        if self._own is None:
            self._own = sketching.Sketcher.from_recipe(self._recipe, self.modules)
            self._own.scales = dict(self._meta["scales"])
        return self._own

    def __len__(self) -> int:
        """Number of glances."""
        self._engine.sync()
        return self._engine.ledger.total

    def __repr__(self) -> str:
        return f"Memory({str(self.path)!r}: {len(self)} glances, {len(self.modules)} modules)"

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
            ValueError: on times without zone, wrong numbers, attributes that do not fit, or
                glances of an hour of which only the roll-up is left.
            MemoryBusy: if another process is writing.
            OSError: if the disk is full; nothing of the call is stored.
        """
        given = self._intake(len(trace), time, source, labels, ids)
        with self._engine.writing():
            sketcher = self.sketcher
            sketcher.admit(trace, measure_scales=not sketcher.scales)
            return self._store(sketcher.encode(trace), given, trace)

    def _append(
        self,
        sketches: Sketches,
        time: Any,
        source: Source = None,
        labels: Labels = None,
        ids: Iterable[int] | None = None,
        trace: Trace | None = None,
    ) -> Added:
        """Keep sketches that were made with this memory's recipe and module table."""
        given = self._intake(len(sketches), time, source, labels, ids)
        with self._engine.writing():
            if sketches.modules is not self.modules:
                extend(self.modules, sketches.modules)
            return self._store(sketches, given, trace)

    def _intake(
        self, count: int, time: Any, source: Source, labels: Labels, ids: Iterable[int] | None
    ) -> tuple[IntArray, IntArray, list[str | None], dict[str, Any]]:
        times = microseconds_of_all(time, count)
        sources = sources_of_all(source, count)
        return ids_of_all(ids, sources, times), times, sources, labels_of_all(labels, count)

    def _store(self, sketches: Sketches, given: Any, trace: Trace | None) -> Added:
        self._recipe.check_same(sketches.recipe)
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
        block = Block(ids, times, sources, labels, skeleton, scale, host.codes.numpy(), channel,
                      parts=parts)  # fmt: skip
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

        Roll-ups take in what the other has forgotten, too.

        Raises:
            RecipeMismatch: if the recipes differ.
            ValueError: if a module has another size or scale there.
        """
        keep = bool(self._meta["keep_skeletons"])
        ids, replaced = merge(self._engine, other._engine, keep)
        return Added(ids, len(ids) - replaced, replaced)

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

    # -- reading --------------------------------------------------------------------------

    def kept(self, ids: Iterable[int]) -> IntArray:
        """Return how many numbers of their sketches glances keep, (n,): 0 if only structure.

        Raises:
            NotRemembered: if an id is unknown.
        """
        wanted = list(ids)
        engine = self._engine
        return engine.reading(lambda: engine.rows.kept()[places_of(engine, wanted)])

    def forgotten(self, since: Any = None, until: Any = None) -> int:
        """Return how many glances are left in roll-ups only, of the UTC hours that a span meets.

        ``len(memory)``, ``glances`` and filters do not know them; ``rollups`` count them.
        """
        span = filter_of(None, since, until)
        return self._engine.reading(lambda: forgotten_in(self._engine, span))

    def glances(
        self,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
        columns: Sequence[str] | None = None,
    ) -> Any:
        """Return a ``pyarrow.Table`` of glances, ordered by time, then id.

        Args:
            where: SQL expression over ``id``, ``time``, ``source`` and label columns.
            since: first moment (with zone).
            until: moment after the last.
            columns: of ``id``, ``time``, ``source``, the labels and ``skeleton``; default all.

        Raises:
            ValueError: if the expression or a column is unknown.
        """

        def read() -> Any:
            places = self._engine.rows.find(filter_of(where, since, until))
            return glances_at(self._engine, places, columns)

        return self._engine.reading(read)

    def sketches(
        self,
        ids: Iterable[int] | None = None,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
        prefix: int | None = None,
    ) -> Sketches:
        """Return sketches in the order of ``ids``, or of ``glances`` with the same filter.

        Args:
            ids: which glances; excludes the other filters.
            where: SQL expression.
            since: first moment (with zone).
            until: moment after the last.
            prefix: only the first numbers of each sketch (only their tiers are read); by default
                all that the chosen glances still have in common (see ``kept``).

        Raises:
            NotRemembered: if an id is unknown.
            ValueError: if both ids and a filter are given, or a glance keeps no such prefix.
        """
        chosen = filter_of(where, since, until)
        if ids is not None and not chosen.is_all:
            raise ValueError("give ids or a filter (where, since, until), not both")

        def read() -> Sketches:
            places = (
                self._engine.rows.find(chosen) if ids is None else places_of(self._engine, ids)
            )
            return sketches_at(self._engine, places, prefix)

        return self._engine.reading(read)

    def channels(self, where: str | None = None, since: Any = None, until: Any = None) -> Sketches:
        """Return the distribution channel of glances, in the order of ``glances``.

        Raises:
            ValueError: if this memory's recipe has none.
        """
        chosen = filter_of(where, since, until)

        def read() -> Sketches:
            return channels_at(self._engine, self._engine.rows.find(chosen))

        return self._engine.reading(read)

    def search(
        self,
        vector: Any,
        k: int = 10,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return the glances whose sketches point most nearly where a vector points.

        Args:
            vector: (d,) numbers, d the recipe's dim or a prefix of it (then prefixes are
                compared).
            k: how many.
            where: SQL expression.
            since: first moment (with zone).
            until: moment after the last.

        Returns:
            ids (k,) and cosines (k,), best first; fewer if fewer glances match. See
            ``recollect.memory.search`` on exactness.

        Raises:
            ValueError: if the vector has another size, is zero or not finite.
        """
        check_integer("k", k, minimum=1)
        chosen = filter_of(where, since, until)
        return self._engine.reading(lambda: self._searcher.search(vector, k, chosen))

    def rollups(self, since: Any = None, until: Any = None) -> RollUps:
        """Return the roll-ups by UTC hour with since <= time < until, in time order; NumPy only.

        Where they cut an hour, that hour is counted from its glances.
        """
        span = filter_of(None, since, until)
        return self._engine.reading(lambda: rollups_in(self._engine, span))

    def skeleton_counts(
        self, where: str | None = None, since: Any = None, until: Any = None
    ) -> SkeletonCounts:
        """Return the counts of each glance from its skeleton; filters as in ``glances``."""
        chosen = filter_of(where, since, until)

        def read() -> SkeletonCounts:
            return counts_at(self._engine, self._engine.rows.find(chosen))

        return self._engine.reading(read)

    def streams(self, since: Any = None, until: Any = None) -> Streams:
        """Return the stream statistics of a window, merged; see ``recall.statistics``.

        Args:
            since: first moment (with zone).
            until: moment after the last.

        Raises:
            ValueError: if none are kept, or the window cuts an hour (of old times: a day, month).
        """
        span = filter_of(None, since, until)
        followed = self._engine.followed
        if followed is None:
            raise ValueError(
                f"{self.path} keeps no stream statistics; a memory does from its beginning, with "
                "Memory(path, statistics=True)"
            )

        def read() -> Streams:
            return followed.between(self._engine.rows.version, span.since, span.until)

        return self._engine.reading(read)

    # -- records and priors ---------------------------------------------------------------

    def records(self) -> tuple[list[int], Trace | None]:
        """Return ids and traces of the glances kept whole (attributes as float16); or None."""

        def read() -> tuple[list[int], Trace | None]:
            reservoir = self._engine.reservoir
            reservoir.load(self._engine.rows.version)
            members = np.array(reservoir.members, np.int64)
            alive = set(members[self._engine.rows.places(members) >= 0].tolist())
            return reservoir.records(alive)

        return self._engine.reading(read)

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
            return self._priors.fit(trace)

    def prior(self, version: int | None = None) -> Prior | None:
        """Return a fitted prior, by default the newest; None if none was fitted.

        Raises:
            NotRemembered: if there is no such version.
        """
        return self._priors.get(version)

    @property
    def prior_versions(self) -> list[int]:
        """Versions of the priors that are kept."""
        return self._priors.versions()

    # -- care -----------------------------------------------------------------------------

    def verify(self) -> Report:
        """Compute everything derived once more, compare, and tell what differs."""
        return self._engine.reading(lambda: verify(self._engine))

    def export(self, path: str | Path) -> int:
        """Write all glances to one Parquet file that needs nothing of ours to be read.

        Columns: id, time, source, labels, ``skeleton`` (packed), ``sketch`` (float32 values);
        recipe and module table are JSON in the schema's metadata. Where glances have faded,
        ``kept`` says how many numbers of ``sketch`` are known; the others are zero.

        Returns:
            The number of glances written.
        """
        return self._engine.reading(lambda: export(self._engine, Path(path)))

    def info(self) -> dict[str, Any]:
        """Return what the memory holds and what it costs, every byte on disk counted."""
        self._engine.sync()
        policy = self.retention
        meta = {**self._meta, "retention": None if policy is None else str(policy)}
        return {**info(self._engine, meta, self.prior_versions), "concepts": self.concepts.names}
