"""The issue's targets beside what was found."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.workloads import BASE, ON_CPU, WORKLOADS

Sections = Mapping[str, Mapping[str, Any]]
NVDEC_ONLY = ", NVDEC only"
"""Without the CPU's share, which ``auto`` takes where that is faster."""
AT_ONCE = "torchcodec-rgb"
"""The backend that decodes a run in one call, without the GIL, to colours that are torchcodec's own."""
RIVALRIES = (BASE, "h264 640x480 g30")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target."""

    name: str
    wanted: float
    found: float | None
    at_most: bool = False
    is_of_pixels: bool = False
    """Whether pictures are right: where they are not, no rate means anything."""

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.found is None:
            return None
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


def judge(sections: Sections) -> list[Verdict]:
    """Every target."""
    return list(_verdicts(sections))


def _verdicts(sections: Sections) -> Iterator[Verdict]:
    def value(section: str, key: str, *fields: str) -> float | None:
        found: Any = sections.get(section, {}).get(key)
        for field in fields:
            found = found.get(field) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, (int, float)) else None

    def ratio(above: float | None, below: float | None) -> float | None:
        return above / below if above is not None and below else None

    yield Verdict(
        "planes of H.264 and HEVC bit-equal to the CPU's (share, torchcodec)",
        1.0,
        equal_share(sections),
        is_of_pixels=True,
    )
    worst = _worst(sections.get("tensors", {}), "exact_max")
    yield Verdict("batches from exact maths, levels of 255", 1.0, worst, at_most=True, is_of_pixels=True)
    for name in WORKLOADS:
        limit = value("limit", f"{name}: limit", "frames_per_s")
        for way in ("", NVDEC_ONLY):
            distinct = value("loading", f"{name} block{way}", "distinct_per_s")
            yield Verdict(f"loader, block{way}, {name}: distinct frames of NVDEC's limit", 0.90, ratio(distinct, limit))
    for way in ("", f", {AT_ONCE}"):
        delivered = value("loading", f"{BASE} block{way}", "delivered_per_s")
        yield Verdict(f"loader, block{way}, {BASE}: frames/s delivered", 20_000, delivered)
    for name in RIVALRIES:
        mine = value("rivals", f"{name}: gpuload global", "delivered_per_s")
        for rival, text in (("torchcodec", "torchcodec-CUDA per sample"), ("DALI", "DALI's reader")):
            found = [
                float(result["delivered_per_s"])
                for key, result in sections.get("rivals", {}).items()
                if key.startswith(f"{name}: {rival}") and isinstance(result, Mapping) and "delivered_per_s" in result
            ]
            yield Verdict(f"{name}, random access: over {text}", 3.0, ratio(mine, max(found, default=None)))
    for case, wanted in (("nv12 1080p to uint8", 0.7), ("nv12 1080p to 224x224 float16", 0.4)):
        yield Verdict(f"kernel, {case}: of copy_", wanted, value("kernels", case, "of_copy"))
    yield Verdict(f"{ON_CPU.name} on the CPU: of its decode limit", 0.95, value("host_path", "block", "of_limit"))
    for name in WORKLOADS:
        blocked = value("loading", f"{name} training", "blocked")
        yield Verdict(f"training blocked on data, {name}", 0.02, blocked, at_most=True)
    for way in ("", f", {AT_ONCE}"):
        thread = value("loading", f"{BASE} beside a busy thread{way}", "delivered_per_s")
        process = value("loading", f"{BASE} beside a busy process{way}", "delivered_per_s")
        name = f"{BASE} beside pure Python in a thread, of beside it in a process{way}"
        yield Verdict(name, 0.8, ratio(thread, process))


def equal_share(sections: Sections) -> float | None:
    """Of the pictures that were compared of H.264 and HEVC clips which the driver decodes; a failed clip counts 0."""
    checks = [
        result
        for key, result in sections.get("backend torchcodec", {}).items()
        if key.startswith(("planes h264", "planes hevc")) and isinstance(result, Mapping) and "cannot" not in result
    ]
    if not checks:
        return None
    return sum(result["equal"] / result["of"] if "of" in result else 0.0 for result in checks) / len(checks)


def _worst(results: Mapping[str, Any], field: str) -> float | None:
    if any(isinstance(result, Mapping) and "failed" in result for result in results.values()):
        return float("inf")
    found = [float(result[field]) for result in results.values() if isinstance(result, Mapping) and field in result]
    return max(found, default=None)


def table(verdicts: list[Verdict]) -> str:
    """Markdown."""
    say: Callable[[bool | None], str] = {True: "met", False: "**not met**", None: "not measured"}.__getitem__
    lines = ["| target | wanted | found | |", "|---|---|---|---|"]
    for one in verdicts:
        sign = "≤" if one.at_most else "≥"
        found = "–" if one.found is None else number(one.found)
        lines.append(f"| {one.name} | {sign} {number(one.wanted)} | {found} | {say(one.met)} |")
    return "\n".join(lines)


def number(value: float) -> str:
    """As many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
