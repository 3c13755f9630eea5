"""DAFT: a wide teacher learns, is fine-tuned on adversarial examples, and teaches a small student.

What is published is the order of the three steps; the losses within them are our reconstruction,
and each reading is an option.

Shape letters: D domains, B examples of a batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from recollect._answers import Answer
from recollect._checks import check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.training.adversarial import (
    Attack,
    divergence,
    robust_loss,
    trained_parameters,
)

__all__ = [
    "DAFT",
    "DAFTConfig",
    "DistillationLoss",
    "image_folder_domains",
    "leave_one_domain_out",
]

Domain = Dataset[Any]
Minibatches = Sequence[tuple[Tensor, Tensor]]
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


class DistillationLoss(nn.Module):
    r"""Labels and the teacher's soft labels together.

    alpha CE(S, y) + (1 - alpha) tau^2 KL( softmax(T / tau) || softmax(S / tau) ), mean over B.

    Args:
        alpha: weight of the labels, in [0, 1].
        tau: temperature; tau^2 keeps the size of gradients.

    Raises:
        ValueError: for numbers out of range.

    Reference: Distilling the Knowledge in a Neural Network (Hinton, Vinyals, Dean, 2015)

    Example:
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
        >>> float(DistillationLoss(alpha=1.0)(student, teacher, torch.tensor([0])))
        0.6931471824645996
    """

    def __init__(self, alpha: float = 0.1, tau: float = 2.0) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if not tau > 0:
            raise ValueError(f"tau must be positive, got {tau}")
        self.alpha, self.tau = alpha, tau

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits (B, K), (B, K) and labels (B,).

        Raises:
            ValueError: if student and teacher have different classes.
        """
        if student.shape != teacher.shape:
            raise ValueError(
                "student and teacher must name the same classes, got logits "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        soft = divergence(teacher.detach() / self.tau, student / self.tau).mean()
        hard = F.cross_entropy(student, labels)
        return self.alpha * hard + (1 - self.alpha) * self.tau**2 * soft


@dataclass(frozen=True)
class DAFTConfig:
    """The three steps of DAFT.

    Attributes:
        attack: the adversarial examples of the second step.
        scope: what the second step trains: ``"full"``, ``"head"`` (frozen features, the literal
            reading of the abstract) or ``"backbone"`` (a head that must stay).
        alpha: weight of the labels in the third step.
        tau: temperature of the third step.
        adversarial_distillation: whether the student also learns what the teacher says to
            examples that are adversarial for the student.
        teacher_steps: of ordinary training; 0 if the teacher comes trained.
        finetune_steps: of adversarial fine-tuning; 0 gives plain distillation.
        student_steps: of distillation.
        batch_size: B, drawn from each domain.
        lr: of Adam, for teacher and student.
        finetune_lr: of Adam, for the second step.
        seed: of batches and attacks.
    """

    attack: Attack
    scope: str = "full"
    alpha: float = 0.1
    tau: float = 2.0
    adversarial_distillation: bool = False
    teacher_steps: int = 800
    finetune_steps: int = 400
    student_steps: int = 800
    batch_size: int = 64
    lr: float = 1e-3
    finetune_lr: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("scope", self.scope, ("full", "head", "backbone"))
        for name in ("teacher_steps", "finetune_steps", "student_steps"):
            check_integer(name, getattr(self, name), minimum=0)
        check_integer("batch_size", self.batch_size, minimum=1)


class DAFT(nn.Module):
    """Distilling adversarially fine-tuned models, one step per call, as in DomainBed.

    ``update`` takes a batch of each domain and does the step whose turn it is: ordinary training
    of the teacher, its adversarial fine-tuning, then distillation to the student. ``fit`` draws
    the batches too. ``predict`` asks the student.

    Args:
        teacher: wide network, inputs -> logits (B, K).
        student: small network with the same classes.
        config: see ``DAFTConfig``.

    Reference: DAFT: Distilling Adversarially Fine-tuned Models for Better OOD Generalization
    (Nasery, Addepalli, Netrapalli, Jain, 2022); our reading of its steps.

    Example:
        >>> teacher, student = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> x, y = torch.rand(20, 2), torch.arange(20) % 2
        >>> domains = {name: TensorDataset(x, y) for name in ("day", "dusk")}
        >>> config = DAFTConfig(Attack(0.1), teacher_steps=3, finetune_steps=2, student_steps=4)
        >>> daft = DAFT(teacher, student, config).fit(domains)
        >>> daft.predict(x).shape
        torch.Size([20, 2])
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, config: DAFTConfig) -> None:
        super().__init__()
        self.teacher, self.student, self.config = teacher, student, config
        self.loss = DistillationLoss(config.alpha, config.tau)
        self.steps_done = 0
        self.start: nn.Module | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._draws = torch.Generator().manual_seed(seed_of(config.seed, "attack"))

    @property
    def phase(self) -> str:
        """What the next ``update`` does: ``"train"``, ``"fine-tune"`` or ``"distil"``."""
        c = self.config
        if self.steps_done < c.teacher_steps:
            return "train"
        return "fine-tune" if self.steps_done < c.teacher_steps + c.finetune_steps else "distil"

    def update(self, minibatches: Minibatches, unlabeled: Any = None) -> dict[str, float]:
        """Take one step on a batch (x, y) of each domain; return the loss.

        Raises:
            ValueError: if there is no batch, the classes of teacher and student differ, or the
                teacher was put into train mode before distillation.
        """
        if not minibatches:
            raise ValueError("expected one batch (x, y) for each domain, got none")
        x, y = (torch.cat(list(part)) for part in zip(*minibatches, strict=True))
        phase = self.phase
        if self._optimizer is None or phase != self._last:
            self._begin(phase)
        assert self._optimizer is not None
        if phase == "distil":
            loss = self.distillation(x, y)
        elif phase == "train":
            loss = F.cross_entropy(self.teacher(x), y)
        else:
            with torch.no_grad():
                start = None if self.start is None else self.start(x)
            loss = robust_loss(self.teacher, self.config.attack, x, y, start, self._draws)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.steps_done += 1
        return {"loss": float(loss.detach())}

    def _begin(self, phase: str) -> None:
        """Prepare networks and optimiser for a phase."""
        c, self._last = self.config, phase
        if phase == "train":
            self.teacher.train()
            self._optimizer = torch.optim.Adam(self.teacher.parameters(), c.lr)
        elif phase == "fine-tune":
            self.teacher.eval()  # adversarial examples leave no trace in running statistics
            self.start = copy.deepcopy(self.teacher) if c.attack.reference == "start" else None
            self._optimizer = torch.optim.Adam(
                trained_parameters(self.teacher, c.scope), c.finetune_lr
            )
        else:
            self.teacher.eval()
            self.student.train()
            self._optimizer = torch.optim.Adam(self.student.parameters(), c.lr)

    def distillation(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the student's loss, a scalar, on inputs x and labels y (B,).

        Raises:
            ValueError: if the teacher is in train mode.
        """
        if any(m.training for m in self.teacher.modules()):
            raise ValueError(
                "the teacher is in train mode: dropout and running statistics would blur what it "
                "teaches; call teacher.eval()"
            )
        with torch.no_grad():
            soft = self.teacher(x)
        loss: Tensor = self.loss(self.student(x), soft, y)
        if self.config.adversarial_distillation:
            self.student.eval()
            worse = self.config.attack.on(self.student, x, y, self._draws)
            with torch.no_grad():
                soft = self.teacher(worse)
            tau = self.config.tau
            gap = divergence(soft / tau, self.student(worse) / tau).mean()
            self.student.train()
            loss = loss + (1 - self.config.alpha) * tau**2 * gap
        return loss

    def fit(self, domains: Mapping[str, Domain]) -> DAFT:
        """Train teacher and student on all domains; return self, both in eval mode.

        Raises:
            ValueError: if there are fewer than two domains or their classes differ.
        """
        for minibatches in batches_of(domains, self.config.batch_size, self.config.seed):
            c = self.config
            if self.steps_done >= c.teacher_steps + c.finetune_steps + c.student_steps:
                break
            self.update(minibatches)
        self.eval()
        return self

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the student's logits (B, K)."""
        logits: Tensor = self.student(x)
        return logits


def batches_of(
    domains: Mapping[str, Domain], batch_size: int, seed: int = 0
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Yield, without end, a batch of each domain; each is walked in an order of its own.

    Raises:
        ValueError: if there are fewer than two domains or their classes differ.

    >>> one = TensorDataset(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> x, y = next(batches_of({"a": one, "b": one}, 3))[1]
    >>> x.shape
    torch.Size([3, 2])
    """
    held = checked_domains(domains)
    draws = torch.Generator().manual_seed(seed_of(seed, "batches"))
    orders: dict[str, Tensor] = {name: torch.empty(0, dtype=torch.long) for name in held}
    while True:
        found = []
        for name, (x, y) in held.items():
            while len(orders[name]) < min(batch_size, len(y)):
                more = torch.randperm(len(y), generator=draws)
                orders[name] = torch.cat([orders[name], more])
            rows, orders[name] = orders[name][:batch_size], orders[name][batch_size:]
            found.append((x[rows], y[rows]))
        yield found


def checked_domains(domains: Mapping[str, Domain]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the tensors of each domain, or refuse them.

    Raises:
        ValueError: if there are fewer than two domains or their classes differ.

    >>> one = TensorDataset(torch.rand(2, 3), torch.tensor([0, 1]))
    >>> checked_domains({"a": one, "b": one})["a"][0].shape
    torch.Size([2, 3])
    """
    if len(domains) < 2:
        raise ValueError(
            f"expected at least two domains, got {list(domains)}: what they share cannot be told "
            "from one"
        )
    held = {name: tensors_of(data) for name, data in domains.items()}
    kinds = {name: sorted(set(y.tolist())) for name, (_, y) in held.items()}
    first = next(iter(kinds))
    for name, classes in kinds.items():
        if classes != kinds[first]:
            raise ValueError(
                f"domains must share their classes: {first!r} has {kinds[first]}, {name!r} has "
                f"{classes}"
            )
    return held


def tensors_of(data: Domain) -> tuple[Tensor, Tensor]:
    """Return inputs (N, ...) and labels (N,) of a data set.

    >>> tensors_of([(torch.zeros(2), torch.tensor(1))])[1]
    tensor([1])
    """
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1]
    pairs = [data[i] for i in range(len(data))]  # type: ignore[arg-type]
    return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


Trainer = Callable[[dict[str, Domain]], Callable[[Tensor], Tensor]]


def leave_one_domain_out(
    domains: Mapping[str, Domain],
    trainers: Mapping[str, Trainer],
    *,
    held_out: Sequence[str] | None = None,
    validation: float = 0.2,
    seed: int = 0,
) -> Answer:
    """Hold out each domain in turn; train on the others, choose by them, judge on the held-out.

    Candidates are chosen by training-domain validation (DomainBed's rule): by their mean accuracy
    on a part kept from each source domain (the same rows where domains have one length, so that
    versions of one picture stay together). The held-out domain chooses nothing.

    Args:
        domains: name -> data; at least three, so that two are left.
        trainers: name -> function of source domains that returns a predictor of logits.
        held_out: domains that are left out in turn; all by default.
        validation: share of each source domain that is kept for the choice.
        seed: of the split.

    Returns:
        A row for each held-out domain and trainer: validation accuracy, accuracy on the held-out
        domain, and whether this trainer is chosen.

    Raises:
        ValueError: for too few domains, other classes, or a share outside (0, 1).

    Example:
        >>> x = torch.rand(30, 2)
        >>> domains = {name: TensorDataset(x, (x[:, 0] > 0.5).long()) for name in "abc"}
        >>> def oracle(sources):
        ...     return lambda x: torch.stack([0.5 - x[:, 0], x[:, 0] - 0.5], 1)
        >>> leave_one_domain_out(domains, {"oracle": oracle})["unseen"]
        [1.0, 1.0, 1.0]
    """
    if not 0 < validation < 1:
        raise ValueError(f"validation must lie in (0, 1), got {validation}")
    if len(domains) < 3:
        raise ValueError(f"expected at least three domains, got {list(domains)}")
    held = checked_domains(domains)
    rows: list[dict[str, Any]] = []
    for unseen in held if held_out is None else held_out:
        if unseen not in held:
            raise ValueError(f"there is no domain {unseen!r} to hold out, only {list(held)}")
        x_out, y_out = held[unseen]
        sources: dict[str, Domain] = {}
        kept = []
        for name, (x, y) in held.items():
            if name == unseen:
                continue
            draws = torch.Generator().manual_seed(seed_of(seed, "validation"))
            order = torch.randperm(len(y), generator=draws)
            cut = max(1, round(validation * len(y)))
            sources[name] = TensorDataset(x[order[cut:]], y[order[cut:]])
            kept.append((x[order[:cut]], y[order[:cut]]))
        found = []
        for name, trainer in trainers.items():
            predict = trainer(sources)
            chosen_by = float(np.mean([accuracy(predict, *part) for part in kept]))
            found.append((name, chosen_by, accuracy(predict, x_out, y_out)))
        best = max(score for _, score, _ in found)
        rows += [
            {"held out": unseen, "method": n, "validation": v, "unseen": a, "chosen": v == best}
            for n, v, a in found
        ]
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="accuracy with each domain left out, chosen by the other domains",
    )


@torch.no_grad()
def accuracy(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """Return the share of right classes.

    >>> accuracy(lambda x: x, torch.eye(2), torch.tensor([0, 0]))
    0.5
    """
    return float((predict(x).argmax(1) == y).float().mean())


def image_folder_domains(root: str | Path, side: int = 64) -> dict[str, Domain]:
    """Read pictures from ``root/domain/class/*``, the layout of DomainBed.

    Args:
        root: folder.
        side: pictures are resized to side x side.

    Returns:
        domain -> pictures (N, 3, side, side) in [0, 1] and labels (N,) of the sorted class names.

    Raises:
        FileNotFoundError: if there is no picture in this layout.
        ValueError: if the domains have different class folders.
    """
    from PIL import Image

    check_integer("side", side, minimum=1)
    found: dict[str, Domain] = {}
    classes: dict[str, list[str]] = {}
    for domain in sorted(p for p in Path(root).glob("*") if p.is_dir()):
        kinds = classes[domain.name] = sorted(p.name for p in domain.iterdir() if p.is_dir())
        pictures, labels = [], []
        for number, kind in enumerate(kinds):
            for file in sorted((domain / kind).iterdir()):
                if file.suffix.lower() in _SUFFIXES:
                    with Image.open(file) as opened:
                        picture = opened.convert("RGB").resize((side, side))
                    pictures.append(np.asarray(picture, np.float32) / 255)
                    labels.append(number)
        if pictures:
            x = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
            found[domain.name] = TensorDataset(x, torch.tensor(labels))
    if not found:
        raise FileNotFoundError(
            f"{root} holds no pictures as DOMAIN/CLASS/NAME.jpg (or png, bmp, webp)"
        )
    first = next(iter(found))
    for name in found:
        if classes[name] != classes[first]:
            raise ValueError(
                f"class folders differ: {first!r} has {classes[first]}, {name!r} {classes[name]}"
            )
    return found
