"""Sub-sketches: an object is sketched as if it were alone, wherever it stands."""

from __future__ import annotations

import numpy as np
import pytest

from recollect import Object, Sketcher, Trace
from recollect.sketching.subsketches import alone, signatures, sub_sketches


def tree(rng: np.random.Generator, depth: int) -> Object:
    inputs = [tree(rng, depth - 1) for _ in range(int(rng.integers(0, 3)) if depth else 0)]
    name = f"m{rng.integers(4)}"
    return Object(name, rng.normal(size=5), weight=float(rng.uniform(0.2, 1)), inputs=inputs)


def listed(top: list[Object]) -> list[Object]:
    """Depth first; a shared object once."""
    out: dict[int, Object] = {}

    def walk(o: Object) -> None:
        if id(o) not in out:
            out[id(o)] = o
            for i in o.inputs:
                walk(i)

    for o in top:
        walk(o)
    return list(out.values())


@pytest.mark.parametrize("flat", [False, True])
def test_they_are_the_probes_of_single_objects_to_the_bit(flat: bool) -> None:
    rng = np.random.default_rng(0)
    scenes = [[tree(rng, 0 if flat else 2) for _ in range(rng.integers(1, 4))] for _ in range(12)]
    if not flat:
        # Listed under the first parent, hence before the second: its root is not its first object.
        shared = Object("m3", rng.normal(size=5))
        scenes.append([Object(f"m{k}", rng.normal(size=5), inputs=[shared]) for k in (0, 1)])
    t = Trace.from_objects(scenes)
    sketcher = Sketcher(dim=256)
    objects = [listed(s) for s in scenes]
    glance = np.repeat(np.arange(len(scenes)), [len(o) for o in objects])
    rank = np.concatenate([np.arange(len(o)) for o in objects])
    found = sub_sketches(sketcher, t, glance, rank)
    naive = [
        sketcher.probe(Object(o.module, o.attribute, inputs=o.inputs)).numpy()
        for scene in objects
        for o in scene
    ]
    np.testing.assert_array_equal(found, np.array(naive))


def test_a_shared_object_stands_once_below_its_root() -> None:
    shared = Object("c", [1.0])
    both = [Object("b", [2.0], inputs=[shared]), Object("b", [3.0], inputs=[shared])]
    t = Trace.from_objects([[Object("a", [0.0], inputs=both)]])
    found = alone(t, np.zeros(1, np.int64), np.zeros(1, np.int64)).trace
    assert len(found.objects("c")) == 1
    assert len(found.all_edges()) == len(t.all_edges())


def test_signatures_are_signs() -> None:
    x = np.random.default_rng(0).normal(size=(5, 200)).astype(np.float32)
    np.testing.assert_array_equal(np.unpackbits(signatures(x), axis=1), x[:, :128] > 0)
