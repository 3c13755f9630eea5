"""A prior of another network is refused, whichever way it would be used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recollect import Memory, Object, Prior, Sketcher, Trace
from recollect.sketching.informed import InformedSketcher
from recollect.sketching.methods import METHODS


def static(glances: int = 30, **sizes: int) -> Trace:
    g = torch.Generator().manual_seed(0)
    return Trace.from_columns({k: torch.randn(glances, m, generator=g) for k, m in sizes.items()})


def scenes(size: int, *names: str) -> Trace:
    g = torch.Generator().manual_seed(1)
    listed = [
        [Object(n, torch.randn(size, generator=g)) for n in names[: 1 + i % len(names)]]
        for i in range(30)
    ]
    return Trace.from_objects(listed)


@pytest.mark.parametrize("method", METHODS)
def test_other_sizes_are_refused_by_every_decoder(method: str) -> None:
    sketcher = Sketcher(dim=64)
    for own, other in (
        (static(cat=4, dog=3), static(cat=5, dog=3)),
        (scenes(4, "cat", "dog"), scenes(5, "cat", "dog")),
    ):
        sketcher = Sketcher(dim=64)
        sketches = sketcher.encode(own)
        with pytest.raises(
            ValueError,
            match="the prior knows module 'cat' with attributes of 5 numbers, these sketches hold "
            "4; fit the prior on traces of the same network",
        ):
            sketcher.decode(sketches, prior=Prior.fit(other), method=method).trace()


@pytest.mark.parametrize("method", METHODS)
def test_other_modules_are_refused_by_every_decoder(method: str) -> None:
    for own, other in (
        (static(cat=4, dog=3), static(horse=4, cow=3)),
        (scenes(4, "cat", "dog"), scenes(4, "horse", "cow")),
    ):
        sketcher = Sketcher(dim=64)
        sketches = sketcher.encode(own)
        for asked in (sketches, sketches.sum()):
            with pytest.raises(
                ValueError, match="the prior knows none of the modules of these sketches"
            ):
                sketcher.decode(asked, prior=Prior.fit(other), method=method).counts()


def test_priors_grow_by_traces_of_the_same_network_only() -> None:
    with pytest.raises(ValueError, match="'cat' has attributes of 5 numbers in one trace and 4"):
        Prior.fit(static(cat=4)).update(static(cat=5))
    informed = InformedSketcher(Prior.fit(static(cat=4, dog=3)), 128)
    with pytest.raises(ValueError, match="knows module 'cat' with attributes of 4 numbers"):
        informed.encode(static(cat=5, dog=3))
    with pytest.raises(ValueError, match="'cat' is in every glance of the prior, but not of this"):
        informed.encode(static(dog=3))


def test_what_is_no_prior_is_told_how_to_become_one() -> None:
    sketcher, t = Sketcher(dim=64), static(cat=4)
    with pytest.raises(TypeError, match=r"made by Prior\.fit\(traces\), got Trace"):
        sketcher.decode(sketcher.encode(t), prior=t).trace()  # type: ignore[arg-type]


def test_paths_that_do_not_exist_name_the_nearest(tmp_path: Path) -> None:
    from recollect import NotRemembered, recall

    face = Object("face", [1.0, 2.0])
    t = Trace.from_objects([[Object("cat", [1.0], inputs=[face])], [Object("dog", [1.0])]])
    with Memory(tmp_path / "m", Sketcher(dim=128)) as memory:
        memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2])
        with pytest.raises(NotRemembered, match="no path 'cat / tail'; did you mean 'cat / face'"):
            recall.similar(memory, 1, path="cat / tail")
        with pytest.raises(NotRemembered, match="no path 'cat / face'; known are 'dog'"):
            recall.similar(memory, 2, path=("cat", "face"))
