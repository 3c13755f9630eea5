"""Traces as plain arrays, for files: nothing but numbers and a JSON header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from recollect.tracing.columns import Column, Edges, Trace

__all__ = ["half_if_it_fits", "trace_from_arrays", "trace_to_arrays"]

# The largest number of a float16.
_HALF = 65504.0

Array = npt.NDArray[Any]


def trace_to_arrays(trace: Trace, dtype: npt.DTypeLike = np.float32) -> dict[str, Array]:
    """Return a trace as plain arrays; ``trace_from_arrays`` reads them again.

    Args:
        trace: any trace.
        dtype: of the attributes; float16 halves the size and rounds.

    Example:
        >>> t = Trace.from_columns({"eye": torch.eye(2)})
        >>> trace_from_arrays(trace_to_arrays(t))
        Trace(2 glances, 1 module, 2 objects)
    """
    header = {
        "glances": trace.num_glances,
        "families": [{"name": c.name, "members": c.members} for c in trace.columns.values()],
        "edges": trace.edges is not None,
    }
    arrays: dict[str, Array] = {
        "header": np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    }
    for i, c in enumerate(trace.columns.values()):
        arrays[f"{i}.attributes"] = c.attributes.cpu().numpy().astype(dtype)
        # A static family's structure is implied by the number of glances.
        if not (trace.edges is None and c.is_dense(len(trace)) and (c.weight == 1).all()):
            arrays |= {f"{i}.glance": c.glance, f"{i}.member": c.member, f"{i}.weight": c.weight}
        arrays[f"{i}.rank"] = c.rank.astype(np.int32)
    if trace.edges is not None:
        e = trace.edges
        arrays |= {"e.glance": e.glance, "e.parent": e.parent, "e.child": e.child}
        arrays["e.weight"] = e.weight
    if trace.references is not None:
        r = trace.references
        arrays |= {"r.glance": r.glance, "r.parent": r.parent, "r.child": r.child}
    return arrays


def half_if_it_fits(trace: Trace) -> type[np.float16 | np.float32]:
    """Return float16 if it can hold all attributes of a trace, else float32.

    Example:
        >>> half_if_it_fits(Trace.from_columns({"eye": torch.eye(2) * 1e6}))
        <class 'numpy.float32'>
    """
    found = [float(c.attributes.abs().max()) for c in trace.columns.values() if len(c)]
    return np.float16 if max(found, default=0.0) <= _HALF else np.float32


def trace_from_arrays(arrays: Mapping[str, Array]) -> Trace:
    """Read what ``trace_to_arrays`` wrote.

    Raises:
        KeyError: if an array is missing.
    """
    header = json.loads(bytes(arrays["header"]).decode())
    total = int(header["glances"])
    columns = {}
    for i, family in enumerate(header["families"]):
        name, members = family["name"], tuple(family["members"])
        attributes = torch.from_numpy(np.asarray(arrays[f"{i}.attributes"], dtype=np.float32))
        k = len(members)
        if f"{i}.glance" in arrays:
            glance, member = arrays[f"{i}.glance"], arrays[f"{i}.member"]
            weight = arrays[f"{i}.weight"]
        else:
            glance = np.repeat(np.arange(total), k)
            member, weight = np.tile(np.arange(k), total), np.ones(total * k, np.float32)
        rank = np.asarray(arrays[f"{i}.rank"], dtype=np.int64)
        columns[name] = Column(name, members, attributes, glance, member, rank, weight)
    edges = None
    if header["edges"]:
        edges = Edges(
            arrays["e.glance"], arrays["e.parent"], arrays["e.child"], arrays["e.weight"]
        )
    references = None
    if "r.glance" in arrays:
        weight = np.ones(len(arrays["r.glance"]), dtype=np.float32)
        references = Edges(arrays["r.glance"], arrays["r.parent"], arrays["r.child"], weight)
    return Trace(columns, total, edges, references=references)
