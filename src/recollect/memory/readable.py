"""What can be read of a memory, whoever writes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._checks import check_integer, check_one_of
from recollect.memory.aligning import values_of
from recollect.memory.audit import export, info, lengths, verify
from recollect.memory.channels import channels_at
from recollect.memory.concepts import NamedConcepts
from recollect.memory.engine import Engine
from recollect.memory.epochs import Epoch, InformedSketchers
from recollect.memory.followed import Streams
from recollect.memory.intake import filter_of
from recollect.memory.layout import Folder
from recollect.memory.policies import forgotten_in, retention_of
from recollect.memory.priors import Priors
from recollect.memory.reading import (
    check_one_choice,
    counts_at,
    glances_at,
    places_of,
    rollups_in,
    skeletons_at,
    sketches_at,
)
from recollect.memory.report import Report
from recollect.memory.retention import Retention
from recollect.memory.rollups import RollUps
from recollect.memory.search import Query, Searcher
from recollect.memory.structures import SkeletonCounts
from recollect.sketching.recipe import ModuleTable, Recipe

if TYPE_CHECKING:
    from recollect.sketching.cosines import Cosines
    from recollect.sketching.informed import InformedSketcher
    from recollect.sketching.prior import Prior
    from recollect.sketching.skeletons import Skeletons
    from recollect.sketching.sketcher import Sketcher
    from recollect.sketching.sketches import Sketches
    from recollect.tracing.columns import Trace

__all__ = ["Readable"]

IntArray = npt.NDArray[np.int64]


class Readable:
    """Glances, sketches, roll-ups, records and priors of an open memory (see ``Memory``)."""

    _folder: Folder
    _meta: dict[str, Any]
    _recipe: Recipe
    _engine: Engine
    _searcher: Searcher
    _priors: Priors
    _informed: InformedSketchers
    _concepts: NamedConcepts
    _own: Sketcher | None = None

    # -- what it is -----------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """Folder of the memory."""
        return self._folder.path

    @property
    def recipe(self) -> Recipe:
        """What determines the operators of all sketches of the first epoch.

        Later epochs have recipes of their own, of the same size and kind of number.
        """
        return self._recipe

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs, the newest last; new glances go into that one."""
        self._engine.sync()
        return self._engine.epochs

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
        """A sketcher of the first epoch's recipe that shares the memory's module table."""
        if self._own is None:
            self._own = sketching.Sketcher.from_recipe(self._recipe, self.modules)
            self._own.scales = dict(self._meta["scales"])
        return self._own

    def sketcher_of(self, recipe: Recipe | int) -> Sketcher | InformedSketcher:
        """Return the sketcher of an epoch, by its number or its recipe.

        Raises:
            RecipeMismatch: if no epoch has that recipe.
            ValueError: if there is no epoch of that number.
            CorruptMemory: if the file of an informed epoch's directions is missing or damaged.
        """
        if recipe is self._recipe or recipe == self._recipe:
            return self.sketcher
        epochs = self.epochs
        if isinstance(recipe, Recipe):
            same = [e for e in epochs if e.recipe == recipe]
            if not same:
                self._recipe.check_same(recipe)
            epoch = same[-1]
        else:
            if recipe not in range(len(epochs)):
                raise ValueError(
                    f"there is no epoch {recipe}; this memory has epochs 0 to {len(epochs) - 1}"
                )
            epoch = epochs[recipe]
        return self._informed.of(epoch, self.modules) if epoch.informed else self.sketcher

    def __len__(self) -> int:
        """Number of glances."""
        self._engine.sync()
        return self._engine.ledger.total

    def __repr__(self) -> str:
        return f"Memory({str(self.path)!r}: {len(self)} glances, {len(self.modules)} modules)"

    # -- reading --------------------------------------------------------------------------

    def kept(self, ids: Iterable[int]) -> IntArray:
        """Return how many numbers of their sketches glances keep, (n,): 0 if only structure.

        Raises:
            NotRemembered: if an id is unknown.
        """
        wanted = list(ids)
        engine = self._engine
        return engine.reading(lambda: engine.rows.kept()[places_of(engine, wanted)])

    @property
    def lengths(self) -> dict[int, int]:
        """Numbers of a sketch that are kept -> glances that keep so many, the most first."""
        return self._engine.reading(lambda: lengths(self._engine))

    def epoch_of(self, ids: Iterable[int]) -> IntArray:
        """Return the number of the epoch in which glances were sketched, (n,).

        Raises:
            NotRemembered: if an id is unknown.
        """
        wanted, engine = list(ids), self._engine
        return engine.reading(lambda: engine.rows.epochs()[places_of(engine, wanted)])

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
        ids: Iterable[int] | None = None,
    ) -> Any:
        """Return a ``pyarrow.Table`` of glances, ordered by time, then id, or as ``ids`` are.

        Args:
            where: SQL expression over ``id``, ``time``, ``source`` and label columns.
            since: first moment (with zone).
            until: moment after the last.
            columns: of ``id``, ``time``, ``source``, the labels and ``skeleton``; default all.
            ids: which glances; excludes the other filters.

        Raises:
            NotRemembered: if an id is unknown.
            ValueError: if the expression or a column is unknown, or ids and a filter are given.
        """
        chosen = filter_of(where, since, until)
        check_one_choice(ids, chosen)

        def read() -> Any:
            found = self._engine.rows.find
            places = found(chosen) if ids is None else places_of(self._engine, ids)
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
            ValueError: if both ids and a filter are given, a glance keeps no such prefix, or the
                glances belong to epochs of different recipes.
        """
        chosen = filter_of(where, since, until)
        check_one_choice(ids, chosen)

        def read() -> Sketches:
            places = (
                self._engine.rows.find(chosen) if ids is None else places_of(self._engine, ids)
            )
            return sketches_at(self._engine, places, prefix)

        return self._engine.reading(read)

    def values(self, ids: Iterable[int], prefix: int | None = None) -> npt.NDArray[np.float32]:
        """Return the numbers of sketches, (n, d), all in the coordinates of the first epoch.

        Where there are informed epochs, their sketches are decoded and sketched again by the
        first recipe: what they do not tell of a glance is taken to be as usual.

        Args:
            ids: which glances.
            prefix: only the first numbers; by default all that these glances have in common.

        Raises:
            NotRemembered: if an id is unknown.
            ValueError: if a glance keeps no such prefix.
        """
        wanted = np.array([int(i) for i in ids], np.int64)
        return self._engine.reading(lambda: values_of(self, wanted, prefix))

    def skeletons(self, ids: Iterable[int]) -> Skeletons | None:
        """Return the structures of glances, also of faded ones; None if one was not kept.

        Raises:
            NotRemembered: if an id is unknown.
        """
        wanted, engine = list(ids), self._engine
        return engine.reading(lambda: skeletons_at(engine, places_of(engine, wanted)))

    def channels(
        self,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
        ids: Iterable[int] | None = None,
    ) -> Sketches:
        """Return the distribution channel of glances, in the order of ``glances`` or of ``ids``.

        Of glances that have faded, as many of its first numbers as all of them keep.

        Raises:
            NotRemembered: if an id is unknown.
            ValueError: if this memory's recipe has none, a glance keeps nothing of it, or both
                ids and a filter are given.
        """
        chosen = filter_of(where, since, until)
        check_one_choice(ids, chosen)
        engine = self._engine

        def read() -> Sketches:
            return channels_at(
                engine, engine.rows.find(chosen) if ids is None else places_of(engine, ids)
            )

        return engine.reading(read)

    def search(
        self,
        vector: Any,
        k: int = 10,
        where: str | None = None,
        since: Any = None,
        until: Any = None,
        *,
        by: str = "cosine",
    ) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return the glances whose sketches point most nearly where a vector points.

        Args:
            vector: (d,) numbers, d the recipe's dim or a prefix of it (then prefixes are
                compared). Where there are epochs of several recipes: a list of ``Query``, each
                for some of them (``queries`` makes them of a trace).
            k: how many.
            where: SQL expression.
            since: first moment (with zone).
            until: moment after the last.
            by: ``"cosine"``, or ``"product"``: with the vector, so that long sketches come first
                (a ``Query`` says so itself).

        Returns:
            ids (k,) and cosines (or products) (k,), best first; fewer if fewer glances match. See
            ``recollect.memory.search`` on exactness.

        Raises:
            ValueError: if the vector has another size, is zero or not finite, ``by`` is neither,
                or there are glances of several recipes and it is one vector.
        """
        check_integer("k", k, minimum=1)
        products = check_one_of("by", by, ("cosine", "product")) == "product"
        chosen = filter_of(where, since, until)
        if isinstance(vector, list) and vector and isinstance(vector[0], Query):
            asked = vector
            return self._engine.reading(lambda: self._searcher.search_all(asked, k, chosen))

        def read() -> tuple[IntArray, npt.NDArray[np.float32]]:
            later = [e for e in self._engine.epochs if e.recipe != self._recipe]
            if any((self._engine.rows.epochs() == e.number).any() for e in later):
                raise ValueError(
                    f"this memory has glances of {len(later) + 1} recipes, and one vector cannot "
                    "be compared with sketches of all; ask recall.similar, or give one for each: "
                    "memory.search(memory.queries(trace))"
                )
            return self._searcher.search(vector, k, chosen, products=products)

        return self._engine.reading(read)

    def queries(self, trace: Trace) -> list[Query]:
        """Return what ``search`` compares with a glance that is not sketched, recipe by recipe.

        Args:
            trace: one glance, of modules that the memory knows.
        """
        return [self.query_of(recipe, trace) for recipe in self.recipes]

    @property
    def recipes(self) -> list[Recipe]:
        """The distinct recipes of the epochs, the first epoch's first."""
        return list(dict.fromkeys(e.recipe for e in self.epochs))

    def query(self, recipe: Recipe, vector: npt.NDArray[np.floating]) -> Query:
        """Return what ``search`` compares a vector with: the sketches of one recipe.

        Args:
            recipe: of one or more epochs.
            vector: (d,) coordinates, as ``sketcher_of(recipe)`` makes them.
        """
        numbers = tuple(e.number for e in self.epochs if e.recipe == recipe)
        if not recipe.leading:
            return Query(vector, numbers)
        sketcher = self.sketcher_of(recipe)
        assert isinstance(sketcher, sketching.InformedSketcher)
        return Query(vector, numbers, (1 / sketcher.gains).numpy(), sketcher.offset.numpy())

    def query_of(self, recipe: Recipe, trace: Trace) -> Query:
        """Return what ``search`` compares with one glance in the sketches of one recipe."""
        sketcher = self.sketcher_of(recipe)
        if isinstance(sketcher, sketching.InformedSketcher):
            return self.query(recipe, sketcher.image(trace)[0].numpy())
        return self.query(recipe, sketcher.encode(trace).values[0].numpy())

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

    def prior(self, version: int | None = None) -> Prior | None:
        """Return a fitted prior, by default the newest; None if none was fitted.

        Raises:
            NotRemembered: if there is no such version.
        """
        return self._priors.get(version)

    def cosines(self) -> Cosines:
        """Return what corrects and bounds the cosines of this memory's oblivious sketches.

        It is learned from the records when a prior is fitted; before that it is what holds over
        all draws of the operators.
        """
        return self._priors.cosines()

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

        Columns: id, time, source, labels, ``skeleton`` (packed), ``sketch`` (float32 values), and
        ``epoch`` where there are several; recipe, epochs and module table are JSON in the
        schema's metadata. Where glances have faded,
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
