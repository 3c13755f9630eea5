"""A detector's findings as objects, each a module of its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.tracing.choosing import Modules, choose_modules
from recollect.tracing.folding import Layout, as_maps, tensors
from recollect.tracing.views import ModulesView, Piece, Run, View

__all__ = ["Detection", "DetectionsView", "torchvision_detections", "unit_box"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One thing that a detector found in one picture.

    Attributes:
        label: name of its class, and so of its module.
        score: how sure the detector is, 0 to 1.
        box: left, top, right, bottom as fractions of the picture, 0 to 1.
        stages: names of the feature modules that it was read from; empty: all of them.

    Example:
        >>> Detection("cat", 0.9, (0.1, 0.2, 0.5, 0.6)).label
        'cat'
    """

    label: str
    score: float
    box: Box
    stages: str | tuple[str, ...] = ()


Found = Detection | tuple[str, float, Sequence[float]]
Detect = Callable[[Any], Sequence[Sequence[Found]]]


def unit_box(box: Sequence[float], width: float, height: float) -> Box:
    """Return a box in pixels (left, top, right, bottom) as fractions, cut to the picture.

    >>> unit_box([-10, 20, 100, 50], width=200, height=100)
    (0.0, 0.2, 0.5, 0.5)
    """
    left, top, right, bottom = (float(v) for v in box)
    cut = [left / width, top / height, right / width, bottom / height]
    a, b, c, d = (min(max(v, 0.0), 1.0) for v in cut)
    return a, b, c, d


def torchvision_detections(
    output: Sequence[Mapping[str, Tensor]],
    sizes: Sequence[tuple[int, int]],
    labels: Sequence[str] | None = None,
    threshold: float = 0.5,
) -> list[list[Detection]]:
    """Read the output of a torchvision detector: one dict of boxes, labels, scores per picture.

    Args:
        output: the detector's output; boxes in pixels.
        sizes: (height, width) of each picture in pixels.
        labels: class names by number (0 is the background); None: ``class 1``, ...
        threshold: least score that is kept.

    Example:
        >>> found = {"boxes": torch.tensor([[0.0, 5.0, 10.0, 10.0]]),
        ...          "labels": torch.tensor([1]), "scores": torch.tensor([0.75])}
        >>> torchvision_detections([found], [(10, 20)], ["nothing", "cat"])
        [[Detection(label='cat', score=0.75, box=(0.0, 0.5, 0.5, 1.0), stages=())]]
    """

    def name(kind: int) -> str:
        return f"class {kind}" if labels is None else labels[kind]

    return [
        [
            Detection(name(kind), score, unit_box(box, width, height))
            for box, kind, score in zip(
                found["boxes"].tolist(),
                found["labels"].tolist(),
                found["scores"].tolist(),
                strict=True,
            )
            if score >= threshold
        ]
        for found, (height, width) in zip(output, sizes, strict=True)
    ]


class DetectionsView(View):
    """Each detection is an object of the module of its class, beside the network's stages.

    The attribute is ``(score, left, top, right, bottom, features...)``: the box as fractions of
    the picture, and the feature vector at the centre of the box, scaled to length 1. The stages
    (``features`` and ``modules``) are objects of the glance too, reduced to channel means; a
    detection refers to those it was read from through ``Trace.references``. These are no edges,
    so the stages are sketched once, however many detections refer to them.

    A network may bring its own reading: a method ``detections(output)`` and the names
    ``detection_features`` and ``detection_stages`` are used where nothing else is given.

    Args:
        detect: from the network's output to a list per picture of ``Detection`` or
            ``(label, score, box)``, boxes as fractions; None: the network's own method, else it
            is a torchvision detector.
        features: modules whose maps are read at each detection. A ``Detection`` that names its
            ``stages`` is read from these, another one from all, joined.
        labels: class names of a torchvision detector, by number.
        threshold: least score that is kept of a torchvision detector.
    """

    def __init__(
        self,
        detect: Detect | None = None,
        features: Modules = None,
        labels: Sequence[str] | None = None,
        threshold: float = 0.5,
    ) -> None:
        if detect is not None and not callable(detect):
            raise TypeError(
                'view="detections": detect must be a function from the output of the network to a '
                f"list per picture of (label, score, box), got {detect!r}"
            )
        self._detect, self._features = detect, features
        self._reading = detect
        self._labels, self._threshold = labels, threshold
        self._plain = ModulesView("mean")
        self._names: frozenset[str] = frozenset()

    def choose(self, model: nn.Module, modules: Modules, nested: bool) -> dict[str, nn.Module]:
        """Return the stages: the feature modules and those asked for."""
        own = getattr(model, "detections", None)
        self._reading = own if self._detect is None and callable(own) else self._detect
        wished = self._features
        if self._reading is own and own is not None:
            wished = wished or getattr(model, "detection_features", None)
            modules = modules or getattr(model, "detection_stages", None)
        features = {} if wished is None else choose_modules(model, wished)
        self._names = frozenset(features)
        if modules is None and features:
            return features
        return {**choose_modules(model, modules), **features}

    def see(self, run: Run, call: int, module: nn.Module, args: Any, output: Any) -> None:
        """Reduce a stage; keep the maps that detections are read from until the end."""
        super().see(run, call, module, args, output)
        name = run.calls[call].name
        if name in self._names:
            found = tensors(output)[0]
            maps = as_maps(found[0], run.layout, module) if found else None
            if maps is None:
                raise ValueError(
                    f"features of detections are read from maps (batch, channels, height, width); "
                    f"module {name!r} puts out {[tuple(t.shape) for t in found]}"
                )
            run.kept[name] = maps

    def piece(self, name: str, t: Tensor, layout: Layout, module: nn.Module) -> Piece | None:
        """Return the object of a stage."""
        return self._plain.piece(name, t, layout, module)

    def conclude(self, run: Run, model: nn.Module, output: Any) -> None:
        """Turn the findings into objects, one column per class."""
        if self._reading is not None:
            listed = self._reading(output)
        elif isinstance(output, list) and all(isinstance(o, Mapping) for o in output):
            sizes = _picture_sizes(run)
            listed = torchvision_detections(output, sizes, self._labels, self._threshold)
        else:
            raise TypeError(
                f"the output of this network ({type(output).__name__}) is not a torchvision "
                "detector's; pass detect=, a function from the output to a list per picture of "
                "(label, score, box)"
            )
        found = [list(map(_as_detection, one)) for one in listed]
        if len(found) != run.batch:
            raise ValueError(
                f"detect must return one list per picture: {run.batch} pictures, got {len(found)}"
            )
        rows: dict[str, list[tuple[int, Detection]]] = {}
        for glance, one in enumerate(found):
            for d in one:
                rows.setdefault(d.label, []).append((glance, d))
        taken = {p.name for p in run.pieces}
        for label in sorted(rows):
            if label in taken:
                raise ValueError(f"the class {label!r} has the name of a watched module")
            run.pieces.append(self._column(label, rows[label], run))
        run.kept.clear()

    def _column(self, label: str, rows: list[tuple[int, Detection]], run: Run) -> Piece:
        reads = [self._stages(d, run) for _, d in rows]
        vectors = [
            torch.cat([torch.tensor([d.score, *d.box]), *_read(run.kept, stages, glance, d.box)])
            for (glance, d), stages in zip(rows, reads, strict=True)
        ]
        sizes = {len(v) for v in vectors}
        if len(sizes) > 1:
            raise ValueError(
                f"detections of {label!r} have features of different sizes {sorted(sizes)}; read "
                "them all from modules with the same number of channels"
            )
        glance = np.array([g for g, _ in rows], dtype=np.int64)
        zeros = np.zeros(len(rows), dtype=np.int64)
        device = next((m.device for m in run.kept.values()), None)
        attributes = torch.stack(vectors).to(device)
        return Piece(label, attributes, glance=glance, member=zeros, reads=reads)

    def _stages(self, d: Detection, run: Run) -> tuple[str, ...]:
        if not d.stages:
            return tuple(run.kept)
        named = (d.stages,) if isinstance(d.stages, str) else d.stages
        for name in named:
            if name not in run.kept:
                raise ValueError(
                    f"a detection of {d.label!r} was read from {name!r}, which is not among the "
                    f"features {sorted(run.kept)}; pass it in features="
                )
        return named


def _picture_sizes(run: Run) -> list[tuple[int, int]]:
    """Height and width of each picture that went in."""
    pictures = run.args[0] if run.args else next(iter(run.kwargs.values()))
    return [(int(p.shape[-2]), int(p.shape[-1])) for p in pictures]


def _as_detection(found: Found) -> Detection:
    d = found if isinstance(found, Detection) else Detection(found[0], found[1], tuple(found[2]))  # type: ignore[arg-type]
    if len(d.box) != 4 or not all(-1e-3 <= v <= 1.001 for v in d.box):
        raise ValueError(
            f"the box of a detection of {d.label!r} must be left, top, right, bottom as fractions "
            f"of the picture, got {d.box}; divide pixels by width and height (unit_box)"
        )
    return d


def _read(
    kept: Mapping[str, Tensor], stages: Sequence[str], glance: int, box: Box
) -> list[Tensor]:
    """Read the feature vectors at the centre of a box, each of length 1."""
    x, y = box[0] + box[2] - 1, box[1] + box[3] - 1  # centre, from -1 to 1
    vectors = []
    for name in stages:
        maps = kept[name][glance : glance + 1].float()
        place = torch.tensor([[[[x, y]]]], dtype=torch.float32, device=maps.device)
        at = F.grid_sample(maps, place, align_corners=False, padding_mode="border").reshape(-1)
        vectors.append(F.normalize(at, dim=0).cpu())
    return vectors
