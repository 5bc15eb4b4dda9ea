"""Decoders by name, each backend imported when it is first asked for."""

from gpuload.decode.base import Decoder
from gpuload.errors import ConfigError


def create(backend: str, device: str) -> Decoder:
    """A new decoder on ``cpu``, ``cuda`` or ``cuda:1``; ``registry.choose`` knows what it can be used for.

    Raises:
        ConfigError: there is no such backend, or it cannot be used here.
    """
    if backend == "torchcodec":
        from gpuload.decode.torchcodec import TorchcodecDecoder

        return TorchcodecDecoder(device)
    if backend == "dali":
        from gpuload.decode.dali import DaliDecoder

        return DaliDecoder(device)
    if backend == "pyav":
        from gpuload.decode.pyav import PyavDecoder

        return PyavDecoder()
    raise ConfigError(f"there is no backend {backend!r}")
