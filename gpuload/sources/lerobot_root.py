"""Where a LeRobot dataset lies: a folder, or a name in the folder where LeRobot keeps them."""

import os
import re
import shlex
from pathlib import Path

from gpuload.errors import DatasetError

REPO_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""``owner/name`` as on the Hugging Face hub; anything else is a path."""


REVISIONS = ("v3.0", "v2.1", "v2.0", "main")
"""Which of several that were downloaded is meant where none is asked for: LeRobot names its own format's version."""


def find_root(repo_id: str | Path, root: str | Path | None = None, revision: str | None = None) -> Path:
    """The dataset's folder: ``root`` if given, else ``repo_id`` as a path, else where LeRobot or ``hf download`` keeps
    what they downloaded. ``revision`` chooses among what was downloaded; of a folder it says nothing new.

    Raises:
        DatasetError: none of them exists; names the command that downloads it.
    """
    if root is not None:
        if not Path(root).is_dir():
            command = _download(repo_id, revision, "--local-dir", str(root))
            raise DatasetError(f"root {root} is no folder; download with: {command}")
        return Path(root).absolute()
    if Path(repo_id).is_dir():
        return Path(repo_id).absolute()
    if not REPO_NAME.fullmatch(str(repo_id)):
        raise DatasetError(f"{repo_id}: there is no such folder; give the one that holds meta/")
    plain = [lerobot_home() / repo_id] if revision is None else []  # nobody knows of which revision such a folder is
    hubs = [lerobot_home() / "hub", hub_cache()]
    for found in (*plain, *(_snapshot(hub / f"datasets--{str(repo_id).replace('/', '--')}", revision) for hub in hubs)):
        if found is not None and found.is_dir():
            return found
    wanted = f"{repo_id}{'' if revision is None else f' of revision {revision}'}"
    tried = ", ".join(str(place) for place in (*plain, *hubs))
    raise DatasetError(f"{wanted} is neither a folder nor in {tried}; download with: {_download(repo_id, revision)}")


def _snapshot(repo: Path, revision: str | None) -> Path | None:
    """Of a repository in the hub's cache (``refs/<name>`` holds the commit, ``snapshots/<commit>`` the files): that of
    a revision; None: it is not there."""
    snapshots = repo / "snapshots"
    for name in REVISIONS if revision is None else (revision,):
        ref = repo / "refs" / name
        commit = ref.read_text().strip() if ref.is_file() else name
        if (snapshots / commit).is_dir():
            return snapshots / commit
    alone = list(snapshots.iterdir()) if revision is None and snapshots.is_dir() else []
    return alone[0] if len(alone) == 1 else None


def lerobot_home() -> Path:
    """Where LeRobot keeps datasets: its own variable, else a folder in that of Hugging Face's libraries."""
    return _folder(os.environ.get("HF_LEROBOT_HOME") or os.path.join(_hf_home(), "lerobot"))


def hub_cache() -> Path:
    """Where Hugging Face's libraries keep what they download."""
    named = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")  # the older name
    return _folder(named or os.path.join(_hf_home(), "hub"))


def _hf_home() -> str:
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")


def _folder(path: str) -> Path:
    return Path(os.path.expandvars(path)).expanduser()


def _download(repo_id: str | Path, revision: str | None, *more: str) -> str:
    command = ["hf", "download", str(repo_id), "--repo-type", "dataset"]
    return shlex.join([*command, *([] if revision is None else ["--revision", revision]), *more])
