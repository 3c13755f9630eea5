"""The view of look-ups: words of sentences, nodes of walks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recollect import Memory, Prior, Sketcher, Trace, recall, trace

WORDS = ["", "the", "cat", "sat", "on", "mat"]


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 3, padding_idx=0)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.words(rows).sum(1)
        return out


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(6, 3, mode="sum", padding_idx=0)

    def forward(self, rows: Tensor, offsets: Any = None, weights: Any = None) -> Tensor:
        out: Tensor = self.words(rows, offsets, weights)
        return out


SENTENCES = torch.tensor([[1, 2, 3, 0], [1, 5, 4, 1], [4, 5, 0, 0]])


def listed(t: Trace, glance: int) -> list[str]:
    """The modules of a glance in their order."""
    found = [
        (int(r), c.members[0]) for c in t.columns.values()
        for r, g in zip(c.rank, c.glance, strict=True) if g == glance
    ]  # fmt: skip
    return [name for _, name in sorted(found)]


def test_a_sentence_is_the_rows_it_looked_up_in_their_order() -> None:
    model = Reader().eval()
    t = trace(model, SENTENCES, view="lookups", names=WORDS, named=[1, 2, 3])
    assert [listed(t, i) for i in range(3)] == [
        ["the", "cat", "sat"], ["the", "other", "other", "the"], ["other", "other"]
    ]  # fmt: skip
    vectors = model.words.weight.detach()
    torch.testing.assert_close(t.objects("other").attributes, vectors[[5, 4, 4, 5]])
    torch.testing.assert_close(t.objects("cat").attributes, vectors[[2]])
    every = trace(model, SENTENCES, view="lookups")
    assert set(every.modules) == {f"row {k}" for k in range(1, 6)}
    none = trace(model, SENTENCES, view="lookups", named=0, skip=[1])
    assert [listed(none, i) for i in range(3)] == [["other"] * 2] * 3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=6), min_size=1, max_size=5))
def test_bags_are_the_same_glances_in_both_forms(sentences: list[list[int]]) -> None:
    table = Bags().eval()
    rows = torch.zeros(len(sentences), 6, dtype=torch.int64)
    for b, s in enumerate(sentences):
        rows[b, : len(s)] = torch.tensor(s)
    line = torch.tensor([r for s in sentences for r in s])
    offsets = torch.tensor(np.cumsum([0, *map(len, sentences)])[:-1])
    a = trace(table, rows, view="lookups", names=WORDS)
    b = trace(table, (line, offsets), view="lookups", names=WORDS)
    assert len(b) == len(sentences)
    for i in range(len(sentences)):
        assert listed(a, i) == listed(b, i) == [WORDS[r] for r in sentences[i]]
    sketcher = Sketcher(dim=64, dtype="float32")
    assert torch.equal(sketcher.encode(a).values, sketcher.encode(b).values)


def test_weights_of_bags_are_the_objects_weights() -> None:
    t = trace(Bags().eval(), (SENTENCES, None, SENTENCES.float()), view="lookups", names=WORDS)
    assert t.objects("mat").weight.tolist() == [5, 5]
    with pytest.raises(ValueError, match="must be finite and not negative"):
        trace(Bags().eval(), (SENTENCES, None, -SENTENCES.float()), view="lookups")


def test_several_tables_and_several_look_ups() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(6, 3), nn.Embedding(4, 2)

        def forward(self, rows: Tensor) -> Tensor:
            at = torch.arange(rows.shape[1]).expand(len(rows), -1)
            again: Tensor = self.words(rows[:, :1])
            return self.words(rows).sum() + self.places(at).sum() + again.sum()

    names = {"words": WORDS, "places": ["first", "second", "third", "fourth"]}
    t = trace(Two(), SENTENCES, view="lookups", names=names, named=3)
    assert listed(t, 0) == [
        "words/the", "words/the", "words/cat", "words/other", "words/",
        "places/first", "places/second", "places/third", "places/other",
    ]  # fmt: skip
    assert len(t.objects("words/the")) == 5


def test_counts_attributes_similarity_and_why(tmp_path: Any) -> None:
    """Hundreds of look-ups: months are counted from sketches, rare words read from them."""
    torch.manual_seed(0)
    table = nn.Sequential(nn.Embedding(60, 4), nn.Flatten()).eval()
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(np.minimum(rng.zipf(1.6, (120, 5)) - 1, 59))
    rows[7] = rows[3]
    t = trace(table, rows, view="lookups", named=12)
    times = np.datetime64("2026-01-01T00:00") + np.arange(120) * np.timedelta64(24, "h")
    with Memory(tmp_path / "m", Sketcher(dim=128), reservoir=90) as memory:
        memory.add(t, time=times, ids=range(120))
        memory.fit_prior()
        month = (times.astype("datetime64[M]").astype(int) % 12).tolist()
        inside = []
        for word in range(2):
            told = recall.count(memory, f"row {word}", by="month", source="sketch")
            true = np.bincount(month, (rows == word).sum(1).numpy(), minlength=4)
            inside += [lo <= n <= hi for lo, n, hi in zip(told["low"], true, told["high"],
                                                         strict=True)]  # fmt: skip
            assert np.abs(np.array(told["estimate"]) - true).sum() <= 0.1 * true.sum() + 1
        assert np.mean(inside) >= 0.75
        found = recall.similar(memory, 3, k=1)
        assert found["glance"] == [7]
        assert found["estimate"][0] == pytest.approx(1, abs=1e-3)
        why = recall.why(memory, 3, 7)
        assert set(why["path"]) - {"(counts)", "(residual)", "(total)"} == set(listed(t, 3))
        mean = t.objects("other").attributes.mean(0)
        assert recall.attribute(memory, "other")["estimate"] == pytest.approx(
            mean.tolist(), abs=0.02
        )
    sketcher = Sketcher(dim=128)
    sketcher.admit(t[:90], measure_scales=True)
    read = sketcher.decode(sketcher.encode(t[90:]), prior=Prior.fit(t[:90])).objects("other")
    weight: Any = table[0].weight.detach()  # type: ignore[union-attr]
    nearest = torch.cdist(read.attributes, weight).argmin(1)
    true_rows = rows[90:][rows[90:] >= 12]
    assert float((nearest == true_rows).float().mean()) > 0.97


# -- refusals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"names": WORDS[:3]}, "has 6 rows, but 3 names are given; name every row"),
        ({"names": ["a"] * 6}, "two rows of table 'words' are called 'a'"),
        ({"names": [*WORDS[:5], "other"]}, "called 'other'"),
        ({"modules": "words", "named": -1}, "named must be at least 0"),
    ],
)
def test_wrong_names_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        trace(Reader(), SENTENCES, view="lookups", **options)


def test_networks_without_tables_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs embedding tables.*Sequential holds none"):
        trace(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), view="lookups")
    with pytest.raises(ValueError, match=r"needs embedding tables.*'0' is none"):
        trace(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2), view="lookups", modules="0")


def test_look_ups_of_no_item_are_refused() -> None:
    class Sideways(Reader):
        def forward(self, rows: Tensor) -> Tensor:
            return super().forward(rows.T)

    with pytest.raises(ValueError, match="the first axis must be that of the batch"):
        trace(Sideways(), SENTENCES, view="lookups")
    table = Bags()
    table.words.forward = lambda *a: torch.zeros(1, 3)  # type: ignore[assignment, method-assign]
    with pytest.raises(ValueError, match="took rows in one line without offsets"):
        trace(table, SENTENCES[0], view="lookups")

    class Named(Reader):
        def forward(self, rows: Tensor) -> Tensor:
            out: Tensor = self.words(input=rows)
            return out

    with pytest.raises(ValueError, match="not given its rows as its first argument"):
        trace(Named(), SENTENCES, view="lookups")
