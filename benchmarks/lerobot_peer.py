"""LeRobot 0.4.4 in an environment of its own: set it up once, measure its DataLoader on a dataset.

    python -m benchmarks.lerobot_peer DATASET [--seconds 20] [--backend torchcodec]

It pins torch below 2.11, so it can never share gpuload's environment. About 8 GB and some minutes the first time.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets import default_folder

VERSION = "0.4.4"
LIBRARY = re.compile(r"^(lib(?:av|sw)[a-z]+)-[0-9a-f]+\.so\.(\d+)")
PROBE = "from torchcodec.decoders import VideoDecoder"


@dataclass(frozen=True, slots=True)
class Peer:
    """An environment with LeRobot in it, ready to run."""

    python: Path
    ffmpeg: Path
    """Folder with PyAV's FFmpeg under the names that torchcodec looks for."""
    backend: str
    """LeRobot's ``video_backend``: torchcodec, its default, or pyav where torchcodec cannot be loaded."""
    reason: str
    """Why this backend."""


def ensure_peer(folder: Path | None = None) -> Peer:
    """Install LeRobot if it is not there, find out which of its video backends works.

    Raises:
        RuntimeError: pip failed; the message holds the end of its output.
    """
    home = (folder or default_folder()) / f"lerobot-{VERSION}"
    python = home / "venv" / "bin" / "python"
    ready = home / ".ready"
    if not ready.exists():
        command([sys.executable, "-m", "venv", str(home / "venv")])
        command([str(python), "-m", "pip", "install", "-q", f"lerobot=={VERSION}"])
        link_ffmpeg(next((home / "venv").glob("lib/python3*/site-packages/av.libs")), home / "ffmpeg")
        ready.touch()
    probe = subprocess.run(
        [str(python), "-c", PROBE], env=environment(home / "ffmpeg"), capture_output=True, text=True, check=False
    )
    if probe.returncode == 0:
        return Peer(python, home / "ffmpeg", "torchcodec", "LeRobot's default; it uses the FFmpeg of PyAV's wheel")
    causes = [line for line in probe.stderr.splitlines() if line.startswith(("OSError", "ImportError", "Runtime"))]
    reason = "; ".join(causes) or f"exit code {probe.returncode}"
    return Peer(python, home / "ffmpeg", "pyav", f"torchcodec cannot be loaded: {reason}")


def link_ffmpeg(source: Path, target: Path) -> None:
    """Symlink ``libavcodec-<hash>.so.61.x`` of PyAV's wheel as ``libavcodec.so.61``, and so on."""
    target.mkdir(parents=True, exist_ok=True)
    for library in sorted(source.iterdir()):
        if match := LIBRARY.match(library.name):
            link = target / f"{match[1]}.so.{match[2]}"
            link.unlink(missing_ok=True)
            link.symlink_to(library)


def environment(ffmpeg: Path) -> dict[str, str]:
    """Ours, plus PyAV's FFmpeg in front of a system one; nothing is asked of the hub."""
    # The wheel's own folder too: its libavutil finds libdrm beside it only through the search path.
    folders = {str(link.resolve().parent) for link in ffmpeg.iterdir()}
    paths = [str(ffmpeg), *sorted(folders), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}


def command(arguments: list[str]) -> None:
    """Run it; RuntimeError with the end of its output if it fails."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(arguments)} failed with {done.returncode}:\n{output}")


def peer_command(
    peer: Peer, root: Path, *, backend: str | None = None, seconds: float = 20.0, min_batches: int = 8
) -> list[str]:
    """The command that measures LeRobot on ``root`` and prints JSON; run it in ``environment(peer.ffmpeg)``."""
    # -P: our own `datasets.py` lies beside the script and would shadow Hugging Face's package of that name.
    script = Path(__file__).with_name("lerobot_epoch.py")
    options = ["--backend", backend or peer.backend, "--seconds", str(seconds), "--min-batches", str(min_batches)]
    return [str(peer.python), "-P", str(script), str(root), *options]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--backend", choices=("torchcodec", "pyav"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--min-batches", type=int, default=8)
    args = parser.parse_args()
    peer = ensure_peer()
    arguments = peer_command(
        peer, args.dataset, backend=args.backend, seconds=args.seconds, min_batches=args.min_batches
    )
    done = subprocess.run(arguments, env=environment(peer.ffmpeg), stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(result | {"peer": {key: str(value) for key, value in asdict(peer).items()}}))


if __name__ == "__main__":
    main()
