"""A question by example: probabilities that mean what they say, and which glance to label next."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from recollect import Memory, NotRemembered, Sketcher, Trace, infinite, recall
from recollect.infinite import labels

datasets = pytest.importorskip("sklearn.datasets")
NUMBER = 500


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Memory, np.ndarray]]:
    """Scenes of two real digits in 192 bytes, and whether the left one is a 3."""
    digits, draws = datasets.load_digits(), np.random.default_rng(0)
    left, right = draws.integers(0, 1797, NUMBER), draws.integers(0, 1797, NUMBER)
    pixels = torch.from_numpy(digits.data / 16).float()
    trace = Trace.from_columns({"left": pixels[left], "right": pixels[right]})
    path = tmp_path_factory.mktemp("concept") / "scenes"
    with Memory(path, Sketcher(dim=192)) as memory:
        source = ["hall" if i % 2 else "attic" for i in range(NUMBER)]
        memory.add(trace, time="2026-01-01T00:00Z", ids=range(1000, 1000 + NUMBER), source=source)
        memory.fit_prior()
        yield memory, digits.target[left] == 3


def label(truth: np.ndarray, number: int, seed: int) -> tuple[list[int], list[int]]:
    """Label some scenes at random, at least two of each kind."""
    rows = np.random.default_rng(seed).permutation(NUMBER)
    yes, no = rows[truth[rows]], rows[~truth[rows]]
    share = max(2, round(number * truth.mean()))
    return (1000 + yes[:share]).tolist(), (1000 + no[: number - share]).tolist()


def unlabelled(answer: recall.Concept, labelled: list[int], truth: np.ndarray) -> np.ndarray:
    """Return estimate, low, high and truth of what was not labelled, (4, M)."""
    rows = [i for i, g in enumerate(answer["glance"]) if g not in set(labelled)]
    columns = [np.array(answer[c])[rows] for c in ("estimate", "low", "high")]
    return np.stack([*columns, truth[np.array(answer["glance"])[rows] - 1000]])


@pytest.mark.parametrize("over", ["sketches", "attributes"])
def test_examples_are_found_and_probabilities_are_calibrated(scenes, over: str) -> None:
    memory, truth = scenes
    found = []
    for seed in range(5):
        yes, no = label(truth, 80, seed)
        asked = recall.concept(memory, yes, no, over=over, share="examples")
        found.append(unlabelled(asked, yes + no, truth))
    p, low, high, y = np.concatenate(found, 1)
    assert ((low <= p) & (p <= high)).all()
    pairs = p[y == 1][:, None] - p[y == 0][None]
    assert (pairs > 0).mean() > 0.88, "a scene with a 3 is more probable than one without"
    assert ((p - y) ** 2).mean() < 0.8 * y.mean() * (1 - y.mean())
    assert p.sum() == pytest.approx(y.sum(), rel=0.3)
    error = 0.0
    for a, b in ((0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.01)):
        inside = (p >= a) & (p < b)
        share = y[inside].mean()
        assert low[inside].mean() - 0.02 <= share <= high[inside].mean() + 0.02, (a, b)
        error += inside.mean() * abs(p[inside].mean() - share)
    assert error < 0.06, "expected calibration error"


def test_chosen_examples_do_not_make_a_concept_common(scenes) -> None:
    """A third of the examples show it, a tenth of the glances do: the answer says so."""
    memory, truth = scenes
    errors: dict[str | None, list[float]] = {None: [], "examples": []}
    for seed in range(6):
        rows = np.random.default_rng(seed).permutation(NUMBER)
        yes, no = (1000 + rows[truth[rows] == t][:n] for t, n in ((True, 20), (False, 40)))
        for share, found in errors.items():
            answer = recall.concept(memory, yes.tolist(), no.tolist(), share=share)
            p, _, _, y = unlabelled(answer, [*yes, *no], truth)
            found.append(abs(p.mean() - y.mean()))
    assert np.mean(errors[None]) < 0.5 * np.mean(errors["examples"])
    # The share moves odds by one factor: never the order.
    free, fixed = (recall.concept(memory, yes.tolist(), no.tolist(), share=s) for s in (None, 0.5))
    assert free["glance"] == fixed["glance"]
    assert "0.5 of all glances are taken to show it" in fixed.notes[1]


def test_more_examples_say_more(scenes) -> None:
    memory, truth = scenes
    scores, widths = [], []
    for number in (20, 200):
        runs = []
        for seed in range(3):
            yes, no = label(truth, number, seed)
            runs.append(unlabelled(recall.concept(memory, yes, no), yes + no, truth))
        p, low, high, y = np.concatenate(runs, 1)
        scores.append(((p - y) ** 2).mean())
        widths.append((high - low).mean())
    assert scores[1] < 0.6 * scores[0]
    assert widths[1] < widths[0]


def test_the_glance_it_asks_for_helps_more_than_chance(scenes) -> None:
    """Twenty glances labelled as asked, four at a time, against twenty at random."""
    memory, truth = scenes
    asked, chance = [], []
    for seed in range(3):
        for wanted, scores in ((True, asked), (False, chance)):
            yes, no = label(truth, 20, seed)
            draws = np.random.default_rng(seed)
            for _ in range(5):
                answer = recall.concept(memory, yes, no)
                rest = np.setdiff1d(answer["glance"], yes + no)
                chosen = answer.next[:4] if wanted else draws.choice(rest, 4, replace=False)
                for glance in map(int, chosen):
                    (yes if truth[glance - 1000] else no).append(glance)
            p, _, _, y = unlabelled(recall.concept(memory, yes, no), yes + no, truth)
            scores.append(((p - y) ** 2).mean())
    assert np.mean(asked) < np.mean(chance)


def test_the_gain_is_what_a_label_really_changes() -> None:
    """Adding a row to the system lowers the variance by what was foretold, label unseen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    k = x @ x.T + 0.5
    k = k / k.diagonal().mean()
    given = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    fit = labels.fit_labels(k[:4, :4], given)
    _, before = fit.latent(k[:, :4], k.diagonal())
    weight = torch.rand(12, generator=generator, dtype=torch.float64)
    gain = fit.gain(k[:, :4], k[:, :4], k, k.diagonal(), weight)
    for new in (5, 9):
        rows = torch.tensor([0, 1, 2, 3, new])
        a, s = fit.amplitude, fit.noise
        system = a * k[rows][:, rows] + s * torch.eye(5)
        side = a * k[:, rows]
        after = a * k.diagonal() - (side @ torch.linalg.inv(system) * side).sum(1)
        assert float(((before - after) * weight**2).mean()) == pytest.approx(float(gain[new]))


def test_leave_one_out_is_leaving_one_out() -> None:
    """The closed form behind the slope equals fitting without each label in turn."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    k, y = torch.exp(-torch.cdist(x, x)), torch.sign(x[:, 0])
    fit = labels.fit_labels(k, y, offset=0.0)
    spread = 1 / fit.inverse.diagonal()
    mean = y - fit.weights * spread
    for i in range(8):
        rest = [j for j in range(8) if j != i]
        system = fit.amplitude * k[rest][:, rest] + fit.noise * torch.eye(7)
        side = fit.amplitude * k[i, rest]
        assert float(mean[i]) == pytest.approx(float(side @ torch.linalg.solve(system, y[rest])))
        variance = fit.amplitude - side @ torch.linalg.solve(system, side)
        assert float(spread[i]) == pytest.approx(float(variance) + fit.noise)


def test_probabilities_are_expectations() -> None:
    """The estimate is the average of the probability over the process's values."""
    fit = labels.LabelFit(0.0, 1.0, 0.1, 2.0, 0.3, torch.eye(1), torch.ones(1))
    m, v = torch.tensor([0.4, -1.0]).double(), torch.tensor([0.5, 0.1]).double()
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weight = torch.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    inner = torch.special.ndtr(2.0 * (m[:, None] - 0.3 + v.sqrt()[:, None] * z))
    p = fit.probabilities(m, v)
    assert torch.allclose(p.estimate, (inner * weight).sum(1), atol=1e-9)
    moved = fit.probabilities(m + 1e-6, v).estimate
    assert torch.allclose(fit.sharpness(m, v), (moved - p.estimate) / 1e-6, atol=1e-5)


def test_it_is_an_answer(scenes) -> None:
    memory, truth = scenes
    yes, no = label(truth, 40, 0)
    answer = recall.concept(memory, yes, no, where="source = 'hall'")
    assert set(answer["source"]) == {"hall"}
    assert answer["estimate"] == sorted(answer["estimate"], reverse=True)
    table = answer.to_arrow()
    assert table.column_names[0] == "glance"
    assert {"estimate", "low", "high", "gain"} <= set(table.column_names)
    assert len(answer.to_pandas()) == len(answer)
    assert f"glance {answer.next[0]} would help most" in repr(answer)
    said = {r["glance"]: (r["estimate"], r["low"], r["gain"]) for r in answer}
    for glance in set(yes) & set(said):
        assert said[glance] == (1.0, 1.0, 0.0)
    assert not set(answer.next) & set(yes + no)
    assert answer.next[0] == max(answer, key=lambda r: r["gain"])["glance"]
    again = recall.concept(memory, yes, no, where="source = 'hall'")
    assert again.columns == answer.columns


def test_without_negatives_some_stand_in_and_it_is_said(scenes) -> None:
    memory, truth = scenes
    yes, _ = label(truth, 80, 0)
    answer = recall.concept(memory, yes)
    p, _, _, y = unlabelled(answer, yes, truth)
    assert ((p[y == 1][:, None] - p[y == 0][None]) > 0).mean() > 0.8
    assert any("no negative example: 32 glances" in note for note in answer.notes)


def test_a_network_of_ones_own_and_modules_of_ones_own(scenes) -> None:
    memory, truth = scenes
    yes, no = label(truth, 80, 1)
    linear = infinite.Serial(infinite.Dense(bias_std=0.1))
    for options in ({"network": linear}, {"network": infinite.twin(linear)}):
        p, _, _, y = unlabelled(recall.concept(memory, yes, no, **options), yes + no, truth)
        assert ((p[y == 1][:, None] - p[y == 0][None]) > 0).mean() > 0.75
    left, right = (
        unlabelled(
            recall.concept(memory, yes, no, over="attributes", modules=[m]), yes + no, truth
        )
        for m in ("left", "right")
    )
    scores = [((p - y) ** 2).mean() for p, _, _, y in (left, right)]
    assert scores[0] < 0.8 * scores[1], "the right digit says nothing about the left"


def test_what_cannot_be_asked_is_refused(scenes) -> None:
    memory, _ = scenes
    with pytest.raises(ValueError, match="at least one positive example"):
        recall.concept(memory, [])
    with pytest.raises(NotRemembered, match="no glance has the id 77"):
        recall.concept(memory, [1000, 77])
    with pytest.raises(NotRemembered, match="no glance has the id 78"):
        recall.concept(memory, [1000], [78])
    with pytest.raises(ValueError, match="glance 1001 is a positive and a negative"):
        recall.concept(memory, [1000, 1001], [1001])
    with pytest.raises(ValueError, match="share is a part of all glances, between 0 and 1, got 1"):
        recall.concept(memory, [1000], share=1)
    with pytest.raises(ValueError, match="share must be one of"):
        recall.concept(memory, [1000], share="mine")
    with pytest.raises(TypeError, match="positive must be a list of glance ids, got str"):
        recall.concept(memory, "1000")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="an id in positive must be an integer"):
        recall.concept(memory, [1.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="over must be one of"):
        recall.concept(memory, [1000], over="pictures")
    with pytest.raises(ValueError, match="belongs to over='attributes'"):
        recall.concept(memory, [1000], modules=["left"])
    with pytest.raises(NotRemembered, match="'lefd'.*did you mean 'left'"):  # noqa: RUF043
        recall.concept(memory, [1000], over="attributes", modules=["lefd"])
    with pytest.raises(NotRemembered, match="no glance is chosen"):
        recall.concept(memory, [1000], where="source = 'nowhere'")


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels must be \+1 or -1"):
        labels.fit_labels(torch.eye(2), torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match="one for each row"):
        labels.fit_labels(torch.eye(2), torch.ones(3))
