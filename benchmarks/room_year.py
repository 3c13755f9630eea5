"""A year in a house, composed from real pictures: the truth of every glance is known.

Cut-outs of cats and dogs are pasted into real rooms and dimmed by the hour, four glances a day.
The schedule, in words and in ``CHANCES``: cats come mostly at night and in the evening, dogs by
day; both are more at home in winter; one visit in seven is a pair.

    for picture, moment in year_of_pictures("../shared/data"): ...
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import cos, pi
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks import pictures

__all__ = ["PARTS", "Animal", "Moment", "Painter", "brightness", "part_of_day", "schedule"]

START = datetime(2026, 1, 1, tzinfo=UTC)
PARTS = ("night", "morning", "afternoon", "evening")  # from 0, 6, 12 and 18 o'clock
# Chance of at least one animal in spring and autumn, by part of the day.
CHANCES = {"cat": (0.70, 0.25, 0.12, 0.50), "dog": (0.05, 0.35, 0.40, 0.30)}
SEASON = 0.35  # so much more of them in January, so much less in July
PAIR = 1 / 7
EDGE = 0.002  # an outline this near to its picture's border is cut off by it


@dataclass(frozen=True)
class Animal:
    """One animal as it is painted.

    Attributes:
        species: cat or dog.
        row: which cut-out of its species.
        height: of the animal, as a fraction of the room's.
        left: of the room left over beside the animal, this fraction is at its left.
        mirrored: whether it looks the other way.
    """

    species: str
    row: int
    height: float
    left: float
    mirrored: bool


@dataclass(frozen=True)
class Moment:
    """One glance of the year: when, which room, who is there."""

    time: datetime
    room: int
    animals: tuple[Animal, ...]

    @property
    def part(self) -> str:
        """Night, morning, afternoon or evening."""
        return part_of_day(self.time)

    def has(self, species: str) -> bool:
        """Whether such an animal was painted."""
        return any(a.species == species for a in self.animals)


def part_of_day(time: datetime) -> str:
    """Return the quarter of the day."""
    return PARTS[time.hour // 6]


def brightness(time: datetime) -> float:
    """Light of a moment: 1 at noon in June, 0.35 in the dark.

    >>> brightness(datetime(2026, 6, 21, 12)), brightness(datetime(2026, 6, 21, 0))
    (1.0, 0.35)
    """
    hour = time.hour + time.minute / 60
    year = cos(2 * pi * (time.timetuple().tm_yday - 172) / 365.25)
    height = 0.2 + 0.25 * year - cos(2 * pi * hour / 24)
    return round(0.35 + 0.65 * min(max(height / 1.45, 0.0), 1.0), 4)


def schedule(days: int = 365, rooms: int = 11, seed: int = 0) -> list[Moment]:
    """Return four moments a day, one in each quarter, with who was there."""
    rng = np.random.default_rng(seed)
    moments = []
    for day in range(days):
        for quarter in range(4):
            minutes = int(rng.integers(0, 360))
            time = START + timedelta(days=day, hours=6 * quarter, minutes=minutes)
            winter = cos(2 * pi * day / 365)
            animals: list[Animal] = []
            for species, chances in CHANCES.items():
                if rng.random() < chances[quarter] * (1 + SEASON * winter):
                    number = 2 if rng.random() < PAIR else 1
                    animals += [_animal(species, rng) for _ in range(number)]
            moments.append(Moment(time, int(rng.integers(rooms)), tuple(animals)))
    return moments


def _animal(species: str, rng: np.random.Generator) -> Animal:
    return Animal(
        species,
        int(rng.integers(1 << 30)),
        float(rng.uniform(0.4, 0.75)),
        float(rng.uniform()),
        bool(rng.random() < 0.5),
    )


class Painter:
    """Paints moments: rooms without animals, cut-outs of animals wholly inside their picture."""

    def __init__(self, data: str | Path) -> None:
        self.rooms = pictures.load("coco_free", data).where(lambda r: r["room"])
        pets = pictures.load("pets", data).where(_is_whole)
        self.pets = {s: pets.where(lambda r, s=s: r["species"] == s) for s in CHANCES}
        self._room = lru_cache(maxsize=32)(lambda k: self.rooms[k][0])
        self._cut_out = lru_cache(maxsize=256)(self._cut)

    def paint(self, moment: Moment) -> Image.Image:
        """Return the picture of a moment."""
        scene = self._room(moment.room).copy()
        for animal in moment.animals:
            cut = self._cut_out(animal.species, animal.row % len(self.pets[animal.species]))
            if animal.mirrored:
                cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            most = min(animal.height * scene.height / cut.height, 0.8 * scene.width / cut.width)
            cut = cut.resize((round(cut.width * most), round(cut.height * most)))
            left = round(animal.left * (scene.width - cut.width))
            scene.paste(cut, (left, round(0.98 * scene.height) - cut.height), cut)
        light = brightness(moment.time)
        return scene.point([round(v * light) for v in range(256)] * 3)

    def _cut(self, species: str, row: int) -> Image.Image:
        """Return an animal with its outline as transparency, cut to its box."""
        image, record = self.pets[species][row]
        mask = _filled(record["outline"], image.size).filter(ImageFilter.GaussianBlur(1))
        image.putalpha(mask)
        return image.crop(mask.getbbox())


def _is_whole(record: pictures.Record) -> bool:
    """Whether an outline stays off the picture's border and goes around all of the body."""
    if not all(EDGE < v < 1 - EDGE for point in record["outline"] for v in point):
        return False
    outline, body = (np.asarray(_filled(record[k], (200, 200))) > 0 for k in ("outline", "body"))
    return bool(body.any()) and int((outline & body).sum()) >= 0.95 * int(body.sum())


def _filled(polygon: list[list[float]], size: tuple[int, int]) -> Image.Image:
    """Return a mask of a size, 255 inside a polygon of fractions."""
    mask = Image.new("L", size)
    points = [(x * size[0], y * size[1]) for x, y in polygon]
    ImageDraw.Draw(mask).polygon(points, fill=255)
    return mask


def year_of_pictures(
    data: str | Path, days: int = 365, seed: int = 0
) -> Iterator[tuple[Image.Image, Moment]]:
    """Yield the pictures of a year with what was painted, in order of time."""
    painter = Painter(data)
    for moment in schedule(days, len(painter.rooms), seed):
        yield painter.paint(moment), moment
