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
import tempfile
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)

_VERSION = 1
"""Counts what changes the copies: older ones are made anew."""
_ROWS = 64
"""In a record batch of a copy."""
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


class ImageCells:
    """One image column of all data files. Safe between threads and in forks."""

    def __init__(self, files: tuple[Path, ...], key: str, cache_dir: Path | None = None) -> None:
        self._files, self._key = files, key
        self._folder = cache_dir if cache_dir is not None else Path(platformdirs.user_cache_dir("gpuload"))
        self._can_copy = True
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
            if self._can_copy:
                reader = opened.copies[file] if file in opened.copies else self._copy(file)
                if reader is not None:
                    opened.copies[file] = reader
                    opened.copies.move_to_end(file)
                    if len(opened.copies) > _MOST_OPEN:
                        opened.copies.popitem(last=False)
                    part: pa.Array[Any] | pa.ChunkedArray[Any] = reader.get_batch(row // _ROWS).column(0)
                    row %= _ROWS
            if not self._can_copy:
                part, row = self._group(opened, file, row)
        value: object = part[row].as_py()
        return value

    def _copy(self, file: int) -> pa.RecordBatchFileReader | None:
        """The copy of a file's column, written now if it is not there; None: there is no room for it."""
        path = self._files[file]
        stat = path.stat()
        identity = json.dumps([_VERSION, str(path.absolute()), self._key, stat.st_size, stat.st_mtime_ns]).encode()
        name = self._folder / "pictures" / f"{hashlib.sha256(identity).hexdigest()}.arrow"
        try:
            return pa.ipc.open_file(pa.memory_map(str(name)))
        except (OSError, pa.ArrowException):
            pass  # it is to be made
        with pq.ParquetFile(path, memory_map=True) as table:
            try:
                self._write(table, name)
            except OSError as error:
                self._can_copy = False
                logger.warning(
                    "no copy of the pictures of %s can be kept in %s (%s), so row groups are read again and again: "
                    "set XDG_CACHE_HOME to a folder with room", path, name.parent, error,
                )  # fmt: skip
                return None
        return pa.ipc.open_file(pa.memory_map(str(name)))

    def _write(self, table: pq.ParquetFile, name: Path) -> None:
        """Atomic: a reader sees a whole copy or none.

        Raises:
            OSError: there is no room for it, or no right to write.
        """
        about = table.metadata
        paths = [about.schema.column(c).path for c in range(about.num_columns)]
        columns = [c for c, part in enumerate(paths) if f"{part}.".startswith(f"{self._key}.")]
        size = sum(
            about.row_group(g).column(c).total_uncompressed_size for g in range(about.num_row_groups) for c in columns
        )
        name.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(name.parent).free
        if free < 2 * size:
            raise OSError(f"{size >> 20} MiB are needed, {free >> 20} MiB are free")
        field = table.schema_arrow.field(self._key)
        plain = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        schema = pa.schema([pa.field(self._key, plain)])
        handle, temporary = tempfile.mkstemp(dir=name.parent, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                rows = pa.table({self._key: pa.chunked_array([], plain)})
                for batch in table.iter_batches(_ROWS, columns=[self._key]):
                    rows = pa.concat_tables([rows, pa.table({self._key: batch.column(0).cast(plain)})])
                    while rows.num_rows >= _ROWS:  # a batch can be shorter where a row group ends
                        writer.write_batch(rows.slice(0, _ROWS).combine_chunks().to_batches()[0])
                        rows = rows.slice(_ROWS)
                if rows.num_rows:
                    writer.write_batch(rows.combine_chunks().to_batches()[0])
            os.replace(temporary, name)
        except BaseException:
            os.unlink(temporary)
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
