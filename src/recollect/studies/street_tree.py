"""A real change: at one of three street cameras a tree was cut back; a network watched them all.

MobileNetV2 saw 234 pictures of ten days in January 2026; the tree of camera 4713 was cut back in
the night to the 26th. Each camera's days before and since are compared, by sketches and by
the exact activations; at the two other cameras nothing is known to have changed.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from recollect import recall
from recollect.memory import Memory
from recollect.recall.drifting import compare
from recollect.recall.units import Units
from recollect.recall.windows import by_time
from recollect.sketching import Sketcher
from recollect.studies.trained_networks import loaders
from recollect.tracing import trace

__all__ = ["street_rows"]

ZONE = "Asia/Singapore"
CUT = "2026-01-26T00:00+08:00"
CAMERAS = {"4713": "the tree is cut back", "4703": "nothing known", "2702": "nothing known"}
MODULES = ["conv*", "add*"]
BY_HOUR = "recall.drift, sketches, hours of the night"
DIM = 1024


def street_rows(data: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return rows and notes of the study of drift for the street cameras.

    Args:
        data: folder with ``scenes/street_stream.*`` and ``weights``.

    Raises:
        ImportError: outside a checkout, whose ``benchmarks`` load pictures and networks.
    """
    networks, pictures = loaders("networks"), loaders("pictures")
    street = pictures.load("street_stream", data)
    network, preprocess = networks.mobilenet_v2(data)
    exact, cameras, times = [], [], []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "street"
        with Memory(path, sketcher=Sketcher(DIM), timezone=ZONE) as memory:
            for x, records in street.batches(preprocess, 8):
                seen = trace(network, x, modules=MODULES)
                when = [r["time"] for r in records]
                where = [r["camera"] for r in records]
                light = [r["labels"]["light"] for r in records]
                memory.add(seen, time=when, source=where, labels={"light": light})
                parts = [seen.objects(m).attributes.flatten(1) for m in seen.modules]
                exact.append(np.concatenate([p.numpy() for p in parts], 1))
                cameras += where
                times += [int(t.timestamp() * 1e6) for t in when]
            found = np.concatenate(exact).astype(np.float64)
            widths = np.cumsum([p.shape[1] for p in parts])[:-1]
            scale = np.concatenate([_scales(p) for p in np.split(found, widths, axis=1)])
            rows = _rows(memory, found / scale, np.array(cameras), np.array(times))
    notes = [
        f"streets: {len(times)} real pictures, MobileNetV2, one sketch of {DIM} bytes each; days "
        "before 26 January 2026 against days since, whole days dealt out anew; found: p <= 0.05",
        "exact activations: the same test of all channel means, each module of unit deviation; "
        "hours of the night: glances by night alone, whole hours dealt out anew",
    ]
    return rows, notes


def _scales(part: Any) -> Any:
    """Return one scale for all numbers of a module, so that it has unit deviation."""
    deviation = float(np.sqrt(np.square(part - part.mean(0)).sum(1).mean()))
    return np.full(part.shape[1], max(deviation, 1e-12))


def _rows(memory: Memory, exact: Any, cameras: Any, times: Any) -> list[dict[str, Any]]:
    cut = np.datetime64("2026-01-25T16:00", "us").astype(np.int64)
    rows = []
    for camera, change in CAMERAS.items():
        start = time.process_time()
        windows, where = ((None, CUT), (CUT, None)), f"source = '{camera}'"
        told = recall.drift(memory, *windows, where=where, unit="day")
        middle = time.process_time()
        night = f"{where} AND light = 'night'"
        dark = recall.drift(memory, *windows, where=night, unit="hour")
        after = time.process_time()
        own = cameras == camera
        sides = []
        for late in (False, True):
            chosen = own & ((times >= cut) == late)
            days = by_time(times[chosen], "day", ZONE)
            sides.append((days.total(exact[chosen]), np.bincount(days.index).astype(np.float64)))
        first = np.repeat([True, False], [len(n) for _, n in sides])
        units = Units(
            np.concatenate([v for v, _ in sides]), np.concatenate([n for _, n in sides]), first
        )
        p = compare(units, 999, 0)["p_value"]
        end = time.process_time()
        size = exact.shape[1]
        rows += [
            _row(
                camera, change, "recall.drift, sketches", told["p_value"][0], DIM, middle - start
            ),
            _row(camera, change, "exact activations", p, 2 * size, end - after),
            _row(camera, change, BY_HOUR, dark["p_value"][0], DIM, after - middle),
        ]
    return rows


def _row(
    camera: str, change: str, way: str, p: float, size: float, seconds: float
) -> dict[str, Any]:
    nothing = change == "nothing known"
    return {
        "change": f"camera {camera}: {change}",
        "way": way,
        "found": math.nan if nothing else float(p <= 0.05),
        "false alarm": float(p <= 0.05) if nothing else math.nan,
        "p": p,
        "bytes a glance": size,
        "ms": 1000 * seconds,
    }
