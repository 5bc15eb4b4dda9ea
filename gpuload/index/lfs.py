"""Git LFS pointers: what lies in a clone where a large file was not fetched."""

from pathlib import Path

_BEGIN = b"version https://git-lfs"
"""Of every pointer (the specification of Git LFS, ``docs/spec.md``)."""
INSTEAD = (
    "is a Git LFS pointer and not the file itself: run `git lfs pull` in the dataset, or fetch it with `hf download`"
)


def is_pointer(path: str | Path) -> bool:
    """Whether a file is such a pointer. False where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGIN)) == _BEGIN
    except OSError:
        return False
