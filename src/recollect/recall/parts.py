"""Parts of a glance to search by: the objects of a module, at a path, at a level.

A path is written as module names from the output down, ``"cat / face"``; a level counts the same
way, 1 for the top. A path stands for the object there with all that it was made from; module and
level narrow that down. An object that is shared by several others has several paths, and belongs
to a part if any of them fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from recollect._checks import NotRemembered, check_integer, unknown_name
from recollect.tracing import Column, Edges, Trace

__all__ = ["Part"]

Path = tuple[str, ...]
SEPARATOR = " / "
# Paths of one query beyond which it is refused: objects shared many times over unfold without end.
_MOST = 1 << 16


@dataclass(frozen=True)
class Part:
    """Which objects of a glance are meant; all of them if nothing is set.

    Attributes:
        module: name of a module, or None.
        path: names from the output down, or None.
        level: depth, 1 at the top, or None.

    Example:
        >>> from recollect import Object
        >>> face = Object("face", [1.0, 2.0])
        >>> t = Trace.from_objects([[Object("cat", [5.0], inputs=[face])]])
        >>> part = Part.of(path="cat / face")
        >>> part.words, part.masked(t).objects("cat").attributes.tolist()
        ("path 'cat / face' of ", [[0.0]])
        >>> part.lifted(t).objects("face").path
        [('face',)]
    """

    module: str | None = None
    path: Path | None = None
    level: int | None = None

    @classmethod
    def of(
        cls,
        module: str | None = None,
        path: str | Sequence[str] | None = None,
        level: int | None = None,
    ) -> Part:
        """Read the arguments of a question.

        Raises:
            ValueError: if the level is not positive or the path is empty.
            TypeError: if the level is not an integer, or the path neither a string nor a
                sequence of strings.
        """
        if level is not None:
            level = check_integer("level", level, minimum=1)
        return cls(module, None if path is None else _steps(path), level)

    @property
    def is_whole(self) -> bool:
        """Whether the whole glance is meant."""
        return self.module is None and self.path is None and self.level is None

    @property
    def words(self) -> str:
        """The part in words, written before what it is a part of."""
        parts = [f"module {self.module!r}"] if self.module is not None else []
        parts += [f"path {SEPARATOR.join(self.path)!r}"] if self.path is not None else []
        parts += [f"level {self.level}"] if self.level is not None else []
        return f"{', '.join(parts)} of " if parts else ""

    def masked(self, trace: Trace) -> Trace:
        """Return one glance with every attribute zero but those of the part.

        Zeros keep the structure, hence the operators, of what is left.

        Raises:
            NotRemembered: if the glance holds no such module or path (the nearest are suggested).
            ValueError: if the level lies below its deepest objects.
        """
        chosen = self._chosen(trace)
        columns = {}
        for name, c in trace.columns.items():
            kept = torch.from_numpy(chosen[c.rank])[:, None].to(c.attributes)
            columns[name] = replace(c, attributes=c.attributes * kept)
        return Trace(columns, trace.num_glances, trace.edges)

    def lifted(self, trace: Trace) -> Trace:
        """Return a glance of the part alone: its uppermost objects stand at the top.

        Raises:
            NotRemembered: if the glance holds no such module or path (the nearest are suggested).
            ValueError: if the level lies below its deepest objects.
        """
        chosen = self._chosen(trace)
        rank = np.cumsum(chosen) - 1
        columns: dict[str, Column] = {}
        for name, c in trace.columns.items():
            rows = np.flatnonzero(chosen[c.rank])
            if len(rows):
                columns[name] = Column(
                    name, c.members, c.attributes[torch.from_numpy(rows)], c.glance[rows],
                    c.member[rows], rank[c.rank[rows]], c.weight[rows],
                )  # fmt: skip
        return Trace(columns, 1, _lifted_edges(trace.all_edges(), chosen, rank))

    def _chosen(self, trace: Trace) -> npt.NDArray[np.bool_]:
        """Return which objects of one glance belong to the part, by rank."""
        names, families = _names(trace)
        paths = _paths(trace, len(names))
        deepest = max((len(p) for some in paths for p in some), default=0)
        if self.level is not None and self.level > deepest:
            raise ValueError(
                f"level {self.level} is asked for, the query's objects stand on "
                f"{deepest} level{'' if deepest == 1 else 's'} (1 is the top)"
            )
        if self.path is not None:
            self._check_path(paths, names, families)
        chosen = np.array(
            [
                any(self._fits(p, names, families) for p in some)
                and self.module in (None, names[rank])
                for rank, some in enumerate(paths)
            ],
            dtype=np.bool_,
        )
        if not chosen.any():
            held = list(dict.fromkeys(names))
            place = replace(self, module=None).words.removesuffix(" of ")
            raise NotRemembered(
                f"the query holds no object of module {self.module!r}"
                f"{f' at {place}' if place else ''}; it holds {', '.join(map(repr, held[:8]))}"
                if self.module is not None
                else f"the query holds no object at {place}"
            )
        return chosen

    def _fits(self, ranks: tuple[int, ...], names: list[str], families: list[str]) -> bool:
        """Whether an object that stands at the end of a path of ranks is at path and level."""
        if self.level is not None and len(ranks) != self.level:
            return False
        if self.path is None:
            return True
        return len(ranks) >= len(self.path) and all(
            step in (names[r], families[r]) for step, r in zip(self.path, ranks, strict=False)
        )

    def _check_path(
        self, paths: list[list[tuple[int, ...]]], names: list[str], families: list[str]
    ) -> None:
        """Refuse a path that no object has, with the nearest that there are."""
        assert self.path is not None
        there = replace(self, level=None, module=None)
        if any(there._fits(p, names, families) for some in paths for p in some):
            return
        known = dict.fromkeys(
            SEPARATOR.join(n[r] for r in p) for n in (names, families) for some in paths
            for p in some
        )  # fmt: skip
        written = SEPARATOR.join(self.path)
        hint = str(unknown_name("path", written, known)).split("; ", 1)[1]
        raise NotRemembered(f"the query holds no path {written!r}; {hint}")


def _steps(path: str | Sequence[str]) -> Path:
    """Read a path, a string as ``recall.why`` writes it or names in order."""
    if isinstance(path, str):
        steps: Path = tuple(step.strip() for step in path.split(SEPARATOR))
    elif isinstance(path, Sequence) and all(isinstance(step, str) for step in path):
        steps = tuple(path)
    else:
        raise TypeError(
            f"a path is a string such as 'cat / face' or a sequence of names, got {path!r}"
        )
    if not steps or not all(steps):
        raise ValueError(
            f"a path names modules from the output down, such as 'cat / face', got {path!r}"
        )
    return steps


def _names(trace: Trace) -> tuple[list[str], list[str]]:
    """Return the modules' and the families' names of one glance's objects, by rank."""
    listed = {
        r: (c.members[j], c.name)
        for c in trace.columns.values()
        for r, j in zip(c.rank.tolist(), c.member.tolist(), strict=True)
    }
    ranks = range(len(listed))
    return [listed[r][0] for r in ranks], [listed[r][1] for r in ranks]


def _paths(trace: Trace, objects: int) -> list[list[tuple[int, ...]]]:
    """Return all paths of one glance's objects as ranks from the output down, by rank."""
    edges = trace.all_edges()
    below: dict[int, list[int]] = {}
    for parent, child in zip(edges.parent.tolist(), edges.child.tolist(), strict=True):
        below.setdefault(parent, []).append(child)
    paths: list[list[tuple[int, ...]]] = [[] for _ in range(objects)]
    level: list[tuple[int, ...]] = [(child,) for child in below.get(-1, [])]
    seen = 0
    while level:
        seen += len(level)
        if seen > _MOST:
            raise ValueError(
                f"the query's shared objects have more than {_MOST} paths; ask by module alone"
            )
        for path in level:
            paths[path[-1]].append(path)
        level = [(*path, child) for path in level for child in below.get(path[-1], [])]
    return paths


def _lifted_edges(
    edges: Edges, chosen: npt.NDArray[np.bool_], rank: npt.NDArray[np.int64]
) -> Edges | None:
    """Return the edges within a part, what has no parent in it under the output."""
    inside = (edges.parent >= 0) & chosen[edges.child]
    inside[inside] = chosen[edges.parent[inside]]
    held = np.zeros(len(chosen), dtype=np.bool_)
    held[edges.child[inside]] = True
    # The first edge of each uppermost object leads to the output now.
    first = np.unique(edges.child, return_index=True)[1]
    top = np.zeros(len(edges), dtype=np.bool_)
    top[first] = chosen[edges.child[first]] & ~held[edges.child[first]]
    if not inside.any():
        return None
    kept = np.flatnonzero(inside | top)
    parent = np.where(top[kept], -1, rank[np.maximum(edges.parent[kept], 0)])
    return Edges(edges.glance[kept], parent, rank[edges.child[kept]], edges.weight[kept])
