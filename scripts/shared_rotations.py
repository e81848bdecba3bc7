"""Measure what sharing whole rotations among ranks saves, and what a step exchanges.

torchrun --nproc-per-node 2 scripts/shared_rotations.py [--tasks 8] [--size 512] [--batch 64]

Steps of RotoGrad on heads that are not folded, with the rotations computed once per job and once
per rank, in blocks that alternate in the same processes. Prints the ratio of the medians.
"""

import argparse
import statistics
import time

import torch
from torch import nn

from rotograd_cli.methods import RotoGrad
from rotograd_cli.methods.rotation import plan
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.ranks.launch import joined

ROUNDS, STEPS = 12, 2


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    options = parser.parse_args()
    with joined(options.device) as ranks:
        measure(options, ranks)


def measure(options: argparse.Namespace, ranks: Ranks) -> None:
    """Alternate blocks of steps of both kinds."""
    on_cuda = options.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_cuda else torch.device("cpu")
    m = options.size
    torch.manual_seed(0)
    heads = [nn.Sequential(nn.Tanh(), nn.Linear(m, 1)) for _ in range(options.tasks)]
    model = RotoGrad(nn.Sequential(nn.Linear(32, m), nn.Tanh()), heads, m).to(device).train()
    nn.init.normal_(model.rotations.free_parameters, std=0.5 / m**0.5)  # as after some training
    ranks.attach(model, torch.zeros(1, 32))
    model.join(ranks)
    x = torch.randn(options.batch // ranks.size, 32, device=device)

    def step() -> None:
        ranks.begin_step([[True] * options.tasks], len(x))
        model.backward([y.square().mean() / ranks.size for y in model(x)])
        model.zero_grad()

    times: dict[str, list[float]] = {"shared": [], "by every rank": []}
    traffic = {}
    for _ in range(ROUNDS):
        for name, block in times.items():
            plan.SHARED_FROM = 0 if name == "shared" else 2**62
            step()
            calls, num_bytes = ranks.traffic.calls, ranks.traffic.num_bytes
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            if on_cuda:
                torch.cuda.synchronize()
            block.append((time.perf_counter() - start) / STEPS)
            traffic[name] = (ranks.traffic.calls - calls, ranks.traffic.num_bytes - num_bytes)
    if ranks.is_first:
        report(options, ranks, times, traffic)


def report(
    options: argparse.Namespace,
    ranks: Ranks,
    times: dict[str, list[float]],
    traffic: dict[str, tuple[int, int]],
) -> None:
    """Print the ratio, times and traffic."""
    ratios = [a / b for a, b in zip(*times.values(), strict=True)]
    print(
        f"{ranks.size} ranks, K = {options.tasks}, m = {options.size}, N = {options.batch}: "
        f"shared / by every rank {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    for name, block in times.items():
        calls, num_bytes = traffic[name]
        print(
            f"  {name}: {1e3 * statistics.median(block):.1f} ms a step, {calls / STEPS:.0f} "
            f"collectives of {num_bytes / STEPS / 2**20:.2f} MiB together"
        )


if __name__ == "__main__":
    main()
