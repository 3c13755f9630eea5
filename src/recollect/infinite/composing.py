"""Networks without a finite module: layers put together by hand."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from recollect.infinite.graph import Graph, Wire
from recollect.infinite.states import Layer

__all__ = [
    "Add",
    "Branches",
    "Concatenate",
    "Multiply",
    "Net",
    "Repeat",
    "Residual",
    "Serial",
    "lay",
]


@runtime_checkable
class Branches(Protocol):
    """Anything that continues a wire in a graph."""

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Return the wire after it."""
        ...


Net = Layer | Branches


def lay(net: Net, graph: Graph, wire: Wire) -> Wire:
    """Continue a wire by a layer or a composition of layers.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(net, Layer):
        return graph.apply(net, wire)
    if isinstance(net, Branches):
        return net.extend(graph, wire)
    raise TypeError(f"expected a layer or a composition of layers, got {type(net).__name__}")


class Serial:
    """Layers one after another.

    Example:
        >>> from recollect.infinite import Dense, Relu
        >>> net = Serial(Dense(weight_std=1.5), Relu(), Dense())
    """

    def __init__(self, *nets: Net) -> None:
        self.nets = nets

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Continue by each in turn."""
        for net in self.nets:
            wire = lay(net, graph, wire)
        return wire


class Repeat:
    """The same architecture several times, with fresh weights each time."""

    def __init__(self, net: Net, times: int) -> None:
        self.net, self.times = net, times

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Continue by the network so many times."""
        for _ in range(self.times):
            wire = lay(self.net, graph, wire)
        return wire


class Add:
    """Sum of branches that read the same input, each times a coefficient."""

    def __init__(self, *nets: Net, coefficients: tuple[float, ...] | None = None) -> None:
        self.nets, self.coefficients = nets, coefficients

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Continue by all branches and add."""
        return graph.add([lay(n, graph, wire) for n in self.nets], self.coefficients)


class Residual(Add):
    """``x + net(x)``; with a shortcut, ``shortcut(x) + net(x)``."""

    def __init__(self, net: Net, shortcut: Net | None = None) -> None:
        super().__init__(net, Serial() if shortcut is None else shortcut)


class Multiply:
    """Entrywise product of branches."""

    def __init__(self, *nets: Net) -> None:
        self.nets = nets

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Continue by all branches and multiply."""
        return graph.multiply([lay(n, graph, wire) for n in self.nets])


class Concatenate:
    """Branches side by side: along channels (the default), or along a position axis."""

    def __init__(self, *nets: Net, axis: int | None = None) -> None:
        self.nets, self.axis = nets, axis

    def extend(self, graph: Graph, wire: Wire) -> Wire:
        """Continue by all branches and concatenate."""
        return graph.concatenate([lay(n, graph, wire) for n in self.nets], self.axis)
