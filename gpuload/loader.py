"""The loader: wires order, plan, workers and batch memory; decides nothing else."""

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch.utils.data import Subset

from gpuload.arguments import at_least, choose_device, finishing_device, refuse_foreign
from gpuload.cores import cores_of_rank
from gpuload.datasets import LeRobotDataset
from gpuload.device.stream import receive
from gpuload.errors import ConfigError, DatasetError, LoaderClosed, VideoError, WorkerDied
from gpuload.pipeline.batch import Batch
from gpuload.pipeline.prefetch import Prefetcher
from gpuload.pipeline.route import Router
from gpuload.pipeline.shaping import Shaping
from gpuload.ranks import find_share, ranks_here
from gpuload.schedule import Iteration, Schedule
from gpuload.sources.base import SampleSource
from gpuload.stats import LoaderStats
from gpuload.subset import unwrapped, without_edges
from gpuload.transform import Transform

logger = logging.getLogger(__name__)

DEFAULT_LOOKAHEAD = 1 << 16
"""Samples planned together: some 0.4 µs each and slot to plan; long enough for runs to live and die inside."""
DEFAULT_DEVICE_CACHE = 4 << 30
ORDERS = {False: "sequential", True: "global", "global": "global", "block": "block"}


class HasSource(Protocol):
    """A dataset that a loader can iterate."""

    @property
    def source(self) -> SampleSource: ...


class Loader:
    """Training batches in a known order, each keyframe window decoded once per lookahead as far as the budgets allow.

    Iterating gives one epoch of dicts: tensors on ``device``, texts as lists, every tensor the caller's for as
    long as it lives. Without ``set_epoch`` every iteration repeats the same epoch, from its beginning. An exception of
    one batch leaves the loader usable: the next ``next()`` of the same iterator gives the batch after it.

    Args:
        dataset: a ``LeRobotDataset``; ``dataset[i]`` is not called.
        batch_size: samples in a batch.
        shuffle: ``False``; ``"global"`` or ``True``, a uniform permutation; ``"block"``, samples drawn from many
            runs of neighbouring frames at once, which mixes episodes like a permutation and decodes little twice.
        seed: of the order and of random transforms; the same seed and epoch are the same batches everywhere.
        device: ``"auto"`` is CUDA if there is a usable GPU, else the CPU. Batches on CUDA are safe on the stream that
            is current where ``next`` is called.
        transform: what happens to pictures on their way into a batch, one for all cameras or by camera; its random
            parts depend on (seed, epoch, sample, camera) only.
        drop_last: leaves an incomplete last batch out.
        sampler: yields sample numbers, of all ranks, instead of ``shuffle``; iterated once an iteration. Its own
            ``set_epoch`` is called by the loader's. To resume, it must give the same order again. One with
            ``num_replicas``, as torch's ``DistributedSampler``, gives this rank's alone, and is shared no further.
        drop_n_first_frames, drop_n_last_frames: samples to leave out at each episode's edges, as LeRobot's
            ``EpisodeAwareSampler``; what policies such as Diffusion ask for. Windows may still look there.
        rank, world_size: this rank's share; default: what ``torch.distributed`` says if it is initialized, else
            the variables that torchrun and accelerate set; ``0, 1`` gives every rank all samples. Every rank gets
            equally many batches. The last ones are made equally large by repeating fewer than ``world_size`` samples;
            with one rank the last one is just smaller.
        lookahead: samples planned together; default 65,536.
        num_threads: decode workers, each a process of its own; default: the cores this process may use, divided by
            the ranks on this machine, where a launcher says how many (``LOCAL_WORLD_SIZE``).
        backend: ``"auto"`` takes for each stream what decodes it best on ``device`` (``stats.backends`` says what and
            why); ``"pyav"``, ``"torchcodec"``, ``"torchcodec-rgb"`` or ``"dali"`` forces one, the last two with colours
            as their library converts them (docs/gpu.md).
        frame_cache_bytes: budget of decoded pictures that are kept for later batches, 4 GiB.
        blob_cache_bytes: encoded bytes read and not yet decoded, or to be decoded again soon, 1 GiB.
        device_cache_bytes: the same of pictures in the GPU's memory, whoever decoded them; default 4 GiB.
        shuffle_buffer_bytes: nominal size of what block shuffle draws from, 4 GiB; part of the order, like the seed.
        on_error: ``"skip"`` leaves out a batch that holds a damaged sample, with a warning (``stats.batches_skipped``
            counts them), instead of raising. On one rank only: the others would wait for a batch that never comes.

    Not thread-safe: iterate and call from one thread, of the process that made it.

    Raises:
        ConfigError: an argument cannot be used; says which and what to do.
    """

    def __init__(
        self,
        dataset: HasSource | Subset[Any],
        batch_size: int = 1,
        *,
        shuffle: bool | str = False,
        seed: int = 0,
        device: str | torch.device = "auto",
        transform: Transform | Mapping[str, Transform] | None = None,
        drop_last: bool = False,
        sampler: Iterable[int] | None = None,
        drop_n_first_frames: int = 0,
        drop_n_last_frames: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        lookahead: int | None = None,
        num_threads: int | None = None,
        backend: str = "auto",
        frame_cache_bytes: int = 4 << 30,
        blob_cache_bytes: int = 1 << 30,
        device_cache_bytes: int | None = None,
        shuffle_buffer_bytes: int = 4 << 30,
        on_error: Literal["raise", "skip"] = "raise",
        **of_dataloader: object,
    ) -> None:
        refuse_foreign(of_dataloader)
        self.device = choose_device(device)
        if shuffle not in ORDERS:
            raise ConfigError(f"shuffle must be False, True, 'global' or 'block', got {shuffle!r}")
        if sampler is not None and shuffle:
            raise ConfigError("sampler and shuffle exclude each other: a sampler decides the order")
        self._is_dealt, self._is_told = (getattr(sampler, "num_replicas", None) or 1) > 1, rank is not None
        self.rank, self.world_size = find_share(rank, world_size, is_dealt=self._is_dealt)
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
        self.on_error = on_error
        self._check_skipping()
        self.batch_size = at_least(1, "batch_size", batch_size)
        threads = cores_of_rank(ranks_here()) if num_threads is None else num_threads
        self.num_threads = at_least(1, "num_threads", threads)
        self.drop_last = drop_last
        self._dataset, chosen = unwrapped(dataset)
        self._source = _source_of(self._dataset)
        if sampler is not None and (drop_n_first_frames or drop_n_last_frames):
            raise ConfigError("sampler and drop_n_last_frames exclude each other: a sampler decides what comes")
        self._chosen = without_edges(
            chosen,
            self._source.episode_starts(),
            len(self._source),
            first=drop_n_first_frames,
            last=drop_n_last_frames,
        )
        self._has_transform = transform is not None
        self._image_transforms = self._transforms_of_dataset()
        if not -(1 << 63) <= int(seed) < 1 << 64:
            raise ConfigError(f"seed must be a number of 64 bits, got {seed}")
        self._shaping = Shaping(self._source, transform, seed=int(seed))
        self._schedule = Schedule(
            self._source,
            "sampler" if sampler is not None else ORDERS[shuffle],
            seed=int(seed),
            sampler=sampler,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            drop_last=drop_last,
            buffer_bytes=at_least(1, "shuffle_buffer_bytes", shuffle_buffer_bytes),
            draws=self._shaping.is_random,
            chosen=self._chosen,
        )
        self._delivered = [0, 0, 0]
        self._skipped = 0
        self._mixing = [0.0, 0.0]
        self._episode_starts = self._source.episode_starts()
        self._uniform: dict[int, float] = {}
        self._router = Router(self._source, device=self.device, backend=backend)
        self._prefetcher = Prefetcher(
            self._source,
            self._shaping,
            self._router,
            batch_size=self.batch_size,
            num_workers=self.num_threads,
            lookahead=at_least(1, "lookahead", DEFAULT_LOOKAHEAD if lookahead is None else lookahead),
            frame_cache_bytes=at_least(0, "frame_cache_bytes", frame_cache_bytes),
            device_cache_bytes=at_least(
                1, "device_cache_bytes", DEFAULT_DEVICE_CACHE if device_cache_bytes is None else device_cache_bytes
            ),
            blob_cache_bytes=at_least(1, "blob_cache_bytes", blob_cache_bytes),
            device=finishing_device(self.device),
        )
        self._running: Iteration | None = None
        """The only iteration that may take batches."""
        self._closed = False
        self._finalizer = weakref.finalize(self, self._prefetcher.forget)

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank.

        Raises:
            TypeError: the sampler has no length.
        """
        self._settle_share()
        return len(self._schedule)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Begins the epoch, or goes on where ``load_state_dict`` said. A second iterator ends the first.

        Its ``next()`` raises a VideoError or DatasetError where a sample of the batch cannot be had, a CacheFull or
        DeviceError where a budget or the GPU does not suffice; the one after gives the next batch.

        Raises:
            StateMismatch: the sampler gives another order than when the state was taken.
        """
        if self._closed:
            raise LoaderClosed("the loader is closed; make a new one")
        self._settle_share()
        self._image_transforms = self._transforms_of_dataset()  # they may have changed: cleared for evaluation, say
        if self._running is None:
            self._prefetcher.warm_up()  # while the order is made, for which files may have to be indexed
        iteration = self._running = self._schedule.begin()
        self._prefetcher.start(iteration.samples_of, iteration.steps, epoch=iteration.epoch)
        return _EpochIterator(self, iteration)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration plays: from its beginning, or, in the epoch of a state that was loaded, from
        where that says."""
        self._schedule.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, after the last batch that was delivered: small, JSON-able, the same on every rank."""
        return self._schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on with the very next sample at the next iteration, on as many ranks as there are now.

        A state that was taken after the last batch leaves nothing of its epoch: the next iteration is empty.

        Raises:
            StateMismatch: it belongs to another dataset or order; names the difference.
        """
        self._schedule.load_state_dict(state)

    @property
    def stats(self) -> LoaderStats:
        """A snapshot of what has been done so far."""
        work, (batches, samples, frames) = self._prefetcher, self._delivered
        tally = work.tally
        distinct = tally.frames_distinct
        return LoaderStats(
            batches_delivered=batches,
            samples_delivered=samples,
            frames_delivered=frames,
            batches_skipped=self._skipped,
            frames_decoded=tally.frames_decoded,
            decoded_by=dict(tally.decoded_by),
            frames_distinct=distinct,
            amplification=tally.frames_decoded / distinct if distinct else 0.0,
            bytes_read=work.bytes_read,
            wait_s=tally.wait_s,
            mixing=self._mixing[0] / self._mixing[1] if self._mixing[1] else 0.0,
            kept_bytes=tally.kept_bytes,
            workers_restarted=work.restarted,
            backends=self._router.backends(),
        )

    def close(self) -> None:
        """Ends workers and threads. Idempotent; delivered batches stay valid."""
        self._closed = True
        self._running = None
        self._prefetcher.close()
        self._finalizer.detach()  # last, so that close() can be called again after Ctrl-C

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settle_share(self) -> None:
        """Unless ``rank`` was given: asks the process group, which some launchers create after the loader."""
        if not self._is_told:
            self.rank, self.world_size = find_share(None, None, is_dealt=self._is_dealt)
            self._check_skipping()
            self._schedule.share(self.rank, self.world_size)

    def _transforms_of_dataset(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        found: Callable[[torch.Tensor], torch.Tensor] | None = getattr(self._dataset, "image_transforms", None)
        if found is not None and self._has_transform:
            raise ConfigError("transform and the dataset's image_transforms exclude each other: keep one of them")
        return found

    def _check_skipping(self) -> None:
        if self.on_error == "skip" and (self.world_size > 1 or self._is_dealt):
            raise ConfigError("on_error='skip' works on one rank only: ranks must get equally many batches")

    def _deliver(self, batch: Batch) -> dict[str, Any]:
        count = len(batch.samples)
        result: dict[str, Any] = {}
        fields = self._source.video_fields
        memory = batch.memory
        if memory is None and batch.buffer is not None:
            memory = torch.from_numpy(batch.buffer)
        if memory is not None:
            for f, form, offset in zip(fields, self._shaping.forms, self._prefetcher.layout.field_offsets, strict=True):
                part = memory[offset : offset + count * f.num_offsets * form.slot_bytes]
                frames = part.view(getattr(torch, form.dtype)).view(count, f.num_offsets, *form.shape)
                result[f.key] = frames.squeeze(1) if f.squeeze else frames
        result.update(batch.columns)
        receive([v for v in (memory, *batch.columns.values()) if isinstance(v, torch.Tensor)], batch.ready, self.device)
        if self._image_transforms is not None:
            cameras = [*(f.key for f in fields if f.lut is None), *self._source.image_keys]
            for key in cameras:  # a sample at a time, as dataset[i] does: each has its own random draw
                result[key] = torch.stack([self._image_transforms(pictures) for pictures in result[key]])
        self._mixing[0] += len(set(np.searchsorted(self._episode_starts, batch.samples, side="right").tolist()))
        self._mixing[1] += self._uniform_mixing(count)
        self._delivered[0] += 1
        self._delivered[1] += count
        self._delivered[2] += count * sum(f.num_offsets for f in fields)
        return result

    def _uniform_mixing(self, count: int) -> float:
        """Distinct episodes to expect among ``count`` samples drawn at random."""
        if count not in self._uniform:
            if self._chosen is None:
                lengths = np.diff(np.append(self._episode_starts, len(self._source)))
            else:
                lengths = np.bincount(np.searchsorted(self._episode_starts, self._chosen, side="right"))
            total = lengths.sum()
            self._uniform[count] = float((1 - (1 - lengths / total) ** count).sum())
        return self._uniform[count]


class _EpochIterator(Iterator[dict[str, Any]]):
    def __init__(self, loader: Loader, iteration: Iteration) -> None:
        self._loader, self._iteration = loader, iteration
        self._taken: Batch | None = None
        """Not delivered yet: Ctrl-C came between."""

    def __next__(self) -> dict[str, Any]:
        loader = self._loader
        if loader._closed:
            raise LoaderClosed("the loader is closed; make a new one")
        if loader._running is not self._iteration:
            raise LoaderClosed("another iteration of this loader has begun; a loader plays one epoch at a time")
        while True:
            try:
                if self._taken is None:
                    self._taken = self._take()
                result = loader._deliver(self._taken)
            except Exception as error:  # not Ctrl-C: the batch that it kept from coming is the next one
                if self._taken is not None:
                    self._taken = None
                    loader._schedule.advance(self._iteration)
                # A process that died was not the sample's fault, and the next one may die of the same.
                is_damage = isinstance(error, DatasetError | VideoError) and not isinstance(error, WorkerDied)
                if loader.on_error == "raise" or not is_damage or loader._prefetcher.broken:
                    raise
                loader._skipped += 1
                logger.warning("a batch is left out: %s", str(error))  # as text, without the traceback's frames
                continue
            self._taken = None
            loader._schedule.advance(self._iteration)
            return result

    def _take(self) -> Batch:
        """The next batch; one that is damaged counts as delivered."""
        loader, work = self._loader, self._loader._prefetcher
        taken = work.batches_taken
        try:
            return work.next()
        except StopIteration:
            if not work.broken:
                loader._schedule.finish(self._iteration)
            raise
        except Exception:  # whatever it was, a batch that was taken counts as delivered
            if work.batches_taken > taken:
                loader._schedule.advance(self._iteration)
            raise


def _source_of(dataset: object) -> SampleSource:
    source = getattr(dataset, "source", None)
    if isinstance(dataset, LeRobotDataset) and type(dataset).__getitem__ is not LeRobotDataset.__getitem__:
        raise ConfigError(
            f"{type(dataset).__qualname__} has a __getitem__ of its own, which a Loader does not call: change batches "
            "in the loop and give it a gpuload.LeRobotDataset, or iterate yours with torch's DataLoader"
        )
    if source is None:
        what = f"{type(dataset).__module__}.{type(dataset).__qualname__}"
        raise ConfigError(f"a Loader takes a gpuload.LeRobotDataset or a Subset of one, got {what}")
    return source  # type: ignore[no-any-return]  # whoever has one has a SampleSource
