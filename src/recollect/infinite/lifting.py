"""From a network to its twin."""
from __future__ import annotations
from typing import Any
from torch import Tensor
from recollect.infinite.composing import Net, lay
from recollect.infinite.graph import Graph
from recollect.infinite.twins import Twin

def twin(model: Any, **k: Any) -> Twin:
    def lower(shape: tuple[int, ...]) -> Graph:
        graph = Graph(shape[1:], shape[0])
        return graph.finish(lay(model, graph, graph.input()))
    return Twin(lower, lambda x: x)
