"""A table of fake runs: its numbers, and its five forms."""

import csv
import dataclasses
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rotograd_cli.commands.table import print_results
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.printing.grid import Entry, Grid, fitting
from rotograd_cli.printing.latex import escape_latex
from rotograd_cli.tables.delta import NASH_BASE
from rotograd_cli.tables.formats import (
    difference_grid,
    grids,
    sentences,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    value_grid,
    write_table,
)
from rotograd_cli.tables.latex import Layout, floats, to_input
from rotograd_cli.tables.parts import Detail, Table
from rotograd_cli.tables.results import Results, SeedResult
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.spec import TableSpec
from rotograd_cli.tables.table import build_table
from tests.fake_runs import collected, fake_run, fake_summary, to_table_spec

SEEDS = 10
LEFT = {"vanilla": 0.5, "better": 0.6, "a_b": 0.55}


def make_spec(**others: Any) -> TableSpec:
    return to_table_spec(
        {
            "name": "toy",
            "title": "Toy & co",
            "tasks": ["left", "sum"],
            "seeds": SEEDS,
            "base": "single",
            "delta": "paper",
            "rows": {
                "single": {"label": "Single", "per_task": True, "shown": True},
                "vanilla": {"label": "Vanilla", "shown": True},
                "better": {"label": "Better", "shown": True},
                "a_b": {"label": "A_b 100 %", "shown": True},
            },
            "columns": {
                "gain": {"label": "gain Δ", "delta_of": ["left", "sum"]},
                "left": {"label": "left accuracy", "metric": "left/accuracy"},
                "sum": {"label": "sum mse", "metric": "sum/mse", "digits": 3},
                "hours": {"hours": True},
            },
            "paper": {
                "source": "a paper",
                "rows": {"vanilla": {"gain": [-2.51, 3.01]}, "better": {"gain": [2.12, None, "*"]}},
                "notes": ["* may be swapped."],
            },
            **others,
        }
    )


def make_runs(**others: Any) -> dict[RunKey, dict[str, Any] | None]:
    runs: dict[RunKey, dict[str, Any] | None] = {}
    for seed in range(SEEDS):
        for row, left in LEFT.items():
            noise = ((7 * seed) % 10) / 1000
            metrics = {"left/accuracy": left + noise, "sum/mse": 2.0 + (seed % 3) / 10}
            runs[RunKey(row, seed)] = fake_summary(metrics, seed, **others)
        runs[RunKey("single", seed, "left")] = fake_summary({"left/accuracy": 0.5}, seed)
        runs[RunKey("single", seed, "sum")] = fake_summary({"sum/mse": 2.0}, seed)
    return runs


def make_table(spec: TableSpec | None = None, runs: Any = None, **options: Any) -> Table:
    spec = spec or make_spec()
    return build_table(spec, collected(spec, make_runs() if runs is None else runs), **options)


def cell(table: Table, row: str, column: str) -> Any:
    return next(r for r in table.rows if r.name == row).cells[column]


# -- numbers -----------------------------------------------------------------------------------


def test_cells_hold_every_seed_in_the_columns_unit() -> None:
    found = cell(make_table(), "better", "left")
    values = [100 * (0.6 + ((7 * seed) % 10) / 1000) for seed in range(SEEDS)]
    assert found.values == pytest.approx(dict(enumerate(values)))
    assert found.centre == pytest.approx(statistics.median(values))
    assert found.spread == pytest.approx(statistics.stdev(values))
    assert cell(make_table(statistic="mean_std"), "better", "left").centre == pytest.approx(60.45)


def test_gains_are_per_seed_and_hours_are_summed_over_the_runs_of_a_seed() -> None:
    table = make_table()
    expected = [
        50 * ((0.6 + ((7 * s) % 10) / 1000) / 0.5 - 1 - ((s % 3) / 10) / 2.0) for s in range(SEEDS)
    ]
    assert cell(table, "better", "gain").values == pytest.approx(dict(enumerate(expected)))
    assert cell(table, "single", "gain").values == {}
    assert cell(table, "single", "hours").centre == 1.0  # two runs of half an hour
    assert cell(table, "vanilla", "hours").centre == 0.5


def test_the_best_rows_are_ranked_without_the_single_task_networks() -> None:
    table = make_table()
    assert {r.name: r.cells["left"].rank for r in table.rows} == {
        "single": None,
        "vanilla": None,
        "better": 1,
        "a_b": 2,
    }
    assert cell(table, "single", "sum").centre == min(r.cells["sum"].centre for r in table.rows)
    assert all(r.cells["hours"].rank is None for r in table.rows)


def test_rows_are_compared_with_the_reference_and_corrected() -> None:
    table = make_table()
    assert table.compare_with == "Vanilla"
    assert cell(table, "vanilla", "left").difference is None
    found = cell(table, "better", "left").difference
    assert found.mean == pytest.approx(10.0)
    assert found.num_seeds == SEEDS
    assert found.p == pytest.approx(2 / 2**SEEDS)
    assert found.p_holm == pytest.approx(3 * 2 / 2**SEEDS)  # three rows beside the reference
    same = cell(table, "better", "sum").difference
    assert (same.mean, same.p, same.p_holm) == (0.0, 1.0, 1.0)
    assert cell(table, "better", "gain").difference.p_holm == pytest.approx(2 * 2 / 2**SEEDS)
    assert cell(table, "better", "hours").difference is None


def test_without_a_reference_nothing_is_compared() -> None:
    table = make_table(make_spec(compare_with=None))
    assert table.compare_with is None
    assert all(c.difference is None for row in table.rows for c in row.cells.values())
    assert not any("Difference" in note for note in table.footnotes)


def test_a_row_with_missing_seeds_is_marked_and_not_ranked() -> None:
    runs = make_runs()
    runs[RunKey("better", 3)] = None
    runs[RunKey("better", 4)] = {"status": "failed"}
    table = make_table(runs=runs)
    row = next(r for r in table.rows if r.name == "better")
    assert (row.num_seeds, row.missing) == (8, {3: "no run", 4: "failed"})
    assert row.cells["left"].rank is None
    assert cell(table, "a_b", "left").rank == 1
    assert row.cells["left"].difference.num_seeds == 8
    label = value_grid(table).rows[2][0].text
    assert label == "Better (8 of 10 seeds)"
    assert "Incomplete: Better, 8 of 10 seeds (seed 3: no run; seed 4: failed)." in table.footnotes


def test_a_base_that_lacks_a_task_costs_the_gain_and_nothing_else() -> None:
    runs = make_runs()
    runs[RunKey("single", 2, "sum")] = {"status": "running"}
    table = make_table(runs=runs)
    assert 2 not in cell(table, "better", "gain").values
    assert cell(table, "better", "gain").note == "9 of 10 seeds"
    assert cell(table, "better", "left").note is None
    assert any("Single, 9 of 10 seeds (seed 2: sum: not finished)" in n for n in table.footnotes)


def test_a_value_that_is_not_finite_is_left_out_and_said() -> None:
    runs = make_runs()
    runs[RunKey("better", 1)] = fake_summary({"left/accuracy": None, "sum/mse": 2.0}, 1)
    table = make_table(runs=runs)
    found = cell(table, "better", "left")
    assert (len(found.values), found.note, found.rank) == (9, "9 of 10 seeds", None)
    assert table.compare_with == "Vanilla"
    (note,) = (note for note in table.footnotes if note.startswith("Seeds left out"))
    assert "Better, left accuracy without seed 1." in note
    assert "(9 of 10 seeds)" in to_markdown(table)
    values, differences = value_grid(table), difference_grid(table)
    assert differences is not None
    assert "▲" not in values.rows[2][3].text + differences.rows[1][2].text
    assert differences.rows[1][2].text.endswith("(9 seeds)")


def test_a_table_without_a_single_run_has_the_printed_numbers() -> None:
    table = make_table(runs={})
    assert "There is no finished run." in table.footnotes
    texts = [[entry.text for entry in row] for row in value_grid(table).rows]
    assert texts[1][:3] == ["Vanilla (0 of 10 seeds)", "-", "-2.51 ± 3.01"]


def test_a_column_of_an_unknown_metric_is_refused() -> None:
    spec = make_spec(columns={"x": {"metric": "left/acuracy"}}, paper=None)
    with pytest.raises(ConfigError, match=r"did you mean left/accuracy\?"):
        make_table(spec)


def test_a_column_may_overrule_the_unit() -> None:
    columns = {"left": {"metric": "left/accuracy", "percent": False}}
    table = make_table(make_spec(columns=columns, paper=None, base=None, delta=None))
    assert table.columns[0].unit == ""
    assert cell(table, "vanilla", "left").centre == pytest.approx(0.5045)


# -- footnotes ---------------------------------------------------------------------------------


def test_footnotes_say_what_a_reader_needs() -> None:
    config = {"train": {"batch_size": 64}, "model_optimizer": {"lr": 0.1}}
    notes = "\n".join(make_table(runs=make_runs(config=config, notes=["a subset"])).footnotes)
    for words in (
        "Median ± sample standard deviation over 10 seeds (0-9).",
        "the paper's convention",
        "gain over the row Single of the same seed",
        "Difference from Vanilla, seed by seed",
        "Protocol: epoch selected on validation.",
        "Epochs: 3; batch size 64.",
        "Device: cpu (x).",
        "torch 2.15.0; commit 0123456789ab.",
        "Data: toy, fingerprint f00d.",
        "Wall time of the 50 runs together: 50.00 h.",
        "Note: a subset.",
        "printed numbers, a paper.",
        "* may be swapped.",
    ):
        assert words in notes
    assert "Warning" not in notes
    assert "Incomplete" not in notes
    assert "So few seeds" not in notes  # ten seeds are enough


def test_too_few_seeds_for_any_mark_are_said() -> None:
    runs = {key: run for key, run in make_runs().items() if key.seed < 5}
    table = make_table(make_spec(seeds=5), runs)
    assert any("the smallest possible p is 0.12" in note for note in table.footnotes)  # 2 * 2/32
    assert "▲" not in to_markdown(table).split("## ")[0]


def test_rows_of_different_data_are_named_and_neither_ranked_nor_compared() -> None:
    runs = make_runs()
    runs[RunKey("better", 0)]["data_fingerprint"] = "beef"  # type: ignore[index]
    table = make_table(runs=runs)
    (note,) = (note for note in table.footnotes if note.startswith("Warning: "))
    others = ", ".join(f"Better seed {seed}" for seed in range(1, SEEDS))
    assert note == (
        "Warning: rows that were not measured alike are neither ranked nor compared, and have no "
        f"gain. data: fingerprint f00d (Single, Vanilla, {others}, A_b 100 %); "
        "fingerprint beef (Better seed 0)."
    )
    assert all(row.cells["left"].rank is None for row in table.rows)
    assert cell(table, "better", "left").difference is None
    assert cell(table, "a_b", "left").difference is not None
    assert 0 not in cell(table, "better", "gain").values  # its base saw the other data
    assert 0 in cell(table, "a_b", "gain").values


def test_numbers_over_different_tasks_are_not_ranked_but_those_of_one_task_are() -> None:
    runs = make_runs()
    for key, run in runs.items():
        assert run is not None
        run["metrics"]["test/geomean_loss"] = 1.0 + key.seed
        if key.row == "better":
            run["tasks"] = ["left"]
    columns = {"left": {"metric": "left/accuracy"}, "loss": {"metric": "geomean_loss"}}
    table = make_table(make_spec(columns=columns, paper=None), runs)
    assert cell(table, "better", "left").rank == 1
    assert all(row.cells["loss"].rank is None for row in table.rows)
    assert cell(table, "better", "loss").difference is None
    assert (
        "Means over different tasks are neither ranked nor compared. Tasks: left, sum "
        "(Single, Vanilla, A_b 100 %); left (Better)." in table.footnotes
    )


def test_an_infinite_value_never_ranks_first() -> None:
    runs = make_runs()
    for value in (math.inf, -math.inf, math.nan):
        runs[RunKey("a_b", 3)] = fake_summary({"left/accuracy": value, "sum/mse": value}, 3)
        table = make_table(runs=runs)
        assert cell(table, "a_b", "sum").rank is None
        assert cell(table, "a_b", "left").rank is None
        assert cell(table, "better", "left").rank == 1
        json.loads(to_json(table))


def test_constants_of_another_protocol_are_said_where_gains_are_taken_from_them() -> None:
    specs = {key: {"better": "higher", "percent": False} for key in NASH_BASE}
    columns = {"gain": {"delta_of": ["segmentation", "depth", "normals"]}}
    rows = {"single": {}, "vanilla": {"shown": True}}
    spec = make_spec(delta="nash", columns=columns, rows=rows, paper=None, tasks=[], base=None)
    for protocol, said in (("exact", True), ("mtan_batch", False)):
        run = fake_summary(NASH_BASE, metric_specs=specs, config={"data": {"protocol": protocol}})
        metrics = {MetricKey.parse(key): value for key, value in NASH_BASE.items()}
        rows = {"single": {}, "vanilla": {0: SeedResult(metrics, [fake_run(run)])}}
        results = Results([0], rows, {"single": {0: "no run"}, "vanilla": {}})
        notes = "\n".join(build_table(spec, results).footnotes)
        warning = "Δ compares runs of protocol selected epoch, exact with constants"
        assert (warning in notes) is said


def test_notes_of_the_caller_and_the_table_are_kept() -> None:
    notes = make_table(make_spec(notes=["From the file."]), notes=["From the caller."]).footnotes
    assert "From the file." in notes
    assert "From the caller." in notes


# -- forms -------------------------------------------------------------------------------------


def test_values_stand_beside_the_printed_ones() -> None:
    grid = value_grid(make_table())
    assert grid.heads == [
        "method",
        "gain Δ % ↑",
        "gain Δ (paper)",
        "left accuracy % ↑",
        "sum mse ↓",
        "hours",
    ]
    texts = {row[0].text: [entry.text for entry in row[1:]] for row in grid.rows}
    assert texts["Better"] == [
        f"{cell(make_table(), 'better', 'gain').centre:.2f} ± "
        f"{cell(make_table(), 'better', 'gain').spread:.2f} ▲",
        "2.12*",
        "60.45 ± 0.30 ▲",
        "2.100 ± 0.088",
        "0.50 ± 0.00",
    ]
    assert texts["Single"][:2] == ["-", "-"]
    assert texts["Vanilla"][1] == "-2.51 ± 3.01"


def test_differences_have_interval_p_and_mark() -> None:
    grid = difference_grid(make_table())
    assert grid is not None
    assert [row[0].text for row in grid.rows] == ["Single", "Better", "A_b 100 %"]
    texts = [entry.text for entry in grid.rows[1]]
    assert texts[2] == "+10.00 [10.00, 10.00], p 0.0059 ▲"
    assert texts[3] == "0.000 [0.000, 0.000], p 1"


def test_a_worse_row_has_the_other_mark() -> None:
    spec = make_spec(compare_with="better")
    grid = difference_grid(make_table(spec))
    assert grid is not None
    vanilla = next(row for row in grid.rows if row[0].text == "Vanilla")
    assert vanilla[2].text == "-10.00 [-10.00, -10.00], p 0.0059 ▼"


def test_markdown_is_a_table_with_best_and_second_marked() -> None:
    text = to_markdown(make_table())
    lines = [line for line in text.split("## ")[0].splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    best = next(line for line in lines if line.startswith("| Better"))
    assert "**60.45 ± 0.30 ▲**" in best
    second = next(line for line in lines if "A\\_b" in line)
    assert "| *55.45 ± 0.30 ▲* |" in second
    assert "2.12\\*" in best
    assert "- Bold: best of its column; italic: second best" in text


def latex_problems(text: str) -> list[str]:
    """What a compiler would refuse: characters, braces, environments, cells of a row."""
    found = []
    plain = re.sub(r"(?m)(?<!\\)%.*$", "", text)
    if re.search(r"[^\x00-\x7f]", plain):
        found.append("characters")
    bare = re.sub(r"\\[{}]", "", plain)
    if bare.count("{") != bare.count("}"):
        found.append("braces")
    if len(re.findall(r"(?<!\\)\$", plain)) % 2:
        found.append("dollars")
    if plain.count("\\begin{") != plain.count("\\end{"):
        found.append("environments")
    heads = r"\\begin\{tabular\}\[b\]\{@\{\}r@\{\}\}.*?\\end\{tabular\}"  # of several lines
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", re.sub(heads, "", plain), re.DOTALL
    ):
        rows = re.findall(r"(.*?)\\\\", body, re.DOTALL)
        wrong = [r for r in rows if len(re.findall(r"(?<!\\)&", r)) != len(columns) - 1]
        found += [f"cells of {row!r}" for row in wrong]
    outside = re.sub(r"\$[^$]*\$", "", re.sub(r"\\label\{[^}]*\}", "", plain))
    if re.search(r"(?<!\\)[_^#]", outside):
        found.append("special characters")
    return found


def test_latex_has_booktabs_rules_marks_and_nothing_unescaped() -> None:
    text = to_latex(make_table())
    assert latex_problems(text) == []
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == text.count(r"\midrule") >= 2
    assert r"\textbf{60.45 $\pm$ 0.30 $\bigtriangleup$}" in text
    assert r"\underline{55.45 $\pm$ 0.30 $\bigtriangleup$}" in text
    assert r"\caption{Toy \& co}" in text
    assert r"A\_b 100 \%" in text
    assert "$-$2.51" in text
    assert latex_problems(text.replace(r"\_", "_", 1)) != []
    assert latex_problems(text.replace(" & ", " ", 1)) != []


WIDE = Grid(
    "Δ of 21 methods: α_k, 32×64 pixels, 5 °, m², 100 % of R&D",  # noqa: RUF001 - set by LaTeX
    ["method", *(f"task_{k} Δ % ↑ (paper)" for k in range(9))],
    [[Entry(f"Aligned-MTL + R_k {n}"), *[Entry("-12.34 ± 5.67 ▲", 1)] * 9] for n in range(21)],
)


@pytest.mark.parametrize(
    ("grid", "layout", "environments"),
    [
        (WIDE.select([0, 1]), "auto", ["table"]),
        (WIDE.select([0, 1, 2, 3, 4]), "auto", ["table*"]),
        (WIDE, "auto", ["table*", "table*", "table*"]),
        (WIDE, "resizebox", ["table*"]),
        (WIDE.select([0, 1, 2]), "split", ["table*"]),
    ],
)
def test_a_layout_makes_these_floats_with_every_column_once(
    grid: Grid, layout: Layout, environments: list[str]
) -> None:
    text = to_input("wide", floats(grid, layout, ["Below."]), ["Not\nshown."])
    assert latex_problems(text) == []
    assert re.findall(r"\\begin\{(table\*?)\}", text) == environments
    assert text.count("Below.") == 1
    assert "% Not shown." in text
    columns = re.findall(r"\\begin\{tabular\}\{l(r+)\}", text)
    assert len("".join(columns)) == len(grid.heads) - 1
    assert (r"\resizebox{" in text.replace("% ", "")) == (environments != ["table"])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("options", ["", "[twocolumn]"])
def test_latex_compiles_and_fits_the_page(tmp_path: Path, options: str) -> None:
    tables = [to_latex(make_table()), to_latex(make_table(), "split")]
    some = (WIDE.select([0, 1]), WIDE.select(range(5)), WIDE)
    tables += [to_input("wide", floats(grid, "auto", ["5 % — “x”"]), []) for grid in some]
    tables.append(to_input("wide", floats(WIDE, "resizebox"), []))
    packages = "\n".join(dict.fromkeys(re.findall(r"% (\\usepackage\{\w+\})", "".join(tables))))
    body = "\n\\clearpage\n".join(tables)
    document = (
        f"\\documentclass{options}{{article}}\n{packages}\n"
        f"\\begin{{document}}\n{body}\n\\end{{document}}\n"
    )
    (tmp_path / "a.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    log = (tmp_path / "a.log").read_text(encoding="utf-8", errors="replace")
    assert "Overfull" not in log
    assert "too large" not in log


def test_details_are_in_files_and_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    runs = make_runs(notes=["a subset"])
    runs[RunKey("better", 0)]["data_fingerprint"] = "beef"  # type: ignore[index]
    table = make_table(runs=runs, notes=[Detail("Grid tried.")])
    print_results(table, verbose=False)
    short = capsys.readouterr().out
    for words in ("Median ±", "Δ (", "Protocol", "Warning: ", "Note: a subset.", "--verbose"):
        assert words in short
    print_results(table, verbose=True)
    everything = capsys.readouterr().out
    for words in ("Grid tried.", "Versions", "Device", "Wall time"):
        assert words not in short
        assert words in everything
        assert words in to_markdown(table)
        assert words in to_json(table)
        assert re.search(f"(?m)^% .*{words}", to_latex(table))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b & 5 % #1 {x} ~ ^", r"a\_b \& 5 \% \#1 \{x\} \textasciitilde{} \textasciicircum{}"),
        ("\\", r"\textbackslash{}"),
        ("Δ 11.25°", r"$\Delta$ 11.25$^\circ$"),
        ("[-1, 2-3]", "{}[$-$1, 2-3]"),
    ],
)
def test_latex_is_escaped(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


def test_csv_has_every_value_of_every_seed_exactly() -> None:
    table = make_table()
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert list(rows[0]) == ["row", "column", "unit", "seed", "value"]
    found = {(r["row"], r["column"], int(r["seed"])): float(r["value"]) for r in rows}
    expected = {
        (row.name, column, seed): value
        for row in table.rows
        for column, c in row.cells.items()
        for seed, value in c.values.items()
    }
    assert found == expected
    assert len(rows) == len(found)
    assert {r["column"]: r["unit"] for r in rows} == {
        "gain": "%",
        "left": "%",
        "sum": "",
        "hours": "h",
    }


def test_json_has_everything() -> None:
    table = make_table()
    content = json.loads(to_json(table))
    for row in content["rows"]:
        row["missing"] = {int(seed): reason for seed, reason in row["missing"].items()}
        for c in row["cells"].values():
            c["values"] = {int(seed): value for seed, value in c["values"].items()}
    assert content == dataclasses.asdict(table)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    table = make_table()
    files = write_table(table, tmp_path / "a" / "b")
    assert sorted(f.name for f in files) == ["table.csv", "table.json", "table.md", "table.tex"]
    assert sorted((tmp_path / "a" / "b").iterdir()) == sorted(files)
    assert (tmp_path / "a" / "b" / "table.md").read_text(encoding="utf-8") == to_markdown(table)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="`output` must be a folder that can be written"):
        write_table(table, tmp_path / "file")


def text_of(table: Table, **options: Any) -> str:
    console = Console(file=io.StringIO(), **options)
    with console.capture() as capture:
        for grid in grids(table):
            console.print(*fitting(grid, console))
    return capture.get()


def test_terminal_marks_ranks_with_and_without_colour() -> None:
    plain = text_of(make_table(), width=200)
    assert "60.45 ± 0.30 ▲ (1)" in plain
    assert "55.45 ± 0.30 ▲ (2)" in plain
    styled = text_of(make_table(), width=200, force_terminal=True)
    assert "\x1b[1;32m60.45 ± 0.30 ▲ (1)" in styled
    assert sentences(make_table(), "B", "S")[0].startswith("B: best of its column; S: second")


def test_brackets_on_the_terminal_are_printed_as_they_are() -> None:
    rows = {"single": {"per_task": True}, "vanilla": {"label": "[bold]x", "shown": True}}
    assert "[bold]x" in text_of(make_table(make_spec(rows=rows, paper=None)), width=200)


def test_a_wide_table_is_cut_into_blocks_with_the_first_column() -> None:
    grid = value_grid(make_table())
    parts = grid.blocks(2)
    assert [part.heads for part in parts] == [
        ["method", *grid.heads[1:3]],
        ["method", *grid.heads[3:5]],
        ["method", *grid.heads[5:]],
    ]
    assert [part.rows[0][0].text for part in parts] == ["Single"] * 3
    assert [len(row) for row in parts[-1].rows] == [2] * 4


@pytest.mark.parametrize("statistic", ["mean_std", "mean_ci95"])
def test_the_statistic_can_be_chosen_and_is_named(statistic: str) -> None:
    table = make_table(statistic=statistic)
    assert table.statistic == statistic
    assert table.footnotes[0].startswith("Mean ±")
    assert ("Student's t" in table.footnotes[0]) == (statistic == "mean_ci95")
