"""Runs sections, each in a process of its own with a time limit, and keeps what they say as they say it."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, Any

from benchmarks.gpu.sections import SECTIONS
from benchmarks.gpu.setting import MARK, Setting, say, to_text
from benchmarks.record import RECORDS, kill_tree
from gpuload.ffmpeg import environment

SPARE_S = 5.0
"""Between a section's own deadline and the moment when it is killed."""
DONE = "done"
FAILED = "section failed"


Keep = Callable[[str, str, Any], None]
"""Takes section, key and value of a result."""


def run_sections(names: Sequence[str], setting: Setting, *, limit_s: float, keep: Keep) -> None:
    """Runs sections one after the other in one process, which is killed after ``limit_s``. ``keep`` gets every result
    at once, and ``FAILED`` with a reason of each section that did not come to its end."""
    told = replace(setting, deadline_s=time.time() + limit_s - SPARE_S)
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", ",".join(names), "--setting", to_text(told)]
    variables = environment(os.environ)  # the FFmpeg of PyAV's wheel, for torchcodec
    variables["PYTHONUNBUFFERED"] = "1"
    if setting.dry:
        variables |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    left = list(names)
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(
            command, cwd=RECORDS.parent.parent, env=variables, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        end = time.monotonic() + limit_s
        late = False
        try:
            while True:
                try:
                    line = lines.get(timeout=max(0.01, end - time.monotonic()))
                except queue.Empty:
                    late = True
                    break
                if line is None:
                    break
                if line.startswith(MARK):
                    ((key, value),) = json.loads(line.removeprefix(MARK)).items()
                    if key != DONE:
                        keep(left[0], key, value)
                    else:
                        left.pop(0)
            if not late:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=SPARE_S)
        finally:
            kill_tree(process.pid)
        code = process.wait()
        errors.seek(0)
        said = [line for line in errors.read().splitlines() if line.strip()]
    reason = f"stopped after {limit_s:.0f} s" if late else f"its process ended with {code}"
    for name in left:
        keep(name, FAILED, f"{reason}; last lines: {' / '.join(said[-6:])[-900:]}")


def _read(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    with contextlib.suppress(ValueError, OSError):  # closed below us when the section was killed
        for line in stream:
            lines.put(line)
    lines.put(None)


def serve(names: Sequence[str], setting: Setting) -> None:
    """The process of some sections."""
    for name in names:
        begin = time.monotonic()
        try:
            SECTIONS[name].run(setting)
        except Exception:
            if name == names[-1]:
                raise
            say(FAILED, traceback.format_exc()[-900:])
        say("section_s", round(time.monotonic() - begin, 1))
        say(DONE, True)
    # Libraries may hang while they are torn down; what was found is safe already.
    timer = threading.Timer(SPARE_S / 2, os._exit, (0,))
    timer.daemon = True
    timer.start()
