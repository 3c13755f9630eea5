"""Trained networks and pictures of a data folder, read by the repository's ``benchmarks``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recollect.tracing import Trace, trace

__all__ = ["loaders", "mobilenet_on_cifar10"]


def loaders(name: str) -> Any:
    """Import a module of the repository's ``benchmarks`` folder, such as ``"networks"``.

    Raises:
        ImportError: outside a checkout, where there is no such folder.
    """
    if (Path.cwd() / "benchmarks").is_dir() and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "the networks of the data folder are read by benchmarks/networks.py: run this study "
            "from a checkout of the repository"
        ) from error


def mobilenet_on_cifar10(data: str | Path, number: int) -> tuple[Trace, np.ndarray[Any, Any]]:
    """Let MobileNetV2 see exact pictures of CIFAR-10.

    Args:
        data: folder with weights/ and cifar10/.
        number: of pictures, at most 3,000.

    Returns:
        All convolution and sum outputs (63 modules, 18,849 numbers), and the pictures' classes.

    Raises:
        ImportError: outside a checkout of the repository.
        FileNotFoundError: if there is no such folder.
    """
    from PIL import Image

    networks = loaders("networks")
    folder = networks.data_folder(data)
    model, preprocess = networks.mobilenet_v2(folder)
    wanted = [n for n, _ in model.named_modules() if n.startswith(("conv", "add"))]
    stored = np.load(folder / "cifar10/cifar10_lossless_3000.npz")
    shown = (preprocess(Image.fromarray(x)) for x in stored["x"][:number])
    parts, batch = [], []
    for x in shown:
        batch.append(x)
        if len(batch) == 25:
            parts.append(trace(model, torch.stack(batch), modules=wanted))
            batch = []
    if batch:
        parts.append(trace(model, torch.stack(batch), modules=wanted))
    return Trace.concat(parts), stored["y"][:number].astype(np.int64)
