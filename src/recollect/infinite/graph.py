"""A network as a graph of layers: what is random, what is shared, what must be computed.

Values between layers are *wires*: one node each, or several side by side after a concatenation
of channels. Nonlinearities act on each part alone and flattening waits until channels are mixed,
so that ``relu(cat(a, b))`` and ``relu(flatten(x))`` are exact.

A node knows its *roots*, the random layers it is a function of, and its *atoms*, the nodes whose
weighted sum it is. Branches that meet must have different roots; a branch that meets itself is
counted with its multiplicity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from recollect.infinite.affine import Conv
from recollect.infinite.joining import Join, Mixture, PositionConcat, Product, Sum
from recollect.infinite.mixing import Dropout, LayerNorm
from recollect.infinite.pooling import Flatten, Identity, Scale
from recollect.infinite.quadrature import Expansion
from recollect.infinite.rectifiers import ABRelu, Activation
from recollect.infinite.states import Layer

__all__ = ["Graph", "Node", "Part", "Wire"]


@dataclass(frozen=True)
class Node:
    """One layer at one place of the graph.

    Args:
        layer: None for the input.
        inputs: indices of the nodes it reads.
        places: sizes of the position axes after it.
        gaussian: whether every channel is a Gaussian process.
        centred: whether the mean over channels is zero.
        roots: indices of the random layers (and the input, 0) it is a function of.
        atoms: (node, coefficient) pairs it is the sum of.
        name: shown in messages.
    """

    layer: Layer | Join | None
    inputs: tuple[int, ...]
    places: tuple[int, ...]
    gaussian: bool
    centred: bool
    roots: frozenset[int]
    atoms: tuple[tuple[int, float], ...]
    name: str


@dataclass(frozen=True)
class Part:
    """Channels that come from one node; ``flat``: positions count as channels."""

    node: int
    width: int = 1
    flat: bool = False


@dataclass(frozen=True)
class Wire:
    """A value in the network: parts side by side along the channels."""

    parts: tuple[Part, ...]

    @property
    def width(self) -> int:
        """Number of channels, as far as it is known."""
        return sum(p.width for p in self.parts)


@dataclass
class Graph:
    """The network under construction; :meth:`finish` names the output.

    Args:
        places: sizes of the position axes of the input.
        width: number of input channels.
    """

    places: tuple[int, ...]
    width: int = 1
    nodes: list[Node] = field(default_factory=list)
    output: int = 0

    def __post_init__(self) -> None:
        self._known: dict[Any, int] = {}
        root = Node(None, (), self.places, False, False, frozenset([0]), ((0, 1.0),), "input")
        self.nodes.append(root)

    def input(self) -> Wire:
        """Return the wire of the input."""
        return Wire((Part(0, self.width),))

    def finish(self, wire: Wire) -> Graph:
        """Make a wire the output."""
        self.output = self.collapse(wire, "output").node
        return self

    @property
    def flattens_input(self) -> bool:
        """Whether positions of the input only ever become channels."""
        readers = [node.layer for node in self.nodes if 0 in node.inputs]
        return bool(self.places) and bool(readers) and all(isinstance(v, Flatten) for v in readers)

    def flattened(self) -> Graph:
        """Return the graph for inputs that are flattened already: one product instead of many."""
        graph = Graph((), self.width * _product(self.places))
        graph.nodes = [*graph.nodes, *self.nodes[1:]]
        graph.output = self.output
        return graph

    def places_of(self, wire: Wire) -> tuple[int, ...]:
        """Return the position axes of a wire, () after flattening."""
        part = wire.parts[0]
        return () if part.flat else self.nodes[part.node].places

    def _append(self, node: Node, key: Any = None) -> int:
        """Add a node, unless the same map of the same input is there already."""
        if key is not None and key in self._known:
            return self._known[key]
        self.nodes.append(node)
        if key is not None:
            self._known[key] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def collapse(self, wire: Wire, name: str) -> Part:
        """Make one node of a wire: flatten what is flat, average the parts."""
        solid = []
        for part in wire.parts:
            if part.flat:
                node = self.nodes[part.node]
                index = self._derive(Flatten(), part.node, name, gaussian=False)
                solid.append(Part(index, part.width * _product(node.places)))
            else:
                solid.append(part)
        if len(solid) == 1:
            return solid[0]
        widths = tuple(p.width for p in solid)
        nodes = [self.nodes[p.node] for p in solid]
        join = Mixture(widths)
        new = Node(
            join,
            tuple(p.node for p in solid),
            _places(join, nodes, name),
            False,
            all(n.centred for n in nodes),
            frozenset().union(*[n.roots for n in nodes]),
            (),
            name,
        )
        return Part(self._atom(new), sum(widths))

    def _atom(self, node: Node, key: Any = None) -> int:
        """Add a node that is its own atom."""
        if key is not None and key in self._known:
            return self._known[key]
        index = len(self.nodes)
        return self._append(replace(node, atoms=((index, 1.0),)), key)

    def _derive(self, layer: Layer, source: int, name: str, **changes: Any) -> int:
        """Add a layer without randomness of its own."""
        node = self.nodes[source]
        try:
            places = layer.places(node.places)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        new = replace(node, layer=layer, inputs=(source,), places=places, name=name, **changes)
        return self._atom(new, (layer, source))

    def apply(self, layer: Layer, wire: Wire, name: str = "") -> Wire:
        """Put a layer after a wire.

        Raises:
            ValueError: if the layer needs Gaussian inputs and has none, or does not fit.
        """
        name = name or type(layer).__name__
        if isinstance(layer, Identity):
            return wire
        if isinstance(layer, Flatten):
            return Wire(
                tuple(replace(p, flat=bool(self.nodes[p.node].places)) for p in wire.parts)
            )
        if isinstance(layer, Scale):
            return self.add([wire], [layer.factor], name)
        if layer.style == "affine":
            return self._affine(layer, wire, name)
        if layer.style == "joint":
            return self._joint(layer, wire, name)
        return Wire(tuple(self._single(layer, p, name) for p in wire.parts))

    def _affine(self, layer: Layer, wire: Wire, name: str) -> Wire:
        part = self.collapse(wire, name)
        source = self.nodes[part.node]
        try:
            places = layer.places(source.places)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        index = len(self.nodes)
        mixes = not (isinstance(layer, Conv) and layer.depthwise)
        self.nodes.append(
            Node(
                layer,
                (part.node,),
                places,
                mixes,
                True,
                frozenset([index]),
                ((index, 1.0),),
                name,
            )
        )
        return Wire((Part(index, getattr(layer, "width", part.width)),))

    def _single(self, layer: Layer, part: Part, name: str) -> Part:
        """Apply a layer that treats every channel alike to one part."""
        node = self.nodes[part.node]
        if part.flat and layer.style == "positional":
            raise ValueError(f"{name}: there are no positions left after flattening")
        changes: dict[str, Any] = {}
        if isinstance(layer, Activation):
            inner = node.layer
            if isinstance(inner, Activation) and self.nodes[node.inputs[0]].gaussian:
                layer = after(layer, inner)
                return self._single(layer, replace(part, node=node.inputs[0]), name)
            if not node.gaussian:
                raise ValueError(
                    f"{name} ({type(layer).__name__}) is applied to {node.name!r}, which is not "
                    "Gaussian in the limit; put a dense or convolutional layer between them "
                    "(on raw inputs: apply the function to the data)"
                )
            changes = {"gaussian": False, "centred": False}
        elif isinstance(layer, Dropout):
            changes = {"gaussian": False}
        return replace(part, node=self._derive(layer, part.node, name, **changes))

    def _joint(self, layer: Layer, wire: Wire, name: str) -> Wire:
        """Apply a normalisation to all channels together."""
        if any(p.flat for p in wire.parts):
            if len(wire.parts) > 1:
                raise ValueError(f"{name}: flatten after normalising, or normalise each branch")
            if isinstance(layer, LayerNorm):
                layer = replace(layer, axes=None)
            part = wire.parts[0]
        else:
            part = self.collapse(wire, name)
        node = self.nodes[part.node]
        centred = node.centred
        if isinstance(layer, LayerNorm) and layer.axes == () and layer.centre:
            centred = True
        index = self._derive(layer, part.node, name, centred=centred)
        return Wire((Part(index, part.width, part.flat),))

    def add(
        self, wires: Sequence[Wire], coefficients: Sequence[float] | None = None, name: str = "sum"
    ) -> Wire:
        """Add branches, each times a coefficient.

        Raises:
            ValueError: if branches depend on each other through a nonlinearity.
        """
        weights = [1.0] * len(wires) if coefficients is None else list(coefficients)
        columns = self._align(wires, name)
        return Wire(tuple(self._add_parts(list(c), weights, name) for c in columns))

    def _add_parts(self, parts: list[Part], weights: list[float], name: str) -> Part:
        total: dict[int, float] = {}
        for part, weight in zip(parts, weights, strict=True):
            for atom, c in self.nodes[part.node].atoms:
                total[atom] = total.get(atom, 0.0) + weight * c
        total = {a: c for a, c in total.items() if c != 0}
        if not total:
            raise ValueError(f"{name}: the branches cancel, nothing is left")
        if len(total) == 1 and next(iter(total.values())) == 1:
            return replace(parts[0], node=next(iter(total)))
        nodes = [self.nodes[a] for a in total]
        if not _independent(nodes):
            index = self._composite(
                parts,
                name,
                lambda values: sum(
                    (w * v for w, v in zip(weights[1:], values[1:], strict=True)),
                    weights[0] * values[0],
                ),
            )
            return replace(parts[0], node=index)
        join = Sum(tuple(total.values()))
        new = Node(
            join,
            tuple(total),
            _places(join, nodes, name),
            all(n.gaussian for n in nodes),
            all(n.centred for n in nodes),
            frozenset().union(*[n.roots for n in nodes]),
            tuple(total.items()),
            name,
        )
        return replace(parts[0], node=self._append(new, (join, tuple(total))))

    def multiply(self, wires: Sequence[Wire], name: str = "product") -> Wire:
        """Multiply branches entry by entry.

        Raises:
            ValueError: if branches depend on each other and are not functions of one Gaussian.
        """
        columns = self._align(wires, name)
        return Wire(tuple(self._multiply_parts(list(c), name) for c in columns))

    def _multiply_parts(self, parts: list[Part], name: str) -> Part:
        nodes = [self.nodes[p.node] for p in parts]
        if not _independent(nodes) or len({p.node for p in parts}) < len(parts):
            return replace(parts[0], node=self._composite(parts, name, _product))
        join = Product()
        new = Node(
            join,
            tuple(p.node for p in parts),
            _places(join, nodes, name),
            False,
            any(n.centred for n in nodes),
            frozenset().union(*[n.roots for n in nodes]),
            (),
            name,
        )
        return replace(parts[0], node=self._atom(new))

    def concatenate(
        self, wires: Sequence[Wire], axis: int | None = None, name: str = "cat"
    ) -> Wire:
        """Put branches side by side: along channels (axis None), or along a position axis."""
        if axis is None:
            flats = {p.flat for w in wires for p in w.parts}
            places = {self.nodes[p.node].places for w in wires for p in w.parts}
            if len(places) > 1 and flats != {True}:
                raise ValueError(f"{name}: branches meet with different positions: {places}")
            return Wire(tuple(p for w in wires for p in w.parts))
        parts = [self.collapse(w, name) for w in wires]
        nodes = [self.nodes[p.node] for p in parts]
        if not _independent(nodes) or len({p.node for p in parts}) < len(parts):
            raise ValueError(_shared(name, nodes))
        join = PositionConcat(axis)
        new = Node(
            join,
            tuple(p.node for p in parts),
            _places(join, nodes, name),
            all(n.gaussian for n in nodes),
            all(n.centred for n in nodes),
            frozenset().union(*[n.roots for n in nodes]),
            (),
            name,
        )
        return Wire((Part(self._atom(new), parts[0].width),))

    def _align(self, wires: Sequence[Wire], name: str) -> list[tuple[Part, ...]]:
        """Cut wires at common borders of their parts."""
        if len({p.flat for w in wires for p in w.parts}) > 1:
            wires = [Wire((self.collapse(w, name),)) for w in wires]
        if all(len(w.parts) == 1 for w in wires):
            return [tuple(w.parts[0] for w in wires)]
        totals = {w.width for w in wires}
        if len(totals) > 1:
            raise ValueError(
                f"{name}: branches of {sorted(totals)} channels meet; after a concatenation the "
                "widths must be known and agree (layers take width=...)"
            )
        borders = sorted({b for w in wires for b in _borders(w)})
        columns = []
        for low, high in zip([0, *borders], borders, strict=False):
            column = []
            for w in wires:
                for part, end in zip(w.parts, _borders(w), strict=True):
                    if low < end:
                        column.append(replace(part, width=high - low))
                        break
            columns.append(tuple(column))
        return columns

    def _composite(
        self, parts: list[Part], name: str, combine: Callable[[list[Tensor]], Tensor]
    ) -> int:
        """Join branches that are functions of one Gaussian node: one nonlinearity."""
        bases, functions = set(), []
        for part in parts:
            node = self.nodes[part.node]
            if isinstance(node.layer, Activation):
                bases.add(node.inputs[0])
                functions.append(node.layer.apply)
            else:
                bases.add(part.node)
                functions.append(_itself)
        nodes = [self.nodes[p.node] for p in parts]
        if len(bases) > 1 or not self.nodes[next(iter(bases))].gaussian:
            raise ValueError(_shared(name, nodes))

        def together(x: Tensor) -> Tensor:
            return combine([f(x) for f in functions])

        layer = Expansion(together, name=name)
        return self._derive(layer, next(iter(bases)), name, gaussian=False, centred=False)


def after(outer: Activation, inner: Activation) -> Activation:
    """Return one nonlinearity for two in a row.

    >>> after(ABRelu(0.0, 1.0), ABRelu(-0.5, 2.0))
    ABRelu(a=-0.5, b=2.0)
    """
    if isinstance(outer, ABRelu) and isinstance(inner, ABRelu):
        a = inner.a * (outer.a if inner.a >= 0 else outer.b)
        b = inner.b * (outer.b if inner.b >= 0 else outer.a)
        return ABRelu(a, b)
    return Expansion(lambda x: outer.apply(inner.apply(x)), name="composition")


def _itself(x: Tensor) -> Tensor:
    return x


def _product(values: Sequence[Any]) -> Any:
    out = 1
    for v in values:
        out = out * v
    return out


def _borders(wire: Wire) -> list[int]:
    ends, total = [], 0
    for part in wire.parts:
        total += part.width
        ends.append(total)
    return ends


def _places(join: Join, nodes: Sequence[Node], name: str) -> tuple[int, ...]:
    try:
        return join.places([n.places for n in nodes])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _independent(nodes: Sequence[Node]) -> bool:
    seen: set[int] = set()
    for node in nodes:
        if seen & node.roots:
            return False
        seen |= node.roots
    return True


def _shared(name: str, nodes: Sequence[Node]) -> str:
    names = ", ".join(repr(n.name) for n in nodes)
    return (
        f"{name}: the branches {names} depend on the same random layer, so their sum, product or "
        "concatenation has no closed form here; put a dense or convolutional layer into one of "
        "them, or estimate the kernel by sampling"
    )


def spread_diagonal(t: Tensor, rank: int) -> Tensor:
    """Put a (*S, ...) tensor on the diagonal of (*S, *S, ...), zeros elsewhere."""
    if rank == 0:
        return t
    places = t.shape[:rank]
    count = places.numel()
    flat = t.reshape(count, *t.shape[rank:])
    out = t.new_zeros(count, count, *t.shape[rank:])
    index = torch.arange(count, device=t.device)
    out[index, index] = flat
    return out.reshape(*places, *places, *t.shape[rank:])
