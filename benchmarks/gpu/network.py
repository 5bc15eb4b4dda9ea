"""A ResNet-18 in plain torch: what a training step costs beside a loader."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3x3 convolutions around which the input goes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            convolution = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.around = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        summed: Tensor = self.body(x) + self.around(x)
        return summed.relu()


def resnet18(outputs: int = 64, *, width: int = 64) -> nn.Sequential:
    """float ``[N, 3, H, W]`` -> ``[N, outputs]``; 11 million weights at width 64."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 7, 2, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = width
    for stage in range(4):
        for block in range(2):
            layers.append(Block(channels, width << stage, 2 if stage and not block else 1))
            channels = width << stage
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))


def training_step(device: torch.device, *, side: int, width: int = 64) -> Callable[[Tensor], None]:
    """A function that trains once on uint8 ``[B, T, 3, H, W]``: resized to ``side``, bf16, SGD. Returns when the step
    is queued, as a training loop does."""
    network = resnet18(width=width).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step(pictures: Tensor) -> None:
        images = pictures.flatten(0, 1).to(torch.bfloat16).div_(255)
        images = nn.functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            outputs = network(images.contiguous(memory_format=torch.channels_last))
            loss = outputs.float().square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step
