"""Structure is found where it can be, and refused, never guessed, where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import random_dag, random_sizes

from recollect import Object, RecipeMismatch, Sketcher, Trace
from recollect.sketching.candidates import Place, bank_of
from recollect.sketching.rounding import rounding_variance
from recollect.sketching.searching import Search
from recollect.sketching.structure import find_structure


def true_paths(objects: list[Object], above: tuple[str, ...] = ()) -> list[str]:
    """Paths of a glance of unshared objects, like siblings numbered from the second on."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for o in objects:
        number = seen[o.module] = seen.get(o.module, -1) + 1
        step = (*above, f"{o.module}#{number}" if number else o.module)
        found += ["/".join(step), *true_paths(o.inputs, step)]
    return found


def flat_glances(
    rng: np.random.Generator, count: int, modules: int, present: int, size: int
) -> list[list[Object]]:
    def unit() -> np.ndarray:
        x = rng.standard_normal(size)
        return x / np.linalg.norm(x)

    return [
        [Object(f"m{i}", unit()) for i in rng.choice(modules, present, replace=False).tolist()]
        for _ in range(count)
    ]


def sketcher_of(dim: int, modules: int, size: int, **options: object) -> Sketcher:
    sketcher = Sketcher(dim=dim, **options)
    for i in range(modules):
        sketcher.modules.add(f"m{i}", size)
    return sketcher


def test_all_groups_at_three_times_the_unknowns_among_many() -> None:
    """2,000 candidates of 8 numbers, 10 present, 240 numbers of an int8 sketch."""
    glances = flat_glances(np.random.default_rng(0), 6, 2000, 10, 8)
    sketcher = sketcher_of(256, 2000, 8)
    found = find_structure(sketcher, sketcher.encode(Trace.from_objects(glances)).prefix(240))
    assert not found.refused.any()
    for objects, places in zip(glances, found.places, strict=True):
        assert {p.module for p in places} == {o.module for o in objects}
        assert all(len(p.path) == 1 for p in places)


@pytest.mark.parametrize("scheme", ["energy", "keyed"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_dags_are_found_place_by_place(scheme: str, depth: int) -> None:
    rng = np.random.default_rng(depth)
    sizes = random_sizes(rng, 12)
    glances = [random_dag(rng, depth, sizes, top=4 - depth) for _ in range(4)]
    sketcher = Sketcher(dim=1024, scheme=scheme)
    found = find_structure(sketcher, sketcher.encode(Trace.from_objects(glances)), max_depth=3)
    assert found.refused.sum() <= 1  # rounding alone may look too large, once in a while
    for glance, (objects, places) in enumerate(zip(glances, found.places, strict=True)):
        if not found.refused[glance]:
            assert sorted(map(str, places)) == sorted(true_paths(objects))
    assert np.abs(found.left[~found.refused] - 1).max() < 0.3


def test_a_careful_search_finds_pairs_that_the_first_does_not() -> None:
    """42 unknowns in 128 numbers, among the 40,200 places that 200 modules have on two levels."""
    rng = np.random.default_rng(5)
    glances = []
    for objects in flat_glances(rng, 10, 200, 7, 6)[4:7]:
        below = [[o] for o in objects[1::2]] + [[]]
        pairs = zip(objects[::2], below, strict=True)
        glances.append([Object(o.module, o.attribute, inputs=i) for o, i in pairs])
    sketcher = sketcher_of(128, 200, 6)
    sketches = sketcher.encode(Trace.from_objects(glances))
    bank, noise = bank_of(sketcher, 128), rounding_variance(sketches).tolist()
    found = []
    for careful in (False, True):
        results = [
            Search(bank, row.double(), level, 2, 1e-4, careful).run()
            for row, level in zip(sketches.values, noise, strict=True)
        ]
        for objects, result in zip(glances, results, strict=True):
            assert result.refused or sorted(map(str, result.places)) == sorted(true_paths(objects))
        found.append(sum(not r.refused for r in results))
    assert found[0] < found[1]
    assert find_structure(sketcher, sketches).refused.sum() == len(glances) - found[1]


def test_decoding_with_the_structure_found_gives_the_attributes() -> None:
    rng = np.random.default_rng(4)
    cat = Object("cat", rng.standard_normal(6), inputs=[Object("face", rng.standard_normal(5))])
    glance = [cat, Object("cat", rng.standard_normal(6)), Object("dog", rng.standard_normal(9))]
    trace = Trace.from_objects([glance])
    sketcher = Sketcher(dim=512, dtype="float32")
    sketches = sketcher.encode(trace)
    found = find_structure(sketcher, sketches)
    assert found.sketches.skeletons is not None
    assert sketches.skeletons is not None
    for a, b in zip(found.sketches.skeletons.packed(), sketches.skeletons.packed(), strict=True):
        assert a == b
    read = sketcher.decode(found.sketches)
    for module in trace.modules:
        error = read.objects(module).attributes - trace.objects(module).attributes
        assert error.abs().max() < 1e-4
    answer = found.answer()
    assert answer["path"] == ["cat", "cat/face", "cat#1", "dog"]
    norms = [np.linalg.norm(o.attribute) for o in (cat, cat.inputs[0], *glance[1:])]
    assert answer["estimate"] == pytest.approx(norms, rel=1e-4)
    assert (np.array(answer["low"]) <= np.array(answer["high"])).all()


def test_families_are_told_apart_by_member() -> None:
    rng = np.random.default_rng(5)
    x = torch.from_numpy(rng.standard_normal((4, 6)).astype(np.float32))
    trace = Trace.from_columns(
        {"conv": {"attributes": x, "glance": [0, 0, 1, 1], "member": [0, 3, 1, 2],
                  "members": [f"conv/{i}" for i in range(4)]}},
        num_glances=2,
    )  # fmt: skip
    sketcher = Sketcher(dim=256)
    found = find_structure(sketcher, sketcher.encode(trace))
    assert [{p.module for p in places} for places in found.places] == [
        {"conv/0", "conv/3"},
        {"conv/1", "conv/2"},
    ]


def test_nothing_is_invented_in_random_trials() -> None:
    """Whatever the load, and for sketches of nothing known: what is reported is there."""
    rng = np.random.default_rng(6)
    sketcher = sketcher_of(128, 60, 6)
    invented, refused = 0, {}
    for present in (0, 2, 6, 9, 12, 16, 24, 50):
        glances = flat_glances(rng, 6, 60, present, 6)
        found = find_structure(sketcher, sketcher.encode(Trace.from_objects(glances)))
        refused[present] = int(found.refused.sum())
        for objects, places in zip(glances, found.places, strict=True):
            invented += len({p.module for p in places} - {o.module for o in objects})
    assert invented == 0
    assert refused[0] == refused[2] == refused[6] == 0
    assert refused[24] == refused[50] == 6
    # Sketches of modules that are not in the table, and plain noise.
    alien = Sketcher(dim=128, seed=0)
    strangers = [[Object("alien", rng.standard_normal(6))] for _ in range(8)]
    sketches = alien.encode(Trace.from_objects(strangers))
    found = find_structure(sketcher, sketches)
    assert found.refused.all()
    assert "8 of 8 glances refused" in found.answer().notes[0]


def test_a_missing_object_is_noticed_however_faint() -> None:
    """Its count betrays an object whose attribute is zero."""
    rng = np.random.default_rng(7)
    glances = flat_glances(rng, 1, 20, 4, 6)
    glances[0].append(Object("m19", np.zeros(6)))
    sketcher = sketcher_of(256, 20, 6)
    found = find_structure(sketcher, sketcher.encode(Trace.from_objects(glances)))
    assert {p.module for p in found.places[0]} == {o.module for o in glances[0]}


def test_scores_without_columns_are_those_of_the_columns() -> None:
    rng = np.random.default_rng(8)
    sketcher = Sketcher(dim=192)
    for i, size in enumerate((3, 8, 21, 21)):
        sketcher.modules.add(f"m{i}", size)
    sketcher.modules.add("pair", 5, ["pair/0", "pair/1"])
    bank = bank_of(sketcher, 130)
    r = torch.from_numpy(rng.standard_normal(130))
    z = bank.enter(r)
    for above in ((), (("m1",),), (("m2", "1"), ("m0",))):
        for step in above:
            z = bank.below(z, step)
        for kind in bank.classes(above):
            energies = kind.energies(z[None])[0]
            for i, entry in enumerate(kind.entries):
                for j in range(len(entry.members)):
                    place = Place((*above, (entry.name,)), entry, j)
                    own = float((bank.columns(place) @ r).square().sum())
                    assert float(energies[i, j]) == pytest.approx(own, rel=1e-4)
        z = bank.enter(r)


def test_what_is_refused() -> None:
    t = Trace.from_objects([[Object("cat", [1.0])], [Object("cat", [2.0])]])
    sketcher = Sketcher(dim=64)
    s = sketcher.encode(t)
    with pytest.raises(ValueError, match="sum of sketches has no single structure"):
        find_structure(sketcher, s.sum())
    with pytest.raises(ValueError, match="level must lie between"):
        find_structure(sketcher, s, level=1.0)
    with pytest.raises(ValueError, match="max_depth must be at least 1"):
        find_structure(sketcher, s, max_depth=0)
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        find_structure(Sketcher(dim=64, seed=1), s)
    for options in ({"scheme": "paper"}, {"slots": True}):
        other = Sketcher(dim=64, **options)
        with pytest.raises(ValueError, match="without slots"):
            find_structure(other, other.encode(t))
