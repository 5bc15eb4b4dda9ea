"""Contact sheets: what a batch looks like, as one PNG."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from gpuload.errors import ConfigError

LABEL_HEIGHT = 14
GAP = 4
INK, PAPER = (230, 230, 230), (24, 24, 28)


def contact_sheet(
    images: Mapping[str, torch.Tensor], path: Path, *, max_samples: int = 8, tile_width: int = 192
) -> Path:
    """Images uint8 or float32 in [0, 1], ``[B, T, C, H, W]`` or ``[B, C, H, W]``, as one labelled PNG; gives ``path``.

    A row is a sample, a column a key at one offset ``t``; each tile says which. C is 1 or 3.

    Raises:
        ConfigError: there is nothing to show, or a tensor is no batch of pictures.
    """
    columns = [
        (key, t, batch[:, t])
        for key, value in images.items()
        for batch in [windows(key, value)]
        for t in range(batch.shape[1])
    ]
    num_rows = min([max_samples, *(len(column) for _, _, column in columns)])
    if not columns or num_rows < 1:
        raise ConfigError("no pictures to put on a contact sheet: the batch is empty or has no camera")
    heights = [max(1, round(tile_width * column.shape[-2] / column.shape[-1])) for _, _, column in columns]
    row_height = max(heights) + LABEL_HEIGHT + GAP
    sheet = Image.new("RGB", (GAP + len(columns) * (tile_width + GAP), GAP + num_rows * row_height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, (key, t, column) in enumerate(columns):
        x = GAP + i * (tile_width + GAP)
        for sample in range(num_rows):
            y = GAP + sample * row_height
            draw.text((x, y), fit(f"{key} [{sample}, t={t}]", draw, font, width=tile_width), fill=INK, font=font)
            tile = picture(column[sample]).resize((tile_width, heights[i]), Image.Resampling.BILINEAR)
            sheet.paste(tile, (x, y + LABEL_HEIGHT))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def windows(key: str, value: torch.Tensor) -> torch.Tensor:
    """``[B, T, C, H, W]`` on the CPU, whatever came in."""
    if value.ndim not in (4, 5) or value.shape[-3] not in (1, 3):
        raise ConfigError(f"{key}: expected pictures [B, T, C, H, W] or [B, C, H, W], got shape {list(value.shape)}")
    return (value if value.ndim == 5 else value[:, None]).cpu()


def picture(value: torch.Tensor) -> Image.Image:
    """RGB image of uint8 or float32 ``[C, H, W]``."""
    if value.is_floating_point():
        top = max(1.0, float(value.max()))  # depth is in units of its own: show it relative to the farthest point
        value = (value.clamp(min=0) / top * 255).round().to(torch.uint8)
    rgb = value.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(rgb)


def fit(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, *, width: int) -> str:
    """``text``, shortened at the front until it is at most ``width`` pixels wide."""
    if draw.textlength(text, font=font) <= width:
        return text
    while len(text) > 1 and draw.textlength(f"…{text}", font=font) > width:
        text = text[1:]
    return f"…{text}"
