"""Infinitely wide networks beside trained ones, on scikit-learn's digits at random places.

Centred 8 x 8 digits hardly need convolutions. So each stands at a random place of a 12 x 12
frame, as things do in pictures. The architectures were chosen by looking at the first 580 digits
of a shuffle; these are not used here, neither to learn from nor to be judged by.
"""

from __future__ import annotations

import torch

from recollect._answers import Answer
from recollect.studies.pictures import digits
from recollect.studies.running import Journal
from recollect.studies.wide_architectures import architectures
from recollect.studies.wide_ensembles import beside
from recollect.studies.wide_figures import draw_curves
from recollect.studies.wide_networks import Pictures, Setting, curves

__all__ = ["draw", "pictures", "study"]

FRAME, SEEN = 12, 580
WHOLE = Setting((75, 150, 300), 3, rates=(2e-3, 4e-3))
QUICK = Setting((50, 100, 200), 3, steps=100)

draw = draw_curves


def study(quick: bool = False, data: str | None = None, keep: str | None = None) -> Answer:
    """Return learning curves of three architectures, infinitely wide and trained.

    Args:
        quick: fewer pictures and steps.
        data: not used; the digits come with scikit-learn.
        keep: folder that rows and kernels are written to; a run that was broken off goes on there.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    setting = QUICK if quick else WHOLE
    chosen = pictures(setting.sizes[-1] + 30, 200 if quick else 300)
    odd = (chosen.train_label[:24, None] % 2).float() * 2 - 1
    journal = Journal(keep, "infinite-digits")
    found = curves(chosen, setting, architectures(1, FRAME, 10), journal)
    return beside(found, chosen, journal, odd)


def pictures(train: int, test: int, seed: int = 0) -> Pictures:
    """Return digits, each at a random place of a frame of 12 x 12, standardised.

    Args:
        train: how many to learn from.
        test: how many others.
        seed: of choice and places.

    Raises:
        ImportError: if scikit-learn is missing.
    """
    found, target = digits()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(target), generator=generator)[SEEN:][: train + test]
    label = target[rows]
    frames = torch.zeros(len(rows), 1, FRAME, FRAME)
    places = torch.randint(0, FRAME - 8 + 1, (len(rows), 2), generator=generator)
    for frame, digit, (down, right) in zip(frames, found[rows, 0], places.tolist(), strict=True):
        frame[0, down : down + 8, right : right + 8] = digit
    frames = (frames - frames[:train].mean()) / frames[:train].std()
    return Pictures(
        "digits at random places", frames[:train], label[:train], frames[train:], label[train:]
    )
