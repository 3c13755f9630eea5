"""Scale-invariant Transformers under clipped SGD, from good and from bad initial scales.

A small model reads plain text. Where hidden symbols are asked for, every method is tuned on a grid
of four settings, and one trains every parameter by clipped SGD. Where the next symbol is asked
for, all weights before the head are multiplied by a number at the start, and nothing is tuned
again: the ordinary network under SGD, AdamW and LAMB, the scale-invariant one under SGD, with a
constant clip, with a clip for each unit (AGC), and with the clip relative to its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from recollect._answers import Answer
from recollect.studies.bars import bars
from recollect.studies.reading import (
    WIDTH,
    Method,
    Text,
    adamw,
    lamb,
    read_text,
    sgd,
    train,
    unigram,
)
from recollect.studies.running import Journal, gathered

__all__ = ["GRIDS", "METHODS", "draw", "study", "tuned"]

CLIPPED = "invariant, relative clip"
RIVALS = ("standard, LAMB", "invariant, SGD, AGC", "invariant, relative clip, head by LAMB")
METHODS = (
    Method("standard, SGD", False, sgd(0.1)),
    Method("standard, AdamW", False, adamw(1e-3)),
    Method("standard, LAMB", False, lamb(5e-3)),
    Method("invariant, SGD", True, sgd(0.3)),
    Method("invariant, SGD, constant clip", True, sgd(0.3, 0.03), 0.1),
    Method("invariant, SGD, AGC", True, sgd(0.3, 0.03), 0.02, by_unit=True),
    Method(CLIPPED, True, sgd(0.3, 0.03, 2.0)),
    Method("invariant, relative clip, head by LAMB", True, sgd(0.3, 0.03, 2.0), head=lamb(0.01)),
    Method("invariant, relative clip, head too", True, sgd(0.3, 0.03, 2.0),
           head=sgd(0.3, 0.003, 2.0)),
)  # fmt: skip

# -- hidden symbols: tuned ------------------------------------------------------------------------

Setting = tuple[float, ...]
TUNED_STEPS, STEPS = 600, 2000
TUNED_WITH = 100  # the seed of the runs that choose


def _standard_adamw(steps: int, lr: float) -> Method:
    return Method("standard, AdamW, every parameter", False, adamw(lr), head=adamw(lr))


def _standard_sgd(steps: int, lr: float) -> Method:
    return Method("standard, SGD, every parameter", False, sgd(lr), head=sgd(lr))


def _bert_sgd(steps: int, lr: float) -> Method:
    name = "standard, norms as in BERT, SGD, every parameter"
    return Method(name, False, sgd(lr), head=sgd(lr), norm_first=False)


def _clipped(steps: int, lr: float, decay: float, head: float) -> Method:
    """Clipped SGD for body and head; ``decay`` is that of 600 steps.

    With more steps it is smaller, so that as many times 1 / (lr decay) fit into the training.
    """
    shorter = TUNED_STEPS / steps
    last = sgd(head, 1e-3 * shorter, 2.0)
    name = "invariant, relative clip, every parameter"
    return Method(name, True, sgd(lr, decay * shorter, 2.0), head=last)


def _mixed(steps: int, lr: float, decay: float, head: float) -> Method:
    """Clipped SGD for the body and Adam for the head, as published (there LAMB)."""
    shorter = TUNED_STEPS / steps
    return Method("invariant, relative clip, head by Adam", True, sgd(lr, decay * shorter, 2.0),
                  head=adamw(head))  # fmt: skip


# Method -> the four settings that it tries.
GRIDS: dict[Callable[..., Method], tuple[Setting, ...]] = {
    _standard_adamw: ((3e-4,), (1e-3,), (3e-3,), (1e-2,)),
    _clipped: ((0.01, 0.3, 0.3), (0.03, 0.1, 0.3), (0.02, 0.6, 0.3), (0.01, 0.3, 1.0)),
    _standard_sgd: ((0.03,), (0.1,), (0.3,), (1.0,)),
    _bert_sgd: ((0.03,), (0.1,), (0.3,), (1.0,)),
    _mixed: ((0.01, 0.3, 3e-3), (0.03, 0.1, 3e-3), (0.02, 0.6, 3e-3), (0.01, 0.3, 1e-2)),
}


def tuned(
    text: Text, journal: Journal, seeds: Sequence[int], lengths: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each number of steps and method, each with the best of its settings.

    Args:
        text: with hidden symbols.
        journal: what is known already.
        seeds: of the runs that are shown.
        lengths: numbers of steps; settings are chosen at 600.
    """

    def run(build: Callable[..., Method], setting: Setting, seed: int, steps: int) -> Any:
        method = build(steps, *setting)
        about = {"text": text.name, "task": "hidden symbols", "method": method.name,
                 "setting": list(setting), "seed": seed, "steps": steps}  # fmt: skip
        return journal.row(about, lambda: train(text, method, 1.0, seed, steps))

    for steps in lengths:
        for build, grid in GRIDS.items():
            tried = {s: run(build, s, TUNED_WITH, TUNED_STEPS)["loss"] for s in grid}
            best = min(grid, key=lambda s: _ranked(tried[s]))
            runs = [run(build, best, seed, steps) for seed in seeds]
            method = build(steps, *best)
            told = "; ".join(f"{_named(s)}: {loss:.3f}" for s, loss in tried.items())
            yield _shown(text, method, 1.0, steps, runs) | {"setting": _named(best), "tried": told}


def _ranked(loss: float) -> float:
    return loss if np.isfinite(loss) else float("inf")


def _named(setting: Setting) -> str:
    return ", ".join(f"{value:g}" for value in setting)


# -- the study ------------------------------------------------------------------------------------


def study(quick: bool = False, data: str | None = None, *, keep: str | None = None) -> Answer:
    """Return validation nats per symbol for each method and initial scale.

    Interrupted (Ctrl-C), it returns the rows that are there.

    Args:
        quick: fewer scales, seeds, steps and position sizes; no hidden symbols.
        data: folder with ``text/tiny_shakespeare.txt`` and ``text/wikitext2_*.txt``; without it,
            the descriptions of scikit-learn's data sets are read.
        keep: folder for the runs so far, from which a study that was broken off goes on.

    Raises:
        ImportError: if scikit-learn is missing and there is no folder.
    """
    has_rivals = find_spec("pytorch_optimizer") is not None
    texts = [read_text(data)] if data is None else [read_text(data), read_text(data, "wikitext2")]
    rows, notes = gathered(_rows(texts, quick, has_rivals, Journal(keep, "clipping")))
    if not has_rivals:
        notes.append(f"left out, for want of pytorch_optimizer: {RIVALS}")
    names = dict.fromkeys(k for row in rows for k in row)
    return Answer(
        {k: [r.get(k, "") for r in rows] for k in names},
        title="reading text: validation nats a symbol",
        notes=[
            "guessing by frequency alone: "
            + ", ".join(f"{unigram(text):.2f} nats ({text.name})" for text in texts),
            "next symbol: no rate is tuned again for a scale; at scale 1 AdamW is the one to beat",
            *([] if quick else [f"hidden symbols: the setting is the best of four after "
                                f"{TUNED_STEPS} steps with a seed of their own"]),
            "state: bytes of optimiser memory per parameter of the whole model; 'head too' and "
            "'every parameter' leave nothing to another optimiser",
            "position: numbers per position, each with a linear map where fewer than the width",
            *notes,
        ],
    )  # fmt: skip


def draw(answer: Answer, path: str) -> None:
    """Draw ``loss`` of each row into a picture, ``.svg`` or ``.png``."""
    bars(answer, path, "loss", ("task", "method", "scale", "position", "steps"))


def _rows(
    texts: list[Text], quick: bool, has_rivals: bool, journal: Journal
) -> Iterator[dict[str, Any]]:
    """Yield the rows: hidden symbols first, as every other row is one of many."""
    scales, seeds, steps = ((1.0, 10.0), 1, 300) if quick else ((0.1, 1.0, 10.0, 30.0), 3, 600)

    def row(text: Text, method: Method, scale: float) -> dict[str, Any]:
        about = {"text": text.name, "task": "next symbol", "method": method.name,
                 "position": method.positions, "scale": scale, "steps": steps}  # fmt: skip
        runs: list[Any] = [
            journal.row({**about, "seed": s}, lambda s=s: train(text, method, scale, s, steps))  # type: ignore[misc]
            for s in range(seeds)
        ]
        return _shown(text, method, scale, steps, runs)

    for text in () if quick else texts:
        yield from tuned(replace(text, masked=True), journal, range(seeds), (TUNED_STEPS, STEPS))
    for text in texts:
        for method in METHODS:
            if has_rivals or method.name not in RIVALS:
                yield from (row(text, method, scale) for scale in scales)
        clipped = next(m for m in METHODS if m.name == CLIPPED)
        for k in (1, 8) if quick else (1, 4, 16, 64):
            yield row(text, replace(clipped, positions=k), 1.0)


def _shown(
    text: Text, method: Method, scale: float, steps: int, runs: list[dict[str, float]]
) -> dict[str, Any]:
    """Return one row of the table: means and deviations over seeds."""
    loss = np.array([run["loss"] for run in runs])
    return {
        "text": text.name,
        "task": "hidden symbols" if text.masked else "next symbol",
        "method": method.name,
        "steps": steps,
        "position": method.positions or WIDTH,
        "scale": scale,
        "loss": float(loss.mean()),
        "deviation": float(loss.std(ddof=1)) if len(loss) > 1 else float("nan"),
        "clipped": float(np.mean([run["clipped"] for run in runs])),
        "state": runs[0]["state"],
    }
