"""Measure what steps, checkpoints and a start cost, beside the targets of scripts/targets.yaml.

python scripts/performance.py [--device cuda] [--only default,lenet] [--check | --render]

Writes docs/performance.md, and every table in full to docs/performance/. --check only prints the
targets and whether they are met; --render writes the pages again without measuring. On two CPU
cores everything takes about fourteen minutes; nothing else should run meanwhile.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from rotograd_cli.printing.grid import Grid, print_grid

TARGETS = Path(__file__).with_name("targets.yaml")
DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}
COSTS = {
    "vanilla": "Vanilla",
    "rotograd": "RotoGrad",
    "rotogradnorm": "RotoGradNorm",
    "reference": "the authors' package",
}
QUANTITIES = {
    "vanilla": "step of Vanilla, times the plain loop's",
    "rotograd": "step of RotoGrad, times the plain loop's",
    "rotogradnorm": "step of RotoGradNorm, times the plain loop's",
    "speedup": "times faster than the authors' package (RotoGradNorm)",
    "memory": "peak memory of a RotoGrad step, times Vanilla's",
    "seconds": "CPU seconds of two steps of training, from start to end",
    "last.pt": "GB of last.pt",
    "best.pt": "GB of best.pt",
    "both": "GB written in an epoch that is the best so far",
}
"""Names of targets.yaml, for readers."""
DOCS = Path(__file__).parents[1] / "docs" / "performance"
BEGIN = "<!-- written by scripts/performance.py -->"
END = "<!-- end of what scripts/performance.py wrote -->"
REPEATS = 3
"""Starts of a command whose median CPU time counts."""


@dataclass(frozen=True)
class Row:
    """One command, and what is asked of it; ``targets.yaml`` says what the fields mean."""

    name: str
    what: str
    command: str
    measure: str = "bench"
    at_most: Mapping[str, float] = field(default_factory=dict)
    at_least: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """What came out."""

    values: Mapping[str, float]
    """By the names of ``targets.yaml``: contenders, ``memory``, ``speedup`` and so on."""
    section: str = ""
    """Markdown with all figures of a benchmark."""


def read_rows(device: str) -> list[Row]:
    """Return the rows of a kind of device."""
    content = yaml.safe_load(TARGETS.read_text(encoding="utf-8"))
    return [Row(name, **options) for name, options in content[device].items()]


# ---- measuring


def measure(row: Row, device: str) -> Measured:
    """Run the command of a row."""
    return MEASURES[row.measure]([*shlex.split(row.command), f"device={device}"])


def _bench(words: list[str]) -> Measured:
    threads = ["bench.threads=2"] if words[-1] == "device=cpu" else []
    with tempfile.TemporaryDirectory() as folder:
        _run([*words, *threads], folder)
        result = json.loads((Path(folder) / "bench.json").read_text(encoding="utf-8"))
        section = (Path(folder) / "bench.md").read_text(encoding="utf-8")
    return Measured(values_of(result), section.replace(f" hydra.run.dir={folder}", ""))


def values_of(result: Mapping[str, Any]) -> dict[str, float]:
    """Return the ratios of a benchmark that targets are about."""
    contenders = {contender["name"]: contender for contender in result["contenders"]}
    values = {name: c["ratio"]["median"] for name, c in contenders.items() if c["ratio"]}
    if {"reference", "rotogradnorm"} <= values.keys():
        values["speedup"] = values["reference"] / values["rotogradnorm"]
    if {"vanilla", "rotograd"} <= contenders.keys():
        peaks = [contenders[name]["peak_bytes"] for name in ("rotograd", "vanilla")]
        values["memory"] = peaks[0] / peaks[1]
    return values


def _cpu_s(words: list[str]) -> Measured:
    def seconds() -> float:
        before = os.times()
        with tempfile.TemporaryDirectory() as folder:
            _run(words, folder)
        after = os.times()
        pairs = zip(after[2:4], before[2:4], strict=True)  # of children: user and system
        return sum(now - then for now, then in pairs)

    return Measured({"seconds": statistics.median(seconds() for _ in range(REPEATS))})


def _files_gb(words: list[str]) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        _run(words, folder)
        files = (Path(folder) / "checkpoints").glob("*.pt")
        sizes = {path.name: path.stat().st_size / 1e9 for path in files}
    return Measured({**sizes, "both": sizes["last.pt"] + sizes["best.pt"]})


MEASURES = {"bench": _bench, "cpu_s": _cpu_s, "files_gb": _files_gb}


def _run(words: list[str], folder: str) -> None:
    command = [sys.executable, "-m", "rotograd_cli", *words, f"hydra.run.dir={folder}"]
    subprocess.run(command, check=True, stdout=sys.stderr)


# ---- tables


def targets(rows: Iterable[Row], values: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return a line per target; what has not been measured has a dash."""
    lines = []
    for row in rows:
        for sign, bounds in (("≤", row.at_most), ("≥", row.at_least)):
            for name, bound in bounds.items():
                value = values.get(row.name, {}).get(name)
                lines.append(
                    [
                        row.name,
                        QUANTITIES[name],
                        f"{sign} {bound:g}",
                        "-" if value is None else f"{value:.3g}",
                        _verdict(value, bound, sign, row.note),
                    ]
                )
    return Grid.of_texts(["row", "quantity", "target", "measured", ""], lines, labels=2)


def _verdict(value: float | None, bound: float, sign: str, note: str) -> str:
    if value is None:
        return "not measured"
    is_met = round(value, 2) <= bound if sign == "≤" else value >= bound
    if is_met:
        return "met"
    return f"not met ({note})" if note else "not met"


def costs(rows: Iterable[Row], values: Mapping[str, Mapping[str, float]]) -> Grid:
    """Return a line per benchmark: a step's time over that of the plain loop."""
    lines = [
        [row.name, row.what, *(_ratio(values.get(row.name, {}).get(name)) for name in COSTS)]
        for row in rows
        if row.measure == "bench"
    ]
    return Grid.of_texts(["row", "what", *COSTS.values()], lines, labels=2)


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


# ---- pages


@dataclass
class Pages:
    """The page, and the folder beside it with what was measured.

    Args:
        page: The page; what is between two marks is replaced.
    """

    page: Path

    def read(self, device: str) -> dict[str, Any]:
        """Return what has been measured on a kind of device, by row."""
        for folder in (self._folder, DOCS):  # a page elsewhere keeps what it does not measure
            path = folder / f"{device}.json"
            if path.exists():
                content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                return content
        return {}

    def add(self, device: str, row: Row, measured: Measured) -> None:
        """Keep what a row came to, and write the page."""
        self._folder.mkdir(exist_ok=True)
        content = self.read(device)
        content[row.name] = {
            "date": date.today().isoformat(),
            "values": {name: round(value, 4) for name, value in measured.values.items()},
        }
        text = json.dumps(content, indent=1) + "\n"
        (self._folder / f"{device}.json").write_text(text, encoding="utf-8")
        if measured.section:
            self._add_section(device, row.name, measured.section)
        self.render()

    def _add_section(self, device: str, name: str, section: str) -> None:
        path = self._folder / f"{device}.md"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        parts = re.split(r"^<!-- (\S+) -->\n", text, flags=re.MULTILINE)[1:]
        sections = dict(zip(parts[::2], parts[1::2], strict=True)) | {name: section + "\n"}
        ordered = [row.name for row in read_rows(device) if row.name in sections]
        body = "".join(f"<!-- {each} -->\n{sections[each]}" for each in ordered)
        title = f"# All figures on {DEVICES[device]}\n\n"
        path.write_text(title + body.rstrip() + "\n", encoding="utf-8")

    def render(self) -> None:
        """Write the tables of the page again."""
        text = self.page.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        parts = [before, BEGIN, "\n\n", self.tables(), "\n\n", END, after]
        self.page.write_text("".join(parts), encoding="utf-8")

    def tables(self) -> str:
        """Return what each workload costs, and the targets, in Markdown."""
        measured = {device: self.read(device) for device in DEVICES}
        return "\n\n".join(
            [
                *("## What costs what", *self._of_devices(costs, measured)),
                *("## Targets", *self._of_devices(targets, measured)),
            ]
        )

    def _of_devices(self, table: Any, measured: Mapping[str, Any]) -> Iterable[str]:
        for device, rows in measured.items():
            yield f"### On {DEVICES[device]}"
            if not rows:
                yield f"Not measured yet: `python scripts/performance.py --device {device}` does."
                continue
            values = {name: row["values"] for name, row in rows.items()}
            dates = sorted({row["date"] for row in rows.values()})
            when = " to ".join(dates[:: max(len(dates) - 1, 1)])
            yield f"Measured {when}; [all figures]({self._folder.name}/{device}.md)."
            yield table(read_rows(device), values).markdown()

    @property
    def _folder(self) -> Path:
        return self.page.with_suffix("")


def main() -> None:
    """Measure, and write the pages or print the targets."""
    arguments = _arguments()
    pages = Pages(arguments.page)
    if arguments.render:
        pages.render()
        return
    device = arguments.device.partition(":")[0]
    values = {}
    for row in arguments.rows:
        print("\nrotograd", row.command, file=sys.stderr)
        try:
            measured = measure(row, arguments.device)
        except subprocess.CalledProcessError as error:
            print(f"{row.name} is left out: exit code {error.returncode}.", file=sys.stderr)
            continue
        values[row.name] = measured.values
        if not arguments.check:  # at once: a run that is cut short keeps what it has
            pages.add(device, row, measured)
    print_grid(targets(arguments.rows, values))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--only", default="", help="names of rows in targets.yaml, with commas")
    parser.add_argument("--check", action="store_true", help="print the targets, write nothing")
    parser.add_argument("--render", action="store_true", help="write the pages without measuring")
    parser.add_argument("--page", type=Path, default=DOCS.with_suffix(".md"))
    arguments = parser.parse_args()
    rows = {row.name: row for row in read_rows(arguments.device.partition(":")[0])}
    names = arguments.only.split(",") if arguments.only else list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        parser.error(f"--only must name rows among {', '.join(rows)}, got {', '.join(unknown)}")
    arguments.rows = [rows[name] for name in names]
    return arguments


if __name__ == "__main__":
    main()
