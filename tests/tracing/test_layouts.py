"""The view of layouts: what was applied to what, for which glances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recollect import Memory, Sketcher, Trace, capture, recall, trace
from recollect.tracing.choosing import choose_modules

Tree = tuple[Any, ...]  # (module, *inputs)

LAYOUTS: list[Tree] = [
    ("answer", ("join", ("find", "black"), ("find", "blue"))),
    ("answer", ("find", "black")),
    ("answer", ("join", ("find", "black"), ("find", "blue"))),
    ("answer", ("join", ("twice", ("find", "blue")), ("find", "blue"))),
]


class Find(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.black, self.blue = nn.Linear(3, 4), nn.Linear(3, 4)

    def forward(self, x: Tensor, word: str) -> Tensor:
        found: Tensor = (self.black if word == "black" else self.blue)(x)
        return found


class Join(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Twice(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return 2 * a


class Assembles(nn.Module):
    """Runs each layout's questions together, or question after question."""

    def __init__(self, together: bool = True, says: bool = True) -> None:
        super().__init__()
        parts = {"find": Find(), "join": Join(), "twice": Twice(), "answer": nn.Linear(4, 1)}
        self.parts = nn.ModuleDict(parts)
        self.together, self.says = together, says
        self.layout_rows: Any = None

    def forward(self, x: Tensor, layouts: list[Tree]) -> Tensor:
        groups: dict[Any, list[int]] = {}
        for i, tree in enumerate(layouts):
            groups.setdefault(tree if self.together else i, []).append(i)
        out = torch.zeros(len(x))
        for rows in groups.values():
            if self.says:
                self.layout_rows = rows
            out[rows] = self.run(layouts[rows[0]], x[rows], {})[:, 0]
        self.layout_rows = None
        return out

    def run(self, tree: Tree, x: Tensor, done: dict[Tree, Tensor]) -> Tensor:
        if tree not in done:
            name, *inputs = tree
            if name == "find":
                done[tree] = self.parts[name](x, inputs[0])
            else:
                done[tree] = self.parts[name](*(self.run(i, x, done) for i in inputs))
        return done[tree]


def spelled(t: Trace, glance: int) -> set[tuple[str, ...]]:
    """All paths of a glance, of shared objects too."""
    e, names = t.all_edges(), t._names
    rows = [
        (p, c) for g, p, c in zip(e.glance.tolist(), e.parent.tolist(), e.child.tolist(),
                                  strict=True) if g == glance
    ]  # fmt: skip

    def below(rank: int, path: tuple[str, ...]) -> set[tuple[str, ...]]:
        found = {path} if path else set()
        for p, c in rows:
            if p == rank:
                found |= below(c, (*path, names[(glance, c)]))
        return found

    return below(-1, ())


def expected(tree: Tree, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The same, read off a layout."""
    name, *inputs = tree
    if name == "find":
        return {(*above, f"find[{inputs[0]}]")}
    path = (*above, name)
    return {path}.union(*(expected(i, path) for i in inputs))


@pytest.mark.parametrize(("together", "says"), [(True, True), (False, True), (False, False)])
def test_the_glance_is_the_layout(together: bool, says: bool) -> None:
    model, x = Assembles(together, says).eval(), torch.randn(4, 3)
    t = trace(model, (x, LAYOUTS), view="layout")
    for i, tree in enumerate(LAYOUTS):
        assert spelled(t, i) == expected(tree)
    find: Any = model.parts["find"]
    assert all((np.diff(c.glance) >= 0).all() for c in t.columns.values())
    assert spelled(t[[2, 1]], 0) == expected(LAYOUTS[2])
    black = t.objects("find[black]")
    assert black.glance.tolist() == [0, 1, 2]
    torch.testing.assert_close(black.attributes, find.black(x[:3]).detach())
    assert t.objects("find[blue]").glance.tolist() == [0, 2, 3]  # once in the last: shared
    torch.testing.assert_close(t.objects("twice").attributes, 2 * find.blue(x[3:]).detach())


def test_how_questions_are_run_makes_no_difference() -> None:
    """The same network, run by layouts and one by one, gives the same sketches."""
    torch.manual_seed(0)
    model, x = Assembles().eval(), torch.randn(4, 3)
    sketcher = Sketcher(dim=64, dtype="float32")
    a = sketcher.encode(trace(model, (x, LAYOUTS), view="layout")).values
    model.together = model.says = False
    b = sketcher.encode(trace(model, (x, LAYOUTS), view="layout")).values
    torch.testing.assert_close(a, b)


def test_several_forwards_and_the_coverage() -> None:
    model, x = Assembles().eval(), torch.randn(4, 3)
    with capture(model, view="layout") as c, torch.no_grad():
        model(x[:2], LAYOUTS[:2])
        model(x[2:], LAYOUTS[2:])
        with pytest.raises(KeyError):
            model(x[:2], [("find", "black"), ("find", "black", "oops"), ("nothing",)][1:])
    t = c.trace()
    whole = trace(model, (x, LAYOUTS), view="layout")
    assert [spelled(t, i) for i in range(4)] == [spelled(whole, i) for i in range(4)]
    assert t.coverage.never_fired == ()
    assert trace(model, (x[1:2], LAYOUTS[1:2]), view="layout").coverage.never_fired == (
        "parts.join",
        "parts.twice",
    )


def test_a_stem_for_all_belongs_to_the_layouts_that_took_it() -> None:
    class Stem(Assembles):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 3)

        def forward(self, x: Tensor, layouts: list[Tree]) -> Tensor:
            self.layout_rows = None
            seen = self.stem(x)
            out = torch.zeros(len(x))
            for i, tree in enumerate(layouts):
                self.layout_rows = [i]
                out[i] = self.run(tree, seen[i : i + 1], {})[0, 0]
            return out

    model, x = Stem().eval(), torch.randn(4, 3)
    watched = ["stem", "parts.find", "parts.join", "parts.twice", "parts.answer"]
    t = trace(model, (x, LAYOUTS), view="layout", modules=watched)
    assert ("answer", "find[black]", "stem") in spelled(t, 1)
    torch.testing.assert_close(t.objects("stem").attributes, model.stem(x).detach())


def test_outputs_are_pooled_as_asked() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"see": nn.Conv2d(1, 2, 3), "same": Twice()})

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.parts["same"](self.parts["see"](x))
            return out

    model, x = Maps().eval(), torch.randn(3, 1, 6, 6)
    maps = model.parts["see"](x).detach()
    t = trace(model, x, view="layout")
    torch.testing.assert_close(t.objects("see").attributes, maps.mean((2, 3)))
    t = trace(model, x, view="layout", reduce=lambda o: o.flatten(1))
    torch.testing.assert_close(t.objects("same").attributes, 2 * maps.flatten(1))
    with pytest.raises(ValueError, match="cannot be pooled to one row per glance"):
        trace(model, x, view="layout", reduce=lambda o: o)


def test_a_memory_of_layouts_answers(tmp_path: Any) -> None:
    model = Assembles().eval()
    x = torch.randn(4, 3).repeat(10, 1) + 0.1 * torch.randn(40, 3)
    layouts = [LAYOUTS[i % 4] for i in range(40)]
    t = trace(model, (x, layouts), view="layout")
    times = [f"2026-03-{1 + i // 20:02d}T{i % 20:02d}:00Z" for i in range(40)]
    with Memory(tmp_path / "m", Sketcher(dim=128)) as memory:
        memory.add(t, time=times, ids=range(40))
        for source in ("skeleton", "sketch"):
            told = recall.count(memory, "find[black]", by="day", source=source)
            assert len(told) == 2
            assert all(lo <= 15 <= hi for lo, hi in zip(told["low"], told["high"], strict=True))
        found = recall.attribute(memory, "find[blue]")
        mean = t.objects("find[blue]").attributes.mean(0)
        assert found["estimate"] == pytest.approx(mean.tolist(), abs=1e-2)
        found = recall.similar(memory, 3, k=5)["glance"]
        assert len(found) == 5
        assert all(i % 4 == 3 for i in found)
        why = recall.why(memory, 3, 7)
        assert "answer / join / twice" in why["path"]
        assert sum(why["estimate"][:-1]) == pytest.approx(why["estimate"][-1])


# -- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (lambda rows: rows[:-1] or [7], "one glance of the batch of 4 for each"),
        (lambda rows: [r + 9 for r in rows], "one glance of the batch of 4 for each"),
        (lambda rows: [rows[0]] * len(rows), "each once"),
    ],
)
def test_wrong_rows_are_refused(says: Any, match: str) -> None:
    class Wrong(Assembles):
        def __setattr__(self, name: str, value: Any) -> None:
            wrong = name == "layout_rows" and value is not None
            super().__setattr__(name, says(value) if wrong else value)

    with pytest.raises(ValueError, match=match):
        trace(Wrong(), (torch.randn(4, 3), LAYOUTS), view="layout")


def test_groups_without_rows_are_refused() -> None:
    model = Assembles(together=True, says=False)
    with pytest.raises(ValueError, match="keep their numbers in its attribute layout_rows"):
        trace(model, (torch.randn(4, 3), LAYOUTS), view="layout")


def test_a_broken_chain_is_refused() -> None:
    class Broken(Assembles):
        def run(self, tree: Tree, x: Tensor, done: dict[Tree, Tensor]) -> Tensor:
            return super().run(tree, x, {}).clone()

    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="pass outputs from module to module as they are"):
        trace(Broken(), (x, LAYOUTS), view="layout")
    with pytest.raises(ValueError, match="form 15 trees, but the batch has 4"):
        trace(Broken(together=False, says=False), (x, LAYOUTS), view="layout")


def test_networks_that_assemble_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"holds no torch\.nn\.ModuleDict: name the modules"):
        trace(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), view="layout")
    with pytest.raises(TypeError, match="rows must be a function"):
        trace(Assembles(), (torch.ones(4, 3), LAYOUTS), view="layout", rows=[0])


def test_a_module_keeps_one_size() -> None:
    class Sizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict({"twice": Twice(), "join": Join()})

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.parts["twice"](x), self.parts["twice"](x[:, :1])
            out: Tensor = self.parts["join"](a, b)
            return out

    with pytest.raises(ValueError, match=r"put out \[1, 3\] numbers in different applications"):
        trace(Sizes(), torch.ones(2, 3), view="layout")


def test_modules_with_brackets_are_named_as_they_are() -> None:
    net = nn.ModuleDict({"find[black]": nn.Linear(2, 2), "findb": nn.Linear(2, 2)})
    assert list(choose_modules(net, "find[black]")) == ["find[black]", "findb"]
    assert list(choose_modules(net, ["find[[]black]"])) == ["find[black]"]
