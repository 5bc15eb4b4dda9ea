"""Cells of image columns: any row of any file, by the copy in the cache or without one."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpuload.sources import lerobot_cells
from gpuload.sources.lerobot_cells import ImageCells

KEY = "observation.image"
SIZES = (150, 1, 64, 0, 129)
"""Rows of the files: beside, below and above a record batch of the copies."""
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def value(file: int, row: int) -> bytes:
    return bytes([file, row % 256]) * (row % 7 + 1)


def as_struct(file: int, row: int) -> Any:
    return {"bytes": value(file, row), "path": None} if row % 2 else None


def as_text(file: int, row: int) -> Any:
    return f"images/{file}-{row % 5}.png"


def write(folder: Path, cell: Callable[[int, int], Any], kind: Any, *, group: int = 40) -> tuple[Path, ...]:
    folder.mkdir(exist_ok=True)
    paths = []
    for file, rows in enumerate(SIZES):
        column = pa.array([cell(file, row) for row in range(rows)], kind.value_type if is_coded(kind) else kind)
        table = pa.table({"index": np.arange(rows), KEY: column.dictionary_encode() if is_coded(kind) else column})
        paths.append(folder / f"file-{file:03d}.parquet")
        pq.write_table(table, paths[-1], row_group_size=group)
    return tuple(paths)


def is_coded(kind: Any) -> bool:
    return bool(pa.types.is_dictionary(kind))


def check(cells: ImageCells, cell: Callable[[int, int], Any]) -> None:
    places = [(file, row) for file, rows in enumerate(SIZES) for row in range(rows)]
    for place in np.random.default_rng(0).permutation(len(places)).tolist():
        assert cells.cell(*places[place]) == cell(*places[place])


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (as_struct, STRUCT),
        (value, pa.binary()),
        (value, pa.large_binary()),
        (as_text, pa.string()),
        (as_text, pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_any_row_is_had_as_it_is_stored(tmp_path: Path, cell: Callable[[int, int], Any], kind: Any) -> None:
    files = write(tmp_path / "data", cell, kind)
    check(ImageCells(files, KEY, tmp_path / "cache"), cell)
    assert len(list((tmp_path / "cache/pictures").glob("*.arrow"))) == sum(rows > 0 for rows in SIZES)


def test_copies_are_made_once_and_anew_for_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    check(ImageCells(files, KEY, tmp_path / "cache"), value)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", lambda *_, **__: pytest.fail("it was read again"))
        check(ImageCells(files, KEY, tmp_path / "cache"), value)
    other = lambda file, row: value(file + 9, row)  # noqa: E731
    stamps = [path.stat().st_mtime_ns for path in files]
    write(tmp_path / "data", other, pa.binary())
    for path, stamp in zip(files, stamps, strict=True):
        os.utime(path, ns=(stamp + 1, stamp + 1))
    check(ImageCells(files, KEY, tmp_path / "cache"), other)


def test_copies_of_files_as_they_were_go(tmp_path: Path) -> None:
    for stamp in range(3):
        files = write(tmp_path / "data", value, pa.binary())
        for path in files:
            os.utime(path, ns=(stamp, stamp))
        check(ImageCells(files, KEY, tmp_path / "cache"), value)
    assert len(list((tmp_path / "cache/pictures").glob("*.arrow"))) == np.count_nonzero(SIZES)


def test_a_copy_that_another_process_has_just_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    other, open_copy, made = ImageCells(files, KEY, tmp_path / "cache"), lerobot_cells._open_copy, list[int]()

    def opening(name: Path) -> Any:
        monkeypatch.setattr(lerobot_cells, "_open_copy", open_copy)
        check(other, value)  # between the first look and the lock another one makes it
        made.append(name.stat().st_ino)
        raise FileNotFoundError(2, "not yet", str(name))

    monkeypatch.setattr(lerobot_cells, "_open_copy", opening)
    cells = ImageCells(files, KEY, tmp_path / "cache")
    assert cells.cell(0, 0) == value(0, 0)
    assert made[0] in [path.stat().st_ino for path in (tmp_path / "cache/pictures").glob("*.arrow")]


def test_a_copy_that_cannot_be_opened_for_want_of_files_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    check(ImageCells(files, KEY, tmp_path / "cache"), value)
    before = {path: path.stat().st_ino for path in (tmp_path / "cache/pictures").glob("*.arrow")}

    def failing(name: Path) -> Any:
        raise OSError(24, "Too many open files", str(name))

    monkeypatch.setattr(lerobot_cells, "_open_copy", failing)
    with pytest.raises(OSError, match="Too many"):
        ImageCells(files, KEY, tmp_path / "cache").cell(0, 0)
    assert {path: path.stat().st_ino for path in (tmp_path / "cache/pictures").glob("*.arrow")} == before


def test_few_copies_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lerobot_cells, "_MOST_OPEN", 2)
    cells = ImageCells(write(tmp_path / "data", value, pa.binary()), KEY, tmp_path / "cache")
    check(cells, value)
    assert len(cells._opened.copies) == 2


@pytest.mark.parametrize("why", ["no right to write", "no room"])
def test_without_copies_row_groups_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    files = write(tmp_path / "data", as_struct, STRUCT)
    if why == "no room":
        usage = shutil.disk_usage(tmp_path)._replace(free=10)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    else:
        (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setattr(lerobot_cells, "_MOST_GROUP_BYTES", 500)
    cells = ImageCells(files, KEY, tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        check(cells, as_struct)
    assert len(caplog.records) == 1
    assert "XDG_CACHE_HOME" in caplog.text
    assert len(cells._opened.groups) < 5


def test_copies_of_a_part_that_would_fill_the_disk_are_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = write(tmp_path / "data", as_struct, STRUCT)
    needed = sum(path.stat().st_size for path in files)
    usage = shutil.disk_usage(tmp_path)._replace(total=20 * needed, free=2 * needed)  # of which one is to be left
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    check(ImageCells(files, KEY, tmp_path / "cache"), as_struct)
    assert len(list((tmp_path / "cache/pictures").glob("*.arrow"))) == np.count_nonzero(SIZES)
    usage = usage._replace(free=2 * needed - 100)
    check(ImageCells(files, KEY, tmp_path / "other"), as_struct)
    assert not list((tmp_path / "other/pictures").glob("*.arrow"))
    assert "all of them take" in caplog.text


def test_a_failed_copy_leaves_nothing(tmp_path: Path) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    data = bytearray(files[0].read_bytes())
    data[200:1200] = bytes(1000)
    files[0].write_bytes(data)
    cells = ImageCells(files, KEY, tmp_path / "cache")
    with pytest.raises((OSError, pa.ArrowException)):
        [cells.cell(0, row) for row in range(SIZES[0])]
    assert cells.cell(2, 3) == value(2, 3)
    assert not list((tmp_path / "cache/pictures").glob("*.writing"))
    assert not cells._without_copy, "it is not for want of room"


def test_a_damaged_copy_is_made_anew(tmp_path: Path) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    check(ImageCells(files, KEY, tmp_path / "cache"), value)
    for number, path in enumerate((tmp_path / "cache/pictures").glob("*.arrow")):
        path.write_bytes(b"" if number % 2 else b"no Arrow file")
    check(ImageCells(files, KEY, tmp_path / "cache"), value)


def test_who_comes_at_the_same_time_waits_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write(tmp_path / "data", value, pa.binary())
    write_one = ImageCells._write

    def slowly(cells: ImageCells, table: Any, name: Path) -> None:
        with (tmp_path / "log").open("a") as log:
            log.write(f"{name.name}\n")
        time.sleep(0.1)
        write_one(cells, table, name)

    monkeypatch.setattr(ImageCells, "_write", slowly)
    with ThreadPoolExecutor(4) as pool:  # each with a lock of its own, as processes have
        for done in [pool.submit(check, ImageCells(files, KEY, tmp_path / "cache"), value) for _ in range(4)]:
            done.result(60)
    written = (tmp_path / "log").read_text().split()
    assert len(written) == len(set(written)) == sum(rows > 0 for rows in SIZES)
