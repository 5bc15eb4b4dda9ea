"""Two ways to NVDEC that gpuload does not use, as decoders under its own contract; they move there if they win.

Both take packets as they are, without a container, and give the GIL away and take it back once a packet.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from av.codec.hwaccel import HWAccel
from torch.utils.dlpack import from_dlpack

from gpuload.decode.base import Run, Stream, failed
from gpuload.decode.session import DECODERS
from gpuload.index.packet import padded_packet
from gpuload.picture import DevicePicture, PictureForm

START = b"\0\0\0\1"
NVC_CODECS = {"h264": "H264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9"}
DEEP = ("10le", "12le")


def form_of(stream: Stream, *, matrix: int = 2) -> PictureForm:
    """NVDEC's own formats: what ``DevicePicture`` calls them."""
    name = "p010le" if stream.pixel_format.endswith(DEEP) else "nv12"
    return PictureForm(name, stream.width, stream.height, matrix, False, stream.chroma_location, stream.rotation)


class PyavCudaDecoder:
    """FFmpeg's NVDEC through PyAV, planes by DLPack. On ``cpu`` the same code with a session in software.

    Nothing says when FFmpeg's copies on the GPU have ended: synchronise before planes are read.
    """

    fell_back = False

    def __init__(self, device: str) -> None:
        self._device = device
        self._sessions: dict[tuple[str, bytes], av.VideoCodecContext] = {}

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        """See ``Decoder.decode``."""
        session, missing = self._session(stream), set(run.wanted)
        try:
            for number, data in enumerate(run.packets, run.first):
                for frame in session.decode(padded_packet(data, number)):
                    if frame.pts in missing:
                        missing.discard(frame.pts)
                        yield frame.pts, self._picture(frame, stream)
                if not missing:
                    break
            for frame in session.decode(None) if missing else []:
                if frame.pts in missing:
                    missing.discard(frame.pts)
                    yield frame.pts, self._picture(frame, stream)
        finally:
            session.flush_buffers()
        if missing:
            raise failed(stream, min(missing), "no picture came out of it")

    def close(self) -> None:
        self._sessions.clear()

    def _session(self, stream: Stream) -> av.VideoCodecContext:
        key = stream.codec, stream.extradata[0] if stream.extradata else b""
        if key not in self._sessions:
            if self._device == "cpu":
                session = av.CodecContext.create(DECODERS.get(stream.codec, stream.codec), "r")
            else:
                number = self._device.partition(":")[2] or "0"
                torch.zeros(1, device=self._device)  # makes torch's context this thread's, which FFmpeg is to take:
                # one of its own would want other flags of it than torch has set, and fail (PyAV issue 2339)
                hardware = HWAccel(
                    "cuda", device=number, allow_software_fallback=False, is_hw_owned=True,
                    options={"primary_ctx": "0", "current_ctx": "1"},
                )  # fmt: skip
                session = av.CodecContext.create(stream.codec, "r", hwaccel=hardware)
            assert isinstance(session, av.VideoCodecContext)
            session.extradata = key[1] or None
            session.thread_count = 1
            self._sessions[key] = session
        return self._sessions[key]

    def _picture(self, frame: av.VideoFrame, stream: Stream) -> av.VideoFrame | DevicePicture:
        if frame.format.name != "cuda":
            if self._device != "cpu":
                raise RuntimeError(f"FFmpeg gave a picture of {frame.format.name} in host memory")
            return frame
        planes = tuple(from_dlpack(plane.__dlpack__()) for plane in frame.planes)
        deep = planes[0].element_size() == 2
        planes = tuple(plane.view(torch.int16) if deep else plane for plane in planes)
        return DevicePicture(form_of(stream, matrix=int(frame.colorspace)), planes, owner=frame, ready=None)


class PynvDecoder:
    """NVIDIA's PyNvVideoCodec, fed with packets in the form of a raw stream. Pictures are copies: its own frames are
    used again at its next call."""

    fell_back = False

    def __init__(self, device: str) -> None:
        # It ends the process where a driver is there and does not work.
        self._nvc: Any = importlib.import_module("PyNvVideoCodec")
        self._device = torch.device(device)
        self._sessions: dict[str, Any] = {}

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, DevicePicture]]:
        """See ``Decoder.decode``."""
        session, missing = self._session(stream), set(run.wanted)
        extradata = stream.extradata[0] if stream.extradata else b""
        for number, data in enumerate(run.packets, run.first):
            raw = raw_packet(stream.codec, extradata, bytes(data), begins=number == run.first)
            yield from self._fed(session, stream, raw, number, missing)
        yield from self._fed(session, stream, b"", run.first, missing)
        if missing:
            raise failed(stream, min(missing), "no picture came out of it")

    def close(self) -> None:
        self._sessions.clear()

    def _fed(
        self, session: Any, stream: Stream, raw: bytes, number: int, missing: set[int]
    ) -> Iterator[tuple[int, DevicePicture]]:
        """Pictures that come out when a packet goes in; an empty one ends the stream."""
        packet, held = self._nvc.PacketData(), np.frombuffer(raw or b"\0", np.uint8)
        packet.bsl, packet.bsl_data, packet.pts = len(raw), held.ctypes.data if raw else 0, number
        for frame in session.Decode(packet):
            shown = int(frame.getPTS())
            if shown in missing:
                missing.discard(shown)
                yield shown, self._picture(from_dlpack(frame).clone(), stream)

    def _picture(self, surface: torch.Tensor, stream: Stream) -> DevicePicture:
        """Luma over chroma in one: ``[H * 3 / 2, W]``, perhaps with a dimension of 1 at an end."""
        if surface.element_size() == 2:
            surface = surface.view(torch.int16)
        lines = surface.reshape(-1, stream.width)
        luma, chroma = lines[: stream.height], lines[stream.height :]
        planes = luma, chroma.reshape(chroma.shape[0], -1, 2)
        return DevicePicture(form_of(stream), planes, owner=None, ready=None)

    def _session(self, stream: Stream) -> Any:
        key = f"{stream.codec} {stream.width}x{stream.height} {stream.pixel_format}"
        if key not in self._sessions:
            self._sessions[key] = self._nvc.CreateDecoder(
                gpuid=self._device.index or 0,
                codec=getattr(self._nvc.cudaVideoCodec, NVC_CODECS[stream.codec]),
                cudacontext=0,  # the device's primary one
                cudastream=torch.cuda.current_stream(self._device).cuda_stream,
                usedevicememory=True,
                outputColorType=self._nvc.OutputColorType.NATIVE,
            )
        return self._sessions[key]


def raw_packet(codec: str, extradata: bytes, data: bytes, *, begins: bool) -> bytes:
    """A packet of an MP4 as a raw stream has it: start codes for lengths, and the stream's head in front of a run."""
    if codec in ("h264", "hevc") and extradata[:1] == b"\1":
        size = (extradata[4 if codec == "h264" else 21] & 3) + 1
        units = list(units_of(data, size))
        head = parameter_sets(codec, extradata) if begins else []
        return b"".join(START + unit for unit in [*head, *units])
    if codec == "av1" and begins:
        return extradata[4:] + data  # behind the fixed part of av1C: the sequence header
    return data


def units_of(data: bytes, size: int) -> Iterator[bytes]:
    """NAL units behind their lengths of ``size`` bytes."""
    begin = 0
    while begin + size <= len(data):
        end = begin + size + int.from_bytes(data[begin : begin + size], "big")
        yield data[begin + size : end]
        begin = end


def parameter_sets(codec: str, extradata: bytes) -> list[bytes]:
    """Those of a configuration record of ISO/IEC 14496-15."""
    found: list[bytes] = []

    def take(begin: int, count: int) -> int:
        for _ in range(count):
            end = begin + 2 + int.from_bytes(extradata[begin : begin + 2], "big")
            found.append(extradata[begin + 2 : end])
            begin = end
        return begin

    if codec == "h264":
        begin = take(6, extradata[5] & 31)
        take(begin + 1, extradata[begin])
        return found
    begin = 23
    for _ in range(extradata[22]):
        begin = take(begin + 3, int.from_bytes(extradata[begin + 1 : begin + 3], "big"))
    return found
