"""What a table may hold, and the tables that ship."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from hydra import compose
from omegaconf import OmegaConf

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.compose import composing, composing_many
from rotograd_cli.config.files import config_dir
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.data import toy, two_digits
from rotograd_cli.data.celeba import dataset as celeba
from rotograd_cli.data.cifar10 import dataset as cifar10
from rotograd_cli.data.nyuv2.dataset import make_tasks
from rotograd_cli.errors import ConfigError
from rotograd_cli.metric_keys import MetricKey
from rotograd_cli.tables.command import TableCommand
from rotograd_cli.tables.delta import gains
from rotograd_cli.tables.results import SeedResult
from rotograd_cli.tables.spec import PaperValue, TableSpec
from rotograd_cli.tasks.task import Task, task_statistics
from tests.fake_runs import fake_run, fake_summary, to_table_spec

Values = Mapping[str, float]
FILES = sorted((config_dir() / "table").glob("*.yaml"))
# figures', and other papers'
OTHERS = {"rotation_lr", "toy", "toy_convex", "nyuv2_nash", "celeba_famo"}
OF_THE_PAPER = [file for file in FILES if file.stem not in OTHERS]
SMALL: dict[str, Any] = {
    "name": "small",
    "title": "Small",
    "experiment": "multimnist",
    "overrides": ["train.epochs=2"],
    "tasks": ["left", "sum"],
    "seeds": 3,
    "base": "single",
    "delta": "paper",
    "rows": {
        "single": {"overrides": ["method=single"], "per_task": True, "shown": True},
        "vanilla": {"overrides": ["method=vanilla"], "shown": True},
        "rotograd": {"label": "RotoGrad", "overrides": ["method=rotograd"]},
    },
    "columns": {
        "gain": {"delta_of": ["left", "sum"]},
        "left": {"metric": "left/accuracy"},
        "hours": {"hours": True},
    },
    "grid": {"values": {"model_optimizer.lr": [1e-3]}, "seeds": [0]},
    "paper": {"source": "N21", "rows": {"rotograd": {"gain": [2.12, 2.23], "left": 1}}},
}


def load(file: Path) -> TableSpec:
    with composing(table_command_schema=TableCommand):
        composed = compose("table", ["runs=any", f"table={file.stem}"])
    content = OmegaConf.to_container(composed.table)
    assert isinstance(content, dict)
    return to_table_spec(cast(dict[str, Any], content))


def changed(path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(SMALL)
    *parents, leaf = path.split(".")
    node = content
    for key in parents:
        node = node[key]
    node[leaf] = value
    return content


def tasks_of(spec: TableSpec) -> tuple[Task, ...]:
    """Tasks of the table's data set, without its files."""
    if spec.experiment in ("multimnist", "multisvhn"):
        return two_digits.TASKS
    if spec.experiment == "toy":
        return toy.make_tasks("nonconvex")
    if str(spec.experiment).startswith("nyuv2"):
        return make_tasks("exact")
    if spec.name == "cifar10":
        return cifar10.TASKS
    return celeba.TASKS


# -- the tables that ship ----------------------------------------------------------------------


def test_every_data_set_of_the_paper_has_its_table() -> None:
    assert {"multimnist", "svhn", "cifar10", "celeba_conv", "celeba_resnet18", "nyuv2"} <= {
        f.stem for f in FILES
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_table_is_named_like_its_file_and_its_experiment_exists(file: Path) -> None:
    spec = load(file)
    assert spec.name == file.stem
    assert (config_dir() / "experiment" / f"{spec.experiment}.yaml").is_file()


@pytest.mark.parametrize("file", OF_THE_PAPER, ids=lambda file: file.stem)
def test_a_table_says_where_its_numbers_come_from(file: Path) -> None:
    spec = load(file)
    assert spec.paper is not None
    assert "NeurIPS 2021 submission" in spec.paper.source
    assert "camera-ready may differ" in spec.paper.source
    assert "Chosen by us:" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(f, marks=[] if f.stem == "multimnist" else pytest.mark.slow, id=f.stem)
        for f in FILES
    ],
)
def test_rows_of_a_table_compose_and_fit_their_components(file: Path) -> None:
    spec = load(file)
    with composing_many():
        for row in spec.rows:
            words = spec.overrides_of(row)
            method = next(word for word in words if word.startswith("method="))
            if not (config_dir() / "method" / f"{method.partition('=')[2]}.yaml").is_file():
                pytest.fail(f"{file.name}: row {row} has no conf/method file")
            Constructors(to_train_config(compose("train", words)))


@pytest.mark.parametrize("file", OF_THE_PAPER, ids=lambda file: file.stem)
def test_rows_have_a_grid_of_the_methods_rates_exactly_where_it_has_parameters(file: Path) -> None:
    own = {"rotograd", "rotateonly", "rotogradnorm", "imtlg_rotations", "gradnorm", "uncertainty"}
    spec = load(file)
    assert own <= {row for row, found in spec.rows.items() if found.method_grid}
    for row in ("single", "vanilla", "pcgrad", "mgda", "scaleonly", "dwa", "rlw"):
        assert row not in spec.rows or not spec.rows[row].method_grid


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_columns_of_a_table_are_metrics_of_its_tasks(file: Path) -> None:
    spec = load(file)
    tasks = tasks_of(spec)
    known = {f"{task.name}/{metric.name}" for task in tasks for metric in task.metrics}
    known |= {statistic.name for statistic in task_statistics(tasks)}
    for name, column in spec.columns.items():
        assert column.metric is None or column.metric in known, name
    if any(row.per_task for row in spec.rows.values()):
        assert spec.tasks == [task.name for task in tasks]


# a second transcription of some printed numbers: table, row, column, value, spread
CHECKPOINTS = [
    ("multimnist", "rotograd", "digits", 2.12, 2.23),
    ("multimnist", "rotograd", "pixels", 0.08, 0.02),
    ("multimnist", "vanilla", "digits", -2.51, 3.01),
    ("multimnist", "graddrop", "digits", -2.51, 1.73),
    ("multimnist", "mgda", "digits", -12.57, 9.97),
    ("multimnist", "mgda", "pixels", 0.06, 0.02),
    ("multimnist", "gradnorm", "digits", 0.13, 2.27),
    ("multimnist", "imtlg", "digits", 1.17, 2.77),
    ("multimnist", "pcgrad", "digits", -3.12, 3.88),
    ("multimnist", "single", "pixels", 0.01, 0.01),
    ("svhn", "rotograd", "digits", 6.08, 0.48),
    ("svhn", "rotograd", "pixels", 1.61, 2.72),
    ("svhn", "vanilla", "digits", 5.14, 0.83),
    ("svhn", "vanilla", "pixels", 2.75, 3.17),
    ("svhn", "graddrop", "pixels", 1.91, 0.86),
    ("svhn", "mgda", "digits", 5.99, 1.48),
    ("svhn", "gradnorm", "digits", 6.67, 1.02),
    ("svhn", "imtlg", "pixels", 2.47, 1.65),
    ("svhn", "pcgrad", "digits", 5.50, 0.75),
    ("svhn", "single", "pixels", 0.17, 0.06),
    ("cifar10", "vanilla", "mean", 2.58, 0.54),
    ("cifar10", "graddrop", "max", 14.03, 2.83),
    ("cifar10", "pcgrad", "median", 3.33, 1.68),
    ("cifar10", "mgda", "median", -4.48, 2.35),
    ("cifar10", "gradnorm", "mean", -0.08, 0.95),
    ("cifar10", "imtlg", "median", 1.95, 2.21),
    ("cifar10", "imtlg_rotations", "max", 12.76, 1.77),
    ("cifar10", "rotograd_64", "mean", 2.90, 0.49),
    ("cifar10", "rotograd_128", "median", 3.73, 2.14),
    ("cifar10", "rotograd_256", "max", 14.01, 3.22),
    ("cifar10", "rotograd", "mean", 4.48, 0.99),
    ("celeba_conv", "vanilla", "min", 1.62, None),
    ("celeba_conv", "graddrop", "mean", 58.62, None),
    ("celeba_conv", "pcgrad", "hours", 17.03, None),
    ("celeba_conv", "gradnorm", "median", 52.17, None),
    ("celeba_conv", "imtlg", "std", 26.92, None),
    ("celeba_conv", "rotograd", "median", 62.31, None),
    ("celeba_resnet18", "vanilla", "hours", 1.49, None),
    ("celeba_resnet18", "pcgrad", "std", 20.84, None),
    ("celeba_resnet18", "gradnorm", "median", 64.10, None),
    ("celeba_resnet18", "imtlg", "min", 21.52, None),
    ("celeba_resnet18", "rotograd", "mean", 65.17, None),
    ("nyuv2", "single", "within_30", 69.90, None),
    ("nyuv2", "vanilla", "delta_normals", -27.26, None),
    ("nyuv2", "graddrop", "rel_err", 0.24, None),
    ("nyuv2", "pcgrad", "delta_depth", 4.99, None),
    ("nyuv2", "mgda", "delta_segmentation", -32.75, None),
    ("nyuv2", "gradnorm", "angle_median", 20.30, None),
    ("nyuv2", "imtlg", "within_11", 25.14, None),
    ("nyuv2", "rotograd", "miou", 0.40, None),
    ("nyuv2", "rotograd", "delta_normals", -8.99, None),
    ("nyuv2", "rotograd", "hours", 3.85, None),
]


def test_printed_numbers_equal_a_second_transcription() -> None:
    specs = {file.stem: load(file) for file in FILES}
    for name, row, column, value, spread in CHECKPOINTS:
        assert specs[name].printed(row, column) == PaperValue(value, spread), (name, row, column)


def test_two_printed_numbers_that_may_be_swapped_are_marked() -> None:
    folder = config_dir() / "table"
    conv, resnet = load(folder / "celeba_conv.yaml"), load(folder / "celeba_resnet18.yaml")
    assert conv.printed("graddrop", "hours") == PaperValue(4.42, None, "*")
    assert resnet.printed("graddrop", "min") == PaperValue(4.46, None, "*")
    for spec in (conv, resnet):
        assert spec.paper is not None
        assert any("swapped" in note for note in spec.paper.notes)


def test_no_printed_number_is_missing() -> None:
    numbers = {
        "multimnist": 15,
        "svhn": 15,
        "cifar10": 33,
        "celeba_conv": 30,
        "celeba_resnet18": 30,
    }
    for name, cells in numbers.items():
        spec = load(config_dir() / "table" / f"{name}.yaml")
        assert spec.paper is not None
        assert sum(len(row) for row in spec.paper.rows.values()) == cells, name


def test_printed_gains_of_nyuv2_follow_from_the_printed_metrics() -> None:
    """The paper rounds metrics, so its gains agree with ours to what rounding leaves open."""
    spec = load(config_dir() / "table" / "nyuv2.yaml")
    signs = {"angle_mean": -1, "angle_median": -1, "within_11": 1, "within_22": 1, "within_30": 1}
    for row in ("vanilla", "graddrop", "pcgrad", "mgda", "gradnorm", "imtlg", "rotograd"):
        printed = spec.printed(row, "delta_normals")
        found = []
        for column, sign in signs.items():
            ours, base = spec.printed(row, column), spec.printed("single", column)
            assert ours is not None
            assert base is not None
            found.append(100 * sign * (ours.value - base.value) / base.value)
        assert printed is not None
        assert printed.value == pytest.approx(sum(found) / 5, abs=0.05), row


def gain(convention: str, tasks: Sequence[Task], values: Values, base: Values) -> float:
    """The gain of one run whose test metrics are given, against another's."""
    specs = {
        f"{task.name}/{metric.name}": {"better": metric.better, "percent": metric.percent}
        for task in tasks
        for metric in task.metrics
    }

    def result(metrics: Values) -> SeedResult:
        keys = {MetricKey.parse(key): value for key, value in metrics.items()}
        return SeedResult(keys, [fake_run(fake_summary(metrics, metric_specs=specs))])

    rows = {"base": {0: result(base)}, "row": {0: result(values)}}
    return gains(convention, [task.name for task in tasks], rows, "base").values["row"][0]


def test_the_printed_gain_of_nash_mtl_follows_from_the_nine_printed_metrics() -> None:
    spec = load(config_dir() / "table" / "nyuv2_nash.yaml")
    values = {}
    for name, column in spec.columns.items():
        printed = spec.printed("vanilla", name)
        if column.metric is not None and printed is not None:
            is_share = column.metric not in ("depth/abs_err", "depth/rel_err")
            is_angle = "angle" in column.metric
            values[column.metric] = printed.value / (100 if is_share and not is_angle else 1)
    assert len(values) == 9
    printed = spec.printed("vanilla", "delta")
    assert printed is not None
    found = gain("nash", make_tasks("mtan_batch"), values, values)
    assert found == pytest.approx(printed.value, abs=0.005)


# F1 by attribute as the authors give it: FAMO's issue 2 (single tasks), FairGrad's issue 1
SINGLE = """
0.6736886 0.68121034 0.81524944 0.5760289 0.7205613 0.8555076 0.38203922 0.58225113 0.787647
0.8321292 0.5029583 0.68694085 0.6781237 0.5240381 0.5161666 0.95694304 0.6968786 0.67976356
0.8808315 0.8582131 0.97034 0.93267566 0.5057539 0.40307626 0.9703734 0.48644206 0.60786104
0.5261031 0.56907415 0.59815097 0.6858371 0.924108 0.5424991 0.7406311 0.71019936 0.87365365
0.9305602 0.33704284 0.7647628 0.91907
"""
FAIRGRAD = """
0.673481 0.6715126 0.80895394 0.59129095 0.716146 0.84868795 0.5293899 0.6024346 0.79252076
0.8232979 0.49155608 0.68601424 0.6678187 0.50076723 0.5353463 0.9543982 0.6991702 0.6246493
0.87510586 0.85260683 0.9679586 0.91303086 0.53938675 0.44097534 0.9698319 0.30875763 0.5560105
0.5475425 0.5299987 0.6050991 0.72113657 0.9100189 0.48792267 0.6447788 0.7013081 0.8596742
0.92936283 0.40353844 0.7261722 0.9126637
"""


def test_numbers_of_famos_table_follow_from_the_values_that_the_authors_give() -> None:
    spec = load(config_dir() / "table" / "celeba_famo.yaml")
    by_row = {}
    for row, text in (("single", SINGLE), ("fairgrad", FAIRGRAD)):
        numbers = map(float, text.split())
        tasks = [f"{task.name}/f1" for task in celeba.TASKS]
        by_row[row] = dict(zip(tasks, numbers, strict=True))
        printed = spec.printed(row, "mean")
        assert printed is not None
        assert printed.value == pytest.approx(100 * sum(by_row[row].values()) / 40, abs=0.005)
    printed = spec.printed("fairgrad", "delta")
    assert printed is not None
    found = gain("famo", celeba.TASKS, by_row["fairgrad"], by_row["single"])
    assert found == pytest.approx(printed.value, abs=0.005)
    assert gain("paper", celeba.TASKS, by_row["fairgrad"], by_row["single"]) == -found
    assert spec.columns["mean_rank"].mean_rank_of == spec.columns["delta"].delta_of == spec.tasks


def test_the_example_of_the_documentation_is_a_table() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "tables.md").read_text(encoding="utf-8")
    _, *examples = text.split("```yaml")
    (example,) = (e.split("```")[0] for e in examples if "name: digits" in e)
    spec = to_table_spec(yaml.safe_load(example))
    assert spec.overrides_of("rotograd")[-1] == "method=rotograd"


# -- checks ------------------------------------------------------------------------------------


def test_a_small_table_is_read_with_its_defaults() -> None:
    spec = to_table_spec(SMALL)
    assert spec.statistic == "median_std"
    assert spec.compare_with == "vanilla"
    assert spec.rows["rotograd"].shown is False
    assert spec.columns["left"].delta_of is None
    assert spec.grid is not None
    assert spec.grid.values == {"model_optimizer.lr": [0.001]}
    assert to_table_spec(asdict(spec)) == spec


WRONG: list[tuple[str, Any, str]] = [
    ("rows.vanilla.lable", "x", "`table.rows.vanilla.lable` is not a key; did you mean"),
    ("columns.left.metrc", "x", "did you mean table.columns.left.metric?"),
    ("grid.value", {}, "did you mean table.grid.values?"),
    ("titel", "x", "did you mean table.title?"),
    ("title", None, "`table.title`"),
    ("seeds", "many", "`table.seeds`"),
    ("seeds", 0, "`table.seeds` must be at least 1, got 0"),
    ("name", "a/b", "`table.name` must be a word"),
    ("statistic", "mean", "`table.statistic` must be median_std or mean_std or mean_ci95"),
    ("delta", "papr", "`table.delta` must be paper or nash or famo or libmtl, got 'papr'"),
    ("delta", None, "`table.delta` must name a convention"),
    ("base", None, "`table.base` must name a row"),
    ("base", "singel", "did you mean single?"),
    ("compare_with", "vanila", "did you mean vanilla?"),
    ("rows", {}, "`table.rows` must have at least one entry"),
    ("rows.vanilla", 3, "`table.rows.vanilla`"),
    ("tasks", [], "`table.tasks` must name the tasks"),
    ("columns.left.hours", True, "delta_of, hours and mean_rank_of, got metric and hours"),
    ("columns.left.metric", None, "delta_of, hours and mean_rank_of, got none"),
    ("columns.left.over", "max", "takes no over beside metric, got max"),
    ("columns.hours.count_within", 1.0, "takes no count_within beside hours"),
    ("columns.left", {"metric": "a", "count_within": 1.0, "percent": True}, "beside metric and"),
    ("columns.left", {"metric": "a", "count_within": math.inf}, "must be a finite number, got inf"),
    ("columns.left", {"metric": "a", "count_within": math.nan}, "columns.left.count_within=1.0."),
    ("columns.left", {"mean_rank_of": []}, "got []; table.columns.left.mean_rank_of=[gain]."),
    ("columns.left", {"mean_rank_of": ["gain", "gain"]}, "and each once"),
    ("columns.left", {"mean_rank_of": ["gian"]}, "did you mean gain?"),
    (
        "columns.left",
        {"mean_rank_of": ["hours"]},
        "got 'hours'; table.columns.left.mean_",
    ),
    ("columns.left", {"mean_rank_of": ["left"]}, "columns of metric or delta_of, got 'left'"),
    (
        "columns.gain.over",
        "min",
        "must be mean or median or max, got 'min'; table.columns.gain",
    ),
    ("columns.left.digits", -1, "`table.columns.left.digits` must be at least 0, got -1"),
    ("columns.gain.delta_of", [], "must name at least one task"),
    ("columns.gain.delta_of", ["lef"], "did you mean left?"),
    ("grid.seeds", [], "`table.grid.seeds` must not be empty"),
    ("grid.seeds", None, "`table.grid.seeds` must not be empty"),
    ("grid.seeds", [0, 0], "`table.grid.seeds` must be a number of seeds"),
    ("grid.seeds", [-1], "got [-1]; table.grid.seeds=5 or table.grid.seeds=[0,1,2]."),
    ("grid.seeds", [0.5], "list of different ones from 0 on, got [0.5]"),
    ("grid.widen", 3, "must be true or false, got 3; table.grid.widen=true."),
    ("grid.search", "zigzag", "product or one_by_one"),
    ("grid.values", {"a": [[1], 2]}, "`table.grid.values.a` must hold numbers, texts"),
    ("grid.values", {"a": [1, 1.0]}, "`table.grid.values.a` must hold each value once"),
    ("grid.select", "test/sum/mse", "must be a metric on validation"),
    ("grid.values", {"a": []}, "`table.grid.values.a` must not be empty"),
    ("paper.rows", {"rotogard": {}}, "did you mean rotograd?"),
    ("paper.rows", {"rotograd": {"lft": 1}}, "did you mean left?"),
    ("paper.rows", {"rotograd": {"left": "x"}}, "must be a number, [value, spread]"),
    ("paper.rows", {"rotograd": {"left": []}}, "must be a number, [value, spread]"),
    ("paper.rows", {"rotograd": {"left": True}}, "must be a number, [value, spread]"),
    ("paper.rows", {"rotograd": {"left": [1, 2, "*", 3]}}, "must be a number, [value, spread]"),
    ("paper.columns", {"lft": "x"}, "did you mean left?"),
    ("paper", {"rows": {}}, "`table.paper.source` needs a value"),
]


def test_a_wrong_table_costs_one_line() -> None:
    for path, value, words in WRONG:
        with pytest.raises(ConfigError) as error:
            to_table_spec(changed(path, value))
        assert words in str(error.value), path
        assert "\n" not in str(error.value), path


def test_the_convention_nash_wants_all_tasks_of_nyuv2() -> None:
    content = changed("delta", "nash")
    with pytest.raises(ConfigError, match=r"must be \[segmentation, depth, normals\]"):
        to_table_spec(content)


# -- rows --------------------------------------------------------------------------------------


def test_without_names_the_rows_that_the_table_shows_are_taken() -> None:
    spec = to_table_spec(SMALL).select(None)
    assert list(spec.rows) == ["single", "vanilla"]
    assert spec.compare_with == "vanilla"


def test_the_base_is_kept_where_gains_need_it_but_is_not_shown() -> None:
    spec = to_table_spec(SMALL).select(["rotograd"])
    assert {name: row.shown for name, row in spec.rows.items()} == {
        "single": False,
        "rotograd": True,
    }
    assert spec.compare_with is None
    content = changed("columns", {"left": {"metric": "left/accuracy"}})
    del content["paper"]
    assert list(to_table_spec(content).select(["rotograd"]).rows) == ["rotograd"]


def test_rows_keep_the_tables_order() -> None:
    spec = to_table_spec(SMALL).select(["rotograd", "vanilla", "single"])
    assert list(spec.rows) == ["single", "vanilla", "rotograd"]


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["rotogard"], "did you mean rotograd"),
        (["vanilla"] * 2, "each row once"),
        ([], "at least one row"),
    ],
)
def test_wrong_rows_are_refused(names: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        to_table_spec(SMALL).select(names)


def test_a_runs_overrides_are_experiment_table_row() -> None:
    spec = to_table_spec(SMALL)
    words = ["experiment=multimnist", "train.epochs=2", "method=rotograd"]
    assert spec.overrides_of("rotograd") == words
    assert to_table_spec(changed("experiment", None)).overrides_of("rotograd") == words[1:]


def test_printed_values_may_have_a_spread_and_a_mark() -> None:
    spec = to_table_spec(changed("paper.rows", {"vanilla": {"left": [1, None, "*"], "gain": None}}))
    assert spec.printed("vanilla", "left") == PaperValue(1.0, None, "*")
    assert spec.printed("vanilla", "gain") is None
    assert spec.printed("rotograd", "left") is None
