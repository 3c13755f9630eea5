"""The studies of feature reconstruction, DAFT and training for memory: margins on fixed seeds."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from recollect import studies
from recollect._answers import Answer
from recollect.studies import copied_features, daft, domino_tasks, frr, photo_domains, pictures
from recollect.studies import training_for_memory as memory
from recollect.training import Attack, DAFTConfig, leave_one_domain_out


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave only some variants of the head in the study."""
    variants = copied_features._VARIANTS
    monkeypatch.setattr(copied_features, "_VARIANTS", {name: variants[name] for name in names})


def test_copies_are_the_published_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "FRR-L, l-inf", "FRR-L, l-inf, raw logits")
    found = copied_features.copies(5, 0, steps=800)
    assert found["ERM"]["none"] == 1.0
    assert found["ERM"]["simple"] < 0.55
    assert found["FRR-L, l-inf"]["simple"] > found["ERM"]["simple"] + 0.08
    assert found["FRR-L, l-inf, raw logits"]["simple"] < found["FRR-L, l-inf"]["simple"] - 0.05


def test_relevance_reads_past_what_says_nothing_of_the_class() -> None:
    """Two logits carry one number: forty that vary by themselves would fill it."""
    found = copied_features.crowded(0, steps=250)
    assert found["FRR-L, l-inf, anew"]["simple"] < 0.6
    assert found["the same, lambda = 0"]["simple"] < 0.6
    assert found["FRR-L, l-inf, anew, relevance 1"]["simple"] > 0.7
    assert found["FRR-L, l-inf, anew, relevance 1"]["none"] > 0.99


def test_a_digit_is_read_once_copies_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "FRR-L, l-inf, 2 components, anew")
    found = copied_features.digit_copies(10, 0, steps=300)
    assert found["ERM"]["simple"] < 0.6
    assert found["FRR-L, l-inf, 2 components, anew"]["simple"] > found["ERM"]["simple"] + 0.06


def test_dominoes_have_every_row_and_the_margin() -> None:
    found = frr.dominoes(frr.strips(0), 0)
    assert found["FRR-L, anew"]["simple"] > found["ERM"]["simple"] + 0.02
    assert found["DFR (upper bound)"]["simple"] > 0.85
    assert found["FRR-L, anew"]["none"] > 0.95
    assert "weight decay" in " ".join(found)


def test_students_of_frr_teachers_keep_the_complex_half() -> None:
    found = frr.two_by_two(frr.strips(0, 0.3), 0)
    assert set(found) == {"neither", "FRR", "DAFT", "FRR and DAFT", "head anew, lambda = 0"}
    assert found["FRR"]["simple"] > found["neither"]["simple"] + 0.03


def test_pictures_that_chose_the_heads_do_not_judge_them() -> None:
    source = {"test": (torch.arange(60.0)[:, None], torch.arange(60) % 3)}
    chose = domino_tasks._chosen(source, "test", (0, 2), 6, 0)
    judge = domino_tasks._chosen(source, "test", (0, 2), 9, 0, skip=6)
    shown = [set(x[:, 0].tolist()) for x, _ in (chose, judge)]
    assert [len(s) for s in shown] == [12, 18]
    assert not shown[0] & shown[1]
    assert {v % 3 for v in shown[1]} == {0.0, 2.0}
    assert judge[1].tolist() == [0] * 9 + [1] * 9


def test_seeds_of_frr_are_kept_and_broken_off_settings_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[tuple[str, int]] = []

    def settings(*given: object) -> Iterator[frr.Setting]:
        def run(name: str, seed: int) -> frr.Found:
            if len(ran) == 4:
                raise KeyboardInterrupt
            ran.append((name, seed))
            return {"ERM": {"simple": 0.5 + 0.1 * seed, "none": 1.0}}

        for name in ("first", "second"):
            yield name, range(3), partial(run, name)

    monkeypatch.setattr(frr, "_settings", settings)
    answer = studies.run("frr", keep=str(tmp_path))
    assert answer["setting"] == ["first"]
    assert (answer["seeds"], answer["simple half random"]) == ([3], [pytest.approx(0.6)])
    assert "broken off" in answer.notes[-1]
    ran.clear()
    monkeypatch.setattr(frr, "_replication", lambda task: "counted")
    whole = studies.run("frr", keep=str(tmp_path))
    assert ran == [("second", 1), ("second", 2)]
    assert whole["seeds"] == [3, 3]
    assert whole.notes[-1] == "counted"


def test_frr_on_a_folder_begins_with_the_network_that_knew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frr, "of_folder_known", lambda folder: ("known", None))
    full, quick = (
        [(name, list(seeds)) for name, seeds, _ in frr._settings(q, "folder", "made", None)]
        for q in (False, True)
    )
    assert full[0] == ("known", [1, 2, 3, 4, 5])
    assert ("made", list(range(10))) in full
    assert ("made", [0, 1]) in quick
    assert all(name != "known" for name, _ in quick)


def test_daft_settings_share_no_picture_with_what_is_judged() -> None:
    for judged, domains in daft.digit_settings(0).items():
        shapes = {name: data.tensors[0].shape for name, data in domains.items()}
        assert shapes[judged] == (397, 1, 8, 8)
        assert all(s == (1400, 1, 8, 8) for name, s in shapes.items() if name != judged)
        assert all(d.tensors[0].min() >= 0 and d.tensors[0].max() <= 1 for d in domains.values())
    x = pictures.digits()[0][:50]
    turned = daft._turned(x, torch.Generator().manual_seed(0))
    assert float((turned - x).abs().mean()) > 0.02
    assert (daft._patched(x, torch.Generator().manual_seed(0)) == x).float().mean() > 0.8


def test_daft_study_has_every_method_and_keeps_its_seeds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[int] = []
    broken: list[int] = []

    def one_seed(
        seed: int,
        readings: dict[str, DAFTConfig],
        budget: daft.Budget,
        far: object,
        photos: object,
    ) -> dict[str, dict[str, float]]:
        if seed == 2 and not broken:
            broken.append(seed)
            raise KeyboardInterrupt
        seen.append(seed)
        row = {"unseen": 0.5 + seed / 100, "sources": 0.9}
        return dict.fromkeys([*readings, daft.CHOSEN], row)

    monkeypatch.setattr(daft, "_one_seed", one_seed)
    answer = studies.run("daft", keep=str(tmp_path))
    assert answer["unseen"][0] == pytest.approx(0.505)
    assert "2 seed(s)" in answer.title
    assert "broken off" in answer.notes[-1]
    answer = studies.run("daft", keep=str(tmp_path))
    assert seen == [0, 1, 2, 3, 4]
    assert answer["method"] == [*daft.READINGS, daft.CHOSEN]
    assert answer["unseen"][0] == pytest.approx(0.52)
    assert answer["deviation"][0] == pytest.approx(0.0158, abs=1e-4)


def made_photographs(pets: int = 8, streets: int = 30) -> photo_domains.Photographs:
    """Features that tell the class, shifted in each copy."""
    draws = np.random.default_rng(0)
    y = np.repeat(np.arange(3), pets)
    centres = draws.normal(size=(3, photo_domains.FEATURES)).astype(np.float32)

    def features(label: np.ndarray, shift: float) -> np.ndarray:
        noise = draws.normal(size=(len(label), photo_domains.FEATURES))
        return (centres[label] + 0.5 * noise + shift).astype(np.float32)

    seen = features(y, 0.0)
    found = {
        k: {"x": seen + np.float32(0.1 * i), "y": y} for i, k in enumerate(photo_domains.COPIES)
    }
    light = np.array(["day", "twilight", "night"])[np.arange(streets) % 3]
    density = np.arange(streets) // 3 % 3
    found["streets"] = {"x": features(density, 0.0), "light": light, "density": density}
    return found


def test_photographs_that_are_judged_are_of_other_pets_and_hours() -> None:
    found = made_photographs()
    settings = photo_domains.photo_settings(found, 0)
    assert list(settings) == ["pets, spoiled", "pets, stylised", "streets by night"]
    for judged in ("spoiled", "stylised"):
        domains = settings[f"pets, {judged}"]
        assert list(domains) == ["photograph", "grey", judged]
        assert [len(d) for d in domains.values()] == [15, 15, 9]
    learned, held = (settings["pets, spoiled"][k].tensors[0] for k in ("photograph", "spoiled"))
    raw = torch.from_numpy(found["photograph"]["x"])
    back = torch.cdist(learned * raw.std(0) + raw.mean(0), raw).argmin(1)  # about the rows learned
    assert len(set(back.tolist())) == 15
    torch.testing.assert_close(
        learned.mean(0), torch.zeros(photo_domains.FEATURES), atol=1e-5, rtol=0
    )
    others = torch.cdist(held, learned).amin(1)
    assert float(others.min()) > 20  # a copy of a pet that was learned would be about 10 away
    streets = settings["streets by night"]
    assert [len(streets[k]) for k in ("day", "twilight", "night")] == [10, 10, 10]
    again = photo_domains.photo_settings(found, 1)["pets, spoiled"]["photograph"].tensors[0]
    assert not torch.equal(again, learned)


def test_copies_of_photographs_keep_their_size_and_lose_what_they_should() -> None:
    from PIL import Image

    x = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    made = {
        kind: np.asarray(copy(Image.fromarray(x), np.random.default_rng(1)))
        for kind, copy in photo_domains.COPIES.items()
    }
    assert all(copy.shape == x.shape for copy in made.values())
    assert (made["photograph"] == x).all()
    assert (made["grey"][..., 0] == made["grey"][..., 2]).all()
    assert made["spoiled"].mean() < 0.45 * x.mean()
    assert made["stylised"].std() < x.std()


def test_daft_is_judged_on_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daft, "PHOTO_BUDGET", daft.Budget(30, 2, 30))
    readings = {"DAFT": DAFTConfig(Attack(0.3, steps=1))}
    found = daft._one_seed(0, readings, daft.Budget(2, 1, 2), None, made_photographs())
    assert set(found["DAFT"]) == {"unseen", "sources", "patch", "turned", "pets, spoiled",
                                  "pets, stylised", "streets by night"}  # fmt: skip
    assert found["DAFT"]["streets by night"] > 0.8
    inputs = daft._photo_inputs(
        photo_domains.photo_settings(made_photographs(), 0)["pets, spoiled"]
    )
    attack = inputs.attacked(daft.READINGS["DAFT"]).attack
    assert (attack.eps, attack.bounds) == (daft.PHOTO_EPS, None)


def test_daft_methods_learn_their_sources() -> None:
    tiny = DAFTConfig(Attack(0.3, steps=1))
    found = daft._one_seed(0, {"DAFT": tiny}, daft.Budget(120, 5, 120), None)
    assert {"ordinary training", "direct adversarial training", "DAFT", daft.CHOSEN} <= set(found)
    assert all(row["sources"] > 0.75 for row in found.values())
    assert found["DAFT"]["patch"] == found[daft.CHOSEN]["patch"]


def test_daft_is_ahead_of_distillation_from_an_ordinary_teacher() -> None:
    domains = daft.digit_settings(0)["patch"]
    made = daft.trainers({"DAFT": daft.READINGS["DAFT"]}, 0, daft.Budget(400, 200, 400))
    methods = {k: made[k] for k in ("distilled from an ordinary teacher", "DAFT")}
    rows = leave_one_domain_out(domains, methods, held_out=["patch"], seed=0)
    plain, ours = ({k: row[k] for k in ("unseen", "validation")} for row in rows)
    assert ours["unseen"] > plain["unseen"] + 0.03
    assert ours["validation"] > plain["validation"] - 0.01


def test_sketches_recall_what_training_left() -> None:
    found = memory.measure(memory.TRAININGS["LocoProp-M"], 0)
    assert found["accuracy"] > 0.9
    assert found["attribute R2"] > 0.9
    assert found["counts"] > 0.9
    assert found["drift"] > 1 > abs(found["no drift"])
    assert found["facts R2"] <= found["facts R2, unsketched"] + 0.02


def test_facts_are_ink_and_slant() -> None:
    x = torch.zeros(2, 1, 8, 8)
    x[0, 0, 2:6, 3] = 1  # upright
    x[1, 0, range(8), range(8)] = 1  # along the diagonal
    ink, slant = memory._ink_and_slant(x).T
    assert ink.tolist() == [4 / 64, 8 / 64]
    assert slant[0] == pytest.approx(0, abs=1e-6)
    assert slant[1] > 0.2


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"give --data a folder with mnist/mnist\.npz"):
        pictures.mnist(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"cifar10/cifar10_jpeg\.npz"):
        pictures.cifar(str(tmp_path))
    from PIL import Image

    (tmp_path / "mnist").mkdir()
    (tmp_path / "cifar10").mkdir()
    y = np.arange(40) % 10
    x = np.broadcast_to((20 * y)[:, None, None], (40, 28, 28)).astype(np.uint8)
    np.savez(tmp_path / "mnist/mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    stored = {}
    for part in ("train", "test"):
        files = []
        for k in y:
            held = io.BytesIO()
            Image.fromarray(np.full((32, 32, 3), 25 * k, np.uint8)).save(held, "JPEG")
            files.append(np.frombuffer(held.getvalue(), np.uint8))
        stored[f"{part}_blob"] = np.concatenate(files)
        stored[f"{part}_offset"] = np.cumsum([0, *map(len, files)])
        stored[f"{part}_label"] = y
    np.savez(tmp_path / "cifar10/cifar10_jpeg.npz", **stored)
    name, task = frr.of_folder(str(tmp_path))
    made = task(0)
    assert name == "MNIST | CIFAR-10 dominoes"
    assert made.train[0].shape == (8, 3, 32, 16)
    lower = made.train[0][:, 0, 24, 8] * 255 / 25
    assert sorted(set(lower.round().int().tolist())) == [1, 9]
    assert task(0).network(64)(made.train[0]).shape == (8, 2)


def test_tables_become_bars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    answer = Answer({"method": ["a", "b"], "unseen": [0.5, 0.7], "deviation": [0.1, float("nan")]})
    daft.draw(answer, str(tmp_path / "bars.svg"))
    drawn = (tmp_path / "bars.svg").read_text()
    assert "unseen" in drawn
    with pytest.raises(ValueError, match=r"written as \.svg or \.png"):
        daft.draw(answer, str(tmp_path / "bars.pdf"))
