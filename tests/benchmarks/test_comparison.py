"""The comparison's own laws: what it calls the same frames, and that an interrupted run goes on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import comparison
from benchmarks.cases import Case
from benchmarks.compare import plan
from benchmarks.comparison import Comparison, open_comparison
from benchmarks.parts import compare as compare_parts
from benchmarks.parts import slower, unmatched
from benchmarks.peers.folder import read_folder
from benchmarks.peers.protocol import Clocked
from benchmarks.same_frames import Pictures, Reference, choose_samples, compare, read_reference
from benchmarks.script import cause_of
from benchmarks.tables import BEGIN, END, summary, write_page, write_readme
from benchmarks.variants import VARIANTS
from gpuload import LeRobotDataset
from gpuload.demo import write_dataset

CAMERAS = ("a", "b")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bench") / "set"
    return write_dataset(root, episodes=3, frames=20, cameras=CAMERAS, width=64, height=48, gop=5, frames_per_file=40)


def noise(seed: int) -> Pictures:
    """uint8 ``[2 samples, 1 camera, 2 offsets, 3, 8, 8]``."""
    return np.random.default_rng(seed).integers(20, 230, (2, 1, 2, 3, 8, 8), dtype=np.uint8)


def reference() -> Reference:
    return Reference((0, 1), noise(0), noise(1)[:, :, 0])


def test_equal_frames_are_exact() -> None:
    assert compare(noise(0), reference(), tolerance=0).word == "exact"


def test_a_difference_is_close_only_within_the_tolerance() -> None:
    off = noise(0)
    off[1, 0, 1, 2, 7, 7] += 2
    assert compare(off, reference(), tolerance=2).word == "close"
    assert compare(off, reference(), tolerance=1).word == "lossy"


@pytest.mark.parametrize("neighbour", ["before", "after"])
def test_a_neighbour_is_never_the_same_frame(neighbour: str) -> None:
    still = reference()
    right = still.pictures.astype(np.int16)
    right[:, :, 0] = right[:, :, 1] + 1  # a scene that hardly moves
    still = Reference((0, 1), right.astype(np.uint8), (right[:, :, 1] - 1).astype(np.uint8))
    shifted = still.pictures.copy()
    shifted[0, :, 1] = still.following[0] if neighbour == "after" else still.pictures[0, :, 0]
    verdict = compare(shifted, still, tolerance=0)
    assert verdict.word == "differs"
    assert not verdict.passed


def test_the_reference_is_what_the_dataset_returns(dataset: Path) -> None:
    job = Case("here", dataset=str(dataset)).job(seconds=1.0, work=dataset)
    found = read_reference(job)
    theirs = LeRobotDataset(str(dataset), delta_timestamps=job.deltas, return_uint8=True)
    for i, sample in enumerate(found.samples):
        item = theirs[sample]
        for j, camera in enumerate(job.cameras):
            assert np.array_equal(found.pictures[i, j], np.asarray(item[camera]))


def test_checked_windows_stay_in_their_episode(dataset: Path) -> None:
    folder = read_folder(dataset)
    rows = np.array(choose_samples(folder, reach=7, count=1000))
    assert len(rows) == 3 * (20 - 7 - 1)
    assert (rows % 20 >= 7).all()
    assert (rows % 20 < 19).all()


def test_windows_are_clamped_to_the_episode(dataset: Path) -> None:
    folder = read_folder(dataset)
    path, times = folder.frames(20, "b", (-1, 0))
    assert path.name == "file-000.mp4"
    assert times[0] == times[1]
    assert folder.frames(40, "b", (0,))[0].name == "file-001.mp4"


def opened(folder: Path, *, fresh: bool = False, seconds: float = 1.0) -> Comparison:
    return open_comparison("some", {"seconds": seconds}, fresh=fresh, folder=folder)


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    opened(tmp_path).add("case", "gpuload block", 0, {"result": {"frames_per_s": 3.0}, "peak_bytes": 1})
    assert opened(tmp_path).find("case", "gpuload block", 0) is not None
    assert opened(tmp_path).find("case", "gpuload block", 1) is None
    assert opened(tmp_path, fresh=True).find("case", "gpuload block", 0) is None


def test_other_settings_leave_a_record_alone(tmp_path: Path) -> None:
    opened(tmp_path).add("case", "gpuload block", 0, {"result": {"frames_per_s": 3.0}, "peak_bytes": 1})
    other = opened(tmp_path, seconds=2.0)
    assert other.find("case", "gpuload block", 0) is None
    other.add("case", "gpuload block", 0, {"result": {"frames_per_s": 5.0}, "peak_bytes": 1})
    found = opened(tmp_path).find("case", "gpuload block", 0)
    assert found is not None
    assert found["result"]["frames_per_s"] == 3.0


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.add("case", "LeRobot", 0, {"reason": "cannot be installed: no network"})
    record.add_check("set", "LeRobot", {"word": "failed", "detail": "no network", "passed": False})
    record.add_check("set", "decord", {"word": "differs", "detail": "PSNR 9 dB", "passed": False})
    again = opened(tmp_path)
    assert again.find("case", "LeRobot", 0) is None
    assert again.checked("set").keys() == {"decord"}
    assert again.checks["set"].keys() == {"LeRobot", "decord"}, "it stands there until it has been tried"
    again.add("case", "gpuload block", 0, {"result": {"frames_per_s": 3.0}, "peak_bytes": 1})
    (failed, _) = opened(tmp_path).content["runs"]
    assert "no network" in failed["reason"]
    again.add("case", "LeRobot", 0, {"result": {"frames_per_s": 2.0}, "peak_bytes": 1})
    assert opened(tmp_path).find("case", "LeRobot", 0) is not None
    assert len(opened(tmp_path).content["runs"]) == 2


def test_other_code_is_another_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).add("case", "gpuload block", 0, {"result": {"frames_per_s": 3.0}, "peak_bytes": 1})
    monkeypatch.setattr(comparison, "code_identity", lambda: "other")
    assert opened(tmp_path).find("case", "gpuload block", 0) is None


def test_who_fails_stands_in_the_page_with_the_reason(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.content["cases"]["case"] = {
        "dataset": "d", "scale": "one", "long": False, "window": 2, "dtype": "uint8", "size": None, "step_s": 0.0,
    }  # fmt: skip
    result = {"frames_per_s": 3.0, "frames_delivered": 30, "seconds": 10.0, "usage": {"read_bytes": 1.0}}
    record.add("case", "gpuload block", 0, {"result": result, "peak_bytes": 1})
    record.add("case", "Rerun 0.41 map w0", 0, {"reason": "cannot be installed: no network"})
    text = write_page(record, tmp_path / "page.md").read_text()
    assert "- Rerun 0.41 map w0: cannot be installed: no network" in text
    assert "| gpuload block | block | 3 (3–3) |" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nyesterday\n{END}\nafter\n")
    write_readme(record, readme)
    assert readme.read_text().startswith(f"before\n{BEGIN}\n")
    assert readme.read_text().endswith(f"{END}\nafter\n")
    assert "| case | **3** |" in readme.read_text()
    assert "yesterday" not in readme.read_text()


def test_the_short_table_has_the_best_of_each_peer_and_marks_what_differs(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.content["cases"]["case"] = {
        "dataset": "d", "scale": "one", "long": False, "window": 2, "dtype": "uint8", "size": None, "step_s": 0.0,
    }  # fmt: skip
    rates = {"gpuload block": [3, 9], "Rerun 0.41 block w0": [2], "Rerun 0.41 block w2": [7, 7]}
    for variant, found in {**rates, "gpuload global": [1], "LeRobot 0.4.4 pyav w2": [5]}.items():
        for number, rate in enumerate(found):
            result = {"frames_per_s": rate, "frames_delivered": 30, "seconds": 10.0}
            record.add("case", variant, number, {"result": result, "peak_bytes": 1})
    record.add("case", "gpuload block", 2, {"reason": "stopped after 300 s"})
    record.add_check("d one", "Rerun 0.41 block", {"word": "lossy", "detail": "PSNR 44 dB", "passed": True})
    table = summary(record)
    assert "|  | gpuload, block | Rerun 0.41, block | gpuload, global | LeRobot 0.4.4, global |" in table
    assert "| case | 6 | **7\\*** | 1 | **5†** |" in table
    assert "| gpuload block | block | 6 (3–9), 2 of 3 rounds |" in write_page(record, tmp_path / "page.md").read_text()


def test_named_peers_run_on_every_case_and_others_on_the_base_only() -> None:
    cases = {"one": Case("one", base=True), "two": Case("two")}
    (_, on_base), (_, on_other) = plan(cases, "*")
    assert len(on_base) == len(VARIANTS)
    assert all(variant.leading for variant in on_other)
    (_, named), (_, also) = plan(cases, "PyAV*")
    assert [one.name for one in named] == [one.name for one in also] == ["PyAV naive w0", "PyAV naive w2"]


def test_a_reason_is_the_exception_and_not_its_traceback() -> None:
    said = 'Traceback:\n  File "x.py", line 3\npkg.mod.SomeError: what went wrong\nsome later line'
    assert cause_of(said) == "pkg.mod.SomeError: what went wrong"


def test_only_parts_beyond_the_factor_are_slower() -> None:
    parts = compare_parts({"a": 1.4, "b": 1.6, "new": 9.0}, {"a": 1.0, "b": 1.0})
    assert slower(parts, 1.5) == ["b"]


def test_parts_that_cannot_be_compared_are_told() -> None:
    kernel = "test_nv12_to_slots[uint8]"
    assert unmatched({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0, kernel: 1.0}) == []
    assert unmatched({"a": 1.0, "new": 9.0}, {"a": 1.0, "gone": 1.0}) == ["gone", "new"]


class Counting:
    """A peer of three batches an epoch."""

    def batches(self, epoch: int) -> Iterator[int]:
        yield from (4, 4, 2)

    def counters(self) -> dict[str, float]:
        return {"frames_decoded": 7.0}

    def facts(self) -> dict[str, object]:
        return {}

    def close(self) -> None:
        pass


def test_a_window_ends_where_the_epoch_does() -> None:
    peer = Counting()
    clocked = Clocked(peer, 0.0)
    seen, ended = clocked.window(peer.batches(0), lambda seconds, count: False)
    assert ended
    assert (seen.frames, len(seen.waits_s), seen.counters) == (10, 3, {"frames_decoded": 0.0})
    seen, ended = clocked.window(peer.batches(1), lambda seconds, count: count >= 2)
    assert not ended
    assert seen.frames == 8
