"""Sources give every picture once, with a time in a zone, and open it only when asked."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from recollect.app.pictures import open_picture
from recollect.app.sources import open_source


def picture(shade: int = 100) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(shade)
    pixels = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place, names in {
        "hall": ["2026-01-20_0640.jpg", "2026-01-20_0540.jpg"],
        "garden/north": ["2026-01-19_0100.png"],
    }.items():
        (tmp_path / "house" / place).mkdir(parents=True)
        for name in names:
            (tmp_path / "house" / place / name).write_bytes(picture())
    (tmp_path / "house" / "2026-01-21_0000.jpg").write_bytes(picture())
    (tmp_path / "house" / "notes.txt").write_text("no picture")
    return tmp_path / "house"


def test_a_folder_is_read_wholly_in_order_of_time(folder: Path) -> None:
    source = open_source(str(folder), UTC)
    found = list(source)
    assert source.count() == len(found) == 4
    assert [p.source for p in found] == ["garden/north", "hall", "hall", "house"]
    assert [p.time.hour for p in found] == [1, 5, 6, 0]
    assert all(p.time.tzinfo is not None and p.label is None for p in found)
    assert found[0].open().size == (48, 32)


def test_sub_folders_are_labels_when_asked(folder: Path) -> None:
    found = list(open_source(str(folder), UTC, kind="image-folder"))
    assert [p.label for p in found] == ["garden", "hall", "hall", None]
    assert {p.source for p in found} == {"house"}
    assert {p.source for p in open_source(str(folder), UTC, source="x")} == {"x"}


def test_ids_are_the_same_again_and_differ_between_pictures(folder: Path) -> None:
    first = [p.id for p in open_source(str(folder), UTC)]
    assert first == [p.id for p in open_source(str(folder), UTC)]
    assert len(set(first)) == 4
    assert all(0 <= i < 2**63 for i in first)
    elsewhere = [p.id for p in open_source(str(folder), ZoneInfo("Asia/Singapore"))]
    assert not set(first) & set(elsewhere)  # other times, other glances


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:400], picture()[:-200]])
def test_broken_and_cut_pictures_raise_when_opened(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "2026-01-20_0640.jpg").write_bytes(data)
    (found,) = open_source(str(tmp_path), UTC)
    with pytest.raises((OSError, SyntaxError)):
        found.open()


def test_pictures_are_upright_and_in_colour(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("L", (48, 32)).save(tmp_path / "a.jpg", exif=exif)
    image = open_picture(tmp_path / "a.jpg")
    assert (image.size, image.mode) == ((32, 48), "RGB")


def test_parquet_with_bytes_and_all_columns(tmp_path: Path) -> None:
    times = [datetime(2026, 1, 20, 6, 40, tzinfo=UTC) + timedelta(hours=h) for h in range(3)]
    table = pa.table({
        "image": [{"bytes": picture(i), "path": f"{i}.jpg"} for i in range(3)],
        "timestamp": times,
        "camera": ["hall", "hall", "garden"],
        "label": [1, 2, 3],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"), UTC)
    found = list(source)
    assert source.count() == 3
    assert source.notes == []
    assert [p.time for p in found] == times
    assert [p.source for p in found] == ["hall", "hall", "garden"]
    assert [p.label for p in found] == ["1", "2", "3"]
    assert found[2].open().size == (48, 32)


def test_parquet_with_paths_and_times_of_many_kinds(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(picture())
    expected = datetime(2026, 1, 20, 6, 40, tzinfo=UTC)
    seconds = int(expected.timestamp())
    for number, value in enumerate(
        [expected.replace(tzinfo=None), "2026-01-20 06:40", seconds, seconds * 10**3,
         seconds * 10**6]
    ):  # fmt: skip
        table = pa.table({"where": ["x.jpg"], "when": [value]})
        path = tmp_path / f"{number}.parquet"
        parquet.write_table(table, path)
        columns = {"image": "where", "time": "when"}
        (found,) = open_source(str(path), UTC, columns=columns)
        assert found.time == expected
        assert found.open().size == (48, 32)


def test_parquet_without_times_says_so(tmp_path: Path) -> None:
    table = pa.table({"image": [picture(), picture()], "other": [1, 2]})
    (tmp_path / "parts").mkdir()
    parquet.write_table(table, tmp_path / "parts" / "a.parquet")
    parquet.write_table(table, tmp_path / "parts" / "b.parquet")
    source = open_source(str(tmp_path / "parts"), UTC, every="5s", start="2026-01-20")
    assert [p.time.second for p in source] == [0, 5, 10, 15]
    assert len({p.id for p in source}) == 4
    assert "no time column" in source.notes[0]


def test_parquet_columns_that_are_not_there_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="no column of pictures was found among x"):
        open_source(str(tmp_path / "a.parquet"), UTC)
    with pytest.raises(ValueError, match="--time-column 'when' is not in the dataset"):
        open_source(str(tmp_path / "a.parquet"), UTC, columns={"image": "x", "time": "when"})


def film(path: Path, seconds: int = 3, rate: int = 10) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(seconds * rate):
            pixels = np.full((32, 48, 3), 5 * number % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_video_gives_a_frame_every_so_often(tmp_path: Path) -> None:
    path = film(tmp_path / "door_2026-01-20_0640.mp4")
    source = open_source(str(path), UTC, every="500ms", source="door")
    found = list(source)
    begin = datetime(2026, 1, 20, 6, 40, tzinfo=UTC)
    assert [(p.time - begin).total_seconds() for p in found] == [0, 0.5, 1, 1.5, 2, 2.5]
    assert source.count() == len(found)
    assert {p.source for p in found} == {"door"}
    assert [p.id for p in source] == [p.id for p in found]


def test_the_frames_of_a_video_open(tmp_path: Path) -> None:
    path = film(tmp_path / "2026-01-20_0640.mp4")
    sizes = [p.open().size for p in open_source(str(path), UTC, every="1s")]
    assert sizes == [(48, 32)] * 3


def test_a_video_without_a_time_says_what_it_took(tmp_path: Path) -> None:
    source = open_source(str(film(tmp_path / "door.mp4")), UTC)
    assert "give --start" in source.notes[0]
    given = open_source(str(tmp_path / "door.mp4"), UTC, start="2026-01-20 06:40")
    assert next(iter(given)).time == datetime(2026, 1, 20, 6, 40, tzinfo=UTC)
    assert given.notes == []


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("nowhere", FileNotFoundError, "there is no 'nowhere'"),
        ("empty", ValueError, "holds no pictures"),
        ("notes.txt", ValueError, "is no source"),
        ("bad.mp4", ValueError, "does not open as a video"),
        ("7", ValueError, "there is no camera 7"),
    ],
)
def test_what_is_no_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, error: type[Exception], match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.platform", "linux")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(error, match=match):
        open_source(what, UTC)


def test_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--kind must be one of"):
        open_source(str(tmp_path), UTC, kind="tape")
    with pytest.raises(ValueError, match="--time must be one of"):
        open_source(str(tmp_path), UTC, time_from="guess")
