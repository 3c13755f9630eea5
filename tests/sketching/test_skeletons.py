"""Skeletons: bytes that say exactly what the structure was, and never change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recollect.sketching import Skeletons, Structure
from recollect.sketching.skeletons import pack_structure, unpack_structure


def structure(modules: list, edges: list | None = None, weight: list | None = None) -> Structure:
    """A structure from plain lists; without edges, every object stands on top."""
    pairs = edges if edges is not None else [(-1, i) for i in range(len(modules))]
    parent, child = np.array(pairs, np.int64).reshape(-1, 2).T
    w = np.ones(len(pairs)) if weight is None else weight
    return Structure(np.array(modules, np.int64), parent, child, np.array(w, np.float32))


def same(a: Structure, b: Structure) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("modules", "parent", "child", "weight")
    )


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    ids = st.one_of(st.integers(0, 4), st.integers(0, 2**40))
    modules = draw(st.lists(ids, max_size=30))
    if modules and draw(st.booleans()):
        start = draw(st.integers(0, 300))
        modules += list(range(start, start + draw(st.integers(0, 200))))
    n = len(modules)
    if n and draw(st.booleans()):
        # Parents come before their children; a shared object has several edges.
        edges = [(draw(st.integers(-1, max(-1, i - 1))), i) for i in range(n)]
        edges += [
            (draw(st.integers(-1, i - 1)), i)
            for i in draw(st.lists(st.integers(0, n - 1), max_size=5))
        ]
    else:
        edges = [(-1, i) for i in range(n)]
    weight = None
    if draw(st.booleans()):
        kept = st.floats(0, 65504, width=16, allow_nan=False)
        weight = draw(st.lists(kept, min_size=len(edges), max_size=len(edges)))
    return structure(modules, edges, weight)


@given(structures())
def test_a_structure_survives_packing(s: Structure) -> None:
    assert same(unpack_structure(pack_structure(s)), s)


@given(structures(), st.integers(0, 30))
def test_bytes_cut_off_or_appended_are_refused(s: Structure, cut: int) -> None:
    data = pack_structure(s)
    with pytest.raises(ValueError, match="are not a skeleton"):
        unpack_structure(data[: min(cut, len(data) - 1)])
    with pytest.raises(ValueError, match="are not a skeleton"):
        unpack_structure(data + b"\0")


@given(st.binary(max_size=40))
def test_any_bytes_are_a_skeleton_or_refused(data: bytes) -> None:
    try:
        read = unpack_structure(data)
    except ValueError:
        return
    assert same(unpack_structure(pack_structure(read)), read)


GOLDEN = [
    # 64 modules of a static network, once each: six bytes
    (structure(list(range(64))), "0001008101"),
    (structure([]), "0000"),
    (structure([2, 2, 2, 300], weight=[1, 0.5, 1, 2]), "0202020 6ac0202003c0038003c0040"),
    (
        structure(
            [3, 4, 5, 5, 5, 300],
            [(-1, 0), (0, 1), (0, 2), (-1, 3), (3, 4), (-1, 5)],
            [1, 0.5, 1, 2, 0.25, 1],
        ),
        "030303070504ac020206000001010102000304040005003c0038003c00400034003c",
    ),
]


@pytest.mark.parametrize(("s", "golden"), GOLDEN)
def test_the_format_never_changes(s: Structure, golden: str) -> None:
    assert pack_structure(s).hex() == golden.replace(" ", "")


def test_a_static_network_takes_a_few_bytes_however_large() -> None:
    assert len(pack_structure(structure(list(range(18_849))))) < 8


def test_weights_are_kept_to_three_digits_or_refused() -> None:
    weights = np.random.default_rng(0).uniform(0.01, 3.0, 100)
    read = unpack_structure(pack_structure(structure(list(range(100)), weight=weights)))
    np.testing.assert_allclose(read.weight, weights, rtol=2**-11)
    with pytest.raises(ValueError, match=r"weight of 1e.06 .* at most 65504"):
        pack_structure(structure([0], weight=[1e6]))


def test_flat_is_flat() -> None:
    assert structure([1, 2]).is_flat
    assert not structure([1, 2], [(-1, 0), (0, 1)]).is_flat
    # an object that is listed on top twice is shared, not flat
    assert not structure([1], [(-1, 0), (-1, 0)]).is_flat


@given(st.lists(structures(), min_size=1, max_size=6), st.data())
def test_a_batch_keeps_each_skeleton_once(batch: list[Structure], data: st.DataObject) -> None:
    packed = [pack_structure(s) for s in batch] * 2
    skeletons = Skeletons.from_packed(packed)
    assert len(skeletons) == len(packed)
    assert len(skeletons.table) == len(set(packed))
    assert skeletons.packed() == packed
    rows = data.draw(st.lists(st.integers(0, len(packed) - 1), max_size=5))
    chosen = skeletons.select(np.array(rows, np.int64))
    assert chosen.packed() == [packed[r] for r in rows]
    assert all(same(skeletons[i], batch[i % len(batch)]) for i in range(len(packed)))
    assert f"{len(packed)} glances, {len(set(packed))} distinct" in repr(skeletons)
