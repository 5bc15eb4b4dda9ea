"""PyAV's FFmpeg under the names that others look for."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpuload import ffmpeg
from gpuload.ffmpeg import VARIABLE, bundled_libraries, environment, library_path

pytestmark = pytest.mark.skipif(bundled_libraries() is None, reason="this PyAV brings no FFmpeg of its own")

LOAD = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
print({line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "libavcodec" in line})
"""


def links(cache: Path) -> Path:
    path = library_path(cache)
    assert path is not None
    folder, bundled = path.split(os.pathsep)
    assert bundled == str(bundled_libraries())
    return Path(folder)


def test_the_linker_finds_pyavs_library_by_its_usual_name(tmp_path: Path) -> None:
    (codec,) = links(tmp_path).glob("libavcodec.so.*")
    run = [sys.executable, "-c", LOAD, codec.name]
    done = subprocess.run(run, env=environment(os.environ, tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({str(codec.resolve())})
    assert codec.resolve().parent == bundled_libraries()


def test_every_library_of_ffmpeg_is_linked_and_nothing_else(tmp_path: Path) -> None:
    names = {link.name.split(".")[0] for link in links(tmp_path).iterdir()}
    assert {
        "libavcodec",
        "libavformat",
        "libavutil",
        "libavfilter",
        "libavdevice",
        "libswscale",
        "libswresample",
    } == names


def test_links_that_are_gone_or_wrong_are_made_again(tmp_path: Path) -> None:
    folder = links(tmp_path)
    before = {link.name: link.readlink() for link in folder.iterdir()}
    first, second, third = sorted(folder.iterdir())[:3]
    first.unlink()
    second.unlink()
    second.symlink_to("/nowhere")
    third.unlink()
    third.write_bytes(b"not a library")
    assert links(tmp_path) == folder
    assert {link.name: link.readlink() for link in folder.iterdir()} == before


def test_many_at_once_make_the_same_links(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(links, [tmp_path] * 32))
    (folder,) = folders
    assert all(link.resolve().is_file() and not link.name.startswith(".") for link in folder.iterdir())


def test_another_pyav_gets_other_links(tmp_path: Path) -> None:
    package = tmp_path / "site" / "av"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    libs = package.parent / "av.libs"
    libs.mkdir()
    (libs / "libavcodec-0123abcd.so.99.1.100").touch()
    ours = links(tmp_path / "cache")
    # By its path: the package around it imports the real PyAV.
    code = "import pathlib, runpy, sys; print(runpy.run_path(sys.argv[1])['library_path'](pathlib.Path(sys.argv[2])))"
    done = subprocess.run(
        [sys.executable, "-c", code, ffmpeg.__file__, str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, bundled = done.stdout.strip().split(os.pathsep)
    assert bundled == str(libs)
    assert Path(folder) != ours
    assert (Path(folder) / "libavcodec.so.99").readlink() == libs / "libavcodec-0123abcd.so.99.1.100"


def test_the_environment_keeps_what_was_there_and_is_idempotent(tmp_path: Path) -> None:
    base = {"HOME": "/home/somebody", VARIABLE: f"/opt/cuda/lib{os.pathsep}{os.pathsep}/opt/other"}
    once = environment(base, tmp_path)
    assert once == {**base, VARIABLE: os.pathsep.join([library_path(tmp_path) or "", "/opt/cuda/lib", "/opt/other"])}
    assert environment(once, tmp_path) == once
    assert environment({}, tmp_path) == {VARIABLE: library_path(tmp_path)}
