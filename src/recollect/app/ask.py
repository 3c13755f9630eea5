"""Questions in a small grammar of English, read without guessing.

A sentence becomes a ``Question``; what is not in the grammar is refused, with the nearest form.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recollect.app.spans import TIME, WEEKDAYS, span_of

__all__ = ["FORMS", "GRAMMAR", "NotAQuestion", "Question", "parse"]

FORMS = (
    "how often MODULE by hour",
    "how many MODULE by month",
    "when MODULE",
    "how big was MODULE",
    "what was MODULE like",
    "what did MODULE see on Tuesday",
    "like photo.jpg",
    "like GLANCE as MODULE",
    "what is in GLANCE",
    "why A B",
    "what was new last week",
    "what is related to GLANCE",
    "what is emerging",
)

GRAMMAR = """\
how often [MODULE] [by UNIT] [FILTER]   in how many glances it was
how many [MODULE] [by UNIT] [FILTER]    how many objects in all
when [MODULE] [FILTER]                  how often, by hour of day
how big was MODULE [FILTER]             its attributes: mean and spread
what was MODULE like [FILTER]           the same
what did MODULE see [FILTER]            the same
like PICTURE|GLANCE [as MODULE] [top N] the most similar glances
what is in GLANCE                       one glance as a tree
why A B                                 what makes two glances alike
what was new [FILTER]                   what came, went, or looks otherwise
what is related to NODE [top N]         what it is a part of, similar to, a kind of
what is emerging [as MODULE] [FILTER]   what recurs and has no name yet

UNIT    hour (of day), calendar hour, day, weekday, month
FILTER  any number of: TIME, on TIME, since TIME, until TIME,
        between TIME and TIME, in SOURCE, at SOURCE, from SOURCE,
        and at the end: where EXPRESSION (SQL)
TIME    today, yesterday, Tuesday (the latest), January [2026], 2026,
        2026-01, 2026-01-20, "2026-01-20 06:40", last 3 days,
        3 days ago, this|last week|month|year
MODULE  a name that recollect info lists; in quotes if it holds a
        word of the grammar
NODE    a glance, MODULE, a named concept, or a part such as cat#12"""

_UNITS = {
    "calendar hour": "hour",
    "hour of day": "hour_of_day",
    "hour of the day": "hour_of_day",
    "hours": "hour_of_day",
    "hour": "hour_of_day",
    "days": "day",
    "day of week": "weekday",
    "day": "day",
    "date": "day",
    "weekdays": "weekday",
    "weekday": "weekday",
    "months": "month",
    "month": "month",
}
_STOP = (
    r"by|in|at|from|since|after|until|before|between|on|during|this|last|today|yesterday|where"
    r"|" + "|".join(WEEKDAYS)
)
_QUOTED = r"""(?:"(?P<q1>[^"]+)"|'(?P<q2>[^']+)')"""


class NotAQuestion(ValueError):
    """A sentence that is not in the grammar."""


@dataclass(frozen=True)
class Question:
    """What was asked.

    Attributes:
        kind: ``"count"``, ``"attribute"``, ``"similar"``, ``"unroll"``, ``"why"``, ``"new"``,
            ``"related"`` or ``"emerging"``.
        module: name of the module (of a concept or part, where it is asked what is related),
            None for whole glances.
        by: as for ``recall.count``, None for one number.
        unit: as for ``recall.count``.
        query: a glance id or the path of a picture.
        other: the second glance of ``why``.
        k: how many similar glances.
        since: start of the window, included.
        until: end of the window, excluded.
        where: SQL over time, source and labels.
    """

    kind: str
    module: str | None = None
    by: str | None = None
    unit: str = "glances"
    query: str | None = None
    other: str | None = None
    k: int = 10
    since: datetime | None = None
    until: datetime | None = None
    where: str | None = None

    def __str__(self) -> str:
        """Say how the sentence was understood."""
        what = repr(self.module) if self.module else "all glances"
        head = {
            "count": f"count {self.unit} of {what}" if self.module else "count glances",
            "attribute": f"attributes of {what}",
            "similar": f"{self.k} glances like {self.query}"
            + (f" as {what} saw it" if self.module else ""),
            "unroll": f"unroll glance {self.query}",
            "why": f"why are {self.query} and {self.other} alike",
            "new": "what was new",
            "related": f"what is related to {self.module or f'glance {self.query}'}",
            "emerging": "what is emerging" + (f" among objects of {what}" if self.module else ""),
        }[self.kind]
        parts = [head + (f" by {self.by}" if self.by else "")]
        parts += [f"since {self.since:%Y-%m-%d %H:%M}"] if self.since else []
        parts += [f"until {self.until:%Y-%m-%d %H:%M}"] if self.until else []
        parts += [f"where {self.where}"] if self.where else []
        return ", ".join(parts)


def parse(text: str, modules: Iterable[str] = (), now: datetime | None = None) -> Question:
    """Read a sentence of the grammar.

    Args:
        text: the sentence; upper and lower case are alike, a question mark is ignored.
        modules: the known names, so that names of several words, plurals and other cases are
            found.
        now: what ``today`` and ``last week`` are counted from, with the calendar's zone.

    Raises:
        NotAQuestion: if it is not in the grammar, with the nearest form and the grammar.
        ValueError: if a time in it does not exist.

    Example:
        >>> print(parse("How often was the cat here by hour of day in hall?", ["cat"]))
        count glances of 'cat' by hour_of_day, where source = 'hall'
    """
    now = now or datetime.now().astimezone()
    sentence = re.sub(r"\s+", " ", text).strip().removesuffix("?").strip()
    for pattern, build in _SENTENCES:
        match = re.match(pattern, sentence, re.IGNORECASE)
        if match:
            return _Reader(sentence, tuple(modules), now).read(build, match)
    raise _refuse(sentence, "this sentence is not in the grammar")


def _refuse(sentence: str, reason: str) -> NotAQuestion:
    """Say what is wrong, the nearest form and the grammar."""
    low = sentence.lower()
    near = max(FORMS, key=lambda f: difflib.SequenceMatcher(None, low, f.lower()).ratio())
    return NotAQuestion(f"{reason}: {sentence!r}\nnearest: {near}\n\n{GRAMMAR}")


# Words end where they end: a dog is not "do" and then a g.
_SEEN = r"(?:(?:was|were|is|are|did|do|does|has|have)\b ?)?(?:(?:there|we see|i see|you see)\b ?)?"
_SENTENCES: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"what (?:was|is|were|are) new\b ?", {"kind": "new"}),
    (r"what (?:was|is|were|are) related (?:to|with)\b ?(?:glance )?", {"kind": "related"}),
    (r"what (?:(?:was|is|were|are) (?:emerging|recurring)|emerges|recurs)\b ?",
     {"kind": "emerging"}),
    (r"(?:when|how often) (?:was|is) .* looked at\b ?", {"kind": "count", "bare": True}),
    (r"how often\b ?" + _SEEN, {"kind": "count"}),
    (r"how many\b ?", {"kind": "count", "unit": "objects"}),
    (r"when\b ?" + _SEEN, {"kind": "count", "by": "hour_of_day"}),
    (r"why\b ?(?:(?:are|is)\b ?)?", {"kind": "why"}),
    (r"(?:what is in|what was in|unroll|show)\b ?(?:glance )?", {"kind": "unroll"}),
    (r"(?:what (?:is |was )?)?(?:like|similar to)\b ?(?:glance )?", {"kind": "similar"}),
    (r"how (?:big|large|small|tall|wide|strong|bright) (?:was|were|is|are)\b ?",
     {"kind": "attribute"}),
    (r"what (?:was|were|is|are) (?=.*\blike\b)", {"kind": "attribute", "after": "like"}),
    (r"what (?:did|does|do) (?=.*\b(?:see|saw)\b)", {"kind": "attribute", "after": "see|saw"}),
)  # fmt: skip


class _Reader:
    """Reads what follows the first words of a sentence."""

    def __init__(self, sentence: str, modules: tuple[str, ...], now: datetime) -> None:
        self.sentence, self.modules, self.now = sentence, modules, now

    def read(self, build: dict[str, Any], match: re.Match[str]) -> Question:
        values = {k: v for k, v in build.items() if k not in {"after", "bare"}}
        rest = self.sentence[match.end() :].strip()
        kind = values["kind"]
        if kind == "why":
            return self._why(rest)
        if kind == "similar":
            return self._similar(rest)
        if kind == "related":
            return self._related(rest)
        if kind == "unroll":
            if not re.fullmatch(r"-?\d+", rest):
                raise _refuse(self.sentence, f"a glance is a number, got {rest!r}")
            return Question("unroll", query=rest)
        if kind == "count" and not build.get("bare"):
            values["module"], rest = self._module(rest)
        elif kind == "emerging" and (named := re.match(r"as ", rest, re.IGNORECASE)):
            values["module"], rest = self._module(rest[named.end() :])
        elif kind == "attribute":
            values["module"], rest = self._module(rest, build.get("after"))
            if values["module"] is None:
                raise _refuse(self.sentence, "which module?")
        if build.get("bare"):
            values["by"] = "hour_of_day"
        if kind == "count" and values["module" if "module" in values else "kind"] is None:
            values["unit"] = "glances"
        return Question(**self._filters(rest, values))

    def _why(self, rest: str) -> Question:
        number = r"(?:glance )?(-?\d+)"
        form = rf"{number}[ ,]+(?:and )?{number}(?: alike| similar)?"
        match = re.fullmatch(form, rest, re.IGNORECASE)
        if match is None:
            raise _refuse(self.sentence, "why needs the numbers of two glances")
        return Question("why", query=match[1], other=match[2])

    def _related(self, rest: str) -> Question:
        k = 8
        if match := re.search(r" top (\d+)$", rest, re.IGNORECASE):
            k, rest = int(match[1]), rest[: match.start()]
        if re.fullmatch(r"-?\d+", rest):
            return Question("related", query=rest, k=k)
        module, left = self._module(rest)
        if module is None or left or k < 1:
            raise _refuse(self.sentence, "related to what? give a glance, a module or a part")
        return Question("related", module=module, k=k)

    def _similar(self, rest: str) -> Question:
        k, module = 10, None
        if match := re.search(r" top (\d+)$", rest, re.IGNORECASE):
            k, rest = int(match[1]), rest[: match.start()]
        if match := re.search(r" (?:as|seen by|for) (.+)$", rest, re.IGNORECASE):
            module, left = self._module(match[1])
            if left:
                raise _refuse(self.sentence, f"{left!r} is not understood")
            rest = rest[: match.start()]
        query = rest.strip().strip("\"'")
        if not query or k < 1:
            raise _refuse(self.sentence, "like what? give a picture or the number of a glance")
        return Question("similar", module=module, query=query, k=k)

    def _module(self, rest: str, after: str | None = None) -> tuple[str | None, str]:
        """Split off a module's name; ``after`` is a word that must follow it."""
        name, rest = self._name(rest, after)
        if after is not None:
            follows = re.match(rf" ?(?:{after})\b", rest, re.IGNORECASE)
            if follows is None:
                raise _refuse(self.sentence, f"{rest!r} is not understood")
            rest = rest[follows.end() :]
        else:
            rest = re.sub(r"^ ?(?:here|there|seen|around|visible)\b", "", rest.strip(),
                          flags=re.IGNORECASE)  # fmt: skip
        return name, rest.strip()

    def _name(self, rest: str, after: str | None) -> tuple[str | None, str]:
        article = r"(?:(?:the|an|a|any) )?"
        if match := re.match(article + _QUOTED, rest, re.IGNORECASE):
            return match["q1"] or match["q2"], rest[match.end() :]
        for name in sorted(self.modules, key=len, reverse=True):
            pattern = rf"{article}{re.escape(name)}(?:e?s)?(?=\s|$)"
            if match := re.match(pattern, rest, re.IGNORECASE):
                return name, rest[match.end() :]
        rest = re.sub(f"^{article}", "", rest, flags=re.IGNORECASE)
        stop = _STOP + "|here|there|seen|around|visible" + (f"|{after}" if after else "")
        match = re.match(rf"(?!(?:{stop})\b)(\S+(?: (?!(?:{stop})\b)\S+)*)", rest, re.IGNORECASE)
        if match is None:
            return None, rest
        words = match[1]
        bare = words.lower() in {"glances", "glance", "pictures", "picture", "anything", "it"}
        return (None if bare else words), rest[match.end() :]

    def _filters(self, rest: str, values: dict[str, Any]) -> dict[str, Any]:
        """Read the filters, in any order, until nothing is left."""
        conditions: list[str] = []
        while rest:
            before = rest
            if match := re.match(r"where (.+)$", rest, re.IGNORECASE):
                conditions.append(match[1] if not conditions else f"({match[1]})")
                rest = ""
            elif match := re.match(rf"by (?:the )?({'|'.join(_UNITS)})\b", rest, re.IGNORECASE):
                if values["kind"] != "count":
                    raise _refuse(self.sentence, "only counts can be split by a unit")
                values["by"] = _UNITS[match[1].lower()]
                rest = rest[match.end() :]
            else:
                rest = self._time_filter(rest, values)
                if rest == before:
                    rest = self._source_filter(rest, conditions)
            rest = rest.lstrip(" ,")
            if rest == before:
                raise _refuse(self.sentence, f"{rest!r} is not understood")
        if conditions:
            values["where"] = " AND ".join(conditions)
        if values.get("since") and values.get("until") and values["since"] >= values["until"]:
            raise _refuse(self.sentence, "the window ends before it begins")
        return values

    def _time_filter(self, rest: str, values: dict[str, Any]) -> str:
        patterns = {
            "between": rf"between ({TIME}) and ({TIME})(?=[ ,]|$)",
            "since": rf"(?:since|after) ({TIME})(?=[ ,]|$)",
            "until": rf"(?:until|before) ({TIME})(?=[ ,]|$)",
            "within": rf"(?:(?:on|in|during|at) )?(?:the )?({TIME})(?=[ ,]|$)",
        }
        for name, pattern in patterns.items():
            match = re.match(pattern, rest, re.IGNORECASE)
            if match is None:
                continue
            first = span_of(match[1], self.now)
            if name in {"since", "within", "between"}:
                self._narrow(values, "since", first[0])
            if name == "within":
                self._narrow(values, "until", first[1])
            elif name == "until":
                self._narrow(values, "until", first[0])
            elif name == "between":
                self._narrow(values, "until", span_of(match[2], self.now)[0])
            return rest[match.end() :]
        return rest

    def _narrow(self, values: dict[str, Any], side: str, time: datetime) -> None:
        known = values.get(side)
        pick = max if side == "since" else min
        values[side] = time if known is None else pick(known, time)

    def _source_filter(self, rest: str, conditions: list[str]) -> str:
        match = re.match(rf"(?:in|at|from) (?:the )?(?:{_QUOTED}|(?P<word>[^\s,]+))", rest,
                         re.IGNORECASE)  # fmt: skip
        if match is None:
            return rest
        source = (match["q1"] or match["q2"] or match["word"]).replace("'", "''")
        conditions.append(f"source = '{source}'")
        return rest[match.end() :]
