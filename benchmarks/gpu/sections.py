"""Every section by name: what it runs, how long it may take, and in which call it comes by default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module

from benchmarks.gpu.setting import Setting

MODULE = "benchmarks.gpu."


@dataclass(frozen=True, slots=True)
class Section:
    """A module's ``measure``, run in a process of its own."""

    name: str
    module: str
    limit_s: float
    half: str
    """``first`` or ``second`` of two calls on a machine that is lent for ten minutes at a time; or ``both``."""
    candidate: str = ""

    def run(self, setting: Setting) -> None:
        """Imports what it needs, and measures."""
        measure: Callable[..., None] = import_module(MODULE + self.module).measure
        (partial(measure, name=self.candidate) if self.candidate else measure)(setting)


SECTIONS: Mapping[str, Section] = {
    one.name: one
    for one in (
        Section("machine", "machine", 60, "both"),
        Section("prepare", "prepare", 150, "both"),
        Section("tensors", "tensors", 130, "first"),
        Section("kernels", "kernels", 60, "first"),
        Section("backend torchcodec", "backends", 130, "first", "torchcodec"),
        Section("backend pyav_cuda", "backends", 120, "first", "pyav_cuda"),
        Section("backend pynvvideocodec", "backends", 110, "first", "pynvvideocodec"),
        Section("backend torchcodec-rgb", "backends", 100, "first", "torchcodec-rgb"),
        Section("limit", "nvdec_limit", 120, "second"),
        Section("loading", "loading", 190, "second"),
        Section("host_path", "host_path", 70, "second"),
        Section("rivals", "rivals", 150, "second"),
        Section("limiter", "limiter", 100, "second"),
        Section("backend dali", "backends", 95, "second", "dali"),
    )
}


def choose(text: str) -> list[str]:
    """Names out of ``all``, ``first``, ``second`` or a list separated by commas.

    Raises:
        ValueError: there is no such section.
    """
    if text == "all":
        return list(SECTIONS)
    if text in ("first", "second"):
        return [name for name, section in SECTIONS.items() if section.half in (text, "both")]
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in SECTIONS]:
        raise ValueError(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}, and all, first, second")
    return names
