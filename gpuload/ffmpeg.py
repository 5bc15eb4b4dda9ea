"""The FFmpeg of PyAV's wheel, under the names by which torchcodec looks for FFmpeg.

torchcodec brings no FFmpeg: it loads ``libavcodec.so.62`` and its kin by the dynamic linker's search path, which is
read once, at process start. PyAV's wheel has them under other names. Symlinks and ``LD_LIBRARY_PATH`` join the two, and
both then share one copy. Without them torchcodec takes a system FFmpeg, or none.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from uuid import uuid4

import platformdirs

VARIABLE = "LD_LIBRARY_PATH"
"""The linker reads it when a process starts: setting it later changes nothing."""
OF_SHELL = "GPULOAD_SHELL_LD_LIBRARY_PATH"
"""What the variable was before gpuload's command started itself again with another: for ``gpuload doctor``."""
_LIBRARY = re.compile(r"^(lib(?:av|sw|postproc)[a-z]*)-[0-9a-f]+\.so\.(\d+)")
"""``libavcodec-5e6b81c2.so.62.28.102``: the wheel's name; the linker wants ``libavcodec.so.62``."""


def library_path(cache_dir: Path | None = None) -> str | None:
    """What to put in front of ``LD_LIBRARY_PATH``: a folder of symlinks, made if need be, and the wheel's own folder.

    None where PyAV has no libraries of its own to share (a build against the system's, macOS, Windows). Safe to call
    from several processes at once: each link appears whole or not at all.

    Raises:
        OSError: the links cannot be written to the cache folder.
    """
    source = bundled_libraries()
    if source is None:
        return None
    links = {f"{m[1]}.so.{m[2]}": file for file in sorted(source.iterdir()) if (m := _LIBRARY.match(file.name))}
    if not links:
        return None
    # Version, place and file names: an upgraded or moved PyAV never meets the links of another.
    named = "\n".join([str(source), *(file.name for file in links.values())])
    key = f"pyav-{metadata.version('av')}-{hashlib.sha256(named.encode()).hexdigest()[:12]}"
    folder = (cache_dir or Path(platformdirs.user_cache_dir("gpuload"))) / "ffmpeg" / key
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in links.items():
        _link(folder / name, target)
    # The wheel's folder too: its libavutil finds libdrm beside it only through the search path.
    return os.pathsep.join([str(folder), str(source)])


def environment(base: Mapping[str, str], cache_dir: Path | None = None) -> dict[str, str]:
    """``base`` with :func:`library_path` in front of its ``LD_LIBRARY_PATH``, for a process that is to be started.

    A copy of ``base`` where there is nothing to share. Idempotent.

    Raises:
        OSError: the links cannot be written to the cache folder.
    """
    ours = library_path(cache_dir)
    if ours is None:
        return dict(base)
    mine = ours.split(os.pathsep)
    theirs = [folder for folder in base.get(VARIABLE, "").split(os.pathsep) if folder and folder not in mine]
    return {**base, VARIABLE: os.pathsep.join([*mine, *theirs])}


def bundled_libraries() -> Path | None:
    """The folder of shared libraries that PyAV's wheel brought, or None. Does not import PyAV."""
    if not sys.platform.startswith("linux"):
        return None  # elsewhere neither the names nor the variable are these
    spec = util.find_spec("av")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).resolve().parent.parent / "av.libs"
    return folder if folder.is_dir() else None


def _link(link: Path, target: Path) -> None:
    try:
        if link.readlink() == target:
            return
    except OSError:
        pass  # missing, or not a link: written next
    # Beside it first, then moved over it: another process sees the old link or the new one.
    temporary = link.with_name(f".{link.name}.{uuid4().hex}")
    temporary.symlink_to(target)
    temporary.replace(link)
