"""Names of a package that are loaded when first used, so that an import waits for nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

__all__ = ["late_names"]


def late_names(
    package: str, where: Mapping[str, str], names: Sequence[str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package, as PEP 562 has them.

    Args:
        package: its ``__name__``.
        where: the module that each late name is in; the name of a sub-module stands for itself.
        names: all public names, for ``dir``.

    Example:
        >>> load, listed = late_names("json", {"tool": "json.tool", "scanstring": "json.decoder"},
        ...                           ["scanstring", "tool"])
        >>> load("tool").__name__, load("scanstring").__name__, listed()
        ('json.tool', 'scanstring', ['scanstring', 'tool'])
        >>> load("dump_all")
        Traceback (most recent call last):
        AttributeError: module 'json' has no attribute 'dump_all'
    """

    def load(name: str) -> Any:
        if name not in where:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(where[name])
        value = module if where[name] == f"{package}.{name}" else getattr(module, name)
        vars(sys.modules[package])[name] = value
        return value

    return load, lambda: sorted(names)
