"""The weights of a selection in a torch training loop: a data set and a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from recollect._checks import check_one_of
from recollect.selection.chosen import Selection

__all__ = ["WeightedLoss", "WeightedSubset"]


class WeightedSubset(Dataset[tuple[Any, ...]]):
    """The chosen rows of a data set, each with its weight as a last item.

    Args:
        dataset: the pool; its items are tuples such as (picture, label).
        selection: the rows chosen from it.
        normalise: whether weights are scaled to a mean of 1, which keeps the learning rate's
            meaning.

    Raises:
        ValueError: if the selection names rows that the data set does not have.

    Example:
        >>> import numpy as np
        >>> from torch.utils.data import TensorDataset
        >>> pool = TensorDataset(torch.arange(4), torch.zeros(4))
        >>> s = Selection(np.array([2, 0]), np.array([1.0, 3.0]), None, None, 4)
        >>> WeightedSubset(pool, s)[1]
        (tensor(0), tensor(0.), tensor(1.5000))
    """

    def __init__(self, dataset: Any, selection: Selection, normalise: bool = True) -> None:
        rows = selection.indices
        if len(rows) and int(rows.max()) >= len(dataset):
            raise ValueError(
                f"the selection names row {int(rows.max())}, the data set has {len(dataset)}"
            )
        self.dataset, self.selection = dataset, selection
        scale = selection.weights.mean() if normalise and len(rows) else 1.0
        self.weights = torch.from_numpy(selection.weights / scale).float()

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, number: int) -> tuple[Any, ...]:
        item = self.dataset[int(self.selection.indices[number])]
        parts = item if isinstance(item, tuple | list) else (item,)
        return (*parts, self.weights[number])


class WeightedLoss(nn.Module):
    """A loss in which each row counts by its weight.

    Args:
        loss: ``(output, target) -> (B,)`` or (B, ...), one number or more for each row, such as
            ``torch.nn.CrossEntropyLoss(reduction="none")``; more are averaged.
        divide_by: ``"rows"``: the mean of weight times loss (unbiased over batches, for weights of
            mean 1); ``"weights"``: the weighted mean of each batch.

    Raises:
        ValueError: if divide_by is unknown; when called, if the loss is a single number or the
            weights do not fit it.

    Example:
        >>> loss = WeightedLoss(nn.MSELoss(reduction="none"))
        >>> loss(torch.zeros(2), torch.tensor([1.0, 2.0]), torch.tensor([1.5, 0.5]))
        tensor(1.7500)
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor], divide_by: str = "rows") -> None:
        super().__init__()
        self.loss = loss
        self.divide_by = check_one_of("divide_by", divide_by, ("rows", "weights"))

    def forward(self, output: Any, target: Any, weights: Tensor) -> Tensor:
        """Return the weighted loss of a batch, a single number."""
        losses = self.loss(output, target)
        if losses.ndim == 0:
            raise ValueError(
                "the loss returned a single number, it must be one for each row; build it with "
                'reduction="none"'
            )
        losses = losses.flatten(1).mean(1) if losses.ndim > 1 else losses
        if weights.shape != losses.shape:
            raise ValueError(
                f"weights must have the shape {tuple(losses.shape)}, got {tuple(weights.shape)}"
            )
        total = (weights * losses).sum()
        return total / (weights.sum() if self.divide_by == "weights" else len(losses))
