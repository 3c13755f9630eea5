"""Gates: which modules of a group fire on which input, learned from where they fired.

A group are the modules on top, or those under one parent. Each has a linear score of the input,
``a = W u + c``. How scores decide is read from how many fire together, and where that leaves more
than one rule, from glances that were held out:

* ``"each"``: a module fires where its score is positive;
* ``"at least one"``: likewise, and where none is, the highest of ``a + shift`` fires;
* ``"exactly k"``: the k highest fire;
* ``"always"``: all fire in every glance.

Weights have the greatest likelihood, with a small ridge: a logistic one for each module; the
likelihood of the pattern ``{i}`` of the second rule adds both ways in which it comes about; for
the third every module that fires is compared with every one that does not (as in RankNet).

Reference: "Learning to rank using gradient descent" (Burges et al., 2005) for the pairs.

Shape letters: S glances, n numbers of an input, G modules of a group.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

__all__ = ["Gates", "fit_gates"]

RIDGE = 1e-4
STEPS = 60
# Share of glances that must obey a rule: one that is kept strictly, and that of a fixed number.
OBEYED, MOSTLY = 0.995, 0.8


@dataclass(frozen=True, eq=False)
class Gates:
    """Fitted gates of one group.

    Attributes:
        rule: ``"each"``, ``"at least one"``, ``"exactly"`` or ``"always"``.
        number: k of the third rule, otherwise 0.
        weights: (n + 1, G) float64, the constant last.
        shift: (G,) of the second rule.
        accuracy: (G,) share of held-out glances decided rightly; nan if none was held out.
        usual: (G,) share that "always" or "never", whichever is better, decides rightly.
    """

    rule: str
    number: int
    weights: Tensor
    shift: Tensor
    accuracy: Tensor
    usual: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return which modules fire, (S, G) bool, from (S, n) inputs."""
        score = _scores(inputs, self.weights)
        fires = score > 0
        if self.rule == "always":
            return torch.ones_like(fires)
        if self.rule == "exactly":
            return _highest(score, self.number)
        if self.rule == "at least one":
            return fires | (_highest(score + self.shift, 1) & ~fires.any(1, keepdim=True))
        return fires


def fit_gates(inputs: Tensor, fires: Tensor, held_out: Tensor) -> Gates:
    """Fit the gates of one group.

    Args:
        inputs: (S, n) of the glances in which the group's parent fires.
        fires: (S, G) bool.
        held_out: (S,) bool, glances that judge; the gates that are returned learn from all.

    Raises:
        ValueError: if there is no glance.
    """
    if not len(inputs):
        raise ValueError("gates need glances in which their parent fires, got none")
    u = inputs.to(torch.float64)
    share = fires.to(torch.float64).mean(0)
    usual = torch.maximum(share, 1 - share)
    judged = torch.full((fires.shape[1],), float("nan"), dtype=torch.float64)
    rules = _rules(fires)
    rule = rules[0]
    if bool(held_out.any()) and not bool(held_out.all()):
        right = []
        for kind, number in rules:
            trial = _fitted(u[~held_out], fires[~held_out], kind, number)
            right.append((trial(u[held_out]) == fires[held_out]).to(torch.float64).mean(0))
        best = max(range(len(rules)), key=lambda k: float(right[k].mean()))
        rule, judged = rules[best], right[best]
    final = _fitted(u, fires, *rule)
    return replace(final, accuracy=judged, usual=usual)


def _rules(fires: Tensor) -> list[tuple[str, int]]:
    """Return the rules that how many modules fire together allows, the strictest first.

    Some glances may break a rule: attributes of which a few are not found make modules silent.
    """
    many = fires.sum(1)
    number = int(many.mode().values)
    same = float((many == number).to(torch.float64).mean())
    if number == fires.shape[1] and same > OBEYED:
        return [("always", 0)]
    rules = [("exactly", number)] if 0 < number < fires.shape[1] and same > MOSTLY else []
    if fires.shape[1] > 1 and float((many > 0).to(torch.float64).mean()) > OBEYED:
        rules.append(("at least one", 0))
    return [*rules, ("each", 0)]


def _fitted(u: Tensor, fires: Tensor, rule: str, number: int) -> Gates:
    """Return the gates of greatest likelihood."""
    n, groups = u.shape[1], fires.shape[1]
    weights = torch.zeros(n + 1, groups, dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(groups, dtype=torch.float64, requires_grad=True)
    none = torch.full((groups,), float("nan"), dtype=torch.float64)
    if rule != "always":
        search = torch.optim.LBFGS([weights, shift], max_iter=STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            search.zero_grad()
            lost = _loss(_scores(u, weights), shift, fires, rule)
            lost = lost + RIDGE * (weights.square().sum() + shift.square().sum())
            lost.backward()  # type: ignore[no-untyped-call]
            return lost

        search.step(closure)  # type: ignore[no-untyped-call]
    return Gates(rule, number, weights.detach(), shift.detach(), none, none)


def _loss(score: Tensor, shift: Tensor, fires: Tensor, rule: str) -> Tensor:
    """Return the mean negative logarithm of the likelihood."""
    if rule == "exactly":
        beats = softplus(score[:, None, :] - score[:, :, None])  # (S, G on, G off)
        compared = fires[:, :, None] & ~fires[:, None, :]
        return (beats * compared).sum() / compared.sum().clamp_min(1)
    signs = torch.where(fires, 1.0, -1.0).to(score.dtype)
    told = logsigmoid(signs * score).sum(1)
    if rule == "at least one":
        none = logsigmoid(-score).sum(1)
        spare = torch.log_softmax(score + shift, 1)
        only = fires.sum(1) == 1
        first = fires.to(torch.int64).argmax(1)
        other = none + spare.gather(1, first[:, None])[:, 0]
        told = torch.where(only, torch.logaddexp(told, other), told)
    return -told.mean()


def _scores(u: Tensor, weights: Tensor) -> Tensor:
    """Return (S, G) scores."""
    found: Tensor = u.to(torch.float64) @ weights[:-1] + weights[-1]
    return found


def _highest(score: Tensor, number: int) -> Tensor:
    """Return which scores are among the ``number`` highest, (S, G) bool."""
    return torch.zeros_like(score, dtype=torch.bool).scatter(
        1, score.topk(number, dim=1).indices, True
    )
