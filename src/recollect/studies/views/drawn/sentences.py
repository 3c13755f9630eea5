"""Sentences about drawn scenes, parsed into layouts of modules by a small grammar.

A layout is the tree of modules that answers a sentence, ``boxes`` standing for boxes and towers:

    there is a box with two black circles
    some(box_exactly[2](count(filter[black](find[circle]))))

What the grammar does not know it refuses (``parse`` returns None); nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["PROPERTIES", "RELATIONS", "Layout", "parse"]

COLOURS = ("black", "blue", "yellow")
SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "medium", "large")
PLACES = ("top", "base", "edge", "corner", "floor")
PROPERTIES = (*COLOURS, *SHAPES, *SIZES, *PLACES)
RELATIONS = ("above", "below")

_WORDS = {
    "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "single": "1", "items": "item", "block": "item", "blocks": "item", "object": "item",
    "objects": "item", "tower": "box", "towers": "box", "boxes": "box", "circles": "circle",
    "cirlce": "circle", "squares": "square", "triangles": "triangle", "colors": "color",
    "colour": "color", "colours": "color", "colored": "color", "wall": "edge", "side": "edge",
    "edges": "edge", "walls": "edge", "bottom": "base", "bases": "base", "over": "above",
    "under": "below", "bellow": "below", "an": "a", "every": "each", "contains": "has",
    "contain": "has", "contained": "has", "have": "has", "having": "has", "ha": "has",
    "bule": "blue", "big": "large", "tleast": "atleast", "corners": "corner", "are": "is",
    "multiple": "many",
}  # fmt: skip
_PHRASES = (
    (r"\bgrey (square|squares|box|boxes)\b", "box"),
    (r"\batleast\b|\bt least\b", "at least"),
    (r"^ll\b", "all"),
    (r"^(th)?ere\b", "there"),
    (r"\bablue\b", "a blue"),
    (r"\ba ?s ?the\b", "as the"),
    (r"\bon top of\b|\battach to\b|\bon\b(?! top)", "above"),
    (r"\bclosely\b", ""),
    (r"\b(which|that|it) (has|is)\b", r"\2"),
    (r"\bwhich\b|\bthat\b", ""),
    (r"\bthe box (with .*) has\b", r"there is a box \1 and"),
)


@dataclass(frozen=True)
class Layout:
    """A module and the layouts whose outputs it is applied to.

    Example:
        >>> print(Layout("count", (Layout("find[black]"),)))
        count(find[black])
    """

    module: str
    inputs: tuple[Layout, ...] = ()

    def __str__(self) -> str:
        inside = ", ".join(map(str, self.inputs))
        return f"{self.module}({inside})" if inside else self.module

    def walk(self) -> Iterator[Layout]:
        """Yield this node and all below it, depth first."""
        yield self
        for part in self.inputs:
            yield from part.walk()


def _on(module: str, *inputs: Layout) -> Layout:
    """Apply a module; what compares the numbers of each box is a module of its own."""
    if inputs and inputs[0].module in ("count", "colours"):
        module = f"box_{module}"
    return Layout(module, inputs)


class _Unknown(Exception):
    """The grammar does not know this."""


def parse(sentence: str) -> Layout | None:
    """Return the layout of a sentence, None if the grammar does not know it.

    Example:
        >>> print(parse("There are exactly two yellow circles touching the wall."))
        exactly[2](total(filter[edge](filter[yellow](find[circle]))))
        >>> print(parse("There is a tower with a blue block at the base"))
        some(exists(filter[base](find[blue])))
        >>> parse("What is this?") is None
        True
    """
    text = re.sub(r"[^a-z0-9 ]", " ", sentence.lower()).strip()
    for pattern, instead in _PHRASES[:6]:
        text = re.sub(pattern, instead, text)
    text = " ".join(_WORDS.get(w, w) for w in text.split())
    for pattern, instead in _PHRASES[6:]:
        text = re.sub(pattern, instead, text)
    try:
        return _Parser(text.split()).sentence()
    except _Unknown:
        return None


class _Parser:
    """Recursive descent over the words of one sentence."""

    def __init__(self, words: list[str]) -> None:
        self.words, self.at = words, 0

    # -- words ----------------------------------------------------------------------------

    def peek(self, *words: str) -> bool:
        """Whether these words come next."""
        return tuple(self.words[self.at : self.at + len(words)]) == words

    def take(self, phrase: str) -> bool:
        """Step over a phrase if it comes next."""
        words = phrase.split()
        if not self.peek(*words):
            return False
        self.at += len(words)
        return True

    def any_of(self, *phrases: str) -> str | None:
        """Step over the first of the phrases that comes next."""
        return next((p for p in phrases if self.take(p)), None)

    def need(self, *phrases: str) -> str:
        """Step over one of the phrases, or refuse the sentence."""
        found = self.any_of(*phrases)
        if found is None:
            raise _Unknown
        return found

    @property
    def done(self) -> bool:
        """Whether no word is left."""
        return self.at >= len(self.words)

    # -- sentences ------------------------------------------------------------------------

    def sentence(self) -> Layout:
        """Read a whole sentence."""
        self.any_of("there is", "there")
        if self.peek("the", "top") or self.peek("the", "base"):
            found = self.place_of_box()
        else:
            found = self.quantified()
        if not self.done:
            raise _Unknown
        return found

    def place_of_box(self) -> Layout:
        """Read "the top of a 3 item box is blue"."""
        self.need("the")
        place = self.need("top", "base")
        self.need("of a", "of the")
        size = self.number()
        if size is not None:
            self.need("item")
        self.need("box")
        self.need("is")
        colour = self.need(*COLOURS)
        truth = _on("exists", _on(f"filter[{place}]", _on(f"find[{colour}]")))
        if size is not None:
            truth = _on("and", _on(f"exactly[{size}]", _on("count", _on("find[item]"))), truth)
        return _on("some", truth)

    def quantified(self) -> Layout:
        """Read a quantifier and what it counts: boxes, or items."""
        kind, number = self.quantifier()
        self.any_of("of the 3", "of the", "the")
        colours = self.colours()
        if self.take("box"):
            return self.of_boxes(kind, number, colours)
        self.at -= self._words_of(colours)
        things = self.things()
        if kind == "each":
            raise _Unknown
        if self.take("in 1 box") or self.take("in a box") or self.take("together"):
            raise _Unknown
        if self.any_of("as the top of a box", "as the base of a box") is not None:
            place = self.words[self.at - 4]
            inside = _on(f"filter[{place}]", things)
            if self.take("with"):
                return self.some_box(kind, number, inside)
            return _on(f"{kind}[{number}]", _on("total", inside))
        return _on(f"{kind}[{number}]", _on("total", things))

    def _words_of(self, colours: tuple[str, ...]) -> int:
        return 2 * len(colours) - 1 if colours else 0

    def some_box(self, kind: str, number: int, inside: Layout) -> Layout:
        """Read the rest of "a black item as the top of a box with at least 2 items"."""
        truth = _on("and", _on("exists", inside), self.clause())
        return self.boxes(kind, number, truth)

    def of_boxes(self, kind: str, number: int, colours: tuple[str, ...]) -> Layout:
        """Read what is said of boxes."""
        truths = [self.only(colours)] if colours else []
        if self.any_of("with", "has", "where", "is with") is not None:
            self.any_of("is")
            truths.append(self.clause())
        if not truths:
            raise _Unknown
        truth = truths[0] if len(truths) == 1 else _on("and", *truths)
        return self.boxes(kind, number, truth)

    def boxes(self, kind: str, number: int, truth: Layout) -> Layout:
        """Say of how many boxes it is true."""
        if kind == "each":
            return _on("every", truth)
        if (kind, number) == ("at_least", 1):
            return _on("some", truth)
        return _on(f"{kind}[{number}]", _on("boxes", truth))

    # -- what is in a box -----------------------------------------------------------------

    def clause(self) -> Layout:
        """Read parts joined by "and"."""
        found = self.part()
        while not self.done and self.any_of("and it has", "and has", "and is", "and", "with",
                                            "has") is not None:  # fmt: skip
            found = _on("and", found, self.part())
        return found

    def part(self) -> Layout:
        """Read one part of what is in a box."""
        start = self.at
        for reading in (self.only_colours, self.number_of_colours, self.number_of_items):
            try:
                return reading()
            except _Unknown:
                self.at = start
        raise _Unknown

    def only_colours(self) -> Layout:
        """Read "only 2 black and blue item", "item of only 1 color", "3 item of black color"."""
        counted: Layout | None = None
        is_only = self.take("only")
        number = self.number()
        if number is not None:
            counted = _on(f"exactly[{number}]", _on("count", _on("find[item]")))
        colours = self.colours()
        self.need("item", "color")
        if not colours:
            self.need("of")
            is_only = self.take("only") or is_only
            colours = self.colours()
            if not colours:
                raise _Unknown
            self.need("color", "item")
        elif not is_only:
            raise _Unknown
        return self.with_count(counted, self.only(colours))

    def number_of_colours(self) -> Layout:
        """Read "3 item of 2 different color", "all 3 color", "item of only 1 color"."""
        counted: Layout | None = None
        number = self.number()
        if self.take("item"):
            self.need("of")
            if number is not None:
                counted = _on(f"exactly[{number}]", _on("count", _on("find[item]")))
        elif number is not None:
            raise _Unknown
        self.any_of("only", "all", "the")
        if self.take("same color"):
            many: int | None = 1
        else:
            many = self.number()
            if many is None:
                raise _Unknown
            self.any_of("different")
            self.need("color")
        return self.with_count(counted, _on(f"exactly[{many}]", _on("colours", _on("find[item]"))))

    def number_of_items(self) -> Layout:
        """Read "at least 2 black item touching the edge"."""
        kind, number = self.quantifier()
        things = self.things()
        if kind == "each":
            raise _Unknown
        if (kind, number) == ("at_least", 1):
            return _on("exists", things)
        return _on(f"{kind}[{number}]", _on("count", things))

    def with_count(self, counted: Layout | None, truth: Layout) -> Layout:
        """Join a truth with what is said of the number."""
        return truth if counted is None else _on("and", counted, truth)

    def only(self, colours: tuple[str, ...]) -> Layout:
        """All items have one of the colours, and each of these is there."""
        other = _on("find[item]")
        for colour in colours:
            other = _on(f"except[{colour}]", other)
        found = _on("exactly[0]", _on("count", other))
        for colour in colours:
            found = _on("and", found, _on("exists", _on(f"find[{colour}]")))
        return found

    # -- things ---------------------------------------------------------------------------

    def quantifier(self) -> tuple[str, int]:
        """Read how many: a comparison and a number."""
        if self.any_of("each", "all 3", "all") is not None:
            return "each", 0
        if self.any_of("none of the", "no") is not None:
            return "exactly", 0
        for words, kind, more in (
            ("exactly", "exactly", 0), ("only", "exactly", 0), ("at least", "at_least", 0),
            ("at most", "at_most", 0), ("more than", "at_least", 1),
        ):  # fmt: skip
            if self.take(words):
                number = self.number()
                return kind, (1 if number is None else number) + more
        if self.take("a"):
            self.any_of("1")
            return "at_least", 1
        number = self.number()
        if number is not None:
            return ("at_least" if number == 1 else "exactly"), number
        return "at_least", 1

    def number(self) -> int | None:
        """Read a number."""
        if self.at < len(self.words) and self.words[self.at].isdigit():
            self.at += 1
            return int(self.words[self.at - 1])
        return 1 if self.take("a") else None

    def colours(self) -> tuple[str, ...]:
        """Read "black and blue"."""
        found: list[str] = []
        while (colour := self.any_of(*COLOURS)) is not None:
            found.append(colour)
            if not (self.peek("and") and self.at + 1 < len(self.words)
                    and self.words[self.at + 1] in COLOURS):  # fmt: skip
                break
            self.at += 1
        return tuple(found)

    def things(self) -> Layout:
        """Read items with their properties, places and relations."""
        adjectives: list[str] = []
        while (found_word := self.any_of(*COLOURS, *SIZES)) is not None:
            adjectives.append(found_word)
        noun = self.any_of(*SHAPES, "item")
        if (noun is None and not adjectives) or sum(a in COLOURS for a in adjectives) > 1:
            raise _Unknown
        names = [n for n in (noun, *adjectives[::-1]) if n is not None and n != "item"]
        first = names[0] if names else "item"
        found = _on(f"find[{first}]")
        for name in names[1:]:
            found = _on(f"filter[{name}]", found)
        return self.placed(found)

    def placed(self, found: Layout) -> Layout:
        """Read where the items are."""
        self.any_of("is")
        start = self.at
        if self.take("not touching"):
            self.need("the", "any", "a")
            return _on(f"except[{self.need('edge', 'corner')}]", found)
        if self.take("touching"):
            self.any_of("the", "any", "a")
            side = self.need("edge", "corner", "base")
            self.take("of a box")
            return _on(f"filter[{'floor' if side == 'base' else side}]", found)
        if self.any_of("at the", "as the", "on the", "above", "at") is not None:
            place = self.any_of("top", "base")
            if place is not None and not self.peek("of"):
                return _on(f"filter[{place}]", found)
            self.at = start
        relation = self.any_of(*RELATIONS)
        if relation is not None:
            self.need("a", "another")
            return _on("both", found, _on(f"relate[{relation}]", self.things()))
        return found
