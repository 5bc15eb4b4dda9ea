"""The index of a video file by the cheapest way: from the cache, from MP4 tables, or by demuxing."""

import hashlib
import json
import logging
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import platformdirs

from gpuload.errors import GpuloadError, VideoError
from gpuload.index.demux import demux_index
from gpuload.index.lfs import INSTEAD, is_pointer
from gpuload.index.mp4 import parse_mp4
from gpuload.index.mp4_boxes import Untold
from gpuload.index.video import Color, VideoIndex

logger = logging.getLogger(__name__)

SIDE_BY_SIDE = 16
"""Files that are indexed at a time."""
TOLD_EVERY_S = 10.0
_MAGIC = b"gpuload index 10\n"
"""Format version: count it up when a field's meaning changes, and older files are ignored."""
_HEAD = struct.Struct("<QII")
_ARRAYS = ("pos", "size", "pts", "dts", "flags", "entry", "frame_packet", "frame_start")
_DTYPES = ("<i8", "<i4", "<i8", "<i8", "u1", "u1", "<i4", "<i4")
_ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"moof"})


def load_index(path: str | Path, *, cache_dir: Path | None = None) -> VideoIndex:
    """The index of a file's video stream, of several the one that FFmpeg finds best; safe to call from any thread or
    process at once.

    A cached index counts if the file still has the same size and times of change; it costs one ``stat`` and the video
    is not opened. A cache that is damaged is ignored, and one that cannot be written does no harm.

    Raises:
        VideoError: the file cannot be read or indexed.
    """
    path = os.path.abspath(path)
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise VideoError(f"{path}: cannot be read: {error}") from error
    folder = cache_dir if cache_dir is not None else Path(platformdirs.user_cache_dir("gpuload")) / "index"
    name = folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()}.idx"
    identity: list[str | int] = [path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    cached = _read_cache(name, identity)
    if cached is not None:
        return cached
    if is_pointer(path):
        raise VideoError(f"{path}: {INSTEAD}")
    try:
        index = parse_mp4(path) if _is_iso(path) else demux_index(path)
    except Untold:
        index = demux_index(path)
    for array in _ARRAYS:
        getattr(index, array).flags.writeable = False
    _write_cache(name, _to_bytes(index, identity))
    return index


def load_many(paths: Sequence[str], *, cache_dir: Path | None = None) -> dict[str, VideoIndex]:
    """Indexes of many files, side by side: on a network most of the time is waiting. Those that cannot be indexed are
    left out. What takes long is logged."""
    # Ranks that begin together meet each file in another order, so that each makes a part and reads the rest.
    order = np.random.default_rng(os.getpid()).permutation(len(paths)).tolist()
    found: dict[str, VideoIndex] = {}
    told_s = time.monotonic()

    def load(number: int) -> VideoIndex | None:
        try:
            return load_index(paths[number], cache_dir=cache_dir)
        except GpuloadError:
            return None  # whoever needs it gets the error

    with ThreadPoolExecutor(SIDE_BY_SIDE, "gpuload-index") as pool:
        for done, (number, index) in enumerate(zip(order, pool.map(load, order), strict=True)):
            if index is not None:
                found[paths[number]] = index
            if time.monotonic() > told_s + TOLD_EVERY_S:
                told_s = time.monotonic()
                logger.warning("indexed %d of %d video files; the indexes are kept for the next time", done, len(paths))
    return found


def _is_iso(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8)[4:] in _ISO_BOXES
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error


def _to_bytes(index: VideoIndex, identity: list[str | int]) -> bytes:
    head = {
        "identity": identity,
        "stream": index.stream,
        "codec": index.codec,
        "width": index.width,
        "height": index.height,
        "pixel_format": index.pixel_format,
        "rotation": index.rotation,
        "color": index.color,
        "tag": index.tag,
        "coded_bits": index.coded_bits,
        "chroma_location": index.chroma_location,
        "time_base": [index.time_base.numerator, index.time_base.denominator],
        "extradata": [one.hex() for one in index.extradata],
        "contiguous": index.contiguous,
        "lengths": [len(getattr(index, name)) for name in _ARRAYS],
    }
    text = json.dumps(head).encode()
    arrays = [getattr(index, name).astype(dtype).tobytes() for name, dtype in zip(_ARRAYS, _DTYPES, strict=True)]
    body = b"".join([text, *arrays])
    return _MAGIC + _HEAD.pack(len(body), len(text), zlib.crc32(body)) + body


def _from_bytes(data: bytes, identity: list[str | int]) -> VideoIndex | None:
    """None: written by another version, for another state of the file, or damaged."""
    start = len(_MAGIC) + _HEAD.size
    if len(data) < start or not data.startswith(_MAGIC):
        return None
    length, text_length, checksum = _HEAD.unpack_from(data, len(_MAGIC))
    if len(data) - start != length or zlib.crc32(memoryview(data)[start:]) != checksum:
        return None
    head = json.loads(data[start : start + text_length])
    if head["identity"] != identity:
        return None
    arrays, offset = {}, start + text_length
    for name, dtype, count in zip(_ARRAYS, _DTYPES, head["lengths"], strict=True):
        arrays[name] = np.frombuffer(data, dtype, count, offset)
        offset += arrays[name].nbytes
    return VideoIndex(
        path=str(identity[0]),
        stream=head["stream"],
        codec=head["codec"],
        width=head["width"],
        height=head["height"],
        pixel_format=head["pixel_format"],
        rotation=head["rotation"],
        color=Color(*head["color"]),
        tag=head["tag"],
        coded_bits=head["coded_bits"],
        chroma_location=head["chroma_location"],
        time_base=Fraction(*head["time_base"]),
        extradata=tuple(bytes.fromhex(one) for one in head["extradata"]),
        contiguous=head["contiguous"],
        **arrays,
    )


def _read_cache(name: Path, identity: list[str | int]) -> VideoIndex | None:
    try:
        return _from_bytes(name.read_bytes(), identity)
    except (OSError, ValueError, KeyError):
        return None  # a cache: whatever is wrong with it, the video itself is there to be read


def _write_cache(name: Path, data: bytes) -> None:
    """Atomic: a reader sees the old file or the new one."""
    temporary = None
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=name.parent, prefix=".writing-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, name)
    except OSError:  # a full disk, a read-only home: the next start is slower, and that is all
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
