"""The machine's limit does the work that it claims: every picture of a GOP, as often as it is delivered, as asked."""

from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.machine_limit import GopDecoder, read_gops
from gpuload import LeRobotDataset, Loader, Transform
from gpuload.demo import write_dataset

WIDTH, HEIGHT, GOP = 64, 48, 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("limit") / "set"
    return write_dataset(root, episodes=1, frames=10, cameras=("a",), width=WIDTH, height=HEIGHT, gop=GOP)


def delivered(root: Path, converter: str, size: tuple[int, int] | None, dtype: str) -> npt.NDArray[np.generic]:
    """What the first GOP leaves in the batch, two slots a picture."""
    gops = read_gops(root)
    decoder = GopDecoder({gop.uri for gop in gops}, converter, size, dtype)
    assert decoder.run(gops[0], deliveries=2) == (GOP, 2 * GOP)
    return decoder._batch[: 2 * GOP]


@pytest.mark.parametrize("converter", ["pyav", "gpuload"])
def test_at_native_size_it_gives_the_pixels_of_rgb24(dataset: Path, converter: str) -> None:
    (path,) = dataset.rglob("*.mp4")
    with av.open(str(path)) as container:
        pictures = [f.to_ndarray(format="rgb24").transpose(2, 0, 1) for f in container.decode(video=0)][:GOP]
    expected = np.repeat(np.stack(pictures), 2, axis=0)
    assert (delivered(dataset, converter, None, "uint8") == expected).all()
    assert (delivered(dataset, converter, None, "float32") == expected / np.float32(255)).all()


def test_with_our_converter_a_smaller_size_is_what_the_loader_gives(dataset: Path) -> None:
    source = LeRobotDataset(dataset, return_uint8=True)
    with Loader(source, batch_size=GOP, device="cpu", transform=Transform(resize=(24, 32)), shuffle=False) as loader:
        expected = next(iter(loader))["a"].numpy()
    assert (delivered(dataset, "gpuload", (24, 32), "uint8") == np.repeat(expected, 2, axis=0)).all()
