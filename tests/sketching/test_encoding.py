"""Laws of encoding: row-wise bits, linearity, agreement with a naive twin, structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import DigitLikeScenes, random_dag, random_sizes, static_network

from recollect import Object, Sketcher, Trace
from recollect.sketching.encode import COUNT_GAIN
from recollect.sketching.operators import Operators

SCHEMES = ("energy", "keyed", "paper")


def naive_energy(sketcher: Sketcher, tops: list[Object]) -> torch.Tensor:
    """The energy recursion, object by object, as its definition says."""
    op = Operators(sketcher.recipe)

    def transparent(z: torch.Tensor, key: tuple[str, ...], kept: float = 0.5**0.5) -> torch.Tensor:
        return kept * z + (1 - kept**2) ** 0.5 * op.mix(z, [key])

    def siblings(objects: list[Object]) -> torch.Tensor:
        total = torch.zeros(1, op.width)
        seen: dict[str, int] = {}
        for o in objects:
            ordinal = seen.get(o.module, 0)
            seen[o.module] = ordinal + 1
            z = whole(o)
            if ordinal:
                z = transparent(z, ("slot", str(ordinal)), 0.5)
            total = total + float(np.float16(o.weight)) ** 0.5 * z
        return total

    def whole(o: Object) -> torch.Tensor:
        z = torch.zeros(1, op.width)
        op.spread(torch.as_tensor(o.attribute)[None], (o.module,), z)
        return z + transparent(siblings(list(o.inputs)), (o.module,)) if o.inputs else z

    def listed(objects: list[Object]) -> list[Object]:
        return [o for top in objects for o in [top, *listed(list(top.inputs))]]

    once = {id(o): o for o in listed(tops)}
    counts = sum(op.count_columns((o.module,)) for o in once.values())
    return op.leave(siblings(tops)) + COUNT_GAIN * op.dim**-0.5 * counts


@pytest.mark.parametrize("seed", range(5))
def test_energy_agrees_with_its_naive_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tops = random_dag(rng, 3, random_sizes(rng, 5))
    sketcher = Sketcher(dim=128, dtype="float32")
    s = sketcher.encode(Trace.from_objects([tops]))
    torch.testing.assert_close(s.values, naive_energy(sketcher, tops), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("slots", [False, True])
def test_a_row_does_not_depend_on_its_batch(scheme: str, slots: bool) -> None:
    rng = np.random.default_rng(3)
    sizes = random_sizes(rng, 6)
    trace = Trace.from_objects([random_dag(rng, int(rng.integers(1, 4)), sizes) for _ in range(7)])
    s = Sketcher(dim=192, scheme=scheme, slots=slots).encode(trace)
    for i in range(len(trace)):
        alone = Sketcher(dim=192, scheme=scheme, slots=slots).encode(trace[i])
        assert alone.equal(s[i])
    shuffled = [4, 1, 6, 0]
    assert Sketcher(dim=192, scheme=scheme, slots=slots).encode(trace[shuffled]).equal(s[shuffled])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 150),
    st.lists(st.integers(1, 400), min_size=1, max_size=5),
    st.sampled_from([64, 192, 1024]),
    st.sampled_from(["energy", "keyed"]),
)
def test_fused_operators_give_the_same_bits(
    glances: int, sizes: list[int], dim: int, scheme: str
) -> None:
    generator = torch.Generator().manual_seed(glances)
    trace = Trace.from_columns(
        {f"m{i}": torch.randn(glances, m, generator=generator) for i, m in enumerate(sizes)}
    )
    fused, plain = (Sketcher(dim=dim, scheme=scheme, scales={"m0": 0.3}) for _ in range(2))
    assert fused.encoder().fuses
    plain.encoder().fuses = False
    assert torch.equal(fused.unrounded(trace), plain.unrounded(trace))
    assert fused.encode(trace).equal(plain.encode(trace))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([64, 320]))
def test_rows_of_flat_traces_are_bit_identical(glances: int, seed: int, dim: int) -> None:
    trace = DigitLikeScenes().trace(glances, seed)
    s = Sketcher(dim=dim, dtype="float32").encode(trace)
    for i in range(glances):
        assert Sketcher(dim=dim, dtype="float32").encode(trace[i]).equal(s[i])


def test_a_static_network_is_encoded_like_its_objects() -> None:
    trace = static_network(3, 0)
    objects = [
        [Object(name, trace.objects(name).attributes[g]) for name in trace.modules]
        for g in range(3)
    ]
    a, b = (
        Sketcher(dim=128, dtype="float32").encode(t) for t in (trace, Trace.from_objects(objects))
    )
    assert a.equal(b)
    assert a.skeletons is not None
    assert b.skeletons is not None
    assert a.skeletons.packed() == b.skeletons.packed()
    assert len(a.skeletons.table) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_encoding_is_linear_in_the_attributes(scheme: str) -> None:
    def scene(x: float, y: float) -> Trace:
        face = Object("face", [x, 2.0 * y], weight=0.5)
        return Trace.from_objects([[Object("cat", [x + y, 1.0 * x, y], inputs=[face])]])

    sketcher = Sketcher(dim=64, scheme=scheme, dtype="float32")
    zero, a, b, both = (sketcher.unrounded(scene(*v)) for v in ((0, 0), (1, 0), (0, 1), (1, 1)))
    torch.testing.assert_close(both + zero, a + b, atol=1e-5, rtol=0)


def test_a_shared_object_is_counted_once_and_sketched_on_both_paths() -> None:
    face = Object("face", [1.0, 2.0])
    shared = Trace.from_objects(
        [[Object("cat", [1.0], inputs=[face]), Object("dog", [1.0], inputs=[face])]]
    )
    twice = Trace.from_objects(
        [[Object("cat", [1.0], inputs=[Object("face", [1.0, 2.0])]),
          Object("dog", [1.0], inputs=[Object("face", [1.0, 2.0])])]]
    )  # fmt: skip
    sketcher = Sketcher(dim=64, dtype="float32")
    assert len(shared.objects("face")) == 1
    gain = COUNT_GAIN * 64**-0.5 * sketcher.encoder().operators.count_columns(("face",))
    torch.testing.assert_close(sketcher.unrounded(twice) - sketcher.unrounded(shared), gain)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("slots", [False, True])
def test_parts_add_up_to_the_whole(scheme: str, slots: bool) -> None:
    rng = np.random.default_rng(8)
    sizes = random_sizes(rng, 4)
    trace = Trace.from_objects([random_dag(rng, 3, sizes) for _ in range(3)])
    sketcher = Sketcher(dim=128, scheme=scheme, dtype="float32", slots=slots)
    total = torch.stack(list(sketcher.parts(trace).values())).sum(0)
    torch.testing.assert_close(total, sketcher.unrounded(trace), atol=1e-5, rtol=0)


def test_every_object_has_its_effective_weight_of_the_energy() -> None:
    """Mean squared image of a unit attribute at depth h: the product of the weights above it."""
    rng = np.random.default_rng(0)
    shares = []
    for seed in range(60):
        deep = Object("c", rng.standard_normal(8), weight=0.25)
        mid = Object("b", np.zeros(8), weight=0.5, inputs=[deep])
        trace = Trace.from_objects([[Object("a", np.zeros(8), inputs=[mid])]])
        image = Sketcher(dim=256, seed=seed).parts(trace)[("a", "b", "c")]
        shares.append(float(image.square().sum() / np.square(deep.attribute.numpy()).sum()))
    assert abs(np.mean(shares) - 0.125) < 3 * np.std(shares) / 60**0.5


def test_scales_divide_the_attributes() -> None:
    t = Trace.from_columns({"a": torch.ones(1, 4) * 6.0})
    scaled = Sketcher(dim=64, dtype="float32", scales={"a": 3.0}).encode(t)
    plain = Sketcher(dim=64, dtype="float32").encode(
        Trace.from_columns({"a": torch.ones(1, 4) * 2})
    )
    torch.testing.assert_close(scaled.values, plain.values)


def test_measured_scales_are_the_deviation_times_the_root_of_the_size() -> None:
    x = torch.randn(500, 9, generator=torch.manual_seed(0)) * 5 + 100
    sketcher = Sketcher(dim=64)
    sketcher.admit(Trace.from_columns({"a": x}), measure_scales=True)
    expected = float(x.var(0, correction=0).sum().sqrt())
    assert sketcher.modules["a"].scale == pytest.approx(expected)
    sketcher.admit(Trace.from_columns({"a": x * 7}), measure_scales=True)
    assert sketcher.modules["a"].scale == pytest.approx(expected), "a scale is frozen"


def test_modules_that_come_and_go_are_scaled_by_their_size() -> None:
    """Nine times the same toilet in a first batch must not make every other one enormous."""
    near = [Object("toilet", [3.0, 4.0 + 1e-2 * i]) for i in range(9)]
    trace = Trace.from_objects([near[:5], near[5:], []])
    sketcher = Sketcher(dim=64)
    sketcher.admit(trace, measure_scales=True)
    assert sketcher.modules["toilet"].scale == pytest.approx(5.0, rel=0.02)


def test_bad_input_is_refused_and_nothing_is_admitted() -> None:
    sketcher = Sketcher(dim=64)
    sketcher.encode(Trace.from_columns({"a": torch.ones(1, 4)}))
    with pytest.raises(ValueError, match="seen with attributes of 4 numbers"):
        sketcher.encode(Trace.from_columns({"new": torch.ones(1, 2), "a": torch.ones(1, 5)}))
    assert sketcher.modules.names == ("a",)
    with pytest.raises(ValueError, match="multiple of 64"):
        Sketcher(dim=100)
    with pytest.raises(ValueError, match="scheme must be one of"):
        Sketcher(scheme="best")
    with pytest.raises(ValueError, match="scale of module 'a' must be positive"):
        Sketcher(scales={"a": 0.0})
    with pytest.raises(KeyError, match="no module 'b' is remembered"):
        sketcher.probe(Object("b", [1.0]))


def test_sharing_that_unfolds_without_end_is_refused() -> None:
    layer = [Object("m", [1.0]) for _ in range(8)]
    for _ in range(8):
        layer = [Object("m", [1.0], inputs=layer) for _ in range(8)]
    with pytest.raises(ValueError, match="unfold to"):
        Sketcher(dim=64).encode(Trace.from_objects([layer]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_sketches() -> None:
    trace = static_network(32, 1)
    moved = Trace.from_columns({n: trace.objects(n).attributes.cuda() for n in trace.modules})
    here, there = Sketcher(dim=256).encode(trace), Sketcher(dim=256).encode(moved).cpu()
    assert here.equal(there)
