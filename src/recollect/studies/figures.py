"""How studies draw: one style, and no dates inside, so that only new numbers change a picture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["figure"]

_STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#475569",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "recollect",
    "text.color": "#1b2333",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
}


@contextmanager
def figure(path: str | Path, *, width: float, height: float) -> Iterator[Any]:
    """Give a matplotlib figure to draw on, and write it when that is done.

    Args:
        path: where to, its ending says how: ``.svg`` or ``.png``.
        width: in inches.
        height: in inches.

    Raises:
        ImportError: if matplotlib is missing, with the command that installs it.
        ValueError: if the file's ending is neither.
    """
    ending = Path(path).suffix
    if ending not in (".svg", ".png"):
        raise ValueError(f"a picture is written as .svg or .png, got {str(path)!r}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'studies are drawn with matplotlib: pip install "recollect[demo]"'
        ) from error
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        nothing = {"Date": None} if ending == ".svg" else {"Software": None}
        drawn.savefig(path, dpi=110, metadata=nothing)
