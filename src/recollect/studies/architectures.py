"""Which of several trained networks sees the world most alike, module by module?

Every network watches the same pictures and keeps one sketch of each, with a recipe and a seed of
its own. Two networks are compared by what they remember, never by what they computed: the sketches
are read with each network's own prior, and modules are compared by linear centred kernel alignment
(CKA) of what is read. The rival is linear CKA of the activations themselves. Whole networks are
also compared by the sketches' inner products alone, without a prior or any reading.

Reference: "Similarity of neural network representations revisited" (Kornblith, Norouzi, Lee and
Hinton, 2019).

Shape letters: B pictures, m and n numbers of two modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recollect._answers import Answer
from recollect.sketching import Prior, Sketcher
from recollect.studies.trained_networks import loaders
from recollect.tracing import Trace, trace

__all__ = ["draw", "linear_cka", "study"]

# Pictures that the networks learn from, that priors know, and that are compared (digits).
TRAINED, KNOWN = 800, 1300


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return how alike two representations of the same pictures are, 0 to 1.

    ``|Y' X|^2 / (|X' X| |Y' Y|)`` of centred columns; turning or scaling either changes nothing.

    Args:
        x: (B, m).
        y: (B, n).

    Returns:
        The alignment; NaN if one of them is constant.

    Raises:
        ValueError: if the pictures are not as many, or fewer than 2.

    Example:
        >>> x = torch.randn(50, 4, generator=torch.manual_seed(0))
        >>> round(linear_cka(x, 3 * x.flip(1) + 1), 6)
        1.0
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(
            f"two representations of the same pictures are compared, two pictures at least, got "
            f"{len(x)} and {len(y)}"
        )
    x, y = (v.to(torch.float64) - v.to(torch.float64).mean(0) for v in (x, y))
    size = float((x.T @ x).norm() * (y.T @ y).norm())
    return float((y.T @ x).square().sum()) / size if size > 0 else float("nan")


def study(quick: bool = False, data: str | None = None) -> Answer:
    """Return how alike each pair of networks is: from sketches beside from activations.

    Args:
        quick: a shorter training, or fewer pictures.
        data: folder of trained networks; without it small ones are trained on digits.

    Raises:
        ImportError: if scikit-learn is missing, or with ``data`` outside a checkout.
    """
    dim = 256 if data is None else 1024
    seen = _digits(quick) if data is None else _trained(data, quick)
    cut = int(0.6 * len(next(iter(seen.values()))))
    remembered = {
        name: _remembered(t[:cut], t[cut:], dim, seed)
        for seed, (name, t) in enumerate(seen.items())
    }
    exact = {name: _parts(t[cut:]) for name, t in seen.items()}
    rows: list[dict[str, Any]] = []
    for a, b in combinations(seen, 2):
        true = _table(exact[a], exact[b])
        found = _table(remembered[a][0], remembered[b][0])
        rows.append(
            {
                "network": a,
                "other": b,
                "alike, activations": _alike(true),
                "alike, sketches": _alike(found),
                "worst module pair": float(np.abs(true - found).max()),
                "same match": float((true.argmax(1) == found.argmax(1)).mean()),
                "whole, activations": linear_cka(_side(exact[a]), _side(exact[b])),
                "whole, sketches": linear_cka(remembered[a][1], remembered[b][1]),
            }
        )
    rows.sort(key=lambda r: -r["alike, sketches"])
    total = {
        n: [r["alike, sketches"] for r in rows if n in (r["network"], r["other"])] for n in seen
    }
    most = max(total, key=lambda n: float(np.mean(total[n])))
    return Answer(
        {k: [r[k] for r in rows] for k in rows[0]},
        title="which networks see the world most alike, from what they remember",
        notes=[
            f"most alike to all others: {most}; sketches of {dim} int8 numbers",
            "alike: mean over all modules of CKA with the best matching module of the other",
            "whole, sketches: inner products of sketches alone, no prior, nothing read",
        ],
    )


def _remembered(
    known: Trace, shown: Trace, dim: int, seed: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what is read of each module from sketches, and the sketches' values."""
    sketcher = Sketcher(dim=dim, seed=seed)
    sketcher.admit(known, measure_scales=True)
    sketches = sketcher.encode(shown)
    read = sketcher.decode(sketches, prior=Prior.fit(known)).trace()
    return _parts(read), sketches.values


def _parts(t: Trace) -> dict[str, Tensor]:
    """Return module -> (B, m) in the order of execution."""
    order = sorted(t.columns.values(), key=lambda c: int(c.rank[0]))
    return {c.name: c.attributes.reshape(len(t), -1) for c in order}


def _side(parts: Mapping[str, Tensor]) -> Tensor:
    """Return all modules side by side, each of unit deviation, as sketches hold them."""
    scaled = [x / x.std(0).square().sum().sqrt().clamp_min(1e-12) for x in parts.values()]
    return torch.cat(scaled, 1)


def _table(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> np.ndarray[Any, Any]:
    """Return CKA of every module of one with every module of the other; constant ones are 0."""
    table = [[linear_cka(x, y) for y in b.values()] for x in a.values()]
    return np.asarray(np.nan_to_num(np.array(table)))


def _alike(table: np.ndarray[Any, Any]) -> float:
    """Mean alignment of each module, of both networks, with its best match."""
    return float(np.concatenate([table.max(1), table.max(0)]).mean())


# -- networks -----------------------------------------------------------------------------


class _Pictures(nn.Module):
    """Rows of 64 numbers as 8 x 8 pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 1, 8, 8)


def _plain(widths: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in zip((64, *widths), widths, strict=False):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


def _convolutional() -> nn.Sequential:
    return nn.Sequential(
        _Pictures(), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


_NETWORKS: dict[str, tuple[int, Callable[[], nn.Sequential]]] = {
    "wide": (0, lambda: _plain((256, 256), nn.ReLU)),
    "wide, other seed": (1, lambda: _plain((256, 256), nn.ReLU)),
    "deep": (0, lambda: _plain((96, 96, 96, 96), nn.ReLU)),
    "tanh": (0, lambda: _plain((256, 256), nn.Tanh)),
    "convolutional": (0, _convolutional),
}


def _digits(quick: bool) -> dict[str, Trace]:
    """Train five small networks on digits; return what each saw of the other digits."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'this study reads scikit-learn\'s digits: pip install "recollect[demo]"'
        ) from error
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    pictures = torch.from_numpy((x[order] / 16).astype(np.float32))
    labels = torch.from_numpy(y[order].astype(np.int64))
    found = {}
    for name, (seed, make) in _NETWORKS.items():
        network = _train(make, pictures[:TRAINED], labels[:TRAINED], seed, 8 if quick else 40)
        layers = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        found[name] = trace(network, pictures[TRAINED:], modules=layers)
    return found


def _train(
    make: Callable[[], nn.Sequential], x: Tensor, y: Tensor, seed: int, epochs: int
) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(x)), 64):
                loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return network.eval()


def _trained(data: str, quick: bool) -> dict[str, Trace]:
    """Let the trained networks of the data folder watch the same CIFAR-10 pictures."""
    from PIL import Image

    networks = loaders("networks")
    folder = networks.data_folder(data)
    stored = np.load(folder / "cifar10/cifar10_lossless_3000.npz")["x"][: 120 if quick else 500]
    found = {}
    for name in ("resnet20", "resnet32", "resnet56", "mobilenet_v2"):
        network, preprocess = getattr(networks, name)(folder)
        parts = []
        for start in range(0, len(stored), 50):
            batch = [preprocess(Image.fromarray(x)) for x in stored[start : start + 50]]
            chosen = ["add*"] if name == "mobilenet_v2" else None
            parts.append(trace(network, torch.stack(batch), modules=chosen))
        found[name] = Trace.concat(parts)
    return found


def draw(answer: Answer, path: str) -> None:
    """Draw alignment from sketches over alignment from activations, a point for each pair.

    Raises:
        ImportError: if matplotlib is missing.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for kind, colour in (("alike", "#1b6ca8"), ("whole", "#e08e0b")):
        axes.plot(
            answer[f"{kind}, activations"], answer[f"{kind}, sketches"], "o", color=colour,
            label={"alike": "module by module", "whole": "whole networks"}[kind],
        )  # fmt: skip
    drawn = [
        v for k in answer.columns if k.endswith(("activations", "sketches")) for v in answer[k]
    ]
    low = np.floor(10 * min(drawn) - 0.2) / 10
    axes.set(xlabel="linear CKA of activations", ylabel="linear CKA from sketches",
             xlim=(low, 1), ylim=(low, 1))  # fmt: skip
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
