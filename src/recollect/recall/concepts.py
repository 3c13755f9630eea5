"""A question by example: which other glances are like these, and unlike those.

An infinitely wide network over sketches, or over what they tell, learns from a few labelled
glances in closed form (:mod:`recollect.infinite.labels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recollect import infinite
from recollect._answers import Answer
from recollect._checks import NotRemembered, check_integer, check_one_of, unknown_name
from recollect._seeds import seed_of
from recollect.infinite.labels import LabelFit, fit_labels
from recollect.recall.faded import by_length
from recollect.recall.reading import Decoder, Selection, glance_rows, load_note, plural

if TYPE_CHECKING:
    from recollect.memory import Memory
    from recollect.tracing import Trace

__all__ = ["Concept", "concept"]

IntArray = npt.NDArray[np.int64]
OVER = ("sketches", "attributes")
JUDGED = 512  # glances whose uncertainty a further label is meant to lower
STEPS = 200  # of expectation maximisation, at most
STAND_INS = 32  # unlabelled glances that stand for "no" where nobody said it


class Concept(Answer):
    """The answer of :func:`concept`: an Answer, and which glances to label next.

    Attributes:
        next: ids of glances not yet labelled, the one that helps most first.
    """

    next: list[int]


@dataclass(frozen=True, eq=False)
class Given:
    """What the user said.

    Attributes:
        ids: labelled glances.
        labels: +1 or -1 for each, float64.
        doubt: how many times the usual noise each has.
        said: how many of them the user named; the rest stand in for "no".
    """

    ids: IntArray
    labels: Tensor
    doubt: Tensor
    said: int


def concept(
    memory: Memory,
    positive: Sequence[int],
    negative: Sequence[int] = (),
    *,
    over: str = "sketches",
    modules: Sequence[str] | None = None,
    network: Any = None,
    share: float | str | None = None,
    where: str | None = None,
    since: Any = None,
    until: Any = None,
) -> Concept:
    """Say of every glance how probably it shows what some examples show.

    Labels +1 and -1 are regressed by the Gaussian process of an infinitely wide network over
    the glances' sketches (or decoded attributes); the probability is ``Phi(c (f - t))`` with the
    slope c and threshold t that predict every label best from the others. No training loop.

    Args:
        memory: a Memory.
        positive: ids of glances that show it; at least one.
        negative: ids of glances that do not. Without any, some glances chosen at random stand in
            for them with four times the noise, so the concept should be rare.
        over: ``"sketches"``: the stored numbers as they are; ``"attributes"``: what the prior
            reads from them (counts, and mean attributes of every module).
        modules: for ``"attributes"``, which modules count; default: all.
        network: an ``infinite`` twin or composition of layers over vectors; default: two hidden
            layers of rectifiers.
        share: of all glances that show it, if that is known; ``"examples"`` if these were drawn at
            random, so that their share is that of all. Where they were chosen it says little:
            None reads it from the probabilities of all glances.
        where: SQL expression over time, source and labels: which glances are asked about; the
            examples need not be among them.
        since: first moment (with zone).
        until: first moment that is left out.

    Returns:
        An Answer ordered by probability: ``glance``, ``time``, ``source`` and labels,
        ``estimate``, ``low``, ``high`` (90 %; exact for the examples), and ``gain``: by how much
        knowing this glance would lower the mean variance of all probabilities. ``.next`` lists
        the glances of the greatest gain.

    Raises:
        NotRemembered: if an example is no glance of the memory, a module is unknown, or no
            glance is chosen.
        ValueError: if there is no positive example, or a glance is in both lists; for
            ``"attributes"``, if skeletons were not kept; if the share is not between 0 and 1.
        TypeError: if ids are not whole numbers.

    References: Gaussian processes for machine learning (Rasmussen, Williams, 2006), 5.4.2; for
    the share, "Adjusting the outputs of a classifier to new a priori probabilities" (Saerens,
    Latinne and Decaestecker, 2002).

    Example:
        >>> from recollect import Memory, Object, Trace, recall
        >>> sizes = (5.0, 5.1, 4.9, -5.0, -5.1)
        >>> t = Trace.from_objects([[Object("cat", [x, 1.0])] for x in sizes])
        >>> memory = Memory(getfixture("tmp_path") / "room")
        >>> _ = memory.add(t, time="2026-01-01T08:00Z", ids=[1, 2, 3, 4, 5])
        >>> answer = recall.concept(memory, positive=[1], negative=[4])
        >>> answer["glance"], [p > 0.5 for p in answer["estimate"]]
        ([1, 2, 3, 5, 4], [True, True, True, False, False])
        >>> memory.close()
    """
    check_one_of("over", over, OVER)
    if modules is not None and over == "sketches":
        raise ValueError("modules= belongs to over='attributes'; sketches are compared whole")
    if isinstance(share, str):
        check_one_of("share", share, ("examples",))
    elif share is not None and not 0 < share < 1:
        raise ValueError(f"share is a part of all glances, between 0 and 1, got {share!r}")
    ids, given = _given(memory, positive, negative)
    chosen = Selection.of(where, since, until)
    asked = np.asarray(memory.glances(columns=["id"], **chosen.arguments)["id"].to_numpy())
    if len(asked) == 0:
        raise NotRemembered(f"no glance is chosen{chosen.words}; widen the filter or the window")
    everyone = np.union1d(asked, given.ids)
    if over == "sketches":
        features, notes = _sketches(memory, everyone), list[str]()
    else:
        features, notes = _attributes(memory, everyone, modules)
    kernels = Kernels.of(network, _standard(features))
    place = torch.from_numpy(np.searchsorted(everyone, given.ids))
    fit, cross = _fit(kernels, given, place)
    mean, variance = fit.latent(cross, kernels.own)
    gain = _gains(kernels, fit, cross, mean, variance)
    told = torch.stack([*fit.probabilities(mean, variance)])
    told, share = _at_share(told, given, share)
    columns = torch.cat([told, gain[None]])
    known = place[: given.said]
    columns[:3, known] = (given.labels[: given.said] + 1) / 2
    columns[3, known] = 0.0
    rows = np.searchsorted(everyone, asked)
    return _answer(
        memory, asked, columns.numpy()[:, rows], ids, notes + _words(given, fit, share), chosen
    )


def _given(
    memory: Memory, positive: Iterable[int], negative: Iterable[int]
) -> tuple[tuple[IntArray, IntArray], Given]:
    """Check the examples, and add stand-ins where nothing is negative."""
    yes, no = _ids("positive", positive), _ids("negative", negative)
    if len(yes) == 0:
        raise ValueError(
            "a concept needs at least one positive example: positive=[id, ...]; "
            "memory.glances() lists ids, recall.similar finds more like one"
        )
    both = np.intersect1d(yes, no)
    if len(both):
        raise ValueError(f"glance {both[0]} is a positive and a negative example; choose one")
    known = np.asarray(memory.glances(columns=["id"])["id"].to_numpy(), dtype=np.int64)
    missing = np.setdiff1d(np.concatenate([yes, no]), known)
    if len(missing):
        raise NotRemembered(f"no glance has the id {missing[0]}; memory.glances() lists the ids")
    said = len(yes) + len(no)
    stand_ins = np.zeros(0, np.int64)
    if len(no) == 0:
        rest = np.setdiff1d(known, yes)
        draws = np.random.default_rng(seed_of(0, "recall", "stand-ins"))
        stand_ins = draws.choice(rest, min(STAND_INS, len(rest)), replace=False)
    labels = torch.ones(said + len(stand_ins), dtype=torch.float64)
    labels[len(yes) :] = -1.0
    doubt = torch.ones_like(labels)
    doubt[said:] = 4.0
    return (yes, no), Given(np.concatenate([yes, no, stand_ins]), labels, doubt, said)


def _ids(name: str, values: Iterable[int]) -> IntArray:
    """Return distinct ids in the order given."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of glance ids, got {type(values).__name__}")
    found = [check_integer(f"an id in {name}", v, minimum=-(2**63)) for v in values]
    return np.array(list(dict.fromkeys(found)), dtype=np.int64)


def _sketches(memory: Memory, ids: IntArray) -> Tensor:
    """Return the stored numbers, (n, d)."""
    return torch.from_numpy(memory.values(ids))


def _attributes(
    memory: Memory, ids: IntArray, modules: Sequence[str] | None
) -> tuple[Tensor, list[str]]:
    """Return count and mean attribute of every module as the prior reads them, (n, m)."""
    names = list(memory.modules.names if modules is None else modules)
    for name in names:
        if name not in memory.modules.names:
            raise unknown_name("module", name, memory.modules.names)
    decoder = Decoder.of(memory)
    sizes = [memory.modules.family_of(memory.modules.id_of(n)).size for n in names]
    whole = [torch.zeros(len(ids), 1 + size) for size in sizes]
    loads = []
    for _, part in by_length(memory, ids):
        sketches = memory.sketches(ids=ids[part])
        if sketches.skeletons is None:
            raise ValueError(
                "attributes are read with skeletons, which were not kept here; ask over='sketches'"
            )
        found = decoder.decode(sketches)
        loads.append(float(np.max(found.load)))
        trace = found.trace()
        for into, name, size in zip(whole, names, sizes, strict=True):
            into[torch.from_numpy(part)] = _module(trace, name, len(part), size)
    scaled = [_balanced(t, size) for t, size in zip(whole, sizes, strict=True)]
    return torch.cat(scaled, 1), [decoder.note, load_note(loads)]


def _module(trace: Trace, name: str, count: int, size: int) -> Tensor:
    """Return number of objects and mean attribute of one module in each glance, (n, 1 + m)."""
    if name not in trace.modules:
        return torch.zeros(count, 1 + size)
    found = trace.objects(name)
    total = torch.zeros(count, size).index_add_(0, found.glance, found.attributes.float())
    number = torch.bincount(found.glance, minlength=count)[:, None].float()
    return torch.cat([number, total / number.clamp_min(1)], 1)


def _balanced(features: Tensor, size: int) -> Tensor:
    """Give a module's mean attribute the weight of one number, however wide it is."""
    spread = features.std(0) if len(features) > 1 else torch.zeros(1 + size)
    moving = spread > 0
    scaled = torch.where(moving, (features - features.mean(0)) / spread.clamp_min(1e-12), 0.0)
    scaled[:, 1:] /= max(size, 1) ** 0.5
    return scaled


def _standard(features: Tensor) -> Tensor:
    """Centre, and scale to one on average: rows are (n, d) float64."""
    x = features.double()
    x = x - x.mean(0)
    size = x.square().mean().sqrt()
    return x / size if float(size) > 0 else x


@dataclass(frozen=True, eq=False)
class Kernels:
    """The network's kernels among all glances, one on average on the diagonal.

    Attributes:
        twin: the network.
        x: features, (n, d).
        own: kernel of each glance with itself, (n,).
        scale: what kernels are divided by.
    """

    twin: infinite.Twin
    x: Tensor
    own: Tensor
    scale: float

    @classmethod
    def of(cls, network: Any, x: Tensor) -> Kernels:
        """Build the network's twin, and see how large its kernel is."""
        twin = network
        if network is None:
            dense = infinite.Dense(weight_std=2**0.5, bias_std=0.1)
            hidden = infinite.Serial(dense, infinite.Relu())
            network = infinite.Serial(hidden, hidden, dense)
        if not isinstance(network, infinite.Twin):
            twin = infinite.twin(network)
        blocks = [twin.kernel(part, get="nngp").nngp.diagonal() for part in torch.split(x, 64)]
        own = torch.cat(blocks)
        scale = float(own.mean())
        return cls(twin, x, own / scale, scale)

    def between(self, rows: Any, columns: Any) -> Tensor:
        """Return the kernel between some glances and others."""
        found = self.twin.kernel(self.x[rows], self.x[columns], get="nngp").nngp
        assert found is not None
        return found / self.scale


def _fit(kernels: Kernels, given: Given, place: Tensor) -> tuple[LabelFit, Tensor]:
    """Return the process that has seen the labels, and the kernel of all with the examples."""
    cross = kernels.between(slice(None), place)
    square = cross[place]
    fit = fit_labels(0.5 * (square + square.T), given.labels, doubt=given.doubt)
    return fit, cross


def _gains(
    kernels: Kernels, fit: LabelFit, cross: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Return by how much each glance's label would lower the variance of probabilities."""
    generator = torch.Generator().manual_seed(seed_of(0, "recall", "judged"))
    judged = torch.randperm(len(cross), generator=generator)[:JUDGED]
    weight = fit.sharpness(mean, variance)[judged]
    gains = []
    for start in range(0, len(cross), 2048):
        rows = slice(start, start + 2048)
        between = kernels.between(judged, rows)
        gains.append(fit.gain(cross[judged], cross[rows], between, kernels.own[rows], weight))
    return torch.cat(gains)


def _at_share(told: Tensor, given: Given, share: float | str | None) -> tuple[Tensor, float]:
    """Move probabilities from the share among the examples to that among all glances.

    Odds are multiplied by one factor, so the order stays. Where the share is not given, it is the
    one that the mean of the moved probabilities confirms, the examples' own counted as so many
    further glances (expectation maximisation): where all glances leave it open, it stays.

    Args:
        told: (3, n) probability and its interval.
        given: the examples.
        share: as ``concept`` takes it.

    Returns:
        the same, moved, and the share.
    """
    weight = 1 / given.doubt
    among = float(weight[given.labels > 0].sum() / weight.sum())
    if isinstance(share, str):
        return told, among
    safe = told.clamp(1e-9, 1 - 1e-9)
    odds = safe / (1 - safe) * ((1 - among) / among)

    def moved(to: float) -> Tensor:
        scaled = odds * (to / (1 - to))
        return scaled / (1 + scaled)

    if share is None:
        share, before = among, 0.0
        for _ in range(STEPS):
            summed = float(moved(share)[0].sum() + weight.sum() * among)
            share, before = summed / (told.shape[1] + float(weight.sum())), share
            if abs(share - before) < 1e-6:
                break
    return moved(share), share


def _words(given: Given, fit: LabelFit, share: float) -> list[str]:
    notes = [
        f"an infinitely wide network in closed form; slope {fit.slope:.2g}, "
        f"threshold {fit.threshold:.2g}, noise {fit.noise:.2g} chosen by the labels; "
        f"{share:.2g} of all glances are taken to show it"
    ]
    if given.said < len(given.ids):
        notes.append(
            f"no negative example: {plural(len(given.ids) - given.said, 'glance')} chosen at "
            "random stand in, so the probabilities are right only for a rare concept"
        )
    return notes


def _answer(
    memory: Memory,
    asked: IntArray,
    columns: npt.NDArray[np.float64],
    examples: tuple[IntArray, IntArray],
    notes: list[str],
    chosen: Selection,
) -> Concept:
    order = np.argsort(-columns[0], kind="stable")
    ids, (estimate, low, high, gain) = asked[order], columns[:, order]
    helpful = [int(i) for i in ids[np.argsort(-gain, kind="stable")][:10]]
    labelled = set(np.concatenate(examples).tolist())
    best = [i for i in helpful if i not in labelled]
    if best:
        notes.insert(0, f"glance {best[0]} would help most: label it next")
    answer = Concept(
        {
            "glance": ids,
            **glance_rows(memory, ids.tolist()),
            "estimate": estimate,
            "low": low,
            "high": high,
            "gain": gain,
        },
        title=f"{plural(len(ids), 'glance')} by how probably they are like "
        f"{plural(len(examples[0]), 'example')} and unlike {len(examples[1])}{chosen.words}",
        notes=notes,
    )
    answer.next = best
    return answer
