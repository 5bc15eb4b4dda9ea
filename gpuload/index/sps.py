"""Sequence parameter sets of H.264 and HEVC: interlacing, picture size and chroma location."""

from typing import NamedTuple

from gpuload.index.bits import Bits, at_most

_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_EXTENDED_SAR = 255
_CHROMA_STEPS = ((1, 1), (2, 2), (2, 1), (1, 1))
"""Pixels in a unit of cropping, by ``chroma_format_idc``: SubWidthC, SubHeightC (ITU-T H.264 table 6-1, 1 for
monochrome, H.265 the same)."""


class H264Sps(NamedTuple):
    """What is read of a ``seq_parameter_set_data`` (ITU-T H.264 7.3.2.1.1)."""

    may_interlace: bool
    """``frame_mbs_only_flag`` is 0: pictures may be fields, or be coded in fields."""
    chroma_location: int
    """AVChromaLocation; 0: it does not say."""
    width: int
    height: int
    """Pixels that are shown, cropping applied."""


class HevcSps(NamedTuple):
    """What is read of a ``seq_parameter_set_rbsp`` (ITU-T H.265 7.3.2.2)."""

    may_interlace: bool
    """``general_interlaced_source_flag`` is 1, ``general_progressive_source_flag`` 0."""
    chroma_location: int
    """AVChromaLocation; 0: it does not say."""
    width: int
    height: int
    """Pixels in the conformance window."""


def h264_sps(payload: bytes) -> H264Sps:
    """``payload``: of the NAL unit, its emulation prevention removed.

    Raises:
        EOFError, ValueError: it is truncated or damaged.
    """
    bits = Bits(payload)
    profile = bits.u(8)
    bits.u(8 + 8)  # constraint flags, level
    bits.ue()
    chroma_format = 1
    if profile in _HIGH_PROFILES:
        chroma_format = at_most(bits.ue(), 3)
        bits.u(chroma_format == 3)  # separate_colour_plane_flag
        bits.skip_ue(2)  # bit depths
        bits.u(1)
        if bits.u(1):  # seq_scaling_matrix_present_flag
            for number in range(12 if chroma_format == 3 else 8):
                if bits.u(1):
                    _skip_h264_scaling_list(bits, 16 if number < 6 else 64)
    bits.ue()  # log2_max_frame_num_minus4
    order_type = bits.ue()
    if order_type == 0:
        bits.ue()
    elif order_type == 1:
        bits.u(1)
        bits.skip_ue(2)
        bits.skip_ue(at_most(bits.ue(), 255))
    bits.ue()  # max_num_ref_frames
    bits.u(1)
    width, height = 16 * (bits.ue() + 1), 16 * (bits.ue() + 1)
    may_interlace = not bits.u(1)  # frame_mbs_only_flag
    height *= 1 + may_interlace
    bits.u(may_interlace)
    bits.u(1)
    column, row = _CHROMA_STEPS[chroma_format]
    cut = [bits.ue() for _ in range(4)] if bits.u(1) else [0] * 4  # frame_cropping_flag: left, right, top, bottom
    width, height = width - column * sum(cut[:2]), height - row * (1 + may_interlace) * sum(cut[2:])
    return H264Sps(may_interlace, _vui_location(bits) if bits.u(1) else 0, width, height)


def hevc_sps(payload: bytes) -> HevcSps:
    """``payload``: of a NAL unit of the base layer, its emulation prevention removed.

    Raises:
        EOFError, ValueError: it is truncated or damaged.
    """
    bits = Bits(payload)
    more_layers, may_interlace = _hevc_head(bits)
    bits.ue()
    chroma_format = at_most(bits.ue(), 3)
    bits.u(chroma_format == 3)
    width, height = bits.ue(), bits.ue()
    column, row = _CHROMA_STEPS[chroma_format]
    cut = [bits.ue() for _ in range(4)] if bits.u(1) else [0] * 4  # conformance_window_flag
    width, height = width - column * sum(cut[:2]), height - row * sum(cut[2:])
    bits.skip_ue(2)  # bit depths
    order_bits = 4 + at_most(bits.ue(), 12)
    bits.skip_ue(3 * (more_layers + 1 if bits.u(1) else 1))  # sps_sub_layer_ordering_info_present_flag
    bits.skip_ue(6)  # block sizes
    if bits.u(1) and bits.u(1):  # scaling_list_enabled_flag, sps_scaling_list_data_present_flag
        _skip_hevc_scaling_lists(bits)
    bits.u(2)
    if bits.u(1):  # pcm_enabled_flag
        bits.u(4 + 4)
        bits.skip_ue(2)
        bits.u(1)
    _skip_short_term_sets(bits)
    if bits.u(1):  # long_term_ref_pics_present_flag
        for _ in range(at_most(bits.ue(), 32)):
            bits.u(order_bits + 1)
    bits.u(2)
    return HevcSps(may_interlace, _vui_location(bits) if bits.u(1) else 0, width, height)


def hevc_sps_id(payload: bytes) -> int:
    """``sps_seq_parameter_set_id`` of the same. Raises as ``hevc_sps``."""
    bits = Bits(payload)
    _hevc_head(bits)
    return bits.ue()


def _hevc_head(bits: Bits) -> tuple[int, bool]:
    """Skips what is in front of the set's number; ``sps_max_sub_layers_minus1``, and whether the source may be
    interlaced."""
    bits.u(4)
    more_layers = at_most(bits.u(3), 6)
    bits.u(1)
    return more_layers, _profile_tier_level(bits, more_layers)


def _vui_location(bits: Bits) -> int:
    """AVChromaLocation of ``vui_parameters`` (ITU-T H.264 E.1.1, H.265 E.2.1, alike so far); 0 if it is not there.

    Of interlaced video it is the top field's, as FFmpeg takes it.
    """
    if bits.u(1) and bits.u(8) == _EXTENDED_SAR:  # aspect_ratio_info_present_flag
        bits.u(16 + 16)
    if bits.u(1):  # overscan_info_present_flag
        bits.u(1)
    if bits.u(1):  # video_signal_type_present_flag
        bits.u(3 + 1)
        if bits.u(1):  # colour_description_present_flag
            bits.u(8 + 8 + 8)
    return at_most(bits.ue(), 5) + 1 if bits.u(1) else 0  # chroma_loc_info_present_flag


def _skip_h264_scaling_list(bits: Bits, size: int) -> None:
    """ITU-T H.264 7.3.2.1.1.1: deltas end where the next scale would be 0."""
    scale = 8
    for _ in range(size):
        scale = (scale + bits.se()) % 256
        if not scale:
            return


def _profile_tier_level(bits: Bits, more_layers: int) -> bool:
    """ITU-T H.265 7.3.3, with profilePresentFlag 1: whether it says that the source is interlaced."""
    bits.u(8 + 32)
    is_progressive, is_interlaced = bits.u(1), bits.u(1)
    bits.u(46 + 8)
    present = [(bits.u(1), bits.u(1)) for _ in range(more_layers)]
    bits.u(2 * (8 - more_layers) if more_layers else 0)
    for has_profile, has_level in present:
        bits.u(88 * has_profile + 8 * has_level)
    return bool(is_interlaced and not is_progressive)


def _skip_hevc_scaling_lists(bits: Bits) -> None:
    """ITU-T H.265 7.3.4."""
    for size in range(4):
        for _ in range(2 if size == 3 else 6):
            if bits.u(1):  # scaling_list_pred_mode_flag
                bits.skip_ue((size > 1) + min(64, 1 << (4 + 2 * size)))
            else:
                bits.ue()


def _skip_short_term_sets(bits: Bits) -> None:
    """ITU-T H.265 7.3.7: a set may be predicted from the one before, whose number of pictures must then be known."""
    deltas: list[int] = []
    for number in range(at_most(bits.ue(), 64)):
        deltas = _predicted_set(bits, deltas) if number and bits.u(1) else _explicit_set(bits)
        at_most(len(deltas), 16)


def _explicit_set(bits: Bits) -> list[int]:
    """Distances in picture order of one reference picture set: negative ones first, each kind from the nearest."""
    negative, positive = at_most(bits.ue(), 16), at_most(bits.ue(), 16)
    deltas = []
    for count, sign in ((negative, -1), (positive, 1)):
        distance = 0
        for _ in range(count):
            distance += bits.ue() + 1
            bits.u(1)
            deltas.append(sign * distance)
    return deltas


def _predicted_set(bits: Bits, reference: list[int]) -> list[int]:
    """ITU-T H.265 equations 7-61 and 7-62."""
    sign = -1 if bits.u(1) else 1
    shift = sign * (bits.ue() + 1)
    moved = []
    for delta in (*reference, 0):
        if bits.u(1) or bits.u(1):  # used_by_curr_pic_flag, use_delta_flag
            moved.append(delta + shift)
    return sorted((d for d in moved if d < 0), reverse=True) + sorted(d for d in moved if d > 0)
