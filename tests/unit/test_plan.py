"""Laws of order and plan, on arrays alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuload.plan import grouping
from gpuload.plan.grouping import DecodePlan, group_frames
from gpuload.plan.order import EpochOrder, epoch_order, rank_batch
from gpuload.plan.shuffle import Runs, plan_runs

EPISODES, LENGTH, CAMERAS = 200, 300, 2
SAMPLES = EPISODES * LENGTH
PICTURE_BYTES = 640 * 480 * 3 // 2
BUDGET = 4 << 30
Ints = npt.NDArray[np.int64]


def runs_of(gop: int, *, reach: tuple[int, int] = (1, 0), budget: int = BUDGET) -> Runs:
    episodes = np.arange(EPISODES, dtype=np.int64) * LENGTH
    gops = (episodes[:, None] + np.arange(0, LENGTH, gop)).ravel()
    return plan_runs(episodes, gops, SAMPLES, reach=reach, sample_pixels=CAMERAS * 640 * 480, buffer_bytes=budget)


def plan_of(samples: Ints, gop: int, *, budget: int) -> tuple[DecodePlan, Ints]:
    """Windows of the frame before and the frame, two cameras, one file an episode and camera."""
    episode, row = np.divmod(samples, LENGTH)
    file = np.stack([episode * 2, episode * 2, episode * 2 + 1, episode * 2 + 1], 1)
    frame = np.stack([np.maximum(row - 1, 0), row] * CAMERAS, 1)
    plan = group_frames(
        file,
        frame,
        frame // gop * gop,
        batch_size=32,
        picture_bytes=np.full(int(file.max()) + 1, PICTURE_BYTES, np.int64),
        budget_bytes=budget,
    )
    return plan, frame


def distinct_episodes(samples: Ints) -> float:
    batches = (samples // LENGTH)[: len(samples) // 32 * 32].reshape(-1, 32)
    return float(np.mean([len(np.unique(b)) for b in batches]))


@pytest.mark.parametrize(("gop", "most"), [(2, 1.01), (30, 1.02), (250, 1.55)])
def test_block_shuffle_mixes_like_a_permutation_and_decodes_little_twice(gop: int, most: float) -> None:
    order = epoch_order("block", SAMPLES, seed=0, epoch=0, runs=runs_of(gop))
    assert np.array_equal(np.sort(order.samples), np.arange(SAMPLES))
    plan, _ = plan_of(order.samples, gop, budget=BUDGET)
    assert plan.peak_bytes <= BUDGET
    assert plan.frames_decoded <= most * CAMERAS * SAMPLES
    uniform = distinct_episodes(np.random.default_rng(1).permutation(SAMPLES))
    assert distinct_episodes(order.samples) >= 0.95 * uniform


def touched(starts: Ints, reach: tuple[int, int]) -> float:
    """Frames that the windows of each run touch, over samples: what is decoded if runs share nothing."""
    ends = np.append(starts[1:], SAMPLES)
    first = np.maximum(starts - reach[0], starts // LENGTH * LENGTH)
    last = np.minimum(ends - 1 + reach[1], starts // LENGTH * LENGTH + LENGTH - 1)
    return float((last + 1 - first).sum()) / SAMPLES


@pytest.mark.parametrize("reach", [(0, 0), (1, 0), (7, 0), (0, 7), (0, 15), (8, 8)])
def test_shorter_runs_decode_hardly_more_than_the_longest_of_which_enough_are_active(reach: tuple[int, int]) -> None:
    longest = np.arange(0, SAMPLES, 75)  # 64 of them, nearly whole, take 3.8 GiB
    assert touched(runs_of(2, reach=reach).starts, reach) <= 1.03 * touched(longest, reach)


def test_single_frames_of_short_gops_are_taken_in_the_shortest_runs() -> None:
    # 64 active runs of 9 samples need a tenth of the memory of runs of 75, and decode nothing again.
    assert runs_of(2, reach=(0, 0)).count > SAMPLES / 10


@pytest.mark.parametrize("budget", [BUDGET, 200 << 20, 0])
def test_every_slot_gets_its_frame_from_one_group_that_comes_in_time(budget: int) -> None:
    samples = np.random.default_rng(2).permutation(SAMPLES)[:2048]
    plan, frame = plan_of(samples, 30, budget=budget)
    picture = plan.picture_of_slot
    assert np.array_equal(plan.picture_packet[picture], frame)
    assert np.array_equal(np.bincount(picture.ravel()), plan.picture_uses)
    group = plan.picture_group[picture]
    assert (plan.group_due[group] <= np.arange(len(samples))[:, None]).all()
    assert np.array_equal(plan.group_first[group], frame // 30 * 30)
    assert (plan.group_last[group] >= frame).all()
    assert (np.diff(plan.group_due) >= 0).all()


def test_with_memory_enough_every_gop_is_decoded_once() -> None:
    samples = np.random.default_rng(2).permutation(SAMPLES)[:4096]
    plan, _ = plan_of(samples, 30, budget=1 << 60)
    gops = plan.group_file << 32 | plan.group_first
    assert len(np.unique(gops)) == len(gops)


@pytest.mark.parametrize("budget", [0, 10 * PICTURE_BYTES, BUDGET])
def test_passes_over_a_gop_follow_each_other(budget: int) -> None:
    samples = np.random.default_rng(0).permutation(4 * LENGTH)
    plan, _ = plan_of(samples, 30, budget=budget)
    following, feeds = plan.passes()
    groups = list(zip(plan.group_file.tolist(), plan.group_first.tolist(), plan.group_last.tolist(), strict=True))
    for number, (file, first, _) in enumerate(groups):
        alike = [n for n, group in enumerate(groups) if group[:2] == (file, first)]
        later = [n for n in alike if n > number]
        assert following[number] == (later[0] if later else -1)
        assert feeds[number] == max(groups[n][2] for n in alike)
    assert (following >= 0).any() == (budget < BUDGET)


def test_missing_frames_have_no_picture() -> None:
    file = np.array([[0, -1], [0, 0]], np.int64)
    frame = np.array([[3, 0], [4, 5]], np.int64)
    plan = group_frames(
        file, frame, np.zeros_like(frame), batch_size=2, picture_bytes=np.ones(1, np.int64), budget_bytes=100
    )
    assert plan.picture_of_slot[0, 1] == -1
    assert (plan.picture_of_slot >= 0).sum() == 3


def test_an_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    runs = runs_of(30)
    first = epoch_order("block", SAMPLES, seed=1, epoch=2, runs=runs).samples
    assert np.array_equal(first, epoch_order("block", SAMPLES, seed=1, epoch=2, runs=runs).samples)
    for seed, epoch in ((2, 2), (1, 3)):
        assert not np.array_equal(first, epoch_order("block", SAMPLES, seed=seed, epoch=epoch, runs=runs).samples)


@pytest.mark.parametrize("world_size", [1, 3, 8, 40])
def test_ranks_part_every_window(world_size: int) -> None:
    order = epoch_order("block", SAMPLES, seed=0, epoch=0, runs=runs_of(30))
    window = 4 * world_size
    for start in (0, 5 * window, SAMPLES // window * window):
        parts = [rank_batch(order, start, batch_size=4, rank=r, world_size=world_size) for r in range(world_size)]
        assert len({len(p) for p in parts}) == 1
        wanted = order.samples[start : start + window]
        assert set(np.concatenate(parts).tolist()) == set(wanted.tolist())


def test_a_rank_keeps_to_its_own_runs() -> None:
    order: EpochOrder = epoch_order("block", SAMPLES, seed=0, epoch=0, runs=runs_of(30))
    of_rank = [rank_batch(order, step * 64, batch_size=32, rank=0, world_size=2) for step in range(200)]
    plan, _ = plan_of(np.concatenate(of_rank), 30, budget=BUDGET)
    distinct = len(np.unique(plan.group_file[plan.picture_group] << 32 | plan.picture_packet))
    assert plan.frames_decoded < 1.6 * distinct


def test_what_a_patience_would_keep_and_decode_is_what_its_plan_does() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        shape = int(rng.integers(1, 300)), int(rng.integers(1, 4))
        packet = rng.integers(0, int(rng.integers(1, 200)), shape)
        start = packet // (gop := int(rng.integers(1, 40))) * gop
        file = np.where(rng.random(shape) < 0.05, -1, rng.integers(0, 4, shape))
        given: Any = {"batch_size": int(rng.integers(1, 20)), "picture_bytes": rng.integers(1, 1000, 4)}
        attempts = grouping._Attempts(file, packet, start, **given)
        for rule in (attempts.waits.where_dear, attempts.waits.where_old):
            for patience in (0.0, 0.5, 3.0, 40.0, 1e9):
                opens = rule(patience)
                plan = grouping._group(file, packet, start, parts=attempts.waits.parts(opens), **given)
                assert attempts.peak_bytes(opens) == plan.peak_bytes
                assert attempts.frames_decoded(opens) == plan.frames_decoded


@pytest.mark.parametrize("gop", [30, 250])
@pytest.mark.parametrize("pictures", [9000, 2000])
def test_a_budget_that_is_too_small_for_global_shuffle_is_used_all_the_time(gop: int, pictures: int) -> None:
    """Of a uniform order a GOP that serves k samples, each of two pictures, keeps k - 1 of them on average: with GOPs
    of which each serves as many as the budget can hold, that is a pass for every ``1 + pictures / GOPs`` samples."""
    samples = 30_000
    order = np.random.default_rng(0).permutation(samples)
    packet = np.stack([order - (order % 250 > 0), order], 1)
    plan = group_frames(
        np.zeros_like(packet),
        packet,
        packet // gop * gop,
        batch_size=32,
        picture_bytes=np.array([1000]),
        budget_bytes=1000 * pictures,
    )
    assert plan.limited
    assert plan.peak_bytes <= 1000 * pictures
    served = 1 + pictures / (samples / gop)
    assert plan.frames_decoded < 1.4 * samples * gop / served
    fed = np.bincount(plan.group_due * 4 // samples, plan.group_last - plan.group_first + 1)
    assert fed.max() < 2.5 * fed.min()


def test_a_budget_that_nearly_suffices_decodes_little_twice() -> None:
    order = np.random.default_rng(0).permutation(10_000)
    packet = np.stack([order - (order % 250 > 0), order], 1)
    given: Any = {"batch_size": 32, "picture_bytes": np.array([1])}
    file, start = np.zeros_like(packet), packet // 30 * 30
    whole = group_frames(file, packet, start, budget_bytes=1 << 40, **given)
    plan = group_frames(file, packet, start, budget_bytes=int(0.95 * whole.peak_bytes), **given)
    assert plan.limited
    assert plan.frames_decoded < 1.1 * whole.frames_decoded


def test_every_seed_of_64_bits_has_an_order_of_its_own() -> None:
    seeds = [0, 1, 5, 2**53 + 1, 2**63 - 1, 2**63 + 5, 2**63 + 900, 2**64 - 2, -3]
    orders = {tuple(epoch_order("global", 50, seed=seed, epoch=0).samples.tolist()) for seed in seeds}
    assert len(orders) == len(seeds)
    same = np.random.Generator(np.random.Philox(key=[5, 7])).permutation(50)  # what small seeds have always meant
    assert np.array_equal(epoch_order("global", 50, seed=5, epoch=7).samples, same)
