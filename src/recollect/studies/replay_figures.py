"""Pictures of the studies of replay and of subset selection."""

from __future__ import annotations

from typing import Any

from recollect._answers import Answer
from recollect.studies.figures import figure

__all__ = ["draw_introspection", "draw_reverse", "draw_river", "draw_selection"]

COLOURS = (
    "#2563eb", "#dc2626", "#0f766e", "#d97706", "#94a3b8", "#475569", "#7c3aed", "#db2777",
    "#65a30d", "#0891b2", "#a16207", "#1b2333",
)  # fmt: skip


def draw_reverse(answer: Answer, path: str) -> None:
    """Draw the error of each method against the length of the stream, by system.

    Args:
        answer: of the study ``reverse-replay``.
        path: where to.
    """
    rows = list(answer)
    systems, methods = _names(rows, "system"), _names(rows, "method")
    with figure(path, width=3.2 * len(systems) + 2.2, height=3.4) as drawn:
        panels = drawn.subplots(1, len(systems), sharey=True, squeeze=False)[0]
        for axes, system in zip(panels, systems, strict=True):
            for method, colour in zip(methods, COLOURS, strict=False):
                mine = [r for r in rows if r["system"] == system and r["method"] == method]
                axes.plot([r["steps"] for r in mine], [r["error"] for r in mine], "o-",
                          color=colour, label=method)  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("steps of the stream")
            axes.set_title(system)
        panels[0].set_ylabel("squared error of A")
        _legend(drawn, panels)


def draw_river(answer: Answer, path: str) -> None:
    """Draw error and bias against the step, methods of four passes, averaged and not.

    Args:
        answer: of the study ``q-rex``.
        path: where to.
    """
    rows = [r for r in answer if "4 passes" in r["method"]]
    last = [m for m in _names(rows, "method") if not m.endswith("averaged")]
    steps = sorted({r["step"] for r in rows})
    with figure(path, width=9.5, height=3.4) as drawn:
        panels = drawn.subplots(1, 2, sharey=True)
        for axes, column in zip(panels, ("error", "bias"), strict=True):
            for name, colour in zip(last, COLOURS, strict=False):
                for method, style in ((name, "o:"), (f"{name}, averaged", "o-")):
                    mine = [r for r in rows if r["method"] == method]
                    axes.plot([r["step"] for r in mine], [r[column] for r in mine], style,
                              color=colour, label=method)  # fmt: skip
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xticks(steps, [f"{v:g}" for v in steps])
            axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
            axes.set_xlabel("step")
            axes.set_title(f"{column} of Q")
        _legend(drawn, panels)


def draw_introspection(answer: Answer, path: str) -> None:
    """Draw what each method earned with its 90 % interval, one panel a task.

    Args:
        answer: of the study ``introspective-replay``.
        path: where to.
    """
    rows = list(answer)
    tasks = _names(rows, "task")
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    with figure(path, width=4.6 * across, height=2.6 * down) as drawn:
        panels = drawn.subplots(down, across, squeeze=False).ravel()
        for axes, task in zip(panels, tasks, strict=False):
            mine = [r for r in rows if r["task"] == task][::-1]
            for place, r in enumerate(mine):
                colour = COLOURS[0] if "introspective" in r["method"] else COLOURS[5]
                axes.plot([r["low"], r["high"]], [place, place], color=colour, lw=2)
                axes.plot(r["estimate"], place, "o", color=colour)
            axes.set_yticks(range(len(mine)), [r["method"] for r in mine])
            axes.set_title(task, loc="right")  # names on the left are long
        for axes in panels[len(tasks) :]:
            axes.set_axis_off()


def draw_selection(answer: Answer, path: str) -> None:
    """Draw accuracy against the number of labels, one panel a pool and family.

    Args:
        answer: of the study ``subset-selection``.
        path: where to.
    """
    rows = list(answer)
    ends = " curve"
    families = [k.removesuffix(ends) for k in answer.columns if k.endswith(ends)]
    said = next(n for n in answer.notes if n.startswith("curve: "))
    sizes = [int(w) for w in said.replace(",", " ").split() if w.isdigit()]
    shown = [
        (pool, family)
        for pool in _names(rows, "pool")
        for family in families
        if any(r["pool"] == pool and r[family + ends] != "-" for r in rows)
    ]
    many = len(shown) > 6  # then three pools of a source, for two families, in one row
    across = min(6 if many else 2, len(shown))
    down = -(-len(shown) // across)
    wide = 3.1 if many else 4.2
    with figure(path, width=wide * across + 2.4, height=2.8 * down) as drawn:
        panels = drawn.subplots(down, across, squeeze=False).ravel()
        for axes, (pool, family) in zip(panels, shown, strict=False):
            mine = [r for r in rows if r["pool"] == pool]
            for r, colour in zip(mine, COLOURS, strict=False):
                found = [float(v) for v in r[family + ends].split(", ")]
                if len(found) == 1:  # all data
                    axes.axhline(found[0], color=colour, lw=0.8, label=r["labels chosen by"])
                else:
                    style = "-" if "IWeS" in r["labels chosen by"] else "--"
                    axes.plot(sizes, found, style, color=colour, label=r["labels chosen by"])
            axes.set_title(f"{pool}:\n{family}" if many else f"{pool}: {family}")
            axes.set_xlabel("labels")
        for axes in panels[len(shown) :]:
            axes.set_axis_off()
        _legend(drawn, panels)


def _names(rows: list[dict[str, Any]], column: str) -> list[str]:
    """Return the different values of a column, in order."""
    return list(dict.fromkeys(r[column] for r in rows))


def _legend(drawn: Any, panels: Any) -> None:
    """Name every line once, outside."""
    named: dict[str, Any] = {}
    for axes in panels:
        for line, name in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(name, line)
    drawn.legend(named.values(), named.keys(), loc="outside right", fontsize=7)
