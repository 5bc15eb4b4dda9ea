"""LeRobot's table of episodes, v3's parquet files and v2's lines of JSON."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.lerobot_files import number, read_jsonl, read_parquet, schema_names, values_of, whole


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeTable:
    """E episodes, ascending by ``index``."""

    source: str
    index: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    tasks: tuple[tuple[str, ...], ...]
    columns: Mapping[str, npt.NDArray[np.float64]]
    """v3: every other number column, NaN where null."""
    stored: "Mapping[str, Sequence[pa.ChunkedArray[Any]]]"
    """Every column but statistics as the files have it, a part for each file; ``order`` of its rows makes ours."""
    order: npt.NDArray[np.int64]

    def subset(self, episodes: Iterable[int], root: str) -> "EpisodeTable":
        """The episodes of these numbers.

        Raises:
            ConfigError: one of them is not here, or there are none.
        """
        asked = np.unique(np.fromiter(episodes, dtype=np.int64))
        unknown = np.setdiff1d(asked, self.index)
        if len(unknown) or not len(asked):
            what = f"episode {unknown[0]} is not among" if len(unknown) else "no episode was asked for of"
            raise ConfigError(f"episodes: {what} the {len(self.index)} of {root} (last {self.index[-1]})")
        return self._taken(np.searchsorted(self.index, asked))

    def _taken(self, order: npt.NDArray[np.int64]) -> "EpisodeTable":
        columns = {name: values[order] for name, values in self.columns.items()}
        tasks = tuple(self.tasks[i] for i in order.tolist())
        return EpisodeTable(
            self.source, self.index[order], self.length[order], tasks, columns, self.stored, self.order[order]
        )


class EpisodeRows:
    """The table as LeRobot's ``meta.episodes`` is read: ``[3]`` is a dict, ``["length"]`` a list.

    All episodes of the dataset are in it, whichever were chosen, and all columns but statistics;
    ``dataset_from_index`` and ``dataset_to_index`` count the rows of the whole dataset.
    """

    def __init__(self, table: EpisodeTable) -> None:
        self._table = table
        stop = np.cumsum(table.length)
        counted: dict[str, list[Any]] = {  # whatever the files say
            "episode_index": table.index.tolist(),
            "tasks": [list(tasks) for tasks in table.tasks],
            "length": table.length.tolist(),
            "dataset_from_index": (stop - table.length).tolist(),
            "dataset_to_index": stop.tolist(),
        }
        self._columns: dict[str, list[Any] | None] = {**dict.fromkeys(table.stored), **counted}

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame``.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return pa.table({name: self[name] for name in self._columns}).to_pandas()

    def __len__(self) -> int:
        return len(self._table.index)

    @overload
    def __getitem__(self, what: str) -> list[Any]: ...
    @overload
    def __getitem__(self, what: SupportsIndex | slice | Iterable[SupportsIndex]) -> dict[str, Any]: ...
    def __getitem__(self, what: Any) -> list[Any] | dict[str, Any]:
        """A column; or a row, by position; or rows, as a dict of columns."""
        if isinstance(what, str):
            column = self._columns[what]
            if column is None:
                values = [value for part in self._table.stored[what] for value in values_of(part, self._table.source)]
                column = self._columns[what] = [values[i] for i in self._table.order.tolist()]
            return column
        if isinstance(what, slice):
            return {name: self[name][what] for name in self._columns}
        if np.ndim(what) == 0:  # numpy's and torch's numbers, too
            place = operator.index(what)
            return {name: self[name][place] for name in self._columns}
        places = [operator.index(i) for i in what]
        return {name: [self[name][i] for i in places] for name in self._columns}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))


def read_episodes_v3(root: Path) -> EpisodeTable:
    """``meta/episodes/**/*.parquet``.

    Raises:
        DatasetError: missing, damaged, without episodes, or with one twice.
    """
    folder = root / "meta" / "episodes"
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise DatasetError(f"{folder} holds no parquet file; download the dataset's meta folder again")
    tables: list[pa.Table] = []
    tasks: list[tuple[str, ...]] = []
    for path in files:
        names = schema_names(path)
        table = read_parquet(path, [name for name in names if not name.startswith("stats/")])
        tables.append(table)
        listed = values_of(table["tasks"], path) if "tasks" in names else [None] * table.num_rows
        tasks += [tuple(map(str, value)) if isinstance(value, list) else () for value in listed]
    stored = {name: _parts(tables, name) for name in dict.fromkeys(name for t in tables for name in t.column_names)}
    full = {name: values for name, parts in stored.items() if (values := _joined(parts)) is not None}
    wanted = ("episode_index", "length")
    index, length = (whole(full.pop(name, None), name, str(folder), len(tasks)) for name in wanted)
    order = np.arange(len(index))
    return _sorted(EpisodeTable(str(folder), index, length, tuple(tasks), full, stored, order))


def _parts(tables: list[pa.Table], name: str) -> "list[pa.ChunkedArray[Any]]":
    """A column, file by file; of nulls where a file lacks it, as one of episodes without a camera may."""
    return [t[name] if name in t.column_names else pa.chunked_array([pa.nulls(t.num_rows)]) for t in tables]


def _joined(parts: "list[pa.ChunkedArray[Any]]") -> npt.NDArray[np.float64] | None:
    """Numbers of all files, NaN where null; None where it is no column of numbers."""
    kinds = [part.type for part in parts if not pa.types.is_null(part.type)]
    if not kinds or not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return None
    values = [part.cast(pa.float64(), safe=False).to_numpy().astype(np.float64) for part in parts]
    return np.concatenate(values)


def read_episodes_v2(root: Path) -> EpisodeTable:
    """``meta/episodes.jsonl``. Raises as ``read_episodes_v3``."""
    path = root / "meta" / "episodes.jsonl"
    lines = read_jsonl(path)
    index = whole(np.array([number(x.get("episode_index")) for x in lines]), "episode_index", str(path), len(lines))
    length = whole(np.array([number(x.get("length")) for x in lines]), "length", str(path), len(lines))
    listed = [line.get("tasks") for line in lines]
    tasks = tuple(tuple(map(str, value)) if isinstance(value, list) else () for value in listed)
    stored: dict[str, Sequence[pa.ChunkedArray[Any]]] = {}
    for name in dict.fromkeys(key for line in lines for key in line):
        try:
            values: list[Any] = [line.get(name) for line in lines]
            stored[name] = [pa.chunked_array([pa.array(values)])]
        except (pa.ArrowException, ValueError, OverflowError):  # values of several types make no column
            continue
    return _sorted(EpisodeTable(str(path), index, length, tasks, {}, stored, np.arange(len(index))))


def _sorted(table: EpisodeTable) -> EpisodeTable:
    order = np.argsort(table.index, kind="stable")
    index = table.index[order]
    twice = index[1:][index[1:] == index[:-1]]
    if len(twice):
        raise DatasetError(f"{table.source}: episode {twice[0]} is listed twice; correct the metadata")
    if not len(order):
        raise DatasetError(f"{table.source}: no episodes; record or download some")
    return table._taken(order)
