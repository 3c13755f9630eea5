"""A neural module network: small modules, put together anew for every sentence.

The modules pass maps (one probability of "the middle of such an item is here" for each place),
numbers and truths, box by box, and all are differentiable, so that the truth of whole sentences
trains them together. They begin with what is known of the drawn items.

Shape letters: B scenes, n scenes of one layout, C channels, h = w places on a side.

Reference: "Neural module networks" (Andreas, Rohrbach, Darrell and Klein, 2016).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recollect.studies.views.drawn.scenes import SIDE, Example, pictures_of
from recollect.studies.views.drawn.sentences import PROPERTIES, RELATIONS, Layout

__all__ = ["ModuleNetwork", "accuracy", "majority", "pooled", "train"]

STRIDE = 3  # pixels from place to place
PLACES = -(-SIDE // STRIDE)  # places on a side of a map
_COUNTS = range(8)
_GREY = 211 / 255  # of an empty box


class _Detector(nn.Module):
    """How likely what is in a place has one property: a perceptron on the place's features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (n, 3, h, w) for features (n, 3, C, h, w)."""
        n, boxes = features.shape[:2]
        logits: Tensor = self.weigh(features.flatten(0, 1))
        return logits.reshape(n, boxes, *features.shape[3:])


class Find(nn.Module):
    """``find[black]``: where the black items are."""

    def __init__(self, item: _Detector, own: _Detector | None) -> None:
        super().__init__()
        self.item, self.own = item, own

    def forward(self, features: Tensor) -> Tensor:
        """Return a map (n, 3, h, w) for features (n, 3, C, h, w)."""
        there: Tensor = self.item(features).sigmoid()
        return there if self.own is None else there * self.own(features).sigmoid()


class Filter(nn.Module):
    """``filter[black]`` and ``except[black]``: of what was found, what is black, or is not."""

    def __init__(self, own: _Detector, keeps: bool) -> None:
        super().__init__()
        self.own, self.keeps = own, keeps

    def forward(self, features: Tensor, found: Tensor) -> Tensor:
        """Return a map (n, 3, h, w)."""
        logits: Tensor = self.own(features)
        return found * (logits if self.keeps else -logits).sigmoid()


class Relate(nn.Module):
    """``relate[above]``: the places directly above what was found."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.Conv2d(1, 1, 11, padding=5)
        nn.init.constant_(self.spread.weight, 0.0)
        nn.init.constant_(self.spread.bias, -0.2)  # type: ignore[arg-type]

    def logits(self, found: Tensor) -> Tensor:
        """Return how likely each place is meant, (n, 3, h, w), as logits."""
        spread: Tensor = self.spread(found.flatten(0, 1)[:, None])
        return 10 * spread.reshape(found.shape)

    def forward(self, found: Tensor) -> Tensor:
        """Return a map (n, 3, h, w)."""
        return self.logits(found).sigmoid()


class Both(nn.Module):
    """``both``: what is in the one map and in the other."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a map (n, 3, h, w)."""
        return a * b


class Count(nn.Module):
    """``count``: how many were found in each box; ``total``: in all of them."""

    def __init__(self, over_all: bool) -> None:
        super().__init__()
        self.over_all = over_all

    def forward(self, found: Tensor) -> Tensor:
        """Return numbers (n, 3), or (n, 1)."""
        numbers = found.sum((2, 3))
        return numbers.sum(1, keepdim=True) if self.over_all else numbers


class Colours(nn.Module):
    """``colours``: how many colours the found items have, box by box."""

    def __init__(self, colours: Sequence[_Detector]) -> None:
        super().__init__()
        self.colours = nn.ModuleList(colours)

    def forward(self, features: Tensor, found: Tensor) -> Tensor:
        """Return numbers (n, 3)."""
        seen = [_any((found * c(features).sigmoid()).flatten(2)) for c in self.colours]
        return torch.stack(seen).sum(0)


class Compare(nn.Module):
    """``exactly[2]``, ``at_least[2]``: how true it is that a number is (at least) 2."""

    def __init__(self, kind: str, number: int) -> None:
        super().__init__()
        self.kind, self.number = kind, number
        self.sharpness = nn.Parameter(torch.tensor(8.0))

    def forward(self, numbers: Tensor) -> Tensor:
        """Return truths of the shape of the numbers."""
        up = torch.sigmoid(self.sharpness * (numbers - self.number + 0.5))
        if self.kind == "at_least":
            return up
        down = torch.sigmoid(self.sharpness * (self.number + 0.5 - numbers))
        return down if self.kind == "at_most" else up * down


class Truth(nn.Module):
    """``exists``, ``and``, ``boxes``, ``some``, ``every``: truths from maps and from truths."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return truths (n, 3); (n, 1) for what is said of all boxes."""
        if self.kind == "exists":
            return _any(x.flatten(2))
        if self.kind == "and":
            assert y is not None
            return x * y
        if self.kind == "boxes":
            return x.sum(1, keepdim=True)
        return _any(x)[:, None] if self.kind == "some" else x.prod(1, keepdim=True)


def _any(x: Tensor) -> Tensor:
    """Return how likely at least one of independent things holds, over the last axis."""
    return 1 - (1 - x.clamp(0, 1 - 1e-6)).log().sum(-1).exp()


class ModuleNetwork(nn.Module):
    """Modules that are assembled by a layout, over features of three boxes.

    Args:
        channels: C.
    """

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.see = nn.Sequential(
            nn.Conv2d(5, channels, 5, stride=STRIDE, padding=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=2, dilation=2), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=3, dilation=3), nn.ReLU(),
        )  # fmt: skip
        own = {p: _Detector(channels) for p in PROPERTIES}
        item = _Detector(channels)
        nn.init.constant_(item.weigh.bias, -4.0)  # type: ignore[arg-type]
        parts: dict[str, nn.Module] = {"find[item]": Find(item, None)}
        for p in PROPERTIES:
            parts[f"find[{p}]"] = Find(item, own[p])
            parts[f"filter[{p}]"], parts[f"except[{p}]"] = (
                Filter(own[p], True),
                Filter(own[p], False),
            )
        parts |= {f"relate[{r}]": Relate() for r in RELATIONS}
        parts |= {"both": Both(), "count": Count(False), "total": Count(True)}
        parts["colours"] = Colours([own[c] for c in ("black", "blue", "yellow")])
        kinds = [b + k for b in ("", "box_") for k in ("exactly", "at_least", "at_most")]
        parts |= {f"{k}[{n}]": Compare(k.removeprefix("box_"), n) for k in kinds for n in _COUNTS}
        parts |= {k: Truth(k) for k in ("exists", "and", "boxes", "some", "every")}
        self.parts = nn.ModuleDict(parts)
        self.layout_rows: Tensor | None = None

    def features(self, pictures: Tensor) -> Tensor:
        """Return features (B, 3, C, h, w) of pictures (B, 3, 3, SIDE, SIDE)."""
        x = 4 * (pictures.flatten(0, 1) - _GREY)
        line = torch.linspace(-1, 1, x.shape[2])
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"))
        x = torch.cat([x, places.expand(len(x), -1, -1, -1)], 1)
        seen: Tensor = self.see(x)
        return seen.reshape(len(pictures), 3, *seen.shape[1:])

    def forward(self, pictures: Tensor, layouts: Sequence[Layout]) -> Tensor:
        """Return how true each scene's sentence is, (B,), from 0 to 1.

        Scenes with one layout are run together; ``layout_rows`` says which are running.
        """
        features = self.features(pictures)
        together: dict[Layout, list[int]] = {}
        for i, layout in enumerate(layouts):
            together.setdefault(layout, []).append(i)
        order, truths = [], []
        for layout, rows in together.items():
            self.layout_rows = torch.tensor(rows)
            truths.append(self._run(layout, features[self.layout_rows], {})[:, 0])
            order += rows
        self.layout_rows = None
        return torch.cat(truths)[torch.tensor(order).argsort()]

    def _run(self, layout: Layout, features: Tensor, done: dict[Layout, Tensor]) -> Tensor:
        """Run a layout; what occurs in it twice is run once."""
        if layout not in done:
            inputs = [self._run(part, features, done) for part in layout.inputs]
            kind = layout.module.partition("[")[0]
            if kind in ("find", "filter", "except", "colours"):
                inputs.insert(0, features)
            done[layout] = self.parts[layout.module](*inputs)
        return done[layout]


# -- training -----------------------------------------------------------------------------


def train(
    examples: Sequence[Example], seed: int, epochs: int = 6, sentences: int = 2, size: int = 16
) -> ModuleNetwork:
    """Train a network: its finding modules on the known items, then all on the sentences.

    Args:
        examples: scenes with sentences.
        seed: of the weights and the order.
        epochs: over the items.
        sentences: epochs over the sentences that have a layout.
        size: scenes in a batch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ModuleNetwork()
        pictures, there, held = pictures_of(examples), *_targets(examples)
        above = _neighbours(examples)
        known = [i for i, e in enumerate(examples) if e.layout is not None]
        truths = torch.tensor([float(e.is_true) for e in examples])
        adam = torch.optim.Adam(network.parameters(), lr=1e-2)
        steps = (epochs + sentences) * -(-len(examples) // size)
        rate = torch.optim.lr_scheduler.OneCycleLR(adam, 1e-2, total_steps=steps + 1)
        for epoch in range(epochs + sentences):
            is_items = epoch < epochs
            pool = torch.arange(len(examples)) if is_items else torch.tensor(known)
            for rows in torch.split(pool[torch.randperm(len(pool))], size):
                features = network.features(pictures[rows])
                loss = _loss_of_items(network, features, there[rows], held[rows], above[rows])
                if not is_items:
                    layouts = [examples[i].layout for i in rows.tolist()]
                    said = network(pictures[rows], layouts).clamp(1e-4, 1 - 1e-4)
                    loss = loss + 0.2 * F.binary_cross_entropy(said, truths[rows])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                rate.step()
    return network.eval()


def accuracy(network: ModuleNetwork, examples: Sequence[Example], size: int = 128) -> float:
    """Return the share of examples with a layout whose truth the network tells."""
    known = [e for e in examples if e.layout is not None]
    right = 0
    with torch.no_grad():
        for start in range(0, len(known), size):
            some = known[start : start + size]
            said = network(pictures_of(some), [e.layout for e in some if e.layout is not None])
            right += sum((s > 0.5) == e.is_true for s, e in zip(said.tolist(), some, strict=True))
    return right / len(known)


def _cell(centre: tuple[float, float]) -> tuple[int, int]:
    y, x = (min(round(v * SIDE / 100 / STRIDE), PLACES - 1) for v in centre)
    return y, x


def _targets(examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Return where items are, (B, 3, h, w), and what they are, (B, 3, P, h, w); NaN: none."""
    there = torch.zeros(len(examples), 3, PLACES, PLACES)
    held = torch.full((len(examples), 3, len(PROPERTIES), PLACES, PLACES), float("nan"))
    for b, e in enumerate(examples):
        for k, box in enumerate(e.boxes):
            for o in box:
                y, x = _cell(o.centre)
                there[b, k, y, x] = 1
                own = o.properties(box)
                held[b, k, :, y, x] = torch.tensor([float(p in own) for p in PROPERTIES])
    return there, held


def _neighbours(examples: Sequence[Example]) -> Tensor:
    """Return for each relation where items stand so to a black one; (B, 3, R, h, w), else NaN."""
    found = torch.full((len(examples), 3, len(RELATIONS), PLACES, PLACES), float("nan"))
    for b, e in enumerate(examples):
        for k, box in enumerate(e.boxes):
            black = [o for o in box if o.colour == "black"]
            for o in box:
                y, x = _cell(o.centre)
                stands = [any(o.is_next(p, r) for p in black) for r in RELATIONS]
                found[b, k, :, y, x] = torch.tensor([float(s) for s in stands])
    return found


def _loss_of_items(
    network: ModuleNetwork, features: Tensor, there: Tensor, held: Tensor, above: Tensor
) -> Tensor:
    """Cross entropy of where items are, of their properties there, and of who is next to black."""
    parts = network.parts
    items = parts["find[item]"].item(features)  # type: ignore[operator]
    loss = F.binary_cross_entropy_with_logits(items, there, reduction="sum") / there.sum()
    logits = torch.stack([parts[f"find[{p}]"].own(features) for p in PROPERTIES], 2)  # type: ignore[operator]
    known = ~held.isnan()
    loss = loss + F.binary_cross_entropy_with_logits(logits[known], held[known]) * 8
    black = there * held[:, :, PROPERTIES.index("black")].nan_to_num()
    for r, name in enumerate(RELATIONS):
        next_to = parts[f"relate[{name}]"].logits(black)  # type: ignore[operator]
        at = ~above[:, :, r].isnan()
        loss = loss + F.binary_cross_entropy_with_logits(next_to[at], above[:, :, r][at])
    return loss


def majority(examples: Sequence[Example]) -> float:
    """Return how often the commoner truth is right."""
    share = float(np.mean([e.is_true for e in examples]))
    return max(share, 1 - share)


def pooled(output: Tensor) -> Tensor:
    """Reduce a module's output: of a map how much it holds in each box, and where.

    Args:
        output: a map (n, 3, h, w), or numbers or truths (n, 3) or (n, 1).

    Returns:
        (n, 9) for a map: the amounts s, then s y, then s x, with (y, x) the centre from -1 (top,
        left) to 1; what is no map as it is.
    """
    if output.dim() == 2:
        return output
    line = torch.linspace(-1, 1, output.shape[-1])
    return torch.cat(
        [output.sum((2, 3)), (output * line[:, None]).sum((2, 3)), (output * line).sum((2, 3))], 1
    )
