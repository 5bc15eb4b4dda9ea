"""The command line: ``gpuload demo | info | check | bench | doctor | env | view``."""

import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from gpuload import ffmpeg
from gpuload.bench import Shuffle, run_bench
from gpuload.check import check_dataset
from gpuload.check_pictures import DECODE_S
from gpuload.datasets import LeRobotDataset
from gpuload.demo import run_demo
from gpuload.doctor import diagnose, version_of
from gpuload.errors import ConfigError, GpuloadError
from gpuload.info import summarize
from gpuload.sources.lerobot_root import find_root
from gpuload.view import contact_sheet


class Commands(TyperGroup):
    """Turns what goes wrong on purpose into one red line on stderr and exit code 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (GpuloadError, OSError) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            Console(stderr=True).print(f"[bold red]gpuload: {escape(text)}[/]", soft_wrap=True, highlight=False)
            raise typer.Exit(1) from error


class Mode(str, Enum):  # noqa: UP042 — typer shows the values of a str enum
    block = "block"
    global_ = "global"
    none = "none"


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="Training batches from LeRobot datasets: keyframe windows decoded once for all samples that need them.\n\n"
    "Begin with `gpuload demo`; then try `gpuload info`, `gpuload check` and `gpuload bench` on a dataset of your own.",
)

DatasetPath = Annotated[
    str,
    typer.Argument(
        metavar="PATH", help="Folder of a LeRobot dataset, which contains `meta/`, or the Hub name of a downloaded one."
    ),
]

Cameras = Annotated[
    list[str] | None, typer.Option("--camera", help="Only this camera (a feature's key); repeat it for more.")
]


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gpuload {version_of('gpuload')}")
        raise typer.Exit


def run() -> None:
    """The command ``gpuload``."""
    if torch.cuda.is_available():
        # torchcodec decodes in this process there, and the linker reads its path at process start only.
        try:
            wanted = ffmpeg.environment(os.environ)
        except OSError as error:
            typer.echo(f"gpuload: no FFmpeg for torchcodec, its links cannot be written: {error}", err=True)
        else:
            if wanted != dict(os.environ):
                wanted[ffmpeg.OF_SHELL] = os.environ.get(ffmpeg.VARIABLE, "")
                os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
    app()


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    path: Annotated[
        Path, typer.Argument(help="Where the dataset is written; one that is there already is used.")
    ] = Path("gpuload-demo"),
    episodes: Annotated[int, typer.Option(help="Episodes to write.")] = 4,
    frames: Annotated[int, typer.Option(help="Frames per episode and camera.")] = 60,
    codec: Annotated[str, typer.Option(help="Encoder: libx264, libx265, libsvtav1 or libvpx-vp9.")] = "libx264",
    gop: Annotated[int, typer.Option(help="Frames from one keyframe to the next.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 16,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `cuda:1`.")] = "auto",
) -> None:
    """Write a small two-camera dataset, load a shuffled epoch of it and show a batch.

    Prints frames per second, amplification (frames decoded per distinct frame delivered; 1.00 is ideal) and which
    backend decoded each camera and why. Saves a contact sheet of the first batch as PNG.

    Example: `gpuload demo /tmp/av1 --codec libsvtav1 --gop 2`
    """
    run_demo(
        path,
        console=Console(),
        save_sheet=contact_sheet,
        episodes=episodes,
        frames=frames,
        codec=codec,
        gop=gop,
        batch_size=batch_size,
        device=device,
    )


@app.command()
def info(path: DatasetPath, camera: Cameras = None) -> None:
    """Show what a dataset holds: episodes, cameras, codecs, GOP lengths, sizes, and what would decode it.

    A long GOP makes random access dear, since every frame from the keyframe on must be decoded: that is what block
    shuffle is for. Indexes each video once (hardly a picture is decoded); the second time is quick.

    Example: `gpuload info ~/datasets/pusht`
    """
    found = summarize(path, video_keys=camera)
    console = Console()
    console.print(f"{found.root}: {found.episodes} episodes, {found.samples:,} samples, {found.fps:g} frames/s")
    for seen in found.cameras:
        console.print(f"[bold]{escape(seen.key)}[/]", highlight=False)
        console.print(f"  video       {seen.codec}, {seen.width}x{seen.height}, {seen.pixel_format}")
        console.print(f"  stored      {seen.frames:,} frames in {seen.files} files, {seen.bytes / 1e6:.1f} MB")
        console.print(f"  GOP length  {seen.gop_min} to {seen.gop_max} frames, median {seen.gop_median}")
        console.print(f"  decoded by  {seen.decoder}")
    for key in found.absent:
        console.print(
            f"[bold]{escape(key)}[/]\n  no files    choose others (--camera, video_keys=), or fetch them",
            highlight=False,
        )
    columns = Table("feature", "dtype", "shape")
    for key, dtype, shape in found.columns:
        columns.add_row(key, dtype, "x".join(map(str, shape)) or "1")
    console.print(columns)


@contextmanager
def _progress(noun: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, gone at the end; what it gives is called with how many are done of how many."""
    columns = (TextColumn(noun), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, refresh_per_second=4, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(noun, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@app.command()
def check(
    path: DatasetPath,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every picture, however long it takes.")] = False,
    decode_seconds: Annotated[
        float, typer.Option(help="How long to decode pictures, a part of every file after the other; 0: not at all.")
    ] = DECODE_S,
) -> None:
    """Look for everything that is wrong with a dataset: all findings at once, each with what to do.

    Missing and truncated files, timestamps without a frame, videos without keyframes, pictures that cannot be decoded,
    index mismatches, and metadata that lies about fps, size, codec or counts. The last line says how many pictures
    there was no time for. Exit code 1 if there is an error; warnings alone leave it 0.

    Example: `gpuload check ~/datasets/pusht --deep && python train.py`
    """
    root = Path(path) if Path(path).exists() else find_root(path)
    decoded = {"done": 0, "total": 0}
    with _progress("pictures") as show:

        def report(done: int, total: int) -> None:
            decoded.update(done=done, total=total)
            show(done, total)

        found = check_dataset(root, decode_s=math.inf if deep else decode_seconds, report=report)
    alike: dict[tuple[str, str, str], list[str]] = {}
    for finding in found:
        alike.setdefault((finding.severity, finding.message, finding.remedy), []).append(finding.file)
    for (severity, message, remedy), files in alike.items():
        label = typer.style(severity, fg="red" if severity == "error" else "yellow", bold=True)
        more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
        typer.echo(f"{label}  {files[0]}{more}: {message}\n       {remedy}")
    errors = sum(finding.severity == "error" for finding in found)
    counts = f"{_counted(errors, 'error')}, {_counted(len(found) - errors, 'warning')}"
    left = decoded["total"] - decoded["done"]
    more = f"; {left:,} of {decoded['total']:,} pictures were not decoded (--deep decodes all)" if left else ""
    typer.echo(f"{path}: {counts if found else 'nothing wrong found'}{more}")
    if errors:
        raise typer.Exit(1)


@app.command()
def bench(
    path: DatasetPath,
    batches: Annotated[int | None, typer.Option(help="Stop after so many batches; without it, one epoch.")] = None,
    batch_size: Annotated[int, typer.Option(help="Samples per batch.")] = 32,
    window: Annotated[int, typer.Option(help="Consecutive frames per sample and camera.")] = 2,
    shuffle: Annotated[Mode, typer.Option(help="Order of the samples.")] = Mode.block,
    seed: Annotated[int, typer.Option(help="Same seed, same order.")] = 0,
    num_threads: Annotated[int | None, typer.Option(help="Decode workers; without it, what the machine has.")] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda` or `cuda:1`.")] = "auto",
    backend: Annotated[str, typer.Option(help="`auto`, `pyav`, `torchcodec`, `torchcodec-rgb` or `dali`.")] = "auto",
    camera: Cameras = None,
) -> None:
    """Measure how fast a dataset loads here, with a training loop that does nothing else.

    The wait is what `next()` of the loader's iterator took: p95 far above p50 means that batches come in bursts. If the
    rate is above what your model consumes, the loader is not the bottleneck.

    Example: `gpuload bench ~/datasets/pusht --batches 200 --shuffle global`
    """
    modes: dict[Mode, Shuffle] = {Mode.block: "block", Mode.global_: "global", Mode.none: False}
    with _progress("batches") as report:
        found = run_bench(
            path,
            batches=batches,
            batch_size=batch_size,
            window=window,
            shuffle=modes[shuffle],
            seed=seed,
            num_threads=num_threads,
            device=device,
            backend=backend,
            video_keys=camera,
            report=report,
        )
    typer.echo(f"rate           {found.frames_per_s:,.0f} frames/s ({found.frames:,} in {found.elapsed_s:.2f} s)")
    typer.echo(f"first batch    {found.first_s * 1e3:.0f} ms")
    typer.echo(f"wait           p50 {found.wait_p50_s * 1e3:.1f} ms, p95 {found.wait_p95_s * 1e3:.1f} ms")
    typer.echo(f"amplification  {found.amplification:.2f} (frames decoded per distinct frame delivered)")
    typer.echo(f"read           {found.bytes_read / 1e6:.1f} MB")
    for key, (name, reason) in found.backends.items():
        typer.echo(f"backend        {key}: {name} ({reason})")


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


@app.command()
def doctor() -> None:
    """Explain what gpuload finds on this machine, for a bug report or when something is slower than it should be.

    Lists libraries and versions, devices, the FFmpeg (libavcodec) that each library loads, and why each decode backend
    can or cannot be used. Takes a few seconds: each library is tried in a process of its own.

    Example: `gpuload doctor > doctor.txt`
    """
    found = diagnose()
    typer.echo(f"system    {found.system}, {found.cores} cores")
    for library, version in found.versions:
        typer.echo(f"library   {library} {version}")
    for device, text in found.devices:
        typer.echo(f"device    {device}: {text}")
    typer.echo(f"convert   {found.converter}")
    for backend in found.backends:
        typer.echo(f"backend   {backend.name}: {'usable' if backend.usable else 'not usable'}: {backend.reason}")
        for library in backend.libavcodec:
            typer.echo(f"            FFmpeg: {library}")
        if backend.in_scripts:
            typer.echo(f"            {backend.in_scripts}")


@app.command()
def env() -> None:
    """Print what a shell needs so that torchcodec finds the FFmpeg of PyAV's wheel, for your own scripts on a GPU.

    The commands of gpuload need none of it. Nothing is printed where there is nothing to share.

    Example: `eval "$(gpuload env)"`
    """
    path = ffmpeg.environment(os.environ).get(ffmpeg.VARIABLE, "")
    if path != os.environ.get(ffmpeg.VARIABLE, ""):
        typer.echo(f"export {ffmpeg.VARIABLE}={shlex.quote(path)}")


@app.command()
def view(
    path: DatasetPath,
    out: Annotated[Path, typer.Option(help="Where the PNG goes.")] = Path("contact_sheet.png"),
    samples: Annotated[int, typer.Option(min=1, max=64, help="Samples to show, spread evenly over the dataset.")] = 8,
    camera: Cameras = None,
) -> None:
    """Save a contact sheet: a row per sample, a column per camera.

    Example: `gpuload view ~/datasets/pusht --samples 12 --out sheet.png`
    """
    dataset = LeRobotDataset(path, return_uint8=True, video_keys=camera)
    cameras = list(dataset.meta.camera_keys)
    if not cameras or not len(dataset):
        raise ConfigError(f"{path}: nothing to view, the dataset has {len(cameras)} cameras and {len(dataset)} samples")
    rows = [dataset[i * len(dataset) // samples] for i in range(samples)]
    images = {key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in cameras}
    typer.echo(f"contact sheet  {contact_sheet(images, out, max_samples=samples)}")
