"""A generated LeRobot set, and how to change what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TOP, WRIST = "observation.images.top", "observation.images.wrist"
EPISODES, FRAMES = 3, 20
DATA = "data/chunk-000/file-000.parquet"


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def edit_table(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path)), path)


def replace(table: pa.Table, key: str, values: Any) -> pa.Table:
    at = table.column_names.index(key) if key in table.column_names else None
    return table.append_column(key, values) if at is None else table.set_column(at, key, values)


def add_feature(root: Path, key: str, dtype: str, shape: list[int], values: Any) -> None:
    edit_json(root / "meta/info.json", lambda info: info["features"].update({key: {"dtype": dtype, "shape": shape}}))
    edit_table(root / DATA, lambda table: replace(table, key, values))
