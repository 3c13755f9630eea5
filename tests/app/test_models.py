"""Networks by name: factories, exported programs and hubs, without any download."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from recollect import trace
from recollect.app.models import load_model, plain_preprocess

FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2)
        self.second = nn.Sequential(nn.ReLU(), nn.Conv2d(width, 5, 3), nn.AdaptiveAvgPool2d(1))
    def forward(self, x):
        return self.second(self.first(x)).flatten(1)

def plain():
    torch.manual_seed(0)
    return Net().train()

def both(width="4"):
    return Net(int(width)), lambda image: torch.zeros(3, 9, 9)

number = lambda: 3
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_networks.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)
    return tmp_path


@pytest.fixture
def image() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8))


def test_a_factory_in_the_current_folder(home: Path, image: Image.Image) -> None:
    model = load_model("my_networks:plain?size=32")
    assert not model.module.training
    x = model.preprocess(image)
    assert x.shape == (3, 32, 32)
    assert trace(model.module, model.collate([x, x])).modules


def test_a_factory_with_its_own_preprocessing_and_options(home: Path, image: Image.Image) -> None:
    model = load_model("my_networks:both?width=7")
    assert model.preprocess(image).shape == (3, 9, 9)
    assert model.module.first.out_channels == 7


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("resnet18", ValueError, "is of no known form; expected timm:NAME"),
        ("nowhere.at_all:factory", ValueError, "there is no module 'nowhere.at_all'"),
        ("my_networks:absent", ValueError, "has no 'absent'"),
        ("my_networks:number", ValueError, "must return a torch.nn.Module"),
        ("absent.pt2", FileNotFoundError, "there is no file"),
        ("bad.pt2", ValueError, "is not a program of torch.export.save"),
        ("my_networks:plain?size=32&channels=2", ValueError, "channels must be 1 or 3"),
        ("my_networks:plain?mean=grey", ValueError, "mean and std are numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_names_that_lead_nowhere(
    home: Path, name: str, error: type[Exception], match: str
) -> None:
    (home / "bad.pt2").write_bytes(b"no program")
    with pytest.raises(error, match=match):
        load_model(name)


def exported(path: Path, batch: int, free: bool) -> nn.Module:
    sys.path.insert(0, str(path.parent))
    try:
        from my_networks import plain
    finally:
        sys.path.remove(str(path.parent))
    network = plain().eval()
    shapes = ({0: torch.export.Dim("batch")},) if free else None
    program = torch.export.export(network, (torch.ones(batch, 3, 24, 32),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return network  # type: ignore[no-any-return]


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.filterwarnings("ignore")
def test_an_exported_program_keeps_its_modules_size_and_batch(
    home: Path, image: Image.Image, free: bool
) -> None:
    network = exported(home / "net.pt2", 4, free)
    model = load_model("net.pt2")
    assert model.batch == (None if free else 4)
    x = model.preprocess(image)
    assert x.shape == (3, 24, 32)
    batch = model.collate([x, x, x])
    assert len(batch) == (3 if free else 4)
    t = trace(model.module, batch, modules=["first", "second"])
    expected = trace(network, batch, modules=["first", "second"])
    assert t.modules == ("first", "second")
    for name in t.modules:
        assert torch.allclose(t.objects(name).attributes, expected.objects(name).attributes)


def test_plain_preprocessing_is_plain(image: Image.Image) -> None:
    x = plain_preprocess({"size": "20x30", "channels": "1", "mean": "0", "std": "1"})(image)
    assert x.shape == (1, 20, 30)
    expected = np.asarray(image.convert("L").resize((30, 20)), np.float32) / 255
    assert np.allclose(x[0].numpy(), expected)


def test_torchvision_without_weights(image: Image.Image) -> None:
    pytest.importorskip("torchvision")
    model = load_model("torchvision:resnet18?pretrained=false")
    assert model.preprocess(image).shape == (3, 224, 224)
    assert model.classes is not None
    assert len(model.classes) == 1000
    with pytest.raises(ValueError, match="'torchvision:resnet0' could not be loaded"):
        load_model("torchvision:resnet0")
    with pytest.raises(ValueError, match="pretrained must be true or false"):
        load_model("torchvision:resnet18?pretrained=perhaps")


def test_timm_without_weights(image: Image.Image) -> None:
    pytest.importorskip("timm")
    model = load_model("timm:resnet10t?pretrained=false")
    x = model.preprocess(image)
    assert x.shape[0] == 3
    assert trace(model.module, model.collate([x])).modules
    with pytest.raises(ValueError, match="could not be loaded"):
        load_model("timm:resnet0?pretrained=false")


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_from_a_local_folder(tmp_path: Path, image: Image.Image) -> None:
    hub = pytest.importorskip("transformers")
    config = hub.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                           intermediate_size=32, image_size=32, patch_size=8)  # fmt: skip
    hub.ViTModel(config).save_pretrained(tmp_path)
    hub.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}?class=ViTModel")
    x = model.preprocess(image)
    assert x.shape == (3, 32, 32)
    batch = model.collate([x, x])
    assert set(batch) == {"pixel_values"}
    assert len(trace(model.module, batch)) == 2
    with pytest.raises(ValueError, match="transformers has no class 'Nothing'"):
        load_model(f"hf:{tmp_path}?class=Nothing")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_model(f"hf:{tmp_path / 'absent'}")
