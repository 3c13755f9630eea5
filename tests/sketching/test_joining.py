"""New modules join a network that is remembered: no old sketch and no old answer changes."""

from __future__ import annotations

from pathlib import Path

import torch
from scenes import DigitLikeScenes, static_network

from recollect import Memory, Prior, Sketcher, Trace, recall

OLD, LATER = static_network(80, 0), static_network(40, 1)


def with_head(t: Trace, seed: int) -> Trace:
    """The same network with a new class head and an expert that fires now and then."""
    g = torch.Generator().manual_seed(seed)
    columns = {k: c.attributes for k, c in t.columns.items()}
    rows = torch.arange(0, len(t), 3)
    expert = {"attributes": torch.randn(len(rows), 9, generator=g), "glance": rows.numpy()}
    head = {"new head": torch.randn(len(t), 5, generator=g), "new expert": expert}
    return Trace.from_columns(columns | head, num_glances=len(t))


def test_old_sketches_keep_their_bits_and_are_read_as_before() -> None:
    sketcher, prior = Sketcher(dim=128), Prior.fit(OLD)
    before = sketcher.encode(LATER)
    read = sketcher.decode(before, prior=prior).trace()
    counts = sketcher.decode(before, prior=prior).count_estimates(["layer0"])[1]
    ids = {name: sketcher.modules.id_of(name) for name in OLD.modules}
    sketcher.encode(with_head(LATER, 0))
    assert {name: sketcher.modules.id_of(name) for name in OLD.modules} == ids
    assert sketcher.encode(LATER).equal(before)
    again = sketcher.decode(before, prior=prior)
    for name, c in again.trace().columns.items():
        assert torch.equal(c.attributes, read.columns[name].attributes)
    assert abs(again.count_estimates(["layer0"])[1] - counts).max() < 1e-9


def test_the_part_of_an_old_module_is_the_same_beside_new_ones() -> None:
    """Sketches add: what a glance gains with new modules is exactly what these bring."""
    sketcher = Sketcher(dim=128, dtype="float32")
    grown = with_head(LATER, 0)
    parts = sketcher.parts(grown)
    old = sketcher.parts(LATER)
    for name in LATER.modules:
        assert torch.equal(parts[(name,)], old[(name,)])


def test_a_memory_answers_about_old_glances_as_before(tmp_path: Path) -> None:
    scenes = DigitLikeScenes(0, modules=3).trace(60, 0)
    more = DigitLikeScenes(0, modules=5).trace(30, 1)
    with Memory(tmp_path / "room", Sketcher(dim=128)) as memory:
        day = "time < timestamp '2026-01-02 00:00:00'"
        memory.add(scenes, time="2026-01-01T08:00Z", ids=range(60))
        memory.fit_prior()

        def asked() -> list[object]:
            return [
                recall.count(memory, "thing1", where=day)["estimate"],
                recall.count(memory, "thing1", source="sketch", where=day)["estimate"],
                recall.similar(memory, 7, k=5, where=day)["glance"],
                recall.attribute(memory, "thing2", where=day)["estimate"],
            ]

        before = asked()
        memory.add(more, time="2026-01-03T08:00Z", ids=range(60, 90))
        assert {"thing3", "thing4"} <= set(memory.modules.names)
        after = asked()
    assert str(before) == str(after)
