"""An ensemble of really trained wide networks beside the infinite one, over training time."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from torch import Tensor, nn

from recollect import infinite
from recollect._answers import Answer
from recollect.studies.running import Journal
from recollect.studies.wide_networks import BIAS_STD, WEIGHT_STD, Pictures

__all__ = ["Findings", "agreement", "beside"]

TIMES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


class Findings(Answer):
    """Learning curves, with the agreement of finite and infinite ensembles beside them.

    Attributes:
        together: the second table.
    """

    together: Answer

    @classmethod
    def of(cls, curves: Answer, together: Answer) -> Findings:
        """Put two tables side by side."""
        both = cls(curves.columns, curves.title, [*curves.notes, "", *repr(together).splitlines()])
        both.together = together
        return both

    def to_dict(self) -> dict[str, Any]:
        """Return both tables, ready for JSON."""
        return {**super().to_dict(), "agreement": self.together.to_dict()}


def agreement(
    x: Tensor,
    y: Tensor,
    x_test: Tensor,
    *,
    width: int = 256,
    networks: int = 100,
    times: Sequence[float] = TIMES,
    seed: int = 0,
) -> Answer:
    """Lay an ensemble of trained networks over the infinite one, at several training times.

    Errors are given in units of what ``networks`` draws leave open: ``sqrt(v / n)`` for the mean
    and ``v sqrt(2 / (n - 1))`` for the variance v, root mean square over the test inputs. An
    ensemble that agrees is at about 1; a finite width adds to it.

    Args:
        x: (N, ...) float32.
        y: (N, 1) targets.
        x_test: (M, ...).
        width: of the two hidden layers.
        networks: in the finite ensemble.
        times: of training, in units of the gradient flow.
        seed: of the networks.
    """
    x, x_test = x.flatten(1), x_test.flatten(1)

    def build() -> nn.Module:
        hidden = (nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        return nn.Sequential(*hidden, nn.Linear(width, 1))

    twin = infinite.twin(build(), weight_std=WEIGHT_STD, bias_std=BIAS_STD)
    ntk = twin.kernel(x, get="ntk").ntk
    assert ntk is not None
    bound = infinite.max_learning_rate(ntk, y.numel())
    moments = [t for t in times if t > 0]
    rate = moments[0] / max(1, int(np.ceil(moments[0] / (0.25 * bound)))) if moments else bound
    many = infinite.FiniteEnsemble(
        build, networks, weight_std=WEIGHT_STD, bias_std=BIAS_STD, seed=seed
    )
    history = many.train(x, y, times, learning_rate=rate, x_test=x_test)
    exact = infinite.ensemble(twin, x.double(), y.double()).predict(
        x_test.double(), t=list(times), get=("mean", "variance")
    )
    assert exact.mean is not None
    assert exact.variance is not None
    rows = []
    for i, t in enumerate(times):
        mean, variance = exact.mean[i, :, 0], exact.variance[i].clamp_min(1e-12)
        found_mean, found = history.mean()[i, :, 0], history.variance()[i, :, 0]
        off = (found_mean - mean) / (variance / networks).sqrt()
        spread = (found / variance - 1) / (2 / (networks - 1)) ** 0.5
        rows.append(
            {
                "time": float(t),
                "train loss": float(history.train_loss[i].mean()),
                "mean": _size(mean),
                "mean, networks": _size(found_mean),
                "deviation": _size(variance.sqrt()),
                "deviation, networks": _size(found.sqrt()),
                "mean off by": _size(off),
                "variance off by": _size(spread),
                "variance ratio": float((found / variance).mean()),
            }
        )
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title=f"{networks} networks of width {width} beside the infinite ensemble, on "
        f"{len(x_test)} held-out pictures",
        notes=[
            "mean, deviation: of the prediction, root mean square over the pictures",
            "off by: in Monte-Carlo standard errors of the finite ensemble, root mean square",
        ],
    )


def beside(curves: Answer, seen: Pictures, journal: Journal, y: Tensor) -> Findings:
    """Return learning curves with the agreement of ensembles on the first of the pictures.

    Args:
        curves: the first table.
        seen: the ensembles learn from the first n training pictures and are judged by as many.
        journal: knows the second table already, or is told.
        y: (n, 1) targets.
    """
    x, test = seen.train[: len(y)], seen.test[: len(y)]
    known = blake2b(digest_size=6)
    for tensor in (x, y, test):
        known.update(tensor.cpu().numpy().tobytes())

    def find() -> dict[str, Any]:
        found = agreement(x, y, test)
        return {"columns": found.columns, "title": found.title, "notes": found.notes}

    row = journal.row({"of": "agreement", "key": known.hexdigest()}, find)
    assert row is not None
    return Findings.of(curves, Answer(**row))


def _size(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
