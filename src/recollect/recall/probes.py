"""What is searched for: the coordinates of a query, or of a part of it, in every recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect import sketching
from recollect._answers import interval
from recollect._checks import RecipeMismatch
from recollect.recall.faded import by_length, vector_of
from recollect.recall.glances import Glance
from recollect.recall.parts import Part
from recollect.recall.reading import describe, glance_row, single_sketch
from recollect.recall.whitening import coordinates_of
from recollect.sketching.sketches import Sketches
from recollect.tracing import Object, Trace

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.sketching import Cosines, Recipe

__all__ = ["Probe", "Wanted", "informed_image", "own_vector", "probe_of", "read_cosines"]

FloatArray = npt.NDArray[np.float64]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Probe:
    """The vector that is searched for.

    Attributes:
        vectors: recipe -> (d,) coordinates of what is searched for; a recipe in which it has
            none is left out.
        words: what it is.
        left_out: id of the queried glance, or None.
        notes: what the reader should know.
        told: recipe -> share of the query's length that is known in it: 1, or less where its
            sketch was decoded to be compared with those of another recipe.
    """

    vectors: dict[Recipe, Vector]
    words: str
    left_out: int | None = None
    notes: Sequence[str] = ()
    told: Mapping[Recipe, float] = field(default_factory=dict)

    def queries(self, memory: Memory) -> Any:
        """Return what ``memory.search`` takes: one vector, or a query for each recipe."""
        if len(memory.recipes) == 1:
            return self.vectors[memory.recipe]
        return [
            replace(memory.query(recipe, vector), strength=self.told.get(recipe, 1.0))
            for recipe, vector in self.vectors.items()
            if np.linalg.norm(vector)
        ]


@dataclass(frozen=True, eq=False)
class Wanted:
    """What of a query is searched for, and where.

    Attributes:
        memory: that is searched.
        part: of the query.
        anywhere: whether the part may stand at any place.
    """

    memory: Memory
    part: Part
    anywhere: bool

    @property
    def words(self) -> str:
        """What is meant, written before the name of the query."""
        if not self.anywhere:
            return self.part.words
        return f"{self.part.words.removesuffix(' of ') or 'all'}, wherever it stands, of "

    def images(self, trace: Trace) -> dict[Recipe, Vector]:
        """Return the part's contribution to a sketch of each recipe (see ``image``)."""
        found = {self.memory.recipe: self.image(trace)}
        for recipe in self.memory.recipes[1:]:
            part = self.part.lifted(trace) if self.anywhere else self.part.masked(trace)
            vector = informed_image(self.memory, recipe, part)
            if vector is not None:
                found[recipe] = vector
        return found

    def image(self, trace: Trace) -> Vector:
        """Return the part's contribution to a sketch, or its sketch as if it stood alone."""
        sketcher = self.memory.sketcher
        if self.anywhere:
            image = sketcher.probe(self.part.lifted(trace))
        else:
            image = sketcher.probe(self.part.masked(trace))
            if self.memory.recipe.scheme == "paper":
                # Its counters stand inside the recursion and are there without any attribute.
                image = image - sketcher.probe(_silent(trace))
        return np.asarray(image.cpu().numpy(), np.float32)


def probe_of(wanted: Wanted, query: int | Trace | Sketches | Object) -> Probe:
    """Return what is searched for.

    Raises:
        NotRemembered: if the query names a glance or module that is not known.
        RecipeMismatch: if a sketch was made with another recipe, or other scales.
        ValueError: if it is not one glance.
        TypeError: if it is something else.
    """
    memory, is_whole = wanted.memory, wanted.part.is_whole and not wanted.anywhere
    if isinstance(query, Object):
        return _of_object(wanted, query)
    if isinstance(query, Trace):
        _one(len(query), "trace")
        notes = _new(memory, query)
        vectors = _of_trace(memory, query) if is_whole else wanted.images(query)
        return Probe(vectors, f"{wanted.words}the given trace", notes=notes)
    if isinstance(query, Sketches):
        _one(len(query), "sketch")
        _check_scales(memory, query)
        if is_whole:
            return _of_sketch(memory, query, "the given sketch")
        glance = Glance.decode(memory, query)
        vectors = wanted.images(glance.trace)
        notes = [*_own_score(memory, vectors, query), *glance.notes]
        return Probe(vectors, f"{wanted.words}the given sketch", notes=notes)
    if isinstance(query, bool) or not hasattr(query, "__index__"):
        raise TypeError(
            "a query is the id of a glance, a Trace, Sketches or an Object, got "
            f"{type(query).__name__}"
        )
    number = int(query.__index__())
    words = wanted.words + describe(glance_row(memory, number), number)
    sketch = single_sketch(memory, number)
    if is_whole:
        return _of_sketch(memory, sketch, words, number)
    glance = Glance.read(memory, number)
    vectors = wanted.images(glance.trace)
    notes = [*_own_score(memory, vectors, sketch), *glance.notes]
    return Probe(vectors, words, number, notes)


def _of_sketch(memory: Memory, sketch: Sketches, words: str, number: int | None = None) -> Probe:
    """Search for a whole sketch: as it is in its own recipe, read back in the others.

    What its reading does not tell is missing there, so cosines are lower by the share of the
    length that is told.
    """
    own = own_vector(memory, sketch)
    vectors, told = {sketch.recipe: own}, {sketch.recipe: 1.0}
    others = [r for r in memory.recipes if r != sketch.recipe]
    notes: list[str] = []
    if others:
        known = Glance.decode(memory, sketch) if number is None else Glance.read(memory, number)
        notes = [f"in the other epochs it is searched for as read back: {n}" for n in known.notes]
        size = max(float(np.linalg.norm(own.astype(np.float64))), 1e-30)
        for recipe in others:
            if recipe.leading:
                image = informed_image(memory, recipe, known.trace)
            else:
                image = np.asarray(memory.sketcher.unrounded(known.trace)[0].numpy(), np.float32)
            if image is None:
                continue
            vectors[recipe] = image
            exact = known.recollection is None
            told[recipe] = 1.0 if exact else min(1.0, float(np.linalg.norm(image)) / size)
    return Probe(vectors, words, number, notes, told)


def own_vector(memory: Memory, sketch: Sketches) -> Vector:
    """Return one sketch in the coordinates that it is compared by."""
    if not sketch.recipe.leading:
        return vector_of(sketch)
    return np.asarray(coordinates_of(memory, sketch)[0], np.float32)


def informed_image(memory: Memory, recipe: Recipe, trace: Trace) -> Vector | None:
    """Return a trace's coordinates in an informed recipe; None if its objects are not flat."""
    sketcher = memory.sketcher_of(recipe)
    assert isinstance(sketcher, sketching.InformedSketcher)
    if trace.edges is not None:
        return None
    return np.asarray(sketcher.probe(trace)[0].numpy(), np.float32)


def read_cosines(
    memory: Memory, probe: Probe, ids: npt.NDArray[np.int64], scores: FloatArray, known: Cosines
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return estimate, low and high: within these lies the cosine of all attributes.

    Of random projections to m numbers, of two glances with shares x and y of their squared
    lengths in what is projected, and r the projected part's share of the cosine c, the variance is

        (x y + r^2 + c^2 (x^2 + y^2 + 2 r^2) / 2 - 2 c r (x + y)) / m.

    With oblivious sketches x = y = 1 and r = c, which gives (1 - c^2)^2 / m, and ``known`` says
    how far these are off with this memory's operators. A query that was read back is missing a
    part of its own: whatever that is, it moves the cosine by no more than
    sqrt((1 - t^2) (1 - q^2)), t the share of its length that is told, q its cosine.
    """
    estimate, low, high = (np.array(scores, np.float64) for _ in range(3))
    for _, places in by_length(memory, ids):
        sketches = memory.sketches(ids=ids[places].tolist())
        recipe = sketches.recipe
        c, t = scores[places], probe.told.get(recipe, 1.0)
        bare = np.clip(c / t, -1, 1)
        vector = probe.vectors[recipe]
        numbers = max(min(sketches.dim, len(vector)), 1)
        if not recipe.leading and t == 1.0:
            estimate[places], low[places], high[places] = known.read(c, numbers)
            continue
        if recipe.leading:
            variance = _projected(memory, vector, sketches, bare)
        else:
            variance = np.square(1 - np.square(bare)) / numbers
        bound = np.sqrt(max(1 - t * t, 0.0) * (1 - np.square(bare)))
        ends = interval(c, t * np.sqrt(variance))
        low[places] = np.maximum(ends[0] - bound, -1.0)
        high[places] = np.minimum(ends[1] + bound, 1.0)
    return estimate, low, high


def _projected(memory: Memory, vector: Vector, sketches: Sketches, c: FloatArray) -> FloatArray:
    """Variance of cosines in an informed recipe, of which only the residual is projected."""
    lead = sketches.recipe.leading
    width = min(len(vector), sketches.dim)
    rows = coordinates_of(memory, sketches)[:, :width]
    query = vector[:width].astype(np.float64)
    lengths = np.maximum(np.linalg.norm(rows, axis=1), 1e-30)
    size = max(float(np.linalg.norm(query)), 1e-30)
    m = width - lead
    if m <= 0:
        # The residual was forgotten: it is taken to be as large as the epoch's usual one.
        gains = memory.sketcher_of(sketches.recipe).gains[lead:]  # type: ignore[union-attr]
        usual = float((1 / gains.square()).sum())
        x = usual / (usual + np.square(lengths))
        y = usual / (usual + size**2)
        return np.asarray(x * y)
    x = np.square(rows[:, lead:]).sum(1) / np.square(lengths)
    y = float(np.square(query[lead:]).sum()) / size**2
    r = rows[:, lead:] @ query[lead:] / (lengths * size)
    spread = x * y + r**2 + c**2 * (x**2 + y**2 + 2 * r**2) / 2 - 2 * c * r * (x + y)
    return np.asarray(np.maximum(spread, 0.0) / m)


def _of_object(wanted: Wanted, query: Object) -> Probe:
    """Search for an object (with its inputs), or for a part of it."""
    trace = Trace.from_objects([[query]])
    for name in trace.modules:
        wanted.memory.modules.id_of(name)
    if wanted.part.is_whole:
        memory = wanted.memory
        vectors = {memory.recipe: np.asarray(memory.sketcher.probe(trace).cpu().numpy())}
        for recipe in memory.recipes[1:]:
            image = informed_image(memory, recipe, trace)
            if image is not None:
                vectors[recipe] = image
    else:
        vectors = wanted.images(trace)
    return Probe(vectors, f"{wanted.words}the given object of {query.module!r}")


def _of_trace(memory: Memory, trace: Trace) -> dict[Recipe, Vector]:
    sketcher = memory.sketcher
    if _new(memory, trace):
        # A question must not add modules to the memory: use a table of its own.
        sketcher = sketching.Sketcher.from_recipe(memory.recipe, memory.modules.copy())
    found = {memory.recipe: np.asarray(sketcher.encode(trace).values[0].cpu().numpy(), np.float32)}
    for recipe in memory.recipes[1:]:
        image = informed_image(memory, recipe, trace)
        if image is not None:
            found[recipe] = image
    return found


def _silent(trace: Trace) -> Trace:
    """Return the trace with every attribute zero."""
    columns = {name: replace(c, attributes=c.attributes * 0) for name, c in trace.columns.items()}
    return Trace(columns, trace.num_glances, trace.edges)


def _own_score(memory: Memory, vectors: dict[Recipe, Vector], sketch: Sketches) -> list[str]:
    """Say what a part scores in the glance that it comes from: how high a score can be."""
    if sketch.recipe not in vectors:
        return []
    whole = own_vector(memory, sketch)
    vector = vectors[sketch.recipe][: len(whole)]
    norms = float(np.linalg.norm(vector) * np.linalg.norm(whole))
    score = float(vector @ whole) / max(norms, 1e-30)
    return [f"the part scores {score:.2f} in the query itself: the rest of it is not searched for"]


def _new(memory: Memory, trace: Trace) -> list[str]:
    """Say which modules of a query the memory has never seen."""
    new = [repr(name) for name in trace.columns if name not in memory.modules]
    if not new:
        return []
    return [
        f"the memory has never seen {', '.join(new[:5])}{' ...' if len(new) > 5 else ''}: nothing "
        "can be like it there, and all scores are lower for it"
    ]


def _one(number: int, kind: str) -> None:
    if number != 1:
        raise ValueError(
            f"a query is one glance, got a {kind} of {number}; choose one: query[i], or "
            f"{'sum() for all of them' if kind == 'sketch' else 'ask one by one'}"
        )


def _check_scales(memory: Memory, query: Sketches) -> None:
    """Refuse sketches that were not made as this memory makes them.

    Raises:
        RecipeMismatch: on another recipe, or other scales.
    """
    hint = "encode the query with memory.sketcher"
    if query.recipe not in memory.recipes:
        try:
            memory.recipe.check_same(query.recipe)
        except RecipeMismatch as error:
            raise RecipeMismatch(f"{error}\n{hint}") from error
    if query.modules is memory.modules:
        return
    for entry in query.modules:
        known = "is unknown to it"
        if entry.name in memory.modules:
            mine = memory.modules[entry.name]
            if (mine.scale, mine.size, mine.members) == (entry.scale, entry.size, entry.members):
                continue
            known = f"has scale {mine.scale:.6g} in it"
        raise RecipeMismatch(
            f"the query was not made like this memory's sketches: module {entry.name!r} has scale "
            f"{entry.scale:.6g} there and {known}; {hint}"
        )
