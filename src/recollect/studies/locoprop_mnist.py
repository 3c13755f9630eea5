"""LocoProp on MNIST's deep autoencoder, every method tuned on a grid of four settings.

The network is 784-1000-500-250-30 and back, batches hold 1000 pictures. Each method first tries
its four settings for one epoch, with a seed of their own; the one that leaves the
lowest training loss is trained for ten epochs, unless it fails there. LocoProp on whole batches
takes the setting that was best in tenths. Runs stand in the order in which they say most for their
time, the first seed of all before the second of any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from recollect._answers import Answer
from recollect.studies.autoencoders import STEPS, Build, Task, local, mnist, rmsprop, train
from recollect.studies.running import Journal, gathered
from recollect.studies.second_order import KFAC, behind_second_order, installed, shampoo, soap

__all__ = ["METHODS", "Method", "study"]

Setting = dict[str, float]
SEEDS = (0, 1)
TUNED_WITH = 100  # the seed of the short runs
SAME, TIME, GRADIENTS = "equal batches", "equal time", "equal gradient steps"
TENTHS, WHOLE = "LocoProp-M, tenths", "LocoProp-M"
BAR = ("RMSProp", TENTHS, "K-FAC", "Shampoo")  # what the source's own claim is about


@dataclass(frozen=True)
class Method:
    """An optimiser and the settings that it tries.

    Attributes:
        name: shown in the table.
        build: takes a setting, returns what builds the optimiser of a model.
        grid: the settings; none where those of another method are taken.
        usual: which of them needs no trying in a quick run.
        tuned_as: the other method.
    """

    name: str
    build: Callable[..., Build]
    grid: tuple[Setting, ...] = ()
    usual: int = 1
    tuned_as: str | None = None


def _torch(kind: Callable[..., torch.optim.Optimizer], **fixed: Any) -> Callable[..., Build]:
    return lambda lr: lambda model: kind(model.parameters(), lr=lr, **fixed)


def _kfac(lr: float, damping: float) -> Build:
    # With 0.3 nats a step, which digits bear, all ends at the mean picture within ten epochs.
    return lambda model: KFAC(model, lr, damping, kl=0.03)


def _rates(*rates: float) -> tuple[Setting, ...]:
    return tuple({"lr": rate} for rate in rates)


def _pairs(name: str, *pairs: tuple[float, float]) -> tuple[Setting, ...]:
    return tuple({"lr": rate, name: other} for rate, other in pairs)


LOCAL = _pairs("gamma", (3e-4, 100.0), (1e-3, 100.0), (3e-4, 300.0), (1e-3, 300.0))
METHODS = {
    method.name: method
    for method in (
        Method("RMSProp", rmsprop, _rates(1e-4, 3e-4, 1e-3, 3e-3)),
        Method(TENTHS, partial(local, "M", share=1 / STEPS), LOCAL, usual=0),
        Method("K-FAC", _kfac, _pairs("damping", (0.3, 1e-3), (0.3, 3e-3), (0.3, 1e-2),
                                      (1.0, 3e-3)), usual=0),
        Method("Adam", _torch(torch.optim.Adam), _rates(3e-4, 1e-3, 3e-3, 1e-2)),
        Method("SGD, momentum", _torch(torch.optim.SGD, momentum=0.9),
               _rates(1e-3, 3e-3, 1e-2, 3e-2)),
        Method("SGD", _torch(torch.optim.SGD), _rates(1e-2, 3e-2, 1e-1, 3e-1)),
        Method("Shampoo", shampoo, _rates(2.5e-3, 5e-3, 1e-2, 2e-2)),
        Method("SOAP", soap, _rates(1e-3, 3e-3, 1e-2, 3e-2)),
        Method(WHOLE, partial(local, "M"), tuned_as=TENTHS),
        Method("LocoProp-S, tenths", partial(local, "S", share=1 / STEPS), LOCAL),
        Method("LocoProp-S", partial(local, "S"), tuned_as="LocoProp-S, tenths"),
    )
}  # fmt: skip
LATE = ("LocoProp-S, tenths", "LocoProp-S")  # the weaker variant: after equal time
NEEDS = {"K-FAC": "curvlinops", "Shampoo": "pytorch_optimizer", "SOAP": "pytorch_optimizer"}


def study(data: str, quick: bool = False, keep: str | None = None) -> Answer:
    """Return losses on MNIST and on pictures of Fashion, and how the settings were chosen.

    Interrupted (Ctrl-C), it returns the rows that are there.

    Args:
        data: folder with ``mnist/mnist.npz`` and ``fashion_mnist/fashion900.npz``.
        quick: one epoch and one seed of four methods, with their usual settings.
        keep: folder for the runs so far, from which a study that was broken off goes on.

    Raises:
        FileNotFoundError: if a file is missing.
    """
    bench = Bench(mnist(data, 1 if quick else 10), Journal(keep, "locoprop-mnist"), quick)
    found, notes = gathered(bench.runs())
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row, run in found:
        rows.setdefault(row, []).append(run)
    return _answer(bench.task, rows, notes)


class Bench:
    """The runs of one task, in order, each made once.

    Args:
        task: pictures and network.
        journal: what is known already.
        quick: no tuning, and only the methods of the bar.
    """

    def __init__(self, task: Task, journal: Journal, quick: bool = False) -> None:
        self.task, self.journal, self.quick = task, journal, quick
        there = installed()
        left_out = {name for name, library in NEEDS.items() if not there[library]}
        wanted = BAR if quick else tuple(METHODS)
        self.methods = [METHODS[name] for name in wanted if name not in left_out]

    def run(
        self, method: Method, setting: Setting, seed: int, epochs: int, repeats: int = 1
    ) -> Any:
        """Return one run: losses, seconds, setting."""
        about = {"task": self.task.name, "method": method.name, "setting": setting,
                 "seed": seed, "epochs": epochs, "repeats": repeats}  # fmt: skip

        def find() -> dict[str, Any]:
            found = train(self.task, method.build(**setting), seed, epochs=epochs, repeats=repeats)
            return {**found, "setting": setting}

        return self.journal.row(about, find)

    def tried(self, method: Method) -> list[dict[str, Any]]:
        """Return the short runs of a method's settings."""
        tuned = METHODS[method.tuned_as or method.name]
        return [self.run(tuned, setting, TUNED_WITH, 1) for setting in tuned.grid]

    def setting(self, method: Method) -> Setting:
        """Return the setting whose short run left the lowest training loss, if it lasts.

        What is stable for one epoch need not be so for ten: a setting whose long run, with the
        first seed, ends above its short run gives way to the next best.
        """
        if self.quick:
            return method.grid[method.usual]
        ranked = sorted(self.tried(method), key=lambda run: float(run["train"]))
        for short in ranked:
            long = self.run(method, short["setting"], SEEDS[0], self.task.epochs)
            if long["train"] <= short["train"]:
                break
        chosen: Setting = short["setting"]
        return chosen

    def runs(self) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Yield what is compared and the method, with a run, in the order of what they say."""
        for seed in SEEDS[:1] if self.quick else SEEDS:
            found: dict[str, Any] = {}
            yield from self._equal_batches(found, seed, LATE, False)
            if not self.quick:
                yield self._equal_time(found, seed, TENTHS)
                yield from self._equal_batches(found, seed, LATE, True)
                yield self._equal_time(found, seed, WHOLE)
                rival, setting = METHODS["RMSProp"], found["RMSProp"]["setting"]
                run = self.run(rival, setting, seed, self.task.epochs, STEPS)
                yield (GRADIENTS, f"RMSProp, every batch {STEPS} times"), run

    def _equal_batches(
        self, found: dict[str, Any], seed: int, names: tuple[str, ...], inside: bool
    ) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
        """Run the methods that are among some names, or those that are not; note what is found."""
        for method in self.methods:
            if (method.name in names) == inside:
                run = self.run(method, self.setting(method), seed, self.task.epochs)
                found[method.name] = run
                told = "" if self.quick else _told(self.tried(method))
                yield (SAME, method.name), run | {"tried": told}

    def _equal_time(
        self, found: dict[str, Any], seed: int, name: str
    ) -> tuple[tuple[str, str], dict[str, Any]]:
        """Run RMSProp for as many epochs as fit into the time of a method."""
        rival = found["RMSProp"]
        epochs = round(self.task.epochs * found[name]["seconds"] / rival["seconds"])
        run = self.run(METHODS["RMSProp"], rival["setting"], seed, epochs)
        return (TIME, f"RMSProp, as long as {name}"), run


def _told(runs: list[dict[str, Any]]) -> str:
    """Write down settings and the losses that they led to."""
    return "; ".join(f"{_named(run['setting'])}: {run['train']:.1f}" for run in runs)


def _named(setting: Setting) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def _answer(
    task: Task, rows: dict[tuple[str, str], list[dict[str, Any]]], notes: list[str]
) -> Answer:
    """Return means and deviations over seeds."""
    made: list[dict[str, Any]] = []
    for (compared, name), runs in rows.items():
        mean = {k: float(np.mean([r[k] for r in runs]))
                for k in (*task.parts, "seconds", "epochs")}  # fmt: skip
        single = np.mean([r["seconds"] / r["epochs"] for r in rows[SAME, "RMSProp"]])
        losses = [r["train"] for r in runs]
        made.append({
            "compared at": compared, "method": name, "setting": _named(runs[0]["setting"]),
            "epochs": mean["epochs"], "train": mean["train"],
            "deviation": float(np.std(losses, ddof=1)) if len(losses) > 1 else float("nan"),
            **{part: mean[part] for part in task.parts if part != "train"},
            "seconds": mean["seconds"],
            "step, RMSProp = 1": mean["seconds"] / mean["epochs"] / single,
            "seeds": len(runs), "tried, one epoch": runs[0].get("tried", ""),
        })  # fmt: skip
    same = [row for row in made if row["compared at"] == SAME]
    return Answer(
        {k: [r[k] for r in made] for k in made[0]} if made else {},
        title=f"reconstruction loss of {task.name}, nats a picture, {task.epochs} epoch(s)",
        notes=[
            *behind_second_order(same, (TENTHS, WHOLE)),
            "setting: of those tried, the one with the lowest training loss after one epoch, but "
            f"none that ends higher after {task.epochs}; whole batches take that of their tenths",
            "tenths: local steps after the first see a tenth of the batch each",
            "fashion: pictures of a kind that the network has never seen",
            *notes,
        ],
    )
