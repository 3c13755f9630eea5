"""The trained examples of the views of layouts, paths and look-ups."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recollect import Memory, Sketcher, Trace, recall
from recollect.studies.views import walks
from recollect.studies.views.drawn.drawing import drawn_scenes
from recollect.studies.views.drawn.network import accuracy, majority, train
from recollect.studies.views.drawn.scenes import Item, nlvr_scenes
from recollect.studies.views.drawn.sentences import parse
from recollect.studies.views.drawn.truth import executed
from recollect.studies.views.embeddings import month_counts, remember, year_told
from recollect.studies.views.evolving import PathNet, Task, evolve
from recollect.studies.views.evolving import accuracy as share_right
from recollect.studies.views.module_networks import seen
from recollect.studies.views.pathnet import live
from recollect.studies.views.skipgram import near_pairs, neighbours, skip_gram
from recollect.studies.views.text_classifier import TextClassifier, a_year, train_classifier
from recollect.studies.views.texts import Corpus, read_corpus


def modules_of(t: Trace, glance: int) -> set[str]:
    """The modules of a glance."""
    return {n for n, c in t.columns.items() if (c.glance == glance).any()}


def answers(memory: Memory, t: Trace, module: str, place: int) -> None:
    """Counts from sketches, attributes, similarity and why, of glances 0, 1, ... of a trace."""
    true = len(t.objects(module))
    told = recall.count(memory, module, source="sketch")
    assert told["low"][0] <= true <= told["high"][0]
    mean = t.objects(module).attributes.mean(0).numpy()
    found = recall.attribute(memory, module)
    assert np.abs(np.array(found["estimate"]) - mean).max() <= 0.05 * np.abs(mean).max() + 1e-3
    near = recall.similar(memory, place, k=1)
    why = recall.why(memory, place, near["glance"][0])
    assert sum(why["estimate"][:-1]) == pytest.approx(why["estimate"][-1], abs=1e-9)
    assert why["estimate"][-1] == pytest.approx(near["estimate"][0], abs=0.02)
    both = modules_of(t, place) & modules_of(t, near["glance"][0])
    paths = {p.split(" / ")[-1] for p in why["path"]}
    assert both <= paths


# -- sentences ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "layout"),
    [
        ("There is a black tower.", "some(and(box_exactly[0](count(except[black](find[item]))), "
         "exists(find[black])))"),
        ("there are at least 3 blue blocks", "at_least[3](total(find[blue]))"),
        ("None of the blue circles are touching any edge",
         "exactly[0](total(filter[edge](filter[blue](find[circle]))))"),
        ("There is no black block as the top of a tower with at most three blocks.",
         "exactly[0](boxes(and(exists(filter[top](find[black])), "
         "box_at_most[3](count(find[item])))))"),
        ("There is a box with 4 items of 2 different colors.",
         "some(and(box_exactly[4](count(find[item])), box_exactly[2](colours(find[item]))))"),
        ("One tower has a yellow block on top of a blue block",
         "some(exists(both(find[yellow], relate[above](find[blue]))))"),
        ("the top of a three blocks tower is yellow",
         "some(and(box_exactly[3](count(find[item])), exists(filter[top](find[yellow]))))"),
        ("each tower has at least 1 blue block", "every(exists(find[blue]))"),
    ],
)  # fmt: skip
def test_sentences_become_layouts(sentence: str, layout: str) -> None:
    parsed = str(parse(sentence))
    # "at least 1" of a box and "a" are the same question
    assert parsed in (
        layout,
        layout.replace("exists(find[blue])", "box_at_least[1](count(find[blue]))"),
    )


@pytest.mark.parametrize(
    "sentence", ["There are at least two towers with the same height.", "a", "", "black black"]
)
def test_what_the_grammar_does_not_know_is_refused(sentence: str) -> None:
    assert parse(sentence) is None


BOXES = (
    (Item("square", "blue", 40, 80, 60, 100), Item("square", "black", 40, 59, 60, 79)),
    (Item("circle", "yellow", 0, 10, 30, 40),),
    (),
)


@pytest.mark.parametrize(
    ("sentence", "truth"),
    [
        ("there is a black block on a blue block", True),
        ("there is a blue block on a black block", False),
        ("there is a tower with a black block at the top", True),
        ("there is a tower with a black block at the base", False),
        ("there is exactly one circle touching the edge", True),
        ("there is a circle touching the corner", False),
        ("there is a box with items of only yellow color", True),
        ("there are exactly two squares not touching any edge", False),
        ("each box has a black item", False),
        ("there is a box with two items of 2 different colors", True),
    ],
)
def test_layouts_run_by_hand(sentence: str, truth: bool) -> None:
    layout = parse(sentence)
    assert layout is not None
    assert executed(layout, BOXES) is truth


def test_most_of_nlvr_is_parsed_and_rightly(data_folder: Path) -> None:
    known = [e for e in nlvr_scenes(data_folder) if e.layout is not None]
    right = np.mean([executed(e.layout, e.boxes) == e.is_true for e in known if e.layout])
    assert len(known) >= 0.75 * 1579
    assert right >= 0.97


def test_modules_learn_to_judge_sentences_and_are_remembered(tmp_path: Path) -> None:
    examples = drawn_scenes(240, 0)
    network = train(examples[:180], 0, 4, 1)
    ask = examples[180:]
    assert accuracy(network, ask) >= majority(ask) + 0.1
    t = seen(network, ask)
    words = [e.sentence for e in ask]
    with Memory(tmp_path / "m", Sketcher(dim=256)) as memory:
        memory.add(t, time="2026-05-01T10:00Z", ids=range(len(ask)), labels={"sentence": words})
        told = recall.count(memory, "find[black]", source="skeleton")["estimate"][0]
        used = [
            sum(n.module == "find[black]" for n in set(e.layout.walk())) for e in ask if e.layout
        ]
        assert told == sum(used)
        place = next(i for i, n in enumerate(used) if n)
        assert "find[black]" in repr(recall.unroll(memory, place, source="sketch"))
        answers(memory, t, "find[black]", place)
        # Most of what is most alike was put together alike.
        near = recall.similar(memory, place, k=3)["glance"]
        assert max(len(modules_of(t, place) & modules_of(t, g)) for g in near) >= 3


# -- paths --------------------------------------------------------------------------------


def small_tasks() -> list[Task]:
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    sides = [(x[:, 0] > 0).long(), (x[:, 1] > x[:, 2]).long()]
    return [Task(n, x[:300], y[:300], x[300:], y[300:]) for n, y in zip("ab", sides, strict=True)]


def test_adding_a_task_changes_no_earlier_answer() -> None:
    """To the last bit, and whatever path the second task takes."""
    a, b = small_tasks()
    network = PathNet(6, stages=2, modules=4, width=8, seed=1)
    network.add_task(a)
    best = evolve(network, a, 12, 0, population=6)
    network.freeze(best, "a")
    with torch.no_grad():
        before = network(a.seen, "a", best)
    network.add_task(b)
    other = evolve(network, b, 12, 1, population=6)
    with torch.no_grad():
        assert torch.equal(before, network(a.seen, "a", best))
        assert share_right(network, b, other) > 0.7
        free: Any = next(m for place, m in network.places() if place not in network.frozen)
        assert all(p.requires_grad for p in free.parameters())
    with pytest.raises(ValueError, match="task 'b' has a head already"):
        network.add_task(b)


def test_paths_converge_and_are_remembered(tmp_path: Path) -> None:
    a, b = small_tasks()
    life = live([a, b], 10, 0)
    assert all(share > 0.7 for share in life.right.values())
    with Memory(tmp_path / "m", Sketcher(dim=128)) as memory:
        for g, (glances, (task, _)) in enumerate(zip(life.glances, life.generations, strict=True)):
            time = np.datetime64("2026-01-01T00:00") + np.timedelta64(g, "h")
            memory.add(glances, time=time, labels={"task": task}, source=str(g))
        last = life.generations[9][1].population
        for module in memory.modules.names[::5]:
            s, k = map(int, module.split("/"))
            told = recall.count(memory, module, where="source = '9'", unit="glances")
            assert told["estimate"] == [sum(k in path[s] for path in last)]
    every = Trace.concat(life.glances)
    with Memory(tmp_path / "n", Sketcher(dim=256), reservoir=100) as memory:
        memory.add(every, time="2026-01-01T00:00Z", ids=range(len(every)))
        memory.fit_prior()
        answers(memory, every, every.modules[0], 190)
        near = recall.similar(memory, 190, k=1)["glance"][0]
        assert modules_of(every, near) == modules_of(every, 190)  # the same path again
    first, last = (len(set(life.generations[g][1].population)) for g in (0, 9))
    assert last < first


# -- look-ups -----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_near_pairs_are_those_of_the_naive_loop(lines: list[list[int]], window: int) -> None:
    naive = sorted(
        [line[i], line[j]] for line in lines for i in range(len(line)) for j in range(len(line))
        if i != j and abs(i - j) <= window
    )  # fmt: skip
    assert sorted(near_pairs(lines, window).tolist()) == naive


def test_skip_gram_finds_planted_groups() -> None:
    rng = np.random.default_rng(0)
    lines = [(rng.integers(0, 10, 8) + 10 * (i % 2)).tolist() for i in range(200)]
    vectors = skip_gram(lines, 20, 8, 0, sample=1.0, batch=256)
    right = [near // 10 == r // 10 for r in range(20) for near in neighbours(vectors, r, 5)]
    assert np.mean(right) > 0.95
    with pytest.raises(ValueError, match="found none"):
        skip_gram([[1], [2]], 3, 4, 0)


def test_walks_tell_the_two_clubs_apart() -> None:
    row = walks.measure(True, None, 0)
    assert row.count_coverage >= 0.9
    assert row.count_error <= 0.02
    assert row.similarity_precision >= row.similarity_chance + 0.3
    friends, _ = walks.club()
    made = walks.random_walks(friends, 2, 5, 0)
    assert made.shape == (68, 5)
    assert all(b in friends[a] for w in made.tolist() for a, b in pairwise(w))


def test_sentences_of_documentation_and_their_year() -> None:
    corpus = read_corpus(None, 60, 0, vocabulary=200)
    assert set(corpus.topic.tolist()) == {0, 1, 2, 3}
    assert min(map(min, corpus.rows)) > 0
    year = a_year(corpus, list(range(len(corpus.rows))), 0, 600)
    share = [
        np.mean([int(corpus.topic[p]) == 3 for p, m in zip(year.places, year.month, strict=True)
                 if (m >= 9) == late])
        for late in (False, True)
    ]  # fmt: skip
    assert share[1] > 3 * share[0]
    network = TextClassifier(torch.randn(201, 4), 4)
    rows = corpus.padded([0, 1])
    alone = network(corpus.padded([0]))
    torch.testing.assert_close(network(rows)[:1], alone)  # the padding says nothing


def test_a_classifiers_year_is_remembered(tmp_path: Path) -> None:
    """Counts of words by month from sketches against the truth; drift when a topic comes up."""
    corpus = read_corpus(None, 120, 0, vocabulary=400)
    learn, rest = list(range(200)), list(range(200, len(corpus.rows)))
    network = train_classifier(corpus, learn, 0, size=8, epochs=8)
    with torch.no_grad():
        right = network(corpus.padded(rest)).argmax(1) == corpus.topic[rest]
    common = float(torch.bincount(corpus.topic[rest]).max()) / len(rest)
    assert float(right.float().mean()) > common + 0.15
    year = a_year(corpus, rest, 0, 240)
    with remember(tmp_path / "year", network, corpus, year, 0) as memory:
        inside, off, total = [], 0.0, 0.0
        for word in corpus.words[1:4]:
            told = recall.count(memory, word, by="month", source="sketch")
            true = np.array(month_counts(corpus, year, word))
            inside += ((np.array(told["low"]) <= true) & (true <= np.array(told["high"]))).tolist()
            off += float(np.abs(np.array(told["estimate"]) - true).sum())
            total += float(true.sum())
            assert recall.count(memory, word, by="month")["estimate"] == true.tolist()
        assert np.mean(inside) >= 0.8
        assert off <= 0.1 * total
        told = year_told(memory, corpus, year)
        assert told.changed <= 0.01
        assert (told.named, told.alarms) == (told.right, 0)
        assert told.told > told.before + 0.15
        assert told.told == pytest.approx(told.true, abs=0.25)
        assert "comes up in September" in str(told)
        near = recall.similar(memory, 5, k=1)
        why = recall.why(memory, 5, near["glance"][0])
        assert sum(why["estimate"][:-1]) == pytest.approx(near["estimate"][0], abs=0.02)


def test_a_corpus_needs_no_padding_word() -> None:
    corpus = Corpus(("<padding>", "a"), [[1, 1], [1]], torch.tensor([0, 0]), ("t",), "here")
    assert corpus.padded([0, 1]).tolist() == [[1, 1], [1, 0]]
