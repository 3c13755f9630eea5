"""Draw the picture of the README from the memory that the demo leaves behind.

    make demo                                           # or: recollect demo --report demo_report
    python examples/picture.py demo_report docs/picture.png

Top: one scene as it was, and what its sketch of 512 bytes says about it; bottom: a question
asked of the whole year, and how the same stored sketches answer better once more is known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from recollect import Memory, Prior, recall
from recollect.app.demo.network import UNIT
from recollect.app.demo.scenes import HEIGHT, WIDTH, load_digits, make_year

GREY, BLUE, PALE, INK = "#c9d1dd", "#2563eb", "#7dd3fc", "#1b2333"
COLOURS = ("#2563eb", "#0f766e", "#d97706")


def busy_glance(memory, scenes):
    """Return the place of a scene with six digits by day whose record was not kept."""
    kept = set(memory.records()[0])
    ids = memory.glances(columns=["id"])["id"].to_pylist()
    for place, (number, scene) in enumerate(zip(ids, scenes, strict=True)):
        if number not in kept and len(scene.digits) == 6 and 9 <= scene.time.hour < 17:
            return place, number
    return 0, ids[0]


def show(axes, pixels, title):
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])


def frame(axes, box, colour, name="", dashed=False):
    from matplotlib.patches import Rectangle

    top, left, height, width = box
    style = "--" if dashed else "-"
    axes.add_patch(
        Rectangle((left - 0.5, top - 0.5), width, height, fill=False, ec=colour, lw=1.2, ls=style)
    )
    if name:
        axes.text(
            left + width / 2, top - 1.5, name, color=colour, ha="center", fontsize=9,
            fontweight="bold", clip_on=True,
        )  # fmt: skip


def draw_scene(axes, scene):
    show(axes, scene.pixels / scene.pixels.max(), "what the network looked at (not kept)")
    for digit in scene.digits:
        frame(axes, digit.box, GREY)


def draw_sketch(axes, memory, number):
    show(
        axes,
        np.full((HEIGHT, WIDTH), 0.08),
        "what its sketch of 512 bytes tells (dashed: one deviation)",
    )
    for row in recall.unroll(memory, number, source="sketch"):
        if not row["module"].startswith("digit/"):
            continue
        box, std = np.array(row["estimate"][1:5]) * UNIT, np.array(row["std"][1:5]) * UNIT
        frame(axes, box, PALE, row["module"].removeprefix("digit/"))
        wide = max(std)
        frame(axes, np.add(box, (-wide, -wide, 2 * wide, 2 * wide)), PALE, dashed=True)


def draw_months(axes, memory, scenes):
    """Count threes in the sum of a month's sketches, beside what the scene maker knows."""
    truth = [sum(s.count(3) for s in scenes if s.time.month == m) for m in range(1, 13)]
    found = recall.count(memory, "digit/3", by="month", source="sketch")
    middle = np.array(found["estimate"])
    reach = [middle - found["low"], np.array(found["high"]) - middle]
    axes.bar(range(12), truth, color=GREY, width=0.8, label="truth")
    axes.errorbar(range(len(middle)), middle, yerr=np.maximum(reach, 0), fmt="o", ms=4,
                  capsize=3, color=BLUE, label="one summed sketch a month, 90 %")  # fmt: skip
    axes.set_title("how many 3s were there in each month?")
    axes.set_xticks(range(12), list("JFMAMJJASOND"))
    axes.set_ylabel("3s")
    axes.legend(frameon=False, loc="upper center")


def draw_hindsight(axes, memory):
    """Decode the same sketches with ever larger priors; judge them on records left out."""
    ids, records = memory.records()
    known = [n for n in (16, 64, 256) if 2 * n <= len(ids)]
    judged = slice(known[-1], known[-1] + 150)
    truth, sketches = records[judged], memory.sketches(ids[judged])
    for size, colour in zip((512, 256, 128), COLOURS, strict=True):
        scores = []
        for number in known:
            prior = Prior.fit(records[:number])
            scores.append(explained(truth, memory.sketcher.decode(sketches.prefix(size), prior)))
        axes.plot(known, scores, "o-", color=colour, label=f"{size} bytes kept")
    axes.set_xscale("log", base=2)
    axes.set_xticks(known, [str(n) for n in known])
    axes.minorticks_off()
    axes.set_ylim(None, 1)
    axes.set_xlabel("glances in the prior, learned later")
    axes.set_ylabel("share of the attributes explained (R²)")
    axes.set_title("the same stored sketches, with hindsight")
    axes.legend(frameon=False, loc="lower right")


def explained(truth, decoded):
    """Return R² over the objects of each digit, the median of the ten."""
    scores = []
    for k in range(10):
        x = truth.objects(f"digit/{k}").attributes
        rest = (x - decoded.objects(f"digit/{k}").attributes).square().sum()
        scores.append(1 - float(rest / (x - x.mean(0)).square().sum()))
    return float(np.median(scores))


def main(arguments=None):
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", help="folder that recollect demo --report wrote")
    parser.add_argument("picture", help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed that the demo was run with")
    chosen = parser.parse_args(arguments)

    import matplotlib as mpl
    from matplotlib.figure import Figure

    with Memory(Path(chosen.report) / "year.recollect", read_only=True) as memory:
        days = len(memory) // 4
        scenes = make_year(load_digits()[1], days, chosen.seed)
        place, number = busy_glance(memory, scenes)
        style = {"axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 10,
                 "axes.titlelocation": "left", "text.color": INK, "font.size": 9}  # fmt: skip
        with mpl.rc_context(style):
            figure = Figure(figsize=(9.6, 6.2), layout="constrained")
            axes = figure.subplots(2, 2)
            draw_scene(axes[0, 0], scenes[place])
            draw_sketch(axes[0, 1], memory, number)
            draw_months(axes[1, 0], memory, scenes)
            draw_hindsight(axes[1, 1], memory)
            figure.savefig(chosen.picture, dpi=110, metadata={"Software": None})
    print(f"{chosen.picture}: {Path(chosen.picture).stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
