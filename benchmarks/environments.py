"""The peers' virtual environments: made once by version, kept in the user's cache folder.

    python -m benchmarks.environments [NAME …]

Between 6 and 9 GB each, because each has a torch of its own.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.datasets import default_folder
from benchmarks.lerobot_peer import command, environment, link_ffmpeg

REPOSITORY = Path(__file__).resolve().parent.parent
NEEDED_BYTES = 10 * 10**9
"""Free space that installing one takes at most."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What to install, by version."""

    name: str
    requirements: tuple[str, ...]


ENVIRONMENTS: Mapping[str, Environment] = {
    one.name: one
    for one in (
        # The folder and its content are those of benchmarks.limit.
        Environment("lerobot-0.4.4", ("lerobot==0.4.4",)),
        # Its reader calls an `ffmpeg` on the path to encode H.264 with B-frames anew; this wheel brings one.
        Environment("rerun-0.41.0", ("rerun-sdk[dataloader,catalog]==0.41.0", "imageio-ffmpeg==0.6.0")),
        # torchcodec, PyAV and decord do not get in each other's way.
        Environment(
            "torchcodec-0.17.0",
            (
                "torch==2.15.0",
                "torchcodec==0.17.0",
                "av==18.1.0",
                "numpy<3",
                "pyarrow<27",
                "decord==0.6.0; platform_machine == 'x86_64'",
            ),
        ),
        Environment("dali-2.4.0", ("nvidia-dali-cuda130==2.4.0", "torch==2.15.0", "numpy<3", "pyarrow<27")),
        Environment("spdl-0.8.0", ("spdl-io==0.8.0", "spdl-core==0.8.0", "torch==2.15.0", "numpy<3", "pyarrow<27")),
    )
}


@dataclass(frozen=True, slots=True)
class Ready:
    """An environment that can run a peer's script."""

    python: Path
    variables: dict[str, str]


def ensure_environment(name: str, *, folder: Path | None = None) -> Ready:
    """Install it if it is not there; the empty name is our own.

    Raises:
        RuntimeError: there is no room, or pip failed; the message holds the end of its output.
    """
    if not name:
        return Ready(Path(sys.executable), {**os.environ, "PYTHONPATH": ""})
    home = (folder or default_folder()) / name
    python, ready = home / "venv" / "bin" / "python", home / ".ready"
    if not ready.exists():
        shutil.rmtree(home / "venv", ignore_errors=True)  # half of one may be there
        home.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(home).free) < NEEDED_BYTES:
            raise RuntimeError(f"{home}: {free / 1e9:.1f} GB are free, {NEEDED_BYTES / 1e9:.0f} GB needed")
        command([sys.executable, "-m", "venv", str(home / "venv")])
        command([str(python), "-m", "pip", "install", "-q", *ENVIRONMENTS[name].requirements])
        for libraries in (home / "venv").glob("lib/python3*/site-packages/av.libs"):
            link_ffmpeg(libraries, home / "ffmpeg")
        for program in (home / "venv").glob("lib/python3*/site-packages/imageio_ffmpeg/binaries/ffmpeg-*"):
            program.chmod(0o755)
            (python.parent / "ffmpeg").unlink(missing_ok=True)
            (python.parent / "ffmpeg").symlink_to(program)
        ready.touch()
    variables = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}
    if (home / "ffmpeg").exists():
        variables = environment(home / "ffmpeg")
    return Ready(python, {**variables, "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])})


def installed(ready: Ready) -> list[str]:
    """``pip freeze`` of it, for the record, without folders of the machine: this repository is named by the record's
    commit, and a wheel that was installed from a file by its version."""
    done = subprocess.run([str(ready.python), "-m", "pip", "freeze"], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.split("\n")[:-1] if not line.startswith("-e ")]
    return [re.sub(r" @ file:\S*/[^/\s]+-(\d[^-\s]*)-[^/\s]*", r"==\1", line) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ENVIRONMENTS))
    for name in parser.parse_args().names or ENVIRONMENTS:
        print(name, ensure_environment(name).python)


if __name__ == "__main__":
    main()
