"""The view of layouts, on a neural module network that judges sentences about drawn scenes.

With ``data`` these are the scenes and sentences of NLVR, parsed by a small grammar (78.5 % of
them; it was written with all sentences in view, the modules never see the held-out half).
Without, scenes drawn in their style with sentences made from 16 patterns.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import torch

from recollect.sketching import Prior, Sketcher
from recollect.studies.views.drawn.drawing import drawn_scenes
from recollect.studies.views.drawn.network import ModuleNetwork, accuracy, majority, pooled, train
from recollect.studies.views.drawn.scenes import Example, nlvr_scenes, pictures_of
from recollect.studies.views.drawn.truth import executed
from recollect.studies.views.row import ViewRow
from recollect.studies.views.scoring import Likeness, counted, overhead_of, raw_vectors, score
from recollect.tracing import Trace, capture, trace

__all__ = ["measure", "seen"]

DIM, WIDE = 256, 1024


def measure(quick: bool, data: Path | None, seed: int) -> ViewRow:
    """Train a network, let a memory watch it, and return the view's row."""
    learn, ask, source = _examples(quick, data, seed)
    epochs = (4, 2) if quick else (8, 3)
    network = train(learn, seed, *epochs)
    known = [e for e in ask if e.layout is not None]
    now = seen(network, known)
    past = seen(network, [e for e in learn if e.layout is not None])
    kinds = np.array([re.sub(r"\[.*?\]", "[]", str(e.layout)) for e in known])
    by_hand = np.mean([executed(e.layout, e.boxes) == e.is_true for e in known if e.layout])
    right, common = accuracy(network, known), majority(known)
    batch = pictures_of(known), [e.layout for e in known]
    watch = partial(capture, network, view="layout", reduce=pooled)
    sketcher = Sketcher(dim=WIDE, seed=seed)
    sketcher.admit(past, measure_scales=True)
    wider = counted(sketcher, Prior.fit(past), now)
    return score(
        "layout", past, now, [Likeness(kinds, raw_vectors(now))], dim=DIM, seed=seed,
        overhead=overhead_of(network, batch, watch),
        notes=f"neural module network, {source}; held-out sentences right {right:.3f}, the "
        f"commoner truth {common:.3f}, layouts run by hand {by_hand:.3f}; label: the layout "
        f"without its words; counts with sketches of {WIDE + 2:,} bytes: error {wider.error:.3f}, "
        f"inside {wider.coverage:.3f}; from skeletons they are exact",
    )  # fmt: skip


def seen(network: ModuleNetwork, examples: list[Example], size: int = 128) -> Trace:
    """Return what the network saw of examples that have a layout, glance by glance."""
    parts = []
    for start in range(0, len(examples), size):
        some = examples[start : start + size]
        batch = (pictures_of(some), [e.layout for e in some])
        parts.append(trace(network, batch, view="layout", reduce=pooled))
    return Trace.concat(parts)


def _examples(
    quick: bool, data: Path | None, seed: int
) -> tuple[list[Example], list[Example], str]:
    """Return what is learned from, what is asked about, and where it comes from."""
    if data is None:
        count = 500 if quick else 1000
        drawn = drawn_scenes(count, seed)
        return drawn[: count // 2], drawn[count // 2 :], "drawn scenes in the style of NLVR"
    read = nlvr_scenes(data)
    learn = [e for e in read if e.group.startswith("dev")]
    ask = [e for e in read if not e.group.startswith("dev")]
    order = torch.randperm(len(ask), generator=torch.Generator().manual_seed(seed)).tolist()
    known = float(np.mean([e.layout is not None for e in ask]))
    return learn, [ask[i] for i in order], f"NLVR ({known:.3f} of the sentences parsed)"
