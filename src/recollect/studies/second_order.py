"""Second-order rivals of LocoProp, from libraries that are installed only for comparison.

Shampoo and SOAP come from pytorch_optimizer; K-FAC is an optimiser around the inverse that
curvlinops builds. Where a library is missing its rows are left out, and the study says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from recollect.studies.autoencoders import Build

__all__ = ["KFAC", "behind_second_order", "installed", "rivals", "shampoo", "soap"]


def installed() -> dict[str, bool]:
    """Return which of the two libraries are there.

    >>> sorted(installed())
    ['curvlinops', 'pytorch_optimizer']
    """
    return {name: find_spec(name) is not None for name in ("curvlinops", "pytorch_optimizer")}


def rivals(refresh: int = 5) -> dict[str, Build]:
    """Return name -> optimiser of a model, for the libraries that are there.

    Rates are the best of small grids on the digits autoencoder (30 epochs, one seed).

    Args:
        refresh: steps between two curvatures of K-FAC and Shampoo; named where it is not 5.

    >>> all(callable(build) for build in rivals().values())
    True
    """
    found: dict[str, Build] = {}
    there = installed()
    said = "" if refresh == 5 else f", refreshed every {refresh} steps"
    if there["pytorch_optimizer"]:
        found[f"Shampoo{said}"] = shampoo(3e-2, refresh)
        found["SOAP"] = soap(3e-2)
    if there["curvlinops"]:
        found[f"K-FAC{said}"] = lambda model: KFAC(model, 0.1, 3e-2, refresh=refresh)
    return found


def behind_second_order(rows: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> list[str]:
    """Say how far some methods and RMSProp are behind the better of K-FAC and Shampoo.

    Args:
        rows: with ``method``, ``train`` and ``seconds``, of equally many batches.
        methods: those of LocoProp.

    Returns:
        One note, or what is missing; nothing where the rows are not all there yet.
    """
    missing = [name for name, is_there in installed().items() if not is_there]
    if missing:
        return [f"second-order rivals left out, for want of {' and '.join(missing)}"]
    same = {row["method"]: row for row in rows}
    if not {"K-FAC", "Shampoo", "RMSProp"} <= set(same):
        return []
    better = min((same[name] for name in ("K-FAC", "Shampoo")), key=lambda row: row["train"])
    said = [
        f"{name} {same[name]['train'] - better['train']:+.2f} nats, in "
        f"{same[name]['seconds'] / better['seconds']:.2f} of its time"
        for name in ("RMSProp", *(m for m in methods if m in same))
    ]
    return [f"behind {better['method']}, the better of K-FAC and Shampoo: {'; '.join(said)}"]


def shampoo(lr: float, refresh: int = 5) -> Build:
    """Return what builds Shampoo; its library is asked for only then."""

    def build(model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import ScalableShampoo

        made: torch.optim.Optimizer = ScalableShampoo(
            model.parameters(),
            lr,
            start_preconditioning_step=5,
            preconditioning_compute_steps=refresh,
        )
        return made

    return build


def soap(lr: float) -> Build:
    """Return what builds SOAP; its library is asked for only then."""

    def build(model: nn.Module) -> torch.optim.Optimizer:
        from pytorch_optimizer import SOAP

        made: torch.optim.Optimizer = SOAP(model.parameters(), lr, weight_decay=0.0)
        return made

    return build


class KFAC(torch.optim.Optimizer):
    r"""Kronecker-factored natural gradient for an autoencoder of binary pixels.

    The curvature is that of the last batch, refreshed every few steps; with d the preconditioned
    gradient, the momentum steps along d min(1, sqrt(kl / (lr^2 <d, g>))).

    Args:
        model: called once per closure on its batch, which is its own target.
        lr: learning rate.
        damping: added to the factors.
        momentum: of the steps.
        refresh: steps between two curvatures.
        kl: bound of the change of the output distribution in one step, nats a picture.

    Reference: Optimizing Neural Networks with Kronecker-factored Approximate Curvature (Martens,
    Grosse, 2015)
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        damping: float,
        momentum: float = 0.9,
        refresh: int = 5,
        kl: float = 0.3,
    ) -> None:
        super().__init__(model.parameters(), {"lr": lr})
        self.model, self.damping, self.momentum = model, damping, momentum
        self.refresh, self.kl = refresh, kl
        self.inverse: Any = None
        self.count = 0
        self.batch: Tensor | None = None
        self.pixels = 1
        model.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.batch = inputs[0].detach()
        self.pixels = self.batch.shape[1]

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; the closure runs model and backward.

        Raises:
            ValueError: without a closure.
        """
        if closure is None:
            raise ValueError("KFAC.step needs a closure that runs the model on its batch")
        loss = closure()
        params = self.param_groups[0]["params"]
        lr = float(self.param_groups[0]["lr"])
        grads = [p.grad for p in params]
        if self.count % self.refresh == 0:
            self.inverse = self._curvature(params)
        self.count += 1
        # The curvature is that of the mean over pixels. Factors are built on first use.
        direction = [d.detach() for d in self.inverse @ [g / self.pixels for g in grads]]
        with torch.no_grad():
            slope = sum(float((d * g).sum()) for d, g in zip(direction, grads, strict=True))
            factor = min(1.0, (self.kl / max(lr**2 * slope, 1e-30)) ** 0.5)
            for p, d in zip(params, direction, strict=True):
                kept = self.state[p].setdefault("momentum", torch.zeros_like(p))
                kept.mul_(self.momentum).add_(d, alpha=factor)
                p.sub_(kept, alpha=lr)
        return loss

    def _curvature(self, params: list[Tensor]) -> Any:
        """Inverse of the damped Kronecker factors on the batch at hand."""
        from curvlinops import KFACInverseLinearOperator, KFACLinearOperator

        assert self.batch is not None
        batch = self.batch
        factors = KFACLinearOperator(
            self.model,
            nn.BCEWithLogitsLoss(reduction="mean"),
            params,
            [(batch, batch)],
            check_deterministic=False,
            separate_weight_and_bias=False,
        )
        return KFACInverseLinearOperator(factors, damping=self.damping, use_heuristic_damping=True)
