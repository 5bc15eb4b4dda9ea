"""The loader, end to end on real videos: exact frames, order, ranks, resuming, errors, memory, shutdown."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gpuload.errors import ConfigError, DecodeError, LoaderClosed, StateMismatch, VideoError, WorkerDied
from gpuload.loader import Loader
from gpuload.pipeline import pace
from gpuload.pipeline.handle import WorkerHandle
from gpuload.store.cache import BlobKey
from tests.source import NumberedSource
from tests.videos import decode_all


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def pictures(source: NumberedSource) -> list[list[np.ndarray[Any, Any]]]:
    return [decode_all(path) for path in source.paths]


def workers_of(loader: Loader) -> list[WorkerHandle]:
    return [worker for worker in loader._prefetcher._crew if isinstance(worker, WorkerHandle)]


def assert_exact(batch: dict[str, Any], source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]]) -> None:
    for row, sample in enumerate(batch["index"].tolist()):
        episode, frame = divmod(sample, source.frames_per_episode)
        for camera in range(source.cameras):
            for t, offset in enumerate(source.offsets):
                wanted = pictures[episode * source.cameras + camera][
                    min(max(frame + offset, 0), source.frames_per_episode - 1)
                ]
                assert np.array_equal(batch[f"cam{camera}"][row, t].numpy(), wanted), (sample, camera, offset)


@pytest.mark.parametrize("shuffle", [False, "global", "block"])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_epoch_delivers_every_sample_once_and_exactly(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]], shuffle: bool | str, num_threads: int
) -> None:
    with Loader(source, 8, shuffle=shuffle, num_threads=num_threads) as loader:
        seen = []
        for batch in loader:
            assert_exact(batch, source, pictures)
            seen += batch["index"].tolist()
        stats = loader.stats
    assert sorted(seen) == list(range(len(source)))
    assert (seen == sorted(seen)) == (shuffle is False)
    assert stats.frames_delivered == len(source) * 4
    assert stats.frames_distinct == len(source) * 2
    assert stats.amplification == 1.0


def test_batches_are_the_same_for_any_number_of_workers(source: NumberedSource) -> None:
    epochs = []
    for workers in (1, 2, 4):
        with Loader(source, 7, shuffle="global", seed=5, num_threads=workers) as loader:
            epochs.append([b["index"].tolist() for b in loader])
    assert epochs[0] == epochs[1] == epochs[2]


@pytest.mark.parametrize("shuffle", ["global", "block"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch_without_loss(source: NumberedSource, shuffle: str, world_size: int) -> None:
    seen: list[int] = []
    lengths = []
    for rank in range(world_size):
        with Loader(source, 8, shuffle=shuffle, rank=rank, world_size=world_size, num_threads=1) as loader:
            batches = [b["index"].tolist() for b in loader]
            lengths.append([len(b) for b in batches])
            assert len(batches) == len(loader)
            seen += [s for b in batches for s in b]
    assert all(each == lengths[0] for each in lengths)
    assert set(seen) == set(range(len(source)))
    assert len(seen) - len(source) < world_size


@pytest.mark.parametrize("shuffle", ["global", "block"])
def test_resuming_goes_on_with_the_very_next_batch(source: NumberedSource, shuffle: str) -> None:
    with Loader(source, 8, shuffle=shuffle, seed=3, num_threads=1) as loader:
        loader.set_epoch(2)
        whole = [b["index"].tolist() for b in loader]
        iterator = iter(loader)
        for _ in range(4):
            next(iterator)
        state = json.loads(json.dumps(loader.state_dict()))
    with Loader(source, 8, shuffle=shuffle, seed=3, num_threads=1) as loader:
        loader.load_state_dict(state)
        assert [b["index"].tolist() for b in loader] == whole[4:]


def test_resuming_with_another_world_size_keeps_the_set(source: NumberedSource) -> None:
    with Loader(source, 4, shuffle="block", rank=1, world_size=2, num_threads=1) as loader:
        iterator = iter(loader)
        for _ in range(3):
            next(iterator)
        state = loader.state_dict()
    done: set[int] = set()
    for rank in range(2):
        with Loader(source, 4, shuffle="block", rank=rank, world_size=2, num_threads=1) as loader:
            iterator = iter(loader)
            done |= {s for _ in range(3) for s in next(iterator)["index"].tolist()}
    rest: set[int] = set()
    for rank in range(3):
        with Loader(source, 4, shuffle="block", rank=rank, world_size=3, num_threads=1) as loader:
            loader.load_state_dict(state)
            rest |= {s for b in loader for s in b["index"].tolist()}
    assert rest == set(range(len(source))) - done


def test_a_state_of_another_order_is_refused_by_name(source: NumberedSource) -> None:
    with Loader(source, 8, shuffle="global", seed=3) as loader, Loader(source, 8, shuffle="global", seed=4) as other:
        with pytest.raises(StateMismatch, match="seed: 3 there, 4 here"):
            other.load_state_dict(loader.state_dict())


def test_kept_batches_stay_intact_and_memory_is_used_again(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]]
) -> None:
    with Loader(source, 8, shuffle="global", num_threads=2) as loader:
        for batch in list(loader):
            assert_exact(batch, source, pictures)
        places = set()
        for batch in loader:
            places.add(batch["cam0"].data_ptr())
            del batch
        assert len(places) <= 8


def test_a_small_frame_cache_decodes_again_but_stays_exact(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]], caplog: pytest.LogCaptureFixture
) -> None:
    with Loader(source, 8, shuffle="global", num_threads=2, frame_cache_bytes=4 * 128 * 64 * 3 // 2) as loader:
        for batch in loader:
            assert_exact(batch, source, pictures)
        assert loader.stats.amplification > 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "frame_cache_bytes" in caplog.text


def test_a_small_blob_cache_is_enough_and_never_exceeded(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]]
) -> None:
    used: list[int] = []
    with Loader(source, 8, shuffle="global", num_threads=2, blob_cache_bytes=20_000) as loader:
        cache = loader._prefetcher._cache
        read = cache._read

        def noting(key: BlobKey) -> bytes:
            used.append(cache.used_bytes)
            return read(key)

        cache._read = noting
        for batch in loader:
            assert_exact(batch, source, pictures)
        assert cache.leased == 0
    assert 10_000 < max(used) <= 20_000


def test_a_dead_worker_costs_batches_not_the_epoch(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "FARTHEST", 8)
    with Loader(source, 4, shuffle="global", num_threads=2) as loader:
        failed, seen, is_dead = 0, 0, False
        iterator = iter(loader)
        for step in range(len(loader)):
            if step >= 5 and not is_dead:
                worker = workers_of(loader)[0]
                os.kill(worker.pid, signal.SIGSTOP)
                time.sleep(0.2)  # what it had said has been heard
                is_dead = bool(worker.pending)  # on a busy machine it may have been done with everything
                os.kill(worker.pid, signal.SIGKILL if is_dead else signal.SIGCONT)
            try:
                assert_exact(next(iterator), source, pictures)
                seen += 1
            except WorkerDied:
                failed += 1
        assert 0 < failed <= 8
        assert seen == len(loader) - failed
        assert loader.stats.workers_restarted == 1


def test_a_damaged_file_is_named_and_the_loader_goes_on(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=2, cameras=1)
    video = source.video(0)
    data = bytearray(source.paths[0].read_bytes())
    begin, size = int(video.pos[10]), int(video.size[10])
    data[begin : begin + size] = bytes(size)
    source.paths[0].write_bytes(data)
    outcomes = []
    with Loader(source, 10, num_threads=2) as loader:
        iterator = iter(loader)
        for _ in range(len(loader)):
            try:
                outcomes.append(next(iterator)["index"].tolist()[0])
            except DecodeError as error:
                outcomes.append(str(error))
    # The keyframe of frames 10 to 19 is gone; the batch after needs frame 19 for its window.
    assert outcomes[0] == 0
    assert all("e0c0.mp4" in str(outcomes[i]) for i in (1, 2))
    assert outcomes[3:] == [30, 40, 50, 60, 70]


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=1, cameras=1)
    source.video(0)
    with source.paths[0].open("r+b") as file:
        file.truncate(2000)
    with Loader(source, 10, num_threads=1) as loader, pytest.raises(VideoError, match=r"e0c0\.mp4.*truncated"):
        list(loader)


def test_closing_leaves_nothing_behind(source: NumberedSource) -> None:
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    loader = Loader(source, 8, num_threads=2)
    iterator = iter(loader)
    next(iterator)
    pids = [w.pid for w in workers_of(loader)]
    loader.close()
    loader.close()
    with pytest.raises(LoaderClosed):
        next(iterator)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert threading.active_count() == before[0]
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before[1]


def test_a_forgotten_loader_cleans_up(source: NumberedSource) -> None:
    loader = Loader(source, 8, num_threads=1)
    iterator = iter(loader)
    next(iterator)
    pids = [w.pid for w in workers_of(loader)]
    del loader, iterator
    gc.collect()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_leaving_an_epoch_early_and_starting_again(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]]
) -> None:
    with Loader(source, 8, shuffle="block", num_threads=2) as loader:
        for _ in range(3):
            loader.set_epoch(0)
            for step, batch in enumerate(loader):
                assert_exact(batch, source, pictures)
                if step == 2:
                    break


def test_leaving_long_decodes_starts_new_workers(tmp_path: Path) -> None:
    """No waiting for a GOP that nobody wants: a stopped process is the longest decode."""
    source = NumberedSource(tmp_path, episodes=4, cameras=1, frames=400, gop=400, width=320, height=240)
    pictures = [decode_all(path) for path in source.paths]
    with Loader(source, 64, shuffle="global", lookahead=64, num_threads=2) as loader:
        loader._prefetcher.warm_up()
        busy = workers_of(loader)
        for worker in busy:
            os.kill(worker.pid, signal.SIGSTOP)  # before there is anything to do
        left = iter(loader)
        deadline = time.monotonic() + 20
        while not all(any(unit.batch == 0 for unit in worker.pending) for worker in busy):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        begin = time.perf_counter()
        iterator = iter(loader)
        assert time.perf_counter() - begin < 5.0
        assert not {worker.pid for worker in busy} & {worker.pid for worker in workers_of(loader)}
        assert not any(os.path.exists(f"/proc/{worker.pid}") for worker in busy)
        assert_exact(next(iterator), source, pictures)
    del left


def test_an_interrupt_ends_the_process_and_its_workers_at_once(source: NumberedSource) -> None:
    code = (
        "import sys, pickle, signal, gpuload; from gpuload.loader import Loader\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "source = pickle.load(open(sys.argv[1], 'rb'))\n"
        "loader = Loader(source, 4, shuffle='block', num_threads=2)\n"
        "while True:\n"
        "    for batch in loader: print(*(w.pid for w in loader._prefetcher._crew), flush=True)\n"
    )
    pickled = source.paths[0].parent / "source.pickle"
    pickled.write_bytes(pickle.dumps(source))
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, str(pickled)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        begin = time.perf_counter()
        _, errors = process.communicate(timeout=20)
        took_s = time.perf_counter() - begin
    assert errors.strip().splitlines()[-1] == "KeyboardInterrupt"
    assert took_s < 3.0
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_an_interrupt_while_waiting_loses_no_batch(tmp_path: Path) -> None:
    source = NumberedSource(tmp_path, episodes=1, cameras=1, frames=600, gop=600, width=640, height=480)
    with Loader(source, 8, shuffle="global", num_threads=1) as loader:
        iterator = iter(loader)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                next(iterator)  # decodes all 600 frames first
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert loader.state_dict()["position"] == 0
        first = next(iterator)["index"]
        assert loader.state_dict()["position"] == 8
    with Loader(source, 8, shuffle="global", num_threads=1) as loader:
        assert next(iter(loader))["index"].equal(first)


def test_stats_count_distinct_frames_once_an_epoch(source: NumberedSource) -> None:
    frames = source.episodes * source.cameras * source.frames_per_episode
    with Loader(source, 8, shuffle="global", lookahead=16, num_threads=2) as loader:
        for epoch in (1, 2):
            list(loader)
            stats = loader.stats
            assert stats.frames_distinct == epoch * frames
            assert stats.frames_decoded > epoch * frames  # a lookahead so short that GOPs are decoded again
        assert stats.amplification == pytest.approx(stats.frames_decoded / stats.frames_distinct)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"device": "tpu"}, "device must be"),
        ({"device": "meta"}, "device must be"),
        ({"device_cache_bytes": 0}, "device_cache_bytes"),
        ({"backend": "dali"}, "H.264"),
        ({"backend": "nvdec"}, "backend must be one of"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    source: NumberedSource, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        Loader(source, 8, **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_an_error(source: NumberedSource) -> None:
    assert Loader(source, 8).device == torch.device("cpu")
    with pytest.raises(ConfigError, match="no usable GPU"):
        Loader(source, 8, device="cuda")


@pytest.mark.parametrize("backend", ["torchcodec", "torchcodec-rgb"])
def test_torchcodec_on_the_cpu_gives_the_same_batches(
    source: NumberedSource, pictures: list[list[np.ndarray[Any, Any]]], backend: str
) -> None:
    with Loader(source, 8, shuffle="block", backend=backend, device="cpu", num_threads=1) as loader:
        for batch in loader:
            assert_exact(batch, source, pictures)
        assert loader.stats.backends["cam0"] == (backend, f"backend {backend!r} was asked for, device is cpu")
