"""Measure what ``deterministic=true`` costs a training step on this machine.

python scripts/deterministic.py [--device cuda]

Steps of RotoGrad on a ResNet18 for small images with ten linear heads, with and without
deterministic kernels, in blocks that alternate in one process. Prints the ratio of the medians.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from rotograd_cli.methods import RotoGrad
from rotograd_cli.models.backbones.resnet import ResNet18
from rotograd_cli.training.seeding import set_deterministic

ROUNDS, STEPS, BATCH, TASKS = 15, 2, 16, 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    set_deterministic(True)  # sets what cuBLAS reads when it is loaded
    torch.manual_seed(0)
    backbone = ResNet18(input_shape=(3, 32, 32))
    size = backbone(torch.zeros(1, 3, 32, 32)).shape[1]
    heads = [nn.Linear(size, 1) for _ in range(TASKS)]
    model = RotoGrad(backbone, heads, size).to(device).train()
    x = torch.randn(BATCH, 3, 32, 32, device=device)

    def step() -> None:
        model.backward([y.square().mean() for y in model(x)])
        model.zero_grad()

    ratios = []
    for _ in range(ROUNDS):
        times = {}
        for enabled in (True, False):
            set_deterministic(enabled)
            step()
            _wait(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            _wait(device)
            times[enabled] = time.perf_counter() - start
        ratios.append(times[True] / times[False])
    low, *_, high = statistics.quantiles(ratios, n=10)
    print(
        f"deterministic / not, on {device}: {statistics.median(ratios):.2f} "
        f"({low:.2f} to {high:.2f}, {ROUNDS} rounds)"
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
