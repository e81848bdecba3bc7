"""Measure step time and memory beside plain autograd and the authors' package.

usage: rotograd bench [workload=NAME] [GROUP=NAME ...] [KEY=VALUE ...] [--cfg job]

Times a training step by plain autograd on the summed losses (ideal; bare: head by head), by the
methods as rotograd train takes it, and by the authors' package if it is installed
(pip install rotograd==0.1.6.0). All get identical networks, batches and rotations, and run in
blocks that are interleaved in random order. It takes everything that rotograd train takes;
method.KEY=VALUE holds for every contender that has the key.

keys, with examples (rotograd bench --cfg job prints all of them with their values):
  bench.contenders=[ideal,vanilla,rotograd,reference]  ideal, bare, reference and names of methods
  bench.rounds=15  bench.block_s=0.3  bench.max_steps_per_block=100  bench.warmup_steps=5
  bench.threads=2  bench.dtype=float32|float64|bfloat16  compile=true
  bench.rotation_norm=0.5  bench.gaussian_rotations=true  bench.optimizers=true  bench.name=mine
  device=auto|cpu|cuda|cuda:i  data.num_tasks=5  method.rotation_shape=256
  backbone.num_features=512  train.batch_size=1024  seed=0

Examples:
  rotograd bench workload=default
  rotograd bench workload=linear40 backbone.num_features=2048
  rotograd bench experiment=multimnist device=cuda bench.dtype=bfloat16
  rotograd bench --config-dir DIR data=mine backbone=mine

Prints a table; bench.json, bench.md and config.yaml go to outputs/bench/<name>/<time>/.
"""

import os
import sys
from typing import TYPE_CHECKING

from rotograd_cli.commands import TRAINING_GROUPS, run_by_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig

# what debug has is for training: fewer epochs, and debug=nonfinite for a run that failed
GROUPS = ("workload", *(group for group in TRAINING_GROUPS if group != "debug"))


def _bench(config: "DictConfig") -> None:
    import shlex
    from dataclasses import asdict
    from pathlib import Path

    from hydra.core.hydra_config import HydraConfig

    # the profiler's notes on the terminal; both are read when torch is loaded
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from rotograd_cli.bench.report import grid, note, write
    from rotograd_cli.bench.run import bench
    from rotograd_cli.config.schema import to_bench_config
    from rotograd_cli.printing.grid import print_grid

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    typed = to_bench_config(config)
    command = " ".join([sys.argv[0], shlex.join(sys.argv[1:])]).strip()
    result = bench(typed, command, lambda line: print(line, file=sys.stderr))
    write(result, asdict(typed), run_dir)
    print_grid(grid(result))
    print(note(result))
    print(f"Bench directory: {os.path.relpath(run_dir)}")


run = run_by_hydra("bench", _bench)
