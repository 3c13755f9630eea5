"""Laws of decoding: exact above the load, honest below it, calibrated, agreeing with twins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scenes import DigitLikeScenes, random_dag, random_sizes, static_network

from recollect import Object, Prior, Sketcher, Trace

SCHEMES = ("energy", "keyed", "paper")


def relative_errors(trace: Trace, recollection: object) -> list[float]:
    errors = []
    for name in trace.modules:
        true, read = trace.objects(name), recollection.objects(name)  # type: ignore[attr-defined]
        assert torch.equal(true.glance, read.glance)
        assert true.path == read.path
        torch.testing.assert_close(true.weight, read.weight, atol=0, rtol=1e-3)
        errors += (
            (true.attributes - read.attributes).norm(dim=1) / true.attributes.norm(dim=1)
        ).tolist()
    return errors


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("slots", [False, True])
def test_every_object_of_a_dag_is_recovered_above_the_load(scheme: str, slots: bool) -> None:
    rng = np.random.default_rng(5)
    sizes = random_sizes(rng, 8)
    trace = Trace.from_objects([random_dag(rng, 3, sizes) for _ in range(3)])
    sketcher = Sketcher(dim=4096, scheme=scheme, dtype="float32", slots=slots)
    r = sketcher.decode(sketcher.encode(trace))
    assert r.load < 1
    assert max(relative_errors(trace, r)) < (2e-2 if scheme == "paper" else 1e-4)


def test_two_cats_are_told_apart() -> None:
    a, b = [1.0, 2.0, 3.0], [-3.0, 0.5, 9.0]
    trace = Trace.from_objects([[Object("cat", a), Object("cat", b), Object("dog", [4.0])]])
    sketcher = Sketcher(dim=256, dtype="float32")
    read = sketcher.decode(sketcher.encode(trace)).objects("cat").attributes
    torch.testing.assert_close(read, torch.tensor([a, b]), atol=1e-4, rtol=0)


def test_a_shared_object_is_recovered_once() -> None:
    face = Object("face", [1.0, -2.0], weight=0.7)
    trace = Trace.from_objects(
        [[Object("cat", [1.0], inputs=[face]), Object("dog", [2.0], inputs=[face])]]
    )
    sketcher = Sketcher(dim=128, dtype="float32")
    read = sketcher.decode(sketcher.encode(trace)).objects("face")
    assert read.path == [("cat", "face")]
    torch.testing.assert_close(read.attributes, torch.tensor([[1.0, -2.0]]), atol=1e-4, rtol=0)


def test_least_squares_error_bars_cover_what_they_say() -> None:
    rng = np.random.default_rng(0)
    sizes = random_sizes(rng, 6)
    inside = []
    for seed in range(12):
        trace = Trace.from_objects([random_dag(rng, 2, sizes)])
        sketcher = Sketcher(dim=1024, seed=seed)
        r = sketcher.decode(sketcher.encode(trace))
        for name in trace.modules:
            true, read = trace.objects(name), r.objects(name)
            inside.append((true.attributes - read.attributes).abs() <= 1.645 * read.std)
    share = float(torch.cat([i.reshape(-1) for i in inside]).float().mean())
    assert 0.88 < share < 0.93


def test_beyond_the_load_without_a_prior_nothing_is_guessed() -> None:
    trace = static_network(2, 0)
    sketcher = Sketcher(dim=128)
    r = sketcher.decode(sketcher.encode(trace))
    assert r.load > 1
    read = r.objects("layer0")
    assert bool(torch.isinf(read.std).all())
    assert bool(torch.isnan(read.attributes).all())
    assert "no prior" in r.notes[0]


@pytest.mark.parametrize("kept", [256, 128, 64])
def test_lmmse_is_the_conditional_mean_of_a_gaussian(kept: int) -> None:
    """The K x K solver agrees with the textbook formula on explicit matrices, at any prefix."""
    scenes = DigitLikeScenes()
    sketcher, prior = Sketcher(dim=256), Prior.fit(scenes.trace(300, 1))
    trace = scenes.trace(1, 7)
    s = sketcher.encode(trace).prefix(kept)
    r = sketcher.decode(s, prior=prior)
    decoder = sketcher.decoder(prior, "joint", kept)
    assert s.skeletons is not None
    layout = decoder.layout(s.skeletons.table[0])
    a = torch.cat([u.columns(decoder.cache, kept) for u in layout.unknowns]).double()
    statistics = [prior.statistics[u.module] for u in layout.unknowns]
    mean = torch.cat([t.mean for t in statistics])
    covariance = torch.block_diag(*[t.covariance() for t in statistics])
    noise = float(s.scale[0]) ** 2 / 12  # type: ignore[index]
    gain = covariance @ a @ torch.linalg.inv(a.T @ covariance @ a + noise * torch.eye(kept))
    expected = mean + gain @ (s.values[0].double() - layout.constant(kept) - mean @ a)
    size = layout.unknowns[0].entry.size
    for number, unknown in enumerate(layout.unknowns):
        objects = r.objects(unknown.module)
        same = [u.rank for u in layout.unknowns if u.module == unknown.module]
        got = objects.attributes[same.index(unknown.rank)]
        want = expected[number * size : (number + 1) * size].float()
        torch.testing.assert_close(got, want, atol=2e-3, rtol=0)


def test_the_prior_answers_below_the_load_and_is_calibrated() -> None:
    scenes = DigitLikeScenes(size=40, rank=4)
    sketcher = Sketcher(dim=128)
    prior = Prior.fit(scenes.trace(400, 1))
    trace = scenes.trace(150, 2)
    r = sketcher.decode(sketcher.encode(trace), prior=prior)
    left = spread = 0.0
    inside = []
    for name in trace.modules:
        true, read = trace.objects(name), r.objects(name)
        error = true.attributes - read.attributes
        left += float(error.square().sum())
        spread += float((true.attributes - true.attributes.mean(0)).square().sum())
        inside.append((error.abs() <= 1.645 * read.std).reshape(-1))
    assert 1 - left / spread > 0.85
    assert 0.87 < float(torch.cat(inside).float().mean()) < 0.93


@pytest.mark.parametrize("kept", [256, 64])
def test_the_joint_prior_is_ridge_regression(kept: int) -> None:
    """Agreement with an explicit ridge solve, and calibrated leave-one-out error bars."""
    fit, trace = static_network(120, 1), static_network(80, 2)
    sketcher = Sketcher(dim=256)
    sketcher.admit(fit, measure_scales=True)
    prior = Prior.fit(fit)
    s = sketcher.encode(trace).prefix(kept)
    r = sketcher.decode(s, prior=prior)
    joint = sketcher.decoder(prior, "joint", kept).joint(prior.static)
    u, images = joint.rows.double(), joint.sketches
    constant = sketcher.encoder().counts(trace)[:, :kept].double()
    ridge = joint.ridge * torch.eye(kept, dtype=torch.float64)
    gain = u.T @ images @ torch.linalg.inv(images.T @ images + ridge)
    expected = joint.mean + (s.values.double() - constant - joint.sketch_mean) @ gain.T
    inside = []
    for name in trace.modules:
        true, read = trace.objects(name), r.objects(name)
        want = expected[:, joint.slices[name]] * sketcher.modules[name].scale
        torch.testing.assert_close(read.attributes.double(), want, atol=1e-2, rtol=1e-3)
        error = true.attributes - read.attributes
        explained = (
            1 - error.square().sum() / (true.attributes - true.attributes.mean(0)).square().sum()
        )
        assert float(explained) > (0.95 if kept == 256 else 0.85)
        inside.append((error.abs() <= 1.645 * read.std).reshape(-1))
    assert 0.87 < float(torch.cat(inside).float().mean()) < 0.93


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    fit = static_network(30, 1)
    sketcher = Sketcher(dim=128)
    sketcher.admit(fit, measure_scales=True)
    joint = sketcher.decoder(Prior.fit(fit), "joint", 128).joint(("layer0", "layer1"))
    joint = dataclasses.replace(joint, noise=0.0)
    shortcut = joint.residuals()
    for i in (0, 7, 29):
        keep = torch.arange(30) != i
        u, s = joint.rows[keep].double(), joint.sketches[keep]
        u0, s0 = u - u.mean(0), s - s.mean(0)
        gain = u0.T @ s0 @ torch.linalg.inv(s0.T @ s0 + joint.ridge * torch.eye(128))
        left_out = joint.rows[i] - (u.mean(0) + gain @ (joint.sketches[i] - s.mean(0)))
        torch.testing.assert_close(shortcut[i].double(), left_out, atol=1e-3, rtol=1e-3)


def test_the_same_sketches_are_read_better_with_a_larger_prior() -> None:
    sketcher = Sketcher(dim=128)
    trace = static_network(60, 9)
    sketcher.admit(static_network(20, 0), measure_scales=True)
    s = sketcher.encode(trace)
    error = []
    for glances in (12, 40, 400):
        read = sketcher.decode(s, prior=Prior.fit(static_network(glances, 1))).objects("layer2")
        error.append(float((read.attributes - trace.objects("layer2").attributes).norm()))
    assert error[0] > 1.2 * error[1] > 1.2 * error[2]


def test_a_static_network_and_objects_that_come_and_go_share_a_sketch() -> None:
    scenes = DigitLikeScenes(modules=3, size=6)

    def mixed(glances: int, seed: int) -> Trace:
        net, things = static_network(glances, seed), scenes.trace(glances, seed)
        columns = {n: net.objects(n).attributes for n in net.modules}
        for name in things.modules:
            o = things.objects(name)
            columns[name] = {"attributes": o.attributes, "glance": o.glance}
        return Trace.from_columns(columns, num_glances=glances)

    sketcher = Sketcher(dim=512)
    fit, trace = mixed(300, 1), mixed(60, 2)
    sketcher.admit(fit, measure_scales=True)
    r = sketcher.decode(sketcher.encode(trace), prior=Prior.fit(fit))
    for name, least in {"layer2": 0.9, "thing2": 0.75}.items():
        true, read = trace.objects(name), r.objects(name)
        error = true.attributes - read.attributes
        spread = true.attributes - true.attributes.mean(0)
        assert float(1 - error.square().sum() / spread.square().sum()) > least
        assert 0.84 < float((error.abs() <= 1.645 * read.std).float().mean()) < 0.96


def test_counts_from_the_sketch_alone() -> None:
    scenes = DigitLikeScenes(size=20)
    sketcher, prior = Sketcher(dim=256), Prior.fit(scenes.trace(600, 1))
    trace = scenes.trace(300, 2)
    s = sketcher.encode(trace)
    names, estimate, std = sketcher.decode(s, prior=prior).count_estimates()
    truth = np.stack([np.bincount(trace.objects(n).glance, minlength=300) for n in names], 1)
    assert (np.round(estimate) == truth).mean() > 0.99
    assert 0.85 < (np.abs(estimate - truth) <= 1.645 * std).mean() < 0.95
    answer = sketcher.decode(s[:2], prior=prior).counts(["thing1"])
    assert answer["module"] == ["thing1", "thing1"]
    assert answer["count"] == truth[:2, names.index("thing1")].tolist()


def test_counts_are_less_sure_of_a_glance_unlike_the_prior() -> None:
    scenes = DigitLikeScenes(size=20)
    sketcher, prior = Sketcher(dim=256), Prior.fit(scenes.trace(600, 1))
    usual = scenes.trace(1, 2)
    strange = {
        name: dataclasses.replace(c, attributes=c.attributes * -8)
        for name, c in usual.columns.items()
    }
    unlike = Trace(strange, 1, usual.edges)
    read = sketcher.decode(sketcher.encode(Trace.concat([usual, unlike])), prior=prior)
    _, _, std = read.count_estimates()
    assert (std[1] > 2 * std[0]).all()


def test_counts_need_no_prior_above_the_load() -> None:
    trace = Trace.from_objects(
        [[Object("a", [1.0, 2.0]), Object("b", [3.0])], [Object("b", [1.0])]]
    )
    sketcher = Sketcher(dim=128, dtype="float32")
    answer = sketcher.decode(sketcher.encode(trace)).counts()
    assert answer["count"] == [1, 1, 0, 1]


def test_a_roll_up_tells_counts_and_means() -> None:
    scenes = DigitLikeScenes(size=20)
    sketcher, prior = Sketcher(dim=256), Prior.fit(scenes.trace(600, 1))
    inside_counts, inside_means = [], []
    for seed in range(2, 22):
        trace = scenes.trace(40, seed)
        r = sketcher.decode(sketcher.encode(trace).sum(), prior=prior)
        names, estimate, std = r.count_estimates()
        truth = np.array([len(trace.objects(n)) for n in names])
        inside_counts.append(np.abs(estimate[0] - truth) <= 1.645 * std[0])
        for name, number in zip(names, truth, strict=True):
            mean, deviation = r.means(name, counts=[number])
            error = mean[0] - trace.objects(name).attributes.mean(0)
            inside_means.append((error.abs() <= 1.645 * deviation[0]).float().mean())
            assert float(error.norm()) < 0.5 * float(
                deviation.new_tensor(scenes.means).norm(dim=1).min()
            )
    assert np.mean(inside_counts) > 0.85
    assert 0.87 < float(torch.stack(inside_means).mean()) < 0.93


def test_the_mean_of_a_static_module_follows_from_the_sum() -> None:
    sketcher, fit = Sketcher(dim=256), static_network(200, 1)
    sketcher.admit(fit, measure_scales=True)
    trace = static_network(50, 2)
    mean, std = sketcher.decode(sketcher.encode(trace).sum(), prior=Prior.fit(fit)).means("layer1")
    error = mean[0] - trace.objects("layer1").attributes.mean(0)
    assert float((error.abs() <= 3 * std[0]).float().mean()) > 0.8
    assert float(error.norm()) < 0.3 * float(trace.objects("layer1").attributes.std(0).norm())


def test_the_transpose_decoder_finds_a_lone_object_and_admits_noise() -> None:
    x = torch.randn(16, generator=torch.manual_seed(0))
    trace = Trace.from_objects([[Object("a", x)]])
    sketcher = Sketcher(dim=4096, dtype="float32")
    read = sketcher.decode(sketcher.encode(trace), method="transpose").objects("a")
    assert float((read.attributes[0] - x).norm() / x.norm()) < 0.1


def test_refusals() -> None:
    trace = static_network(4, 0)
    sketcher = Sketcher(dim=64)
    s = sketcher.encode(trace)
    with pytest.raises(ValueError, match="method must be one of"):
        sketcher.decode(s, method="magic")
    with pytest.raises(ValueError, match="two recipes differ"):
        Sketcher(dim=64, seed=1).decode(s)
    with pytest.raises(ValueError, match="cannot be told apart in a sum"):
        sketcher.decode(s.sum()).objects("layer0")
    with pytest.raises(KeyError, match="did you mean 'layer0'"):
        sketcher.decode(s).objects("layer00")
    with pytest.raises(ValueError, match="needs a prior"):
        sketcher.decode(s.sum()).means("layer0")
    other = Sketcher(dim=64, scales={"layer0": 2.0})
    other.encode(trace)
    with pytest.raises(ValueError, match="decode them with the sketcher"):
        other.decode(s)
    wrong = static_network(12, 0, sizes=(41, 16, 96, 7))
    with pytest.raises(ValueError, match="the same network"):
        sketcher.decode(s, prior=Prior.fit(wrong)).objects("layer0")
