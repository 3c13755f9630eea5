"""LocoProp: one backward pass becomes a small convex problem for every layer.

After an ordinary forward and backward pass each layer knows its input x, its pre-activation
a = xW + b and the gradient g of the loss with respect to a. It is given a target and takes a few
cheap steps towards it by itself, without the rest of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recollect._checks import check_integer, check_one_of
from recollect.training.layers import Layer, captured, is_layer, refuse_sharing, solvable, trained
from recollect.training.local import buckets, problem_of, solve_squared
from recollect.training.transfers import IDENTITY, Transfer, following, named, transfer_of

__all__ = ["LocoProp"]

Inner = Callable[[list[Tensor]], Optimizer]


def _rmsprop(params: list[Tensor], lr: float) -> Optimizer:
    return torch.optim.RMSprop(params, lr=lr, alpha=0.9, momentum=0.9, eps=1e-5)


class LocoProp(Optimizer):
    r"""Local loss optimisation of linear and convolution layers.

    With activation learning rate gamma and transfer function f = F', K steps per batch minimise

        S:  1/2 ||xW + b - t||^2,             t = a - gamma g
        M:  F(xW + b) - <t, xW + b>,          t = f(a) - gamma g

    summed over the rows of the batch; x, a and g all come from one pass. The learning rate of
    local step k is ``lr * max(1 - k / K, local_floor)``. Parameters outside such layers take one
    ordinary step per batch with an optimiser of the same class. The state is that of the inner
    optimiser and nothing else; ``param_groups``, ``state_dict`` and schedulers work as in any
    optimiser of torch (a scheduler on ``lr`` sets the local learning rate).

    With a loss that is the mean over a batch of B, gamma / B acts on each example.

    Args:
        layers: a model (all its layers; its other trained parameters fall back), an iterable of
            layers, or groups: dicts with ``"layers"`` (or ``"params"`` for the fallback) and
            any of ``gamma``, ``local_steps``, ``local_floor``, ``local_share``, ``prox``,
            ``inner``, ``lr``.
        lr: of the default inner optimiser (RMSProp, decay 0.9, momentum 0.9, eps 1e-5).
        variant: ``"M"`` (matching loss) or ``"S"`` (squared loss).
        gamma: activation learning rate.
        local_steps: K.
        local_floor: least fraction of ``lr`` in local steps.
        local_share: share of the batch that a local step sees. The first step sees all of it (its
            gradient is BackProp's); at less than 1 the later ones walk through parts of it, each
            gradient scaled to the whole batch. At 1 / K they cost one more pass all together.
        prox: weight of ``1/2 ||W - W_old||^2`` in the local problem.
        inner: builds the local optimiser from a list of parameters; once per group.
        activations: layer -> its activation (a module or a name), where it does not stand next in
            an ``nn.Sequential``. Only M needs them.
        loss_activation: transfer function of the loss, for the layer that nothing follows:
            ``"sigmoid"`` (binary cross-entropy), ``"softmax"`` (cross-entropy), ``"identity"``.
        closed_form: solve the squared problem exactly instead of stepping; needs ``prox``, and
            ``lr`` has no meaning then.
        batched: stack layers of one shape; default: on devices other than the CPU.
        sequential: finish all local steps of one layer before the next: gradients of a single
            layer are in memory, and the closure sees no ``grad`` of the layers. Default: in
            groups of a million parameters and more, where it costs no time.
        reset: forget the inner state before every batch.
        record_losses: keep the local losses before and after, for ``local_losses``.

    Raises:
        ValueError: for a number out of range, or M with an activation that is not monotone.
        TypeError: for layers that are neither linear nor convolutions.
        NotImplementedError: for layers that share parameters.

    Reference: LocoProp: Enhancing BackProp via Local Loss Optimization (Amid, Anil, Warmuth, 2022)

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        >>> optimizer = LocoProp(model, lr=1e-3, gamma=10.0, loss_activation="softmax")
        >>> x, y = torch.randn(16, 4), torch.randint(3, (16,))
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = nn.functional.cross_entropy(model(x), y)
        ...     loss.backward()
        ...     return loss
        >>> losses = [optimizer.step(closure).item() for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
    """

    def __init__(
        self,
        layers: nn.Module | Iterable[nn.Module] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        variant: str = "M",
        gamma: float = 10.0,
        local_steps: int = 10,
        local_floor: float = 0.25,
        local_share: float = 1.0,
        prox: float = 0.0,
        inner: Inner | None = None,
        activations: Mapping[nn.Module, nn.Module | str] | None = None,
        loss_activation: str = "identity",
        closed_form: bool = False,
        batched: bool | None = None,
        sequential: bool | None = None,
        reset: bool = False,
        record_losses: bool = False,
    ) -> None:
        self._variant = check_one_of("variant", variant, ("M", "S"))
        if closed_form and variant != "S":
            raise ValueError("closed_form solves the squared loss: expected variant='S', got 'M'")
        named(loss_activation)
        self._closed_form, self._batched, self._reset = closed_form, batched, reset
        self._record, self._sequential = record_losses, sequential
        self._activations = dict(activations or {})
        self._loss_activation = loss_activation
        self._follows: dict[nn.Module, nn.Module | None] = {}
        self._names: dict[nn.Module, str] = {}
        self._layers: list[list[Layer]] = []
        self._inner: list[Optimizer] = []
        self._losses: list[dict[str, Any]] = []
        defaults = {
            "lr": lr,
            "gamma": gamma,
            "local_steps": local_steps,
            "local_floor": local_floor,
            "local_share": local_share,
            "prox": prox,
            "inner": inner,
        }
        super().__init__(self._groups(layers), defaults)  # calls add_param_group
        self.defaults.pop("inner")
        self._share()

    # -- building ------------------------------------------------------------------------------

    def _groups(self, layers: Any) -> list[dict[str, Any]]:
        """Turn what the user gave into groups of layers, then a group of what is left."""
        if isinstance(layers, nn.Module):
            self._read(layers)
            found = [m for m in layers.modules() if is_layer(m) and trained(m)]
            inside = {id(p) for m in found for p in m.parameters()}
            rest = [p for p in layers.parameters() if p.requires_grad and id(p) not in inside]
            if not found:
                raise ValueError("the model has no trained linear or convolution layer")
            return [{"layers": found}, *([{"params": rest}] if rest else [])]
        groups = list(layers)
        if not groups:
            raise ValueError("expected layers, got none")
        if isinstance(groups[0], dict):
            return groups
        return [{"layers": groups}]

    def _read(self, model: nn.Module) -> None:
        """Note names and neighbours of the layers of a model."""
        self._follows |= following(model)
        self._names |= {m: name or type(m).__name__ for name, m in model.named_modules()}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add layers (``{"layers": ...}``) or other parameters (``{"params": ...}``).

        Raises:
            ValueError: for a number out of range.
            TypeError: for layers that are neither linear nor convolutions.
        """
        group = {**self.defaults, **param_group}
        _check_numbers(group)
        if self._closed_form and not group["prox"] > 0:
            raise ValueError("closed_form needs prox > 0 to be well posed, got prox=0")
        given, inner = group.pop("layers", None), group.pop("inner", None)
        layers: list[Layer] = []
        if given is not None:
            if "params" in param_group:
                raise ValueError("a group has either 'layers' or 'params', got both")
            modules = [given] if isinstance(given, nn.Module) else list(given)
            layers = [la for module in modules for la in self._layers_of(module)]
            group["params"] = [p for layer in layers for p in layer.params]
            refuse_sharing(group["params"])
        elif isinstance(group["params"], Tensor):
            group["params"] = [group["params"]]
        group["params"] = list(group["params"])
        if inner is None:
            made = _rmsprop(group["params"], group["lr"])
        else:
            made = inner(group["params"])
            if "lr" not in param_group:
                group.pop("lr")
        if len(made.param_groups) != 1 or "lr" not in made.param_groups[0]:
            raise ValueError("inner must build an optimiser with one group that has an 'lr'")
        # A learning rate named in the group wins over the one inner chose.
        super().add_param_group({**made.param_groups[0], **group})
        self._layers.append(layers)
        self._inner.append(made)
        if hasattr(self, "state"):
            self._share()

    def _layers_of(self, module: nn.Module) -> list[Layer]:
        """Return the layers of a layer or of a container."""
        if module not in self._names:
            self._read(module)
        found = [m for m in module.modules() if is_layer(m)]
        if not found:
            raise TypeError(
                f"expected linear or convolution layers, got {type(module).__name__}; give other "
                "parameters as {'params': ...}"
            )
        for m in found:
            if not trained(m):
                raise ValueError(f"layer {self._names[m]!r} has no parameter that is trained")
            if self._closed_form and not solvable(m):
                raise ValueError(
                    f"closed_form is for nn.Linear and ungrouped, zero-padded nn.Conv2d, got {m}"
                )
        return [Layer(self._names[m], m, self._transfer(m), *self._after(m)) for m in found]

    def _after(self, module: nn.Module) -> tuple[nn.Module | None, bool]:
        """Return the module that applies the transfer function, and whether nothing follows."""
        if self._variant == "S":
            return None, False
        then = self._activations.get(module, self._follows.get(module))
        return then if isinstance(then, nn.Module) else None, then is None

    def _transfer(self, module: nn.Module) -> Transfer:
        """Return the transfer function of the local loss of a layer."""
        if self._variant == "S":
            return IDENTITY
        channel_dim = -1 if isinstance(module, nn.Linear) else 1
        then: nn.Module | str | None
        if module in self._activations:
            then = self._activations[module]
        elif module in self._follows:
            then = self._follows[module]
        else:
            raise ValueError(
                f"the activation after layer {self._names[module]!r} is not known: it does not "
                "stand in an nn.Sequential; name it in activations={layer: nn.Tanh()}, or use "
                "variant='S', which needs none"
            )
        if then is None:
            return named(self._loss_activation, channel_dim)
        if isinstance(then, str):
            return named(then, channel_dim)
        if isinstance(then, nn.Softmax) and then.dim in (1, -1, channel_dim):
            return named("softmax", channel_dim)
        found = transfer_of(then)
        if found is None:
            raise ValueError(
                f"layer {self._names[module]!r} is followed by {type(then).__name__}, which is "
                "not an elementwise monotone activation and has no matching loss; use "
                "variant='S', or leave the layer out"
            )
        return found

    def _share(self) -> None:
        """Let the inner optimisers work on our groups and our state."""
        for inner, group in zip(self._inner, self.param_groups, strict=True):
            inner.param_groups = [group]
            inner.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of an optimiser of the same layers."""
        super().load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """Refuse to be copied: the hooks belong to one model."""
        raise TypeError("a LocoProp belongs to its layers; save its state_dict() instead")

    # -- stepping ------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure once, then the local steps of every layer; return the loss.

        The closure clears gradients, computes the loss, calls ``backward`` and returns the loss.
        Afterwards ``grad`` of the layers holds their last local gradient, or nothing if
        ``sequential``.

        Raises:
            ValueError: if there is no closure, the loss is not finite, or a layer took no part.
            NotImplementedError: if a layer is used twice.
        """
        if closure is None:
            raise ValueError(
                "LocoProp.step needs a closure that clears the gradients, computes the loss, "
                "calls backward() and returns the loss"
            )
        every = [layer for layers in self._layers for layer in layers]
        try:
            with captured(every, self._spared()), torch.enable_grad():
                loss = closure()
            if loss is None or not math.isfinite(torch.as_tensor(loss).item()):
                raise ValueError(f"expected a finite loss from the closure, got {loss}")
            for layer in every:
                if layer.inputs is None or layer.gradient is None:
                    what = "run" if layer.inputs is None else "differentiated"
                    raise ValueError(
                        f"layer {layer.name!r} was not {what} in the closure; leave layers out "
                        "that take no part, and call backward() on a loss that depends on them"
                    )
            self._losses = []
            for group, layers, inner in zip(
                self.param_groups, self._layers, self._inner, strict=True
            ):
                device = group["params"][0].device.type
                with torch.autocast(device, enabled=False):
                    self._update(group, layers, inner)
        finally:
            for layer in every:
                layer.forget()
        return loss

    def _update(self, group: dict[str, Any], layers: list[Layer], inner: Optimizer) -> None:
        """Take the local steps of one group."""
        if not layers:
            inner.step()
            return
        if self._closed_form:
            for layer in layers:
                solve_squared(layer, group["gamma"], group["prox"])
            return
        if self._reset:
            for p in group["params"]:
                self.state.pop(p, None)
        batched = self._batched
        if batched is None:
            batched = group["params"][0].device.type != "cpu"
        alone = self._one_by_one(group)
        for p in group["params"]:
            p.grad = None  # the local gradients take their place
        found = buckets(layers, batched)
        if alone:  # small layers first: theirs is let go of before the largest need room
            found.sort(key=lambda bucket: bucket[0].params[0].numel())
        for together in [[bucket] for bucket in found] if alone else [found]:
            self._walk(group, together, inner)
            if alone:
                for layer in together[0]:
                    for p in layer.params:
                        p.grad = None

    def _one_by_one(self, group: Mapping[str, Any]) -> bool:
        if self._sequential is not None:
            return self._sequential
        return bool(sum(p.numel() for p in group["params"]) >= 1_000_000)

    def _spared(self) -> list[Layer]:
        """Layers whose parameters' BackProp gradient nobody will read."""
        groups = zip(self.param_groups, self._layers, strict=True)
        return [layer for g, layers in groups if self._one_by_one(g) for layer in layers]

    def _walk(self, group: dict[str, Any], together: list[list[Layer]], inner: Optimizer) -> None:
        """Take all local steps of some layers."""
        steps, base = group["local_steps"], group["lr"]
        dials = (group["gamma"], group["prox"], steps, group["local_share"])
        local = [problem_of(bucket, *dials) for bucket in together]
        before = [problem.loss() for problem in local] if self._record else []
        try:
            for k in range(steps):
                group["lr"] = base * max(1 - k / steps, group["local_floor"])
                for problem in local:
                    problem.write_gradients()
                inner.step()
        finally:
            group["lr"] = base
        for problem, old in zip(local, before, strict=False):
            for layer, a, b in zip(problem.layers, old, problem.loss(), strict=True):
                self._losses.append({"layer": layer.name, "before": float(a), "after": float(b)})

    def local_losses(self) -> list[dict[str, Any]]:
        """Return the local loss (up to a constant) of each layer before and after the last step.

        Raises:
            ValueError: without ``record_losses=True``.
        """
        if not self._record:
            raise ValueError("local losses are kept only with record_losses=True")
        return list(self._losses)


def _check_numbers(group: Mapping[str, Any]) -> None:
    """Refuse numbers out of range."""
    if not (math.isfinite(group["gamma"]) and group["gamma"] > 0):
        raise ValueError(f"gamma must be positive, got {group['gamma']}")
    check_integer("local_steps", group["local_steps"], minimum=1)
    for name in ("local_floor", "local_share"):
        if not 0 < group[name] <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {group[name]}")
    if not (math.isfinite(group["prox"]) and group["prox"] >= 0):
        raise ValueError(f"prox must not be negative, got {group['prox']}")
