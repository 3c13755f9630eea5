"""Where glances come from: folders of pictures, image-folder and Parquet datasets, video, cameras.

A source is an iterable of ``Picture``: a name, a time and a way to open it. Nothing is opened
until it is asked for, so that what a memory already holds is skipped cheaply.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Protocol

from recollect._checks import check_one_of
from recollect.app.pictures import Folder, Parquet, Picture
from recollect.app.times import duration, read_time
from recollect.app.videos import Camera, Video

__all__ = ["KINDS", "Source", "open_source"]

VIDEOS = {".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".ts"}
KINDS = ("auto", "pictures", "image-folder", "parquet", "video", "camera")


class Source(Protocol):
    """Pictures in some order; ``notes`` says what the reader should know about their times."""

    notes: list[str]

    def __iter__(self) -> Iterator[Picture]: ...

    def count(self) -> int | None:
        """Return how many there will be, None if that is not known."""
        ...


def open_source(
    what: str,
    zone: tzinfo,
    *,
    kind: str = "auto",
    every: str | None = None,
    start: str | None = None,
    source: str | None = None,
    time_from: str = "auto",
    columns: Mapping[str, str | None] | None = None,
) -> Source:
    """Open a source of pictures by its path or number.

    Args:
        what: a folder, a video or Parquet file, or the index of a camera (``"0"``).
        zone: for times that carry no offset.
        kind: one of ``KINDS``; ``"auto"`` looks at the files.
        every: time between two frames of a video, such as ``"5s"``.
        start: time of the first frame or row, where the file does not say.
        source: the name under which the memory will know it.
        time_from: where picture times are read, see ``picture_time``.
        columns: names of Parquet columns, see ``Parquet``.

    Raises:
        ValueError: if it is no source, with what was expected.
        FileNotFoundError: if there is no such file.
    """
    check_one_of("--kind", kind, KINDS)
    check_one_of("--time", time_from, ("auto", "exif", "name", "file"))
    seconds = None if every is None else duration(every)
    begin = None if start is None else read_time(start, zone)
    if kind == "camera" or (kind == "auto" and what.isdigit() and not Path(what).exists()):
        return Camera(what, zone, seconds or 1.0, source)
    path = Path(what).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {what!r}; a source is a folder of pictures, a video, a Parquet file, or "
            "the number of a camera"
        )
    tables = _parquet_files(path)
    if kind == "parquet" or (kind == "auto" and tables):
        if not tables:
            raise ValueError(f"{path} holds no .parquet file")
        return Parquet(tables, zone, columns or {}, source, seconds or 1.0, begin)
    if path.is_dir():
        return Folder(path, zone, kind == "image-folder", source, time_from)
    if kind == "video" or path.suffix.lower() in VIDEOS:
        return Video(path, zone, seconds or 1.0, begin, source)
    raise ValueError(
        f"{path.name} is no source; expected a folder, one of {', '.join(sorted(VIDEOS))}, or "
        ".parquet (for one picture, give its folder)"
    )


def _parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files that a path means; none if it holds pictures."""
    if path.is_file():
        return [path] if path.suffix.lower() in {".parquet", ".pq"} else []
    found: Iterable[Path] = path.rglob("*.parquet")
    return sorted(found)
