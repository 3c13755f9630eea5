"""The retention policy of one memory: kept in meta.json, changed, applied."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from recollect.memory.blocks import Where
from recollect.memory.clock import HOUR, iso, microseconds
from recollect.memory.engine import Engine
from recollect.memory.fading import Faded, check_growth, fade
from recollect.memory.layout import Folder
from recollect.memory.migrations import FORMAT
from recollect.memory.retention import Retention

if TYPE_CHECKING:
    from recollect.memory.memory import Memory

__all__ = ["fade_by", "forgotten_in", "policy_of", "retention_of", "store_policy"]

_META = "meta.json"


def policy_of(given: str | Retention | None, dim: int) -> Retention | None:
    """Read a policy; None and ``"off"`` mean that all is kept.

    Raises:
        ValueError: if it cannot be read, or would grow data.
        TypeError: if it is something else.
    """
    if given is None or (isinstance(given, str) and given.strip().lower() == "off"):
        return None
    policy = given if isinstance(given, Retention) else Retention(given)
    policy.check_dim(dim)
    return policy


def retention_of(folder: Folder) -> Retention | None:
    """Return the policy in meta.json (another process may have changed it)."""
    text = folder.read_json(_META).get("retention")
    return None if text is None else Retention(text)


def store_policy(engine: Engine, given: str | Retention, now: int | None = None) -> None:
    """Make a policy the memory's own; ages are counted from ``now``, by default the present.

    Raises:
        ValueError: if it cannot be read, or asks for more than is kept.
    """
    policy = policy_of(given, engine.recipe.dim)
    if policy == retention_of(engine.folder):
        return
    with engine.writing():
        if policy is not None:
            check_growth(engine, policy, _now() if now is None else now)
        meta = engine.folder.read_json(_META)
        meta = {"epochs": [], **meta, "format": FORMAT}
        meta["retention"] = None if policy is None else str(policy)
        engine.folder.write_json(_META, meta)


def fade_by(
    memory: Memory, engine: Engine, now: Any, given: str | Retention | None, dry_run: bool
) -> Faded:
    """Apply a memory's policy, or a new one that becomes its own.

    Raises:
        ValueError: if there is none, or it would grow data.
    """
    moment = _now() if now is None else microseconds(now)
    policy = retention_of(engine.folder) if given is None else policy_of(given, engine.recipe.dim)
    if given is not None and not dry_run:
        store_policy(engine, given, moment)
    if policy is None:
        if given is not None:
            return Faded("off", iso(moment), dry_run, {}, 0, (0, 0), (0, 0))
        raise ValueError(
            f"{memory.path} has no retention policy; give one: memory.fade(policy='full for 30 "
            "days, 256 dims for a year, roll-ups for ever')"
        )
    if given is not None and dry_run:
        engine.reading(lambda: check_growth(engine, policy, moment))
    planned = engine.reading(lambda: fade(engine, policy, moment, dry_run=True))
    if dry_run or not planned.glances:
        return planned
    with engine.writing():
        if planned.gone and not memory.prior_versions and len(memory.records()[0]) > 1:
            memory.fit_prior()
        return fade(engine, policy, moment)


def forgotten_in(engine: Engine, span: Where) -> int:
    """Return how many glances of the hours that a span meets are left in roll-ups only."""
    first = None if span.since is None else span.since // HOUR
    last = None if span.until is None else -(-span.until // HOUR)
    if first is not None and span.since == span.until:
        last = first + 1
    return engine.forgotten.count(first, last)


def _now() -> int:
    return microseconds(datetime.now(UTC))
