"""Decoders by name, each backend imported when it is first asked for."""

from gpuload.decode.base import Decoder


def create(backend: str, device: str) -> Decoder:
    """A new decoder on ``cpu``, ``cuda`` or ``cuda:1``; ``registry.choose`` knows what it can be used for."""
    if backend == "torchcodec":
        from gpuload.decode.torchcodec import TorchcodecDecoder

        return TorchcodecDecoder(device)
    if backend == "dali":
        from gpuload.decode.dali import DaliDecoder

        return DaliDecoder(device)
    from gpuload.decode.pyav import PyavDecoder

    return PyavDecoder()
