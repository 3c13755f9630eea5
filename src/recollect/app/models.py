"""Networks by name: hubs (timm, torchvision, Hugging Face), factories, exported programs.

A name is ``KIND:NAME`` or a path, with options after a question mark:

    timm:resnet18                         weights from the hub, its own preprocessing
    timm:resnet18?pretrained=false        random weights, for trying things out
    torchvision:resnet50
    hf:google/vit-base-patch16-224?class=AutoModelForImageClassification
    package.module:factory                a callable: the module, or (module, preprocess)
    network.pt2?size=64&mean=0.5&std=0.5  written by torch.export.save
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["Model", "load_model"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FORMS = "timm:NAME, torchvision:NAME, hf:NAME, package.module:factory, or the path of a .pt2 file"


@dataclass(frozen=True)
class Model:
    """A network, and how a picture becomes its input.

    Attributes:
        name: as it was asked for.
        module: the network, in evaluation mode.
        preprocess: PIL picture -> one input (a tensor without the batch axis, or whatever
            ``collate`` takes).
        argument: name of the argument that the batch is passed as; None: the first one.
        batch: the only batch size that the network takes, None if any.
        classes: names of its classes, where the hub knows them.
    """

    name: str
    module: Any
    preprocess: Callable[[Any], Any]
    argument: str | None = None
    batch: int | None = None
    classes: list[str] | None = None

    def collate(self, inputs: Sequence[Any]) -> Any:
        """Stack inputs to a batch, padded with the last one if the batch size is fixed."""
        import torch

        rows = [torch.as_tensor(x) for x in inputs]
        if self.batch is not None:
            rows += [rows[-1]] * (self.batch - len(rows))
        stacked = torch.stack(rows)
        return {self.argument: stacked} if self.argument else stacked


def load_model(name: str) -> Model:
    """Load a network by name; the forms are in the description of this module.

    Raises:
        ValueError: on a name of no known form, or a network that cannot be loaded.
        ImportError: if the library behind it is not installed, with the command that installs it.
        FileNotFoundError: if there is no such file.
    """
    spec, _, query = name.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    kind, colon, rest = spec.partition(":")
    if spec.endswith(".pt2"):
        return _exported(name, Path(spec).expanduser(), options)
    hubs = {"timm": _timm, "torchvision": _torchvision, "hf": _hugging_face}
    if colon and kind in hubs:
        return hubs[kind](name, rest, options)
    if colon and rest.isidentifier() and all(p.isidentifier() for p in kind.split(".")):
        return _factory(name, kind, rest, options)
    raise ValueError(f"--model {name!r} is of no known form; expected {FORMS}")


def _pretrained(options: Mapping[str, str]) -> bool:
    value = options.get("pretrained", "true").lower()
    if value not in {"true", "false", "1", "0", "yes", "no"}:
        raise ValueError(f"pretrained must be true or false, got {value!r}")
    return value in {"true", "1", "yes"}


def _library(module: str, extra: str) -> Any:
    """Import a hub's library, or say how to install it."""
    try:
        return importlib.import_module(module)
    # A library that does not fit the installed torch fails with a RuntimeError.
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"this --model needs {module}, which could not be imported ({error}): "
            f"pip install {extra}"
        ) from error


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    """Run a hub's loading code; what goes wrong there is said in one line."""
    try:
        return load()
    except (ImportError, KeyboardInterrupt):
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{name!r} could not be loaded: {first[0]}; is the name right, and can its weights "
            "be downloaded (?pretrained=false takes random ones)?"
        ) from error


def _timm(name: str, rest: str, options: Mapping[str, str]) -> Model:
    timm = _library("timm", '"recollect[timm]"')
    network = _loaded(name, lambda: timm.create_model(rest, pretrained=_pretrained(options)))
    config = timm.data.resolve_data_config({}, model=network)
    transform = timm.data.create_transform(**config)
    return Model(name, network.eval(), transform, classes=_timm_classes(timm, network))


def _timm_classes(timm: Any, network: Any) -> list[str] | None:
    """Return ImageNet's names if the network has ImageNet's classes."""
    subset = timm.data.infer_imagenet_subset(network)
    if subset is None:
        return None
    names = timm.data.ImageNetInfo(subset)
    return [names.index_to_description(i) for i in range(names.num_classes())]


def _torchvision(name: str, rest: str, options: Mapping[str, str]) -> Model:
    models = _library("torchvision.models", "torchvision")

    def load() -> tuple[Any, Any]:
        weights = models.get_model_weights(rest).DEFAULT
        chosen = weights if _pretrained(options) else None
        return models.get_model(rest, weights=chosen), weights

    network, weights = _loaded(name, load)
    return Model(
        name, network.eval(), weights.transforms(), classes=weights.meta.get("categories")
    )


def _hugging_face(name: str, rest: str, options: Mapping[str, str]) -> Model:
    hub = _library("transformers", '"recollect[hf]"')
    loader = getattr(hub, options.get("class", "AutoModel"), None)
    if loader is None:
        raise ValueError(f"transformers has no class {options['class']!r}")

    def load() -> tuple[Any, Any]:
        if _pretrained(options):
            network = loader.from_pretrained(rest)
        else:
            network = loader.from_config(hub.AutoConfig.from_pretrained(rest))
        return network, hub.AutoImageProcessor.from_pretrained(rest)

    network, processor = _loaded(name, load)

    def preprocess(image: Any) -> Any:
        return processor(images=image, return_tensors="pt")["pixel_values"][0]

    return Model(name, network.eval(), preprocess, argument="pixel_values")


def _factory(name: str, module: str, attribute: str, options: Mapping[str, str]) -> Model:
    # A factory in the folder where one stands should be found, as `python -m` finds it.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        home = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise ValueError(
            f"--model {name!r}: there is no module {module!r}; expected {FORMS}"
        ) from error
    if not hasattr(home, attribute):
        raise ValueError(f"--model {name!r}: module {module!r} has no {attribute!r}")
    own = {k: v for k, v in options.items() if k not in {"size", "mean", "std", "channels"}}
    made = getattr(home, attribute)(**own)
    network, preprocess = made if isinstance(made, tuple) else (made, None)
    if not callable(getattr(network, "named_modules", None)):
        raise ValueError(
            f"--model {name!r} must return a torch.nn.Module, or (module, preprocess); got "
            f"{type(network).__name__}"
        )
    return Model(name, network.eval(), preprocess or plain_preprocess(options))


def _exported(name: str, path: Path, options: Mapping[str, str]) -> Model:
    import torch

    if not path.is_file():
        raise FileNotFoundError(f"--model {name!r}: there is no file {path}")
    try:
        program = torch.export.load(path)
    except Exception as error:
        raise ValueError(f"{path.name} is not a program of torch.export.save: {error}") from error
    # unflatten gives back the tree of modules, so that hooks fire; module() is one flat graph.
    network = torch.export.unflatten(program)
    shape = _input_shape(program)
    sized = dict(options)
    batch = None
    if shape is not None and len(shape) == 4:
        batch = shape[0] if isinstance(shape[0], int) else None
        if isinstance(shape[2], int) and isinstance(shape[3], int):
            sized.setdefault("size", f"{shape[2]}x{shape[3]}")
        if shape[1] in (1, 3):
            sized.setdefault("channels", str(shape[1]))
    return Model(name, network, plain_preprocess(sized), batch=batch)


def _input_shape(program: Any) -> list[Any] | None:
    """Return the shape of an exported program's first input; free sizes are not integers."""
    wanted = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in wanted:
            value = node.meta.get("val")
            return None if value is None else list(getattr(value, "shape", []))
    return None


def plain_preprocess(options: Mapping[str, str]) -> Callable[[Any], Any]:
    """Return a preprocessing for networks that bring none.

    Options: ``size`` (224, or 48x64: height x width), ``channels`` (3 or 1), ``mean`` and ``std``
    (one number or one per channel; ImageNet's without, ``mean=0&std=1`` for plain 0..1).
    """
    import numpy as np
    import torch

    height, _, width = options.get("size", "224").partition("x")
    channels = int(options.get("channels", "3"))
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    size = (int(width or height), int(height))
    gray = ((0.5,), (0.5,))
    usual_mean, usual_std = IMAGENET if channels == 3 else gray
    mean = _numbers(options.get("mean"), usual_mean)
    std = _numbers(options.get("std"), usual_std)

    def preprocess(image: Any) -> Any:
        resized = image.convert("RGB" if channels == 3 else "L").resize(size)
        pixels = np.asarray(resized, dtype=np.float32).reshape(size[1], size[0], channels) / 255
        scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))

    return preprocess


def _numbers(text: str | None, usual: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return usual
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(
            f"mean and std are numbers such as 0.5 or 0.5,0.4,0.4, got {text!r}"
        ) from error
