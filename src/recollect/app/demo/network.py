"""A small modular network, trained on the spot: it finds digits in a scene and reads them.

A convolutional trunk sees the whole scene; where its heat map peaks stands a digit. What it sees
becomes a glance of two levels:

    digit/0 ... digit/9     one object per digit found; attribute: score, box, 32 hidden units
      stroke/upper, /lower  what it is made from: 16 early features over each half of its box

Shape letters: B scenes, C channels, h x w = 16 x 24 cells of 4 x 4 pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recollect import Object, Trace
from recollect.app.demo.scenes import HEIGHT, WIDTH, Scene

__all__ = [
    "HIDDEN",
    "UNIT",
    "Reader",
    "Seen",
    "glances",
    "look",
    "pixels_of",
    "score_reading",
    "train",
]

STRIDE, HIDDEN, EARLY = 4, 32, 16
# Boxes in attributes count in widths of an original digit, so that they weigh like hidden units.
UNIT = 8
THRESHOLD = 0.35


@dataclass(frozen=True, eq=False)
class Seen:
    """One digit that the network found.

    Attributes:
        label: what it was read as.
        score: height of the heat map, 0 to 1.
        box: top, left, height, width in pixels.
        hidden: (32,) hidden units at its place.
        strokes: (2, 16) early features over the upper and lower half of the box.
    """

    label: int
    score: float
    box: tuple[float, float, float, float]
    hidden: Tensor
    strokes: Tensor

    @property
    def attribute(self) -> Tensor:
        """Score, box in units of 8 pixels, hidden units: (37,)."""
        return torch.cat([torch.tensor([self.score, *(b / UNIT for b in self.box)]), self.hidden])


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Reader(nn.Module):
    """Finds and reads digits: (B, 1, 64, 96) -> heat (B, 1, h, w), digit (B, 10, h, w),
    box (B, 4, h, w), and the features that glances are made of.
    """  # noqa: D205

    def __init__(self) -> None:
        super().__init__()
        self.early = _block(1, EARLY, 2)
        self.middle = nn.Sequential(_block(EARLY, 32, 2), _block(32, 40))
        self.late = nn.Sequential(_block(40, 40), _block(40, 48))
        self.hidden = nn.Sequential(nn.Conv2d(48, HIDDEN, 1), nn.ReLU())
        self.heat = nn.Conv2d(48, 1, 1)
        self.box = nn.Conv2d(48, 4, 1)
        self.digit = nn.Conv2d(HIDDEN, 10, 1)
        nn.init.constant_(self.heat.bias, -4.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return heat and digit logits, boxes, hidden and early features."""
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        early = self.early(x)
        late = self.late(self.middle(early))
        hidden = self.hidden(late)
        return {
            "heat": self.heat(late),
            "box": self.box(late),
            "digit": self.digit(hidden),
            "hidden": hidden,
            "early": early,
        }


def pixels_of(scenes: Sequence[Scene]) -> Tensor:
    """Stack scenes: (B, 1, 64, 96)."""
    return torch.from_numpy(np.stack([s.pixels for s in scenes]))[:, None]


def _targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor]:
    """Return heat (B, h, w) with a small bell on each digit, labels (B, h, w) or -1, boxes."""
    h, w = HEIGHT // STRIDE, WIDTH // STRIDE
    heat = np.zeros((len(scenes), h, w), np.float32)
    label = np.full((len(scenes), h, w), -1, np.int64)
    box = np.zeros((len(scenes), 4, h, w), np.float32)
    rows, columns = np.mgrid[:h, :w]
    for number, scene in enumerate(scenes):
        for digit in scene.digits:
            top, left, height, width = digit.box
            y, x = (top + height / 2) / STRIDE, (left + width / 2) / STRIDE
            i, j = int(y), int(x)
            bell = np.exp(-((rows - i) ** 2 + (columns - j) ** 2) / (2 * 0.7**2))
            heat[number] = np.maximum(heat[number], bell)
            label[number, i, j] = digit.label
            box[number, :, i, j] = y - i, x - j, height / STRIDE, width / STRIDE
    return torch.from_numpy(heat), torch.from_numpy(label), torch.from_numpy(box)


def train(
    scenes: Sequence[Scene],
    epochs: int = 6,
    seed: int = 0,
    report: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> Reader:
    """Train a reader on scenes with known digits.

    Args:
        scenes: to learn from.
        epochs: passes over them.
        seed: of the first weights and the order.
        report: called with step, number of steps and loss.

    Returns:
        The network, in evaluation mode.
    """
    x, (heat, label, box) = pixels_of(scenes), _targets(scenes)
    batches = max(1, len(scenes) // 32)
    steps = epochs * batches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Reader().train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=0.004, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.008, total_steps=steps + 1)
        for step in range(steps):
            if step % batches == 0:
                order = torch.randperm(len(scenes))
            rows = order[(step % batches) * 32 :][:32]
            loss = _loss(network(x[rows]), heat[rows], label[rows], box[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            report(step + 1, steps, float(loss.detach()))
    return network.eval()


def _loss(out: dict[str, Tensor], heat: Tensor, label: Tensor, box: Tensor) -> Tensor:
    """Return focal loss of the heat map, cross entropy and box error where digits stand."""
    p = torch.sigmoid(out["heat"][:, 0]).clamp(1e-4, 1 - 1e-4)
    here = label >= 0
    found = -((1 - p) ** 2) * p.log() * here
    empty = -((1 - heat) ** 4) * p**2 * (1 - p).log() * ~here
    count = here.sum().clamp_min(1)
    read = nn.functional.cross_entropy(out["digit"], label.clamp_min(0), reduction="none")
    place = ((out["box"] - box).abs() * here[:, None]).sum()
    return ((found + empty).sum() + (read * here).sum() + 0.3 * place) / count


@torch.no_grad()
def look(network: Reader, scenes: Sequence[Scene], batch: int = 32) -> Iterator[list[list[Seen]]]:
    """Yield what is found, batch after batch: for each scene a list from left to right."""
    for start in range(0, len(scenes), batch):
        part = scenes[start : start + batch]
        out = {k: v.numpy() for k, v in network(pixels_of(part)).items()}
        yield [_read(out, number) for number in range(len(part))]


def _read(out: dict[str, np.ndarray], number: int) -> list[Seen]:
    """Read the peaks of one heat map."""
    heat = 1 / (1 + np.exp(-out["heat"][number, 0]))
    padded = np.pad(heat, 1)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).max((2, 3))
    seen = []
    for i, j in np.argwhere((heat == around) & (heat > THRESHOLD)):
        dy, dx, height, width = out["box"][number, :, i, j] * STRIDE
        box = (i * STRIDE + dy - height / 2, j * STRIDE + dx - width / 2, height, width)
        hidden = torch.from_numpy(out["hidden"][number, :, i, j].copy())
        strokes = torch.from_numpy(_strokes(out["early"][number], box))
        label = int(out["digit"][number, :, i, j].argmax())
        values = tuple(float(b) for b in box)
        seen.append(Seen(label, float(heat[i, j]), values, hidden, strokes))  # type: ignore[arg-type]
    return sorted(seen, key=lambda s: s.box[1])


def _strokes(early: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Average early features (16, 32, 48) over the upper and the lower half of a box: (2, 16)."""
    top, left, height, width = (b / 2 for b in box)
    rows, columns = early.shape[1:]
    x0 = int(np.clip(round(left), 0, columns - 1))
    x1 = int(np.clip(round(left + width), x0 + 1, columns))
    halves = []
    for half in (0, 1):
        y0 = int(np.clip(round(top + half * height / 2), 0, rows - 1))
        y1 = int(np.clip(round(top + (half + 1) * height / 2), y0 + 1, rows))
        halves.append(early[:, y0:y1, x0:x1].mean((1, 2)))
    return np.stack(halves).astype(np.float32)


def glances(seen: Sequence[Sequence[Seen]]) -> Trace:
    """Turn what was found into a trace: digits, each made from its strokes."""
    parts = ("stroke/upper", "stroke/lower")
    return Trace.from_objects(
        [
            [
                Object(
                    f"digit/{s.label}",
                    s.attribute,
                    inputs=[Object(p, a) for p, a in zip(parts, s.strokes, strict=True)],
                )
                for s in scene
            ]
            for scene in seen
        ]
    )


def score_reading(
    scenes: Sequence[Scene], seen: Sequence[Sequence[Seen]]
) -> tuple[int, int, int, int]:
    """Compare with the truth: (digits there, found, read rightly, found where nothing is)."""
    there = found = right = extra = 0
    for scene, objects in zip(scenes, seen, strict=True):
        left = list(objects)
        there += len(scene.digits)
        for digit in scene.digits:
            y, x = digit.box[0] + digit.box[2] / 2, digit.box[1] + digit.box[3] / 2
            near = [
                (abs(s.box[0] + s.box[2] / 2 - y) + abs(s.box[1] + s.box[3] / 2 - x), s)
                for s in left
            ]
            distance, best = min(near, key=lambda pair: pair[0], default=(np.inf, None))
            if best is not None and distance < digit.box[2]:
                left.remove(best)
                found += 1
                right += best.label == digit.label
        extra += len(left)
    return there, found, right, extra
