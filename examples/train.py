"""A whole training run in miniature: predict the action from two frames of each camera, save, resume.

    python examples/train.py PATH [--steps 50] [--checkpoint checkpoint.pt]
    torchrun --nproc-per-node 8 examples/train.py PATH --device cuda      # the same on every rank, with DDP

PATH is a LeRobot dataset; `gpuload demo` writes one to ./gpuload-demo. Run again, it goes on where the checkpoint says:
policy, optimizer, and the loader with the very next sample, on as many ranks as there are then.
"""

import argparse
import os
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

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


def join_ranks(device: str) -> str:
    """Under torchrun: the process group, and this rank's device."""
    if "RANK" not in os.environ:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--steps", type=int, default=50, help="of this run")
    parser.add_argument("--batch-size", type=int, default=16, help="of each rank")
    parser.add_argument("--device", default="cpu", help="cuda: see docs/gpu.md first")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint.pt"))
    args = parser.parse_args()

    device = join_ranks(args.device)
    meta = gpuload.LeRobotDatasetMetadata(args.path)
    cameras = [key for key in meta.camera_keys if key not in meta.depth_keys]  # depth has one channel
    windows = {key: [-1 / meta.fps, 0.0] for key in cameras}
    dataset = gpuload.LeRobotDataset(args.path, delta_timestamps=windows, return_uint8=True)
    with gpuload.Loader(dataset, args.batch_size, shuffle="block", seed=0, drop_last=True, device=device) as loader:
        if not len(loader):
            parser.error(f"{args.path} has {len(dataset)} samples, which make no batch of {args.batch_size}")
        policy: nn.Module = Policy(len(cameras), int(meta.features["action"]["shape"][0])).to(loader.device)
        optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
        if args.checkpoint.exists():
            saved = torch.load(args.checkpoint, map_location=loader.device)
            policy.load_state_dict(saved["policy"])
            optimizer.load_state_dict(saved["optimizer"])
            loader.load_state_dict(saved["loader"])
        model = DistributedDataParallel(policy) if distributed.is_initialized() else policy
        step = 0
        while step < args.steps:
            for batch in loader:
                loss = nn.functional.mse_loss(model([batch[key] for key in cameras]), batch["action"])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                step += 1
                if loader.rank == 0 and (step % 10 == 0 or step == args.steps):
                    print(f"step {step}  loss {loss.item():.4f}  waited {loader.stats.wait_s:.2f} s in all")
                if step == args.steps:
                    break
            else:
                loader.set_epoch(loader.state_dict()["epoch"] + 1)
        if loader.rank == 0:  # what is saved is the same on every rank
            states = {"policy": policy.state_dict(), "optimizer": optimizer.state_dict(), "loader": loader.state_dict()}
            torch.save(states, args.checkpoint)
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main()
