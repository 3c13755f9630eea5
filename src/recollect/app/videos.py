"""Frames of video files and cameras, through PyAV (the ``video`` extra)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from recollect.app.pictures import Picture
from recollect.app.times import time_in_name

__all__ = ["Camera", "Video"]

# How a camera is reached by its number: (format, device), as FFmpeg names them.
_CAMERAS = {
    "linux": ("v4l2", "/dev/video{index}"),
    "darwin": ("avfoundation", "{index}"),
    "win32": ("dshow", "video={index}"),
}


def _av() -> Any:
    """Return PyAV.

    Raises:
        ImportError: with the command that installs it.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError(
            'videos and cameras need PyAV: pip install "recollect[video]"'
        ) from error
    return av


@dataclass
class Video:
    """One frame of a video file every so many seconds.

    Times count from ``start``, else from the time in the file's name, the creation time in the
    container, or the time of the file (less the length of the video).

    Args:
        path: the file.
        zone: of times without an offset.
        every: seconds between two frames.
        start: time of the first frame.
        source: name of the source; None: the name of the file.
    """

    path: Path
    zone: tzinfo
    every: float = 1.0
    start: datetime | None = None
    source: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        av = _av()
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{self.path.name} has no picture track")
                self._seconds = _length(container)
                self._begin = self.start or self._find_start(container)
        except av.FFmpegError as error:
            raise ValueError(f"{self.path.name} does not open as a video: {error}") from error

    def count(self) -> int | None:
        """Return how many frames will be looked at, if the file says how long it is."""
        return None if self._seconds is None else max(1, -int(-self._seconds // self.every))

    def __iter__(self) -> Iterator[Picture]:
        av = _av()
        name = self.source or self.path.stem
        next_time = 0.0
        with av.open(str(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first: float | None = None
            try:
                for frame in container.decode(stream):
                    seconds = float(frame.time or 0.0)
                    first = seconds if first is None else first
                    seconds -= first
                    if seconds + 1e-6 < next_time:
                        continue
                    next_time = (seconds // self.every + 1) * self.every
                    at = round(seconds * 1000)
                    time = self._begin + timedelta(milliseconds=at)
                    yield Picture(f"{self.path.name}@{at}ms", name, time, frame.to_image)
            except av.FFmpegError as error:
                self.notes.append(
                    f"{self.path.name} is cut off or broken after {next_time:g} s: {error}"
                )

    def _find_start(self, container: Any) -> datetime:
        found = time_in_name(self.path.name, self.zone)
        if found is not None:
            return found
        written = container.metadata.get("creation_time")
        if written:
            try:
                time = datetime.fromisoformat(written.replace("Z", "+00:00"))
                return time if time.tzinfo else time.replace(tzinfo=UTC)
            except ValueError:
                pass
        self.notes.append(
            f"{self.path.name} does not say when it was filmed: the time of the file is used; "
            "give --start"
        )
        end = datetime.fromtimestamp(int(self.path.stat().st_mtime), UTC).astimezone(self.zone)
        return end - timedelta(seconds=round(self._seconds or 0))


def _length(container: Any) -> float | None:
    """Return the seconds of a container, None if it does not say."""
    if container.duration is None:
        return None
    return float(container.duration) / 1e6


@dataclass
class Camera:
    """A camera by its number: one frame every so many seconds, until interrupted.

    Args:
        index: ``"0"`` for the first camera.
        zone: the calendar of the times.
        every: seconds between two frames.
        source: name of the source; None: ``camera0``.
    """

    index: str
    zone: tzinfo
    every: float = 1.0
    source: str | None = None
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if sys.platform not in _CAMERAS:
            raise ValueError(f"cameras cannot be opened on {sys.platform}; give a video file")
        if not self.index.isdigit():
            raise ValueError(f"a camera is given by its number, such as 0, got {self.index!r}")
        self._format, device = _CAMERAS[sys.platform]
        self._device = device.format(index=self.index)
        if self._device.startswith("/dev") and not Path(self._device).exists():
            raise ValueError(
                f"there is no camera {self.index} ({self._device} does not exist); plug one in, "
                "or give a folder or a video"
            )

    def count(self) -> None:
        """Return None: a camera goes on until it is interrupted."""
        return

    def __iter__(self) -> Iterator[Picture]:
        av = _av()
        name = self.source or f"camera{self.index}"
        try:
            container = av.open(self._device, format=self._format)
        except (av.FFmpegError, OSError) as error:
            raise ValueError(
                f"camera {self.index} ({self._device}) does not open: {error}; is another "
                "program using it?"
            ) from error
        last = datetime.min.replace(tzinfo=UTC)
        with container:
            for number, frame in enumerate(container.decode(video=0)):
                time = datetime.now(self.zone)
                if (time - last).total_seconds() >= self.every:
                    last = time
                    yield Picture(f"frame {number}", name, time, frame.to_image)
