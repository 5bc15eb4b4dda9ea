"""The small files of LeRobot's ``meta`` folder: JSON, JSON lines, parquet, statistics."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from gpuload.errors import DatasetError
from gpuload.index.lfs import INSTEAD, is_pointer

MANY_ROWS = 100_000
Stats = dict[str, dict[str, npt.NDArray[np.generic]]]


def read_stats(root: Path) -> Stats:
    """``meta/stats.json``, or v2.1's ``episodes_stats.jsonl`` aggregated over episodes, or nothing."""
    path = root / "meta" / "stats.json"
    if path.exists():
        return _stats_of(path, read_json(path))
    path = root / "meta" / "episodes_stats.jsonl"
    if not path.exists():
        return {}
    return _aggregate(path, [_stats_of(path, line.get("stats")) for line in lines_of(path)])


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """One parquet file: these columns, as far as it has them, or all.

    Raises:
        DatasetError: missing or damaged.
    """
    if not path.exists():
        raise DatasetError(f"{path} is missing; download the dataset again")
    try:
        # One thread: a set has thousands of small files, and starting several for each takes longer than reading it.
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        return file.read(columns=columns, use_threads=file.metadata.num_rows > MANY_ROWS)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, "parquet", error) from error


def schema_names(path: Path) -> list[str]:
    """Columns of a parquet file. Raises DatasetError: it is damaged."""
    try:
        return pq.read_schema(path).names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, "parquet", error) from error


def unreadable(path: Path, kind: str, error: Exception) -> DatasetError:
    """The error of a file that is not what its name says."""
    if is_pointer(path):
        return DatasetError(f"{path} {INSTEAD}")
    return DatasetError(f"{path} cannot be read as {kind} ({error}); download the file again")


def values_of(column: "pa.ChunkedArray[Any] | pa.Array[Any]", path: str | Path) -> list[Any]:
    """As Python's values.

    Raises:
        DatasetError: damaged: text that is none, numbers out of range.
    """
    try:
        return column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); download the file again") from error


def read_names(path: Path, noun: str) -> dict[int, str]:
    table = read_parquet(path)
    column = f"{noun}_index"
    names = (noun, "__index_level_0__", *_index_columns(table))
    name = next((c for c in names if c in table.column_names and c != column), None)
    if name is None or column not in table.column_names:
        got = ", ".join(table.column_names)
        raise DatasetError(f"{path}: expected columns {column!r} and {noun!r} (or '__index_level_0__'), got {got}")
    numbers = whole(np.array([number(i) for i in values_of(table[column], path)]), column, str(path), table.num_rows)
    return {int(i): str(text) for i, text in zip(numbers, values_of(table[name], path), strict=True)}


def _index_columns(table: pa.Table) -> list[str]:
    """What pandas, which writes such tables, called the index: it holds the texts."""
    try:
        about = table.schema.pandas_metadata or {}
        return [name for name in about.get("index_columns", ()) if isinstance(name, str)]
    except (ValueError, AttributeError, TypeError):
        return []  # damaged: a hint less


def read_tasks_jsonl(path: Path) -> dict[int, str]:
    lines = read_jsonl(path)
    numbers = whole(np.array([number(x.get("task_index")) for x in lines]), "task_index", str(path), len(lines))
    return {int(i): str(line.get("task")) for i, line in zip(numbers, lines, strict=True)}


def read_json(path: Path) -> object:
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; download the dataset again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error) from error


def read_jsonl(path: Path) -> list[dict[str, object]]:
    return list(lines_of(path))


def lines_of(path: Path) -> Iterator[dict[str, object]]:
    """A file of JSON lines, one at a time: statistics of 100,000 episodes are a gigabyte.

    Raises:
        DatasetError: it is missing or damaged, or a line is no object.
    """
    try:
        with open(path, "rb") as file:
            for line in file:
                if line.strip():
                    value = _parse(line)
                    if not isinstance(value, dict):
                        raise DatasetError(f"{path}: every line must be a JSON object; download the file again")
                    yield value
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing; download the dataset again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON lines", error) from error


_parse: Callable[[bytes], object] = json.loads


def number(value: object) -> float:
    """NaN where it is none, or one beyond any float."""
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return math.nan


def whole(values: npt.NDArray[np.float64] | None, name: str, source: str, count: int) -> npt.NDArray[np.int64]:
    right = values is not None and len(values) == count and np.isfinite(values).all()
    if values is None or not right or not ((values >= 0) & (values == np.rint(values))).all():
        raise DatasetError(f"{source}: {name} is missing or no whole number in some episode or task; correct it")
    return values.astype(np.int64)


def _stats_of(path: Path, value: object) -> Stats:
    if not isinstance(value, dict):
        raise DatasetError(f"{path}: expected an object of features; download the file again")
    try:
        return {str(k): {str(n): np.asarray(x) for n, x in (v or {}).items()} for k, v in value.items()}
    except (ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: a statistic is ragged or no number ({error}); compute the stats again") from error


def _aggregate(path: Path, parts: list[Stats]) -> Stats:
    """Of several episodes' min, max, mean, std, count: those of all their rows together."""
    total: Stats = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        have = [part[key] for part in parts if {"min", "max", "mean", "std", "count"} <= set(part.get(key, ()))]
        if not have:
            continue
        try:
            low, high, mean, std, count = (
                np.stack([np.asarray(h[n], dtype=np.float64) for h in have])
                for n in ("min", "max", "mean", "std", "count")
            )
        except (ValueError, TypeError) as error:
            raise DatasetError(
                f"{path}: statistics of {key!r} differ in shape between episodes, or are no numbers ({error}); compute "
                "the stats again"
            ) from error
        weight = (count / count.sum()).reshape(len(have), *([1] * (mean.ndim - 1)))
        centre = (mean * weight).sum(axis=0)
        spread = ((std**2 + (mean - centre) ** 2) * weight).sum(axis=0)
        rows = count.sum(axis=0).astype(np.int64)
        total[key] = {
            "min": low.min(axis=0), "max": high.max(axis=0), "mean": centre, "std": np.sqrt(spread), "count": rows,
        }  # fmt: skip
    return total


def files_in(folder: str) -> set[str]:
    """Names of files, and of links to such."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()
