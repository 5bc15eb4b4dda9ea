"""CPU time and bytes read of this process and all below it, from /proc; standard library only."""

import os
from pathlib import Path

CPU_FIELDS = slice(11, 15)
"""utime, stime, and those of children that ended, counted from the field after the command's name."""


def tree_usage() -> dict[str, float]:
    """``cpu_s`` of the process tree, ended children included; ``read_bytes`` (asked for by read calls) and
    ``disk_bytes`` (fetched from the device) of the living. Empty where there is no /proc.

    Memory-mapped files are read without a call: they appear in ``disk_bytes`` only, and only if not in the page cache.
    """
    ticks, read, disk, seen = 0, 0, 0, False
    for pid in family(os.getpid()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in stat[CPU_FIELDS])
            seen = True
        except OSError:  # ended meanwhile, or no /proc
            continue
        try:
            counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
            read, disk = read + int(counts["rchar"]), disk + int(counts["read_bytes"])
        except OSError:  # not ours to read
            continue
    if not seen:
        return {}
    return {"cpu_s": ticks / os.sysconf("SC_CLK_TCK"), "read_bytes": float(read), "disk_bytes": float(disk)}


def family(root: int) -> list[int]:
    """``root`` and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:  # ended meanwhile
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found += parents.get(pid, [])
    return found
