"""Equal positions beside all pairs of positions, so that float32 does not lie for near inputs.

Where all pairs of positions are held, an angle comes from ``sqrt(q11 q22) - q12``: two nearly
equal numbers if the inputs are near each other and the positions the same. Equal positions of a
layer that does not mix positions depend on equal positions only, so they are followed on their
own, with their gap, and written over the diagonal after every rectifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recollect.infinite.affine import Conv, Dense
from recollect.infinite.graph import Graph, Node
from recollect.infinite.joining import Sum
from recollect.infinite.mixing import LayerNorm
from recollect.infinite.pooling import Flatten, Scale
from recollect.infinite.rectifiers import ABRelu, RectifiedMonomial, Sign
from recollect.infinite.states import Cross, Layer, Pair

__all__ = ["KINKED", "Beside", "gaps_are_known"]

# Layers whose derivative jumps: their kernels need the angle itself, not only its cosine.
KINKED = (ABRelu, Sign, RectifiedMonomial)
FOLLOWED = (ABRelu, Conv, Dense, Scale)


class Beside:
    """Kernels at equal positions, node by node, as far as their gaps are known.

    Args:
        graph: the network.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.held: dict[int, Cross] = {}

    def follow(self, i: int, node: Node, pairs: list[Pair], out: Cross) -> Cross:
        """Take a step, and return ``out`` with its diagonal corrected after a rectifier.

        Args:
            i: index of the node.
            node: the node.
            pairs: single-input states around it, one for each of its inputs.
            out: kernels of all pairs of positions after it; its tensors may be overwritten.
        """
        ks = [self.held.get(j) for j in node.inputs]
        known = [k for k in ks if k is not None and k.gap is not None]
        layer = node.layer
        if not out.full or len(known) < len(ks):
            return out
        if isinstance(layer, Sum):
            made = layer.cross(known, pairs)
        elif isinstance(layer, FOLLOWED):
            made = layer.cross(known[0], pairs[0])
        else:
            return out
        self.held[i] = replace(made, fresh=False)
        if isinstance(layer, ABRelu):
            out = replace(
                out,
                nngp=_over_diagonal(out.nngp, made.nngp),
                ntk=None if out.ntk is None or made.ntk is None
                else _over_diagonal(out.ntk, made.ntk),
            )  # fmt: skip
        return out

    def forget(self, j: int) -> None:
        """Let go what nobody reads any more."""
        self.held.pop(j, None)


def _over_diagonal(full: Tensor, equal: Tensor) -> Tensor:
    """Write (*S, n1, n2) over the diagonal of (*S, *S, n1, n2), in place.

    >>> _over_diagonal(torch.zeros(2, 2, 1, 1), torch.ones(2, 1, 1))[..., 0, 0].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    places = equal.shape[:-2].numel()
    flat = full.view(places, places, *full.shape[-2:])
    torch.diagonal(flat, dim1=0, dim2=1).copy_(
        equal.reshape(places, *equal.shape[-2:]).movedim(0, -1)
    )
    return full


def gaps_are_known(
    graph: Graph, live: Sequence[bool], cross_full: Sequence[bool], *, masked: bool
) -> bool:
    """Say whether every kinked layer reads a gap that was followed from the input.

    Where it does not, as after pooling, the gap is a difference of nearly equal numbers, and
    float32 loses the angle between near inputs: those networks are computed in float64.

    Args:
        graph: the network.
        live: whether each node is needed.
        cross_full: whether pairs of inputs hold all pairs of positions, node by node.
        masked: whether positions are hidden.
    """
    known = [False] * len(graph.nodes)
    known[0] = not (masked and cross_full[0])
    for i, node in enumerate(graph.nodes):
        layer = node.layer
        if layer is None or not live[i]:
            continue
        full = layer.needs_full(cross_full[i]) if isinstance(layer, Layer) else cross_full[i]
        read = all(known[j] and (full or not cross_full[j]) for j in node.inputs)
        if isinstance(layer, KINKED) and not read:
            return False
        known[i] = read and not masked and _carries(graph, node, full=full)
    return True


def _carries(graph: Graph, node: Node, *, full: bool) -> bool:
    """Say whether a layer that reads a gap hands one on."""
    layer, sources = node.layer, [graph.nodes[j] for j in node.inputs]
    if isinstance(layer, Sum):
        return sum(not s.centred for s in sources) < 2
    if isinstance(layer, LayerNorm):
        vectors = not sources[0].places and sources[0].centred
        return vectors and layer.eps == 0
    return isinstance(layer, FOLLOWED) or (isinstance(layer, Flatten) and not full)
