"""Cells of an image column, any row at a time.

Parquet gives row groups, which can be a whole file of 100 MB: too much to read for one picture. So each file's column
is copied once, when a row of it is first asked for, into Arrow's IPC format in the cache folder, where memory mapping
makes any row cheap (Hugging Face's ``datasets`` keeps such a copy too). Where there is no room for it, row groups are
read.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq

try:
    import fcntl
except ImportError:  # Windows: a copy may be made twice
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_VERSION = 1
"""Counts what changes the copies: older ones are made anew."""
_ROWS = 64
"""In a record batch of a copy."""
_LEFT_FREE_PART, _LEFT_FREE_BYTES = 0.05, 10 << 30
"""Of a disk, the smaller one: copies of pictures never take it all."""
_MOST_OPEN = 128
"""Copies open at once: each holds a file descriptor."""
_MOST_GROUP_BYTES = 128 << 20
"""Where there are no copies: row groups kept."""


class _Opened:
    """What one process has open."""

    def __init__(self) -> None:
        self.pid, self.lock = os.getpid(), threading.Lock()
        self.copies: OrderedDict[int, pa.RecordBatchFileReader] = OrderedDict()
        self.groups: OrderedDict[tuple[int, int], pa.ChunkedArray[Any]] = OrderedDict()
        self.num_bytes = 0


class _NoRoom(Exception):
    """A copy cannot be written here."""


@contextmanager
def only_one(name: Path) -> Iterator[None]:
    """Of all processes one at a time: workers of a DataLoader come to the same file together.

    Raises:
        _NoRoom: its folder cannot be written.
    """
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(name.with_suffix(".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _NoRoom(str(error)) from error
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _open_copy(name: Path) -> pa.RecordBatchFileReader:
    return pa.ipc.open_file(pa.memory_map(str(name)))


class ImageCells:
    """One image column of all data files. Safe between threads and in forks."""

    def __init__(self, files: tuple[Path, ...], key: str, cache_dir: Path | None = None) -> None:
        self._files, self._key = files, key
        self._folder = cache_dir if cache_dir is not None else Path(platformdirs.user_cache_dir("gpuload"))
        self._without_copy: set[int] = set()
        """Files for whose copy there was no room."""
        self._shortage: str | None = None
        """Why copies of all files have no room, empty where they have; None: it was not looked at yet."""
        self._starts: dict[int, npt.NDArray[np.int64]] = {}
        self._opened = _Opened()

    def cell(self, file: int, row: int) -> object:
        """What a row of a file holds: as Hugging Face's ``Image`` a dict of bytes and path, or one of them.

        Raises:
            OSError, ValueError, KeyError, pa.ArrowException: the file cannot be read.
        """
        opened = self._opened
        if opened.pid != os.getpid():  # a parent's thread may have held the lock, and been at the rest, at the fork
            opened = self._opened = _Opened()
        with opened.lock:
            reader = opened.copies.get(file)
            if reader is None and file not in self._without_copy:
                reader = self._copy(file)
            part: pa.Array[Any] | pa.ChunkedArray[Any]
            if reader is None:
                part, row = self._group(opened, file, row)
            else:
                opened.copies[file] = reader
                opened.copies.move_to_end(file)
                if len(opened.copies) > _MOST_OPEN:
                    opened.copies.popitem(last=False)
                part, row = reader.get_batch(row // _ROWS).column(0), row % _ROWS
        value: object = part[row].as_py()
        return value

    def _copy(self, file: int) -> pa.RecordBatchFileReader | None:
        """The copy of a file's column, written now if it is not there; None: there is no room for it."""
        path = self._files[file]
        column, name = self._names(path)
        with suppress(OSError, pa.ArrowException):  # it is to be made, or damaged
            return _open_copy(name)
        try:
            with pq.ParquetFile(path, memory_map=True) as table, only_one(name.with_name(column)):
                try:
                    return _open_copy(name)  # another process may have made it meanwhile
                except FileNotFoundError:
                    pass
                except (OSError, pa.ArrowException) as error:
                    if getattr(error, "errno", None) is not None:  # no more files may be open, say: nothing is damaged
                        raise
                self._check_room(name.parent)
                self._write(table, name)
                for old in name.parent.glob(f"{column}-*.arrow"):  # of the file as it was
                    if old != name:
                        with suppress(OSError):  # another user's, in a folder that several share
                            old.unlink()
                return _open_copy(name)
        except _NoRoom as error:
            if not self._without_copy:
                logger.warning(
                    "no copy of the pictures of %s can be kept in %s (%s), so row groups are read again and again: "
                    "set XDG_CACHE_HOME to a folder with room", path, name.parent, error,
                )  # fmt: skip
            self._without_copy.add(file)
            return None

    def _names(self, path: Path) -> tuple[str, Path]:
        """Of the column in a data file, and of its copy as the file is now."""
        stat = path.stat()
        column = hashlib.sha256(json.dumps([_VERSION, str(path.absolute()), self._key]).encode()).hexdigest()
        return column, self._folder / "pictures" / f"{column}-{stat.st_size}-{stat.st_mtime_ns}.arrow"

    def _check_room(self, folder: Path) -> None:
        """Before the first copy is made: whether those of all files fit, and leave others something.

        Raises:
            _NoRoom: they do not.
        """
        if self._shortage is None:
            made, missing = {path.name for path in folder.glob("*.arrow")}, 0
            for path in self._files:
                with suppress(OSError):  # whoever needs it is told
                    missing += path.stat().st_size if self._names(path)[1].name not in made else 0
            disk = shutil.disk_usage(folder)
            left = min(_LEFT_FREE_PART * disk.total, _LEFT_FREE_BYTES)
            self._shortage = ""
            if missing > disk.free - left:
                free = f"{disk.free >> 20} MiB are free, of which {int(left) >> 20} are left to others"
                self._shortage = f"all of them take some {missing >> 20} MiB, {free}"
        if self._shortage:
            raise _NoRoom(self._shortage)

    def _write(self, table: pq.ParquetFile, name: Path) -> None:
        """Atomic: a reader sees a whole copy or none.

        Raises:
            _NoRoom: there is none for it, or no right to write. OSError, pa.ArrowException: the file cannot be read.
        """
        about = table.metadata
        paths = [about.schema.column(c).path for c in range(about.num_columns)]
        columns = [c for c, part in enumerate(paths) if f"{part}.".startswith(f"{self._key}.")]
        size = sum(
            about.row_group(g).column(c).total_uncompressed_size for g in range(about.num_row_groups) for c in columns
        )
        free = shutil.disk_usage(name.parent).free
        if free < 2 * size:
            raise _NoRoom(f"{size >> 20} MiB are needed, {free >> 20} MiB are free")
        field = table.schema_arrow.field(self._key)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        schema = pa.schema([pa.field(self._key, plain)])
        temporary = name.with_suffix(".writing")  # one that was broken off is written anew
        try:
            with open(temporary, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                rows = pa.table({self._key: pa.chunked_array([], plain)})
                for batch in table.iter_batches(_ROWS, columns=[self._key]):
                    rows = pa.concat_tables([rows, pa.table({self._key: batch.column(0).cast(plain)})])
                    while rows.num_rows >= _ROWS:  # a batch can be shorter where a row group ends
                        writer.write_batch(rows.slice(0, _ROWS).combine_chunks().to_batches()[0])
                        rows = rows.slice(_ROWS)
                if rows.num_rows:
                    writer.write_batch(rows.combine_chunks().to_batches()[0])
            os.replace(temporary, name)
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno is not None:  # the system's: Arrow's own have no number
                raise _NoRoom(str(error)) from error
            raise

    def _group(self, opened: _Opened, file: int, row: int) -> "tuple[pa.ChunkedArray[Any], int]":
        """The row group that holds a row, and which of its rows it is."""
        path = self._files[file]
        if file not in self._starts:
            about = pq.read_metadata(path)
            sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
            self._starts[file] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        group = int(np.searchsorted(self._starts[file], row, side="right")) - 1
        if (file, group) not in opened.groups:
            column = pq.ParquetFile(path, memory_map=True).read_row_group(group, columns=[self._key])[self._key]
            opened.groups[file, group] = column
            opened.num_bytes += column.nbytes
            while opened.num_bytes > _MOST_GROUP_BYTES and len(opened.groups) > 1:
                opened.num_bytes -= opened.groups.popitem(last=False)[1].nbytes
        opened.groups.move_to_end((file, group))
        return opened.groups[file, group], row - int(self._starts[file][group])
