"""The chapters of the story: each asks the memory, and sets the answer beside the truth.

Three numbers stand beside each other everywhere: the *truth* of the scene maker, what the
*network* saw (its own log, which the memory never reads), and what the *memory* says. Where the
network differs from the truth, the network is wrong; where the memory differs from the network,
the sketch is.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from recollect import NotRemembered, Prior, recall
from recollect._answers import Z90, Answer
from recollect.app.demo import figures
from recollect.app.demo.network import UNIT, pixels_of, score_reading
from recollect.app.demo.report import Chapter, Table
from recollect.app.demo.scenes import RULES
from recollect.app.demo.world import World, fold
from recollect.app.watching import activations_of

__all__ = [
    "garden",
    "grown",
    "hindsight",
    "honest",
    "inside",
    "like",
    "night",
    "opening",
    "size",
    "tree",
    "winter",
]

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
NAMES = ["score", "top", "left", "height", "width"]
DIGITS = [f"digit/{k}" for k in range(10)]


def opening(world: World) -> Chapter:
    """Show what there is to be seen, and how well the network sees it."""
    pick = [int(i) for i in np.linspace(1, len(world.scenes) - 1, 8)]
    scenes = [world.scenes[i] for i in pick]
    titles = [f"{s.time:%d %b %H:%M}, {s.source}" for s in scenes]
    there, found, right, extra = score_reading(world.scenes, world.seen)
    rows = [[f"digit {k}", rule] for k, rule in RULES.items()]
    return Chapter(
        "A year of scenes",
        f"{len(world.scenes):,} scenes, four a day, composed of real handwritten digits that the "
        "network never saw in training. By night they are dark. What stands in them follows rules "
        "that only the scene maker knows:",
        figures=[figures.gallery("opening", scenes, titles)],
        tables=[Table(["what", "rule"], rows)],
        verdict=f"The network was trained on the spot in {world.seconds['training']:.0f} s. It "
        f"finds {found / there:.1%} of {there:,} digits and reads {right / max(found, 1):.1%} of "
        f"them rightly; {extra} times it sees one where none is. The memory knows only what the "
        "network saw.",
        tables_first=True,
    )


def night(world: World) -> Chapter:
    """How often a seven, by hour of day."""
    hours = list(range(24))
    keys = [s.time.hour for s in world.scenes]
    truth = fold(world.truth(7, "glances"), keys, hours)
    network = fold(world.log(7, "glances"), keys, hours)
    exact, sketch = _both(world, "digit/7", "hour_of_day", "glances")
    dark = [h for h in hours if h >= 21 or h < 5]
    share = sum(exact[h] for h in dark) / max(sum(exact), 1)
    return _counted(
        "When was there a 7?", "how often digit/7 by hour of day", "glances with a 7", "night",
        [f"{h}" for h in hours], truth, network, exact, sketch,
        f"{share:.0%} of the glances with a 7 were at night, from 21 to 5.",
    )  # fmt: skip


def winter(world: World) -> Chapter:
    """How many threes, by month, from the monthly sums of sketches alone."""
    months = sorted({s.time.month for s in world.scenes})
    keys = [s.time.month for s in world.scenes]
    truth = fold(world.truth(3), keys, months)
    network = fold(world.log(3), keys, months)
    exact, sketch = _both(world, "digit/3", "month", "objects")
    cold = sum(n for n, m in zip(exact, months, strict=True) if m in (12, 1, 2))
    chapter = _counted(
        "How many 3s in each month?", "how many digit/3 by month", "3s", "winter",
        [MONTHS[m - 1] for m in months], truth, network, exact, sketch,
        f"{cold / max(sum(exact), 1):.0%} of the 3s were seen in winter.",
    )  # fmt: skip
    chapter.text = (
        "The blue estimates are read from one summed sketch a month: sketches add exactly, so a "
        "month of glances is a single vector that still knows how many there were of each."
    )
    return chapter


def _both(world: World, module: str, by: str, unit: str) -> tuple[list[int], dict[str, Any]]:
    """Count exactly and from sketches alone."""
    exact = recall.count(world.memory, module, by=by, unit=unit)
    sketch = recall.count(world.memory, module, by=by, unit=unit, source="sketch")
    return [round(v) for v in exact["estimate"]], sketch.columns


def _counted(
    title: str,
    question: str,
    what: str,
    name: str,
    labels: Sequence[str],
    truth: Sequence[int],
    network: Sequence[int],
    exact: Sequence[int],
    sketch: dict[str, Any],
    finding: str,
) -> Chapter:
    """Set counts beside the network's log and the truth."""
    low, high = sketch["low"], sketch["high"]
    inside = sum(a - 1e-9 <= n <= b + 1e-9 for n, a, b in zip(network, low, high, strict=True))
    off = sum(abs(a - b) for a, b in zip(network, truth, strict=True))
    drift = sum(abs(a - b) for a, b in zip(sketch["estimate"], network, strict=True))
    same = list(exact) == list(network)
    rows = [
        [label, t, n, e, round(float(m), 1), f"{a:.1f} to {b:.1f}"]
        for label, t, n, e, m, a, b in zip(
            labels, truth, network, exact, sketch["estimate"], low, high, strict=True
        )
    ]
    columns = ["", "truth", "network", "memory (exact)", "sketches alone", "90 % interval"]
    agrees = "equals" if same else "DIFFERS FROM"
    return Chapter(
        title,
        command=f'recollect ask year.recollect "{question}"',
        figures=[figures.counts(name, labels, truth, network, sketch, what)],
        verdict=f"{finding} The memory's exact answer {agrees} the network's log in every row. "
        f"From the sketches alone, {inside} of {len(network)} intervals hold the network's number "
        f"(mean difference {drift / len(network):.2f}). The network itself is off the truth by "
        f"{off} of {sum(truth)}.",
        good=same and inside >= 0.7 * len(network),
        tables=[Table(columns, rows, "the numbers", folded=True)],
    )


def garden(world: World) -> Chapter:
    """How many nines in the hall, where none ever stood."""
    places = sorted({s.source for s in world.scenes})
    keys = [s.source for s in world.scenes]
    truth, network = fold(world.truth(9), keys, places), fold(world.log(9), keys, places)
    exact = [
        _number(recall.count(world.memory, "digit/9", where=f"source = '{p}'")) for p in places
    ]
    sketch = [
        next(iter(recall.count(world.memory, "digit/9", where=f"source = '{p}'", source="sketch")))
        for p in places
    ]
    rows = [
        [p, t, n, round(e), round(float(s["estimate"]), 1), f"{s['low']:.1f} to {s['high']:.1f}"]
        for p, t, n, e, s in zip(places, truth, network, exact, sketch, strict=True)
    ]
    hall = dict(zip(places, network, strict=True)).get("hall", 0)
    return Chapter(
        "Were there 9s in the hall?",
        command='recollect ask year.recollect "how many digit/9 in hall"',
        verdict=f"No 9 ever stood in the hall, yet the network read {hall} there. The memory says "
        "faithfully what the network saw; the mistake is the network's, and it can be found "
        "because the memory can be asked.",
        good=[round(e) for e in exact] == network,
        tables=[
            Table(["place", "truth", "network", "memory (exact)", "sketches alone",
                   "90 % interval"], rows)
        ],
    )  # fmt: skip


def _number(answer: Answer) -> float:
    return float(answer["estimate"][0])


def grown(world: World) -> Chapter:
    """How big was the eight, month by month, from its box."""
    months = sorted({s.time.month for s in world.scenes})
    kept: list[int] = []
    truth, network = [], []
    sketch: dict[str, list[float]] = {"estimate": [], "low": [], "high": []}
    for month in months:
        sides = [d.box[2] for s in world.scenes if s.time.month == month
                 for d in s.digits if d.label == 8]  # fmt: skip
        seen = [o.box[2] for s, objects in zip(world.scenes, world.seen, strict=True)
                if s.time.month == month for o in objects if o.label == 8]  # fmt: skip
        if not seen or not sides:
            continue
        since = datetime(2025, month, 1, tzinfo=UTC)
        until = datetime(2025 + month // 12, month % 12 + 1, 1, tzinfo=UTC)
        found = recall.attribute(world.memory, "digit/8", since=since, until=until, names=NAMES)
        row = next(r for r in found if r["number"] == "height")
        kept.append(month)
        truth.append(float(np.mean(sides)))
        network.append(float(np.mean(seen)))
        for key, values in sketch.items():
            values.append(float(row[key]) * UNIT)
    if not kept:
        raise NotRemembered("the network never saw an 8 in so few days")
    labels = [MONTHS[m - 1] for m in kept]
    inside = sum(
        a <= n <= b for n, a, b in zip(network, sketch["low"], sketch["high"], strict=True)
    )
    drift = float(np.mean(np.abs(np.subtract(sketch["estimate"], network))))
    rows = [
        [label, t, n, m, f"{a:.2f} to {b:.2f}"]
        for label, t, n, m, a, b in zip(
            labels, truth, network, sketch["estimate"], sketch["low"], sketch["high"], strict=True
        )
    ]
    return Chapter(
        "How big was the 8?",
        "Nobody planned to measure an 8. But its box is among the 37 numbers of its attribute, "
        "and every sketch holds them all.",
        command='recollect ask year.recollect "how big was digit/8 in June 2025"',
        figures=[figures.grown("grown", labels, truth, network, sketch, "height in pixels")],
        verdict=f"It grew from {sketch['estimate'][0]:.1f} to {sketch['estimate'][-1]:.1f} "
        f"pixels; the truth is {truth[0]:.1f} to {truth[-1]:.1f}. The memory is within "
        f"{drift:.2f} pixels of the network's own boxes; {inside} of {len(network)} intervals "
        "hold them.",
        good=drift < 0.5,
        tables=[Table(["", "truth", "network", "memory", "90 % interval"], rows, "the numbers",
                      folded=True)],
    )  # fmt: skip


def inside(world: World) -> Chapter:
    """Count within single glances, from ever shorter sketches alone."""
    memory = world.memory
    prior = memory.prior()
    held = _held_back(world, 300)
    sketches = memory.sketches([world.ids[i] for i in held])
    truth = np.array([[world.log(k)[i] for k in range(10)] for i in held])
    rows, exact_at = [], {}
    for size in (512, 256, 128):
        names, estimate, std = memory.sketcher.decode(
            sketches.prefix(size), prior=prior
        ).count_estimates()
        columns = [names.index(d) for d in DIGITS if d in names]
        wanted = truth[:, [int(names[c][-1]) for c in columns]]
        middle, reach = estimate[:, columns], Z90 * std[:, columns]
        right = np.rint(middle) == wanted
        covered = float((np.abs(middle - wanted) <= np.maximum(reach, 1e-9)).mean())
        exact_at[size] = float(right.all(1).mean())
        rows.append(
            [f"{size} bytes", f"{exact_at[size]:.1%}", f"{right.mean():.2%}", f"{covered:.1%}"]
        )
    return Chapter(
        "What was in one glance?",
        "How many there were of each of the ten digits, read from one sketch alone: without the "
        f"skeleton, without the picture, on {len(held)} glances that the prior never saw. Any "
        "prefix of a sketch is a coarser sketch.",
        verdict=f"All ten counts are exactly right in {exact_at[512]:.1%} of the glances from "
        f"512 bytes, and in {exact_at[256]:.1%} from the first 256.",
        good=exact_at[512] > 0.95,
        tables=[
            Table(
                ["kept", "all ten counts right", "single counts right", "in 90 % interval"], rows
            )
        ],
        fact=(
            f"{exact_at[512]:.1%}",
            "of held-back glances: all ten counts right, from the sketch alone",
        ),
    )


def _held_back(world: World, number: int) -> list[int]:
    """Return places of glances that are not in the reservoir (hence not in the prior)."""
    kept = set(world.memory.records()[0])
    free = [i for i, g in enumerate(world.ids) if g not in kept] or list(range(len(world.ids)))
    rng = np.random.default_rng(0)
    return sorted(rng.permutation(free)[:number].tolist())


def _busy(world: World) -> int:
    """Return the place of a glance with six digits, rightly seen, that was not kept whole."""
    for i in _held_back(world, len(world.ids)):
        scene, objects = world.scenes[i], world.seen[i]
        if len(objects) == len(scene.digits) == 6 and scene.time.hour in range(9, 18):
            return i
    return _held_back(world, 1)[0]


def like(world: World) -> Chapter:
    """Find glances like one, and say why."""
    i = _busy(world)
    found = recall.similar(world.memory, world.ids[i], k=8)
    place = {g: n for n, g in enumerate(world.ids)}
    shown = [(place[g], s) for g, s in zip(found["glance"], found["estimate"], strict=True)
             if g != world.ids[i]][:7]  # fmt: skip
    scenes = [world.scenes[i], *[world.scenes[n] for n, _ in shown]]
    titles = ["this one", *[f"{s:.2f}, {world.scenes[n].time:%d %b}" for n, s in shown]]
    alike = float(np.mean([_shared(world, i, n) for n, _ in shown]))
    rng = np.random.default_rng(0)
    others = rng.integers(0, len(world.ids), 400)
    usual = float(np.mean([_shared(world, i, int(n)) for n in others if n != i]))
    reasons = recall.why(world.memory, world.ids[i], world.ids[shown[0][0]])
    shares = [(str(next(iter(r.values()))), float(r["estimate"])) for r in reasons]
    shares = [(name, value) for name, value in shares if name != "(total)"]
    return Chapter(
        "Which glances were like it, and why?",
        "Similar glances share digits of similar shape. No picture is kept anywhere: they are "
        "found with one product over the sketches.",
        command=f"recollect similar year.recollect {world.ids[i]}",
        figures=[
            figures.gallery("like", scenes, titles),
            figures.parts(
                "why",
                [n for n, _ in shares],
                [v for _, v in shares],
                "what makes the first of them alike: parts of the similarity",
            ),
        ],
        verdict=f"The seven most similar share {alike:.0%} of their digits with it; any two "
        f"glances share {usual:.0%}.",
        good=alike > usual,
    )


def _shared(world: World, a: int, b: int) -> float:
    """Return the share of digits that two glances have in common, as the network saw them."""
    one = np.bincount([o.label for o in world.seen[a]], minlength=10)
    two = np.bincount([o.label for o in world.seen[b]], minlength=10)
    return float(np.minimum(one, two).sum() / max(np.maximum(one, two).sum(), 1))


def tree(world: World) -> Chapter:
    """Unroll one glance and draw it over its picture."""
    i = _busy(world)
    found = recall.unroll(world.memory, world.ids[i], source="sketch", names=NAMES)
    boxes, errors = [], []
    for row in found:
        if row["module"].startswith("digit/"):
            boxes.append(((np.array(row["estimate"][1:5]) * UNIT).tolist(), row["module"][-1]))
            errors.append((np.array(row["std"][1:5]) * UNIT).tolist())
    truth = sorted((d.box[1] + d.box[3] / 2, d.label) for d in world.scenes[i].digits)
    read = [label for _, label in sorted((b[1] + b[3] / 2, int(k)) for b, k in boxes)]
    off = _box_error(world, i, boxes)
    return Chapter(
        "What did one glance look like?",
        "The sketch of one glance, 512 bytes, unrolled along its skeleton (a few bytes that say "
        "what was made from what): every digit with its place and size, and below it the strokes "
        "that it was made from.",
        command=f"recollect unroll year.recollect {world.ids[i]}",
        figures=[figures.unrolled("tree", world.scenes[i], boxes, errors)],
        verdict=f"Read from left to right: {' '.join(map(str, read))}; the truth is "
        f"{' '.join(str(k) for _, k in truth)}. Boxes are within {off:.2f} pixels of those that "
        "the network saw.",
        good=off < 1.0,
        tables=[Table(["the glance as a tree"], [[line] for line in found.tree().splitlines()],
                      "the tree", folded=True)],
    )  # fmt: skip


def _box_error(world: World, i: int, boxes: Sequence[tuple[Sequence[float], str]]) -> float:
    """Return the mean difference between decoded and seen boxes, in pixels."""
    off = [
        min(float(np.abs(np.subtract(box, o.box)).mean()) for o in world.seen[i]
            if str(o.label) == label)
        for box, label in boxes
    ]  # fmt: skip
    return float(np.mean(off)) if off else 0.0


def _attributes(world: World, held: Sequence[int]) -> dict[str, Any]:
    """Return the attributes that the network had for some glances, by module."""
    found: dict[str, list[Any]] = {}
    for i in held:
        for o in world.seen[i]:
            found.setdefault(f"digit/{o.label}", []).append(o.attribute.numpy())
    return {k: np.stack(v) for k, v in found.items()}


def hindsight(world: World) -> Chapter:
    """Decode the same stored sketches with priors of more and more glances."""
    memory = world.memory
    held = _held_back(world, 120)
    sketches = memory.sketches([world.ids[i] for i in held])
    truth = _attributes(world, held)
    _, records = memory.records()
    assert records is not None, "the demo keeps a reservoir"
    known = [n for n in (16, 64, 256) if n < len(records)] + [len(records)]
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for size in (512, 256, 128):
        scores = []
        for number in known:
            prior = Prior.fit(records[:number])
            decoded = memory.sketcher.decode(sketches.prefix(size), prior=prior)
            scores.append(_explained(truth, decoded))
        lines[f"{size} bytes"] = ([float(n) for n in known], scores)
    rows = [[name, *[f"{v:.3f}" for v in y]] for name, (_, y) in lines.items()]
    small = lines["128 bytes"][1]
    return Chapter(
        "Hindsight",
        "The sketches were stored once. What is usual is learned later, from a few glances kept "
        "whole, and the same old sketches answer better.",
        figures=[
            figures.curves("hindsight", lines, "glances in the prior", "share explained (R²)")
        ],
        verdict=f"From the first 128 bytes, the prior of {known[0]} glances explains "
        f"{max(small[0], 0):.0%} of the attributes, that of {known[-1]} explains {small[-1]:.0%}. "
        f"From all 512 it is {lines['512 bytes'][1][-1]:.1%}.",
        good=small[-1] >= small[0],
        tables=[Table(["R²", *[f"{n} glances" for n in known]], rows)],
    )


def _explained(truth: dict[str, Any], decoded: Any) -> float:
    """Return the share of the variance of all attributes that is explained, median of modules."""
    scores = []
    for module, x in truth.items():
        found = decoded.objects(module).attributes.numpy()
        if len(x) >= 10:
            scores.append(1 - ((x - found) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
    if not scores:
        raise NotRemembered("too few digits were seen to judge the sketches by")
    return float(np.median(scores))


def honest(world: World) -> Chapter:
    """Measure how often 90 % intervals hold the number, where the truth is known."""
    memory = world.memory
    held = _held_back(world, 200)
    sketches = memory.sketches([world.ids[i] for i in held])
    truth = _attributes(world, held)
    if not truth:
        raise NotRemembered("no digit was seen in so few days")
    rows, overall = [], 0.0
    for size in (512, 256):
        decoded = memory.sketcher.decode(sketches.prefix(size), prior=memory.prior())
        hit = number = 0
        for module, x in truth.items():
            o = decoded.objects(module)
            assert o.std is not None, "estimates carry deviations"
            within = np.abs(x - o.attributes.numpy()) <= Z90 * o.std.numpy()
            hit, number = hit + int(within.sum()), number + within.size
        rows.append([f"attributes, {size} bytes", f"{number:,}", f"{hit / number:.1%}"])
        overall = overall or hit / number
    return Chapter(
        "Do the error bars hold?",
        f"Every estimate carries a 90 % interval. On {len(held)} glances that the prior never "
        "saw, the network's own numbers are known, and can be counted in or out.",
        verdict=f"{overall:.1%} of the numbers lie inside their 90 % interval.",
        good=0.85 <= overall <= 0.95,
        tables=[Table(["estimates", "numbers", "inside"], rows)],
        fact=(f"{overall:.1%}", "of true numbers inside their 90 % interval"),
    )


def size(world: World) -> Chapter:
    """Say what a glance takes on disk, and what it would take otherwise."""
    found = world.memory.info()
    each = found["bytes"] / max(found["glances"], 1)
    sketched = found["float16_bytes_per_glance"]
    computed = 2 * activations_of(world.network, pixels_of(world.scenes[:8]))
    parts = found["bytes_by_part"]
    rows = [[name, value, value / found["glances"]] for name, value in parts.items() if value]
    rows.append(["all of it", found["bytes"], each])
    others = [
        ["a sketch", found["recipe"]["dim"] + 2],
        ["its first 256 bytes", 258],
        ["the attributes that it holds, as float16", round(sketched)],
        ["all activations of the network, as float16", round(computed)],
    ]
    return Chapter(
        "What does it take?",
        "A memory of glances holds sketches, their structure, hourly sums, priors, and a few "
        "glances kept whole to learn priors from. Everything on disk is counted.",
        command="recollect info year.recollect",
        verdict=f"{each:,.0f} bytes a glance with everything counted; every activation that the "
        f"network computed would be {computed:,.0f} bytes, {computed / each:,.0f} times as much.",
        tables=[
            Table(["on disk", "bytes", "bytes a glance"], rows),
            Table(["one glance", "bytes"], others),
        ],
        note="The reservoir and the priors do not grow with the years: they are shared by all "
        "glances, and 1,460 are few to share them. The scenes here are small and so is the "
        "network; the larger the network, the more a sketch saves. Where every question is known "
        "beforehand, a table of records is simpler.",
        fact=(f"{found['recipe']['dim'] + 2} B", "a sketch: one for each glance"),
    )
