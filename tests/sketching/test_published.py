"""The published mechanism: a naive twin, errors that fall as the root, a module's own subspace."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scenes import random_dag, random_sizes

from recollect import NotRemembered, Object, RecipeMismatch, Sketcher, Trace
from recollect.sketching.operators import Operators
from recollect.sketching.projection import Projection
from recollect.sketching.recipe import FAMILIES
from recollect.studies.published import one_layer, read_back


def naive_paper(sketcher: Sketcher, tops: list[Object]) -> torch.Tensor:
    """The published recursion, object by object, as its definition says."""
    op = Operators(sketcher.recipe)

    def half(z: torch.Tensor, *key: str) -> torch.Tensor:
        return (z + op.mix(z, [key])) / 2

    def s_tuple(parts: list[tuple[float, torch.Tensor, tuple[str, ...]]]) -> torch.Tensor:
        return sum((w * half(z, *key) for w, z, key in parts), torch.zeros(1, op.width))

    def s_input(objects: list[Object]) -> torch.Tensor:
        return s_tuple(
            [(float(np.float16(o.weight)), s_object(o), ("slot", str(i)))
             for i, o in enumerate(objects)]
        )  # fmt: skip

    def s_object(o: Object) -> torch.Tensor:
        attribute = torch.zeros(1, op.width)
        op.spread(torch.as_tensor(o.attribute)[None], (o.module,), attribute)
        s_attr = attribute / 2 + op.counter(o.module)[None] / 2
        inside = [(0.5, s_attr, ("attribute slot",))]
        if o.inputs:
            inside.append((0.5, s_input(list(o.inputs)), ("input slot",)))
        return half(s_tuple(inside), o.module)

    return op.leave(s_input(tops))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_paper_agrees_with_its_naive_twin(family: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tops = random_dag(rng, 3, random_sizes(rng, 5))
    sketcher = Sketcher(dim=128, scheme="paper", dtype="float32", operators=family)
    s = sketcher.encode(Trace.from_objects([tops]))
    torch.testing.assert_close(s.values, naive_paper(sketcher, tops), atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attribute_errors_fall_as_the_root_of_the_size(family: str) -> None:
    """Five objects of 32 numbers, path known: exponent -0.5 -+ 0.05, at most 0.20 at 16,384."""
    sizes = (1024, 16384)
    means = []
    for dim in sizes:
        errors: list[float] = []
        expected: list[float] = []
        for seed in range(2):
            glance = one_layer(seed)
            sketcher = Sketcher(
                dim=dim, seed=seed, scheme="paper", dtype="float32", operators=family
            )
            some, theory = read_back(sketcher, sketcher.encode(glance), glance)
            errors, expected = errors + some, expected + theory
        means.append(float(np.mean(errors)))
        assert means[-1] == pytest.approx(float(np.mean(expected)), rel=0.3)
    slope = np.polyfit(np.log(sizes), np.log(means), 1)[0]
    print(f"{family}: {means} slope {slope:.3f}")
    assert -0.55 < slope < -0.45
    assert means[-1] <= 0.20


# -- a module's own subspace ----------------------------------------------------------------


def glances_of(number: int, seed: int, weight: float = 0.2) -> Trace:
    """Glances of five objects: always a cat, around (3, -2, 1, 0.5), and four others."""
    rng = np.random.default_rng(seed)
    centre = np.array([3.0, -2.0, 1.0, 0.5])
    return Trace.from_objects(
        [
            [Object("cat", centre + 0.3 * rng.standard_normal(4), weight),
             *(Object(f"other{k}", rng.standard_normal(4), weight)
               for k in rng.choice(20, 4, replace=False))]
            for _ in range(number)
        ]
    )  # fmt: skip


def naive_directions(sketcher: Sketcher, module: str, size: int) -> torch.Tensor:
    """Images of unit attributes and of the counter on the way up, the slot left out."""
    op = Operators(sketcher.recipe)
    z = torch.zeros(size, op.width)
    op.spread(torch.eye(size), (module,), z)
    z = torch.cat([z, op.counter(module)[None]]) / 2
    for key, share in (("attribute slot", 4), (module, 2)):
        z = (z + op.mix(z, [(key,)] * len(z))) / share
    return op.leave(z).double()


def test_a_projection_is_one_product_with_the_own_directions() -> None:
    trace = glances_of(3, 0)
    sketcher = Sketcher(dim=256, scheme="paper", dtype="float32")
    s = sketcher.encode(trace)
    a = naive_directions(sketcher, "cat", 4)
    expected = s.values.double() @ a.T / a.square().sum(1) / 0.5 / 0.2
    read = Projection(sketcher, "cat", weight=0.2).read(s)
    torch.testing.assert_close(torch.cat([read.sum, read.number[:, None]], 1), expected)


@pytest.mark.parametrize("scheme", ["paper", "energy", "keyed"])
def test_projections_are_right_on_average_and_their_bars_hold(scheme: str) -> None:
    trace = glances_of(1, 5)
    true = torch.cat([trace.objects("cat").attributes[0].double(), torch.ones(1).double()])
    found, std = [], []
    for seed in range(40):
        sketcher = Sketcher(dim=256, seed=seed, scheme=scheme)
        read = Projection(sketcher_with(sketcher, trace), "cat", weight=0.2).read(
            sketcher.encode(trace)
        )
        found.append(torch.cat([read.sum[0], read.number]))
        std.append(torch.cat([read.sum_std[0], read.number_std]))
    x, s = torch.stack(found), torch.stack(std)
    assert bool(((x.mean(0) - true).abs() < 4 * x.std(0) / 40**0.5).all())
    inside = float(((x - true).abs() <= 1.645 * s).double().mean())
    print(f"{scheme}: {inside:.3f} of 200 within their bars")
    assert inside > 0.84


def sketcher_with(sketcher: Sketcher, trace: Trace) -> Sketcher:
    sketcher.admit(trace)
    return sketcher


def test_a_projection_works_on_sums_and_prefixes() -> None:
    trace = glances_of(50, 1)
    sketcher = Sketcher(dim=1024, scheme="paper")
    s = sketcher.encode(trace)
    projection = Projection(sketcher, "cat", weight=0.2)
    single, whole = projection.read(s), projection.read(s.sum())
    torch.testing.assert_close(whole.number[0], single.number.sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole.sum[0], single.sum.sum(0), rtol=1e-4, atol=1e-3)
    a, b = projection.read(s.prefix(256)), projection.read(s)
    assert float((b.number - 1).abs().mean()) < float((a.number - 1).abs().mean())


@pytest.mark.parametrize("scheme", ["paper", "energy"])
def test_a_days_mean_is_read_from_one_sum(scheme: str) -> None:
    trace = glances_of(40, 2)
    sketcher = Sketcher(dim=8192, scheme=scheme)
    read = Projection(sketcher_with(sketcher, trace), "cat", weight=0.2).read(
        sketcher.encode(trace).sum()
    )
    true = trace.objects("cat").attributes.double().mean(0)
    assert abs(float(read.number[0]) - 40) < 3 * float(read.number_std[0]) < 40
    assert float((read.mean[0] - true).norm() / true.norm()) < 0.25
    assert bool(((read.mean[0] - true).abs() < 4 * read.mean_std[0]).all())


def test_deeper_levels_are_read_on_the_transparent_branch() -> None:
    rng = np.random.default_rng(0)
    face = rng.standard_normal(4)
    numbers, sums = [], []
    for seed in range(40):
        cat = Object("cat", rng.standard_normal(4), 0.5, [Object("face", face, 0.5)])
        trace = Trace.from_objects([[cat, Object("dog", rng.standard_normal(4), 0.5)]])
        sketcher = Sketcher(dim=512, seed=seed, dtype="float32")
        s = sketcher.encode(trace)
        read = Projection(sketcher, "face", level=2, weight=0.25).read(s)
        numbers.append(float(read.number[0]))
        sums.append(read.sum[0])
    x = torch.stack(sums)
    assert np.mean(numbers) == pytest.approx(1, abs=4 * np.std(numbers) / 40**0.5)
    assert bool(((x.mean(0) - torch.from_numpy(face)).abs() < 4 * x.std(0) / 40**0.5).all())


def test_a_projection_costs_a_fraction_of_a_full_decode() -> None:
    """Twenty modules of 16 numbers in 2,048: a full decode solves for 320 of them."""
    rng = np.random.default_rng(1)
    tops = [Object(f"m{i}", rng.standard_normal(16), 1 / 20) for i in range(20)]
    sketcher = Sketcher(dim=2048, scheme="paper", dtype="float32")
    s = sketcher.encode(Trace.from_objects([tops]))
    projection = Projection(sketcher, "m3", weight=1 / 20)

    def seconds(action: object, times: int) -> float:
        action()  # type: ignore[operator]
        best = np.inf
        for _ in range(times):
            start = time.process_time()
            action()  # type: ignore[operator]
            best = min(best, time.process_time() - start)
        return float(best)

    project = seconds(lambda: projection.read(s), 20)
    decode = seconds(lambda: sketcher.decode(s).objects("m3"), 2)
    matched = seconds(lambda: sketcher.decode(s, method="transpose").objects("m3"), 2)
    print(f"projection {project * 1e3:.2f} ms, transpose {matched / project:.0f} times, "
          f"least squares {decode / project:.0f} times")  # fmt: skip
    assert decode > 10 * project
    assert matched > 3 * project


def test_what_is_not_there_has_no_mean() -> None:
    trace = glances_of(1, 3)
    sketcher = Sketcher(dim=4096)
    sketcher.admit(Trace.from_columns({"absent": torch.ones(1, 4)}))
    read = Projection(sketcher, "absent").read(sketcher.encode(trace))
    assert abs(float(read.number[0])) < 4 * float(read.number_std[0])
    assert bool(read.mean.isnan().all())
    assert bool(read.mean_std.isinf().all())


def test_what_cannot_be_projected_is_refused() -> None:
    trace = glances_of(1, 0)
    sketcher = Sketcher(dim=64, scheme="keyed")
    sketcher.encode(trace)
    with pytest.raises(NotRemembered, match="no module 'cta' .*did you mean 'cat'"):  # noqa: RUF043
        Projection(sketcher, "cta")
    with pytest.raises(ValueError, match="below the first level nothing is visible"):
        Projection(sketcher, "cat", level=2)
    with pytest.raises(ValueError, match="level must be at least 1"):
        Projection(sketcher, "cat", level=0)
    with pytest.raises(ValueError, match=r"weight must be a positive number, got 0\.0"):
        Projection(sketcher, "cat", weight=0.0)
    with pytest.raises(RecipeMismatch, match="two recipes differ"):
        Projection(sketcher, "cat").read(Sketcher(dim=128).encode(trace))
