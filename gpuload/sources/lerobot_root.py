"""Where a LeRobot dataset lies: a folder, or a name in the folder where LeRobot keeps them."""

import os
import re
from pathlib import Path

from gpuload.errors import DatasetError

REPO_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
"""``owner/name`` as on the Hugging Face hub; anything else is a path."""


def find_root(repo_id: str | Path, root: str | Path | None = None) -> Path:
    """The dataset's folder: ``root`` if given, else ``repo_id`` as a path, else LeRobot's cache folder.

    Raises:
        DatasetError: none of them exists; names the command that downloads it.
    """
    if root is not None:
        if not Path(root).is_dir():
            raise DatasetError(f"root {root} is no folder; download with: {_download(repo_id, Path(root))}")
        return Path(root).absolute()
    if Path(repo_id).is_dir():
        return Path(repo_id).absolute()
    if not REPO_NAME.fullmatch(str(repo_id)):
        raise DatasetError(f"{repo_id}: there is no such folder; give the one that holds meta/")
    cache = lerobot_home()
    found = cache / repo_id
    if not found.is_dir():
        raise DatasetError(f"{repo_id} is no folder and not in {cache}; download with: {_download(repo_id, found)}")
    return found


def lerobot_home() -> Path:
    """Where LeRobot keeps datasets: its own variable, else a folder in that of Hugging Face's libraries."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub = os.environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    home = os.environ.get("HF_LEROBOT_HOME") or os.path.join(os.path.expandvars(hub), "lerobot")
    return Path(home).expanduser()


def _download(repo_id: str | Path, folder: Path) -> str:
    return f"hf download {repo_id} --repo-type dataset --local-dir {folder}"
