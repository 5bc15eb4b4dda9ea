"""Which samples come, and where an iteration begins: laws of the schedule, without decoding anything."""

import json
import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload.errors import ConfigError, StateMismatch
from gpuload.schedule import Schedule
from tests.source import NumberedSource

SAMPLES = 120
"""Three episodes of 40."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("schedule"), cameras=1)


def schedule(
    source: Any, kind: str = "global", *, sampler: Any = None, rank: int = 0, ranks: int = 1, draws: bool = False
) -> Schedule:
    return Schedule(
        source,
        kind if sampler is None else "sampler",
        seed=0,
        sampler=sampler,
        batch_size=8,
        rank=rank,
        world_size=ranks,
        drop_last=False,
        buffer_bytes=1 << 30,
        draws=draws,
    )


def play(plan: Schedule, batches: int | None = None) -> list[list[int]]:
    """The samples of each batch; to the end, unless only some ``batches`` are taken."""
    iteration, taken = plan.begin(), list[list[int]]()
    for step in range(iteration.steps if batches is None else batches):
        taken.append(iteration.samples_of(step).tolist())
        plan.advance(iteration)
    if batches is None:
        plan.finish(iteration)
    return taken


class Shuffled:
    """A sampler whose order is a function of its epoch, as LeRobot's and torch's distributed one."""

    def __init__(self, seeded: bool = True) -> None:
        self.epoch, self.seeded, self.iterated = 0, seeded, 0

    def __len__(self) -> int:
        return SAMPLES

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.iterated += 1
        seed = self.epoch if self.seeded else self.iterated
        return iter(np.random.default_rng(seed).permutation(SAMPLES).tolist())


# where an iteration begins -------------------------------------------------------------------------------------------


def test_a_look_at_the_first_batch_does_not_move_the_epoch(source: NumberedSource) -> None:
    plan = schedule(source)
    whole = play(schedule(source))
    assert play(plan, 1) == whole[:1]
    assert play(plan) == whole
    assert play(plan) == whole


@pytest.mark.parametrize("kind", ["sequential", "global", "block"])
@pytest.mark.parametrize("batches", [0, 1, 7, 15])
def test_a_state_goes_on_with_the_very_next_batch(source: NumberedSource, kind: str, batches: int) -> None:
    before = schedule(source, kind)
    before.set_epoch(3)
    whole = play(before, 15)
    before.set_epoch(0)
    before.set_epoch(3)
    play(before, batches)
    after = schedule(source, kind)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert play(after, 0) == []  # nor does looking move it
    assert play(after) == whole[batches:]
    assert play(after) == whole  # the epoch has been played to its end


def test_the_state_behind_the_last_batch_leaves_nothing_of_the_epoch(source: NumberedSource) -> None:
    plan = schedule(source)
    play(plan)
    state = plan.state_dict()
    assert (state["epoch"], state["position"]) == (0, SAMPLES)
    after = schedule(source)
    after.load_state_dict(state)
    assert play(after) == []
    assert len(play(after)) == 15


def test_the_usual_loop_over_epochs_resumes_in_the_middle_of_one(source: NumberedSource) -> None:
    def train(plan: Schedule, first: int, until: int) -> list[list[list[int]]]:
        epochs = []
        for epoch in range(first, until):
            plan.set_epoch(epoch)
            epochs.append(play(plan))
        return epochs

    whole = train(schedule(source), 0, 4)
    before = schedule(source)
    train(before, 0, 2)
    before.set_epoch(2)
    play(before, 5)
    after = schedule(source)
    after.load_state_dict(before.state_dict())
    assert train(after, 2, 4) == [whole[2][5:], whole[3]]


def test_another_epoch_begins_at_its_beginning(source: NumberedSource) -> None:
    plan = schedule(source)
    play(plan, 5)
    state = plan.state_dict()
    plan = schedule(source)
    plan.load_state_dict(state)
    plan.set_epoch(1)
    assert plan.state_dict()["position"] == 0
    assert len(play(plan)) == 15


def test_an_iteration_that_goes_on_behind_set_epoch_does_not_move_the_state(source: NumberedSource) -> None:
    plan = schedule(source)
    iteration = plan.begin()
    plan.advance(iteration)
    plan.set_epoch(1)
    plan.advance(iteration)
    plan.finish(iteration)
    assert (plan.state_dict()["epoch"], plan.state_dict()["position"]) == (1, 0)


def test_an_epoch_that_is_played_twice_is_told(source: NumberedSource, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for kind in ("global", "sequential"):
            plan = schedule(source, kind)
            play(plan, 3)
            play(plan)
            plan.set_epoch(1)
            play(plan)
        assert not caplog.text  # left in the middle, or in the order of the files
        plan = schedule(source)
        play(plan)
        play(plan)
    assert "set_epoch" in caplog.text


def test_random_pictures_that_repeat_are_told_whatever_the_order(
    source: NumberedSource, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for sampler in (None, Shuffled()):
            plan = schedule(source, "sequential", sampler=sampler, draws=True)
            play(plan)
            plan.set_epoch(1)
            play(plan)
            assert not caplog.text
            play(plan)
            assert "with the same random crops and flips" in caplog.text
            caplog.clear()


# samplers ------------------------------------------------------------------------------------------------------------


def test_a_sampler_is_iterated_once_an_iteration_and_told_the_epoch(source: NumberedSource) -> None:
    sampler = Shuffled()
    plan = schedule(source, sampler=sampler)
    assert len(plan) == 15
    assert sampler.iterated == 0
    plan.set_epoch(4)
    assert list(chain.from_iterable(play(plan))) == list(Shuffled.__iter__(_at(4)))
    assert sampler.iterated == 1


def _at(epoch: int) -> Shuffled:
    sampler = Shuffled()
    sampler.set_epoch(epoch)
    return sampler


def test_a_sampler_without_a_length_has_no_number_of_batches(source: NumberedSource) -> None:
    plan = schedule(source, sampler=(i for i in range(20)))
    with pytest.raises(TypeError, match="len"):
        len(plan)
    assert list(chain.from_iterable(play(plan))) == list(range(20))


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_sampler_resumes_on_every_number_of_ranks(source: NumberedSource, ranks: int) -> None:
    before = [schedule(source, sampler=Shuffled(), rank=rank, ranks=ranks) for rank in range(ranks)]
    delivered = {sample for plan in before for batch in play(plan, 3) for sample in batch}
    assert len(delivered) == 3 * 8 * ranks
    assert before[0].state_dict() == before[-1].state_dict()
    for now in (1, 2, 3):
        rest = set[int]()
        for rank in range(now):
            after = schedule(source, sampler=Shuffled(), rank=rank, ranks=now)
            after.load_state_dict(before[0].state_dict())
            rest |= {sample for batch in play(after) for sample in batch}
        assert rest == set(range(SAMPLES)) - delivered


def test_a_sampler_of_another_order_cannot_resume(source: NumberedSource) -> None:
    plan = schedule(source, sampler=Shuffled(seeded=False))
    play(plan, 3)
    sampler = Shuffled(seeded=False)
    sampler.iterated = 5
    after = schedule(source, sampler=sampler)
    after.load_state_dict(plan.state_dict())
    with pytest.raises(StateMismatch, match="sampler"):
        after.begin()
    short = schedule(source, sampler=range(10))
    short.load_state_dict({**short.state_dict(), "position": 24})
    with pytest.raises(StateMismatch, match="24"):
        short.begin()


def test_samples_that_there_are_not_are_refused(source: NumberedSource) -> None:
    for bad in ([0, SAMPLES], [-1]):
        with pytest.raises(ConfigError, match="sampler"):
            schedule(source, sampler=bad).begin()


def test_torchs_sampler_works(source: NumberedSource) -> None:
    sampler = torch.utils.data.RandomSampler(range(SAMPLES), generator=torch.Generator().manual_seed(0))
    assert sorted(chain.from_iterable(play(schedule(source, sampler=sampler)))) == list(range(SAMPLES))


# states of another order ---------------------------------------------------------------------------------------------


class Recoded:
    """The same samples, encoded with other GOPs."""

    def __init__(self, source: NumberedSource, gop: int) -> None:
        self._source, self._gop = source, gop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)

    def gop_starts(self) -> npt.NDArray[np.int64]:
        return np.arange(0, SAMPLES, self._gop, dtype=np.int64)


def test_a_state_of_block_shuffle_belongs_to_its_gops(source: NumberedSource) -> None:
    state = schedule(Recoded(source, 10), "block").state_dict()
    schedule(Recoded(source, 10), "block").load_state_dict(state)
    with pytest.raises(StateMismatch, match="runs"):
        schedule(Recoded(source, 4), "block").load_state_dict(state)
    schedule(Recoded(source, 4), "global").load_state_dict(schedule(source, "global").state_dict())


@pytest.mark.parametrize("change", [{"position": -1}, {"position": SAMPLES + 1}, {"version": 0}, {"fingerprint": "x"}])
def test_a_state_of_something_else_is_refused(source: NumberedSource, change: dict[str, Any]) -> None:
    plan = schedule(source)
    with pytest.raises(StateMismatch, match=next(iter(change)).replace("fingerprint", "another dataset")):
        plan.load_state_dict({**plan.state_dict(), **change})


@pytest.mark.parametrize("name", ["epoch", "position"])
def test_a_state_without_a_place_is_refused(source: NumberedSource, name: str) -> None:
    plan = schedule(source)
    for state in ({**plan.state_dict(), name: None}, {k: v for k, v in plan.state_dict().items() if k != name}):
        with pytest.raises(StateMismatch, match=name):
            plan.load_state_dict(state)


def test_ranks_that_change_while_an_iteration_runs_do_not_move_its_position(source: NumberedSource) -> None:
    plan = schedule(source, ranks=2)
    iteration = plan.begin()
    plan.advance(iteration)
    plan.share(0, 4)  # a process group came, and somebody asked for the length
    plan.advance(iteration)
    assert plan.state_dict()["position"] == 32
