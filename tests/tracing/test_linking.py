"""Objects that a view links stand where the same objects, built by hand, would stand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import Object, Sketcher, Trace
from recollect.tracing.columns import Column
from recollect.tracing.linking import Link, link_up


def by_hand(tops: list[list[list[int]]], shared: bool) -> Trace:
    """Glances of cats with eyes with spots; ``tops[g][cat]`` lists the spots of each eye."""
    number = iter(range(10_000))
    glances = []
    for cats in tops:
        spot = Object("spot", [-1.0], 0.5)
        listed = []
        for eyes in cats:
            below = []
            for spots in eyes:
                inside = [Object("spot", [float(next(number))], 0.25) for _ in range(spots)]
                below.append(Object("eye", [float(next(number))], 0.75,
                                    [*inside, spot] if shared else inside))  # fmt: skip
            listed.append(Object("cat", [float(next(number))], 1.0, below))
        glances.append(listed)
    return Trace.from_objects(glances)


SHAPES = st.lists(
    st.lists(st.lists(st.integers(0, 2), min_size=0, max_size=2), min_size=1, max_size=3),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.booleans())
def test_ranks_and_edges_are_those_of_a_walk(tops: list, shared: bool) -> None:
    t = by_hand(tops, shared)
    if t.edges is None:
        return
    # Forget the ranks: number the objects family by family, and link them again.
    starts, total = {}, 0
    number: dict[tuple[int, int], int] = {}
    for name, c in t.columns.items():
        starts[name] = total
        number |= {
            (g, r): total + i
            for i, (g, r) in enumerate(zip(c.glance.tolist(), c.rank.tolist(), strict=True))
        }
        total += len(c)
    family = {n: name for name, s in starts.items() for n in range(s, s + len(t.columns[name]))}
    links: dict[tuple[str, str], list[tuple[int, int, float]]] = {}
    e = t.edges
    for g, p, k, w in zip(
        *(x.tolist() for x in (e.glance, e.parent, e.child, e.weight)), strict=True
    ):
        if p >= 0:
            a, b = number[(g, p)], number[(g, k)]
            row = (a - starts[family[a]], b - starts[family[b]], w)
            links.setdefault((family[a], family[b]), []).append(row)
    made = [
        Link(a, b, *(np.array(x) for x in zip(*rows, strict=True)))
        for (a, b), rows in links.items()
    ]
    glance = np.concatenate([c.glance for c in t.columns.values()])
    found = link_up(glance, np.ones(total, np.float32), starts, made)
    np.testing.assert_array_equal(found.rank, np.concatenate([c.rank for c in t.columns.values()]))
    for ours, theirs in (
        (found.edges.glance, e.glance), (found.edges.parent, e.parent),
        (found.edges.child, e.child), (found.edges.weight, e.weight),
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    columns, at = {}, 0
    for name, c in t.columns.items():
        own = slice(at, at + len(c))
        at += len(c)
        columns[name] = Column(name, c.members, c.attributes, c.glance, c.member,
                               found.rank[own], found.weight[own])  # fmt: skip
    sketcher = Sketcher(dim=64)
    again = Trace(columns, len(t), found.edges)
    assert torch.equal(sketcher.encode(t).values, sketcher.encode(again).values)
