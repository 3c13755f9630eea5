"""Every way to decode: laws of its parts, where it is exact, what it refuses."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from scenes import DigitLikeScenes, static_network

from recollect import NotRemembered, Object, Prior, Sketcher, Trace
from recollect.sketching.candidates import bank_of
from recollect.sketching.expectation import propagate
from recollect.sketching.kinds import kind_of
from recollect.sketching.methods import METHODS
from recollect.sketching.sites import Kernels, Normal, SpikeSlab
from recollect.sketching.solve import posterior
from recollect.sketching.structure import find_structure

DOUBLE = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.manual_seed(seed), dtype=DOUBLE)


# -- sites ---------------------------------------------------------------------------------------


def moments(density: torch.Tensor, grid: torch.Tensor) -> tuple[float, float]:
    density = density / density.sum()
    mean = float((density * grid).sum())
    return mean, float((density * (grid - mean).square()).sum())


@pytest.mark.parametrize("precision", [0.0, 0.3, 40.0])
def test_tilted_moments_are_those_of_the_integral(precision: float) -> None:
    """Kernels and normal sites against sums over a fine grid."""
    grid = torch.linspace(-12, 12, 48_001, dtype=DOUBLE)
    heard = torch.exp(-0.5 * precision * grid.square() + 0.7 * grid * min(precision, 1.0))
    shift = torch.tensor([0.7 * min(precision, 1.0)], dtype=DOUBLE)
    centres = torch.tensor([[-1.0], [0.2], [2.0]], dtype=DOUBLE)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=DOUBLE)
    spread = torch.tensor([[0.09]], dtype=DOUBLE)
    prior = sum(
        w * torch.exp(-0.5 * (grid - c).square() / 0.09)
        for w, c in zip(weights, centres[:, 0], strict=True)
    )
    c = torch.tensor([[precision]], dtype=DOUBLE)
    for site, density in (
        (Kernels(centres, weights, spread), prior),
        (Normal(centres[2], spread), torch.exp(-0.5 * (grid - 2).square() / 0.09)),
    ):
        mean, variance = moments(density * heard, grid)
        found = site.tilt(c, shift)
        assert float(found.mean) == pytest.approx(mean, abs=1e-6)
        assert float(found.covariance) == pytest.approx(variance, abs=1e-6)


def test_spike_and_slab_is_zero_or_not() -> None:
    """Moments by Bayes' rule on the two cases, the second a Gaussian product on a grid."""
    grid = torch.linspace(-12, 12, 48_001, dtype=DOUBLE)
    step = float(grid[1] - grid[0])
    heard = torch.exp(-0.5 * 3.0 * grid.square() + 2.0 * grid)
    slab = torch.exp(-0.5 * grid.square() / 0.5) / (2 * np.pi * 0.5) ** 0.5
    there = 0.1 * float((slab * heard).sum()) * step
    share = there / (there + 0.9)  # the likelihood of zero is one
    mean, variance = moments(slab * heard, grid)
    one = torch.ones(1, dtype=DOUBLE)
    found = SpikeSlab(0.1 * one, 0.5 * one).tilt(3.0 * one, 2.0 * one)
    assert float(found.mean) == pytest.approx(share * mean, rel=1e-6)
    second = share * (variance + mean**2) - (share * mean) ** 2
    assert float(found.covariance) == pytest.approx(second, rel=1e-6)


def test_kernels_keep_mean_and_covariance() -> None:
    x = normal(400, 5) @ normal(5, 5, seed=1)
    site = Kernels.around(x, torch.full((5,), 1e-6, dtype=DOUBLE))
    torch.testing.assert_close(site.mean, x.mean(0), atol=1e-9, rtol=0)
    assert float(site.covariance.trace()) == pytest.approx(
        float(x.var(0, unbiased=False).sum()), rel=0.02
    )


# -- propagation ---------------------------------------------------------------------------------


def test_with_normal_sites_it_is_lmmse() -> None:
    a, s = normal(12, 9), normal(1, 9, seed=2)
    spreads = [normal(4, 4, seed=3 + i) for i in range(3)]
    spreads = [c @ c.T + torch.eye(4) for c in spreads]
    means = list(normal(3, 4, seed=9))
    linear = posterior(a, torch.cat(means), [torch.linalg.cholesky(c) for c in spreads], s, 0.1)
    sites = [Normal(m, c) for m, c in zip(means, spreads, strict=True)]
    found = propagate(a, s[0], 0.1 * torch.eye(9, dtype=DOUBLE), sites)
    torch.testing.assert_close(found.mean, linear.mean[0])
    widened = max(found.misfit, 1.0) ** 0.5
    torch.testing.assert_close(found.std * widened, linear.std[0])


def test_two_words_are_weighed_as_by_trying_all_pairs() -> None:
    """Posterior means against the sum over all 36 pairs of words, noise from small to large."""
    books = [normal(6, 3, seed=i) for i in (1, 2)]
    a = normal(6, 4, seed=3)
    true = torch.cat([books[0][1], books[1][4]])
    for level in (0.05, 0.5, 2.0):
        s = true @ a + level * normal(4, seed=4)
        pairs = torch.stack([torch.cat([u, v]) for u in books[0] for v in books[1]])
        energy = (s - pairs @ a).square().sum(1) / (2 * level**2)
        exact = torch.softmax(-energy, 0) @ pairs
        sites = [Kernels.words(b.repeat(2, 1)) for b in books]
        found = propagate(a, s, level**2 * torch.eye(4, dtype=DOUBLE), sites, tolerance=1e-4)
        scale = float(torch.cat([b.std(0) for b in books]).mean())
        assert float((found.mean - exact).abs().max()) < 0.35 * scale
        if level == 0.05:
            torch.testing.assert_close(found.mean, true, atol=2e-3, rtol=0)


# -- methods -------------------------------------------------------------------------------------


def word_glances(books: np.ndarray, number: int, seed: int) -> Trace:
    rng = np.random.default_rng(seed)
    return Trace.from_columns(
        {
            f"m{i}": torch.from_numpy(b[rng.integers(0, len(b), number)])
            for i, b in enumerate(books)
        }
    )


@pytest.fixture(scope="module")
def books() -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((8, 24, 12)) / 12**0.5
    return made.astype(np.float32)


def test_words_are_read_where_nothing_linear_can(books: np.ndarray) -> None:
    """8 objects of 24 words: 37 bits and 96 unknowns in 32 numbers."""
    prior = Prior.fit(word_glances(books, 240, 1))
    truth = word_glances(books, 12, 2)
    sketcher = Sketcher(dim=64)
    s = sketcher.encode(truth).prefix(32)
    assert set(prior.kinds.values()) == {"discrete"}
    wrong = {}
    for method in ("auto", "codebook", "joint"):
        r = sketcher.decode(s, prior=prior, method=method)
        error = torch.cat([truth.objects(n).attributes - r.objects(n).attributes
                           for n in truth.modules], 1)  # fmt: skip
        wrong[method] = float((error.nan_to_num(9).abs().amax(1) > 0.02).double().mean())
    assert wrong["auto"] <= 1 / 12
    assert wrong["codebook"] <= 1 / 12
    assert wrong["joint"] == 1


def test_what_is_no_word_is_refused_or_read_linearly(books: np.ndarray) -> None:
    prior = Prior.fit(word_glances(books, 240, 1))
    truth = word_glances(books, 3, 2)
    strange = dict(truth.columns)
    x = truth.columns["m3"].attributes.clone()
    x[1] = -x[1] * 1.7
    strange["m3"] = type(strange["m3"])("m3", ("m3",), x, *(
        getattr(truth.columns["m3"], f) for f in ("glance", "member", "rank", "weight")
    ))  # fmt: skip
    sketcher = Sketcher(dim=64)
    s = sketcher.encode(Trace(strange, 3, truth.edges))
    coded = sketcher.decode(s, prior=prior, method="codebook")
    assert coded.refused.tolist() == [False, True, False]
    assert torch.isnan(coded.objects("m0").attributes[1]).all()
    assert torch.isinf(coded.objects("m0").std[1]).all()
    chosen = sketcher.decode(s, prior=prior)
    linear = sketcher.decode(s, prior=prior, method="joint")
    assert not chosen.refused.any()
    torch.testing.assert_close(
        chosen.objects("m0").attributes[1], linear.objects("m0").attributes[1]
    )


@pytest.mark.parametrize("scheme", ["energy", "keyed"])
def test_zeros_are_used_with_four_numbers_for_each_that_is_not(scheme: str) -> None:
    """40 of 320 numbers are not zero; 160 numbers, on two levels."""
    rng = np.random.default_rng(3)

    def glances(number: int) -> Trace:
        out = []
        for _ in range(number):
            x = np.zeros(320)
            x[rng.choice(320, 40, replace=False)] = rng.standard_normal(40)
            x = x.reshape(10, 32)
            out.append([Object(f"a{i}", x[i], inputs=[Object(f"b{i}", x[5 + i])])
                        for i in range(5)])  # fmt: skip
        return Trace.from_objects(out)

    fit, truth = glances(60), glances(4)
    sketcher = Sketcher(dim=192, scheme=scheme, dtype="float32")
    s = sketcher.encode(truth).prefix(160)
    prior = Prior.fit(fit)
    for method in ("sparse", "auto"):
        r = sketcher.decode(s, prior=prior, method=method)
        for name in truth.modules:
            error = r.objects(name).attributes - truth.objects(name).attributes
            assert float(error.abs().max()) < 2e-3


@pytest.mark.parametrize("method", ["omp", "cosamp", "sparse"])
def test_pursuits_are_decoders_and_need_no_prior(method: str) -> None:
    """20 of 160 numbers are not zero: exact from 96, refused without sparsity."""
    rng = np.random.default_rng(4)
    x = np.zeros((2, 160), dtype=np.float32)
    x[0, rng.choice(160, 20, replace=False)] = rng.standard_normal(20)
    x[1] = rng.standard_normal(160)
    trace = Trace.from_columns(
        {f"m{i}": part for i, part in enumerate(torch.from_numpy(x).split(32, 1))}
    )
    sketcher = Sketcher(dim=128, dtype="float32")
    s = sketcher.encode(trace).prefix(96)
    r = sketcher.decode(s, method=method)
    assert r.refused.tolist() == [False, True]
    for name in trace.modules:
        read, true = r.objects(name), trace.objects(name)
        assert float((read.attributes[0] - true.attributes[0]).abs().max()) < 1e-3
        assert torch.isnan(read.attributes[1]).all()


def test_shapes_beyond_the_covariance_are_used_and_covered() -> None:
    """Attributes on circles: their covariance tells nothing, their shape nearly all."""
    rng = np.random.default_rng(5)
    turn = rng.standard_normal((6, 6, 2))

    def glances(number: int) -> Trace:
        angle = rng.uniform(0, 2 * np.pi, (6, number))
        ring = np.stack([np.cos(angle), np.sin(angle)], 2) + 0.03 * rng.standard_normal(
            (6, number, 2)
        )
        kept = {f"m{i}": np.flatnonzero(rng.random(number) < 0.9) for i in range(6)}
        return Trace.from_columns(
            {
                name: {
                    "attributes": torch.from_numpy(ring[i, rows] @ turn[i].T).float(),
                    "glance": rows,
                }
                for i, (name, rows) in enumerate(kept.items())
            },
            num_glances=number,
        )

    sketcher, prior, truth = Sketcher(dim=64), Prior.fit(glances(240)), glances(40)
    s = sketcher.encode(truth).prefix(8)
    error, inside = {}, []
    for method in ("per-module", "mixture"):
        r = sketcher.decode(s, prior=prior, method=method)
        parts = [r.objects(n).attributes - truth.objects(n).attributes for n in truth.modules]
        error[method] = float(torch.cat(parts).square().sum())
        bars = [1.645 * r.objects(n).std for n in truth.modules]
        inside.append(float((torch.cat(parts).abs() <= torch.cat(bars)).float().mean()))
    assert error["mixture"] < 0.7 * error["per-module"]
    assert min(inside) > 0.78


def test_the_joint_prior_is_more_than_one_per_module() -> None:
    sketcher, fit, truth = Sketcher(dim=64), static_network(120, 1), static_network(20, 2)
    sketcher.admit(fit, measure_scales=True)
    s, prior = sketcher.encode(truth), Prior.fit(fit)
    error = [
        float(
            (
                sketcher.decode(s, prior=prior, method=m).objects("layer2").attributes
                - truth.objects("layer2").attributes
            ).square().sum()
        )
        for m in ("joint", "per-module")
    ]  # fmt: skip
    assert error[0] < 0.3 * error[1]


def test_a_static_network_keeps_its_joint_prior_beside_words(books: np.ndarray) -> None:
    """Words that come and go, and a network whose modules go together, in one sketch."""

    def mixed(number: int, seed: int) -> Trace:
        net, coded = static_network(number, seed, sizes=(12, 7)), word_glances(books, number, seed)
        columns = {n: net.objects(n).attributes / 8 for n in net.modules}
        for i, name in enumerate(coded.modules):
            rows = np.flatnonzero((np.arange(number) + i) % 3 > 0)
            columns[name] = {"attributes": coded.objects(name).attributes[rows], "glance": rows}
        return Trace.from_columns(columns, num_glances=number)

    fit, truth = mixed(240, 1), mixed(12, 2)
    sketcher = Sketcher(dim=64)
    sketcher.admit(fit, measure_scales=True)
    s, prior = sketcher.encode(truth), Prior.fit(fit)
    assert prior.static == ("layer0", "layer1")
    left = {}
    for method in ("auto", "joint"):
        r = sketcher.decode(s, prior=prior, method=method)
        left[method] = {
            n: float((r.objects(n).attributes - truth.objects(n).attributes).square().sum())
            for n in truth.modules
        }
    assert left["auto"]["layer0"] < left["joint"]["layer0"]
    assert left["auto"]["m0"] < 0.1 * left["joint"]["m0"]


def test_constant_and_equal_modules_give_no_nan() -> None:
    """Modules that never vary, are zero, or are copies of each other: finite, whatever method."""
    rng = np.random.default_rng(6)
    x = torch.from_numpy(rng.standard_normal((60, 4)).astype(np.float32))

    def made(rows: slice) -> Trace:
        n = len(x[rows])
        return Trace.from_columns(
            {
                "a": x[rows],
                "twin": x[rows],
                "constant": torch.ones(n, 3),
                "zero": torch.zeros(n, 2),
            }
        )

    fit, truth = made(slice(0, 50)), made(slice(50, 60))
    for measured in (False, True):
        sketcher = Sketcher(dim=64)
        sketcher.admit(fit, measure_scales=measured)
        s = sketcher.encode(truth)
        prior = Prior.fit(fit)
        for method in METHODS:
            if method == "codebook":
                continue
            r = sketcher.decode(s, prior=prior, method=method)
            for name in truth.modules:
                read = r.objects(name)
                assert not torch.isnan(read.attributes).any(), (method, name)
                assert torch.isfinite(read.std).all(), (method, name)
            if method != "transpose":
                error = r.objects("twin").attributes - truth.objects("twin").attributes
                assert float(error.abs().max()) < 0.2, method


def test_kinds_are_told_by_what_repeats_and_what_is_zero() -> None:
    rng = np.random.default_rng(7)
    words = torch.from_numpy(rng.standard_normal((10, 3)))
    assert kind_of(words.repeat(9, 1)) == "discrete"
    assert kind_of(words) == "dense"  # too few to know
    assert kind_of(words[:1].repeat(90, 1)) == "dense"  # constant: nothing to choose from
    assert kind_of(torch.from_numpy(rng.standard_normal((90, 3)))) == "dense"
    sparse = torch.from_numpy(rng.standard_normal((90, 20)) * (rng.random((90, 20)) < 0.1))
    assert kind_of(sparse) == "sparse"
    many = torch.from_numpy(rng.standard_normal((60, 3)))[
        torch.from_numpy(rng.integers(0, 60, 90))
    ]
    assert kind_of(many) == "dense"  # a third of them seen once


# -- without skeletons ---------------------------------------------------------------------------


def test_decoding_finds_the_structure_or_refuses() -> None:
    rng = np.random.default_rng(8)
    cat = Object("cat", rng.standard_normal(6), inputs=[Object("face", rng.standard_normal(5))])
    crowd = [Object("dog", rng.standard_normal(9)) for _ in range(15)]
    sketcher = Sketcher(dim=128, dtype="float32")
    trace = Trace.from_objects([[cat], crowd])
    s = sketcher.encode(trace)
    bare = type(s)(s.codes, s.scale, s.count, None, s.modules, s.recipe)
    with pytest.raises(ValueError, match='structure="find"'):
        sketcher.decode(bare).objects("cat")
    r = sketcher.decode(bare, structure="find")
    assert r.refused.tolist() == [False, True]
    assert "1 of 2 glances refused" in r.notes[0]
    face = r.at(("cat", "face"))
    assert face.glance.tolist() == [0]
    torch.testing.assert_close(
        face.attributes[0], cat.inputs[0].attribute.float(), atol=1e-3, rtol=0
    )
    assert len(r.objects("dog")) == 0
    with pytest.raises(NotRemembered, match="did you mean 'cat > face'"):
        r.at(("cat", "faces"))
    with pytest.raises(TypeError, match="a sequence of module names"):
        r.at("cat")


def test_a_search_does_not_keep_its_sketcher_alive() -> None:
    sketcher = Sketcher(dim=64)
    find_structure(sketcher, sketcher.encode(Trace.from_objects([[Object("cat", [1.0])]])))
    alive = weakref.ref(sketcher)
    assert bank_of(sketcher, 64) is bank_of(sketcher, 64)
    del sketcher
    gc.collect()
    assert alive() is None


def test_operators_are_entered_by_their_adjoints() -> None:
    operators = Sketcher(dim=192).encoder().operators
    z, s = normal(3, operators.width).float(), normal(3, 130, seed=1).float()
    left = (operators.leave(z)[:, :130] * s).sum()
    torch.testing.assert_close(left, (z * operators.enter(s)).sum())
    keys = [("a",), ("b",), ("a",)]
    torch.testing.assert_close(operators.unmix(operators.mix(z, keys), keys), z, atol=1e-5, rtol=0)
    for m in (1, 3, 8, 21, 200):
        image = torch.zeros(m, operators.width)
        operators.spread(torch.eye(m), (f"m{m}",), image)
        copies, inner = operators.copies(m, (f"m{m}",)), operators.inner(m)
        signed = torch.cat([torch.eye(operators.width), -torch.eye(operators.width)])
        torch.testing.assert_close(inner @ signed[copies.long()].sum(1), image)


# -- what is refused -----------------------------------------------------------------------------


def test_a_prior_that_cannot_serve_is_refused() -> None:
    scenes = DigitLikeScenes()
    sketcher, trace = Sketcher(dim=128), scenes.trace(4, 1)
    s = sketcher.encode(trace)
    with pytest.raises(ValueError, match=r"pass prior=Prior\.fit"):
        sketcher.decode(s, method="codebook")
    few = Prior.fit(scenes.trace(5, 2))
    with pytest.raises(ValueError, match="needs 24 objects of a module at least"):
        sketcher.decode(s, prior=few, method="mixture")
    with pytest.raises(ValueError, match="no module of this prior repeats"):
        sketcher.decode(s, prior=Prior.fit(scenes.trace(200, 2)), method="codebook")
    with pytest.raises(ValueError, match="knows none of the modules"):
        sketcher.decode(s, prior=Prior.fit(static_network(12, 0)))
    with pytest.raises(ValueError, match="structure must be one of 'kept', 'find'"):
        sketcher.decode(s, structure="guess")
    for method in ("auto", "mixture", "per-module"):
        wrong = Prior.fit(DigitLikeScenes(size=13).trace(200, 2))
        with pytest.raises(ValueError, match="the same network"):
            sketcher.decode(s, prior=wrong, method=method).objects("thing4")
