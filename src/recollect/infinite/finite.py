"""Finite networks: their empirical kernels, linear and Taylor models, and sampled limits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, jvp, vjp, vmap

from recollect._checks import check_integer, check_one_of
from recollect.infinite.costs import cheaper_way
from recollect.infinite.states import Kernel
from recollect.infinite.structured import structured_kernel

__all__ = [
    "empirical_kernel",
    "linearize",
    "ntk_vector_product",
    "reparameterize",
    "sample_kernel",
    "taylor_expand",
]

Parameters = Mapping[str, Tensor]
METHODS = ("auto", "jacobian", "product", "structured")


def _parameters(model: nn.Module, parameters: Parameters | None) -> dict[str, Tensor]:
    """Return given parameters, or the module's own, detached."""
    chosen = dict(model.named_parameters()) if parameters is None else dict(parameters)
    return {k: v.detach() for k, v in chosen.items()}


def _outputs(model: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    """Run the module on a batch; outputs are flattened to (n, O)."""
    out: Tensor = functional_call(model, dict(parameters), (x,))
    return out.reshape(len(x), -1)


def _one(model: nn.Module, x: Tensor) -> Callable[[Parameters], Tensor]:
    def run(parameters: Parameters) -> Tensor:
        return _outputs(model, parameters, x[None])[0]

    return run


def _jacobian(model: nn.Module, parameters: Parameters, x: Tensor) -> Tensor:
    """Return the Jacobian of every example, (n, O, P)."""

    def single(row: Tensor) -> Any:
        return jacrev(_one(model, row))(parameters)

    parts = vmap(single)(x)
    return torch.cat([p.flatten(2) for p in parts.values()], 2)


def _pull(f: Callable[[Parameters], Tensor], p: Parameters, v: Tensor) -> Any:
    """Return the vector-Jacobian product, shaped like the parameters."""
    back: Any = vjp(f, p)[1]
    return back(v)[0]


def _push(model: nn.Module, p: Parameters, x: Tensor, direction: Any) -> Tensor:
    """Return the Jacobian-vector product of a batch."""
    return forward_derivative(lambda q: _outputs(model, q, x), p, direction)


def forward_derivative(f: Callable[[Parameters], Tensor], p: Parameters, direction: Any) -> Tensor:
    """Return the forward derivative of f at p."""
    with warnings.catch_warnings():
        # torch loads its own rules for this with a deprecated call, the first time.
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.script", category=DeprecationWarning
        )
        out: Tensor = jvp(f, (p,), (direction,))[1]
    return out


def _by_jacobian(model: nn.Module, p: Parameters, x1: Tensor, x2: Tensor) -> Tensor:
    one = _jacobian(model, p, x1)
    two = one if x2 is x1 else _jacobian(model, p, x2)
    return torch.einsum("nop,mqp->nmoq", one, two)


def _by_product(model: nn.Module, p: Parameters, x1: Tensor, x2: Tensor) -> Tensor:
    """Multiply the kernel with every unit vector: a vjp and a jvp each."""
    with torch.no_grad():
        count = _outputs(model, p, x2[:1]).shape[1]
    units = torch.eye(count, dtype=x1.dtype, device=x1.device)

    def column(b: Tensor, unit: Tensor) -> Tensor:
        return _push(model, p, x1, _pull(_one(model, b), p, unit))

    block = vmap(vmap(column, (None, 0)), (0, None))(x2, units)  # (n2, O2, n1, O1)
    return block.permute(2, 0, 3, 1)


def empirical_kernel(
    model: nn.Module,
    x1: Tensor,
    x2: Tensor | None = None,
    get: str | Sequence[str] = ("nngp", "ntk"),
    *,
    outputs: str = "trace",
    method: str = "auto",
    parameters: Parameters | None = None,
) -> Kernel:
    """Return the kernels of one finite network at its parameters.

    ``ntk[i, j, a, b] = <df_a(x_i)/dp, df_b(x_j)/dp>``, ``nngp[i, j, a, b] = f_a(x_i) f_b(x_j)``.
    Examples must not influence each other (no batch normalisation in training).

    Args:
        model: any module that maps (n, ...) to (n, ...).
        x1: (n1, ...).
        x2: (n2, ...); None: x1.
        get: ``"nngp"``, ``"ntk"`` or both.
        outputs: ``"trace"``: (n1, n2), the mean over equal outputs; ``"diagonal"``: (n1, n2, O);
            ``"full"``: (n1, n2, O, O).
        method: ``"jacobian"``: contract Jacobians; ``"product"``: kernel-vector products;
            ``"structured"``: layer by layer without Jacobians of dense and convolutional weights;
            ``"auto"``: structured if every parameter belongs to such a layer, else what takes
            fewer operations and fits into memory.
        parameters: used instead of the module's own.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> x = torch.eye(3)
        >>> empirical_kernel(model, x, get="ntk").ntk.tolist()
        [[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]

    Reference: Fast finite width neural tangent kernel (Novak, Sohl-Dickstein, Schoenholz, 2022).
    """
    check_one_of("outputs", outputs, ("trace", "diagonal", "full"))
    check_one_of("method", method, METHODS)
    wanted = (get,) if isinstance(get, str) else tuple(get)
    for name in wanted:
        check_one_of("get", name, ("nngp", "ntk"))
    p = _parameters(model, parameters)
    other = x1 if x2 is None else x2
    values: dict[str, Tensor] = {}
    if "nngp" in wanted:
        with torch.no_grad():
            one = _outputs(model, p, x1)
            two = one if x2 is None else _outputs(model, p, other)
            values["nngp"] = _reduce(torch.einsum("no,mq->nmoq", one, two), outputs)
    if "ntk" in wanted:
        found = None
        if method in ("auto", "structured"):
            found = structured_kernel(model, p, x1, other, strict=method == "structured")
        if found is None:
            way = cheaper_way(model, p, x1, other) if method == "auto" else method
            run = _by_product if way == "product" else _by_jacobian
            found = run(model, p, x1, other)
        values["ntk"] = _reduce(found.detach(), outputs)
    return Kernel(**values)


def _reduce(k: Tensor, outputs: str) -> Tensor:
    if outputs == "full":
        return k
    diagonal = k.diagonal(dim1=-2, dim2=-1)
    return diagonal.mean(-1) if outputs == "trace" else diagonal


def ntk_vector_product(
    model: nn.Module, x1: Tensor, x2: Tensor, v: Tensor, *, parameters: Parameters | None = None
) -> Tensor:
    """Return ``sum_(j,b) ntk[i, j, a, b] v[j, b]`` without the kernel: one vjp and one jvp.

    Args:
        model: any module.
        x1: (n1, ...).
        x2: (n2, ...).
        v: (n2, O).
        parameters: used instead of the module's own.

    Returns:
        (n1, O).
    """
    p = _parameters(model, parameters)
    return _push(model, p, x1, _pull(lambda q: _outputs(model, q, x2), p, v))


def taylor_expand(
    model: nn.Module, degree: int, *, parameters: Parameters | None = None
) -> Callable[[Parameters, Tensor], Tensor]:
    """Return the Taylor polynomial of the network in its parameters.

    Args:
        model: any module.
        degree: 0 is the network frozen at its parameters, 1 its linearisation.
        parameters: where to expand; default: the module's own.

    Returns:
        A function of (parameters, x).

    Example:
        >>> model = nn.Linear(2, 1)
        >>> expanded = taylor_expand(model, 1)
        >>> x = torch.ones(1, 2)
        >>> bool(torch.allclose(expanded(dict(model.named_parameters()), x), model(x)))
        True
    """
    order = check_integer("degree", degree, minimum=0)
    origin = _parameters(model, parameters)

    def expanded(moved: Parameters, x: Tensor) -> Tensor:
        step = {k: moved[k] - origin[k] for k in origin}

        def derivative(n: int) -> Callable[[Parameters], Tensor]:
            if n == 0:
                return lambda q: functional_call(model, dict(q), (x,))
            lower = derivative(n - 1)
            return lambda q: forward_derivative(lower, q, step)

        total, factorial = derivative(0)(origin), 1.0
        for n in range(1, order + 1):
            factorial *= n
            total = total + derivative(n)(origin) / factorial
        return total

    return expanded


def linearize(
    model: nn.Module, *, parameters: Parameters | None = None
) -> Callable[[Parameters, Tensor], Tensor]:
    """Return the network linear in its parameters: :func:`taylor_expand` of degree 1."""
    return taylor_expand(model, 1, parameters=parameters)


class Reparameterized(nn.Module):
    """A module whose weights are standard normal numbers times fixed scales.

    Made by :func:`reparameterize`.
    """

    def __init__(self, model: nn.Module, scales: dict[str, float]) -> None:
        super().__init__()
        self.model = [model]  # a list: its parameters are not ours
        self.scales = scales
        self.numbers = nn.ParameterDict(
            {
                k.replace(".", "/"): nn.Parameter(torch.randn_like(v))
                for k, v in model.named_parameters()
            }
        )

    def forward(self, x: Tensor) -> Any:
        """Run the module with scaled parameters."""
        parameters = {
            k.replace("/", "."): v * self.scales[k.replace("/", ".")]
            for k, v in self.numbers.items()
        }
        return functional_call(self.model[0], parameters, (x,))


def fan_in(module: nn.Module) -> int:
    """Return the number of inputs of one unit of a linear or convolutional module.

    >>> fan_in(nn.Conv2d(3, 8, 5)), fan_in(nn.ConvTranspose1d(4, 8, 2))
    (75, 8)
    """
    weight: Tensor = module.weight  # type: ignore[assignment]
    if getattr(module, "transposed", False):
        return weight.shape[0] * weight[0, 0].numel()
    return weight[0].numel()


def reparameterize(
    model: nn.Module,
    *,
    weight_std: float = 1.0,
    bias_std: float = 0.0,
    generator: torch.Generator | None = None,
) -> Reparameterized:
    """Return the network in NTK parameterisation, freshly drawn.

    Weights are ``weight_std / sqrt(fan_in)`` times standard normal numbers that are trained, so
    that wide networks behave like :func:`recollect.infinite.twin` of the same module.

    Args:
        model: a module of linear, convolutional and parameterless layers.
        weight_std: as for the twin.
        bias_std: as for the twin.
        generator: randomness of the numbers; default: torch's own.

    Raises:
        ValueError: for parameters of other layers.
    """
    scales: dict[str, float] = {}
    for name, module in model.named_modules():
        for key, _ in module.named_parameters(recurse=False):
            full = f"{name}.{key}" if name else key
            if not isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                raise ValueError(f"{full} belongs to {type(module).__name__}, which has no fan-in")
            scales[full] = weight_std / fan_in(module) ** 0.5 if key == "weight" else bias_std
    out = Reparameterized(model, scales)
    if generator is not None:
        with torch.no_grad():
            for number in out.numbers.values():
                number.copy_(torch.randn(number.shape, generator=generator, dtype=number.dtype))
    return out


def sample_kernel(
    make_model: Callable[[], nn.Module],
    x1: Tensor,
    x2: Tensor | None = None,
    get: str | Sequence[str] = ("nngp", "ntk"),
    *,
    num_samples: int = 16,
    method: str = "auto",
) -> tuple[Kernel, Kernel]:
    """Return Monte-Carlo kernels of a finite architecture, and their standard errors.

    Args:
        make_model: returns a freshly drawn network, for instance by :func:`reparameterize`.
        x1: (n1, ...).
        x2: (n2, ...); None: x1.
        get: ``"nngp"``, ``"ntk"`` or both.
        num_samples: number of networks.
        method: see :func:`empirical_kernel`.

    Returns:
        Means and standard errors; both converge to the twin's kernels with width.
    """
    count = check_integer("num_samples", num_samples, minimum=2)
    drawn = [empirical_kernel(make_model(), x1, x2, get, method=method) for _ in range(count)]
    means, errors = {}, {}
    for name in Kernel._fields:
        values = [getattr(k, name) for k in drawn]
        if values[0] is not None:
            stacked = torch.stack(values)
            means[name] = stacked.mean(0)
            errors[name] = stacked.std(0) / count**0.5
    return Kernel(**means), Kernel(**errors)
