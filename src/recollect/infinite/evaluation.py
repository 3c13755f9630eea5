"""Running a graph: what each node must hold, single inputs first, then tiles of pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recollect.infinite.beside import KINKED, Beside, gaps_are_known
from recollect.infinite.fused import fused_places, fused_vectors
from recollect.infinite.graph import Graph, Node, spread_diagonal
from recollect.infinite.joining import Join
from recollect.infinite.mixing import Dropout, LayerNorm
from recollect.infinite.positions import diagonal_of
from recollect.infinite.quadrature import Expansion
from recollect.infinite.rectifiers import Activation
from recollect.infinite.resampling import Aggregate
from recollect.infinite.states import Cross, Layer, Pair, Self

__all__ = ["Inputs", "Plan", "evaluate_pairs", "evaluate_singles"]


@dataclass(frozen=True)
class Inputs:
    """One set of inputs, channels second.

    Args:
        x: (n, channels, *S), zero where hidden.
        mask: visible positions (n, *S), None if all are.
        pattern: graphs (n, V, V) for aggregation.
        turned: :attr:`across`, kept for all tiles; None: not yet computed.
    """

    x: Tensor
    mask: Tensor | None = None
    pattern: Tensor | None = None
    turned: Tensor | None = None

    @property
    def across(self) -> Tensor:
        """The inputs with positions first, (P, channels, n)."""
        if self.turned is not None:
            return self.turned
        return self.x.flatten(2).permute(2, 1, 0).contiguous()

    def __len__(self) -> int:
        return len(self.x)

    def wide(self) -> Inputs:
        """Return the inputs in float64."""
        pattern = None if self.pattern is None else self.pattern.double()
        turned = None if self.turned is None else self.turned.double()
        return Inputs(self.x.double(), self.mask, pattern, turned)

    def rows(self, start: int, stop: int) -> Inputs:
        """Return the inputs start to stop."""
        return Inputs(
            self.x[start:stop],
            None if self.mask is None else self.mask[start:stop],
            None if self.pattern is None else self.pattern[start:stop],
            None if self.turned is None else self.turned[..., start:stop],
        )


@dataclass(frozen=True)
class Plan:
    """What every node of a graph must hold, found from the output backwards.

    Args:
        graph: the network.
        cross_full: whether pairs of inputs hold all pairs of positions.
        self_full: whether single inputs do.
        alone: whether the state of single inputs is needed at all.
        mean: whether the mean over channels is needed.
        gap: whether the gap is worth carrying.
        live: whether the node is needed for the output.
        largest: the most numbers that one pair of inputs holds at any node.
    """

    graph: Graph
    cross_full: tuple[bool, ...]
    self_full: tuple[bool, ...]
    alone: tuple[bool, ...]
    mean: tuple[bool, ...]
    gap: tuple[bool, ...]
    live: tuple[bool, ...]
    largest: int

    @classmethod
    def of(cls, graph: Graph, *, full: bool) -> Plan:
        """Plan a graph whose output holds all pairs of positions, or only equal ones."""
        count = len(graph.nodes)
        cross, selves, alone = [False] * count, [False] * count, [False] * count
        mean, gap, live = [False] * count, [False] * count, [False] * count
        live[graph.output] = True
        cross[graph.output] = full and bool(graph.nodes[graph.output].places)
        for i in range(count - 1, 0, -1):
            node = graph.nodes[i]
            if not live[i] or node.layer is None:
                continue
            layer = node.layer
            for j in node.inputs:
                source = graph.nodes[j]
                live[j] = True
                need = layer.needs_full(cross[i]) if isinstance(layer, Layer) else cross[i]
                cross[j] |= need and bool(source.places)
                gap[j] |= isinstance(layer, KINKED) or gap[i]
        for i in range(count - 1, 0, -1):
            node = graph.nodes[i]
            if not live[i] or node.layer is None:
                continue
            layer = node.layer
            wants = _wants_means(layer, [graph.nodes[j] for j in node.inputs])
            carries = gap[i] and not cross[i]
            # An expansion keeps its coefficients in the state after it.
            alone[i] |= carries or isinstance(layer, Expansion)
            for j in node.inputs:
                alone[j] |= alone[i] or _uses_singles(layer) or wants or carries
                mean[j] |= (wants or mean[i]) and not graph.nodes[j].centred
                if isinstance(layer, Layer):
                    mixes = layer.keeps_full() or (alone[i] and layer.needs_full(selves[i]))
                    selves[j] |= mixes and bool(graph.nodes[j].places)
                else:
                    selves[j] |= selves[i]
        sizes = [
            math.prod(n.places) ** (2 if cross[i] else 1)
            for i, n in enumerate(graph.nodes)
            if live[i]
        ]
        return cls(
            graph,
            tuple(cross),
            tuple(selves),
            tuple(alone),
            tuple(mean),
            tuple(gap),
            tuple(live),
            max(sizes),
        )

    def wants_float64(self, inputs: Inputs) -> bool:
        """Say whether float32 would lose the angles between inputs that are near each other."""
        return (
            inputs.x.dtype == torch.float32
            and not torch.is_grad_enabled()
            and not gaps_are_known(
                self.graph, self.live, self.cross_full, masked=inputs.mask is not None
            )
        )

    def last_use(self) -> list[int]:
        """Return for each node the last node that reads it."""
        last = list(range(len(self.graph.nodes)))
        for i, node in enumerate(self.graph.nodes):
            if self.live[i]:
                for j in node.inputs:
                    last[j] = i
        last[self.graph.output] = len(self.graph.nodes)
        return last


def _wants_means(layer: Layer | Join, sources: list[Node]) -> bool:
    """Say whether a layer needs the means of what it reads."""
    if isinstance(layer, LayerNorm):
        return not sources[0].centred
    if isinstance(layer, Join):
        return layer.wants_means and sum(not s.centred for s in sources) > 1
    return False


def _uses_singles(layer: Layer | Join) -> bool:
    return isinstance(layer, Activation | LayerNorm) or (
        isinstance(layer, Layer) and layer.keeps_full()
    )


# --- single inputs -------------------------------------------------------------------------


def _second_moment(x: Tensor) -> Tensor:
    """Return the mean square over channels, summed in float64, some rows at a time."""
    rows = max(1, 2**16 // max(1, x[:1].numel()))
    parts = [(w * w).sum(1) / x.shape[1] for w in (p.double() for p in torch.split(x, rows))]
    return torch.cat(parts).to(x.dtype)


def _input_single(inputs: Inputs, plan: Plan) -> Self:
    x = inputs.x
    channels = x.shape[1]
    var = _second_moment(x).movedim(0, -1).contiguous()
    mask = None if inputs.mask is None else inputs.mask.movedim(0, -1)
    full = None
    if plan.self_full[0]:
        flat = x.double().flatten(2)
        gram = torch.einsum("ncp,ncq->pqn", flat, flat) / channels
        places = x.shape[2:]
        full = gram.to(x.dtype).reshape(*places, *places, len(x), 1)
    mean = x.mean(1).movedim(0, -1) if plan.mean[0] else None
    return Self(var, full, mean, mask)


def _empty(places: tuple[int, ...], like: Self) -> Self:
    """Stand in for a state that nobody reads; only its shape counts."""
    count = like.var.shape[-1]
    var = like.var.new_zeros(()).expand(*places, count)
    return Self(var)


def evaluate_singles(plan: Plan, inputs: Inputs) -> list[Self]:
    """Return the state of every input with itself at every node."""
    graph, last = plan.graph, plan.last_use()
    states: list[Self] = []
    for i, node in enumerate(graph.nodes):
        layer = node.layer
        if layer is None:
            states.append(_input_single(inputs, plan))
        elif not plan.live[i]:
            states.append(_empty(node.places, states[0]))
        else:
            states.append(_single_step(plan, i, node, states, inputs))
        for j in node.inputs:
            if last[j] == i and states[j].full is not None and not _read_in_pairs(plan, j):
                states[j] = replace(states[j], full=None)
    return states


def _read_in_pairs(plan: Plan, j: int) -> bool:
    return any(
        isinstance(n.layer, Layer) and n.layer.keeps_full() and j in n.inputs
        for n in plan.graph.nodes
    )


def _single_step(plan: Plan, i: int, node: Node, states: list[Self], inputs: Inputs) -> Self:
    sources = [states[j] for j in node.inputs]
    layer = node.layer
    if not plan.alone[i]:
        out = _empty(node.places, states[0])
        mask = sources[0].mask
        if mask is not None and isinstance(layer, Layer):
            mask = layer.mask(mask)
        out = replace(out, mask=mask)
        return _with_pattern(layer, out, inputs)
    if isinstance(layer, Join):
        out = layer.alone(sources, full=plan.self_full[i])
        mean = layer.mean(sources) if plan.mean[i] else None
        return replace(out, mean=mean)
    assert layer is not None
    source = _with_pattern(layer, sources[0], inputs)
    full = plan.self_full[i]
    if source.full is not None and not layer.needs_full(full):
        source = replace(source, full=None)
    out = layer.alone(source, full=full)
    if full and out.full is None:
        rank = out.var.ndim - 1
        out = replace(out, full=spread_diagonal(out.var, rank)[..., None])
    mean = layer.mean(source) if plan.mean[i] else None
    if mean is not None and out.mask is not None:
        mean = mean * out.mask
    return _with_pattern(layer, replace(out, mean=mean), inputs)


def _with_pattern(layer: Layer | Join | None, state: Self, inputs: Inputs) -> Self:
    """Give an aggregation its graphs, (receiver, sender, n)."""
    if not isinstance(layer, Aggregate):
        return state
    if inputs.pattern is None:
        raise ValueError("Aggregate needs graphs: call kernel(x1, x2, pattern1=..., pattern2=...)")
    return replace(state, extra=inputs.pattern.permute(2, 1, 0))


# --- pairs of inputs -----------------------------------------------------------------------


def _close(gap: Tensor, s: Tensor) -> Tensor:
    """Return the indices of pairs whose direction is so near that subtraction loses digits."""
    return (gap < 0.01 * s).nonzero()


def _vector_pairs(
    x1: Tensor, x2: Tensor, v1: Tensor, v2: Tensor, *, gap: bool, compiled: bool
) -> Cross:
    """Return input kernels of vectors, near pairs recomputed in float64."""
    channels = x1.shape[1]
    known: Tensor | None
    if gap and compiled:
        r1, r2 = v1.double().sqrt(), v2.double().sqrt()
        nngp, known, count = fused_vectors(x1 @ x2.T, r1, r2, channels)
        near = _close(known, known + nngp) if count else x1.new_empty((0, 2), dtype=torch.long)
    else:
        nngp = (x1 @ x2.T).div_(channels) if not torch.is_grad_enabled() else x1 @ x2.T / channels
        with torch.no_grad():
            s = (v1.double().sqrt()[:, None] * v2.double().sqrt()[None]).to(nngp.dtype)
            near = _close(s - nngp, s)
        known = (s - nngp).clamp_min(0) if gap else None
    if len(near) > nngp.numel() // 8:
        wide = x1.double() @ x2.double().T / channels
        exact = v1.double().sqrt()[:, None] * v2.double().sqrt()[None]
        nngp = wide.to(nngp.dtype)
        known = (exact - wide).clamp_min(0).to(nngp.dtype) if gap else None
    for part in torch.split(near, max(1, 2**24 // channels)):
        i, j = part.unbind(1)
        a, b = x1[i].double(), x2[j].double()
        q11, q22 = (a * a).sum(1) / channels, (b * b).sum(1) / channels
        q12 = (a * b).sum(1) / channels
        nngp = nngp.index_put((i, j), q12.to(nngp.dtype))
        if known is not None:
            exact = (q11 * q22).sqrt() - q12
            known = known.index_put((i, j), exact.clamp_min(0).to(nngp.dtype))
    return Cross(nngp, gap=known)


def _equal_places(a: Tensor, b: Tensor) -> Tensor:
    """Return products over channels at equal positions of (P, channels, n), (P, n1, n2)."""
    if a.shape[1] > 16:
        return a.transpose(1, 2) @ b
    total = a[:, 0, :, None] * b[:, 0, None, :]
    for c in range(1, a.shape[1]):
        total.addcmul_(a[:, c, :, None], b[:, c, None, :])
    return total


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Return products of all positions of single channels, (P, P', n1, n2)."""
    return a.T.contiguous()[:, None, :, None] * b.T.contiguous()[None, :, None, :]


def _place_pairs(one: Inputs, two: Inputs, *, gap: bool, compiled: bool) -> Cross:
    """Return input kernels at equal positions, in float64 and then rounded."""
    x1, x2 = one.across, two.across
    channels, shape = x1.shape[1], (*one.x.shape[2:], len(one), len(two))
    known: Tensor | None = None
    if gap and compiled and channels <= 16:
        nngp, known = fused_places(x1, x2)
        return Cross(nngp.view(shape), gap=known.view(shape))
    a, b = x1.double(), x2.double()
    nngp = _equal_places(a, b) / channels
    if gap:
        r1, r2 = (((t * t).sum(1) / channels).sqrt() for t in (a, b))
        known = (r1[:, :, None] * r2[:, None, :]).sub_(nngp).clamp_min_(0)
        known = known.to(x1.dtype).view(shape)
    return Cross(nngp.to(x1.dtype).reshape(shape), gap=known)


def _all_places(x1: Tensor, x2: Tensor) -> Cross:
    """Return input kernels of all pairs of positions, in float64 and then rounded."""
    channels, places = x1.shape[1], x1.shape[2:]
    a, b = x1.double().flatten(2), x2.double().flatten(2)
    nngp = torch.einsum("ncp,mcq->pqnm", a, b) if channels > 1 else _outer(a[:, 0], b[:, 0])
    nngp = nngp / channels if channels > 1 else nngp
    shaped = nngp.to(x1.dtype).reshape(*places, *places, len(x1), len(x2)).contiguous()
    return Cross(shaped, full=True)


def _input_pairs(
    plan: Plan, one: Inputs, two: Inputs, a: Self, b: Self, *, compiled: bool
) -> Cross:
    gap = plan.gap[0] and not torch.is_grad_enabled()
    if one.x.ndim == 2:
        return _vector_pairs(one.x, two.x, a.var, b.var, gap=gap, compiled=compiled)
    if plan.cross_full[0]:
        return _all_places(one.x, two.x)
    return _place_pairs(one, two, gap=gap, compiled=compiled)


def evaluate_pairs(
    plan: Plan,
    one: Inputs,
    two: Inputs,
    singles1: list[Self],
    singles2: list[Self],
    *,
    want_ntk: bool,
    same: Tensor | None = None,
    compiled: bool = False,
) -> Cross:
    """Return the kernels of all pairs at the output.

    Args:
        plan: of the graph.
        one: inputs x1, (n1, ...).
        two: inputs x2, (n2, ...).
        singles1: states of x1 with itself at every node.
        singles2: states of x2.
        want_ntk: whether to compute the tangent kernel.
        same: (m, 2) pairs that are the same input (for dropout).
        compiled: whether to use :mod:`recollect.infinite.fused`.
    """
    graph, last = plan.graph, plan.last_use()
    held: dict[int, Cross] = {}
    beside = Beside(graph)
    for i, node in enumerate(graph.nodes):
        if not plan.live[i]:
            continue
        if node.layer is None:
            k = _input_pairs(plan, one, two, singles1[0], singles2[0], compiled=compiled)
            held[i] = replace(k, want_ntk=want_ntk, compiled=compiled)
            if k.full and plan.gap[0] and _needs_gaps(one):
                equal = _place_pairs(one, two, gap=True, compiled=compiled)
                beside.held[i] = replace(equal, want_ntk=want_ntk, compiled=compiled)
        else:
            for j in node.inputs:
                if held[j].fresh and (last[j] != i or len(node.inputs) > 1):
                    held[j] = replace(held[j], fresh=False)
            pairs = [Pair(singles1[j], singles2[j], singles1[i], singles2[i]) for j in node.inputs]
            held[i] = beside.follow(i, node, pairs, _pair_step(plan, i, node, held, pairs, same))
            held[i] = _hide(held[i], singles1[i].mask, singles2[i].mask)
        for j in node.inputs:
            if last[j] == i:
                held.pop(j, None)
                beside.forget(j)
    return held[graph.output]


def _pair_step(
    plan: Plan,
    i: int,
    node: Node,
    held: dict[int, Cross],
    pairs: list[Pair],
    same: Tensor | None,
) -> Cross:
    layer, full = node.layer, plan.cross_full[i]
    need = layer.needs_full(full) if isinstance(layer, Layer) else full
    ks = [_fit(held[j], need, plan.graph.nodes[j]) for j in node.inputs]
    if not plan.gap[i] and not isinstance(layer, KINKED):
        ks = [replace(k, gap=None) if k.gap is not None else k for k in ks]
    if isinstance(layer, Join):
        out = layer.cross(ks, pairs)
    elif isinstance(layer, Dropout) and same is not None:
        out = replace(layer.cross_same(ks[0], same[:, 0], same[:, 1]), gap=None)
    else:
        assert isinstance(layer, Layer)
        out = layer.cross(ks[0], pairs[0])
    if out.full and not node.places:
        out = replace(out, full=False)
    if full and not out.full:
        rank = len(node.places)
        ntk = None if out.ntk is None else spread_diagonal(out.ntk, rank)
        out = Cross(spread_diagonal(out.nngp, rank), ntk, None, True, out.want_ntk, out.compiled)
    if out.gap is not None and not plan.gap[i]:
        out = replace(out, gap=None)
    return out


def _needs_gaps(inputs: Inputs) -> bool:
    """Say whether equal positions are worth following: float32 without masks or gradients."""
    plain = inputs.mask is None and not torch.is_grad_enabled()
    return plain and inputs.x.dtype == torch.float32


def _fit(k: Cross, need: bool, node: Node) -> Cross:
    """Keep equal positions only where a layer asks for no more."""
    if k.full and not need:
        rank = len(node.places)
        ntk = None if k.ntk is None else diagonal_of(k.ntk, rank)
        return Cross(diagonal_of(k.nngp, rank), ntk, None, False, k.want_ntk, k.compiled)
    return k


def _hide(k: Cross, mask1: Tensor | None, mask2: Tensor | None) -> Cross:
    """Set pairs with a hidden position to zero."""
    if mask1 is None or mask2 is None or mask1.ndim == 1:
        return k
    rank = mask1.ndim - 1
    ones = [1] * rank if k.full else []
    left = mask1.reshape((*mask1.shape[:-1], *ones, mask1.shape[-1], 1))
    right = mask2.reshape((*ones, *mask2.shape[:-1], 1, mask2.shape[-1]))
    both = left & right
    return k.each(k.nngp * both, None if k.ntk is None else k.ntk * both, None)
