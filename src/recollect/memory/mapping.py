"""Sketch tiers read where they lie in Lance's files, mapped into memory instead of decoded.

Lance keeps a column of fixed-size lists without nulls as plain numbers, row after row, in a few
pages of its file (the layout ``FullZip`` with ``Flat`` values). The file's own metadata says so,
and where each page begins. What says anything else is not mapped: the caller then asks Lance.
Mapped rows cost no copy and no decoding: the first tier of 200,000 glances is ready in 2 ms
instead of 70 (``benchmarks/scale.py``).

Shape letters: n rows of a piece, w numbers of a tier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Codes", "map_tiers"]

Codes = npt.NDArray[Any]

# What an encoding says when its values lie as they are; white space is left out.
_FLAT = re.compile(
    r"FullZipLayout\{bits_rep:0,bits_def:0,num_items:(\d+),num_visible_items:\1,"
    r"value_compression:Some\(CompressiveEncoding\{compression:Some\(FixedSizeList\("
    r"FixedSizeList\{items_per_value:(\d+),has_validity:false,values:Some\("
    r"CompressiveEncoding\{compression:Some\(Flat\(Flat\{bits_per_value:(\d+),data:None,?\}"
)


def map_tiers(
    fragment: Any, folder: Path, widths: Mapping[str, int], dtype: np.dtype[Any]
) -> dict[str, list[Codes]]:
    """Map the tiers of one fragment of a Lance dataset.

    Args:
        fragment: a ``LanceFragment`` without deleted rows.
        folder: of the dataset's data files.
        widths: tier name -> w.
        dtype: of the numbers.

    Returns:
        tier name -> read-only (n, w) pieces, in the order of the rows; a tier that does not lie
        plainly in one file is left out.
    """
    found: dict[str, list[Codes]] = {}
    for data_file in fragment.metadata.files:
        try:
            found |= _map_file(folder / data_file.path, widths, dtype)
        except (OSError, ValueError, RuntimeError):
            continue  # Lance will read it, or say what is wrong
    rows = fragment.metadata.physical_rows
    return {name: p for name, p in found.items() if sum(map(len, p)) == rows}


def _map_file(
    path: Path, widths: Mapping[str, int], dtype: np.dtype[Any]
) -> dict[str, list[Codes]]:
    from lance.file import LanceFileReader

    about = LanceFileReader(str(path)).metadata()
    names = about.schema.names
    if len(names) != len(about.columns):
        return {}
    raw = np.memmap(path, np.uint8, "r")
    found = {}
    for name, column in zip(names, about.columns, strict=True):
        if name in widths:
            pieces = [_map_page(raw, page, widths[name], dtype) for page in column.pages]
            plain = [p for p in pieces if p is not None]
            if len(plain) == len(pieces):
                found[name] = plain
    return found


def _map_page(raw: Codes, page: Any, width: int, dtype: np.dtype[Any]) -> Codes | None:
    """Return the (n, w) numbers of a page; None if they do not lie there as they are."""
    said = _FLAT.search(re.sub(r"\s", "", str(page.encoding)))
    if said is None or len(page.buffers) != 1:
        return None
    rows, items, bits = map(int, said.groups())
    start, size = page.buffers[0].position, page.buffers[0].size
    if items != width or bits != 8 * dtype.itemsize or size != rows * width * dtype.itemsize:
        return None
    return raw[start : start + size].view(dtype).reshape(rows, width)
