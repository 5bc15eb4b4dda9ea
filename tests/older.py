"""The v2.x layout of a demo dataset: a data file and a video file an episode, tables as lines of JSON."""

import json
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHUNKS_SIZE = 2


def write_older(newer: Path, root: Path, *, version: str) -> Path:
    """Rewrites ``newer`` (v3.0) into ``root``. Videos are encoded again."""
    (root / "meta").mkdir(parents=True)
    info = json.loads((newer / "meta/info.json").read_text())
    data_path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video_path = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info |= {"codebase_version": version, "data_path": data_path, "video_path": video_path, "chunks_size": CHUNKS_SIZE}
    (root / "meta/info.json").write_text(json.dumps(info))
    table = pq.read_table(newer / "data/chunk-000/file-000.parquet")
    names = pq.read_table(newer / "meta/tasks.parquet").to_pylist()
    tasks = [json.dumps({"task_index": t["task_index"], "task": t.get("task", "do it")}) for t in names]
    (root / "meta/tasks.jsonl").write_text("\n".join(tasks))
    places = pq.read_table(next((newer / "meta/episodes").rglob("*.parquet"))).to_pylist()
    lines, stats = [], []
    for episode in range(info["total_episodes"]):
        rows = table.filter(pa.array(np.asarray(table["episode_index"]) == episode))
        place = {"episode_chunk": episode // CHUNKS_SIZE, "episode_index": episode}
        path = root / data_path.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)
        lines.append(json.dumps({"episode_index": episode, "tasks": ["do it"], "length": rows.num_rows}))
        values = np.array(rows["action"].to_pylist())
        of = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
        listed = {name: value.tolist() for name, value in of.items()} | {"count": [rows.num_rows]}
        stats.append(json.dumps({"episode_index": episode, "stats": {"action": listed}}))
        for key in (key for key, feature in info["features"].items() if feature["dtype"] == "video"):
            video = root / video_path.format(video_key=key, **place)
            video.parent.mkdir(parents=True, exist_ok=True)
            stored = newer / f"videos/{key}/chunk-000/file-{places[episode][f'videos/{key}/file_index']:03d}.mp4"
            first = round(places[episode][f"videos/{key}/from_timestamp"] * info["fps"])
            cut(stored, video, first=first, count=rows.num_rows)
    (root / "meta/episodes.jsonl").write_text("\n".join(reversed(lines)))
    if version == "v2.0":
        (root / "meta/stats.json").write_text("{}")
    else:
        (root / "meta/episodes_stats.jsonl").write_text("\n".join(stats))
    return root


def cut(source: Path, target: Path, *, first: int, count: int) -> None:
    """Encodes frames ``first <= n < first + count`` again, from time 0."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        shown = old.streams.video[0]
        rate = shown.average_rate
        assert rate is not None
        stream = new.add_stream("libx264", rate=rate, options={"g": "8", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = shown.width, shown.height, "yuv420p"
        for number, frame in enumerate(old.decode(video=0)):
            if first <= number < first + count:
                frame.pts, frame.time_base = number - first, 1 / rate
                new.mux(stream.encode(frame))
        new.mux(stream.encode(None))
