"""Every YAML file composes, fits its target and explains its keys."""

import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from omegaconf import OmegaConf

from rotograd_cli.config.components import (
    Constructor,
    Constructors,
    accepted_parameters,
    data_constructor,
)
from rotograd_cli.config.compose import composing, composing_many
from rotograd_cli.config.files import config_dir
from rotograd_cli.config.schedules import Schedule
from rotograd_cli.config.schema import BenchConfig, TrainConfig, to_bench_config, to_train_config
from rotograd_cli.runs.saved import load_run_config

from .conftest import SMOKE

CONF = config_dir()
NODES = {  # group: where its files go in the configuration
    "method": ("method",),
    "data": ("data",),
    "backbone": ("backbone",),
    "head": ("head",),
    "logger": ("logger",),
    "paths": ("paths",),
    "experiment": ("experiment",),
    "debug": ("debug",),
    "workload": ("workload",),
    "optimizer": ("optimizer@model_optimizer", "optimizer@method_optimizer"),
    "scheduler": ("scheduler@model_scheduler", "scheduler@method_scheduler"),
}
CHOICES = {
    node: [f"{node}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]
    for group, nodes in NODES.items()
    for node in nodes
}
# what the runner hands to every component of a group
SUPPLIED = {
    "method": ("backbone", "heads", "feature_shape", "num_tasks", "task_names"),
    "data": (),  # `data_constructor` knows
    "backbone": ("input_shape",),
    "head": ("feature_shape", "num_outputs"),
    "logger": ("run_dir", "config", "tags"),
    "optimizer": ("params",),
    "scheduler": ("optimizer",),
}
COMPONENTS = [p for group in SUPPLIED for p in sorted((CONF / group).glob("*.yaml"))]


def with_module(overrides: Sequence[str]) -> list[str]:
    """Name the network that ``backbone=module`` leaves to the user."""
    is_named = "backbone=module" in overrides
    return [*overrides, *(["backbone.module._target_=torch.nn.Flatten"] if is_named else [])]


def composed(*overrides: str) -> TrainConfig:
    with composing():
        config = compose("train", overrides=with_module(overrides))
    return to_train_config(config)


def composed_bench(*overrides: str) -> BenchConfig:
    with composing():
        # the name refers to Hydra's own choices, which a composition alone does not have
        config = compose("bench", overrides=["bench.name=name", *with_module(overrides)])
    return to_bench_config(config)


def test_every_group_of_the_folder_is_tested() -> None:
    # tests/unit/test_tables_spec.py, tests/cli/test_reproduce.py, tests/cli/test_launchers.py
    elsewhere = {"table", "figure", "launcher", "sweep"}
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == set(NODES) | elsewhere


# these set what other groups choose: each is composed on its own
PRESETS = ("experiment", "debug", "workload")


def rows_of_choices() -> Iterator[list[str]]:
    """Lists of choices, at most one of each component; every choice is in one of them."""
    components = (choices for node, choices in CHOICES.items() if node not in PRESETS)
    for row in zip_longest(*components):
        yield [choice for choice in row if choice is not None]


def test_every_choice_composes_and_its_components_accept_their_values() -> None:
    presets = [[choice] for choice in CHOICES["experiment"] + CHOICES["debug"]]
    with composing_many():
        for choices in (*rows_of_choices(), *presets):
            config = compose("train", overrides=with_module(choices))
            Constructors(to_train_config(config))


def test_every_choice_of_a_benchmark_composes_and_its_components_accept_their_values() -> None:
    one_of_each = next(rows_of_choices())
    presets = [[choice] for choice in CHOICES["workload"] + CHOICES["experiment"][:1]]
    for choices in (one_of_each, *presets):
        Constructors(composed_bench(*choices))


def test_a_workload_has_its_own_name_and_says_its_command() -> None:
    for file in (CONF / "workload").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["bench"]["name"] == file.stem
        assert f"# Command: rotograd bench workload={file.stem}" in text


def test_a_workload_wins_over_an_experiment_and_the_command_line_over_both() -> None:
    config = composed_bench("experiment=multimnist", "workload=linear40", "data.num_tasks=7")
    assert config.data["_target_"].endswith("Synthetic")
    assert config.backbone["_target_"].endswith("MLP")
    assert (config.data["num_tasks"], config.method["rotation_shape"]) == (7, 512)
    assert config.method["_target_"].endswith("RotoGradNorm")
    assert config.model_scheduler["scheduler"]["T_max"] == "end"  # the experiment's cosine


def test_train_and_bench_have_the_same_values() -> None:
    trained, measured = (asdict(c) for c in (composed("method=rotogradnorm"), composed_bench()))
    del measured["bench"]
    assert trained | {"diagnostics": "off"} == measured  # no part of what a step costs


def test_every_parameter_of_a_component_comes_from_its_file_or_the_runner() -> None:
    for file in COMPONENTS:
        group = file.parent.name
        options = {"train": {"epochs": 2, "select_mode": "min"}}  # some refer to it
        loaded = OmegaConf.merge(OmegaConf.load(file), options)
        if file.stem == "module":
            loaded.module._target_ = "torch.nn.Flatten"
        content: Any = OmegaConf.to_container(loaded, resolve=True)
        node = content["scheduler"] if group == "scheduler" else content
        values = {key: 1.0e-3 if value == "???" else value for key, value in node.items()}
        for key in ("train", "defaults", "gradients"):  # the last is the network's
            values.pop(key, None)
            content.pop(key, None)
        supplied = data_constructor(values).supplied if group == "data" else SUPPLIED[group]
        if group == "scheduler":  # a length may be in words
            Schedule(content | {"scheduler": values}, group, Constructor)
        else:
            Constructor(values, group, *supplied)  # refuses what its target does not take
        if values["_target_"].startswith("rotograd_cli."):  # of others, the file sets what matters
            accepted = accepted_parameters(pkgutil.resolve_name(values["_target_"]))
            assert accepted is not None
            missing = set(accepted) - set(values) - set(supplied)
            # presets may set the mode; data sets per task refuse a collate
            optional = {"none": {"mode"}, "torch_per_task": {"collate"}}.get(file.stem, set())
            if group == "method":
                optional = {"rule", "objective"}  # set by the classes that have a name of their own
            assert missing <= optional, f"{file} leaves {missing} to a constructor's default"


def test_every_file_opens_with_what_it_is() -> None:
    for file in CONF.rglob("*.yaml"):
        lines = [x for x in file.read_text(encoding="utf-8").splitlines() if "@package" not in x]
        assert lines[0].startswith("# "), file
        assert len(lines[0]) > 15, file


def test_every_key_of_a_component_has_a_comment() -> None:
    silent = ("_target_", "_partial_", "_label_", "scheduler")
    for file in COMPONENTS:
        for line in file.read_text(encoding="utf-8").splitlines():
            key = line.strip().split(":")[0]
            if not line.strip().startswith("#") and key not in silent:
                assert "#" in line, f"{file}: `{key}` is not explained"


def test_the_experiment_file_says_source_expectation_cost_and_command() -> None:
    for file in (CONF / "experiment").glob("*.yaml"):
        text = file.read_text(encoding="utf-8")
        for word in ("Source:", "Expected", "Cost:", "Command: rotograd train"):
            assert word in text, f"{file.name} does not say {word}"


def test_an_experiment_is_complete_and_the_command_line_still_wins() -> None:
    config = composed("experiment=multimnist", "seed=7", "train.epochs=3", "method=vanilla")
    assert config.data["_target_"].endswith("MultiMNIST")
    assert config.model_optimizer["_target_"] == "torch.optim.RAdam"
    assert config.method_optimizer["_target_"] == "torch.optim.RAdam"
    assert (config.seed, config.train.epochs) == (7, 3)
    assert config.method["_target_"].endswith("VanillaMTL")


def test_the_debug_presets_win_over_an_experiment() -> None:
    config = composed("experiment=multimnist", "debug=smoke")
    assert (config.train.epochs, config.train.limit_batches, config.device) == (1, 2, "cpu")


def test_the_written_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = composed("+heads.left.hidden=[7]", "tags=[a,b]", "tasks=[left,right]", "seed=0")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    assert load_run_config(tmp_path) == config


def test_the_run_writes_a_resolved_configuration(smoke_run: Path) -> None:
    text = (smoke_run / "config.yaml").read_text(encoding="utf-8")
    assert "${" not in text
    assert "???" not in text
    content = yaml.safe_load(text)
    assert isinstance(content, Mapping)
    assert asdict(load_run_config(smoke_run)) == content
    assert load_run_config(smoke_run) == composed(*SMOKE)
