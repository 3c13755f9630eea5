"""Which modules of a network are watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from recollect._checks import unknown_name

__all__ = ["Modules", "choose_blocks", "choose_modules", "choose_nested", "original"]

# What `modules=` takes: None, a name or pattern, a type, a predicate, or several of the former.
Modules = str | type[nn.Module] | Callable[[str, nn.Module], bool] | Iterable[Any] | None

# The largest kinds of modules are opened until there are at least so many.
ENOUGH = 8
# Containers that only hold modules: their children stand for them.
_HOLDERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Modules without anything of their own to say: what they do is seen in their neighbours.
_SILENT = (nn.Identity, nn.Flatten, nn.Unflatten, nn.modules.dropout._DropoutNd)


def original(model: nn.Module) -> nn.Module:
    """Return the module behind a ``torch.compile``d one (else the module itself).

    Raises:
        TypeError: if it is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to watch, got {type(model).__name__}")
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def choose_modules(model: nn.Module, modules: Modules = None) -> dict[str, nn.Module]:
    """Return the modules to watch, by name, in the network's order.

    Args:
        model: the network.
        modules: None for its blocks; a name or a pattern (``"layer*.conv1"``), a type, a
            predicate ``(name, module) -> bool``, or several names, patterns and types.

    Raises:
        ValueError: if nothing is chosen.
        NotRemembered: if a plain name is not in the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> list(choose_modules(net)), list(choose_modules(net, nn.ReLU))
        (['0', '2'], ['1'])
    """
    if modules is None:
        chosen = choose_blocks(model)
    else:
        single = isinstance(modules, str | type) or callable(modules)
        wishes = [modules] if single else list(modules)  # type: ignore[arg-type]
        known = {name: m for name, m in model.named_modules() if name}
        for wish in wishes:
            if isinstance(wish, str) and not _is_pattern(wish) and wish not in known:
                raise unknown_name("module of the network", wish, known)
        chosen = {n: m for n, m in known.items() if any(_matches(w, n, m) for w in wishes)}
    if not chosen:
        names = [name for name, _ in model.named_modules() if name]
        shown = ", ".join(names[:6]) or "none: it has no children"
        raise ValueError(
            f"no module of {type(model).__name__} is watched with modules={modules!r}; pass "
            f"names, patterns such as 'layer*' or types such as torch.nn.Conv2d. Its modules are "
            f"{shown}"
        )
    return chosen


def _is_pattern(text: str) -> bool:
    return any(c in text for c in "*?[")


def _matches(wish: Any, name: str, module: nn.Module) -> bool:
    if isinstance(wish, str):
        return name == wish or (_is_pattern(wish) and fnmatchcase(name, wish))
    if isinstance(wish, type):
        return isinstance(module, wish)
    if callable(wish):
        return bool(wish(name, module))
    raise TypeError(f"modules takes names, patterns, types or a callable, got {wish!r}")


def choose_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Choose blocks rather than leaves: the largest kinds are opened until there are eight.

    Containers (``Sequential``, ``ModuleList``) are always opened; dropout, identity, activations
    and the like are left out.
    """
    front = _children("", model)
    while len(front) < ENOUGH:
        size: dict[type, int] = {}
        for m in front.values():
            if _children("", m):
                size[type(m)] = max(size.get(type(m), 0), sum(p.numel() for p in m.parameters()))
        if not size:
            break
        largest = max(size, key=lambda kind: size[kind])
        opened: dict[str, nn.Module] = {}
        for name, m in front.items():
            opened.update(_children(name, m) if type(m) is largest else {name: m})
        front = opened
    if not front and not _is_silent(model) and not isinstance(model, _HOLDERS):
        return {type(model).__name__: model}
    return _in_order(model, front)


def choose_nested(model: nn.Module, depth: int = 3) -> dict[str, nn.Module]:
    """Choose stages, their blocks, and the layers of these: ``depth`` levels of modules."""
    level = _inner("", model)
    while len(level) == 1:  # a wrapper such as `model.backbone`
        below = _inner(*next(iter(level.items())))
        if not below:
            break
        level = below
    chosen: dict[str, nn.Module] = {}
    for _ in range(depth):
        chosen.update({name: m for name, m in level.items() if not _is_silent(m)})
        level = {n: c for name, m in level.items() for n, c in _inner(name, m).items()}
    return _in_order(model, chosen)


def _inner(prefix: str, module: nn.Module) -> dict[str, nn.Module]:
    """Return the children by name; a holder that is no stage of its own is opened."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if _is_transparent(module, child, is_top=not prefix):
            found.update(_inner(full, child))
        else:
            found[full] = child
    return found


def _is_transparent(parent: nn.Module, child: nn.Module, is_top: bool) -> bool:
    """Whether a child only holds stages, or only holds the blocks of the stage around it."""
    if type(child) in (nn.ModuleList, nn.ModuleDict):
        return True
    if type(child) is not nn.Sequential:
        return False
    if is_top:
        return any(_holds_blocks(m) for m in child)
    return type(parent) is not nn.Sequential and any(_has_children(m) for m in child)


def _holds_blocks(module: nn.Module) -> bool:
    """Whether a holder of modules that have children stands in it."""
    holders = (h for h in module.modules() if type(h) in _HOLDERS)
    return any(_has_children(block) for holder in holders for block in holder.children())


def _has_children(module: nn.Module) -> bool:
    return next(module.children(), None) is not None


def _children(prefix: str, module: nn.Module) -> dict[str, nn.Module]:
    """Return the speaking children by name, containers opened."""
    found: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        full = f"{prefix}.{name}" if prefix else name
        if type(child) in _HOLDERS:
            found.update(_children(full, child))
        elif not _is_silent(child):
            found[full] = child
    return found


def _is_silent(module: nn.Module) -> bool:
    """Whether a module is left out by default: dropout, identity, an activation."""
    if isinstance(module, nn.MultiheadAttention):
        return False
    kind = type(module)
    plain = kind.__module__ == "torch.nn.modules.activation" or isinstance(module, _SILENT)
    return plain or kind.__name__ in ("DropPath", "PatchDropout")


def _in_order(model: nn.Module, chosen: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Sort by the network's own order and drop a module that stands under two names."""
    return {name: m for name, m in model.named_modules() if name in chosen}
