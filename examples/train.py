"""A whole training run in miniature: predict the action from two frames of each camera, save, resume.

    python examples/train.py PATH [--steps 50]

PATH is a LeRobot dataset; `gpuload demo` writes one to ./gpuload-demo.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

import gpuload


class Policy(nn.Module):
    """A small convolution a camera, averaged over space."""

    def __init__(self, num_cameras: int, num_actions: int) -> None:
        super().__init__()
        self.eyes = nn.ModuleList(
            nn.Sequential(nn.Conv2d(6, 16, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            for _ in range(num_cameras)
        )
        self.head = nn.Linear(16 * num_cameras, num_actions)

    def forward(self, views: list[torch.Tensor]) -> torch.Tensor:
        """``views``: ``[B, 2, 3, H, W]`` of each camera, uint8 or in [0, 1]; gives ``[B, num_actions]``."""
        scaled = [view.float() / 255 if view.dtype == torch.uint8 else view for view in views]  # images are float32
        seen = [eye(view.flatten(1, 2)) for eye, view in zip(self.eyes, scaled, strict=True)]
        out: torch.Tensor = self.head(torch.cat(seen, dim=1))
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--checkpoint", type=Path, default=Path("loader.json"))
    args = parser.parse_args()

    meta = gpuload.LeRobotDataset(args.path).meta
    cameras = list(meta.camera_keys)
    windows = {key: [-1 / meta.fps, 0.0] for key in cameras}
    dataset = gpuload.LeRobotDataset(args.path, delta_timestamps=windows, return_uint8=True)
    with gpuload.Loader(dataset, batch_size=16, shuffle="block", seed=0, drop_last=True) as loader:
        if args.checkpoint.exists():
            loader.load_state_dict(json.loads(args.checkpoint.read_text()))
        policy = Policy(len(cameras), int(meta.features["action"]["shape"][0]))
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
        step = 0
        while step < args.steps:
            for batch in loader:
                loss = nn.functional.mse_loss(policy([batch[key] for key in cameras]), batch["action"])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                step += 1
                if step % 10 == 0 or step == args.steps:
                    print(f"step {step}  loss {loss.item():.4f}  waited {loader.stats.wait_s:.2f} s in all")
                if step == args.steps:
                    break
            else:
                loader.set_epoch(loader.state_dict()["epoch"] + 1)
        args.checkpoint.write_text(json.dumps(loader.state_dict()))


if __name__ == "__main__":
    main()
