"""The scene maker: a year of small scenes composed of scikit-learn's real handwritten digits.

What stands in a scene depends on the hour, the season, the day of the week and the place, by
rules that the scene maker knows and the memory does not (``RULES``). Everything is drawn from one
seed, so that the truth behind every answer can be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from recollect._seeds import seed_of

__all__ = ["HEIGHT", "RULES", "WIDTH", "Digit", "Scene", "load_digits", "make_scenes", "make_year"]

HEIGHT, WIDTH = 64, 96
FIRST_DAY = datetime(2025, 1, 1, tzinfo=UTC)
PLACES = ("hall", "garden")
Pixels = npt.NDArray[np.float32]

RULES = {
    1: "mostly in the morning, from 6 to 10",
    3: "mostly in winter (December to February)",
    5: "mostly at weekends",
    7: "mostly at night, from 21 to 5",
    8: "grows from 8 to 15 pixels during the year",
    9: "only in the garden",
}


@dataclass(frozen=True)
class Digit:
    """One digit in a scene.

    Attributes:
        label: 0 to 9.
        box: top, left, height and width in pixels.
    """

    label: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Scene:
    """One picture and the truth about it.

    Attributes:
        pixels: (64, 96) float32 between 0 and 1.
        digits: what stands in it.
        time: when.
        source: where: hall or garden.
    """

    pixels: Pixels
    digits: tuple[Digit, ...]
    time: datetime
    source: str

    def count(self, label: int) -> int:
        """Return how many of one digit there are."""
        return sum(d.label == label for d in self.digits)


def load_digits() -> tuple[tuple[Pixels, npt.NDArray[np.int64]], ...]:
    """Return (pictures (n, 8, 8), labels (n,)) of two disjoint halves of the real digits.

    The network learns from the first; the year is made of the second.

    Raises:
        ImportError: if scikit-learn is missing, with the command that installs it.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the demo is made of scikit-learn's handwritten digits and drawn with matplotlib: "
            'pip install "recollect[demo]"'
        ) from error
    data = datasets.load_digits()
    pictures = (data.images / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    # Written by different people in turn: every third digit is kept for the year.
    year = np.arange(len(labels)) % 3 == 0
    return (pictures[~year], labels[~year]), (pictures[year], labels[year])


def expected(label: int, time: datetime, source: str) -> float:
    """Return the mean number of a digit in a scene, by the rules."""
    night = time.hour >= 21 or time.hour < 5
    rules = {
        1: 1.6 if 6 <= time.hour < 10 else 0.2,
        3: 1.7 if time.month in (12, 1, 2) else 0.15,
        5: 1.5 if time.weekday() >= 5 else 0.2,
        7: 1.6 if night else 0.12,
        9: 0.9 if source == "garden" else 0.0,
    }
    return rules.get(label, 0.55)


def side_of(label: int, time: datetime, rng: np.random.Generator) -> int:
    """Return the side of a digit in pixels; the 8 grows during the year."""
    if label == 8:
        return round(8 + 7 * (time - FIRST_DAY).days / 365)
    return int(rng.integers(9, 14))


def light_at(time: datetime) -> float:
    """Return the brightness of the scene, 0.3 at midnight to 1 at noon."""
    hour = time.hour + time.minute / 60
    return 0.65 - 0.35 * float(np.cos(2 * np.pi * (hour - 12) / 24 + np.pi))


def make_year(
    digits: tuple[Pixels, npt.NDArray[np.int64]], days: int = 365, seed: int = 0
) -> list[Scene]:
    """Make four scenes a day, one in each quarter, at a random minute.

    Args:
        digits: pictures and labels to compose them of.
        days: how many days, from 1 January 2025.
        seed: of everything random.
    """
    rng = np.random.default_rng(seed_of(seed, "demo", "year"))
    scenes = []
    for quarter in range(4 * days):
        minutes = 360 * quarter + int(rng.integers(360))
        time = FIRST_DAY + timedelta(minutes=minutes)
        source = PLACES[int(rng.integers(2))]
        labels = [k for k in range(10) for _ in range(rng.poisson(expected(k, time, source)))]
        while len(labels) < 2:
            labels.append(int(rng.choice([0, 2, 4, 6, 8])))
        labels = [int(k) for k in rng.permutation(labels)[:12]]
        sides = [side_of(k, time, rng) for k in labels]
        scenes.append(compose(digits, labels, sides, time, source, rng))
    return scenes


def make_scenes(
    digits: tuple[Pixels, npt.NDArray[np.int64]], count: int, seed: int = 0
) -> list[Scene]:
    """Make scenes without rules, every digit alike, to train the network with."""
    rng = np.random.default_rng(seed_of(seed, "demo", "training"))
    scenes = []
    for _ in range(count):
        time = FIRST_DAY + timedelta(minutes=int(rng.integers(365 * 1440)))
        labels = [int(k) for k in rng.integers(0, 10, rng.integers(2, 13))]
        sides = [int(s) for s in rng.integers(8, 16, len(labels))]
        scenes.append(compose(digits, labels, sides, time, "training", rng))
    return scenes


def compose(
    digits: tuple[Pixels, npt.NDArray[np.int64]],
    labels: Sequence[int],
    sides: Sequence[int],
    time: datetime,
    source: str,
    rng: np.random.Generator,
) -> Scene:
    """Paste digits of given labels and sizes at free places of a dim, noisy ground."""
    light = light_at(time)
    pictures, known = digits
    ground: Any = 0.12 * light + 0.06 * light * np.linspace(-1, 1, WIDTH)
    pixels = np.tile(ground, (HEIGHT, 1)).astype(np.float32)
    taken: list[tuple[int, int, int, int]] = []
    placed = []
    # The large ones first, or they find no room.
    for place in np.argsort([-s for s in sides], kind="stable"):
        box = _free_place(sides[place], taken, rng)
        if box is None:
            continue
        top, left, side, _ = box
        which = int(rng.choice(np.flatnonzero(known == labels[place])))
        patch = _resize(pictures[which], side) * (0.35 + 0.6 * light)
        view = pixels[top : top + side, left : left + side]
        np.maximum(view, patch, out=view)
        taken.append(box)
        placed.append(Digit(labels[place], box))
    pixels += rng.normal(0, 0.02, pixels.shape).astype(np.float32)
    return Scene(np.clip(pixels, 0, 1), tuple(placed), time, source)


def _free_place(
    side: int, taken: list[tuple[int, int, int, int]], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Return a box that touches no other; None if none was found."""
    for _ in range(400):
        top = int(rng.integers(1, HEIGHT - side))
        left = int(rng.integers(1, WIDTH - side))
        if all(
            top + side < t or t + h < top or left + side < x or x + w < left
            for t, x, h, w in taken
        ):
            return top, left, side, side
    return None


def _resize(picture: Pixels, side: int) -> Any:
    """Enlarge an 8 x 8 picture smoothly."""
    from PIL import Image

    resized = Image.fromarray((picture * 255).astype(np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.asarray(resized, dtype=np.float32) / 255
