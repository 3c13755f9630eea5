"""A classifier's top classes as objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from recollect._checks import check_integer
from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, reduction, tensors
from recollect.tracing.views import Piece, Run, View

__all__ = ["ClassesView", "find_head"]

FAMILY = "classes"


class ClassesView(View):
    """The most probable classes of each picture: weight = probability, attribute = features.

    Each class is a module, named by ``labels``; all classes are members of the family
    ``classes``. The attribute is the pooled input of the classifier's head.

    Args:
        labels: class names; None: those in ``model.config.id2label``, else ``class 0``, ...
        top: how many classes are kept.
        least: a class is kept only with this probability or more (the first one always); with 0
            every glance counts towards each of its top classes, however improbable.
        head: name of the module whose input is the features; None: the classifier's own
            (``get_classifier()``), else the last layer with weights.

    Raises:
        ValueError: if ``top`` is smaller than 1 or ``least`` is no probability.

    Example:
        >>> import torch
        >>> from recollect import trace
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> t = trace(net, torch.ones(3, 4), view="classes", labels=["cat", "dog"], top=1)
        >>> t, t.columns["classes"].size
        (Trace(3 glances, 2 modules, 3 objects), 8)
    """

    def __init__(
        self,
        labels: Sequence[str] | None = None,
        top: int = 5,
        head: str | None = None,
        least: float = 0.0,
    ) -> None:
        if not 0 <= least <= 1:
            raise ValueError(f"least must be a probability from 0 to 1, got {least}")
        self._least = least
        self._labels = None if labels is None else _distinct(labels)
        self._top = check_integer("top", top, minimum=1)
        self._head = head

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the head."""
        if modules is not None:
            raise ValueError('view="classes" watches the head only; name it with head=')
        return find_head(model, self._head)

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Keep the pooled input of the head until the forward is over."""
        found, _ = tensors(args)
        rows = run.layout.fold(found[0], module) if found else None
        if rows is None:
            run.no_tensor.add(run.calls[call].name)
            return
        run.kept["features"] = (reduction("mean")(rows) if rows.dim() == 3 else rows).float()

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Nothing: the objects come of the network's output."""
        return None

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Turn the network's output into objects."""
        logits = _logits(output, run.batch)
        if "features" not in run.kept:
            raise ValueError(
                "the classifier's head did not run in this forward, so there are no features; "
                "name the module whose input they are with head="
            )
        features = run.kept.pop("features")
        is_probability = bool((logits >= 0).all()) and bool(
            ((logits.sum(1) - 1).abs() < 1e-3).all()
        )
        chance = logits if is_probability else logits.softmax(1)
        names = self._labels or _labels_of(model, logits.shape[1])
        if len(names) != logits.shape[1]:
            raise ValueError(
                f"the classifier has {logits.shape[1]} classes, but {len(names)} labels are given"
            )
        weight, member = chance.topk(min(self._top, len(names)), 1)
        kept = weight >= self._least
        kept[:, 0] = True
        rows, places = kept.nonzero(as_tuple=True)
        glance, place = rows.cpu().numpy(), places.cpu().numpy()
        run.pieces.append(
            Piece(
                FAMILY,
                features[rows],
                names,
                glance=glance,
                member=member.cpu().numpy()[glance, place].astype(np.int64),
                weight=weight.cpu().numpy()[glance, place],
            )
        )


def find_head(model: nn.Module, name: str | None = None) -> dict[str, nn.Module]:
    """Return the classifier's head, by name.

    Raises:
        ValueError: if the network has no layer with weights.
    """
    if name is not None:
        return choose_modules(model, name)
    own = getattr(model, "get_classifier", None)
    found = own() if callable(own) else None
    last: dict[str, nn.Module] = {}
    for child_name, m in model.named_modules():
        if m is found and isinstance(m, nn.Linear | nn.Conv2d):
            return {child_name: m}
        weight = m._parameters.get("weight")
        if weight is not None and weight.dim() >= 2:
            last = {child_name or type(model).__name__: m}
    if not last:
        raise ValueError(
            f"{type(model).__name__} has no layer with weights to read features from; name the "
            "module whose input they are with head="
        )
    return last


def _logits(output: Any, batch: int) -> Tensor:
    """Return the (B, classes) tensor in a classifier's output."""
    named = getattr(output, "logits", None)
    if named is None and isinstance(output, Mapping):
        named = output.get("logits")
    for t in [named] if isinstance(named, Tensor) else tensors(output)[0]:
        if t.dim() >= 2 and t.shape[0] == batch and t.flatten(1).shape[1] == t.shape[1]:
            return t.flatten(1).float()
    raise ValueError(
        'view="classes" needs a classifier whose output is a tensor (batch, classes), got '
        f"{type(output).__name__}"
    )


def _labels_of(model: nn.Module, count: int) -> tuple[str, ...]:
    """Return the names that the model itself carries, else numbers."""
    known = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(known, Mapping) and len(known) == count:
        return _distinct([str(known[k]) for k in range(count)])
    return tuple(f"class {k}" for k in range(count))


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    """Number labels that occur twice, so that each names one class.

    >>> _distinct(["crane", "jay", "crane"])
    ('crane', 'jay', 'crane (2)')
    """
    times: dict[str, int] = {}
    names = []
    for label in labels:
        times[label] = times.get(label, 0) + 1
        names.append(label if times[label] == 1 else f"{label} ({times[label]})")
    return tuple(names)
