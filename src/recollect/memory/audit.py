"""Looking over a memory: verify, export, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recollect._checks import CorruptMemory
from recollect.memory.blocks import Where
from recollect.memory.clock import iso
from recollect.memory.engine import Engine
from recollect.memory.epochs import read_basis
from recollect.memory.layout import size_of
from recollect.memory.priors import prior_file
from recollect.memory.report import Report
from recollect.memory.rows import FOLDER
from recollect.memory.tiers import channel_kept

__all__ = ["export", "info", "lengths", "verify"]


def verify(engine: Engine) -> Report:
    """Compute the roll-ups from the rows and compare; check ids, skeletons and records."""
    checked: list[str] = []
    problems: list[str] = []
    try:
        _, fragments, files = engine.rows.cover()
        checked.append(f"{len(files)} files of {len(fragments)} fragments are there")
        ids, _, skeleton = engine.rows.index()
        checked.append(f"{len(ids)} ids are distinct")
        if len(np.unique(ids)) != len(ids):
            problems.append(f"{len(ids) - len(np.unique(ids))} ids stand more than once")
        for number in np.unique(skeleton[skeleton >= 0]).tolist():
            engine.skeletons.bag(number)
        checked.append(f"{len(engine.skeletons)} skeletons can be read")
        fresh = engine.ledger.like()
        fresh.clear()
        total = engine.count(fresh)
        problems += engine.ledger.same_as(fresh)
        if engine.rows.faded and not engine.forgotten.any:
            problems.append("glances have faded, but what roll-ups know of them is gone")
        checked.append(
            f"roll-ups of {len(fresh.hours())} hours equal {total} glances counted anew"
        )
        if engine.followed is not None:
            cells = engine.followed.cells(engine.rows.version)
            counted = sum(c.counted - c.deleted + c.missing for c in cells.values())
            checked.append(f"statistics of {len(cells)} windows can be read")
            seen = len(ids) + engine.forgotten.count()
            if counted != seen and not any(c.replaced for c in cells.values()):
                problems.append(f"stream statistics know of {counted} glances, there are {seen}")
        problems += _wrong_epochs(engine)
        if len(engine.epochs) > 1:
            checked.append(f"{len(engine.epochs)} epochs, their directions and priors are there")
        checked += told(engine)
        problems += [f"{name} is damaged; restore it from a copy" for name in _damaged(engine)]
        problems += [
            f"column {name} of the sketches is gone; the other tiers still answer"
            for name in engine.rows.lost
        ]
        engine.reservoir.load(engine.rows.version)
        kept, _ = engine.reservoir.records()
        checked.append(f"{len(kept)} records can be read")
        lost = (engine.rows.places(np.array(kept, np.int64)) < 0).sum()
        if lost:
            problems.append(f"{lost} records belong to no glance (compact() drops them)")
    except (CorruptMemory, ValueError) as error:
        problems.append(str(error))
    return Report(str(engine.folder.path), checked, problems)


def told(engine: Engine) -> list[str]:
    """Return what was forgotten, one sentence each."""
    dim, channel, forgotten = engine.recipe.dim, engine.rows.channel, engine.forgotten
    found = []
    for keep, glances in lengths(engine).items():
        if keep < dim:
            what = f"{keep} of {dim} numbers" if keep else "their structure, no sketch"
            if keep and channel:
                what += f", {channel_kept(np.array([keep]), dim, channel)[0]} of {channel} of the "
                what += "distribution channel"
            found.append(f"{glances:,} glances have faded: they keep {what}")
    if forgotten.count():
        found.append(f"{forgotten.count():,} glances are left in roll-ups only")
    narrow = forgotten.narrowed
    if narrow:
        found.append(f"of the sums of {narrow:,} hours only the first numbers are known")
    if found:
        found.append("what roll-ups hold of them cannot be counted anew, only checked for damage")
    return found


def _wrong_epochs(engine: Engine) -> list[str]:
    """Return what is wrong with epochs: their files, and the rows that belong to them."""
    found = []
    for epoch in engine.epochs:
        if not epoch.informed:
            continue
        try:
            read_basis(engine.folder, epoch.number)
        except CorruptMemory as error:
            found.append(str(error))
        prior = prior_file(epoch.prior or 0)
        if not (engine.folder / prior).exists():
            found.append(f"{prior} is missing, on which epoch {epoch.number} stands")
    if engine.rows.has_epochs:
        beyond = int((engine.rows.epochs() >= len(engine.epochs)).sum())
        if beyond:
            found.append(f"{beyond} glances belong to epochs that meta.json does not tell")
    return found


def _damaged(engine: Engine) -> list[str]:
    return engine.forgotten.damaged() if engine.forgotten.any else []


def lengths(engine: Engine) -> dict[int, int]:
    """Return numbers kept -> glances that keep so many, the most first."""
    found: dict[int, int] = {}
    for keep, (_, n, gone) in zip(engine.rows.keeps(), engine.rows.keys(), strict=True):
        found[keep] = found.get(keep, 0) + n - gone
    return dict(sorted(found.items(), reverse=True))


def export(engine: Engine, path: Path) -> int:
    """Write all glances to one Parquet file; return how many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.is_dir():
        raise ValueError(
            f"{path} is a folder; name the file to write, such as {path / 'memory.parquet'}"
        )
    rows = engine.rows
    labels = rows.label_kinds() if rows.data() is not None else {}
    kinds = {"string": pa.string(), "double": pa.float64(), "boolean": pa.bool_()}
    about = {
        "recollect.recipe": json.dumps(engine.recipe.to_dict()),
        "recollect.modules": json.dumps(engine.modules.to_list()),
    }
    if rows.has_epochs:
        about["recollect.epochs"] = json.dumps([e.to_dict() for e in engine.epochs])
    schema = pa.schema(
        [
            ("id", pa.int64()),
            ("time", pa.timestamp("us", "UTC")),
            ("source", pa.string()),
            *[(name, kinds.get(kind, pa.string())) for name, kind in labels.items()],
            ("skeleton", pa.binary()),
            ("sketch", pa.list_(pa.float32(), engine.recipe.dim)),
            *([("kept", pa.int32())] if rows.faded else []),
            *([("epoch", pa.int16())] if rows.has_epochs else []),
        ],
        metadata=about,
    )
    partial = path.with_name(path.name + ".part")
    total = 0
    try:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for block in rows.blocks(rows.find(Where())):
                values = block.codes.astype(np.float32)
                if block.scale is not None:
                    values *= block.scale[:, None]
                packed = [
                    engine.skeletons.bytes_of(s) if s >= 0 else None
                    for s in block.skeleton.tolist()
                ]
                columns = [
                    pa.array(block.ids),
                    pa.array(block.time, pa.timestamp("us", "UTC")),
                    pa.array(list(block.source), pa.string()),
                    *[pa.array(block.labels[n], schema.field(n).type) for n in labels],
                    pa.array(packed, pa.binary()),
                    pa.FixedSizeListArray.from_arrays(values.reshape(-1), engine.recipe.dim),
                ]
                if block.kept is not None:
                    columns.append(pa.array(block.kept, pa.int32()))
                if block.epoch is not None:
                    columns.append(pa.array(block.epoch, pa.int16()))
                writer.write_table(pa.table(columns, schema=schema))
                total += len(block)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return total


def info(engine: Engine, meta: Mapping[str, Any], priors: Sequence[int]) -> dict[str, Any]:
    """Return what a memory holds and what it costs."""
    folder = engine.folder
    parts = {
        "glances": size_of(folder / FOLDER) if (folder / FOLDER).exists() else 0,
        "skeletons": size_of(engine.skeletons.path) if engine.skeletons.path.exists() else 0,
        "rollups": size_of(folder / "rollups"),
        "reservoir": size_of(folder / "reservoir"),
        "priors": size_of(folder / "priors"),
        "epochs": size_of(folder / "epochs"),
        "forgotten": size_of(folder / "forgotten"),
    }
    if engine.followed is not None:
        parts["statistics"] = size_of(folder / "statistics")
    total = size_of(folder.path)
    parts["other"] = total - sum(parts.values())
    rollups = engine.between(None, None)
    n = engine.ledger.total
    engine.reservoir.load(engine.rows.version)
    numbers = _numbers_per_glance(engine)
    span = _span(engine)
    return {
        "path": str(folder.path),
        "format": meta["format"],
        "recipe": engine.recipe.to_dict(),
        "timezone": meta["timezone"],
        "glances": n,
        "first": span[0],
        "last": span[1],
        "hours": len(rollups),
        "modules": len(engine.modules),
        "families": sum(1 for _ in engine.modules),
        "skeletons": len(engine.skeletons),
        "retention": meta["retention"],
        "numbers_kept": {str(k): n for k, n in lengths(engine).items()},
        "forgotten": engine.forgotten.count(),
        "told": told(engine),
        "records": len(engine.reservoir.members),
        "priors": list(priors),
        "epochs": epochs_told(engine),
        "numbers_per_glance": numbers,
        "load": None if numbers is None else numbers / engine.recipe.dim,
        "bytes": total,
        "bytes_by_part": parts,
        "bytes_per_glance": total / n if n else None,
        "float16_bytes_per_glance": None if numbers is None else 2 * numbers,
    }


def epochs_told(engine: Engine) -> list[dict[str, Any]]:
    """Return each epoch with its recipe, what it stands on, and how many glances it holds."""
    rollups = engine.between(None, None)
    return [
        {
            **epoch.to_dict(),
            "glances_before": epoch.glances,
            "glances": int(rollups.counted_in(epoch.number).sum()),
            "what": epoch.words,
        }
        for epoch in engine.epochs
    ]


def _span(engine: Engine) -> tuple[str | None, str | None]:
    time = engine.rows.index()[1]
    return (iso(time.min()), iso(time.max())) if len(time) else (None, None)


def _numbers_per_glance(engine: Engine) -> float | None:
    """Mean count of attribute numbers in a glance whose skeleton is kept."""
    bag, module, objects = engine.ledger.bags.flat()
    size = np.array([engine.modules.family_of(i).size for i in range(len(engine.modules))])
    if not len(module):
        return None
    per_bag = np.bincount(bag, objects * size[module], minlength=len(engine.ledger.bags))
    _, bags, times = engine.ledger.counts.arrays()
    known = int(times[bags > 0].sum())
    return float((per_bag[bags] * times).sum() / known) if known else None
