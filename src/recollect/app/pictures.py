"""Pictures before they are opened: what a folder or a Parquet dataset holds, and its times."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, ClassVar

from recollect._seeds import seed_of
from recollect.app.times import picture_time, read_time, time_in_name

__all__ = ["Folder", "Parquet", "Picture", "open_picture"]

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Picture:
    """One thing to look at, not opened yet.

    Attributes:
        name: its name within the source: a path, a row or a frame.
        source: where it came from, as ``where`` and ``in hall`` will know it.
        time: when, with zone.
        open: returns the opened picture (PIL, RGB); may raise on a broken one.
        label: what a dataset says it is, or None.
    """

    name: str
    source: str
    time: datetime
    open: Callable[[], Any]
    label: str | None = None

    @property
    def id(self) -> int:
        """The same picture always gets the same 63-bit id: a rerun adds nothing twice."""
        stamp = int((self.time - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
        return seed_of("watch", self.source, self.name, stamp)


def open_picture(data: Path | bytes) -> Any:
    """Open a picture wholly, upright and in RGB.

    Raises:
        OSError: if it does not open or is cut off.
    """
    from PIL import Image, ImageOps

    with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        return upright.convert("RGB")


@dataclass
class Folder:
    """All pictures under a folder, in order of their time.

    Args:
        path: the folder.
        zone: where the camera stood.
        labels: whether sub-folders are labels (an image-folder dataset); else they are sources.
        source: one name for all of them, if given.
        order: where times are read: ``"auto"``, ``"exif"``, ``"name"`` or ``"file"``.
    """

    path: Path
    zone: tzinfo
    labels: bool = False
    source: str | None = None
    order: str = "auto"
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._files = sorted(
            p for p in self.path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file()
        )
        if not self._files:
            raise ValueError(
                f"{self.path} holds no pictures ({', '.join(sorted(PICTURES))}); is it the right "
                "folder, or a dataset that needs --kind parquet?"
            )

    def count(self) -> int:
        """Return the number of pictures."""
        return len(self._files)

    def __iter__(self) -> Iterator[Picture]:
        from PIL import Image

        times = [picture_time(p, self.zone, Image.open, self.order) for p in self._files]
        for time, path in sorted(zip(times, self._files, strict=True)):
            place = path.relative_to(self.path)
            parent = "/".join(place.parts[:-1])
            yield Picture(
                place.as_posix(),
                self.source or (self.path.resolve().name if self.labels or not parent else parent),
                time,
                lambda path=path: open_picture(path),  # type: ignore[misc]
                place.parts[0] if self.labels and parent else None,
            )


@dataclass
class Parquet:
    """Rows of one or more Parquet files, each with an encoded image or the path of one.

    Args:
        files: the files, in order.
        zone: of times without an offset.
        columns: names of the columns for ``image``, ``time``, ``source`` and ``label``; what is
            missing is found by its usual names.
        source: one name for all rows, if given.
        every: seconds between rows where the dataset has no times.
        start: time of the first row where the dataset has no times; None: the file's time.
    """

    files: list[Path]
    zone: tzinfo
    columns: Mapping[str, str | None] = field(default_factory=dict)
    source: str | None = None
    every: float = 1.0
    start: datetime | None = None
    notes: list[str] = field(default_factory=list)

    USUAL: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("image", "img", "picture", "jpg", "png", "bytes", "path", "file", "file_name"),
        "time": ("time", "timestamp", "ts", "datetime", "date", "taken", "captured_at"),
        "source": ("source", "camera", "device", "location", "station"),
        "label": ("label", "class", "category", "species", "target"),
    }

    def __post_init__(self) -> None:
        from pyarrow import parquet

        names = parquet.read_schema(self.files[0]).names
        self._chosen: dict[str, str | None] = {}
        for role, usual in self.USUAL.items():
            given = self.columns.get(role)
            if given is not None and given not in names:
                raise ValueError(
                    f"--{role}-column {given!r} is not in the dataset; its columns are "
                    f"{', '.join(names)}"
                )
            self._chosen[role] = given or next((n for n in usual if n in names), None)
        if self._chosen["image"] is None:
            raise ValueError(
                f"no column of pictures was found among {', '.join(names)}; name it with "
                "--image-column"
            )
        if self._chosen["time"] is None:
            self.notes.append(
                f"the dataset has no time column: rows were placed {self.every:g} s apart; "
                "give --time-column, or --start and --every"
            )

    def count(self) -> int:
        """Return the number of rows."""
        from pyarrow import parquet

        return sum(parquet.read_metadata(f).num_rows for f in self.files)

    def __iter__(self) -> Iterator[Picture]:
        from pyarrow import parquet

        wanted = [c for c in dict.fromkeys(self._chosen.values()) if c is not None]
        number = 0
        for file in self.files:
            row = 0
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=64, columns=wanted):
                for values in batch.to_pylist():
                    yield self._picture(file, row, number, values)
                    row, number = row + 1, number + 1

    def _picture(self, file: Path, row: int, number: int, values: Mapping[str, Any]) -> Picture:
        value = {role: values[c] if c else None for role, c in self._chosen.items()}
        image = value["image"]
        path = image.get("path") if isinstance(image, Mapping) else image
        data = image.get("bytes") if isinstance(image, Mapping) else image
        named = path if isinstance(path, str) else None
        name = f"{file.name}:{row}" + (f":{named}" if named else "")
        time = self._time(value["time"], named, file, number)
        source = self.source or (str(value["source"]) if value["source"] is not None else None)
        label = None if value["label"] is None else str(value["label"])

        def read() -> Any:
            if isinstance(data, bytes):
                return open_picture(data)
            if named is None:
                raise ValueError("the row holds neither bytes nor a path")
            return open_picture(file.parent / named)

        return Picture(name, source or file.stem, time, read, label)

    def _time(self, value: Any, named: str | None, file: Path, number: int) -> datetime:
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=self.zone)
        if isinstance(value, str):
            return read_time(value, self.zone)
        if isinstance(value, int | float):
            # Seconds, milliseconds or microseconds since 1970, by their size.
            unit = next(u for u in (1, 1e3, 1e6, 1e9) if abs(value) / u < 1e11)
            return datetime.fromtimestamp(value / unit, UTC)
        if value is not None and hasattr(value, "isoformat"):  # a date
            return read_time(value.isoformat(), self.zone)
        if named is not None and (found := time_in_name(Path(named).name, self.zone)):
            return found
        first = self.start or datetime.fromtimestamp(
            int(self.files[0].stat().st_mtime), UTC
        ).astimezone(self.zone)
        return first + timedelta(seconds=number * self.every)
