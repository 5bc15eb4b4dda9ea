"""The validator names every defect; the command line turns it into lines and an exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import gpuload
from gpuload.check import check_dataset
from gpuload.cli import app
from gpuload.datasets import LeRobotDataset
from gpuload.errors import DatasetError
from gpuload.findings import Finding
from tests.older import write_older

CAMERA = "observation.images.top"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"
DATA = "data/chunk-000/file-000.parquet"
INFO = "meta/info.json"


def edit_info(root: Path, change: Callable[[dict[str, Any]], None]) -> None:
    info = json.loads((root / INFO).read_text())
    change(info)
    (root / INFO).write_text(json.dumps(info))


def set_column(path: Path, key: str, values: Any) -> None:
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(key), key, pa.array(values)), path)


def only(found: tuple[Finding, ...], file: str, *words: str) -> Finding:
    """The one finding about ``file`` whose message has all ``words``."""
    hits = [f for f in found if f.file == file and all(word in f.message for word in words)]
    assert len(hits) == 1, found
    assert hits[0].remedy
    return hits[0]


def test_a_sound_dataset_has_no_findings(sound: Path) -> None:
    assert check_dataset(sound) == ()


def test_a_removed_video_is_missed_with_its_episodes(root: Path) -> None:
    (root / VIDEO).unlink()
    found = check_dataset(root)
    assert only(found, VIDEO, "missing", CAMERA, "0-2").severity == "error"
    assert len(found) == 1


@pytest.mark.parametrize("name", ["libx264", "avc1", "h264_nvenc", "AVC"])
@pytest.mark.parametrize("key", ["info", "video_info"])
def test_recorders_names_of_codecs_are_known(root: Path, name: str, key: str) -> None:
    def rename(info: dict[str, Any]) -> None:
        info["features"][CAMERA][key] = {**info["features"][CAMERA].pop("info", {}), "video.codec": name}

    edit_info(root, rename)
    assert check_dataset(root, decode_s=0) == ()
    edit_info(root, lambda info: info["features"][CAMERA][key].update({"video.codec": "libx265"}))
    assert "says libx265" in only(check_dataset(root, decode_s=0), VIDEO, "is h264").message


def test_a_data_file_without_rows_is_a_finding_and_no_crash(root: Path) -> None:
    pq.write_table(pq.read_table(root / DATA).slice(0, 0), root / DATA)
    assert {finding.severity for finding in check_dataset(root, decode_s=0)} == {"error"}


def test_a_number_of_an_episode_beyond_all_others_is_no_work(root: Path) -> None:
    (table,) = (root / "meta/episodes").rglob("*.parquet")
    set_column(table, "episode_index", [0, 1, 1 << 40])
    found = check_dataset(root, decode_s=0)
    assert only(found, "meta/episodes", f"episodes 2-{(1 << 40) - 1} are missing")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.98])
def test_a_truncated_video_is_an_error(root: Path, part: float) -> None:
    data = (root / VIDEO).read_bytes()
    (root / VIDEO).write_bytes(data[: int(len(data) * part)])
    found = check_dataset(root)
    assert {finding.file for finding in found} == {VIDEO}
    assert all(finding.severity == "error" for finding in found)


def test_damaged_bytes_are_found_by_decoding(root: Path) -> None:
    data = bytearray((root / VIDEO).read_bytes())
    start = data.index(b"mdat") + 200
    data[start : start + 4000] = bytes(4000)
    (root / VIDEO).write_bytes(data)
    assert any(finding.file == VIDEO for finding in check_dataset(root))


def test_a_wrong_fps_is_named_for_every_video(root: Path) -> None:
    edit_info(root, lambda info: info.update(fps=25))
    found = check_dataset(root)
    assert only(found, VIDEO, "30 frames/s", "25").severity == "error"
    assert len([f for f in found if f.severity == "error"]) == 2


def test_a_wrong_total_is_named_with_the_right_one(root: Path) -> None:
    edit_info(root, lambda info: info.update(total_frames=61))
    assert only(check_dataset(root), INFO, "total_frames", "61", "60").severity == "warning"  # it is counted


def test_what_training_counts_for_itself_is_a_warning_and_what_it_refuses_an_error(root: Path) -> None:
    table = root / "meta/episodes/chunk-000/file-000.parquet"
    set_column(table, "dataset_from_index", [0, 21, 40])
    assert only(check_dataset(root), "meta/episodes", "episode 1", "21").severity == "warning"
    set_column(table, "dataset_from_index", [0, 20, 40])
    set_column(table, "episode_index", [0, 0, 2])
    assert only(check_dataset(root), "meta/episodes", "episode 0", "twice").severity == "error"
    with pytest.raises(DatasetError, match="twice"):
        LeRobotDataset(root)


def test_episodes_that_are_missing_are_a_warning(root: Path) -> None:
    table = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(table).slice(0, 2), table)
    pq.write_table(pq.read_table(root / DATA).slice(0, 40), root / DATA)
    edit_info(root, lambda info: info.update(total_frames=40, total_episodes=2))
    assert check_dataset(root) == ()
    set_column(table, "episode_index", [0, 2])
    episode = pq.read_table(root / DATA)["episode_index"].to_numpy()
    set_column(root / DATA, "episode_index", np.where(episode == 1, 2, episode))
    assert only(check_dataset(root), "meta/episodes", "episodes 1").severity == "warning"
    assert len(LeRobotDataset(root)) == 40


def test_a_wrong_picture_size_is_named(root: Path) -> None:
    edit_info(root, lambda info: info["features"][CAMERA].update(shape=[48, 64, 3]))
    only(check_dataset(root), VIDEO, "128x96", "64x48")


def test_a_wrong_codec_is_a_warning(root: Path) -> None:
    edit_info(root, lambda info: info["features"][CAMERA]["info"].update({"video.codec": "av1"}))
    assert only(check_dataset(root), VIDEO, "h264", "av1").severity == "warning"


def test_a_wrong_vector_length_is_named(root: Path) -> None:
    edit_info(root, lambda info: info["features"]["action"].update(shape=[7]))
    only(check_dataset(root), DATA, "action", "6", "7")


def test_timestamps_without_frames_are_counted(root: Path) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    set_column(path, f"videos/{CAMERA}/from_timestamp", [0.0, 20 / 30, 50 / 30])
    only(check_dataset(root), VIDEO, "episode 2", "10 of 20")


@pytest.mark.parametrize("start", [0.0, 19 / 30])
def test_episodes_that_claim_the_same_frames_are_found(root: Path, start: float) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    starts = pq.read_table(path)[f"videos/{CAMERA}/from_timestamp"].to_numpy()
    assert starts.tolist()[:2] == [0.0, pytest.approx(20 / 30)]
    set_column(path, f"videos/{CAMERA}/from_timestamp", [0.0, start, starts[2]])
    set_column(path, f"videos/{CAMERA}/to_timestamp", [20 / 30, start + 20 / 30, starts[2] + 20 / 30])
    assert only(check_dataset(root), VIDEO, "episodes 1 show frames of other episodes").severity == "warning"


def test_nan_timestamps_are_found(root: Path) -> None:
    stamps = pq.read_table(root / DATA)["timestamp"].to_numpy().copy()
    stamps[[25, 26]] = np.nan
    set_column(root / DATA, "timestamp", stamps)
    only(check_dataset(root), DATA, "episode 1", "NaN", "2 rows")


def test_an_index_that_jumps_is_found(root: Path) -> None:
    index = np.arange(60)
    index[33] = 99
    set_column(root / DATA, "index", index)
    assert only(check_dataset(root), DATA, "episode 1", "index is 99", "33").severity == "warning"
    assert len(LeRobotDataset(root)) == 60


def test_a_path_template_that_leaves_the_dataset_is_refused(root: Path) -> None:
    edit_info(root, lambda info: info.update(video_path="../../{video_key}/{chunk_index}/{file_index}.mp4"))
    assert all("points outside" in f.message for f in check_dataset(root) if f.file.startswith("meta/episodes/"))
    assert any("points outside" in f.message for f in check_dataset(root))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"features": 3}', b"\xff\xfe"])
def test_a_damaged_info_is_one_finding(root: Path, content: bytes) -> None:
    (root / INFO).write_bytes(content)
    assert [finding.file for finding in check_dataset(root)] == [INFO]


@pytest.mark.parametrize("file", [DATA, "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"])
@pytest.mark.parametrize("content", [None, b"", b"PAR1 no parquet PAR1"])
def test_a_lost_or_damaged_table_is_an_error(root: Path, file: str, content: bytes | None) -> None:
    (root / file).unlink() if content is None else (root / file).write_bytes(content)
    found = check_dataset(root)
    assert any(finding.severity == "error" and finding.file in (file, "meta/episodes") for finding in found)


def test_all_defects_are_listed_at_once(root: Path) -> None:
    (root / VIDEO).unlink()
    (root / "meta/stats.json").write_text("{")
    edit_info(root, lambda info: info.update(total_frames=1, total_episodes=9))
    found = check_dataset(root)
    assert {finding.file for finding in found} == {VIDEO, "meta/stats.json", INFO}
    assert len(found) == 4


def test_a_folder_without_meta_is_no_dataset(tmp_path: Path) -> None:
    assert "no LeRobot dataset" in check_dataset(tmp_path)[0].message
    assert "no LeRobot dataset" in check_dataset(tmp_path / "nowhere")[0].message


def test_what_the_loader_finds_check_finds_too(root: Path) -> None:
    """Folders within folders, and templates that info.json leaves to their default or writes with a detour."""
    for old in ("meta/episodes/chunk-000/file-000.parquet", DATA):
        deeper = root / old.replace("chunk-000", "chunk-000/more")
        deeper.parent.mkdir(parents=True)
        (root / old).rename(deeper)
    spelled = "videos/./{image_key}/extra/../chunk-{episode_chunk:03d}/file-{episode_index:03d}.mp4"
    edit_info(root, lambda info: info.update(data_path=None, video_path=spelled))
    assert len(LeRobotDataset(root)) == 60
    found = check_dataset(root)
    assert {finding.severity for finding in found} == {"warning"}
    assert all("names" in finding.message and DATA in finding.message for finding in found)


class TestCommandLine:
    def test_check_passes_a_sound_dataset(self, sound: Path) -> None:
        result = CliRunner().invoke(app, ["check", str(sound)])
        assert (result.exit_code, "nothing wrong" in result.output) == (0, True)

    def test_check_fails_on_an_error_and_says_where(self, root: Path) -> None:
        (root / VIDEO).unlink()
        result = CliRunner().invoke(app, ["check", str(root)])
        assert result.exit_code == 1
        assert VIDEO in result.output
        assert "1 error, 0 warnings" in result.output

    def test_a_warning_alone_passes(self, root: Path) -> None:
        (root / "meta/stats.json").unlink()
        result = CliRunner().invoke(app, ["check", str(root)])
        assert (result.exit_code, "warning" in result.output) == (0, True)

    @pytest.mark.parametrize("command", ["info", "bench", "check", "view"])
    def test_a_bad_path_is_one_line_on_stderr(self, tmp_path: Path, command: str) -> None:
        result = CliRunner().invoke(app, [command, str(tmp_path / "nowhere")])
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("gpuload: ")
        assert result.stderr.count("\n") == 1

    def test_check_takes_the_name_of_a_downloaded_dataset(
        self, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path))
        (tmp_path / "someone").mkdir()
        (tmp_path / "someone" / "set").symlink_to(sound)
        result = CliRunner().invoke(app, ["check", "someone/set"])
        assert (result.exit_code, "nothing wrong" in result.output) == (0, True)

    def test_info_names_cameras_and_gops(self, sound: Path) -> None:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["info", str(sound)])
        assert result.exit_code == 0, result.output
        assert all(text in result.output for text in (CAMERA, "h264", "128x96", "3 episodes", "pyav"))

    def test_bench_reports_rate_and_waits(self, sound: Path) -> None:
        result = CliRunner().invoke(app, ["bench", str(sound), "--batch-size", "8", "--batches", "3"])
        assert result.exit_code == 0, result.output
        assert all(text in result.output for text in ("96 in", "p95", "amplification"))

    def test_demo_reports_and_saves_a_sheet(self, tmp_path: Path) -> None:
        arguments = ["demo", str(tmp_path / "demo"), "--episodes", "2", "--frames", "20"]
        result = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert all(text in result.output for text in ("frames/s", "amplification", "backend"))
        assert (tmp_path / "demo" / "contact_sheet.png").is_file()
        assert CliRunner().invoke(app, ["check", str(tmp_path / "demo"), "--deep"]).exit_code == 0
        again = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--gop", "2"])
        assert "was there already" in again.output.replace("\n", " ")

    def test_view_saves_a_sheet(self, sound: Path, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["view", str(sound), "--out", str(tmp_path / "sheet.png"), "--samples", "3"])
        assert result.exit_code == 0, result.output
        assert (tmp_path / "sheet.png").is_file()

    def test_doctor_says_why_of_every_backend(self) -> None:
        result = CliRunner().invoke(app, ["doctor"])
        assert result.exit_code == 0, result.output
        assert all(f"backend   {name}: " in result.output for name in ("pyav", "torchcodec", "dali"))

    def test_version(self) -> None:
        assert gpuload.__version__ in CliRunner().invoke(app, ["--version"]).output
        assert CliRunner().invoke(app, ["--version"]).output.startswith("gpuload 0.1")


def test_what_is_read_all_the_same_is_no_error(root: Path) -> None:
    """As people's own writers leave it out or spell it."""
    edit_info(root, lambda info: info.update(codebase_version="3.0"))
    edit_info(root, lambda info: info["features"].update(note={"dtype": "string", "shape": [1]}))
    edit_info(root, lambda info: info["features"][CAMERA].update(shape=[3, 96, 128], names=["c", "h", "w"]))
    data = pq.read_table(root / DATA)
    pq.write_table(data.append_column("note", pa.array([None, "x"] * (len(data) // 2))), root / DATA)
    episodes = next((root / "meta/episodes").glob("**/*.parquet"))
    table = pq.read_table(episodes)
    pq.write_table(table.drop_columns(["dataset_from_index", "dataset_to_index"]), episodes)
    tasks = pq.read_table(root / "meta/tasks.parquet")
    named = tasks.rename_columns(["words" if c != "task_index" else c for c in tasks.column_names])
    about = json.dumps({"index_columns": ["words"], "columns": []})
    pq.write_table(named.replace_schema_metadata({"pandas": about}), root / "meta/tasks.parquet")
    assert [finding for finding in check_dataset(root) if finding.severity == "error"] == []


def test_rows_that_training_takes_are_no_error(root: Path) -> None:
    """Annotations, of which a row has none or several; gaps in numbers; columns that info.json does not list."""
    edit_info(root, lambda info: info["features"].update(language_events={"dtype": "language", "shape": [1]}))
    edit_info(root, lambda info: info["features"].update(wide={"dtype": "float32", "shape": [2]}))
    data = pq.read_table(root / DATA)
    said = pa.array([[{"text": "go"}] * (i % 3) for i in range(60)])
    data = data.append_column("language_events", said)
    data = data.append_column("wide", pa.array([[1.0, 2.0]] * 60, pa.large_list(pa.float32())))
    data = data.append_column("unlisted", pa.array([None, 1] * 30, pa.int64()))
    pq.write_table(data, root / DATA)
    assert check_dataset(root) == ()
    assert LeRobotDataset(root)[2]["wide"].tolist() == [1.0, 2.0]
    edit_info(root, lambda info: info["features"].update(reward={"dtype": "float32", "shape": [1]}))
    pq.write_table(data.append_column("reward", pa.array([None, 1.0] * 30, pa.float32())), root / DATA)
    assert only(check_dataset(root), DATA, "reward", "30 empty").severity == "warning"
    assert LeRobotDataset(root)[0]["reward"].isnan()


@pytest.mark.parametrize("column", ["timestamp", "task_index"])
def test_a_column_that_samples_need_is_missed(root: Path, column: str) -> None:
    edit_info(root, lambda info: info["features"].pop(column))
    pq.write_table(pq.read_table(root / DATA).drop_columns([column]), root / DATA)
    assert only(check_dataset(root), DATA, column).severity == "error"
    with pytest.raises(DatasetError, match=f"column '{column}' is missing.*samples need it"):
        LeRobotDataset(root)


def test_an_episode_that_was_broken_off_at_once_needs_no_files(sound: Path, tmp_path: Path) -> None:
    root = write_older(sound, tmp_path / "older", version="v2.1")
    expected = LeRobotDataset(root)[59][CAMERA]
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write('\n{"episode_index": 3, "tasks": [], "length": 0}\n')
    edit_info(root, lambda info: info.update(total_episodes=4))
    assert check_dataset(root) == ()
    dataset = LeRobotDataset(root)
    assert len(dataset) == 60
    assert dataset.meta.total_episodes == 4
    assert torch.equal(dataset[59][CAMERA], expected)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_older_layouts_are_checked_too(sound: Path, tmp_path: Path, version: str) -> None:
    root = write_older(sound, tmp_path / "older", version=version)
    assert check_dataset(root) == ()
    (root / f"videos/chunk-000/{CAMERA}/episode_000001.mp4").unlink()
    (root / "data/chunk-001/episode_000002.parquet").unlink()
    with (root / "meta/episodes.jsonl").open("a") as file:
        file.write('\n{"episode_index": 0, "length": 3}\n{broken\n')
    found = check_dataset(root)
    only(found, f"videos/chunk-000/{CAMERA}/episode_000001.mp4", "missing", "episodes 1")
    only(found, "data/chunk-001/episode_000002.parquet", "missing", "episodes 2")
    only(found, "meta/episodes.jsonl", "episode 0", "twice")
    only(found, "meta/episodes.jsonl", "line 5")
    assert len(found) == 4


def test_a_camera_without_any_file_is_one_finding(sound: Path, tmp_path: Path) -> None:
    root = write_older(sound, tmp_path / "older", version="v2.0")
    for path in root.glob(f"videos/*/{CAMERA}"):
        shutil.rmtree(path)
    found = check_dataset(root)
    assert len(found) == 1
    assert "no file at all" in found[0].message
    assert "video_keys=" in found[0].remedy
    shown = CliRunner().invoke(app, ["info", str(root)])
    assert shown.exit_code == 0, shown.output
    assert "no files" in shown.output


def test_an_end_that_does_not_fit_the_rows_is_a_warning(root: Path) -> None:
    path = next((root / "meta/episodes").rglob("*.parquet"))
    ends = pq.read_table(path)[f"videos/{CAMERA}/to_timestamp"].to_pylist()
    set_column(path, f"videos/{CAMERA}/to_timestamp", [ends[0], 99.0, ends[2]])
    assert only(check_dataset(root), "meta/episodes", "episode 1", CAMERA).severity == "warning"
