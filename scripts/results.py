"""Regenerate docs/results: python scripts/results.py [runs=DIR] [train=1] [PAGE ...].

docs/results/pages.yaml names the commands of every page. Their runs are looked for below DIR
(outputs). A page whose runs are all there is made again: text between <!-- begin: NAME --> and
<!-- end --> is replaced, and all other text stays as it is. Raw values, pictures and the record of
the runs are written beside the page. For the other pages it says what is to be trained; with
train=1 it trains it.
"""

import dataclasses
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from small_png import main as shrink

from rotograd_cli.cli import main as rotograd
from rotograd_cli.commands.reproduction.cells import Cell
from rotograd_cli.commands.reproduction.reproduction import Reproduction
from rotograd_cli.commands.reproduction.settings import parse
from rotograd_cli.errors import RotogradError, hydra_value, override_value
from rotograd_cli.runs.saved import read_saved
from rotograd_cli.runs.summary import RunSummary

ROOT = Path(__file__).parents[1]
DEFAULTS = {"runs": "outputs", "train": "0", "folder": str(ROOT / "docs" / "results")}
PATHS = {"data_dir": "data", "output_dir": "outputs", "sweep_dir": "multirun"}
"""Folders of a recorded run: those that a user has by default."""
BLOCK = re.compile(r"(<!-- begin: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
Commands = Sequence[Sequence[str]]
"""Words of every command of a page."""


def main(words: Sequence[str]) -> int:
    """Say what is to be trained, and make the pages that lack nothing."""
    options = DEFAULTS | dict(word.split("=", 1) for word in words if "=" in word)
    folder = Path(options["folder"])
    pages = yaml.safe_load((folder / "pages.yaml").read_text(encoding="utf-8"))
    names = [word for word in words if "=" not in word] or list(pages)
    for name in [*(set(options) - set(DEFAULTS)), *(set(names) - set(pages))]:
        sys.exit(f"{name!r} is neither an option (runs=, train=) nor a page: {', '.join(pages)}.")
    for name in names:
        commands = [shlex.split(line) for line in pages[name]]
        if options["train"] == "1":
            train(commands, options["runs"])
        if is_complete(name, commands, options["runs"]):
            make(folder / f"{name}.md", pages[name], commands, options["runs"])
    return 0


def reproductions(commands: Commands, runs: str) -> Iterator[Sequence[str]]:
    """Yield the arguments of each ``rotograd reproduce``."""
    for words in commands:
        if words[:2] == ["rotograd", "reproduce"]:
            yield [*words[2:], f"paths.output_dir={hydra_value(runs)}"]


def is_complete(name: str, commands: Commands, runs: str, target: str = "results pages") -> bool:
    """Print what a page lacks; return whether that is nothing. ``make TARGET=NAME`` makes it."""
    num_left = 0
    for arguments in reproductions(commands, runs):
        reproduction = Reproduction(parse("reproduce", arguments))
        *_, left, hours = (entry.text for entry in reproduction.plan().rows[-1])
        missing = int(left) - sum(cell.has_failed for cell in reproduction.cells)
        print(f"{name}: table {reproduction.spec.name}, {missing} runs to train, {hours} hours")
        num_left += missing
    if num_left:
        place = "" if runs == DEFAULTS["runs"] else f" runs={shlex.quote(runs)}"
        print(f"{name}: not made again; train with  make {target}={name} train=1{place}")
    return num_left == 0


def final_runs(arguments: Sequence[str]) -> list[str]:
    """Return the folders of the runs of a table."""
    return [str(cell.run_dir) for cell in Reproduction(parse("reproduce", arguments)).final_cells]


def train(commands: Commands, runs: str) -> None:
    """Train what is missing, several runs at once. Failed runs are said and are in the tables."""
    for arguments in reproductions(commands, runs):
        rotograd(["reproduce", *arguments, "launcher=local"])


def make(page: Path, lines: Sequence[str], commands: Commands, runs: str) -> None:
    """Run a page's commands, and put what they made into it and beside it."""
    blocks = {"commands": "\n".join(["```", *lines, "```"])}
    tables = reproductions(commands, runs)
    cells: list[Cell] = []
    folders: list[str] = []
    with TemporaryDirectory() as temporary:
        made = Path(temporary)
        for words in commands:
            if words[1] == "reproduce":
                reproduction = Reproduction(parse("reproduce", next(tables)))
                blocks |= make_table(reproduction, made)
                cells += reproduction.cells
                folders = [str(cell.run_dir) for cell in reproduction.final_cells]
            elif words[1] == "plot":
                make_figure(words, runs, folders, made, page.stem)
            else:
                script = [sys.executable, str(ROOT / words[1]), *folders]
                result = subprocess.run(script, capture_output=True, text=True, check=True)
                blocks[f"{Path(words[1]).stem}.md"] = result.stdout.strip()
        record(cells, made / f"{page.stem}_runs.tar.xz")
        fill(page, blocks)
        for file in sorted(made.glob("*.*")):
            replace(page.parent / file.name, file.read_bytes())
    print(f"{page.stem}: made again, {os.path.relpath(page)}")


def make_table(reproduction: Reproduction, made: Path) -> dict[str, str]:
    """Write the raw values of a table; return its text without the title."""
    name = reproduction.spec.name
    folder = made / name
    reproduction.config.output = str(folder)
    reproduction.write(reproduction.table())
    for source, target in (("table.csv", f"{name}.csv"), ("grid.csv", f"{name}_grid.csv")):
        if (folder / source).exists():
            (folder / source).rename(made / target)
    _, text = (folder / "table.md").read_text(encoding="utf-8").split("\n", 1)
    return {f"{name}/table.md": text.strip().replace("\n## ", "\n### ")}


def record(cells: Iterable[Cell], archive: Path) -> None:
    """Write what tables read of every run, without folders of this machine.

    Unpacked into ``paths.output_dir``, the runs count as trained.
    """
    with tarfile.open(archive, "w:xz", preset=9) as file:
        for folder in sorted({cell.run_dir for cell in cells}):
            summary = RunSummary.read(folder)
            if summary is None:
                continue
            overrides = [word for word in summary.overrides if not word.startswith("paths.")]
            content = dataclasses.replace(summary, command=[], overrides=overrides).content()
            config = {**read_saved(folder / "config.yaml"), "paths": PATHS}
            for name, text in (
                ("config.yaml", yaml.safe_dump(config, sort_keys=False)),
                ("summary.json", json.dumps(content, indent=2, allow_nan=False) + "\n"),
            ):
                member = tarfile.TarInfo(f"cells/{folder.name}/{name}")
                member.size = len(text.encode())
                file.addfile(member, io.BytesIO(text.encode()))


def make_figure(
    words: Sequence[str], runs: str, folders: Sequence[str], made: Path, page: str
) -> None:
    """Draw a figure of a table, of ``runs=RUNS`` (those of the table before it), or of none."""
    output = made / "figure"
    of_runs = f"runs={override_value(list(folders))}"
    of_table = any(word.startswith("table=") for word in words)
    place = [f"paths.output_dir={hydra_value(runs)}"] if of_table else []
    arguments = [of_runs if word == "runs=RUNS" else word for word in words[2:]]
    with redirect_stdout(sys.stderr):
        code = rotograd(["plot", *arguments, *place, f"output={hydra_value(str(output))}"])
        if code != 0:
            sys.exit(f"{shlex.join(words)} failed.")
        for file in output.glob("*.png"):
            shrink(file, made / f"{page}_{file.name}")
        for file in output.glob("*.csv"):
            file.rename(made / f"{page}_{file.name}")


def fill(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace the blocks of a page."""

    def filled(match: re.Match[str]) -> str:
        if match[2] not in blocks:
            sys.exit(f"{page}: block {match[2]!r} is not made; choose from {', '.join(blocks)}.")
        return f"{match[1]}{blocks[match[2]]}\n{match[3]}"

    replace(page, BLOCK.sub(filled, page.read_text(encoding="utf-8")).encode())


def replace(path: Path, content: bytes) -> None:
    """Write a file if it is not there with this content."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (RotogradError, OSError) as error:
        sys.exit(f"results: {error}")
