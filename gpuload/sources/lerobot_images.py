"""Image features: pictures that lie in parquet rows, or in files that the rows name."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import ExifTags, Image, ImageOps

from gpuload.errors import DatasetError
from gpuload.sources.lerobot_meta import format_path, inside

_CACHE_BYTES = 128 << 20
"""Compressed pictures kept: reading one means reading its row group."""


@dataclass(frozen=True, slots=True)
class _Row:
    data: bytes | None
    path: str | None


def _row(value: object) -> _Row:
    """A cell as Hugging Face's ``Image`` allows it: a struct, encoded bytes, or a path."""
    if isinstance(value, dict):
        return _row_of(value.get("bytes"), value.get("path"))
    return _row_of(None, value) if isinstance(value, str) else _row_of(value, None)


def _row_of(data: object, path: object) -> _Row:
    if not isinstance(data, bytes | None) or not isinstance(path, str | None):
        raise ValueError(f"a cell holds {type(data).__name__} and {type(path).__name__}, not bytes or a path")
    return _Row(data, path)


class _Held:
    """Row groups of one process, by file and group, the latest last."""

    def __init__(self) -> None:
        self.pid, self.lock = os.getpid(), threading.Lock()
        self.groups: OrderedDict[tuple[int, int], list[_Row]] = OrderedDict()
        self.num_bytes = 0


class ImageColumn:
    """One image feature of all rows. Safe between threads; row groups are read when asked for, the latest are kept."""

    def __init__(
        self,
        root: Path,
        key: str,
        files: tuple[Path, ...],
        file_starts: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64] | None,
        template: str | None,
        numbers: Mapping[str, npt.NDArray[np.generic]],
    ) -> None:
        self._root, self._key, self._files, self._template = root, key, files, template
        self._file_starts, self._order, self._numbers = file_starts, order, numbers
        self._group_starts: dict[int, npt.NDArray[np.int64]] = {}
        self._held = _Held()

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """``[n, C, H, W]`` of rows int64 ``[n]``: uint8 for 8-bit pictures, uint16, int32 or float32 for deeper ones.

        Raises:
            DatasetError: a picture is missing, damaged, or of another size than the first.
        """
        decoded: dict[int, npt.NDArray[np.generic]] = {}
        for row in rows.tolist():
            if row not in decoded:
                decoded[row] = self._decode(row)
        pictures = [decoded[row] for row in rows.tolist()]
        for row, picture in decoded.items():
            if picture.shape != pictures[0].shape or picture.dtype != pictures[0].dtype:
                raise DatasetError(
                    f"{self._root}: {self._key!r} of sample {row} is {picture.dtype} {picture.shape}, another is "
                    f"{pictures[0].dtype} {pictures[0].shape}; they cannot share a batch"
                )
        return np.stack(pictures)

    def _decode(self, row: int) -> npt.NDArray[np.generic]:
        physical = row if self._order is None else int(self._order[row])
        file = int(np.searchsorted(self._file_starts, physical, side="right")) - 1
        stored = self._stored(file, physical - int(self._file_starts[file]))
        where = f"{self._files[file]}: {self._key!r} of sample {row}"
        try:
            data = stored.data if stored.data is not None else self._path_of(stored.path, row, where).read_bytes()
            return _pixels(data)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{where} cannot be decoded ({error}); download the file again") from error

    def _path_of(self, path: str | None, row: int, where: str) -> Path:
        tried = []
        if path and not os.path.isabs(path):  # that of another machine, else
            tried.append(self._root / inside(self._root, path, f"the picture's path in {where}"))
        if self._template is not None:
            fields = {
                name: int(self._numbers[name][row])
                for name in ("episode_index", "frame_index")
                if name in self._numbers
            }
            tried.append(self._root / format_path(self._root, self._template, image_key=self._key, **fields))
        for candidate in tried:
            if candidate.exists():
                return candidate
        raise DatasetError(
            f"{where} has no bytes and no file (its path is {path!r}, tried {', '.join(map(str, tried)) or 'none'}); "
            "download the images too"
        )

    def _stored(self, file: int, row: int) -> _Row:
        held = self._held
        if held.pid != os.getpid():  # a parent's thread may have held the lock, and been at the groups, at the fork
            held = self._held = _Held()
        with held.lock:
            path = self._files[file]
            try:
                if file not in self._group_starts:
                    about = pq.read_metadata(path)
                    sizes = [about.row_group(i).num_rows for i in range(about.num_row_groups)]
                    self._group_starts[file] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
                starts = self._group_starts[file]
                group = int(np.searchsorted(starts, row, side="right")) - 1
                if (file, group) not in held.groups:
                    self._keep(held, file, group)
            except (pa.ArrowException, OSError, ValueError, KeyError) as error:
                raise DatasetError(
                    f"{path}: image feature {self._key!r} cannot be read ({error}); download the file again"
                ) from error
            held.groups.move_to_end((file, group))
            return held.groups[file, group][row - int(starts[group])]

    def _keep(self, held: "_Held", file: int, group: int) -> None:
        column = pq.ParquetFile(self._files[file], memory_map=True).read_row_group(group, columns=[self._key])[
            self._key
        ]
        rows = [_row(value) for value in column.to_pylist()]
        held.groups[file, group] = rows
        held.num_bytes += sum(len(row.data or b"") for row in rows)
        while held.num_bytes > _CACHE_BYTES and len(held.groups) > 1:
            _, gone = held.groups.popitem(last=False)
            held.num_bytes -= sum(len(row.data or b"") for row in gone)


def _pixels(data: bytes) -> npt.NDArray[np.generic]:
    """``[C, H, W]`` in the picture's own depth."""
    with Image.open(io.BytesIO(data)) as image:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)  # type: ignore[assignment]  # as Hugging Face's datasets show it
        if image.mode in ("1", "P", "CMYK", "YCbCr", "LAB", "HSV", "PA"):
            image = image.convert("L" if image.mode == "1" else "RGB")  # type: ignore[assignment]
        values = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return values[None].copy() if values.ndim == 2 else np.ascontiguousarray(values.transpose(2, 0, 1))
