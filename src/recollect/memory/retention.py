"""How long a memory keeps how much of a glance: a policy in words, and what it means.

The grammar (case and spaces do not matter; a leading "keep" is welcome before any stage)::

    policy    stage ("," stage)*
    stage     what "for" duration
    what      "full" | N "dims" | "skeletons" | "roll-ups"
    duration  (N | "a" | "an" | "one") ("hour" | "day" | "week" | "month" | "year")["s"] | "ever"

A duration is an age, counted from the glance's own time: "full for 30 days, 256 dims for a year"
keeps the first 256 numbers until a glance is a year old. A month is 30 days, a year 365. The
last stage, and only it, is "for ever".

``full``: the whole sketch. ``N dims``: its first N numbers. ``skeletons``: no sketch, but time,
source, labels and structure, so that exact counts by any filter stay. ``roll-ups``: the glance
goes; what it was counted into stays.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recollect.memory.clock import HOUR

__all__ = ["FULL", "ROLL_UPS", "SKELETONS", "Retention", "Stage"]

IntArray = npt.NDArray[np.int64]

# What a stage keeps, beside a number of dims.
FULL, SKELETONS, ROLL_UPS = 1 << 40, 0, -1

_HOURS = {"hour": 1, "day": 24, "week": 168, "month": 720, "year": 8760}
_STAGE = re.compile(
    r"(?:keep )?(?:(?P<word>full|skeletons?|roll-?ups?)|(?P<dims>\d+) dims?) for "
    r"(?:(?P<ever>ever)|(?P<many>\d+|an?|one) (?P<unit>hour|day|week|month|year)s?)"
)
_EXAMPLE = "'full for 30 days, 256 dims for a year, roll-ups for ever'"


@dataclass(frozen=True)
class Stage:
    """What is kept of a glance up to an age.

    Attributes:
        keep: numbers of the sketch; ``FULL``, ``SKELETONS`` or ``ROLL_UPS``.
        hours: age at which the stage ends; None for ever.
    """

    keep: int
    hours: int | None

    @property
    def what(self) -> str:
        """What is kept, in words."""
        words = {FULL: "full", SKELETONS: "skeletons", ROLL_UPS: "roll-ups"}
        return words.get(self.keep, f"{self.keep} dims")

    def __str__(self) -> str:
        return f"{self.what} for {_written(self.hours)}"


class Retention:
    """A retention policy, read from words.

    Args:
        text: the policy; the grammar stands at the top of ``recollect.memory.retention``.

    Attributes:
        stages: what is kept up to which age, by rising age.

    Raises:
        ValueError: if the words cannot be read, or the policy would grow data: a later stage
            that keeps as much as an earlier one, or ends no later than it.
        TypeError: if it is no string.

    Example:
        >>> policy = Retention("keep full for 30 days, 256 dims for a year, roll-ups for ever")
        >>> print(policy)
        keep full for 30 days, 256 dims for 1 year, roll-ups for ever
        >>> Retention(str(policy)) == policy
        True
        >>> policy.kept([0, 24 * 31, 24 * 366], dim=1024).tolist()
        [1024, 256, -1]
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(
                f"a retention policy is text such as {_EXAMPLE}, got {type(text).__name__}"
            )
        plain = " ".join(text.lower().split())
        self.stages = tuple(_stage(part.strip(), text) for part in plain.split(","))
        _check_order(self.stages, text)

    def __str__(self) -> str:
        return "keep " + ", ".join(map(str, self.stages))

    def __repr__(self) -> str:
        return f"Retention({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retention) and self.stages == other.stages

    def __hash__(self) -> int:
        return hash(self.stages)

    def check_dim(self, dim: int) -> None:
        """Refuse a policy that asks for more numbers than sketches have.

        Raises:
            ValueError: naming the stage.
        """
        for stage in self.stages:
            if stage.keep != FULL and stage.keep > dim:
                raise ValueError(
                    f"the policy would grow data: {str(stage)!r} asks for {stage.keep} numbers of "
                    f"sketches that have {dim}; write 'full' or a smaller number"
                )

    def cuts(self, now: int) -> list[tuple[int, int]]:
        """Return (moment, keep) by falling moment: what is kept of glances before the moment.

        Moments are cut down to whole UTC hours, so that an hour fades as one.

        Args:
            now: microseconds since 1970 UTC.
        """
        found = []
        for before, stage in pairwise(self.stages):
            assert before.hours is not None
            found.append(((now - before.hours * HOUR) // HOUR * HOUR, stage.keep))
        return found

    def kept(self, age: npt.ArrayLike, dim: int) -> IntArray:
        """Return how many numbers are kept of glances of some ages.

        Args:
            age: (n,) hours.
            dim: numbers in a whole sketch.

        Returns:
            (n,) int64: numbers of the sketch, 0 for skeletons only, -1 for roll-ups only.
        """
        ages = np.atleast_1d(np.asarray(age, dtype=np.float64))
        ends = [np.inf if s.hours is None else float(s.hours) for s in self.stages]
        keep = np.minimum([s.keep for s in self.stages], dim).astype(np.int64)
        found: IntArray = keep[np.searchsorted(ends, ages, side="right")]
        return found


def _stage(part: str, text: str) -> Stage:
    """Read one stage.

    Raises:
        ValueError: showing the part that cannot be read.
    """
    found = _STAGE.fullmatch(part)
    if found is None:
        raise ValueError(
            f"the policy {text!r} cannot be read at {part!r}: write stages such as {_EXAMPLE}; "
            "what is kept is 'full', 'N dims', 'skeletons' or 'roll-ups', how long is 'N hours', "
            "'days', 'weeks', 'months', 'years' or 'ever'"
        )
    if found["dims"]:
        keep = int(found["dims"])
        if keep == 0:
            raise ValueError(
                f"{part!r} keeps nothing of a sketch; write 'skeletons for ...' to keep the rest "
                "of a glance, or 'roll-ups for ...'"
            )
    else:
        keep = {"f": FULL, "s": SKELETONS, "r": ROLL_UPS}[found["word"][0]]
    if found["ever"]:
        return Stage(keep, None)
    many = 1 if found["many"] in ("a", "an", "one") else int(found["many"])
    if many == 0:
        raise ValueError(f"{part!r} lasts no time; leave the stage out")
    return Stage(keep, many * _HOURS[found["unit"]])


def _check_order(stages: tuple[Stage, ...], text: str) -> None:
    """Check that ages rise, that what is kept falls, and that the last stage is for ever.

    Raises:
        ValueError: if they do not.
    """
    for before, after in pairwise(stages):
        if before.hours is None:
            raise ValueError(
                f"{str(before)!r} never ends, so {str(after)!r} never begins; let only the last "
                f"stage of {text!r} be for ever"
            )
        if after.hours is not None and after.hours <= before.hours:
            raise ValueError(
                f"{str(after)!r} ends before {str(before)!r} does: durations are ages, counted "
                "from the glance's time, and must rise from stage to stage"
            )
        if after.keep >= before.keep:
            raise ValueError(
                f"the policy would grow data: {str(after)!r} keeps no less than {str(before)!r}; "
                "what is forgotten does not come back, so later stages must keep less"
            )
    if stages[-1].hours is not None:
        raise ValueError(
            f"{text!r} does not say what is kept after {_written(stages[-1].hours)}; end it with "
            "', roll-ups for ever' or let its last stage be for ever"
        )


def _written(hours: int | None) -> str:
    """Write a duration in the longest unit of year, day and hour that fits.

    >>> _written(8760), _written(720), _written(5), _written(None)
    ('1 year', '30 days', '5 hours', 'ever')
    """
    if hours is None:
        return "ever"
    unit = next(u for u in ("year", "day", "hour") if hours % _HOURS[u] == 0)
    many = hours // _HOURS[unit]
    return f"{many} {unit}{'' if many == 1 else 's'}"
