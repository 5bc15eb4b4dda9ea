"""Image features: pictures that lie in parquet rows, or in files that the rows name."""

import io
import multiprocessing
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import ExifTags, Image, ImageOps

from gpuload.cores import cores_of_rank
from gpuload.errors import DatasetError
from gpuload.ranks import ranks_here
from gpuload.sources.lerobot_cells import ImageCells
from gpuload.sources.lerobot_meta import format_path, inside


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


class ImageColumn:
    """One image feature of all rows. Safe between threads and in forks."""

    def __init__(
        self,
        root: Path,
        key: str,
        files: tuple[Path, ...],
        file_starts: npt.NDArray[np.int64],
        order: npt.NDArray[np.int64] | None,
        template: str | None,
        numbers: Mapping[str, npt.NDArray[np.generic]],
        cache_dir: Path | None,
    ) -> None:
        self._root, self._key, self._files, self._template = root, key, files, template
        self._file_starts, self._order, self._numbers = file_starts, order, numbers
        self._cells = ImageCells(files, key, cache_dir)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None
        """Of the process with that number: threads do not survive a fork."""

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.generic]:
        """``[n, C, H, W]`` of rows int64 ``[n]``: uint8 for 8-bit pictures, uint16, int32 or float32 for deeper ones.

        Raises:
            DatasetError: a picture is missing, damaged, or of another size than the first.
        """
        distinct = list(dict.fromkeys(rows.tolist()))
        decoded = dict(zip(distinct, self._map(distinct), strict=True))
        pictures = [decoded[row] for row in rows.tolist()]
        for row, picture in decoded.items():
            if picture.shape != pictures[0].shape or picture.dtype != pictures[0].dtype:
                raise DatasetError(
                    f"{self._root}: {self._key!r} of sample {row} is {picture.dtype} {picture.shape}, another is "
                    f"{pictures[0].dtype} {pictures[0].shape}; they cannot share a batch"
                )
        return np.stack(pictures)

    def _map(self, rows: list[int]) -> Iterable[npt.NDArray[np.generic]]:
        """Side by side: Pillow lets go of Python's lock while it unpacks."""
        # A DataLoader has as many processes as its user wants.
        if len(rows) == 1 or cores_of_rank(ranks_here()) == 1 or multiprocessing.parent_process() is not None:
            return map(self._decode, rows)
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(cores_of_rank(ranks_here()), "gpuload-images")
        return self._pool[1].map(self._decode, rows)

    def _decode(self, row: int) -> npt.NDArray[np.generic]:
        physical = row if self._order is None else int(self._order[row])
        file = int(np.searchsorted(self._file_starts, physical, side="right")) - 1
        stored = self._stored(file, physical - int(self._file_starts[file]))
        where = f"{self._files[file]}: {self._key!r} of sample {row}"
        try:
            data = stored.data if stored.data is not None else self._path_of(stored.path, row, where).read_bytes()
            return _pixels(data)
        except (DatasetError, MemoryError):
            raise
        except Exception as error:  # of a damaged file Pillow raises what its parsers meet: TypeError, KeyError, …
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
        try:
            return _row(self._cells.cell(file, row))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise DatasetError(
                f"{self._files[file]}: image feature {self._key!r} cannot be read ({error}); download the file again"
            ) from error


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


def image_tensor(pictures: npt.NDArray[np.generic], factor: float) -> torch.Tensor:
    """``[n, C, H, W]`` -> float32: 8-bit samples in [0, 1], others as stored but for ``factor``."""
    if pictures.dtype == np.uint8:
        return torch.from_numpy(pictures).to(torch.float32).div_(255)
    return torch.from_numpy(pictures.astype(np.float32)).mul_(factor)
