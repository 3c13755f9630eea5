"""Trained networks from the data folder, one ``nn.Module`` per operation, so that hooks fire.

Each factory returns ``(module, preprocess)`` and serves as ``--model benchmarks.networks:NAME``.
The folder is found by ``folder=`` or by the environment variable ``RECOLLECT_DATA``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from recollect.tracing.detections import Detection, unit_box

Preprocess = Callable[[Image.Image], Tensor]


def data_folder(folder: str | Path | None = None) -> Path:
    """Return the data folder, or say how to name it."""
    found = folder or os.environ.get("RECOLLECT_DATA")
    if not found or not Path(found).is_dir():
        raise FileNotFoundError(
            f"no data folder at {found!r}: pass --data FOLDER or set RECOLLECT_DATA to the folder "
            "that holds weights/ and scenes/"
        )
    return Path(found)


def labels(name: str, folder: str | Path | None = None) -> list[str]:
    """Return the class names of ``weights/labels/NAME.json``."""
    return list(json.loads((data_folder(folder) / f"weights/labels/{name}.json").read_text()))


def activated(y: Tensor, act: str | None) -> Tensor:
    """Apply an operation's fused activation, in place."""
    if act is None:
        return y
    return F.relu6(y, inplace=True) if act == "relu6" else F.relu(y, inplace=True)


class Convolution(nn.Module):
    """Convolution with its padding and activation."""

    def __init__(self, op: dict[str, Any], weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.out_channels = len(weight)
        left, right, top, bottom = op["pad"]
        self.even = left == right and top == bottom
        self.pad, self.inner = op["pad"], (top, left)
        self.stride, self.dilation, self.groups = op["stride"], op["dilation"], op["groups"]
        self.act = op.get("act")

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner if self.even else (0, 0)
        if not self.even:
            x = F.pad(x, self.pad)
        y = F.conv2d(x, self.weight, self.bias, self.stride, inner, self.dilation, self.groups)
        return activated(y, self.act)


class Linear(nn.Linear):
    """Linear map of everything after the batch axis."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias is not None)
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class Operation(nn.Module):
    """An operation without parameters."""

    def __init__(self, function: Callable[..., Tensor], act: str | None = None) -> None:
        super().__init__()
        self.function, self.act = function, act

    def forward(self, *inputs: Tensor) -> Tensor:
        return activated(self.function(*inputs), self.act)


def _plain(o: dict[str, Any]) -> Callable[..., Tensor]:
    """Return the function of an operation without parameters."""
    table: dict[str, Callable[..., Tensor]] = {
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "cat": lambda *parts: torch.cat(parts, o["dim"]),
        "sigmoid": torch.sigmoid,
        "softmax": lambda x: torch.softmax(x, o["dim"]),
        "maxpool": lambda x: F.max_pool2d(
            F.pad(x, o["pad"], value=float("-inf")), o["k"], o["stride"]
        ),
        "avgpool": lambda x: F.avg_pool2d(F.pad(x, o["pad"]), o["k"], o["stride"]),
        "gap": lambda x: x.mean((2, 3), keepdim=True),
        "id": lambda x: x,
        "pad": lambda x: F.pad(x, o["pad"]),
        "tile": lambda x: x.expand(-1, -1, *o["size"]),
        "slice": lambda x: x[tuple(slice(*part) for part in o["s"])],
        "index": lambda x: x.select(o["dim"], o["i"]),
        # The files were made for one picture: their leading 1 stands for the batch.
        "reshape": lambda x: x.reshape(
            [x.shape[k] if k == 0 or size == 0 else size for k, size in enumerate(o["shape"])]
        ),
        "permute": lambda x: x.permute(o["dims"]),
        "nearest": lambda x: F.interpolate(x, scale_factor=o["scale"], mode="nearest"),
        "bilinear": lambda x: F.interpolate(
            x, size=o["size"], mode="bilinear", align_corners=o["align"]
        ),
        "argmax": lambda x: x.argmax(o["dim"]),
    }
    return table[o["op"]]


class Graph(nn.Module):
    """A network of a graph file; child ``conv000`` is operation 0, ``add010`` operation 10.

    Results are dropped as soon as nothing needs them.
    """

    def __init__(self, stem: str | Path) -> None:
        super().__init__()
        from safetensors.torch import load_file

        graph = json.loads(Path(f"{stem}.graph.json").read_text())
        stored = load_file(f"{stem}.safetensors")
        self.source, self.result = graph["input"], graph["output"][0]
        self.plan: list[tuple[str, list[str], str, list[str]]] = []
        last = {name: k for k, o in enumerate(graph["ops"]) for name in o["in"]}
        self.made: dict[str, str] = {}
        for k, o in enumerate(graph["ops"]):
            name = f"{o['op']}{k:03d}"
            self.add_module(name, _operation(o, stored))
            spent = [n for n in set(o["in"]) if last[n] == k]
            self.plan.append((name, o["in"], o["out"], spent))
            self.made[o["out"]] = name

    def forward(self, x: Tensor) -> Tensor:
        values = {self.source: x}
        for name, inputs, out, spent in self.plan:
            values[out] = getattr(self, name)(*[values[n] for n in inputs])
            for gone in spent:
                del values[gone]
        return values[self.result]


def _operation(o: dict[str, Any], stored: dict[str, Tensor]) -> nn.Module:
    weight, bias = (_parameter(o, key, stored) for key in ("w", "b"))
    if o["op"] == "conv":
        assert weight is not None
        return Convolution(o, weight, bias)
    if o["op"] == "linear":
        assert weight is not None
        return Linear(weight, bias)
    return Operation(_plain(o), o.get("act"))


def _parameter(o: dict[str, Any], key: str, stored: dict[str, Tensor]) -> Tensor | None:
    """Return a parameter as float32; quantised ones are (code - zero) x scale."""
    if key not in o:
        return None
    name = o[key]
    t = stored[name].float()
    if name + ".scale" in stored:
        shape = [-1] + [1] * (t.dim() - 1)
        t = t - stored[name + ".zero"].float().reshape(shape)
        t = t * stored[name + ".scale"].reshape(shape)
    return t


# -- classifiers --------------------------------------------------------------------------


def _pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return a picture as (3, height, width) float pixels 0..255."""
    small = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float()


def _classifier(name: str, size: int, folder: str | Path | None) -> tuple[nn.Module, Preprocess]:
    model = Graph(data_folder(folder) / "weights" / name).eval()
    return model, lambda image: (_pixels(image, (size, size)) - 128) / 128


def mobilenet_v2(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """MobileNetV2 for 1001 ImageNet classes; modules ``conv*`` and ``add*``."""
    return _classifier("mobilenet_v2_1.0_224_imagenet", 224, folder)


def mobilenet_v1(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """MobileNetV1 0.25 at 128 pixels, 1001 ImageNet classes."""
    return _classifier("mobilenet_v1_0.25_128_imagenet", 128, folder)


def bird_net(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """MobileNetV2 for 965 birds."""
    return _classifier("mobilenet_v2_1.0_224_inat_bird", 224, folder)


def deeplab(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """DeepLabV3 on a MobileNetV2: the class of each pixel, 21 classes."""
    return _classifier("deeplabv3_mnv2_dm05_pascal", 513, folder)


# -- CIFAR-10 residual networks -----------------------------------------------------------


class Shortcut(nn.Module):
    """Every second pixel, and zero channels on both sides (option A)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra = channels // 4

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra, self.extra))


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inside: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Identity() if inside == channels else Shortcut(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet of depth 6 n + 2 for 32 x 32 pictures."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        for k in (1, 2, 3):
            inside, channels = widths[k - 1], widths[k]
            stage = [BasicBlock(inside, channels, 1 if k == 1 else 2)]
            stage += [BasicBlock(channels, channels, 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{k}", nn.Sequential(*stage))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            y = stage(y)
        return self.linear(y.mean((2, 3)))


def _cifar(depth: int, folder: str | Path | None) -> tuple[nn.Module, Preprocess]:
    from safetensors.torch import load_file

    model = CifarResNet((depth - 2) // 6)
    stored = load_file(data_folder(folder) / f"weights/resnet{depth}_cifar10.safetensors")
    missing, unexpected = model.load_state_dict(stored, strict=False)
    absent = [k for k in missing if not k.endswith("num_batches_tracked")]
    if absent or unexpected:
        raise ValueError(f"other parameters than expected: {absent}, {unexpected}")
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    return model.eval(), lambda image: (_pixels(image, (32, 32)) / 255 - mean) / std


def resnet20(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """ResNet-20 for CIFAR-10."""
    return _cifar(20, folder)


def resnet32(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """ResNet-32 for CIFAR-10."""
    return _cifar(32, folder)


def resnet56(folder: str | Path | None = None) -> tuple[nn.Module, Preprocess]:
    """ResNet-56 for CIFAR-10."""
    return _cifar(56, folder)


# -- the detector -------------------------------------------------------------------------

# Where each level's boxes are read: the 64 channels that enter its head.
YOLOX_FEATURES = {8: "mul267", 16: "mul300", 32: "mul333"}
# Three stages of the backbone and the three levels of the neck.
YOLOX_STAGES = ("mul083", "mul129", "mul167", "mul212", "mul238", "mul264")


def letterbox(image: Image.Image, width: int = 416, height: int = 416) -> Tensor:
    """Return BGR pixels (3, height, width), scaled to fit, from the top left, 114 around."""
    ratio = min(width / image.width, height / image.height)
    inner = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    out = torch.full((3, height, width), 114.0)
    out[:, : inner[1], : inner[0]] = _pixels(image, inner).flip(0)
    return out


class Yolox(Graph):
    """YOLOX with its own reading of its output, as ``view="detections"`` takes it."""

    detection_features = tuple(YOLOX_FEATURES.values())
    detection_stages = YOLOX_STAGES

    def __init__(
        self, stem: Path, names: Sequence[str], width: int, height: int, threshold: float
    ) -> None:
        super().__init__(stem)
        self.names, self.width, self.height = list(names), width, height
        self.threshold = threshold

    def detections(self, output: Tensor) -> list[list[Detection]]:
        """Return what was found in each picture; boxes are fractions of the letterboxed one."""
        return yolox_detections(output, self.names, self.width, self.height, self.threshold)


def yolox_nano(
    folder: str | Path | None = None, width: int = 416, height: int = 416, threshold: float = 0.3
) -> tuple[nn.Module, Preprocess]:
    """YOLOX-nano, 80 kinds of objects; watch it with ``view="detections"``."""
    stem = data_folder(folder) / "weights/yolox_nano_coco"
    model = Yolox(stem, labels("coco80", folder), width, height, threshold).eval()
    return model, lambda image: letterbox(image, width, height)


def yolox_detections(
    output: Tensor,
    names: Sequence[str],
    width: int = 416,
    height: int = 416,
    threshold: float = 0.3,
    overlap: float = 0.45,
) -> list[list[Detection]]:
    """Decode (B, N, 85) YOLOX output: boxes, then suppression of overlaps within each class."""
    grids, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = torch.meshgrid(
            torch.arange(height // stride), torch.arange(width // stride), indexing="ij"
        )
        grids.append(torch.stack([columns.reshape(-1), rows.reshape(-1)], 1))
        strides.append(torch.full((len(grids[-1]),), stride))
    grid, stride_of = torch.cat(grids), torch.cat(strides)
    centre = (output[..., :2] + grid) * stride_of[:, None]
    size = output[..., 2:4].exp() * stride_of[:, None]
    score, kind = (output[..., 4:5] * output[..., 5:]).max(-1)
    corners = torch.cat([centre - size / 2, centre + size / 2], -1)
    return [
        [
            Detection(
                names[int(kind[b, i])],
                float(score[b, i]),
                unit_box(corners[b, i].tolist(), width, height),
                YOLOX_FEATURES[int(stride_of[i])],
            )
            for i in suppress(corners[b], score[b], kind[b], threshold, overlap)
        ]
        for b in range(len(output))
    ]


def suppress(
    corners: Tensor, score: Tensor, kind: Tensor, threshold: float, overlap: float
) -> list[int]:
    """Return the rows to keep, best first: greedy non-maximum suppression by class."""
    rows = (score >= threshold).nonzero()[:, 0]
    rows = rows[score[rows].argsort(descending=True, stable=True)]
    kept: list[int] = []
    while len(rows):
        best = int(rows[0])
        kept.append(best)
        a, others = corners[best], corners[rows]
        low, high = torch.maximum(a[:2], others[:, :2]), torch.minimum(a[2:], others[:, 2:])
        shared = (high - low).clamp_min(0).prod(1)
        area = (a[2:] - a[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
        rows = rows[(shared / area <= overlap) | (kind[rows] != kind[best])]
        rows = rows[rows != best]
    return kept
