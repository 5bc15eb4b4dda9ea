"""Decoders by name, each backend imported when it is first asked for."""

from gpuload.decode.base import Decoder
from gpuload.errors import ConfigError


def create(backend: str, device: str, *, falls_back: bool = False) -> Decoder:
    """A new decoder on ``cpu``, ``cuda`` or ``cuda:1``; ``registry.choose`` knows what it can be used for.
    ``falls_back``: nobody asked for this backend, so that PyAV may decode what it refuses.

    Raises:
        ConfigError: there is no such backend, or it cannot be used here.
    """
    if backend == "torchcodec":
        from gpuload.decode.torchcodec import TorchcodecDecoder

        return TorchcodecDecoder(device, falls_back=falls_back)
    if backend == "torchcodec-rgb":
        from gpuload.decode.torchcodec import TorchcodecDecoder

        return TorchcodecDecoder(device, one_call=True)
    if backend == "dali":
        from gpuload.decode.dali import DaliDecoder

        return DaliDecoder(device)
    if backend == "pyav":
        from gpuload.decode.pyav import PyavDecoder

        return PyavDecoder()
    raise ConfigError(f"there is no backend {backend!r}")
