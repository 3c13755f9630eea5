"""Equal positions beside all pairs of positions, so that float32 does not lie for near inputs.

Where all pairs of positions are held, an angle comes from ``sqrt(q11 q22) - q12``: two nearly
equal numbers if the inputs are near each other and the positions the same. Equal positions of a
layer that does not mix positions depend on equal positions only, so they are followed on their
own, with their gap, and written over the diagonal after every rectifier.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recollect.infinite.affine import Conv, Dense
from recollect.infinite.graph import Graph, Node
from recollect.infinite.joining import Sum
from recollect.infinite.pooling import Scale
from recollect.infinite.rectifiers import ABRelu
from recollect.infinite.states import Cross, Pair

__all__ = ["Beside"]


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
        elif isinstance(layer, ABRelu | Conv | Dense | Scale):
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
