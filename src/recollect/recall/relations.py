"""The memory as a knowledge graph: what is related to this, and through what?

Nodes are glances, modules, recurring sub-objects (*parts*: objects of one module that are alike
in content, with all that they were made from) and named concepts. Edges are

* *part-of*: a part stands in a glance, or was an input of another part;
* *similar-to*: two glances are alike (cosine of their sketches);
* *kind-of*: a part is one of a module's, a glance shows a module or a concept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from recollect._answers import interval
from recollect._checks import NotRemembered, check_integer, unknown_name
from recollect.memory.parts import cosine_of
from recollect.recall.naming import probabilities
from recollect.recall.reading import Selection, plural
from recollect.recall.related import Related
from recollect.recall.windows import written

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.memory.graph import Occurrences

__all__ = ["graph"]

IntArray = npt.NDArray[np.int64]
Edge = tuple[str, str, str, float, float, float, str]

COLUMNS = ("node", "relation", "to", "estimate", "low", "high", "through")
# A glance shows a named concept if it does so more probably than not.
_SHOWN = 0.5


def graph(
    memory: Memory,
    around: int | str | None = None,
    *,
    k: int = 8,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
    most: int = 500_000,
) -> Related:
    """Say what is related to something, and through what; or return the whole graph.

    Args:
        memory: a Memory; with ``Memory(path, graph=True)`` the graph is built while glances
            arrive and kept, else what can be told from sketches is worked out for this answer.
        around: id of a glance, name of a module or named concept, or a part such as ``"cat#12"``;
            None for the whole graph of the glances chosen.
        k: how many of each kind of neighbour.
        where: SQL expression over time, source and labels (for the whole graph).
        since: first moment (with zone).
        until: first moment that is left out.
        most: edges beyond which the whole graph is refused.

    Returns:
        A Related, an Answer with one row per edge: ``node``, ``relation`` (``"similar-to"``,
        ``"part-of"``, ``"kind-of"``), ``to``, ``estimate`` (cosine, number of occurrences, or
        probability) with ``low`` and ``high``, and ``through``: what both share. It is exported
        by ``to_networkx``, ``write`` and ``draw``.

    Raises:
        NotRemembered: if there is no such glance, module, part or concept.
        ValueError: if the graph has more than ``most`` edges, or a filter is given together with
            ``around``.
        TypeError: if ``around`` is neither a number nor a text.

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> def scene(x):
        ...     return [Object("cat", [x, 1.0], inputs=[Object("face", [x, 2.0])])]
        >>> t = Trace.from_objects([scene(x) for x in (1.0, 1.01, -5.0)])
        >>> memory = Memory(getfixture("tmp_path") / "room", graph=True)
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3])
        >>> found = recall.graph(memory, 1)
        >>> [(r["to"], r["through"]) for r in found if r["relation"] == "similar-to"][0]
        ('glance 2', 'cat#0 + face#2')
        >>> [r["node"] for r in recall.graph(memory, "face#2") if r["relation"] == "kind-of"]
        ['part face#2']
        >>> memory.close()
    """
    check_integer("k", k, minimum=1)
    chosen = Selection.of(where, since, until)
    asked = Asked(memory, memory.graph.occurrences(), k)
    if around is None:
        edges, title = _whole(asked, chosen, check_integer("most", most, minimum=1))
    else:
        if chosen.words:
            raise ValueError("give around or a filter (where, since, until), not both")
        edges, title = _around(asked, around)
    answer = Related(
        {name: [e[i] for e in edges] for i, name in enumerate(COLUMNS)},
        title=title,
        notes=_notes(memory),
    )
    answer.times = _times(memory, edges)
    return answer


@dataclass(frozen=True, eq=False)
class Asked:
    """A memory that is asked.

    Attributes:
        memory: see ``graph``.
        parts: where which part occurs.
        k: how many of each kind.
    """

    memory: Memory
    parts: Occurrences
    k: int

    def part_name(self, part: int) -> str:
        """Name a part: its module and its number."""
        return f"{self.memory.modules.names[int(self.parts.module[part])]}#{part}"

    def parts_of(self, glance: int) -> list[int]:
        """Return the recurring parts of a glance, in the order of ranks, each once."""
        found = self.parts.part[self.parts.of_glance(glance)].tolist()
        return [p for p in dict.fromkeys(found) if self.parts.count[p] > 1]

    def shared(self, one: int, other: int) -> str:
        """Name what two glances share."""
        theirs = set(self.parts_of(other))
        names = [self.part_name(p) for p in self.parts_of(one) if p in theirs]
        return " + ".join(names[:5])


def _around(asked: Asked, around: int | str) -> tuple[list[Edge], str]:
    memory = asked.memory
    if isinstance(around, str):
        if around in memory.modules.names:
            return _around_module(asked, around), f"what is related to module {around!r}"
        if around in memory.concepts:
            return _around_concept(asked, around), f"what is related to concept {around!r}"
        return _around_part(asked, around), f"what is related to part {around!r}"
    if isinstance(around, bool) or not hasattr(around, "__index__"):
        raise TypeError(
            "around is the id of a glance, or the name of a module, a concept or a part, got "
            f"{type(around).__name__}"
        )
    return _around_glance(asked, int(around)), f"what is related to glance {int(around)}"


def _around_glance(asked: Asked, glance: int) -> list[Edge]:
    memory, node = asked.memory, f"glance {glance}"
    sketch = memory.sketches(ids=[glance])
    table = memory.graph.follow()
    if table.places(np.array([glance]))[0] < 0:
        raise NotRemembered(f"no glance has the id {glance}; memory.glances() lists the ids")
    near = dict.fromkeys(table.of(glance)[0])
    back = table.ids[np.unique(np.nonzero(table.near == glance)[0])]
    near |= dict.fromkeys(back[: 4 * asked.k].tolist())
    edges = _similar(asked, glance, np.asarray(sketch.values[0].numpy(), np.float64), list(near))
    edges += _parts_in(asked, glance)
    for part in asked.parts_of(glance):
        edges += _occurrences(asked, part, beside=glance)
    edges += _kinds_of(memory, glance)
    for name in memory.concepts.names:
        ids = np.array([glance], np.int64)
        chance = float(probabilities(memory, memory.concepts[name], ids)[0][0])
        if chance > _SHOWN:
            edges.append((node, "kind-of", f"concept {name}", chance, chance, 1.0, ""))
    return list(dict.fromkeys(edges))


def _similar(
    asked: Asked, glance: int, vector: npt.NDArray[np.float64], near: list[int]
) -> list[Edge]:
    """Compare with some glances by all numbers that both keep, the most similar first."""
    if not near:
        return []
    found = asked.memory.sketches(ids=near).values.numpy().astype(np.float64)
    dim = min(found.shape[1], len(vector))
    found, vector = found[:, :dim], vector[:dim]
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(vector)
    cosine = found @ vector / np.maximum(norms, 1e-30)
    order = np.lexsort((near, -cosine))[: asked.k]
    low, high = interval(cosine, (1 - np.square(cosine)) / dim**0.5)
    return [
        (f"glance {glance}", "similar-to", f"glance {near[i]}", float(cosine[i]),
         max(float(low[i]), -1.0), min(float(high[i]), 1.0), asked.shared(glance, near[i]))
        for i in order.tolist()
    ]  # fmt: skip


def _parts_in(asked: Asked, glance: int) -> list[Edge]:
    """Return the recurring parts of a glance: in it, or in a larger part, and of which module."""
    parts, edges = asked.parts, []
    for place in parts.of_glance(glance).tolist():
        part = int(parts.part[place])
        if parts.count[part] < 2:
            continue
        above = int(parts.parent[place])
        while above >= 0 and parts.count[parts.part[above]] < 2:
            above = int(parts.parent[above])
        into = f"glance {glance}"
        if above >= 0:
            into = f"part {asked.part_name(int(parts.part[above]))}"
        edges.append(_edge(f"part {asked.part_name(part)}", "part-of", into, 1.0))
        edges.append(_kind(asked, part))
    return edges


def _kind(asked: Asked, part: int) -> Edge:
    module = asked.memory.modules.names[int(asked.parts.module[part])]
    count = float(asked.parts.count[part])
    return _edge(f"part {asked.part_name(part)}", "kind-of", f"module {module}", count)


def _kinds_of(memory: Memory, glance: int) -> list[Edge]:
    skeletons = memory.sketches(ids=[glance], prefix=None).skeletons
    if skeletons is None:
        return []
    ids, counts = np.unique(skeletons[0].modules, return_counts=True)
    names = memory.modules.names
    order = np.argsort(-counts, kind="stable")[:32].tolist()
    return [
        _edge(f"glance {glance}", "kind-of", f"module {names[int(ids[i])]}", float(counts[i]))
        for i in order
    ]


def _occurrences(asked: Asked, part: int, beside: int | None = None) -> list[Edge]:
    """Return the latest glances with a part, and what larger parts it stands in there."""
    places = asked.parts.of_part(part)
    glances = list(dict.fromkeys(asked.parts.glance[places][::-1].tolist()))
    shown = [g for g in glances if g != beside][: asked.k]
    node = f"part {asked.part_name(part)}"
    return [_edge(node, "part-of", f"glance {g}", 1.0) for g in shown]


def _around_part(asked: Asked, name: str) -> list[Edge]:
    memory, parts = asked.memory, asked.parts
    module, sign, number = name.rpartition("#")
    known = module in memory.modules.names
    if not (sign and number.isdigit() and known and int(number) < len(parts.module)) or (
        parts.module[int(number)] != memory.modules.id_of(module)
    ):
        names = [*memory.modules.names, *memory.concepts.names]
        raise unknown_name("module, concept or part", name, names)
    part = int(number)
    node, places = f"part {name}", parts.of_part(part)
    edges = [_kind(asked, part)]
    above = parts.parent[places]
    edges += [
        _edge(node, "part-of", f"part {asked.part_name(p)}", float(n))
        for p, n in _most(parts.part[above[above >= 0]], asked.k)
    ]
    below = np.flatnonzero(np.isin(parts.parent, places))
    edges += [
        _edge(f"part {asked.part_name(p)}", "part-of", node, float(n))
        for p, n in _most(parts.part[below], asked.k)
    ]
    return edges + _occurrences(asked, part)


def _around_module(asked: Asked, module: str) -> list[Edge]:
    number = asked.memory.modules.id_of(module)
    own = np.flatnonzero((asked.parts.module == number) & (asked.parts.count > 1))
    best = own[np.argsort(-asked.parts.count[own], kind="stable")][: asked.k]
    edges = [_kind(asked, int(p)) for p in best]
    for p in best.tolist():
        edges += _occurrences(asked, int(p))[:2]
    return edges


def _around_concept(asked: Asked, name: str) -> list[Edge]:
    memory = asked.memory
    ids = np.asarray(memory.glances(columns=["id"])["id"].to_numpy(), dtype=np.int64)
    chance, _ = probabilities(memory, memory.concepts[name], ids)
    order = np.argsort(-chance, kind="stable")
    shown = [i for i in order.tolist() if chance[i] > _SHOWN]
    node = f"concept {name}"
    edges: list[Edge] = [
        (f"glance {ids[i]}", "kind-of", node, float(chance[i]), float(chance[i]), 1.0, "")
        for i in shown[: asked.k]
    ]
    members = [asked.parts_of(int(ids[i])) for i in shown]
    counted = _most(np.array([p for m in members for p in m], np.int64), asked.k)
    for part, n in counted:
        share = n / max(len(members), 1)
        edges.append(_edge(f"part {asked.part_name(part)}", "part-of", node, share))
    return edges


def _most(values: IntArray, k: int) -> list[tuple[int, int]]:
    """Return the k commonest values, and how often they come."""
    found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:k]
    return [(int(found[i]), int(counts[i])) for i in order]


# -- the whole graph ------------------------------------------------------------------------


def _whole(asked: Asked, chosen: Selection, most: int) -> tuple[list[Edge], str]:
    memory, parts = asked.memory, asked.parts
    ids = np.asarray(
        memory.glances(columns=["id"], **chosen.arguments)["id"].to_numpy(), dtype=np.int64
    )
    if len(ids) == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    table = memory.graph.follow()
    rows = table.places(ids)
    there = (table.cosine[rows] > -1.5) & np.isin(table.near[rows], ids)
    inside = np.flatnonzero(np.isin(parts.glance, ids) & (parts.count[parts.part] > 1)
                            if len(parts.part) else np.zeros(0, np.bool_))  # fmt: skip
    counts = memory.skeleton_counts(**chosen.arguments)
    glance, module = counts.present()
    total = int(there.sum()) + 2 * len(inside) + len(glance)
    if total > most:
        raise ValueError(
            f"the graph of {plural(len(ids), 'glance')}{chosen.words} has up to {total:,} edges, "
            f"more than most={most:,}; choose with since, until or where, ask around one node, "
            "or raise most"
        )
    edges = _neighbour_edges(asked, ids, rows, there)
    for place in inside.tolist():
        part, above = int(parts.part[place]), int(parts.parent[place])
        into = f"glance {parts.glance[place]}"
        if above >= 0 and parts.count[parts.part[above]] > 1:
            into = f"part {asked.part_name(int(parts.part[above]))}"
        edges.append(_edge(f"part {asked.part_name(part)}", "part-of", into, 1.0))
    edges += [_kind(asked, int(p)) for p in np.unique(parts.part[inside])]
    names = memory.modules.names
    edges += [
        _edge(f"glance {counts.ids[g]}", "kind-of", f"module {names[m]}", 1.0)
        for g, m in zip(glance.tolist(), module.tolist(), strict=True)
    ]
    for name in memory.concepts.names:
        chance, _ = probabilities(memory, memory.concepts[name], ids)
        edges += [
            (f"glance {ids[i]}", "kind-of", f"concept {name}", float(chance[i]),
             float(chance[i]), 1.0, "")
            for i in np.flatnonzero(chance > _SHOWN).tolist()
        ]  # fmt: skip
    return list(dict.fromkeys(edges)), f"graph of {plural(len(ids), 'glance')}{chosen.words}"


def _neighbour_edges(
    asked: Asked, ids: IntArray, rows: IntArray, there: npt.NDArray[np.bool_]
) -> list[Edge]:
    """Return similar-to edges among some glances, each pair once."""
    table = asked.memory.graph.follow()
    dim = table.width
    edges: dict[tuple[int, int], Edge] = {}
    for i, at in zip(*np.nonzero(there), strict=True):
        one, other = int(ids[i]), int(table.near[rows[i], at])
        if (other, one) in edges:
            continue
        c = float(table.cosine[rows[i], at])
        half = 1.6448536269514722 * (1 - c * c) / dim**0.5
        edges[one, other] = (
            f"glance {one}", "similar-to", f"glance {other}", c, max(c - half, -1.0),
            min(c + half, 1.0), "",
        )  # fmt: skip
    return list(edges.values())


def _edge(node: str, relation: str, to: str, value: float, through: str = "") -> Edge:
    """Return an exact edge."""
    return (node, relation, to, value, value, value, through)


def _times(memory: Memory, edges: Iterable[Edge]) -> dict[str, str]:
    nodes = dict.fromkeys(n for e in edges for n in (e[0], e[2]) if n.startswith("glance "))
    ids = np.array([int(n.split(" ")[1]) for n in nodes], np.int64)
    return dict(zip(nodes, written(memory.graph.times(ids), memory.timezone), strict=True))


def _notes(memory: Memory) -> list[str]:
    notes = [
        "similar-to: cosine of sketches; part-of, kind-of: exact, from what was kept of objects "
        f"(alike from a cosine of {cosine_of(32):.2f} on)"
    ]
    if not memory.keeps_graph:
        notes.append(
            "this memory keeps no graph: no parts are known, and neighbours were worked out for "
            "this answer (Memory(path, graph=True) keeps one from now on)"
        )
    elif memory.graph.unsigned():
        many = plural(memory.graph.unsigned(), "glance")
        notes.append(f"{many} came before the graph, or without their objects: no parts of them")
    return notes
