"""Beginning an epoch, and sketching glances in an informed one.

The order on disk: the prior (if it is given), the directions, the column that tells a row's epoch,
and last ``meta.json``, which is the acknowledgement. What comes before is harmless without it:
a writer that is killed leaves a memory of the old epochs, whole.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recollect import sketching
from recollect._checks import check_integer
from recollect.memory.clock import iso, microseconds
from recollect.memory.engine import Engine
from recollect.memory.epochs import Epoch
from recollect.memory.merging import extend
from recollect.memory.migrations import FORMAT

if TYPE_CHECKING:
    from recollect.memory.memory import Memory
    from recollect.sketching.informed import InformedSketcher
    from recollect.sketching.prior import Prior
    from recollect.sketching.sketches import Sketches
    from recollect.tracing.columns import Trace

__all__ = ["begin_epoch", "encode_informed"]

# Glances that a prior must hold: with fewer a first tier of 64 numbers has directions to spare.
LEAST_GLANCES = 65


def begin_epoch(
    memory: Memory,
    engine: Engine,
    informed: bool,
    prior: int | Prior | None,
    share: float,
    like: Memory | None,
) -> Epoch:
    """Begin an epoch; the writer's lock is held.

    Raises:
        ValueError: if it cannot be, saying why.
    """
    number = len(engine.epochs)
    made: InformedSketcher | None
    version: int | None
    if like is not None:
        made, version = _taken_over(memory, like, number)
    elif informed:
        kept, version = _prior_of(memory, prior)
        _check_prior(memory, kept)
        recipe = memory.recipe
        made = sketching.InformedSketcher(
            kept, recipe.dim, sketching.first_tier(recipe.dim, share), recipe.seed, recipe.dtype,
            {e.name: e.scale for e in memory.modules},
        )  # fmt: skip
    else:
        made, version = None, None
    recipe = memory.recipe if made is None else made.recipe
    if recipe == engine.epochs[-1].recipe:
        raise ValueError(
            f"nothing would change: {engine.epochs[-1].words} has this recipe already; fit a new "
            "prior first (memory.fit_prior()), or choose another share"
        )
    if made is not None:
        if version is None:
            version = memory._priors.keep(made.prior)
        memory._informed.keep(number, made)
    engine.make_room_for_epochs()
    begun = iso(microseconds(datetime.now(UTC)))
    epoch = Epoch(number, recipe, version, engine.rows.version, engine.ledger.total, begun)
    memory._meta |= _write(engine, epoch)
    return epoch


def _write(engine: Engine, epoch: Epoch) -> dict[str, Any]:
    """Make an epoch known, by one rename of meta.json; return what changed."""
    meta = engine.folder.read_json("meta.json")
    known = [*(meta.get("epochs") or []), epoch.to_dict()]
    changed = {"format": FORMAT, "epochs": known}
    engine.folder.write_json("meta.json", meta | changed)
    engine.sync()
    return changed


def _prior_of(memory: Memory, given: int | Prior | None) -> tuple[Prior, int | None]:
    """Return a prior and its version; None if it is not kept yet.

    Raises:
        ValueError: if there is none.
        NotRemembered: if there is no such version.
    """
    if isinstance(given, sketching.Prior):
        return given, None
    if given is not None:
        check_integer("the version of a prior", given, minimum=1)
    prior = memory.prior(given)
    if prior is None:
        raise ValueError(
            f"{memory.path} keeps no prior yet, and an informed epoch stands on one; make it from "
            "the records: memory.fit_prior() (recollect epoch PATH --fit), or give one: "
            "memory.new_epoch(prior=Prior.fit(traces))"
        )
    return prior, memory.prior_versions[-1] if given is None else given


def _check_prior(memory: Memory, prior: Prior) -> None:
    """Refuse a prior that does not fit the memory.

    Raises:
        ValueError: naming what does not fit.
    """
    if memory.recipe.scheme == "paper":
        raise ValueError(
            'the scheme "paper" mixes counters into its sketches, which an informed recipe does '
            'not; make the memory with scheme="energy" for informed epochs'
        )
    if len(prior.sample) < LEAST_GLANCES:
        raise ValueError(
            f"this prior holds {len(prior.sample)} glances; an informed epoch needs "
            f"{LEAST_GLANCES}, so that its directions are more than these glances themselves: "
            "keep more records (Memory(..., reservoir=512)), or give a prior of more glances"
        )
    loose = sorted(set(prior.sample.columns) - set(prior.static))
    if loose:
        raise ValueError(
            f"module {loose[0]!r} is not in every glance of the prior exactly once; an informed "
            "epoch is for networks whose every module is (objects that come and go stay with the "
            "oblivious recipe)"
        )
    known = {e.name: (e.size, e.members) for e in memory.modules}
    theirs = {k: (prior.sample.columns[k].size, prior.sample.columns[k].members)
              for k in prior.static}  # fmt: skip
    for name in sorted(set(known) ^ set(theirs)):
        where = "the memory, but not to the prior" if name in known else "the prior, but not here"
        raise ValueError(
            f"module {name!r} is known to {where}; fit the prior on glances of the network that "
            "this memory watches (memory.fit_prior())"
        )
    for name, size in known.items():
        if theirs[name] != size:
            raise ValueError(
                f"the prior knows module {name!r} with attributes of {theirs[name][0]} numbers "
                f"({len(theirs[name][1])} members), the memory with {size[0]} ({len(size[1])}); "
                "fit the prior on the same network"
            )


def _taken_over(memory: Memory, like: Memory, number: int) -> tuple[InformedSketcher, int | None]:
    """Return the sketcher of another memory's newest epoch, as one of this memory.

    Raises:
        ValueError: if it is not informed, or its modules have other sizes or scales.
        RecipeMismatch: if the memories' recipes differ.
    """
    memory.recipe.check_same(like.recipe)
    epoch = like.epochs[-1]
    if not epoch.informed:
        raise ValueError(
            f"the newest epoch of {like.path} is not informed: {epoch.words}; to go back to the "
            "first epoch's recipe say informed=False"
        )
    extend(memory.modules.copy(), like.modules)  # refuses before anything changes
    extend(memory.modules, like.modules)
    memory._engine.store_modules()
    theirs = like.sketcher_of(epoch.number)
    assert isinstance(theirs, sketching.InformedSketcher)
    return theirs, None


def encode_informed(memory: Memory, epoch: Epoch, trace: Trace) -> Sketches:
    """Sketch glances in an informed epoch, with their structure and their distribution channel.

    Raises:
        ValueError: if modules are missing, of another size, or unknown to the epoch's prior.
    """
    sketcher = memory.sketcher_of(epoch.number)
    made = sketcher.encode(trace)
    base = memory.sketcher
    return replace(
        made,
        modules=memory.modules,
        skeletons=base.skeletons(trace),
        channel=base.channel(trace),
    )
