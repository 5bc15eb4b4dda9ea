"""Who is compared: each entry is one peer in one configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuload.cores import usable_cores

Needs = Literal["cpu", "cuda"]
CORES = usable_cores()
WORKERS = sorted({0, 2, 4, CORES})
"""Of LeRobot's DataLoader. The other loaders with processes get ``FEW``, which always holds one for each core."""
FEW = sorted({0, 2, CORES})


@dataclass(frozen=True, slots=True)
class Variant:
    """A peer's script with its options."""

    name: str
    peer: str
    script: str
    """Module below ``benchmarks.peers``."""
    environment: str
    """Name in ``benchmarks.environments``; empty for our own."""
    options: Mapping[str, Any] = field(default_factory=dict)
    order: str = "global"
    """How it mixes: global, block, or – where there is no order."""
    tolerance: int = 0
    """Largest difference of a pixel to PyAV's rgb24 that is still called the same frame."""
    needs: Needs = "cpu"
    leading: bool = False
    """Measured on every workload; the others on the base workloads only."""
    reported: str = "uint8"
    """The dtype that it delivers whatever is asked for, if not the asked one."""

    @property
    def must_be_exact(self) -> bool:
        """Other pixels are an error here, whoever made them."""
        return self.tolerance == 0 and self.peer in ("gpuload", "PyAV naive")

    @property
    def checked_as(self) -> str:
        """Variants that differ in workers only return the same frames and are checked once."""
        return self.name.rpartition(" w")[0] or self.name


LIMIT = "limit"


def _lerobot(backend: str, workers: int) -> Variant:
    return Variant(
        f"LeRobot 0.4.4 {backend} w{workers}",
        "LeRobot 0.4.4",
        "peer_lerobot",
        "lerobot-0.4.4",
        {"backend": backend, "workers": workers},
        leading=(backend, workers) == ("torchcodec", CORES),
        reported="float32",
    )


def _rerun(kind: str, order: str, workers: int, *, windows: str = "copy") -> Variant:
    return Variant(
        f"Rerun 0.41 {kind}{' views' if windows == 'view' else ''} w{workers}",
        "Rerun 0.41",
        "peer_rerun",
        "rerun-0.41.0",
        {"kind": kind, "workers": workers, "windows": windows},
        order=order,
        leading=kind == "block" and windows == "copy" and workers in (0, CORES),  # which one is faster depends
    )


def _alone(name: str, script: str, environment: str, workers: int, **more: Any) -> Variant:
    return Variant(f"{name} w{workers}", name, script, environment, {"workers": workers}, **more)


VARIANTS: Mapping[str, Variant] = {
    one.name: one
    for one in (
        Variant(LIMIT, "limit", "peer_limit", "", {"converter": "pyav"}, order="–", leading=True),
        Variant(
            "limit (gpuload's converter)", "limit", "peer_limit", "", {"converter": "gpuload"}, order="–", leading=True
        ),
        Variant("gpuload block", "gpuload", "peer_gpuload", "", {"shuffle": "block"}, order="block", leading=True),
        Variant("gpuload global", "gpuload", "peer_gpuload", "", {"shuffle": "global"}, leading=True),
        *(
            Variant(
                f"gpuload {order} cuda",
                "gpuload",
                "peer_gpuload",
                "",
                {"shuffle": order, "loader": {"device": "cuda"}},
                order=order,
                tolerance=2,
                needs="cuda",
                leading=True,
            )
            for order in ("block", "global")
        ),
        *(_lerobot(backend, workers) for backend in ("torchcodec", "pyav") for workers in WORKERS),
        *(_rerun("block", "block", workers) for workers in FEW),
        *(_rerun("block", "block", workers, windows="view") for workers in FEW),
        *(_rerun("sample", "global", workers) for workers in FEW),
        *(_rerun("map", "global", workers) for workers in FEW),
        *(_alone("torchcodec 0.17", "peer_torchcodec", "torchcodec-0.17.0", w, leading=w == CORES) for w in FEW),
        *(_alone("decord 0.6", "peer_decord", "torchcodec-0.17.0", w, tolerance=3) for w in FEW),
        *(_alone("PyAV naive", "peer_pyav", "torchcodec-0.17.0", w) for w in FEW),
        Variant("DALI 2.4", "DALI 2.4", "peer_dali", "dali-2.4.0", tolerance=3, needs="cuda", leading=True),
        Variant("SPDL 0.8", "SPDL 0.8", "peer_spdl", "spdl-0.8.0", tolerance=3, needs="cuda", leading=True),
    )
}
