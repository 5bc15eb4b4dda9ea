"""Bits of a parameter set and the codes made of them."""


class Bits:
    """Reads a payload bit by bit, first bit first. Reading beyond the end raises EOFError."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._next = 0

    def u(self, count: int) -> int:
        """Unsigned integer of ``count`` bits."""
        start, stop = self._next, self._next + count
        if stop > 8 * len(self._payload):
            raise EOFError
        self._next = stop
        touched = int.from_bytes(self._payload[start >> 3 : (stop + 7) >> 3], "big")
        return touched >> (-stop & 7) & ((1 << count) - 1)

    def ue(self) -> int:
        """Unsigned Exp-Golomb code of at most 32 leading zeros (ITU-T H.264 9.1, H.265 9.2)."""
        zeros = 0
        while not self.u(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("an Exp-Golomb code of more than 32 leading zeros")
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        """Signed Exp-Golomb code: 0, 1, -1, 2, -2, …"""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)

    def skip_ue(self, count: int) -> None:
        for _ in range(count):
            self.ue()


def at_most(value: int, limit: int) -> int:
    """The value. Raises ValueError: it is above the limit that a standard sets."""
    if value > limit:
        raise ValueError(f"at most {limit} is possible, got {value}")
    return value
