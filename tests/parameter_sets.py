"""Valid random parameter sets of H.264 and HEVC, with much in them that encoders seldom write."""

import random


class Writer:
    """Bits of a parameter set, as the tables of the standards spell them."""

    def __init__(self, seed: int) -> None:
        self.random, self.bits = random.Random(seed), ""

    def u(self, count: int, value: int | None = None) -> int:
        value = self.random.getrandbits(count) if value is None else value
        self.bits += f"{value:0{count}b}" if count else ""
        return value

    def ue(self, low: int, high: int) -> int:
        value = self.random.randint(low, high)
        code = f"{value + 1:b}"
        self.bits += "0" * (len(code) - 1) + code
        return value

    def se(self, low: int, high: int) -> int:
        value = self.random.randint(low, high)
        code = 2 * value - 1 if value > 0 else -2 * value
        self.ue(code, code)
        return value

    def vui(self, *, tail: int) -> int:
        """``vui_parameters``, the ``tail`` flags behind chroma location being 0; returns AVChromaLocation."""
        if not self.u(1):
            return 0
        if self.u(1) and self.u(8, self.random.choice([1, 255])) == 255:
            self.u(32)
        if self.u(1):
            self.u(1)
        if self.u(1):
            self.u(3, 5)
            self.u(1)
            if self.u(1):
                self.u(24, 0x010101)
        location = 0
        if self.u(1):
            location = self.ue(0, 5) + 1
            self.ue(0, 5)
        self.u(tail, 0)
        return location

    def unit(self, header: bytes) -> bytes:
        """A NAL unit, with emulation prevention."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        out, zeros = bytearray(header), 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = 0 if byte else zeros + 1
        return bytes(out)


def write_h264(seed: int) -> tuple[bytes, int]:
    """A byte stream of one SPS (ITU-T H.264 7.3.2.1.1), and its AVChromaLocation."""
    w = Writer(seed)
    profile = w.u(8, w.random.choice([66, 77, 100, 110, 122, 244, 44]))
    w.u(16, 40)
    w.ue(0, 31)
    if profile >= 100 or profile == 44:
        chroma = w.ue(0, 3)
        if chroma == 3:
            w.u(1)
        w.ue(0, 6)
        w.ue(0, 6)
        w.u(1)
        if w.u(1):
            for number in range(12 if chroma == 3 else 8):
                if w.u(1):
                    scale, follows = 8, w.random.choice([3, 1000])
                    for j in range(16 if number < 6 else 64):
                        scale = (scale + w.se(*(-scale,) * 2 if j == follows else (1 - min(scale, 9), 3))) % 256
                        if not scale:
                            break
    w.ue(0, 12)
    order = w.ue(0, 2)
    if order == 0:
        w.ue(0, 12)
    elif order == 1:
        w.u(1)
        w.se(-(1 << 20), 1 << 20)
        w.se(-100, 100)
        for _ in range(w.ue(0, w.random.choice([3, 255]))):
            w.se(-(1 << 16), 1 << 16)
    w.ue(0, 16)
    w.u(1)
    w.ue(5, 200)
    w.ue(5, 200)
    if not w.u(1):
        w.u(1)
    w.u(1)
    if w.u(1):
        for _ in range(4):
            w.ue(0, 8)
    location = w.vui(tail=5)
    return b"\0\0\0\1" + w.unit(b"\x67"), location


def write_hevc(seed: int) -> tuple[bytes, int]:
    """A byte stream of a VPS and an SPS (ITU-T H.265 7.3.2.2), and its AVChromaLocation."""
    w = Writer(seed)
    w.u(4, 0)
    layers = w.u(3, w.random.randint(0, 6))
    w.u(1, int(layers == 0))
    w.u(88, 1 << 80 | w.random.getrandbits(32) << 48)
    w.u(8, 93)
    present = [(w.u(1), w.u(1)) for _ in range(layers)]
    w.u(2 * (8 - layers) if layers else 0, 0)
    for profile, level in present:
        w.u(88 * profile, profile << 80)
        w.u(8 * level, 90 * level)
    w.ue(0, 15)
    if w.ue(0, 3) == 3:
        w.u(1)
    for limit in (500, 250):
        size = 8 * w.random.randint(8, limit)
        w.ue(size, size)
    if w.u(1):
        for _ in range(4):
            w.ue(0, 7)
    w.ue(0, 4)
    w.ue(0, 4)
    order_bits = w.ue(0, 12) + 4
    for _ in range(layers + 1 if w.u(1) else 1):
        w.ue(15, 15)
        w.ue(0, 0)
        w.ue(0, 300)
    for low, high in ((0, 0), (3, 3), (0, 0), (3, 3), (0, 3), (0, 3)):
        w.ue(low, high)
    if w.u(1) and w.u(1):
        for size in range(4):
            for matrix in range(0, 6, 3 if size == 3 else 1):
                if not w.u(1):
                    w.ue(0, matrix // 3 if size == 3 else matrix)
                    continue
                if size > 1:
                    w.se(-7, 247)
                for _ in range(64 if size else 16):
                    w.se(-128, 127)
    w.u(2)
    if w.u(1):
        w.u(8, 0x77)
        w.ue(0, 0)
        w.ue(0, 0)
        w.u(1)
    _write_short_term_sets(w)
    if w.u(1):
        for _ in range(w.ue(0, 32)):
            w.u(order_bits)
            w.u(1)
    w.u(2)
    location = w.vui(tail=6)
    w.u(1, 0)
    return _write_vps(layers) + b"\0\0\1" + w.unit(b"\x42\1"), location


def _write_vps(layers: int) -> bytes:
    """A video parameter set that allows for as many sub-layers."""
    w = Writer(0)
    w.u(4 + 2 + 6, 3 << 6)
    w.u(3, layers)
    w.u(17, (layers == 0) << 16 | 0xFFFF)
    w.u(96, 1 << 88 | 93)
    w.u(2 * layers + (2 * (8 - layers) if layers else 0) + 1, 0)
    for value in (15, 0, 0):
        w.ue(value, value)
    w.u(6, 0)
    w.ue(0, 0)
    w.u(2, 0)
    return b"\0\0\0\1" + w.unit(b"\x40\1")


def _write_short_term_sets(w: Writer) -> None:
    """ITU-T H.265 7.3.7: some sets are predicted from the one before."""
    deltas: set[int] = set()
    for number in range(w.ue(0, w.random.choice([4, 64]))):
        if number and w.u(1, int(len(deltas) < 12 and w.random.random() < 0.7)):
            negative = w.u(1)
            shift = (w.ue(0, 5) + 1) * (-1 if negative else 1)
            before = [*sorted((d for d in deltas if d < 0), reverse=True), *sorted(d for d in deltas if d > 0), 0]
            deltas = {delta + shift for delta in before if w.u(1) or w.u(1)} - {0}
            continue
        counts, deltas = (w.ue(0, 6), w.ue(0, 6)), set()
        for count, sign in zip(counts, (-1, 1), strict=True):
            distance = 0
            for _ in range(count):
                distance += w.ue(0, 5) + 1
                w.u(1)
                deltas.add(sign * distance)
