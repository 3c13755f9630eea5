"""A small detector of playing cards on the features of YOLOX-nano, trained on the spot.

YOLOX's own maps at strides 8, 16 and 32 are brought to stride 16 and read by three convolutions:
at each place how much it looks like each of six cards, and the card's box.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import networks, pictures
from recollect import Trace, trace
from recollect.tracing.detections import Detection, unit_box

__all__ = ["CARDS", "CardReader", "examples", "read_maps", "train", "watch"]

CARDS = ("nine", "ten", "jack", "queen", "king", "ace")
SIDE, STRIDE = 416, 16
GRID = SIDE // STRIDE
WIDTH = 64


class Head(nn.Module):
    """From YOLOX's three maps to scores and boxes at stride 16."""

    def __init__(self) -> None:
        super().__init__()
        self.join = nn.Conv2d(64 * 6, WIDTH, 1)
        self.look = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.hidden = nn.Sequential(nn.Conv2d(WIDTH, 64, 3, padding=1), nn.ReLU())
        self.norm = nn.BatchNorm2d(64 * 6)
        self.out = nn.Conv2d(64, 1 + len(CARDS) + 4, 1)

    def forward(self, maps: Tensor) -> Tensor:
        y = F.relu(self.look(F.relu(self.join(self.norm(maps)))))
        return self.out(self.hidden(y))


class CardReader(nn.Module):
    """YOLOX-nano with a head for cards; watch it with ``view="detections"``."""

    detection_features = ("head.hidden",)
    detection_stages = tuple(f"yolox.{name}" for name in networks.YOLOX_STAGES)

    def __init__(self, data: str | Path, threshold: float = 0.5) -> None:
        super().__init__()
        self.yolox, self.preprocess = networks.yolox_nano(data)
        self.head, self.threshold = Head(), threshold
        self._maps: dict[str, Tensor] = {}
        for name in networks.YOLOX_FEATURES.values():
            self.yolox.get_submodule(name).register_forward_hook(self._keep(name))

    def _keep(self, name: str):
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            self._maps[name] = output

        return keep

    def maps(self, x: Tensor) -> Tensor:
        """Return YOLOX's maps of a batch side by side, (B, 384, 26, 26)."""
        self.yolox(x)
        fine, middle, coarse = (self._maps.pop(n) for n in networks.YOLOX_FEATURES.values())
        wide = F.interpolate(coarse, scale_factor=2, mode="nearest")
        return torch.cat([F.pixel_unshuffle(fine, 2), middle, wide], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x))

    def detections(self, output: Tensor) -> list[list[Detection]]:
        """Return the cards of each picture, each place's best kind, overlaps suppressed."""
        found = []
        for one in output:
            rows = one.flatten(1).T
            score, kind = rows[:, 0].sigmoid(), rows[:, 1:7].argmax(1)
            corners = _corners(rows[:, 7:])
            kept = networks.suppress(corners, score, torch.zeros_like(kind), self.threshold, 0.3)
            found.append(
                [
                    Detection(
                        CARDS[int(kind[i])],
                        float(score[i]),
                        unit_box(corners[i].tolist(), SIDE, SIDE),
                        "head.hidden",
                    )
                    for i in kept
                ]
            )
        return found


def _places() -> Tensor:
    """Centres of the grid's places in pixels, (676, 2)."""
    along = (torch.arange(GRID) + 0.5) * STRIDE
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), -1).reshape(-1, 2)


def _corners(sides: Tensor) -> Tensor:
    """Return boxes in pixels from (n, 4) logs of the distances to the four sides."""
    reach = sides.clamp(-6, 3).exp() * 64
    at = _places()
    return torch.cat([at - reach[:, :2], at + reach[:, 2:]], 1)


def examples(cards: pictures.Pictures) -> list[Tensor]:
    """Return each picture's cards, (n, 5): kind, and box in the network's pixels."""
    out = []
    for i in range(len(cards)):
        width, height = cards.records[i]["size"]
        ratio = SIDE / max(width, height)
        rows = [
            [CARDS.index(k), a * width * ratio, b * height * ratio, c * width * ratio,
             d * height * ratio] for k, a, b, c, d in cards.records[i]["objects"]
        ]  # fmt: skip
        out.append(torch.tensor(rows))
    return out


def _targets(cards: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what should be seen: (P,) kinds, (4, P) logs of sides, (P,) whether a card is there.

    A card is seen at the places within a fifth of its sides from its middle.
    """
    at = _places()
    kinds, sides = torch.zeros(len(at), dtype=torch.int64), torch.zeros(4, len(at))
    inside = torch.zeros(len(at), dtype=torch.bool)
    for kind, *box in cards.tolist():
        a, b = torch.tensor(box[:2]), torch.tensor(box[2:])
        near = ((at - (a + b) / 2).abs() <= ((b - a) / 5).clamp_min(STRIDE / 2)).all(1)
        kinds[near] = int(kind)
        reach = torch.cat([at - a, b - at], 1).clamp_min(1) / 64
        sides[:, near] = reach.log().T[:, near]
        inside |= near
    return kinds, sides, inside


def train(
    reader: CardReader, maps: Tensor, cards: Sequence[Tensor], epochs: int = 40, seed: int = 0
) -> None:
    """Train the head on maps of pictures, (N, 384, 26, 26), and their cards."""
    torch.manual_seed(seed)
    made = [_targets(c) for c in cards]
    kinds, sides, inside = (torch.stack([m[i] for m in made]) for i in range(3))
    head, size = reader.head.train(), 16
    optimiser = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=1e-3)
    steps = epochs * -(-len(maps) // size)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(maps)).split(size):
            seen = F.dropout2d(maps[rows].float(), 0.1)
            out = head(seen).flatten(2)
            there = inside[rows]
            score = F.binary_cross_entropy_with_logits(out[:, 0], there.float(), reduction="sum")
            kind = F.cross_entropy(out[:, 1:7], kinds[rows], reduction="none")
            off = (out[:, 7:] - sides[rows]).abs().sum(1)
            loss = (score + ((kind + off) * there).sum()) / there.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            plan.step()
    head.eval()


def read_maps(reader: CardReader, cards: pictures.Pictures) -> Tensor:
    """Return YOLOX's maps of all pictures in half precision."""
    with torch.no_grad():
        parts = [reader.maps(x).half() for x, _ in cards.batches(reader.preprocess, 8)]
    return torch.cat(parts)


def watch(reader: CardReader, cards: pictures.Pictures, log: list[Counter[str]]) -> Trace:
    """Return the trace of all pictures; append what the reader found in each to ``log``."""
    reading = reader.detections

    def logged(output: Tensor) -> list[list[Detection]]:
        found = reading(output)
        log.extend(Counter(d.label for d in one) for one in found)
        return found

    batches = cards.batches(reader.preprocess, 8)
    traces = [
        trace(reader, x, view="detections", detect=logged, features=reader.detection_features,
              modules=list(reader.detection_stages))
        for x, _ in batches
    ]  # fmt: skip
    return Trace.concat(traces)
