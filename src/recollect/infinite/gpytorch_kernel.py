"""The twin's kernel for GPyTorch: exact or variational Gaussian processes with its solvers."""

from __future__ import annotations

import contextlib
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from recollect._checks import check_one_of
from recollect.infinite.twins import Twin

__all__ = ["InfiniteKernel"]

_Kernel: Any = object
_found: Any = None
with contextlib.suppress(ImportError):
    _found = import_module("gpytorch.kernels")
    _Kernel = _found.Kernel


class InfiniteKernel(_Kernel):  # type: ignore[misc]
    """Kernel of an infinitely wide network, as a ``gpytorch.kernels.Kernel``.

    Put it into a ``ScaleKernel`` to learn an amplitude. Deviations given to the twin as
    ``torch.nn.Parameter`` become parameters of this kernel, and are learned with the model.

    Args:
        twin: the network; inputs are vectors (n, d).
        kernel: ``"nngp"`` or ``"ntk"``.
        shape: of one input, if the network wants more than a vector.
        **options: as ``gpytorch.kernels.Kernel``.

    Raises:
        ImportError: without GPyTorch.
    """

    is_stationary = False

    def __init__(
        self,
        twin: Twin,
        kernel: str = "nngp",
        shape: tuple[int, ...] | None = None,
        **options: Any,
    ) -> None:
        if _found is None:
            raise ImportError("InfiniteKernel needs GPyTorch: pip install recollect[gpytorch]")
        super().__init__(**options)
        self.twin = twin
        self.kernel = check_one_of("kernel", kernel, ("nngp", "ntk"))
        self.shape = shape
        for i, constant in enumerate(twin.constants):
            if isinstance(constant, Parameter):
                self.register_parameter(f"raw_deviation_{i}", constant)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: Any) -> Tensor:
        """Return the kernel, (n1, n2), or its diagonal (n,) for ``diag``.

        Raises:
            ValueError: for inputs with batch axes of their own.
        """
        if x1.ndim != 2 or x2.ndim != 2:
            raise ValueError(
                "an infinite kernel takes inputs (n, d) without batch axes, got "
                f"{tuple(x1.shape)} and {tuple(x2.shape)}"
            )
        same = x1.shape == x2.shape and bool((x1 == x2).all())
        one, two = self._shaped(x1), None if same else self._shaped(x2)
        if diag and same:
            found: Tensor = getattr(
                self.twin.kernel(one, get=self.kernel, diagonal=True), self.kernel
            )
            return found
        whole: Tensor = getattr(self.twin.kernel(one, two, get=self.kernel), self.kernel)
        return whole.diagonal() if diag else whole

    def _shaped(self, x: Tensor) -> Tensor:
        return x if self.shape is None else x.reshape(len(x), *self.shape)
