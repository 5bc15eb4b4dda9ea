"""What is compared: the workloads, as one base and what changes one thing of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.datasets import ensure_dataset
from benchmarks.peers.folder import Folder, read_folder
from benchmarks.peers.protocol import Job

WARM_S = 16.0
"""Before the clock starts, if no epoch ends before that, whoever is measured. By then a shuffle buffer of the default
size is full and memory is no longer fresh (two cores), or the first epoch is over, and whole ones follow. With 1.5 s it
was chance which of the two was measured: with windows of 8, 1,380 frames/s in a first epoch and 6,694 over whole ones,
by the same loader."""


@dataclass(frozen=True, slots=True)
class Case:
    """A dataset and what is asked of it."""

    name: str
    dataset: str = "av1_g2"
    """A name for ``datasets.ensure_dataset``, or a folder."""
    scale: str = "one"
    long: bool = False
    window: int = 2
    dtype: str = "uint8"
    size: tuple[int, int] | None = None
    step_s: float = 0.0
    base: bool = False
    """Every variant is measured, not the leading ones only."""

    def root(self) -> Path:
        """The dataset's folder, written now if it is not there."""
        if "/" in self.dataset:
            return Path(self.dataset)
        return ensure_dataset(self.dataset, scale=self.scale, long=self.long)

    @property
    def dataset_name(self) -> str:
        """By which the check of its frames is kept."""
        return f"{self.dataset} {self.scale}{' x20' if self.long else ''}" if "/" not in self.dataset else self.dataset

    def job(self, *, seconds: float, work: Path) -> Job:
        """Everything but the peer's options."""
        folder = read_folder(self.root())
        return Job(
            root=str(folder.root),
            cameras=of_one_size(folder),
            fps=folder.fps,
            offsets=tuple(range(1 - self.window, 1)),
            dtype=self.dtype,
            size=self.size,
            step_s=self.step_s,
            seconds=seconds,
            warm_s=WARM_S if seconds >= 3 else seconds / 2,
            min_batches=8 if seconds >= 3 else 2,
            work=str(work),
        )


def of_one_size(folder: Folder) -> tuple[str, ...]:
    """The cameras that share the first one's size: what a window of the check is stacked of.

    Raises:
        ValueError: there is none.
    """
    if not folder.cameras:
        raise ValueError(f"{folder.root} has no cameras that are stored as video")
    sizes = {camera: tuple(folder.info["features"][camera]["shape"]) for camera in folder.cameras}
    return tuple(camera for camera in folder.cameras if sizes[camera] == sizes[folder.cameras[0]])


BASE = Case("AV1 g2", base=True)
CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        BASE,
        Case("H.264 g30", "h264_g30", base=True),
        Case("H.264 g250", "h264_g250"),
        Case("HEVC g30", "hevc_g30_open"),
        replace(BASE, name="GOP 1 window 1", dataset="h264_g1", window=1, base=False),
        replace(BASE, name="window 1", window=1, base=False),
        replace(BASE, name="window 8", window=8, base=False),
        replace(BASE, name="float32", dtype="float32", base=False),
        replace(BASE, name="224x224", size=(224, 224), base=False),
        replace(BASE, name="1280x720", scale="hd", base=False),
        replace(BASE, name="3 cameras", scale="three", base=False),
        replace(BASE, name="200 episodes", long=True, base=False),
        replace(BASE, name="step 50 ms", step_s=0.05, base=False),
        replace(BASE, name="step 200 ms", step_s=0.2, base=False),
        Case("200 episodes H.264 g30", "h264_g30", long=True),
        Case("200 episodes H.264 g250", "h264_g250", long=True),
    )
}
QUICK: Mapping[str, Case] = {
    case.name: case
    for case in (
        replace(BASE, name="AV1 g2 tiny", scale="tiny", base=False),
        Case("H.264 g30 tiny", "h264_g30", "tiny"),
    )
}
