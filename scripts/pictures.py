"""Make the pictures of the documentation: python scripts/pictures.py [runs=DIR train=1 NAME ...].

docs/images/pictures.yaml names the commands of every picture; the figures of docs/results are drawn
too, from the commands of its pages.yaml. Runs are looked for below DIR (outputs). What is to be
trained first is said, and trained with train=1; such a picture stays as it is until then.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from results import ROOT, Commands, final_runs, is_complete, make_figure, reproductions, train
from rich.console import Console
from rich.terminal_theme import MONOKAI
from small_png import main as shrink

from rotograd_cli.cli import main as rotograd
from rotograd_cli.errors import RotogradError

IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "docs" / "results"
COLUMNS = 100
WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
SCHEMES = {"report.png": 1, "report-dark.png": 0}
"""Chromium's number of a colour scheme, by picture."""


def main(words: Sequence[str]) -> int:
    """Make the pictures that lack nothing; say what the others lack."""
    options = {"runs": "outputs", "train": "0"} | dict(w.split("=", 1) for w in words if "=" in w)
    images = yaml.safe_load((IMAGES / "pictures.yaml").read_text(encoding="utf-8"))
    pages = yaml.safe_load((RESULTS / "pages.yaml").read_text(encoding="utf-8"))
    for name in [word for word in words if "=" not in word] or [*images, *pages]:
        if name not in images | pages:
            sys.exit(f"{name!r} is no picture: choose from {', '.join([*images, *pages])}.")
        commands = [shlex.split(line) for line in (images | pages)[name]]
        if name == "run":
            record(commands[-1], IMAGES / "run.svg")
        elif name == "report":
            photograph(commands)
        else:
            draw(name, commands, IMAGES if name in images else RESULTS, options)
    return 0


def draw(name: str, commands: Commands, folder: Path, options: Mapping[str, str]) -> None:
    """Draw the figures of a picture or of a page of results."""
    runs = options["runs"]
    if options["train"] == "1":
        train(commands, runs)
    if not is_complete(name, commands, runs, "pictures names"):
        return
    folders = [run for arguments in reproductions(commands, runs) for run in final_runs(arguments)]
    with TemporaryDirectory() as made:
        for words in commands:
            if words[1] == "plot":
                make_figure(words, runs, folders, Path(made), name)
        for file in Path(made).glob("*.png"):
            shutil.copyfile(file, folder / file.name.replace(f"{name}_{name}", name))


def photograph(commands: Commands) -> None:
    """Write the report of a run, and take its picture in a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("report: not made again; needs chromium or google-chrome on the PATH")
        return
    for words in commands:
        if rotograd(words[1:]) != 0:
            sys.exit(f"{shlex.join(words)} failed.")
    page = Path(commands[-1][-1].removeprefix("run="), "report.html").resolve().as_uri()
    options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]
    for name, scheme in SCHEMES.items():
        look = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1000,1750"]
        shot = [f"--screenshot={IMAGES / name}", page]
        subprocess.run([browser, *options, *look, *shot], check=True, capture_output=True)
        shrink(IMAGES / name, IMAGES / name)


def record(words: Sequence[str], target: Path) -> None:
    """Run a command and draw what it writes; of the epochs the first two and the last."""
    environment = {**os.environ, "COLUMNS": str(COLUMNS)}
    result = subprocess.run(
        words, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True, check=True
    )
    epochs = re.compile(r"((?:^epoch .*\n){2})(?:^epoch .*\n)+(?=^epoch )", re.MULTILINE)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print("$ make run", style="bold")
    console.print(epochs.sub(r"\1...\n", result.stdout), markup=False, highlight=False)
    svg = WEB_FONT.sub("", console.export_svg(title="rotograd", theme=MONOKAI))
    target.write_text(svg, encoding="utf-8")
    print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RotogradError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"pictures: {error}")
