"""Is unknown structure found fast, completely, and never invented?

int8 sketches of ten objects of 16 numbers among up to 10,000 modules, flat or each second one an
input of another: how long a search takes when the operators are warm (processor time of one
core); how much memory the process took at most; how often all objects are found as the sketch
gets shorter; and how many objects that are not there are reported in random trials at all loads,
empty and overloaded ones among them.

    python -m benchmarks.structure_search [--trials 1000] [--seed 1] [--skip-search]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from benchmarks.tables import show
from recollect import Object, Sketcher, Trace
from recollect.sketching.structure import Discovered, find_structure


def glances(
    rng: np.random.Generator,
    count: int,
    modules: int,
    present: int,
    size: int,
    nested: bool = False,
) -> list[list[Object]]:
    """Glances of different modules, attributes on the unit sphere; nested: in pairs."""
    x = rng.standard_normal((count, present, size))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    chosen = [rng.choice(modules, present, replace=False).tolist() for _ in range(count)]
    made = [[Object(f"m{i}", x[g, j]) for j, i in enumerate(row)] for g, row in enumerate(chosen)]
    return [paired(objects) for objects in made] if nested else made


def paired(objects: list[Object]) -> list[Object]:
    """Make every second object an input of the one before it."""
    below: list[list[Object]] = [[o] for o in objects[1::2]] + [[]]
    return [
        Object(o.module, o.attribute, inputs=inputs)
        for o, inputs in zip(objects[::2], below, strict=False)
    ]


def paths(objects: list[Object]) -> set[str]:
    """Paths of the objects of a glance and of their inputs."""
    return {o.module for o in objects} | {
        f"{o.module}/{i.module}" for o in objects for i in o.inputs
    }


def sketcher_of(dim: int, modules: int, size: int) -> Sketcher:
    sketcher = Sketcher(dim=dim)
    for i in range(modules):
        sketcher.modules.add(f"m{i}", size)
    return sketcher


def judge(truth: list[list[Object]], found: Discovered) -> tuple[int, int]:
    """Glances whose objects are all found and no other; objects invented."""
    exact = invented = 0
    for objects, places in zip(truth, found.places, strict=True):
        true, read = paths(objects), {str(p) for p in places}
        exact += true == read
        invented += len(read - true)
    return exact, invented


def search(count: int = 10) -> None:
    rows = []
    for modules, dim, prefix, depth, nested in (
        (10_000, 1024, 1024, 1, False), (10_000, 1024, 1024, 2, False),
        (10_000, 1024, 1024, 2, True), (10_000, 512, 480, 1, False),
        (10_000, 512, 480, 2, True), (400, 512, 480, 1, False), (400, 512, 384, 1, False),
        (400, 512, 320, 1, False),
    ):  # fmt: skip
        sketcher = sketcher_of(dim, modules, 16)
        truth = glances(np.random.default_rng(0), count, modules, 10, 16, nested)
        sketches = sketcher.encode(Trace.from_objects(truth)).prefix(prefix)
        find_structure(sketcher, sketches[:1], max_depth=depth)
        times, exact, invented, refused = [], 0, 0, 0
        for g in range(count):
            start = time.process_time()
            found = find_structure(sketcher, sketches[g], max_depth=depth)
            times.append(time.process_time() - start)
            right, more = judge([truth[g]], found)
            exact, invented = exact + right, invented + more
            refused += int(found.refused[0])
        top = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rows.append(
            (f"{modules}, {'in pairs' if nested else 'flat'}, to depth {depth}", prefix,
             f"{prefix / 160:.1f}", f"{exact} of {count}", invented, refused,
             float(np.median(times)), f"{top:.2f}")
        )  # fmt: skip
    show(
        "Ten objects of 16 numbers (160 unknowns), int8, operators warm",
        (
            "candidates",
            "dim",
            "x unknowns",
            "exact",
            "invented",
            "refused",
            "seconds",
            "GB",
        ),
        rows,
    )


def invent(trials: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sketcher, rows = sketcher_of(128, 200, 6), []
    for nested in (False, True):
        for present in (0, 1, 3, 7, 10, 13, 20, 60):
            count = max(trials // 16, 1)
            truth = glances(rng, count, 200, present, 6, nested)
            found = find_structure(sketcher, sketcher.encode(Trace.from_objects(truth)))
            kind = f"{present}, {'in pairs' if nested else 'flat'}"
            rows.append((kind, count, *judge(truth, found), int(found.refused.sum())))
    rows.append(("all", *(sum(r[i] for r in rows) for i in (1, 2, 3, 4))))
    show(
        "Random glances of 6 numbers an object, 200 modules, dim 128, int8",
        ("objects present", "trials", "exact", "invented", "refused"),
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip-search", action="store_true")
    chosen = parser.parse_args()
    if not chosen.skip_search:
        search()
    invent(chosen.trials, chosen.seed)


if __name__ == "__main__":
    main()
