"""The rows of a LeRobot dataset: parquet files read once into one array per feature, in the order of the samples."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpuload.errors import DatasetError
from gpuload.sources.lerobot_files import read_parquet, schema_names, values_of
from gpuload.sources.lerobot_images import ImageColumn
from gpuload.sources.lerobot_meta import Feature, Meta

logger = logging.getLogger(__name__)

LANGUAGE = "language"
"""LeRobot's dtype of annotations: a list of structs a row."""
NEEDED = {"timestamp": "float32", "episode_index": "int64", "task_index": "int64"}
"""Columns that samples need even where info.json does not list them."""
_FEW_FILES, _SIDE_BY_SIDE = 16, 8
_USUAL = {"frame_index": "int64", "index": "int64"}
"""Those that samples have where the files have them."""


@dataclass(frozen=True, slots=True, eq=False)
class RowTable:
    """All rows of the chosen episodes, episode after episode: row r is sample r. Immutable, safe between threads."""

    starts: npt.NDArray[np.int64]
    """``[E + 1]`` rows: episode e holds ``[starts[e], starts[e + 1])``."""
    numbers: Mapping[str, npt.NDArray[np.generic]]
    """``[rows, *shape]`` in the feature's dtype; shape (1,) is ``[rows]``."""
    texts: Mapping[str, npt.NDArray[np.object_]]
    """``[rows]`` str, None where the row has none."""
    lists: Mapping[str, "pa.ChunkedArray[Any]"]
    """``[rows]`` of LeRobot's ``language`` features: lists of structs, made into Python's when asked for."""
    images: Mapping[str, ImageColumn]

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])


def read_rows(meta: Meta, *, cache_dir: Path | None = None) -> RowTable:
    """Read every column that is no video. Row counts come from the rows, never from info.json's totals.

    ``cache_dir``: where copies of image columns are kept.

    Raises:
        DatasetError: a file or column is missing, damaged, ragged or contradicts the episodes.
    """
    features = {key: f for key, f in meta.info.features.items() if not f.is_video and _is_readable(f, meta.root)}
    for key, dtype in NEEDED.items():
        features.setdefault(key, Feature(key, dtype, (1,), (), {}))
    files, tables = _read_files(meta, [key for key, f in features.items() if not f.is_image])
    features = {key: f for key, f in features.items() if _is_stored(f, files, tables)}
    for key, dtype in _USUAL.items():
        if all(key in t.column_names and pa.types.is_integer(t[key].type) and not t[key].null_count for t in tables):
            features.setdefault(key, Feature(key, dtype, (1,), (), {}))
    plain = [key for key, f in features.items() if not f.is_image]
    sizes = [table.num_rows for table in tables]
    episode = _numbers(files, tables, features["episode_index"])
    order = _row_order(meta, files, tables, features, episode.astype(np.int64))
    starts = np.concatenate([[0], np.cumsum(meta.episodes.length)]).astype(np.int64)
    numbers: dict[str, npt.NDArray[np.generic]] = {}
    texts: dict[str, npt.NDArray[np.object_]] = {}
    lists: dict[str, pa.ChunkedArray[Any]] = {}
    for key in plain:
        if features[key].dtype == LANGUAGE:
            try:
                column = pa.concat_tables([t.select([key]) for t in tables], promote_options="permissive")[key]
            except pa.ArrowException as error:
                raise DatasetError(f"{files[0].parent}: feature {key!r} differs between files ({error})") from error
            lists[key] = column if order is None else column.take(order)
        elif features[key].dtype == "string":
            texts[key] = _ordered(
                np.concatenate([_texts(p, t, key) for p, t in zip(files, tables, strict=True)]), order
            )
        else:
            numbers[key] = _ordered(_numbers(files, tables, features[key]), order)
    file_starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    images = {
        key: ImageColumn(meta.root, key, tuple(files), file_starts, order, meta.info.image_path, numbers, cache_dir)
        for key, f in features.items()
        if f.is_image
    }
    return RowTable(starts, numbers, texts, lists, images)


def _is_readable(feature: Feature, root: Path) -> bool:
    """Whether there is a way to hand it out; one that there is none for is left out, not the dataset."""
    if feature.is_image or feature.dtype in ("string", LANGUAGE):
        return True
    if feature.is_ragged:
        logger.warning(
            "%s: rows of feature %r vary in length (by its shape), so they cannot be batched: it is left out",
            root / "meta" / "info.json", feature.key,
        )  # fmt: skip
        return False
    try:
        if np.dtype(feature.dtype).kind in "fiub":
            return True
    except TypeError:
        pass  # numpy does not know it either
    logger.warning(
        "%s: feature %r has the dtype %r and is left out; readable are numbers, bool, string, language, image and "
        "video", root / "meta" / "info.json", feature.key, feature.dtype,
    )  # fmt: skip
    return False


def _is_stored(feature: Feature, files: list[Path], tables: list[pa.Table]) -> bool:
    """Whether the data files have a column. Texts and images that none of them has are left out: recorders list
    ``task``, which is no column, and cameras that were recorded apart.

    Raises:
        DatasetError: a column of numbers is missing, or one that other files have.
    """
    key = feature.key
    lacking = [p for p, t in zip(files, tables, strict=True) if key not in t.column_names]
    if feature.is_image:  # these are read when asked for, and missed then where only some lack them
        lacking = [] if any(key in schema_names(path) for path in files) else files
    if lacking and (len(lacking) < len(files) or not (feature.is_image or feature.dtype in ("string", LANGUAGE))):
        why = "samples need it" if key in NEEDED else "remove it from the features in meta/info.json"
        raise DatasetError(f"{lacking[0]}: column {key!r} is missing; fetch the file again ({why})")
    if lacking:
        logger.warning("%s: feature %r is in info.json and in no data file; it is left out", files[0].parent, key)
    return not lacking


def _read_files(meta: Meta, columns: list[str]) -> tuple[list[Path], list[pa.Table]]:
    """The data files that hold the chosen episodes' rows, whatever file the metadata names for them."""
    used = np.unique(meta.episodes.data.file)
    named = [meta.root / meta.episodes.data.files[i] for i in used.tolist() if i >= 0]
    files = [path for path in named if path.exists()]  # one that is not there is missed if its rows are nowhere
    tables = _read_many(files, columns)
    missing = set(meta.episodes.index[meta.episodes.length > 0].tolist())
    missing = missing.difference(*(_episodes_in(t) for t in tables))
    if missing:  # LeRobot 0.4.4's converter can name the neighbouring file
        known = set(files)
        for path in sorted((meta.root / "data").glob("**/*.parquet")):
            if missing and path not in known:
                found = missing & _episodes_in(read_parquet(path, ["episode_index"]))
                if found:
                    files.append(path)
                    tables.append(_read_columns(path, columns))
                    missing -= found
    if missing:
        first = min(missing)
        place = _file_of(meta, int(np.searchsorted(meta.episodes.index, first)))
        what = "holds no" if place.exists() else "is missing, and it should hold the"
        raise DatasetError(
            f"{place} {what} rows of episode {first}, nor does another file of {meta.root / 'data'} ({len(missing)} "
            "episodes have none); download the dataset again, or leave them out with episodes=[…]"
        )
    if not files:
        raise DatasetError(f"{meta.root / 'data'}: no episode has rows; record or download some")
    return files, tables


def _read_many(files: list[Path], columns: list[str]) -> list[pa.Table]:
    """Side by side where there are many: on a network most of the time is waiting."""
    read = partial(_read_columns, columns=columns)
    if len(files) <= _FEW_FILES:
        return list(map(read, files))
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "gpuload-rows") as pool:
        return list(pool.map(read, files))


def _file_of(meta: Meta, episode: int) -> Path:
    """What the metadata name as an episode's data file, or the folder."""
    file = int(meta.episodes.data.file[episode])
    return meta.root / (meta.episodes.data.files[file] if file >= 0 else "data")


def _episodes_in(table: pa.Table) -> set[int]:
    """Empty where it has no such numbers: it is then no file of rows, or found wrong when it is read."""
    if "episode_index" not in table.column_names:
        return set()
    found: Any = table["episode_index"].combine_chunks()
    while pa.types.is_list(found.type) or pa.types.is_large_list(found.type) or pa.types.is_fixed_size_list(found.type):
        found = found.flatten()
    if not (pa.types.is_integer(found.type) or pa.types.is_floating(found.type)):
        return set()
    numbers = np.unique(found.drop_null().to_numpy(zero_copy_only=False))
    return {int(e) for e in numbers[np.isfinite(numbers)].tolist()}


def _read_columns(path: Path, columns: list[str]) -> pa.Table:
    """These columns, and those of ``_USUAL`` that there are."""
    return read_parquet(path, list(dict.fromkeys([*columns, *_USUAL])))


def _row_order(
    meta: Meta,
    files: list[Path],
    tables: list[pa.Table],
    features: Mapping[str, Feature],
    episode: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64] | None:
    """Rows in the order of samples; None if they are so already, and nothing needs to be copied."""
    wanted = meta.episodes.index
    slot = np.searchsorted(wanted, episode)
    chosen = wanted[np.minimum(slot, len(wanted) - 1)] == episode
    count = np.bincount(slot[chosen], minlength=len(wanted))
    wrong = np.flatnonzero(count != meta.episodes.length)
    if len(wrong):
        e = int(wrong[0])
        raise DatasetError(
            f"{_file_of(meta, e)}: episode {wanted[e]} has {count[e]} rows, its metadata says "
            f"{meta.episodes.length[e]} ({len(wrong)} such episodes); download the dataset again, or leave them out "
            "with episodes=[…]"
        )
    if "frame_index" not in features:
        frame = np.zeros(len(episode), dtype=np.int64)
    else:
        frame = _numbers(files, tables, features["frame_index"]).astype(np.int64)
    sorted_already = ((episode[1:] > episode[:-1]) | ((episode[1:] == episode[:-1]) & (frame[1:] >= frame[:-1]))).all()
    if chosen.all() and sorted_already:
        return None
    order = np.lexsort((frame, episode))
    kept: npt.NDArray[np.int64] = order[chosen[order]].astype(np.int64)
    return kept


def _ordered(values: npt.NDArray[Any], order: npt.NDArray[np.int64] | None) -> npt.NDArray[Any]:
    return values if order is None else values[order]


def _texts(path: Path, table: pa.Table, key: str) -> npt.NDArray[np.object_]:
    """``[rows]`` str, None where there is none; equal texts are one object."""
    stored = table[key]
    if pa.types.is_dictionary(stored.type):
        stored = stored.cast(stored.type.value_type)
    if pa.types.is_null(stored.type):
        stored = stored.cast(pa.string())
    column = stored.combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DatasetError(f"{path}: feature {key!r} should be text, got {column.type}; correct the file")
    coded = column.dictionary_encode()
    words = np.array([*values_of(coded.dictionary, path), None], dtype=object)
    texts: npt.NDArray[np.object_] = words[coded.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]
    return texts


def _numbers(files: list[Path], tables: list[pa.Table], feature: Feature) -> npt.NDArray[np.generic]:
    """``[rows, *shape]`` of all files."""
    key = feature.key
    if len(tables) > 1 and len({table.schema.field(key).type for table in tables}) == 1:  # a tenth of one by one
        try:
            joined = pa.chunked_array([chunk for t in tables for chunk in t[key].chunks]).combine_chunks()
            return _column(files[0], pa.table({key: joined}), feature)
        except (DatasetError, pa.ArrowException):
            pass  # too long for one array, or wrong: which file it is, is found below
    parts = [_column(path, table, feature) for path, table in zip(files, tables, strict=True)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _column(path: Path, table: pa.Table, feature: Feature) -> npt.NDArray[np.generic]:
    """``[rows, *shape]`` of one file, without copying where its chunk and dtype allow."""
    dtype = np.dtype(feature.dtype)
    shape = () if feature.shape in ((), (1,)) else feature.shape
    parts = [_chunk(path, chunk, feature, shape) for chunk in table[feature.key].chunks]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.empty((0, *shape), dtype), *parts])
    if values.dtype == dtype:
        return values
    with np.errstate(all="ignore"):
        cast = values.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(cast, values):
        raise DatasetError(f"{path}: feature {feature.key!r} holds {values.dtype}, not info.json's {dtype}; correct it")
    return cast


def _chunk(path: Path, chunk: Any, feature: Feature, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    rows, flat = len(chunk), chunk
    while True:
        if isinstance(flat, pa.ExtensionArray):
            flat = flat.storage
        if not (
            pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type)
        ):
            break
        uneven = not pa.types.is_fixed_size_list(flat.type) and len(np.unique(np.diff(flat.offsets.to_numpy()))) > 1
        if flat.null_count or uneven:
            raise DatasetError(
                f"{path}: feature {feature.key!r} has rows of different length or none; correct the file"
            )
        flat = flat.flatten()
    floating = pa.types.is_floating(flat.type)
    if not (floating or pa.types.is_integer(flat.type) or pa.types.is_boolean(flat.type)):
        raise DatasetError(f"{path}: feature {feature.key!r} should be {feature.dtype}, got {flat.type}; correct it")
    if flat.null_count and not floating:
        raise DatasetError(f"{path}: feature {feature.key!r} has {flat.null_count} empty rows; correct the file")
    values: npt.NDArray[np.generic] = flat.to_numpy(zero_copy_only=False)
    if len(values) != rows * int(np.prod(shape, dtype=np.int64)):
        per_row = len(values) / max(rows, 1)
        raise DatasetError(
            f"{path}: feature {feature.key!r} has {per_row:g} values a row, info.json's shape is {feature.shape}; "
            "correct info.json"
        )
    return values.reshape(rows, *shape)


def sample_values(values: npt.NDArray[np.generic], key: str, root: Path) -> npt.NDArray[np.generic]:
    """As samples have it: float32, int64 or bool."""
    kind = values.dtype.kind
    if kind == "u" and values.size and int(values.max()) > np.iinfo(np.int64).max:
        raise DatasetError(f"{root}: feature {key!r} holds {values.max()}, beyond int64; remove it from info.json")
    dtype = {"f": np.float32, "b": np.bool_}.get(kind, np.int64)
    with np.errstate(over="ignore"):  # to infinity, as torch does
        return values.astype(dtype, copy=False)
