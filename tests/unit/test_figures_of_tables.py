"""Figures of tables: ranks against Demšar's printed example, and what a grid found."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rotograd_cli.errors import ConfigError
from rotograd_cli.figures.canvas import styled
from rotograd_cli.figures.gains import Gains
from rotograd_cli.figures.ranking import Block, Ranking
from rotograd_cli.figures.ranks import Ranks
from rotograd_cli.figures.sensitivity import Sensitivity
from rotograd_cli.tables.parts import Cell, Column, Table, Trial, Tried
from rotograd_cli.tables.runs import RunKey
from rotograd_cli.tables.statistics import average_ranks, critical_difference
from rotograd_cli.tables.table import build_table
from tests.fake_runs import collected, fake_summary, to_table_spec

DEMSAR = """
4 3 2 1
1 2 3 4
4 1 2 3
4 1 3 2
4 2 3 1
1 2.5 4 2.5
3 2 4 1
2.5 2.5 4 1
4 3 2 1
2.5 2.5 2.5 2.5
4 2.5 1 2.5
3 2 4 1
4 1 2 3
3 1 4 2
"""
"""Ranks of four trees on 14 data sets, table 6 of Demšar (JMLR 7, 2006)."""
METRICS = ("left/accuracy", "sum/mse")


# -- ranks -------------------------------------------------------------------------------------


def test_critical_values_are_those_that_demsar_prints() -> None:
    printed = {2: 1.960, 4: 2.569, 10: 3.164}
    for k, q in printed.items():
        assert critical_difference(k, 1) / math.sqrt(k * (k + 1) / 6) == pytest.approx(q, abs=1e-3)


def test_ranks_and_critical_difference_are_those_of_demsars_example() -> None:
    data_sets = [map(float, line.split()) for line in DEMSAR.split("\n")[1:-1]]
    ranking = Ranking([Block("", dict(zip("abcd", each, strict=True))) for each in data_sets])
    assert {k: round(v, 3) for k, v in ranking.means.items()} == {
        "d": 1.964,
        "b": 2.0,
        "c": 2.893,
        "a": 3.143,
    }
    assert list(ranking.means) == ["d", "b", "c", "a"]
    assert round(ranking.distance, 2) == 1.25
    # his statistic of 9.28 is not corrected for ties, with which it is larger
    assert (
        ranking.p < stats.chi2.sf(9.27, 3) < 0.05
    )  # Friedman's test rejects, and Nemenyi's tells no two apart
    assert ranking.joined == [(ranking.means["d"], ranking.means["a"])]


def test_bars_join_exactly_the_pairs_that_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        skill = rng.normal(size=8)
        blocks = [
            Block("", average_ranks(dict(enumerate_names(skill + rng.normal(size=8))), "higher"))
            for _ in range(20)
        ]
        ranking = Ranking(blocks)
        for a, b in itertools.combinations(ranking.means.values(), 2):
            together = any(low <= a and b <= high for low, high in ranking.joined)
            assert together == (b - a < ranking.distance or ranking.p >= 0.05 or a == b)
        for (a, b), (c, d) in itertools.permutations(ranking.joined, 2):
            assert not (c <= a and b <= d)


def enumerate_names(values: Sequence[float]) -> list[tuple[str, float]]:
    return [(f"m{i}", float(value)) for i, value in enumerate(values)]


def test_methods_that_are_equal_everywhere_are_not_told_apart() -> None:
    ranking = Ranking([Block("", dict.fromkeys("abc", 2.0))] * 3)
    assert ranking.p == 1.0
    assert ranking.joined == [(2.0, 2.0)]


def make_table(
    name: str, left_out: Sequence[RunKey] = (), methods: Sequence[str] = ("a", "b", "c", "d")
) -> Table:
    """A table of two metrics and two seeds, method by method better, as the figure takes it."""
    spec = to_table_spec(
        {
            "name": name,
            "title": name,
            "tasks": ["left", "sum"],
            "seeds": 2,
            "base": "single",
            "delta": "paper",
            "rows": {"single": {"per_task": True, "shown": True}}
            | {method: {"shown": True, "label": method.upper()} for method in methods},
            "columns": {
                "gain": {"delta_of": ["left"]},
                "left": {"metric": METRICS[0]},
                "sum": {"metric": METRICS[1]},
                "hours": {"hours": True},
            },
            "compare_with": None,
        }
    )
    runs = {
        RunKey(method, seed): fake_summary(dict(zip(METRICS, (0.5 + i / 10, 2.0 - i), strict=True)))
        for i, method in enumerate(methods)
        for seed in range(2)
    }
    spec = make_ranks().columns_of(spec)
    kept = {key: run for key, run in runs.items() if key not in left_out}
    return build_table(spec, collected(spec, kept))


def test_a_panel_without_gains_says_why() -> None:
    rows = {"single": {"per_task": True}, "x": {"shown": True}}
    content = {"name": "t", "title": "T", "seeds": 1, "base": "single", "delta": "paper"}
    content |= {"rows": rows, "tasks": ["left", "sum"], "compare_with": None}
    columns = {task: {"delta_of": [task]} for task in ("left", "sum")}
    spec = to_table_spec({**content, "columns": columns})
    runs = {
        RunKey("single", 0, "left"): fake_summary({"left/accuracy": 0.0}),
        RunKey("single", 0, "sum"): fake_summary({"sum/mse": 2.0}),
        RunKey("x", 0): fake_summary({"left/accuracy": 0.5, "sum/mse": 1.0}),
    }
    words = {"title": "", "x_label": "", "y_label": ""}
    figure = Gains(name="gains", table="t", columns=[], **words)
    with styled():
        drawing = figure.draw(build_table(spec, collected(spec, runs)))
    left, right = drawing.canvas.axes
    (text,) = left.texts
    assert text.get_text() == "No gain: the base is 0"
    assert len(left.get_yticks()) == 0
    assert not right.texts
    assert "No gain where the base is 0: single left accuracy (seed 0)." in drawing.notes


def make_ranks(**others: Any) -> Ranks:
    return Ranks(**{"name": "ranks", "table": "x", "columns": [], "title": "Ranks", **others})


def test_blocks_are_the_metrics_of_all_tables_and_seeds_count_once() -> None:
    with styled():
        drawing = make_ranks().draw([make_table("one"), make_table("two")])
    blocks = ["one/left", "one/sum", "two/left", "two/sum"]
    assert list(drawing.columns) == ["method", "mean_rank", *blocks]
    assert [row[0] for row in drawing.rows] == list("DCBA")
    ranks = [list(row[1:]) for row in drawing.rows]
    assert ranks == [[float(place)] * 5 for place in (1, 2, 3, 4)]
    (axes,) = drawing.canvas.axes
    texts = [text.get_text().strip() for text in axes.texts]
    assert "D  1.00" in texts
    assert "4.00  A" in texts
    assert any("take blocks as independent" in note for note in drawing.notes)


def test_what_cannot_be_ranked_is_refused_in_one_line() -> None:
    gap = [RunKey("b", 1)]
    cases: list[tuple[Sequence[Table], str]] = [
        ([make_table("t", gap)], r"got B \(1 of 2 seeds of t\); leave.* 'methods=\[a,c,d\]'"),
        ([make_table("t", gap, "abc")], "at least 3 methods that have every metric .* got 2"),
        (
            [make_table("t"), make_table("u", (), "abce")],
            r"D \(not in table u\), E \(not in .* t\)",
        ),
    ]
    for tables, words in cases:
        with pytest.raises(ConfigError, match=words) as error:
            make_ranks().draw(tables)
        assert "\n" not in str(error.value)
    spec = to_table_spec(
        {
            "name": "t",
            "title": "T",
            "seeds": 1,
            "rows": {"a": {}},
            "columns": {"left": {"metric": "left/accuracy"}, "hours": {"hours": True}},
            "compare_with": None,
        }
    )
    with pytest.raises(ConfigError, match="that rank its rows, got 'hours'; choose from left"):
        make_ranks(columns=["hours"]).columns_of(spec)


# -- sensitivity -------------------------------------------------------------------------------

NETWORK = "model_optimizer.lr"
METHOD = "method_optimizer.lr"


def trial(label: str, point: Mapping[str, float], value: float, chosen: bool = False) -> Trial:
    return Trial(label, point, value, chosen, {"sum": Cell({0: 10 * value}, 10 * value)})


def test_lines_are_the_best_on_validation_at_each_rate_with_the_choice_in_a_ring() -> None:
    trials = [
        *(trial("Vanilla", {NETWORK: lr}, v, lr == 2e-3) for lr, v in ((1e-3, 3.0), (2e-3, 1.0))),
        trial("Vanilla", {NETWORK: 4e-3}, math.nan),
        # one rate after the other, not all pairs
        trial("RotoGrad", {NETWORK: 1e-3, METHOD: 1e-2}, 2.0),
        trial("RotoGrad", {NETWORK: 2e-3, METHOD: 1e-2}, 1.5),
        trial("RotoGrad", {NETWORK: 2e-3, METHOD: 1e-3}, 0.5, True),
    ]
    column = Column("sum", "sum mse", "", "lower", 2, None)
    tried = Tried("Digits", trials, "val/loss", "lower", [0], [column], [])
    figure = Sensitivity(name="s", table="t", columns=["sum"], title="Sensitivity")
    with styled():
        drawing = figure.draw(tried)
    above, _, below, own = drawing.canvas.axes
    lines = {line.get_label(): line for line in above.get_lines()[:2]}
    assert lines["Vanilla"].get_xydata().tolist() == [[1e-3, 3.0], [2e-3, 1.0]]
    assert lines["RotoGrad"].get_xydata().tolist() == [[1e-3, 2.0], [2e-3, 0.5]]
    rings = [line.get_xydata().tolist() for line in above.get_lines()[2:]]
    assert rings == [[[2e-3, 1.0]], [[2e-3, 0.5]]]
    assert below.get_lines()[1].get_xydata().tolist() == [[1e-3, 20.0], [2e-3, 5.0]]
    assert [line.get_label() for line in own.get_lines()[:1]] == ["RotoGrad"]
    assert above.get_xscale() == "log"
    assert len(drawing.rows) == 2 + 2 + 2
    assert ["RotoGrad", METHOD, 1e-3, 0.5, 5.0, 1] in [list(row) for row in drawing.rows]
    assert any("Vanilla 0.004" in note for note in drawing.notes)


def test_larger_may_be_better() -> None:
    trials = [
        trial("A", {NETWORK: lr, METHOD: other}, value)
        for lr, other, value in ((1.0, 1.0, 0.1), (1.0, 2.0, 0.9), (2.0, 1.0, 0.5))
    ]
    tried = Tried("T", trials, "val/f1", "higher", [0, 1], [], [])
    with styled():
        drawing = Sensitivity(name="s", table="t", columns=[], title="S").draw(tried)
    assert [row[3] for row in drawing.rows] == [0.9, 0.5, 0.5, 0.9]


def test_a_single_rate_is_nothing_to_draw() -> None:
    tried = Tried("T", [trial("A", {NETWORK: 1.0}, 0.1)], "val/loss", "lower", [0], [], [])
    figure = Sensitivity(name="s", table="t", columns=[], title="S")
    with pytest.raises(ConfigError, match="several numbers of a key of the grid, got none"):
        figure.draw(tried)
