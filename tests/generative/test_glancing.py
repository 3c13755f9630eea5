"""A model's class and latent in a memory: found, counted, read back and drawn again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recollect import Memory, Sketcher, Trace, recall
from recollect.generative import ConvM2, DenseM2, glance_columns

NAMES = ("low", "middle", "high")


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model(pictures) -> ConvM2:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        built = ConvM2(num_classes=3, latent_dim=6, width=4, norm_encoder="batch")
    built.eval()
    with torch.no_grad():  # classes as far apart as after training, and all in use
        built.towards_class.weight.mul_(30)
        built.towards_latent.weight.mul_(10)
        built.class_bias.sub_(built(pictures).mean(0))
    return built


def test_columns_are_the_likeliest_classes_and_their_latents(model, pictures) -> None:
    found = glance_columns(model, pictures, names=NAMES, top=2, chunk=7)["class"]
    chance = model.q_y(pictures).probs
    order = chance.argsort(1, descending=True)[:, :2]
    assert found["members"] == NAMES
    assert found["glance"].tolist() == np.repeat(np.arange(60), 2).tolist()
    assert found["member"].tolist() == order.flatten().tolist()
    torch.testing.assert_close(
        torch.from_numpy(found["weight"]), chance.gather(1, order).flatten().detach()
    )
    for place in (0, 1):
        means = model.q_z(pictures, order[:, place]).mean
        torch.testing.assert_close(found["attributes"][place::2], means.detach())
    whole = glance_columns(model, pictures, top=3)["class"]
    np.testing.assert_allclose(whole["weight"].reshape(60, 3).sum(1), 1.0, rtol=1e-5)
    assert whole["members"] == ("class 0", "class 1", "class 2")


def test_the_mode_is_left_and_not_used(model, pictures) -> None:
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = glance_columns(model, pictures)["class"]["attributes"]
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    torch.testing.assert_close(found, glance_columns(model, pictures)["class"]["attributes"])


def test_a_memory_counts_finds_and_draws_them_again(model, pictures, tmp_path) -> None:
    columns = glance_columns(model, pictures, names=NAMES)
    t, latents = Trace.from_columns(columns), columns["class"]["attributes"]
    classes = torch.from_numpy(columns["class"]["member"])
    memory = Memory(tmp_path / "seen", Sketcher(dim=128, seed=0))
    with memory:
        memory.add(t, time="2026-01-01T08:00Z", ids=range(60))
        memory.fit_prior()
        counts = torch.bincount(classes, minlength=3)
        assert sorted(counts.tolist())[1] >= 5  # more than one class is seen
        for name, count in zip(NAMES, counts.tolist(), strict=True):
            if count:
                assert recall.count(memory, name, unit="glances")["estimate"] == [count]
        common = int(counts.argmax())
        mean = latents[classes == common].mean(0)
        told = recall.attribute(memory, NAMES[common])
        assert told["estimate"] == pytest.approx(mean.tolist(), abs=0.05 * float(latents.std()))
        # The nearest by the class's latents are the nearest of the sketches.
        rows = torch.nonzero(classes == common)[:, 0]
        near = recall.similar(memory, int(rows[0]), k=1, module=NAMES[common])["glance"][0]
        cosines = torch.cosine_similarity(latents[rows[0]], latents[rows[1:]], dim=-1)
        assert float(cosines[rows[1:].tolist().index(near)]) > float(cosines.max()) - 0.1
        read = memory.sketcher.decode(memory.sketches(ids=range(60)), prior=memory.prior())
    back = torch.empty_like(latents)
    for number, name in enumerate(NAMES):
        if counts[number]:
            objects = read.objects(name)
            assert objects.glance.tolist() == torch.nonzero(classes == number)[:, 0].tolist()
            back[objects.glance] = torch.as_tensor(objects.attributes)
    assert (back - latents).pow(2).mean() < 1e-3 * latents.var()
    drawn, meant = (model.p_x(z, classes).mean.detach() for z in (back, latents))
    assert float((drawn - meant).abs().max()) < 0.02


def test_vectors_and_a_single_class_will_do() -> None:
    found = glance_columns(DenseM2(4, num_classes=1, latent_dim=2), torch.randn(5, 4))["class"]
    assert found["attributes"].shape == (5, 2)
    assert found["weight"].tolist() == [1.0] * 5


def test_what_cannot_be_is_refused(model, pictures) -> None:
    with pytest.raises(ValueError, match="top must be at most the 3 classes, got 4"):
        glance_columns(model, pictures, top=4)
    with pytest.raises(ValueError, match="3 different names, one a class"):
        glance_columns(model, pictures, names=["a", "a", "b"])
    with pytest.raises(ValueError, match="images must have the shape"):
        glance_columns(model, pictures[:, :, :4])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        glance_columns(model, pictures, chunk=0)
