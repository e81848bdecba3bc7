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
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from results import ROOT, Commands, final_runs, is_complete, make_figure, reproductions, train
from rich.console import Console
from rich.terminal_theme import MONOKAI

from rotograd_cli.cli import main as rotograd
from rotograd_cli.errors import RotogradError

IMAGES = ROOT / "docs" / "images"
RESULTS = ROOT / "docs" / "results"
COLUMNS = 100
MIDDLE = re.compile(r"((?:^epoch .*\n){2})(?:^epoch .*\n)+(?=^epoch )", re.MULTILINE)
WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
PARTS = "<style>#learning-curves {display: none}</style>"  # so that a picture shows the gradients
BROWSER = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=20000"]
SCHEMES = {"report.png": 1, "report-dark.png": 0}  # Chromium's number of a colour scheme


def main(words: Sequence[str]) -> int:
    """Make the pictures that lack nothing; say what the others lack."""
    options = {"runs": "outputs", "train": "0"} | dict(w.split("=", 1) for w in words if "=" in w)
    images = yaml.safe_load((IMAGES / "pictures.yaml").read_text(encoding="utf-8"))
    pages = yaml.safe_load((RESULTS / "pages.yaml").read_text(encoding="utf-8"))
    figures = {name: lines for name, lines in pages.items() if "rotograd plot" in str(lines)}
    choices = figures | images
    names = [word for word in words if "=" not in word] or list(choices)
    for name in [*(options.keys() - {"runs", "train"}), *names]:
        if name not in choices:
            sys.exit(f"{name!r} is no option (runs=, train=) and no picture: {', '.join(choices)}.")
        commands = [shlex.split(line) for line in choices[name]]
        if name == "run":
            record(commands[-1], IMAGES / "run.svg")
        elif name == "report":
            photograph(commands)
        else:
            folder = IMAGES if name in images else RESULTS
            draw(name, commands, folder, options["runs"], options["train"] == "1")
    return 0


def draw(name: str, commands: Commands, folder: Path, runs: str, trains: bool) -> None:
    """Draw the figures of a picture or of a page of results."""
    if trains:
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
    """Write the report of a run, and take pictures of it in a browser."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("report: not made again; needs chromium or google-chrome on the PATH")
        return
    for words in commands:
        if rotograd(words[1:]) != 0:
            sys.exit(f"{shlex.join(words)} failed.")
    report = Path(commands[-1][-1].removeprefix("run="), "report.html")
    text = report.read_text(encoding="utf-8").replace("</head>", f"{PARTS}</head>", 1)
    with TemporaryDirectory() as made:
        page = Path(made, "report.html")
        page.write_text(text, encoding="utf-8")
        for name, scheme in SCHEMES.items():
            look = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1000,1710"]
            command = [browser, *BROWSER, *look, f"--screenshot={IMAGES / name}", page.as_uri()]
            subprocess.run(command, check=True, capture_output=True)


def record(words: Sequence[str], target: Path) -> None:
    """Run a command and draw what it writes; of the epochs the first two and the last."""
    env = {**os.environ, "COLUMNS": str(COLUMNS)}
    written = subprocess.run(words, env=env, stdout=-1, stderr=-2, text=True, check=True).stdout
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print("$ make run", style="bold")
    console.print(MIDDLE.sub(r"\1...\n", written), markup=False, highlight=False)
    svg = WEB_FONT.sub("", console.export_svg(title="rotograd", theme=MONOKAI))
    target.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RotogradError, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"pictures: {error}")
