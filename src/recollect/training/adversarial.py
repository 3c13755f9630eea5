"""Adversarial examples, and fine-tuning of a trained network on them.

Ordinary training finds many features; adversarial fine-tuning then chooses among their
combinations one that small changes of the input do not undo.

Shape letters: B examples of a batch, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.training.modes import evaluating

__all__ = ["Attack", "adversarial_examples", "adversarial_finetune", "last_linear", "robust_loss"]

Batches = Iterable[tuple[Tensor, Tensor]]
Network = Callable[[Tensor], Tensor]


def adversarial_examples(
    network: Network,
    x: Tensor,
    eps: float,
    norm: str = "l2",
    steps: int = 5,
    loss: Callable[[Tensor], Tensor] | None = None,
    *,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return inputs near ``x`` with a high loss, by projected gradient ascent.

    From a random start, ``steps`` times with step size 2.5 eps / steps,

        delta <- P( delta + step g / ||g||_2 )   (l2)     or     P( delta + step sign(g) )   (linf)

    with g the gradient of the loss at x + delta and P the projection on the ball of radius eps and
    on the bounds. Gradients of parameters are neither used nor touched.

    Args:
        network: inputs -> outputs (B, K); put it into eval mode first.
        x: inputs (B, ...), within the bounds.
        eps: radius, in the units of x.
        norm: ``"l2"`` over all numbers of an example, or ``"linf"``.
        steps: of gradient ascent.
        loss: outputs -> loss of each example (B,), or their sum. By default the cross-entropy with
            the class that the network predicts for x.
        bounds: least and largest value of an input, or None.
        generator: of the random start.

    Raises:
        ValueError: for numbers out of range, inputs outside the bounds, or a gradient that is not
            finite.

    Reference: Towards Deep Learning Models Resistant to Adversarial Attacks (Madry, Makelov,
    Schmidt, Tsipras, Vladu, 2018)

    Example:
        >>> x = torch.full((2, 3), 0.5)
        >>> worse = adversarial_examples(lambda x: x, x, eps=0.1, loss=lambda o: o[:, 0])
        >>> (worse - x).norm(dim=1)
        tensor([0.1000, 0.1000])
    """
    check_one_of("norm", norm, ("l2", "linf"))
    check_integer("steps", steps, minimum=1)
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"eps must be positive, got {eps}")
    if bounds is not None and not bool(((x >= bounds[0]) & (x <= bounds[1])).all()):
        raise ValueError(
            f"inputs must lie in {bounds}, got {float(x.min()):.4g} to {float(x.max()):.4g}; "
            "scale them, or name their own bounds (None for none)"
        )
    if loss is None:
        with torch.no_grad():
            predicted = network(x).argmax(1)

        def loss(outputs: Tensor) -> Tensor:
            return F.cross_entropy(outputs, predicted, reduction="none")

    x = x.detach()
    shift = torch.randn(x.shape, generator=generator).to(x)
    delta = _within(x, eps * shift / _size(shift, norm), eps, norm, bounds)
    step = 2.5 * eps / steps
    for _ in range(steps):
        with torch.enable_grad():
            delta.requires_grad_(True)
            (g,) = torch.autograd.grad(loss(network(x + delta)).sum(), delta)
        if not bool(g.isfinite().all()):
            raise ValueError(
                "the gradient of an adversarial example is not finite; the network has diverged, "
                "lower its learning rate or eps"
            )
        upward = g / _size(g, norm) if norm == "l2" else g.sign()
        delta = _within(x, delta.detach() + step * upward, eps, norm, bounds)
    return x + delta


def _size(t: Tensor, norm: str) -> Tensor:
    """Norm of each example, shaped to divide it."""
    order = 2.0 if norm == "l2" else math.inf
    flat: Tensor = torch.linalg.vector_norm(t.flatten(1), order, dim=1).clamp_min(1e-12)
    return flat.reshape(-1, *[1] * (t.ndim - 1))


def _within(
    x: Tensor, delta: Tensor, eps: float, norm: str, bounds: tuple[float, float] | None
) -> Tensor:
    """Project on the ball, then on the bounds (which only brings x + delta nearer to x)."""
    if norm == "l2":
        delta = delta * (eps / _size(delta, norm)).clamp_max(1.0)
    else:
        delta = delta.clamp(-eps, eps)
    return delta if bounds is None else (x + delta).clamp(*bounds) - x


@dataclass(frozen=True)
class Attack:
    """How adversarial examples are made, and what the network should say to them.

    The published recipe names neither; each choice is a reading of it.

    Attributes:
        eps: radius, in the units of the inputs.
        norm: ``"l2"`` or ``"linf"``.
        steps: of gradient ascent.
        target: what is attacked: ``"label"`` (cross-entropy) or ``"clean"`` (divergence from the
            prediction for the clean input).
        reference: what the adversarial input should be called: ``"label"``; ``"clean"`` (what the
            network says to the clean input, which learns too); or ``"start"`` (what it said
            before fine-tuning, which keeps its soft labels useful to a student).
        beta: weight of the adversarial term.
        bounds: least and largest value of an input, or None.

    Raises:
        ValueError: for a number out of range or an unknown option.

    >>> Attack(eps=0.5).reference
    'label'
    """

    eps: float
    norm: str = "l2"
    steps: int = 5
    target: str = "label"
    reference: str = "label"
    beta: float = 1.0
    bounds: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_one_of("norm", self.norm, ("l2", "linf"))
        check_one_of("target", self.target, ("label", "clean"))
        check_one_of("reference", self.reference, ("label", "clean", "start"))
        check_integer("steps", self.steps, minimum=1)
        for name in ("eps", "beta"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive, got {value}")

    def on(
        self, network: Network, x: Tensor, y: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return adversarial examples for inputs x and labels y (B,)."""
        loss: Callable[[Tensor], Tensor]
        if self.target == "label":

            def loss(outputs: Tensor) -> Tensor:
                return F.cross_entropy(outputs, y, reduction="none")

        else:
            with torch.no_grad():
                clean = network(x).log_softmax(1)

            def loss(outputs: Tensor) -> Tensor:
                return divergence(clean, outputs)

        return adversarial_examples(
            network,
            x,
            self.eps,
            self.norm,
            self.steps,
            loss,
            bounds=self.bounds,
            generator=generator,
        )

    def reading(self) -> str:
        """Return the options that differ from the defaults, in words.

        >>> Attack(eps=0.5, reference="start").reading()
        'reference start'
        """
        odd = [f for f in fields(self) if f.name in ("target", "reference", "norm")]
        return ", ".join(
            f"{f.name} {getattr(self, f.name)}" for f in odd if getattr(self, f.name) != f.default
        )


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) of each example (B,), both given as logits (B, K).

    >>> divergence(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.])
    """
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def robust_loss(
    network: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return CE(network(x), y) + beta D(network(x_adv), reference), a scalar.

    Args:
        network: inputs -> logits (B, K).
        attack: makes x_adv and names the reference.
        x: inputs.
        y: labels (B,).
        start: logits (B, K) of the network before fine-tuning; needed by reference ``"start"``.
        generator: of the random start of the attack.

    Raises:
        ValueError: if ``start`` is needed and missing.

    >>> robust_loss(nn.Linear(2, 2), Attack(0.1), torch.rand(4, 2), torch.arange(4) % 2).ndim
    0
    """
    worse = attack.on(network, x, y, generator)
    clean, found = network(x), network(worse)
    if attack.reference == "label":
        gap = F.cross_entropy(found, y)
    elif attack.reference == "clean":
        gap = divergence(clean, found).mean()
    elif start is None:
        raise ValueError("reference 'start' needs the logits that the network gave at the start")
    else:
        gap = divergence(start, found).mean()
    return F.cross_entropy(clean, y) + attack.beta * gap


def adversarial_finetune(
    network: nn.Module,
    loader: Batches,
    attack: Attack,
    scope: str = "full",
    *,
    head: nn.Module | None = None,
    epochs: int = 1,
    lr: float = 5e-4,
    seed: int = 0,
) -> list[float]:
    """Fine-tune a trained network on adversarial examples, in place; return the losses.

    The network is in eval mode meanwhile, so that adversarial examples leave no trace in running
    statistics, and comes back in the mode it had.

    Args:
        network: inputs -> logits.
        loader: batches (inputs, labels), walked once per epoch.
        attack: see ``Attack``.
        scope: ``"full"``; ``"head"`` (features stay: only their combination is chosen anew); or
            ``"backbone"`` (the head stays, as after ``train_frr_linear``).
        head: the part that ``scope`` speaks of; by default the last linear layer.
        epochs: passes over the loader.
        lr: of Adam.
        seed: of the attack's random starts.

    Raises:
        ValueError: for an unknown scope, a network without a linear layer, or an empty loader.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> loader = [(torch.rand(16, 2), torch.arange(16) % 2)]
        >>> len(adversarial_finetune(network, loader, Attack(0.1), epochs=3))
        3
    """
    check_integer("epochs", epochs, minimum=1)
    trained = trained_parameters(network, scope, head)
    optimizer = torch.optim.Adam(trained, lr=lr)
    draws = torch.Generator().manual_seed(seed_of(seed, "attack"))
    first = copy.deepcopy(network).eval() if attack.reference == "start" else None
    losses = []
    device = trained[0].device
    with evaluating(network):
        for _ in range(epochs):
            for x, y in loader:
                x, y = x.to(device), y.to(device)
                with torch.no_grad():
                    start = None if first is None else first(x)
                loss = robust_loss(network, attack, x, y, start, draws)
                grads = torch.autograd.grad(loss, trained)
                for p, g in zip(trained, grads, strict=True):
                    p.grad = g
                optimizer.step()
                losses.append(float(loss.detach()))
    if not losses:
        raise ValueError("the loader gave no batch; give a list or a DataLoader")
    return losses


def trained_parameters(
    network: nn.Module, scope: str, head: nn.Module | None = None
) -> list[nn.Parameter]:
    """Return the parameters that a scope names.

    >>> network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [p.numel() for p in trained_parameters(network, "head")]
    [6, 2]
    """
    check_one_of("scope", scope, ("full", "head", "backbone"))
    every = [p for p in network.parameters() if p.requires_grad]
    if scope == "full":
        return every
    inside = {id(p) for p in (last_linear(network) if head is None else head).parameters()}
    if scope == "head":
        return [p for p in network.parameters() if id(p) in inside]
    return [p for p in every if id(p) not in inside]


def last_linear(network: nn.Module) -> nn.Linear:
    """Return the linear layer that was registered last.

    Raises:
        ValueError: if there is none.

    >>> last_linear(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 5))).out_features
    5
    """
    found = [m for m in network.modules() if isinstance(m, nn.Linear)]
    if not found:
        raise ValueError("the network has no linear layer; name its head with head=")
    return found[-1]
