"""Traces as columns: round trips, and a naive walker that must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import NotRemembered, Object, Trace

NAMES = ["a", "b", "c", "d"]
SIZES = {"a": 1, "b": 2, "c": 3, "d": 4}


@st.composite
def glances(draw: Any) -> list[list[Object]]:
    """Up to four glances of random DAGs; objects may be shared between parents."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        made: list[Object] = []
        for _ in range(draw(st.integers(0, 7))):
            name = draw(st.sampled_from(NAMES))
            number = draw(st.integers(-50, 50))
            below = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
            weight = draw(st.integers(0, 8)) / 4
            made.append(Object(name, [float(number)] * SIZES[name], weight, below))
        top = draw(st.lists(st.sampled_from(made), max_size=3)) if made else []
        out.append(top)
    return out


def walk(top: list[Object]) -> tuple[list[tuple[Any, ...]], list[tuple[int, int, float]]]:
    """List objects (module, attribute, weight, path) and edges depth first: the naive twin."""
    rank: dict[int, int] = {}
    listed: list[tuple[Any, ...]] = []
    edges: list[tuple[int, int, float]] = []

    def visit(o: Object, parent: int, path: tuple[str, ...]) -> None:
        path = (*path, o.module)
        new = id(o) not in rank
        if new:
            rank[id(o)] = len(rank)
            listed.append((o.module, o.attribute.tolist(), o.weight, path))
        edges.append((parent, rank[id(o)], o.weight))
        if new:
            for child in o.inputs:
                visit(child, rank[id(o)], path)

    for o in top:
        visit(o, -1, ())
    return listed, edges


def spelled(t: Trace, glance: int) -> tuple[list[tuple[Any, ...]], list[tuple[int, int, float]]]:
    """Read one glance of a trace in the form of ``walk``."""
    found = {}
    for name in t.modules:
        o = t.objects(name)
        rows = [k for k, g in enumerate(o.glance.tolist()) if g == glance]
        ranks = t.columns[name].rank[t.columns[name].glance == glance]
        for k, r in zip(rows, ranks.tolist(), strict=True):
            found[r] = (name, o.attributes[k].tolist(), float(o.weight[k]), o.path[k])
    e = t.all_edges()
    mine = e.glance == glance
    edges = list(
        zip(e.parent[mine].tolist(), e.child[mine].tolist(), e.weight[mine].tolist(), strict=True)
    )
    return [found[r] for r in sorted(found)], edges


@settings(max_examples=60, deadline=None)
@given(glances())
def test_from_objects_lists_what_a_naive_walk_lists(tops: list[list[Object]]) -> None:
    t = Trace.from_objects(tops)
    assert len(t) == len(tops)
    for k, top in enumerate(tops):
        assert spelled(t, k) == walk(top)


@settings(max_examples=60, deadline=None)
@given(glances(), st.data())
def test_parts_joined_are_the_whole(tops: list[list[Object]], data: Any) -> None:
    t = Trace.from_objects(tops)
    cut = data.draw(st.integers(0, len(tops)))
    parts = [t[s] for s in (slice(0, cut), slice(cut, None)) if len(range(len(t))[s])]
    joined = Trace.concat(parts)
    assert len(joined) == len(t)
    for k in range(len(t)):
        assert spelled(joined, k) == spelled(t, k)
    for one, k in zip(t, range(len(t)), strict=True):
        assert spelled(one, 0) == spelled(t, k)


@settings(max_examples=60, deadline=None)
@given(glances(), st.data())
def test_selection_takes_any_glances_in_any_order(tops: list[list[Object]], data: Any) -> None:
    t = Trace.from_objects(tops)
    wanted = data.draw(st.lists(st.integers(-len(t), len(t) - 1), min_size=1, max_size=6))
    chosen = t[wanted]
    assert len(chosen) == len(wanted)
    for place, k in enumerate(wanted):
        assert spelled(chosen, place) == spelled(t, k % len(t))
    mask = np.zeros(len(t), dtype=bool)
    mask[wanted] = True
    kept = t[mask]
    assert len(kept) == int(mask.sum())
    for place, k in enumerate(np.flatnonzero(mask).tolist()):
        assert spelled(kept, place) == spelled(t, k)


def test_columns_with_glance_numbers_in_any_order() -> None:
    t = Trace.from_columns(
        {
            "cat": {"attributes": [[1.0], [2.0], [3.0]], "glance": [2, 0, 0], "weight": [1, 2, 3]},
            "eye": torch.eye(4)[:, :2],
        }
    )
    cats = t.objects("cat")
    assert cats.attributes.flatten().tolist() == [2.0, 3.0, 1.0]
    assert cats.glance.tolist() == [0, 0, 2]
    assert cats.weight.tolist() == [2.0, 3.0, 1.0]
    assert spelled(t, 0)[0][2] == ("eye", [1.0, 0.0], 1.0, ("eye",))
    assert len(t[1].columns) == 1


def test_families_have_members() -> None:
    t = Trace.from_columns({"conv": {"attributes": torch.arange(12.0).reshape(6, 2),
                                     "members": ["conv/0", "conv/1", "conv/2"]}})  # fmt: skip
    assert len(t) == 2
    assert t.columns["conv"].is_dense(2)
    assert t.objects("conv/1").attributes.tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert t.objects("conv/1").glance.tolist() == [0, 1]
    assert t[1].objects("conv/2").attributes.tolist() == [[10.0, 11.0]]


def test_a_shared_object_is_listed_once() -> None:
    eye = Object("eye", [1.0])
    t = Trace.from_objects(
        [[Object("cat", [2.0], inputs=[eye]), Object("dog", [3.0], 0.5, [eye])]]
    )
    assert len(t.objects("eye")) == 1
    assert t.edges is not None
    assert list(zip(t.edges.parent, t.edges.child, strict=True)) == [
        (-1, 0),
        (0, 1),
        (-1, 2),
        (2, 1),
    ]
    assert t.objects("eye").path == [("cat", "eye")]


def circle() -> list[list[Object]]:
    a = Object("a", [1.0])
    b = Object("b", [1.0], inputs=[a])
    a.inputs.append(b)
    return [[b]]


def own_input() -> list[list[Object]]:
    a = Object("a", [1.0])
    a.inputs.append(a)
    return [[a]]


def negative_later() -> list[list[Object]]:
    a = Object("a", [1.0])
    a.weight = -1.0
    return [[a]]


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (circle, ValueError, "form a cycle through 'b'"),
        (own_input, ValueError, "form a cycle through 'a'"),
        (list, ValueError, "got an empty batch"),
        (lambda: [[Object("a", [1.0]), Object("a", [1.0, 2.0])]], ValueError, "all have one size"),
        (lambda: [[Object("a", [1.0], weight=-0.5)]], ValueError, "not negative, got -0.5"),
        (lambda: [[Object("a", [1.0], weight=float("nan"))]], ValueError, "finite and not neg"),
        (negative_later, ValueError, "not negative, got -1.0"),
        (lambda: [[Object("a", [float("nan")])]], ValueError, "one or more finite numbers"),
        (lambda: [[Object("a", [float("inf")])]], ValueError, "one or more finite numbers"),
        (lambda: [[Object("a", [])]], ValueError, "one or more finite numbers"),
        (lambda: [[Object("", [1.0])]], TypeError, "must be a non-empty name"),
        (lambda: [Object("a", [1.0])], TypeError, "must be a list of its top objects"),
        (lambda: [["cat"]], TypeError, "a glance is a list of Object, got str"),
        (lambda: [[Object("a", [1.0], inputs=["b"])]], TypeError, "list of Object, got str"),
    ],
)  # fmt: skip
def test_hand_built_glances_refuse(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        Trace.from_objects(make())


@pytest.mark.parametrize(
    ("columns", "options", "match"),
    [
        ({"a": torch.tensor([[float("nan")]])}, {}, "'a' must be finite, object 0"),
        ({"a": torch.ones(3)}, {}, "must have shape"),
        ({"a": torch.ones(0, 2)}, {}, "got an empty batch"),
        ({}, {}, "got an empty batch"),
        ({"a": {"attributes": [[1.0]], "glance": [0, 1]}}, {}, "must agree"),
        ({"a": {"attributes": [[1.0]], "glance": [-1]}}, {}, "out of range"),
        ({"a": {"attributes": [[1.0]], "glance": [3]}}, {"num_glances": 2}, "num_glances is 2"),
        ({"a": {"attributes": [[1.0]], "weight": [-1.0]}}, {}, "not negative, got -1"),
        ({"a": {"attributes": [[1.0]], "weight": [1.0, 1.0]}}, {}, "1 objects but 2 weights"),
        ({"a": {"attribute": [[1.0]]}}, {}, "takes attributes, glance"),
        ({"a": {"attributes": torch.ones(3, 1), "members": ["x", "y"]}}, {}, "must agree"),
        ({"a": torch.ones(2, 1), "b": {"attributes": torch.ones(2, 1), "members": ["a", "c"]}}, {},
         "two modules are called 'a'"),
    ],
)  # fmt: skip
def test_columns_refuse(columns: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Trace.from_columns(columns, **options)


def test_reading_refuses() -> None:
    t = Trace.from_columns({"eye": torch.eye(2)})
    with pytest.raises(NotRemembered, match="did you mean 'eye'"):
        t.objects("eyes")
    with pytest.raises(IndexError, match="glance 2 of a trace of 2"):
        t[2]
    with pytest.raises(IndexError, match="a mask of shape"):
        t[np.array([True])]
    with pytest.raises(ValueError, match="the selection is empty"):
        t[5:]
    with pytest.raises(ValueError, match="at least one trace"):
        Trace.concat([])
    with pytest.raises(ValueError, match="3 numbers in one trace and 2"):
        Trace.concat([t, Trace.from_columns({"eye": torch.eye(3)})])
