"""AV1 where the GPU has no decoder for it: decoded on all cores, converted on the GPU, against the CPU's own limit."""

from benchmarks.gpu.loading import drawn
from benchmarks.gpu.ours import dataset_of, make_loader, on_device
from benchmarks.gpu.setting import Setting, first_line, say
from benchmarks.gpu.workloads import ON_CPU, TINY_AV1, WINDOW, ensure_once, ensure_workload
from benchmarks.machine_limit import measure_limit


def measure(setting: Setting) -> None:
    """The limit before and after the loader, so that a machine that slows down shows."""
    workload = TINY_AV1 if setting.dry else ON_CPU
    once = ensure_once(workload, setting.folder)
    dataset = dataset_of(ensure_workload(workload, setting.folder))
    processes = 1 if setting.dry else None
    limits: list[float] = []

    def limit(key: str, *, deliveries: int, converter: str) -> None:
        found = measure_limit(
            once, deliveries=deliveries, seconds=setting.long_seconds, converter=converter, processes=processes
        )
        if not deliveries:
            limits.append(found.decoded_per_s)
        say(key, {"decoded_per_s": round(found.decoded_per_s), "processes": found.processes})

    try:
        limit("decoding only, before", deliveries=0, converter="pyav")
        for shuffle in ("block", "global"):
            if setting.left_s < 4 * setting.long_seconds:
                say(shuffle, {"left out": "no time was left"})
                continue
            arguments = {"shuffle": shuffle, "backend": "pyav"}
            with on_device(setting, lanes=False), make_loader(dataset, setting, **arguments) as loader:
                found = drawn(loader, setting)
                found["backends"] = {key: list(value) for key, value in loader.stats.backends.items()}
            say(shuffle, {**found, "of_limit": found["distinct_per_s"] / limits[0]})
        limit("decoding only, after", deliveries=0, converter="pyav")
        limit("decoding and converting on the CPU", deliveries=WINDOW, converter="gpuload")
    except Exception as error:  # noqa: BLE001 - what was said before stays
        say("failed", first_line(error))
