"""PyAV keeps the laws of a decoder."""

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Decoder
from gpuload.decode.pyav import PyavDecoder
from tests.contracts.decoder import CODECS, DecoderContract, coded_videos

coded = coded_videos(*CODECS)


class TestPyav(DecoderContract):
    def make(self) -> Decoder:
        return PyavDecoder()

    def pixels(self, picture: Any) -> npt.NDArray[np.uint8]:
        packed: npt.NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
        return packed.transpose(2, 0, 1)
