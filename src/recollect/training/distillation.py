"""DAFT: a wide teacher learns, is fine-tuned on adversarial examples, and teaches a small student.

What is published is the order of the three steps; the losses within them are our reconstruction,
and each reading is an option.

Shape letters: D domains, B examples of a batch, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recollect._checks import check_integer, check_one_of
from recollect._seeds import seed_of
from recollect.training.adversarial import (
    Attack,
    divergence,
    robust_loss,
    trained_parameters,
)
from recollect.training.domains import Domain, batches_of

__all__ = ["DAFT", "DAFTConfig", "DistillationLoss"]

Minibatches = Sequence[tuple[Tensor, Tensor]]


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
        >>> from torch.utils.data import TensorDataset
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
        self._last = ""
        self._first: list[nn.Module] = []  # a list, so that it is no part of the state
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
        device = next(self.teacher.parameters()).device
        x, y = (torch.cat(list(part)).to(device) for part in zip(*minibatches, strict=True))
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
                start = self._first[0](x) if self._first else None
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
            if c.attack.reference == "start":
                self._first = [copy.deepcopy(self.teacher)]
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
