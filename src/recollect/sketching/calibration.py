"""Do a bag's error bars hold? Judged on glances that are held back from the prior.

Shape letters: B rows, d numbers, P modules, G glances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from recollect._seeds import seed_of
from recollect.sketching.known import stretch_factor
from recollect.tracing import Trace

if TYPE_CHECKING:
    from recollect.sketching.bags import Bags

__all__ = ["Stretch", "calibrate"]

# Glances of the prior that are held back to calibrate the counts' error bars.
CALIBRATION_GLANCES = 256
# Fewest objects of which a mean is judged.
FEWEST = 5
# Ways in which these are grouped to sums.
GROUPINGS = 8
# Of an error so many deviations wide the deviation is at fault (next to nothing, by rounding): one
# among 20,000 made all bars of means 27 times too wide.
FURTHEST = 10.0
# Windows may be more unlike the usual than sums of held-back glances are: where these ask for
# narrower bars than the model's, so much wider than they ask, and at most the model's.
UNLIKE = 1.2


class Stretch(NamedTuple):
    """Factors for the deviations of single glances' counts, and of sums' counts and means."""

    single: float = 1.0
    sums: float = 1.0
    means: float = 1.0


def calibrate(bags: Bags) -> Stretch:
    """Return factors for the standard deviations, from held-back glances of the prior.

    The first brings 90 % of single glances' errors inside the interval; the others do so for
    sums of held-back glances, and are not below the root mean square of the errors over
    their deviations: larger sums tend to a normal distribution. Half of the sums are drawn
    at random, half are of glances whose counts are alike: people ask about windows (an hour
    of the day, a season) that are unlike the whole. Where attributes of several modules go
    together in a glance, the model's bars are too wide, and both kinds of sums say so.
    """
    if len(bags.prior.sample) < 64:
        return Stretch()
    fitted, back = bags.prior.hold_out(CALIBRATION_GLANCES)
    judge = bags.fitted_on(fitted)
    sketches = bags.decoder.sketcher.encode(back).prefix(bags.dim)
    values, truth = sketches.values.to(torch.float64), bags.true_counts(back)
    # Of a module that never varied for the judge it expects no error, and knows nothing.
    expected = judge.covariance.diagonal()[len(judge.places) :] > 0
    if not bool(expected.any()):
        return Stretch()
    single = judge.errors(values, sketches.count, truth)
    single_factor = stretch_factor(single[0][:, expected], single[1][:, expected])
    # Modules that are as often in every glance are always right: they would hide the others.
    varies = expected & (judge.true_counts(fitted.sample).std(0) > 0)
    varies = varies if bool(varies.any()) else expected
    small = max(4, len(back) // 12)
    factors: list[float] = []
    means: list[float] = []
    # Errors of the means grow with the glances, noise with their root: large sums see the former.
    for size in (small, max(small, len(back) // 2)):
        for along in (None, truth):
            which = torch.cat([_grouping(len(back), size, t, along) for t in range(GROUPINGS)])
            total, count = which @ values, which.sum(1).to(torch.int64)
            error, std = judge.errors(total, count, which @ truth)
            factors.append(_factor(error[:, varies], std[:, varies]))
            if size == small:
                means.append(_means_factor(judge, back, which, total, count, which @ truth))
    return Stretch(single_factor, _allowed(factors[:2], factors[2:]), max(means))


def _allowed(small: list[float], large: list[float]) -> float:
    """Return the factor for sums, from what small and large sums of held-back glances ask for.

    The few large ones may keep bars from shrinking, but do not widen them.
    """
    asked = max(small)
    return asked if asked >= 1 else min(1.0, UNLIKE * max(asked, *large))


def _means_factor(
    judge: Bags, back: Trace, which: Tensor, total: Tensor, count: Tensor, truth: Tensor
) -> float:
    """Factor for the deviations of mean attributes of the sums ``which`` of ``back``."""
    errors, deviations = [], []
    for name in judge.names:
        if name not in back.modules or all(p.module != name for p in judge.places):
            continue
        objects = back.objects(name)
        own = which[:, objects.glance]
        n = own.sum(1)
        some = n >= FEWEST
        if not bool(some.any()):
            continue
        true = (own @ objects.attributes.to(torch.float64))[some] / n[some, None]
        column = truth[some, judge.place[name]]
        mean, std = judge.means_among(name, total[some], count[some], column)
        errors.append((mean - true).reshape(-1))
        deviations.append(std.reshape(-1))
    if not errors:
        return 1.0
    return _factor(torch.cat(errors), torch.cat(deviations))


def _grouping(rows: int, size: int, turn: int, along: Tensor | None) -> Tensor:
    """(groups, rows) zeros and ones: a pseudo-random split of rows into groups of one size.

    Args:
        rows: how many there are.
        size: of a group.
        turn: number of the split.
        along: (rows, P); rows of a group are then neighbours in a random direction of these.
    """
    generator = np.random.Generator(np.random.PCG64(seed_of("grouping", rows, turn)))
    order = generator.permutation(rows)
    if along is not None:
        direction = torch.from_numpy(generator.normal(size=along.shape[1]))
        order = order[np.argsort((along @ direction).numpy()[order], kind="stable")]
    order = order[: rows // size * size].reshape(-1, size)
    which = torch.zeros(len(order), rows, dtype=torch.float64)
    which.scatter_(1, torch.from_numpy(order), 1.0)
    return which


def _factor(errors: Tensor, std: Tensor) -> float:
    """Return the factor for deviations that all of many near-normal errors ask for."""
    ratio = (errors / std.clamp_min(1e-12)).abs().clamp_max(FURTHEST)
    spread = float(ratio.square().mean().sqrt())
    return max(spread, stretch_factor(errors, std))
