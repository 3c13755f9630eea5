"""Part of a memory's graph: exported to networkx, GraphML and JSON, drawn as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recollect._answers import Answer

__all__ = ["Related"]

_COLOURS = {"glance": "#2563eb", "module": "#64748b", "part": "#d97706", "concept": "#16a34a"}
# Nodes beyond which a picture shows nothing.
_DRAWN = 250


class Related(Answer):
    """Part of the graph: an Answer with one row per edge.

    Attributes:
        times: glance node -> time.
    """

    times: dict[str, str]

    def to_networkx(self) -> Any:
        """Return a ``networkx.DiGraph``; nodes have ``kind`` (and ``time``), edges ``relation``.

        Raises:
            ImportError: if networkx is missing.
        """
        import networkx

        made = networkx.DiGraph()
        for row in self:
            for node in (row["node"], row["to"]):
                if node not in made:
                    made.add_node(node, kind=node.split(" ", 1)[0])
                    if node in self.times:
                        made.nodes[node]["time"] = self.times[node]
            made.add_edge(
                row["node"], row["to"], relation=row["relation"], estimate=row["estimate"],
                low=row["low"], high=row["high"], through=row["through"],
            )  # fmt: skip
        return made

    def write(self, path: str | Path) -> int:
        """Write the graph as GraphML or as JSON (networkx' node-link form); return its edges.

        Raises:
            ValueError: if the file's ending is neither ``.graphml`` nor ``.json``.
        """
        import networkx

        target = Path(path)
        if target.suffix not in (".graphml", ".json"):
            raise ValueError(f"a graph is written as .graphml or .json, got {str(path)!r}")
        made = self.to_networkx()
        if target.suffix == ".graphml":
            networkx.write_graphml(made, str(target))
        else:
            data = networkx.node_link_data(made, edges="edges")
            target.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        return int(made.number_of_edges())

    def draw(self, path: str | Path) -> None:
        """Draw the graph as SVG or PNG.

        Raises:
            ImportError: if matplotlib is missing.
            ValueError: on another ending, an empty graph, or more than 250 nodes.
        """
        target = Path(path)
        if target.suffix not in (".svg", ".png"):
            raise ValueError(f"a picture is written as .svg or .png, got {str(path)!r}")
        made = self.to_networkx()
        if not 0 < len(made) <= _DRAWN:
            raise ValueError(
                f"a picture of {len(made):,} nodes shows nothing; ask around one node, or of a "
                f"window with at most {_DRAWN} (write() takes any number)"
            )
        _draw(made, target)


def _draw(made: Any, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'graphs are drawn with matplotlib: pip install "recollect[demo]"'
        ) from error
    import networkx

    around = networkx.kamada_kawai_layout if len(made) <= 80 else networkx.spring_layout
    options: dict[str, Any] = {} if len(made) <= 80 else {"seed": 0}
    place = around(made.to_undirected(), weight=None, **options)
    figure = Figure(figsize=(10, 7.5), layout="constrained")
    axes = figure.subplots()
    styles = {"similar-to": "-", "part-of": "--", "kind-of": ":"}
    for relation, style in styles.items():
        some = [(a, b) for a, b, r in made.edges(data="relation") if r == relation]
        networkx.draw_networkx_edges(
            made, place, edgelist=some, ax=axes, style=style, edge_color="#94a3b8", width=1.1,
            arrows=False,
        )  # fmt: skip
        axes.plot([], [], style, color="#94a3b8", label=relation)
    for kind, colour in _COLOURS.items():
        some = [n for n, k in made.nodes(data="kind") if k == kind]
        if some:
            networkx.draw_networkx_nodes(
                made, place, nodelist=some, ax=axes, node_color=colour, node_size=90, label=kind
            )
    labels = {n: n.split(" ", 1)[1] for n in made} if len(made) <= 80 else {}
    above = {n: (x, y + 0.035) for n, (x, y) in place.items()}
    networkx.draw_networkx_labels(made, above, labels, font_size=7, ax=axes)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    axes.set_axis_off()
    figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
