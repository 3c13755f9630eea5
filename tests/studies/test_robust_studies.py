"""The studies of feature reconstruction, DAFT and training for memory: margins on fixed seeds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from recollect._answers import Answer
from recollect.studies import daft, frr, locoprop, pictures, second_order
from recollect.studies import training_for_memory as memory
from recollect.training import Attack, DAFTConfig


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave only some variants of the head in the study."""
    monkeypatch.setattr(frr, "_VARIANTS", {name: frr._VARIANTS[name] for name in names})


def test_copies_are_the_published_mechanism(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "FRR-L, l-inf", "FRR-L, l-inf, raw logits")
    found = frr.copies(5, 0, steps=800)
    assert found["ERM"]["none"] == 1.0
    assert found["ERM"]["simple"] < 0.55
    assert found["FRR-L, l-inf"]["simple"] > found["ERM"]["simple"] + 0.08
    assert found["FRR-L, l-inf, raw logits"]["simple"] < found["FRR-L, l-inf"]["simple"] - 0.05


def test_a_digit_is_read_once_copies_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "FRR-L, l-inf, 2 components, anew")
    found = frr.digit_copies(10, 0, steps=300)
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


def test_daft_study_has_every_method(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def one_seed(seed, readings, budget, far):
        seen.append(seed)
        row = {"unseen": 0.5 + seed / 100, "sources": 0.9}
        return dict.fromkeys([*readings, daft.CHOSEN], row)

    monkeypatch.setattr(daft, "_one_seed", one_seed)
    answer = daft.study()
    assert seen == [0, 1, 2, 3, 4]
    assert answer["method"] == [*daft.READINGS, daft.CHOSEN]
    assert answer["unseen"][0] == pytest.approx(0.52)


def test_daft_methods_learn_their_sources() -> None:
    tiny = DAFTConfig(Attack(0.3, steps=1))
    found = daft._one_seed(0, {"DAFT": tiny}, daft.Budget(120, 5, 120), None)
    assert {"ordinary training", "direct adversarial training", "DAFT", daft.CHOSEN} <= set(found)
    assert all(row["sources"] > 0.75 for row in found.values())
    assert found["DAFT"]["patch"] == found[daft.CHOSEN]["patch"]


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


def test_second_order_rivals_are_told_when_missing() -> None:
    there = second_order.installed()
    rows = [{"compared at": "equal batches", "method": m, "train": t, "seconds": 1.0}
            for m, t in (("LocoProp-M, gamma 50", 3.0), ("LocoProp-M, gamma 50, tenths", 3.5),
                         ("RMSProp", 5.0), ("K-FAC", 2.0), ("Shampoo", 4.0))]  # fmt: skip
    (note,) = locoprop._against_second_order(rows)
    if all(there.values()):
        assert note.startswith("behind K-FAC, the better of K-FAC and Shampoo: LocoProp-M +1.00")
    else:
        assert note.startswith("second-order rivals left out, for want of")
        assert "K-FAC" not in second_order.rivals() or there["curvlinops"]
