"""Introspective replay for TorchRL: a sampler that looks back from high priorities.

sampler = LookBackSampler(num_pivots=64)
rb = ReplayBuffer(storage=LazyTensorStorage(100_000), sampler=sampler, batch_size=32)
...
rb.update_priority(torch.arange(len(rb)), td_errors)   # once a phase
batch = rb.sample()                                    # num_pivots times
"""

from __future__ import annotations

import contextlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recollect._seeds import seed_of
from recollect.replay.introspection import IntrospectiveSampler

__all__ = ["LookBackSampler"]

_Sampler: Any = object
_found: Any = None
with contextlib.suppress(ImportError):
    _found = import_module("torchrl.data.replay_buffers.samplers")
    _Sampler = _found.Sampler


class LookBackSampler(_Sampler):  # type: ignore[misc]
    """A TorchRL sampler for one-dimensional storages: pivots by priority, batches backwards.

    A phase of ``num_pivots`` batches begins with the first ``sample`` after ``update_priority``,
    or when the one before is used up. Transitions never given a priority have the highest.

    Args:
        num_pivots: G, batches of a phase.
        mode: as :class:`IntrospectiveSampler`.
        seed: of ties and uniform choices.
        **options: as :class:`IntrospectiveSampler` (``mix``, ``min_gap``).

    Raises:
        ImportError: without TorchRL.
        ValueError: as :class:`IntrospectiveSampler`.
    """

    def __init__(self, num_pivots: int, mode: str = "ier", seed: int = 0, **options: Any) -> None:
        if _found is None:
            raise ImportError('TorchRL is missing: pip install "recollect[torchrl]"')
        super().__init__()
        self.num_pivots, self.mode, self.seed, self.options = num_pivots, mode, seed, options
        IntrospectiveSampler(1, num_pivots, mode, **options)  # refuses bad options at once
        self._empty()

    def _empty(self) -> None:
        self._priorities = np.full(0, np.nan)
        self._newest, self._phases = -1, 0
        self._phase: IntrospectiveSampler | None = None

    def add(self, index: Any) -> None:
        """Notice one new transition."""
        self.extend(torch.as_tensor([int(index)]))

    def extend(self, index: Any) -> None:
        """Notice new transitions, in the order they were written."""
        places = np.atleast_1d(np.asarray(torch.as_tensor(index).cpu(), np.int64))
        if len(places):
            self._grow(int(places.max()) + 1)
            self._priorities[places] = np.nan
            self._newest = int(places[-1])
            self._phase = None  # what lay at these places may be gone

    def update_priority(self, index: Any, priority: Any, *, storage: Any = None) -> None:
        """Store new priorities, (n,) or one for all, and end the phase."""
        places = np.atleast_1d(np.asarray(torch.as_tensor(index).cpu(), np.int64))
        self._grow(int(places.max()) + 1)
        self._priorities[places] = np.asarray(torch.as_tensor(priority).cpu(), np.float64)
        self._phase = None

    def sample(self, storage: Any, batch_size: int) -> tuple[torch.Tensor, dict[str, Any]]:
        """Return the places of the next batch in the storage, (B,), and nothing more.

        Raises:
            RuntimeError: if the storage is empty.
        """
        size = len(storage)
        if not size:
            raise RuntimeError("the storage is empty: add transitions before sampling")
        oldest = (self._newest + 1) % size
        if self._phase is None or not self._phase.remaining:
            places = (oldest + np.arange(size)) % size
            self._grow(size)
            known = self._priorities[places]
            top = np.nanmax(np.abs(known)) if not np.isnan(known).all() else 1.0
            self._phase = IntrospectiveSampler(
                batch_size, self.num_pivots, self.mode, seed=self._seed_of_phase(), **self.options
            )
            self._phase.refresh(np.where(np.isnan(known), top, known))
        return torch.from_numpy((self._phase.sample() + oldest) % size), {}

    def _seed_of_phase(self) -> int:
        self._phases += 1
        return seed_of(self.seed, "phase", self._phases)

    def _grow(self, size: int) -> None:
        missing = max(0, size - len(self._priorities))
        self._priorities = np.concatenate([self._priorities, np.full(missing, np.nan)])

    def state_dict(self) -> dict[str, Any]:
        """Return priorities and the write head."""
        numbers = {"newest": self._newest, "phases": self._phases}
        return {"priorities": torch.from_numpy(self._priorities.copy()), **numbers}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state; a new phase begins."""
        self._priorities = np.asarray(state_dict["priorities"], np.float64).copy()
        self._newest, self._phases = int(state_dict["newest"]), int(state_dict["phases"])
        self._phase = None

    def dumps(self, path: Any) -> None:
        """Save the state into a folder."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict()
        np.save(folder / "priorities.npy", state.pop("priorities").numpy())
        (folder / "sampler.json").write_text(json.dumps(state))

    def loads(self, path: Any) -> None:
        """Load the state from a folder."""
        state = json.loads((Path(path) / "sampler.json").read_text())
        self.load_state_dict({"priorities": np.load(Path(path) / "priorities.npy"), **state})
