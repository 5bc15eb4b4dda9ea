"""Keyframes that are none: what a container says of H.264 and HEVC is compared with the packets."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from gpuload.index.mp4_boxes import Packets
from gpuload.index.nal import CODECS, Kind, entry_of
from gpuload.index.reorder import read_ranges

_LOOKED_AT = 16
"""Keyframes of a file that are read: who writes a wrong table does so again and again. The decoder looks at all."""
_HEAD_BYTES = 4096
"""Of a packet: its first slice begins before that, or it is believed."""


def real_keyframes(path: str, codec: str, configurations: Sequence[bytes], packets: Packets) -> npt.NDArray[np.bool_]:
    """``packets.is_key`` without those at which decoding cannot begin. All are looked at if one of a few is wrong.

    Raises:
        VideoError: the file cannot be read.
    """
    keys = np.flatnonzero(packets.is_key)
    if codec not in CODECS or not len(keys):
        return packets.is_key
    half = _LOOKED_AT // 2
    few = np.unique(np.concatenate([keys[:half], keys[np.linspace(0, len(keys) - 1, half).astype(np.int64)]]))

    def kinds_of(numbers: npt.NDArray[np.int64]) -> dict[int, Kind]:
        sizes = np.minimum(packets.size[numbers], _HEAD_BYTES).tolist()
        heads = read_ranges(path, zip(packets.pos[numbers].tolist(), sizes, strict=True))
        entries = packets.entry[numbers].tolist()
        return {
            number: entry_of(codec, configurations[entry], head).kind
            for number, entry, head in zip(numbers.tolist(), entries, heads, strict=True)
        }

    kinds = kinds_of(few)
    if false_keyframes(kinds, packets.is_key):
        kinds = kinds_of(keys)
    is_key = packets.is_key.copy()
    is_key[false_keyframes(kinds, packets.is_key)] = False
    return is_key


def false_keyframes(kinds: Mapping[int, Kind], is_key: npt.NDArray[np.bool_]) -> list[int]:
    """Numbers of the packets among ``kinds`` that no decoder can begin with.

    A picture that refers to nothing but has no mark of a random access point can be decoded alone: it stays one
    where the next packet is a keyframe again, as in videos of nothing else. A file's first keyframe stays: whoever
    decodes the file from its beginning begins there too.
    """
    first = int(is_key.argmax())
    false = [n for n, kind in kinds.items() if kind in ("gradual", "none") and n != first]
    real = is_key.copy()
    real[false] = False
    alone = np.append(real[1:], True)
    return false + [n for n, kind in kinds.items() if kind == "intra" and not alone[n] and n != first]
