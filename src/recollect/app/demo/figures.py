"""The pictures of the report, each an SVG that stands in the page itself."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect.app.demo.scenes import Scene

__all__ = ["INK", "counts", "curves", "gallery", "grown", "parts", "unrolled"]

INK, TRUTH, NETWORK, SKETCH, WARM = "#1b2333", "#c9d1dd", "#d97706", "#2563eb", "#dc2626"
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": "#475569",
    "ytick.color": "#475569",
}


def _figure(
    name: str, draw: Callable[[Any], None], width: float, height: float, describes: str
) -> str:
    """Draw a figure and return it as an SVG element.

    Raises:
        ImportError: if matplotlib is missing, with the command that installs it.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'the report is drawn with matplotlib: pip install "recollect[demo]"'
        ) from error
    # Names inside an SVG are shared by the whole page: salt them with the figure's own.
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = out.getvalue()[out.getvalue().index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    style = f"max-width:{width * 104:.0f}px"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{describes}" style="{style}" ', 1)


def counts(
    name: str,
    labels: Sequence[str],
    truth: Sequence[float],
    network: Sequence[float],
    sketch: Mapping[str, Sequence[float]],
    what: str,
) -> str:
    """Draw bars of the truth, dots of the network's own log, and estimates with error bars."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        x = np.arange(len(labels))
        axes.bar(x, truth, width=0.82, color=TRUTH, label="the truth of the scene maker")
        middle = np.asarray(sketch["estimate"])
        low, high = middle - np.asarray(sketch["low"]), np.asarray(sketch["high"]) - middle
        reach = np.maximum([low, high], 0)
        axes.errorbar(x + 0.14, middle, yerr=reach, fmt="o", ms=4.5, lw=1.6, color=SKETCH,
                      label="the sketches, 90 % interval")  # fmt: skip
        axes.plot(x - 0.14, network, "D", ms=4, color=NETWORK, label="what the network saw")
        axes.set_xticks(x, labels)
        axes.set_ylabel(what)
        axes.margins(x=0.01)
        axes.set_ylim(0, 1.22 * max(*truth, *network, *sketch["high"], 1))
        axes.legend(loc="upper center", ncols=3, fontsize=9)

    return _figure(name, draw, 9.2, 3.1, f"{what}: truth, network and sketches")


def grown(
    name: str,
    labels: Sequence[str],
    truth: Sequence[float],
    network: Sequence[float],
    sketch: Mapping[str, Sequence[float]],
    what: str,
) -> str:
    """Draw a mean that changes over time as lines, the estimate with its band."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        x = np.arange(len(labels))
        axes.plot(x, truth, "-", lw=6, color=TRUTH, label="the truth of the scene maker")
        axes.plot(x, network, "D", ms=4.5, color=NETWORK, label="what the network saw")
        middle = np.asarray(sketch["estimate"])
        reach = [middle - np.asarray(sketch["low"]), np.asarray(sketch["high"]) - middle]
        axes.errorbar(x + 0.1, middle, yerr=np.maximum(reach, 0), fmt="o", ms=4.5, lw=1.6,
                      color=SKETCH, label="the sketches, 90 % interval")  # fmt: skip
        axes.set_xticks(x, labels)
        axes.set_ylabel(what)
        axes.legend(loc="upper left", fontsize=9)

    return _figure(name, draw, 9.2, 2.9, f"{what} over time")


def curves(
    name: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x_label: str,
    y_label: str,
    log: bool = True,
) -> str:
    """Draw one curve per name over a common axis."""
    colours = [SKETCH, NETWORK, "#0f766e", WARM, "#7c3aed"]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for colour, (label, (x, y)) in zip(colours, lines.items(), strict=False):
            axes.plot(x, y, "o-", ms=5, lw=2, color=colour, label=label)
        if log:
            axes.set_xscale("log", base=2)
        ticks = sorted({v for x, _ in lines.values() for v in x})
        axes.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(axis="y", color="#e2e8f0")
        axes.legend(fontsize=9)

    return _figure(name, draw, 4.6, 3.1, f"{y_label} over {x_label}")


def _show_scene(axes: Any, scene: Scene, title: str = "", boxes: bool = False) -> None:
    """Show a scene, brightened for the reader, with the true boxes if asked."""
    top = max(float(scene.pixels.max()), 0.2)
    axes.imshow(scene.pixels / top, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)
    if title:
        axes.set_title(title, fontsize=8.5, fontweight="normal")
    if boxes:
        for digit in scene.digits:
            _box(axes, digit.box, "#cbd5e1", "")


def _box(axes: Any, box: Sequence[float], colour: str, text: str, dashed: bool = False) -> None:
    """Draw a box with its name above."""
    from matplotlib.patches import Rectangle

    top, left, height, width = box
    style = (0, (3, 2)) if dashed else "-"
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False,
                             ec=colour, lw=1.4, ls=style))  # fmt: skip
    if text:
        axes.text(left + width / 2, top - 1.2, text, color=colour, fontsize=8,
                  ha="center", va="bottom", fontweight="bold")  # fmt: skip


def gallery(name: str, scenes: Sequence[Scene], titles: Sequence[str], columns: int = 4) -> str:
    """Show scenes side by side."""
    rows = -(-len(scenes) // columns)

    def draw(figure: Any) -> None:
        grid = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
        for axes in grid:
            axes.axis("off")
        for axes, scene, title in zip(grid, scenes, titles, strict=False):
            axes.axis("on")
            _show_scene(axes, scene, title)

    return _figure(name, draw, 9.2, 1.75 * rows, "scenes")


def unrolled(
    name: str,
    scene: Scene,
    boxes: Sequence[tuple[Sequence[float], str]],
    errors: Sequence[Sequence[float]],
) -> str:
    """Draw what a sketch holds over the picture that it never kept.

    Args:
        name: of the figure.
        scene: the picture.
        boxes: (top, left, height, width) as decoded, and what was read.
        errors: standard deviations of the same four numbers.
    """

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        _show_scene(left, scene, "the picture (not kept), true boxes", boxes=True)
        blank = Scene(np.full_like(scene.pixels, 0.015), scene.digits, scene.time, scene.source)
        _show_scene(right, blank, "decoded from sketch and skeleton, one deviation dashed")
        for box, label in boxes:
            _box(right, box, "#7dd3fc", label)
        for (box, _), error in zip(boxes, errors, strict=True):
            y, x, h, w = box
            dh, dw = max(error[0], error[2]), max(error[1], error[3])
            _box(right, (y - dh, x - dw, h + 2 * dh, w + 2 * dw), "#38bdf8", "", dashed=True)

    return _figure(name, draw, 9.2, 3.3, "a glance decoded from its sketch")


def parts(name: str, labels: Sequence[str], values: npt.ArrayLike, what: str) -> str:
    """Draw horizontal bars, the largest on top."""
    numbers = np.asarray(values, dtype=float)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        order = np.argsort(np.abs(numbers))[-12:]
        colours = [SKETCH if numbers[i] >= 0 else WARM for i in order]
        axes.barh(np.arange(len(order)), numbers[order], color=colours)
        axes.set_yticks(np.arange(len(order)), [labels[i] for i in order])
        axes.axvline(0, color="#94a3b8", lw=1)
        axes.set_xlabel(what)

    return _figure(name, draw, 6.2, 0.6 + 0.27 * min(len(numbers), 12), what)
