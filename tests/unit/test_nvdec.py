"""What the driver says of NVDEC: asked for real where there is none, and through libraries that stand in for it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpuload
from gpuload.device.nvdec import (
    CHROMAS,
    CODECS,
    DEPTHS,
    NvdecCaps,
    NvdecMissing,
    NvdecTable,
    from_json,
    probe_caps,
    to_json,
)
from gpuload.errors import ConfigError

RECORDS = Path(__file__).parents[1] / "data" / "nvdec"

# A stand-in for both libraries. The structure is written out by byte offsets of NVIDIA's cuviddec.h, not from ours.
FAKE_CUDA = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char secret; /* an address beyond 32 bits, so that a truncated handle shows */
static void note(const char *what) { FILE *f = fopen(getenv("FAKE_LOG"), "a"); fprintf(f, "%s\n", what); fclose(f); }
static int fails(const char *what) {
    const char *set = getenv("FAKE_FAIL"); size_t n = strlen(what);
    return set && !strncmp(set, what, n) && set[n] == '=' ? atoi(set + n + 1) : 0;
}
int cuInit(unsigned flags) { note("init"); return fails("cuInit"); }
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : 0; return code != 100;
}
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 70 + ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake %d", device); return 0; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (fails("cuDevicePrimaryCtxRetain")) return fails("cuDevicePrimaryCtxRetain");
    note(device == 71 ? "retain" : "retain of another"); *context = &secret; return 0;
}
#ifndef OLD
int cuDevicePrimaryCtxRelease_v2(int device) { note(device == 71 ? "release" : "release of another"); return 0; }
#endif
int fake_current;
int cuCtxPushCurrent_v2(void *context) {
    note(context == &secret ? "push" : "push of another"); fake_current++; return 0;
}
int cuCtxPopCurrent_v2(void **context) { note("pop"); *context = &secret; fake_current--; return 0; }
"""
FAKE_NVCUVID = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
extern int fake_current;
static uint32_t u32(unsigned char *at) { uint32_t v; memcpy(&v, at, 4); return v; }
static void p32(unsigned char *at, uint32_t v) { memcpy(at, &v, 4); }
static void p16(unsigned char *at, uint16_t v) { memcpy(at, &v, 2); }
#ifndef EMPTY
int cuvidGetDecoderCaps(unsigned char *caps) {
    if (!fake_current) return 201; /* CUDA_ERROR_INVALID_CONTEXT */
    if (getenv("FAKE_DEAF")) return 999;
    for (int i = 0; i < 12; i++) if (caps[12 + i]) return 1; /* reserved1 must be zero */
    for (int i = 0; i < 40; i++) if (caps[48 + i]) return 1; /* reserved3 too */
    uint32_t codec = u32(caps), chroma = u32(caps + 4), bits = u32(caps + 8) + 8;
    if (codec == 11) return 1; /* a driver that has not heard of AV1 */
    if (!(codec == 8 && chroma == 3 && bits == 12) && !(codec == 4 && chroma == 1 && bits == 8)) return 0;
    caps[24] = 1;
    caps[25] = codec == 8 ? 7 : 200;
    p16(caps + 26, codec == 8 ? 0x800c : 1);
    p32(caps + 28, 8192 + codec); p32(caps + 32, 70000 + codec); p32(caps + 36, 262144 + codec);
    p16(caps + 40, 144 + codec); p16(caps + 42, 65000 + codec);
    caps[44] = 1; caps[45] = 32; p16(caps + 46, 256); /* histogram fields, which nobody reads */
    return 0;
}
#else
int cuvidSomethingElse(void) { return 0; }
#endif
"""
ASK = """
import sys, types
package = sys.modules["gpuload"] = types.ModuleType("gpuload")
package.__path__ = [sys.argv[1]]  # without its __init__, which takes seconds to import torch
from gpuload.device.nvdec import probe_caps, to_json
print(to_json(probe_caps(int(sys.argv[2]))))
"""


class Driver:
    """Libraries in a folder that a fresh process finds first."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "calls.txt"

    def build(self, *, old: bool = False, video: bool = True, empty: bool = False) -> "Driver":
        gcc = shutil.which("gcc")
        if gcc is None:
            pytest.skip("no gcc to build the stand-in driver with")
        libraries = [("libcuda.so.1", FAKE_CUDA, ["-DOLD"] if old else [])]
        if video:
            needs = [f"-L{self.folder}", "-l:libcuda.so.1", *(["-DEMPTY"] if empty else [])]
            libraries.append(("libnvcuvid.so.1", FAKE_NVCUVID, needs))
        for name, text, more in libraries:
            source = self.folder / f"{name}.c"
            source.write_text(text)
            command = [gcc, "-shared", "-fPIC", "-w", "-o", str(self.folder / name), str(source), *more]
            subprocess.run(command, check=True, timeout=60)
        return self

    def ask(self, index: int = 1, **variables: str) -> NvdecTable | NvdecMissing:
        environment = {**os.environ, "LD_LIBRARY_PATH": str(self.folder), "FAKE_LOG": str(self.log), **variables}
        command = [sys.executable, "-c", ASK, str(Path(gpuload.__file__).parent), str(index)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 0, run.stderr
        return from_json(run.stdout)

    def calls(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1]


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def missing(found: NvdecTable | NvdecMissing, cause: str, *texts: str) -> None:
    assert isinstance(found, NvdecMissing), found
    assert found.cause == cause
    assert all(text in found.reason for text in texts), found.reason


def test_every_field_is_read_where_the_driver_writes_it(driver: Driver) -> None:
    assert driver.build().ask() == NvdecTable(
        device="Fake 71",
        driver="13.2",
        source="cuvidGetDecoderCaps on this machine",
        caps=(
            NvdecCaps("h264", "420", 8, True, 200, 148, 65004, 8196, 70004, 262148, 1),
            NvdecCaps("hevc", "444", 12, True, 7, 152, 65008, 8200, 70008, 262152, 0x800C),
        ),
    )


def test_the_primary_context_is_current_while_asking_and_given_back(driver: Driver) -> None:
    driver.build().ask()
    assert driver.calls() == ["init", "retain", "push", "pop", "release"]


def test_the_context_is_given_back_when_asking_fails(driver: Driver) -> None:
    missing(driver.build().ask(FAKE_DEAF="1"), "driver error", "cuvidGetDecoderCaps: error 999")
    assert driver.calls()[-2:] == ["pop", "release"]


@pytest.mark.parametrize("index", [-1, 2, 1000])
def test_a_device_that_is_not_there_is_named(driver: Driver, index: int) -> None:
    missing(driver.build().ask(index), "no such device", f"no CUDA device {index}", "shows 2")


def test_a_container_without_the_video_capability_is_told_what_to_ask_for(driver: Driver) -> None:
    missing(driver.build(video=False).ask(), "no libnvcuvid", "NVIDIA_DRIVER_CAPABILITIES=video,compute,utility")


def test_a_library_that_is_none_is_a_reason(driver: Driver) -> None:
    (driver.folder / "libcuda.so.1").write_text("not a library")
    missing(driver.ask(), "no driver", "libcuda.so.1")


@pytest.mark.parametrize(
    ("failure", "cause", "text"),
    [
        ("cuInit=100", "no device", "CUDA_ERROR_NO_DEVICE"),
        ("cuInit=34", "no driver", "stub"),
        ("cuInit=803", "driver too old", "update it"),
        ("cuInit=999", "driver error", "cuInit: error 999"),
        ("cuDevicePrimaryCtxRetain=2", "driver error", "cuDevicePrimaryCtxRetain: error 2"),
    ],
)
def test_what_the_driver_refuses_is_a_reason(driver: Driver, failure: str, cause: str, text: str) -> None:
    missing(driver.build().ask(FAKE_FAIL=failure), cause, text)


def test_a_driver_without_the_functions_is_too_old(driver: Driver) -> None:
    missing(driver.build(old=True).ask(), "driver too old", "cuDevicePrimaryCtxRelease_v2", "update")
    assert "retain" not in driver.calls()  # nothing was taken that could not be given back


def test_a_libnvcuvid_without_the_function_is_too_old(driver: Driver) -> None:
    missing(driver.build(empty=True).ask(), "driver too old", "cuvidGetDecoderCaps")


def test_this_machine_answers_with_a_table_or_a_reason() -> None:
    found = probe_caps(0)
    assert found.caps if isinstance(found, NvdecTable) else found.reason


@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.json")), ids=lambda path: path.stem)
def test_records_survive_json_and_pickle(path: Path) -> None:
    found = from_json(path.read_text())
    assert from_json(to_json(found)) == found
    assert pickle.loads(pickle.dumps(found)) == found
    if isinstance(found, NvdecTable):
        assert "NOT read off a device" in found.source
        assert len({(caps.codec, caps.chroma, caps.bits) for caps in found.caps}) == len(found.caps)
        assert all(caps.supported and caps.codec in CODECS for caps in found.caps)
        assert all(caps.chroma in CHROMAS and caps.bits in DEPTHS for caps in found.caps)


def test_what_a_table_does_not_list_is_unsupported() -> None:
    assert NvdecTable("x", "13.0", "here", ()).of("av1", "420", 8) == NvdecCaps("av1", "420", 8, supported=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cause": "no driver"}', json.dumps({"caps": [{"codec": "h264"}]})])
def test_other_text_is_no_record(text: str) -> None:
    with pytest.raises(ConfigError, match="not a record"):
        from_json(text)
