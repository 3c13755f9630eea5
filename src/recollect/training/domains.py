"""Domains: several data sets of one task, walked together, and left out in turn.

Shape letters: N examples of a domain, B of a batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from recollect._answers import Answer
from recollect._checks import check_integer
from recollect._seeds import seed_of

__all__ = [
    "Domain",
    "accuracy",
    "batches_of",
    "image_folder_domains",
    "leave_one_domain_out",
]

Domain = Dataset[Any]
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


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
