"""Networks of timm, torchvision and transformers, built from a configuration."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from recollect import trace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    timm = pytest.importorskip("timm")
    torchvision = pytest.importorskip("torchvision")
    transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("name", "size", "block", "width"),
    [
        ("resnet18", 64, "layer4.1", 512),
        ("vit_tiny_patch16_224", 224, "blocks.11", 192),
        ("convnext_atto", 64, "stages.3.blocks.1", 320),
        ("swin_tiny_patch4_window7_224", 224, "layers.3.blocks.1", 768),
    ],
)
def test_timm(name: str, size: int, block: str, width: int) -> None:
    model, x = timm.create_model(name, num_classes=7).eval(), torch.randn(2, 3, size, size)
    t = trace(model, x)
    assert t.coverage.is_complete
    assert t.objects(block).attributes.shape == (2, width)
    assert 8 <= len(t.modules) <= 24
    torch.testing.assert_close(t.columns[list(t.columns)[-1]].attributes, model(x))
    assert trace(model, x, view="classes", top=2).columns["classes"].size == width
    nested = trace(model, x, structure="containment")
    depths = {len(p) for c in nested.columns.values() for p in nested.paths(c.glance, c.rank)}
    assert depths == {1, 2, 3}
    assert any(n.split(".")[-1] in ("attn", "conv1", "mlp") for n in nested.modules)


def test_torchvision_classifier() -> None:
    model, x = torchvision.models.mobilenet_v2(num_classes=3).eval(), torch.randn(2, 3, 64, 64)
    t = trace(model, x)
    assert t.coverage.is_complete
    assert t.modules[0] == "features.0"
    assert trace(model, x, view="classes").columns["classes"].size == 1280


def test_torchvision_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.ops.boxes._assert_has_ops", lambda: None)
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    pictures = [torch.rand(3, 60, 80), torch.rand(3, 90, 40)]
    names = ["background", "cat", "dog"]
    # its boxes are in pixels of each picture, so every box must end inside the unit square
    t = trace(model, pictures, modules="backbone", view="detections", labels=names, threshold=0.3)
    expected = model(pictures)
    count = [int((e["scores"] >= 0.3).sum()) for e in expected]
    assert sum(count) > 0
    found = [m for m in t.modules if m in names]
    assert sum(len(t.objects(m)) for m in found) == sum(count)
    boxes = torch.cat([t.objects(m).attributes[:, 1:5] for m in found])
    assert boxes.min() >= 0
    assert boxes.max() <= 1


def _configured(kind: str) -> tuple[Any, dict[str, Any]]:
    small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    ids = torch.randint(3, 40, (3, 7))
    if kind == "bert":
        config = transformers.BertConfig(**small, num_hidden_layers=6, vocab_size=40)
        return transformers.BertModel(config), {"input_ids": ids}
    if kind == "gpt2":
        config = transformers.GPT2Config(
            n_embd=16, n_layer=6, n_head=2, vocab_size=40, bos_token_id=1, eos_token_id=2
        )
        return transformers.GPT2LMHeadModel(config), {"input_ids": ids}
    config = transformers.ViTConfig(
        **small, num_hidden_layers=6, image_size=32, patch_size=8, num_labels=3
    )
    return transformers.ViTForImageClassification(config), {
        "pixel_values": torch.randn(3, 3, 32, 32)
    }


@pytest.mark.parametrize(
    ("kind", "block"),
    [("bert", "encoder.layer.5"), ("gpt2", "transformer.h.5"), ("vit", "vit.layers.5")],
)
def test_transformers(kind: str, block: str) -> None:
    model, batch = _configured(kind)
    model.eval()
    t = trace(model, batch)
    assert len(t) == 3
    assert t.objects(block).attributes.shape == (3, 16)
    assert t.coverage.never_fired == ()
    if kind == "vit":
        classes = trace(model, batch, view="classes", top=2)
        assert classes.modules == ("LABEL_0", "LABEL_1", "LABEL_2")
        assert classes.columns["classes"].size == 16
        grid = trace(model, batch, modules=block, view="cells", cells=4)
        assert len(grid.columns[block].members) == 16
