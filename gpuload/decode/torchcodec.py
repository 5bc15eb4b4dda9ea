"""Decoding through torchcodec: on a GPU by NVDEC, on the CPU by the FFmpeg that it found."""

import importlib.util
import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import av
import numpy as np

from gpuload import ffmpeg
from gpuload.decode.base import Run, Stream, entry_point, failed
from gpuload.decode.container import TICKS_PER_S, Piece, pieces_of
from gpuload.decode.picture import (
    PlaneLayout,
    current_event,
    device_fault,
    device_trouble,
    first_line,
    looks_of,
    plane_layout,
    rgb_picture,
)
from gpuload.decode.pyav import PyavDecoder
from gpuload.errors import ConfigError, DecodeError
from gpuload.index.nal import CODECS, entry_of, may_bring_sets
from gpuload.index.video import Color
from gpuload.picture import DevicePicture, PictureForm

if TYPE_CHECKING:
    import torch
    from torchcodec.decoders import RawFrame, VideoPacketDecoder

logger = logging.getLogger(__name__)

MAX_SESSIONS = 8
"""Codec sessions kept on the CPU, as the PyAV backend does."""
MAX_SESSIONS_ON_GPU = 2
"""By each of a dozen threads: what a session that is given up had of the hardware goes to torchcodec's cache."""
NVDEC_SESSIONS = 32
"""Hardware decoders that torchcodec keeps for reuse on each GPU (its default: 20); creating one takes 50 to 70 ms."""
MATRICES = (
    "gbr", "bt709", "unknown", "reserved", "fcc", "bt470bg", "smpte170m", "smpte240m", "ycgco", "bt2020nc", "bt2020c",
    "smpte2085", "chroma-derived-nc", "chroma-derived-c", "ictcp", "ipt-c2", "ycgco-re", "ycgco-ro",
)  # fmt: skip
PRIMARIES = (
    "reserved", "bt709", "unknown", "reserved", "bt470m", "bt470bg", "smpte170m", "smpte240m", "film", "bt2020",
    "smpte428", "smpte431", "smpte432",
)  # fmt: skip
TRANSFERS = (
    "reserved", "bt709", "unknown", "reserved", "bt470m", "bt470bg", "smpte170m", "smpte240m", "linear", "log100",
    "log316", "iec61966-2-4", "bt1361e", "iec61966-2-1", "bt2020-10", "bt2020-12", "smpte2084", "smpte428",
    "arib-std-b67",
)  # fmt: skip
RANGES = ("unknown", "tv", "pc")
"""FFmpeg's names of the numbers of ISO/IEC 23091-2: torchcodec tells names only."""
FULL_RANGE = 2

Kind = tuple[str, bytes, int, int, Color]
"""What a codec session depends on."""


def unusable(device: str = "cpu", *, in_helper: bool = False) -> str | None:
    """Why torchcodec cannot be used in this process, or ``in_helper`` in a decode process that gpuload starts with the
    right search path; None: it can. Never raises. The first call imports torch.
    """
    if importlib.util.find_spec("torchcodec") is None:
        return "torchcodec is not installed; run: pip install 'torchcodec>=0.17'"
    try:
        import torch
        import torchcodec
        from torchcodec.decoders import Demuxer  # noqa: F401  public since 0.17
    except ImportError as error:
        return f"torchcodec cannot be loaded ({first_line(error)}); it must be 0.17 or newer"
    except (OSError, RuntimeError) as error:
        return (
            f"torchcodec cannot be loaded beside this torch ({first_line(error)}); "
            "it needs a CUDA build of torch, even where there is no GPU"
        )
    if torchcodec.ffmpeg_major_version is None and not (in_helper and _has_links()):
        return 'no FFmpeg for torchcodec; run eval "$(gpuload env)" in the shell, then start again'
    if device.startswith("cuda") and not torch.cuda.is_available():
        return f"device is {device}, but torch finds no usable GPU"
    return None


def _has_links() -> bool:
    try:
        return ffmpeg.library_path() is not None
    except OSError:  # the cache folder cannot be written: no links
        return False


@dataclass(frozen=True, slots=True)
class _Color:
    """What container and bitstream together say."""

    matrix: int
    full_range: bool
    is_in_stream: bool
    """The bitstream alone says the same."""


class TorchcodecDecoder:
    """Decodes runs through torchcodec, each as a small MP4. Not thread-safe.

    ``device="cpu"`` yields ``av.VideoFrame``: the decoder's own planes, not copied. ``device="cuda"`` yields
    ``DevicePicture`` with NV12, P010 or 4:4:4 planes, made on the stream that is current. ``one_call=True`` decodes
    each run in one call that does not hold the GIL, and yields 8-bit RGB as torchcodec converts it; the pictures of a
    run share one allocation, which lives as long as any of them. Where only the container tells a stream's colours,
    which torchcodec does not look at on a GPU, it yields planes all the same.

    Damage is found where FFmpeg or NVDEC refuses a packet or gives no picture, and only there. torchcodec cannot be
    told to refuse damaged blocks (FFmpeg's ``err_detect``) and does not say that a picture was concealed, so flipped
    bits within a picture may give a wrong picture and no error. The PyAV backend refuses those.
    """

    fell_back = False

    def __init__(self, device: str = "cpu", *, one_call: bool = False, falls_back: bool = False) -> None:
        """``falls_back``: PyAV decodes what torchcodec refuses or gives no picture of, and the log says so: a file is
        damaged only if both say so.

        Raises:
            ConfigError: torchcodec cannot be used here, with the reason.
        """
        if reason := unusable(device):
            raise ConfigError(f"backend torchcodec is unusable: {reason}")
        self._device = device
        self._one_call, self._falls_back = one_call, falls_back
        self._told: set[Kind] = set()
        """Kinds of streams of which the log says that PyAV decodes some."""
        self._refused: set[Kind] = set()
        """Kinds of streams that PyAV decodes all of."""
        self._sessions: OrderedDict[Kind, VideoPacketDecoder] = OrderedDict()
        self._colors: dict[Kind, _Color] = {}
        """Of the kinds of streams that are known to be decoded on the GPU; empty on the CPU."""
        self._forms: dict[tuple[object, ...], PictureForm] = {}
        self._reference = PyavDecoder()
        if self._on_gpu:
            from torchcodec.decoders import get_nvdec_cache_capacity, set_nvdec_cache_capacity

            if get_nvdec_cache_capacity() < NVDEC_SESSIONS:
                set_nvdec_cache_capacity(NVDEC_SESSIONS)

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        """See ``Decoder.decode``. Needs ``run.pts``.

        Raises:
            DecodeError: a wanted picture never came out.
            DeviceError: the GPU's memory or its decoder sessions ran out, or it is gone.
            ConfigError: the packets fit into no MP4, or the GPU does not decode such a stream.
        """
        missing = set(run.wanted)
        kind = stream.codec, b"".join(stream.extradata), stream.width, stream.height, stream.color
        self.fell_back, refused = kind in self._refused, None
        if not self.fell_back:
            try:
                for number, picture in self._decode(stream, run):
                    missing.discard(number)
                    yield number, picture
                return
            except (DecodeError, ConfigError) as error:
                if not self._falls_back:
                    raise
                if isinstance(error, ConfigError):  # so it would be with every run
                    self._refused.add(kind)
                self.fell_back, refused = True, error.anew()
        if missing:
            yield from self._reference.decode(stream, replace(run, wanted=frozenset(missing)))
        if refused is not None and kind not in self._told:  # and it is no damage, which PyAV would have refused too
            self._told.add(kind)
            logger.warning("the CPU decodes what %s does not: %s", self._device, refused)

    def _decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        try:
            pieces = pieces_of(stream, run)
        except ValueError as error:
            raise ConfigError(f"{stream.path}: backend torchcodec cannot take it: {error}") from error
        number = run.first
        entry_point(stream, run)
        # What packets bring would stay in the session, also for runs that rely on what the container has.
        keeps = stream.codec not in CODECS or not any(
            entry_of(stream.codec, data, packet).sets
            for data in stream.extradata[:1] or (b"",)
            for packet in run.packets
            if may_bring_sets(stream.codec, data, packet)
        )
        if self._on_gpu and stream.codec in ("h264", "hevc"):
            # A packet of zeros reaches NVDEC as an empty one with a time, which it may give to the next picture.
            empty = next((i for i, packet in enumerate(run.packets) if not any(packet[:4])), None)
            if empty is not None:
                raise failed(stream, run.first + empty, "the packet begins with a unit of no bytes")
        try:
            for piece in pieces:
                number = piece.shown[piece.wanted[0]]
                if self._on_gpu:
                    self._prepare_gpu(stream, run, piece)
                if self._one_call and (not self._on_gpu or self._colors[kind_of(stream, piece)].is_in_stream):
                    yield from self._in_one_call(stream, piece)
                else:
                    yield from self._by_packets(stream, piece, keeps)
        except ConfigError:  # a ValueError, and our own
            raise
        except (RuntimeError, ValueError) as error:  # what torchcodec raises; ValueError: no stream that it can read
            if trouble := device_trouble(self._device, error) or device_fault(self._device):
                raise trouble from error
            raise failed(stream, number, f"torchcodec refused it ({first_line(error)})") from error

    def close(self) -> None:
        """Drops all sessions; a later ``decode`` makes new ones."""
        self._sessions.clear()
        self._colors.clear()
        self._forms.clear()
        self._reference.close()

    @property
    def _on_gpu(self) -> bool:
        return self._device.startswith("cuda")

    def _prepare_gpu(self, stream: Stream, run: Run, piece: Piece) -> None:
        """Once for each kind of stream, before its first run.

        Raises:
            DecodeError: the first picture is damaged.
            ConfigError: torchcodec would decode it on the CPU. It would not say so: its planes are on the GPU anyway.
        """
        kind = kind_of(stream, piece)
        if kind in self._colors:
            return
        import torch
        from torchcodec.decoders import VideoDecoder

        # NVDEC's pictures tell the bitstream's colour only, and BT.601 where it tells none; the container's word is
        # lost. What a CPU decoder makes of both is the truth. It comes first: a damaged head looks like a fallback.
        index = run.entries.index(piece.entry) if run.entries else 0
        number = run.first + index
        head = Run(number, [run.packets[index]], run.entries[index : index + 1], frozenset([number]))
        _, picture = next(self._reference.decode(stream, head))
        # Asked for what the decoder will be asked for: deeper pictures need another surface than 8-bit ones.
        deep = picture.format.components[0].bits > 8
        output = torch.float32 if deep else torch.uint8
        status = VideoDecoder(piece.data, device=self._device, output_dtype=output).cpu_fallback
        if status or not status.status_known:
            raise ConfigError(f"{stream.path}: {self._device} does not decode this {stream.codec} stream: {status}")
        told = colors_of(picture)
        if self._one_call:
            _, picture = next(self._reference.decode(replace(stream, color=Color()), head))
        self._colors[kind] = _Color(*told, is_in_stream=told == colors_of(picture))

    def _by_packets(
        self, stream: Stream, piece: Piece, keeps: bool
    ) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        from torchcodec.decoders import Demuxer, VideoStream

        missing = set(piece.wanted)
        alike: tuple[PictureForm, PlaneLayout] | None = None
        demuxer = Demuxer(piece.data)
        kind = kind_of(stream, piece)
        decoder = self._sessions.pop(kind, None)
        if decoder is None:
            (video,) = demuxer.streams
            assert isinstance(video, VideoStream)
            decoder = video.make_decoder(self._device)
        for packet in chain(demuxer, [None]):
            raws = decoder.drain() if packet is None else decoder.decode(packet)
            shown = [(place, raw) for raw in raws if (place := round(raw.pts_seconds * TICKS_PER_S)) in missing]
            if not shown:
                continue
            ready = current_event(self._device)  # now: the caller may change the stream between two pictures
            missing.difference_update(place for place, _ in shown)
            for place, raw in shown:
                if not self._on_gpu:
                    yield piece.shown[place], frame_of(raw)
                    continue
                storage = raw.storage_cuda
                assert storage is not None  # every picture of a decoder made for CUDA has one
                # To ask torchcodec where a picture's planes are takes half of what a picture takes. Those of one GOP
                # lie alike: another size or crop would be another sequence, which begins at a keyframe.
                if alike is None or alike[1].num_bytes != storage.numel():
                    alike = self._look_at(raw, storage, stream, kind)
                yield piece.shown[place], DevicePicture(alike[0], alike[1].planes(storage), owner=None, ready=ready)
            if not missing:
                break
        if missing:
            if fault := device_fault(self._device):
                raise fault
            raise failed(stream, piece.shown[min(missing)], "no picture came out of it")
        if not keeps:
            return
        # Only a session that did well is kept: one that was left in the middle, or failed, is not worth a reset.
        decoder.reset()
        self._sessions[kind] = decoder
        while len(self._sessions) > (MAX_SESSIONS_ON_GPU if self._on_gpu else MAX_SESSIONS):
            self._sessions.popitem(last=False)

    def _look_at(
        self, raw: "RawFrame", storage: "torch.Tensor", stream: Stream, kind: Kind
    ) -> tuple[PictureForm, PlaneLayout]:
        """What a picture on the GPU is, and where it lies in the allocation that torchcodec copied it to."""
        components = raw.planes
        # To ask torchcodec what a picture is takes 60 us of some 220. Those of one kind of stream that look alike are
        # alike.
        look = (kind, stream.rotation, stream.chroma_location, *looks_of(components))
        form = self._forms.get(look)
        if form is None:
            color = self._colors[kind]
            form = self._forms[look] = PictureForm(
                pixel_format=raw.pixel_format,
                width=raw.width,
                height=raw.height,
                matrix=color.matrix,
                full_range=color.full_range,
                chroma_location=stream.chroma_location,
                rotation=stream.rotation,
            )
        return form, plane_layout(storage, components)

    def _in_one_call(self, stream: Stream, piece: Piece) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(piece.data, device=self._device, dimension_order="NHWC")
        batch = decoder.get_frames_at(list(piece.wanted))
        ready = current_event(self._device)
        places = [round(time * TICKS_PER_S) for time in batch.pts_seconds.tolist()]
        for place, found, pixels in zip(piece.wanted, places, batch.data, strict=True):
            if found != place:  # in place of a picture that never came it gives a neighbour
                raise failed(stream, piece.shown[place], "no picture came out of it")
            yield piece.shown[place], rgb_picture(pixels, ready, rotation=stream.rotation)


def kind_of(stream: Stream, piece: Piece) -> Kind:
    extradata = stream.extradata[piece.entry] if stream.extradata else b""
    return stream.codec, extradata, stream.width, stream.height, stream.color


def colors_of(picture: av.VideoFrame) -> tuple[int, bool]:
    """Matrix, and whether its range is full."""
    return int(picture.colorspace), picture.color_range == FULL_RANGE or picture.format.name.startswith("yuvj")


def frame_of(raw: "RawFrame") -> av.VideoFrame:
    """The picture on the CPU, sharing the decoder's memory; sizes that PyAV does not share (odd ones) are copied."""
    from torch.utils.dlpack import to_dlpack

    planes = list(raw.planes)
    if raw.pixel_format.startswith("gbr"):  # torchcodec orders components, PyAV planes
        planes = [planes[1], planes[2], planes[0]]
    halved = any(plane.shape != planes[0].shape for plane in planes)
    if halved and (raw.width % 2 or raw.height % 2):
        frame = av.VideoFrame(raw.width, raw.height, raw.pixel_format)
        for plane, target in zip(planes, frame.planes, strict=True):
            pixels = plane.numpy().view(np.uint8)
            rows = np.frombuffer(memoryview(target), np.uint8).reshape(-1, target.line_size)
            rows[: pixels.shape[0], : pixels.shape[1]] = pixels
    else:
        # to_dlpack: half the time of the tensor's own __dlpack__, which is Python.
        frame = av.VideoFrame.from_dlpack(tuple(map(to_dlpack, planes)), format=raw.pixel_format)
    frame.colorspace = number_of(raw.color_space, MATRICES, unknown=2)
    frame.color_primaries = number_of(raw.color_primaries, PRIMARIES, unknown=2)
    frame.color_trc = number_of(raw.color_transfer_characteristic, TRANSFERS, unknown=2)
    frame.color_range = number_of(raw.color_range, RANGES, unknown=0)
    return frame


def number_of(name: str, names: tuple[str, ...], *, unknown: int) -> int:
    return names.index(name) if name in names else unknown
