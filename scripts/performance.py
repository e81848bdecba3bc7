"""Measure the workloads of docs/performance.md with `rotograd bench`, and write its figures.

python scripts/performance.py [--device cuda] [--only linear40,channels] [--page PAGE.md]

On two CPU cores everything takes about ten minutes; nothing else should run meanwhile.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS, REFERENCE = "rotogradnorm", "reference"


@dataclass(frozen=True)
class Measurement:
    """One benchmark."""

    name: str
    """For ``--only``; several may share one."""
    overrides: tuple[str, ...]
    target: float | None = None
    """Largest acceptable ratio of RotoGradNorm to the ideal; None if there is no target."""


LARGE = ("data.num_tasks=5", "train.batch_size=1024", "data.num_train=2048")
SLOW = ("bench.rounds=3", "bench.warmup_steps=1", "bench.block_s=0", "data.num_train=512")
WITHOUT = ("bench.contenders=[ideal,vanilla,rotogradnorm]",)
FEW = ("bench.rounds=5", "bench.warmup_steps=2")  # a step of the reference takes seconds
CPU = (
    Measurement("lenet", ("workload=lenet",), 1.10),
    Measurement("lenet", ("workload=lenet", "backbone.num_features=100", *LARGE), 1.10),
    Measurement("lenet512", ("workload=lenet512",), 1.5),
    Measurement("lenet512", ("workload=lenet512", *LARGE), 1.4),
    Measurement("channels", ("workload=channels",), 1.15),
    Measurement("linear40", ("workload=linear40", *FEW), 12),
    Measurement("linear40", ("workload=linear40", "backbone.num_features=2048", *FEW), 12),
    Measurement("resnet18_40", ("workload=resnet18_40", *WITHOUT, *SLOW), 1.10),
    Measurement("lenet512", ("workload=lenet512", "bench.rotation_norm=2", *WITHOUT)),
    Measurement("lenet512", ("workload=lenet512", "method.rotation_path=general", *WITHOUT)),
    Measurement("linear40", ("workload=linear40", "bench.rotation_norm=2", *WITHOUT)),
)
GPU = (
    Measurement("celeba", ("workload=celeba",), 1.2),
    Measurement("multimnist", ("workload=lenet", "data.num_tasks=5", "compile=true"), 1.15),
    Measurement("linear40", ("workload=linear40",)),
    Measurement("channels", ("workload=channels",)),
)

MARK = "<!-- figures: written by scripts/performance.py -->\n"


def main() -> None:
    """Measure and write the page."""
    arguments = _arguments()
    text, mark, _ = arguments.page.read_text(encoding="utf-8").partition(MARK)
    chosen = GPU if arguments.device.startswith("cuda") else CPU
    names = arguments.only.split(",") if arguments.only else [m.name for m in chosen]
    common = [f"device={arguments.device}", *([] if chosen is GPU else ["bench.threads=2"])]
    done = [(m, *_measure([*m.overrides, *common])) for m in chosen if m.name in names]
    sections = [section for _, _, section in done]
    summary = _summary([(measurement, result) for measurement, result, _ in done])
    figures = "\n".join([summary, *sections])
    arguments.page.write_text(f"{text}{mark or MARK}\n{figures}", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--page", type=Path, default=Path("docs/performance.md"))
    return parser.parse_args()


def _measure(overrides: list[str]) -> tuple[dict[str, Any], str]:
    print("rotograd bench", *overrides, file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "bench"
        command = [sys.executable, "-m", "rotograd_cli", "bench", *overrides]
        subprocess.run([*command, f"hydra.run.dir={target}"], check=True, stdout=sys.stderr)
        result: dict[str, Any] = json.loads((target / "bench.json").read_text(encoding="utf-8"))
        section = (target / "bench.md").read_text(encoding="utf-8")
    return result, section.replace(f" hydra.run.dir={target}", "")


def _summary(done: list[tuple[Measurement, dict[str, Any]]]) -> str:
    heads = ["workload", "reference", "RotoGradNorm", "target", "met", "times faster", "memory"]
    rows = [heads, ["---", "---:", "---:", "---:", "---", "---:", "---"]]
    rows += [_row(measurement, result) for measurement, result in done]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return (
        "## Targets\n\nRatios to ideal, medians. Memory is the peak of a RotoGradNorm step above "
        "the ideal's, in stacks of\nrotations (K*m*m numbers) and in task gradients (K*N*d "
        "numbers).\n\n"
        f"{table}\n"
    )


def _row(measurement: Measurement, result: dict[str, Any]) -> list[str]:
    contenders = {contender["name"]: contender for contender in result["contenders"]}
    ours = contenders[OURS]
    ratio = ours["ratio_to_ideal"]["median"]
    theirs = contenders.get(REFERENCE)
    settings = result["settings"]
    size = math.prod((settings["K"], settings["N"], *settings["feature_shape"]))
    over = ours["peak_over_ideal_bytes"]
    memory = f"{ours['peak_over_ideal_stacks']:+.1f} stacks, {over / (4 * size):+.1f} gradients"
    overrides = [word for word in measurement.overrides if word not in (*SLOW, *FEW, *WITHOUT)]
    overrides = [word for word in overrides if not word.startswith("data.num_train")]
    target = measurement.target
    met = "yes" if target is not None and round(ratio, 2) <= target else "**no**"
    return [
        f"`{' '.join(overrides)}`",
        "-" if theirs is None else f"{theirs['ratio_to_ideal']['median']:.2f}",
        f"{ratio:.2f}",
        *(("-", "-") if target is None else (f"≤ {target:g}", met)),
        "-" if theirs is None else f"{theirs['step_ms']['median'] / ours['step_ms']['median']:.1f}",
        memory,
    ]


if __name__ == "__main__":
    main()
