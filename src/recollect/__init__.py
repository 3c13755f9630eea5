"""Recollect: a memory for neural networks.

Each time a trained network looks at something (a *glance*), Recollect keeps one short *sketch*
of the whole computation: every module, every object it saw, every attribute. Sketches add, fade
gracefully, and answer questions that nobody planned for, with error bars.

    t = trace(model, batch)                  # run the network once, in columns
    sketcher = Sketcher(dim=1024)            # one kilobyte a glance
    s = sketcher.encode(t)
    prior = Prior.fit(t)                     # what is usual, learned at any later time
    r = sketcher.decode(s, prior=prior)      # estimates, each with a standard deviation
    memory = Memory("room.recollect", sketcher=sketcher)
    memory.add(t, time=times)                # on disk, safe against a crash
    recall.count(memory, "cat", by="hour_of_day", unit="glances")

Every name is loaded when it is first used, so that counting never waits for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recollect._late import late_names

if TYPE_CHECKING:
    from recollect import recall
    from recollect._checks import CorruptMemory, MemoryBusy, NotRemembered, RecipeMismatch
    from recollect.memory import Memory
    from recollect.sketching import Prior, Sketcher, Sketches
    from recollect.tracing import Object, Trace, capture, trace

_WHERE = {
    "CorruptMemory": "recollect._checks",
    "Memory": "recollect.memory",
    "MemoryBusy": "recollect._checks",
    "NotRemembered": "recollect._checks",
    "Object": "recollect.tracing",
    "Prior": "recollect.sketching",
    "RecipeMismatch": "recollect._checks",
    "Sketcher": "recollect.sketching",
    "Sketches": "recollect.sketching",
    "Trace": "recollect.tracing",
    "capture": "recollect.tracing",
    "recall": "recollect.recall",
    "trace": "recollect.tracing",
}

__all__ = [
    "CorruptMemory",
    "Memory",
    "MemoryBusy",
    "NotRemembered",
    "Object",
    "Prior",
    "RecipeMismatch",
    "Sketcher",
    "Sketches",
    "Trace",
    "capture",
    "recall",
    "trace",
]

__getattr__, __dir__ = late_names(__name__, _WHERE, __all__)
