"""One identity of a run: resume, reproduce and table agree on every key."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose

from rotograd_cli.config.arguments import ready
from rotograd_cli.config.compose import composing
from rotograd_cli.config.schema import TrainConfig, to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.saved import (
    ADDED_KEYS,
    UNCOUNTED,
    flat,
    folders_by_key,
    holds_run,
    key,
    named_run,
    same_run,
    setting,
)
from rotograd_cli.runs.trust import Trust
from rotograd_cli.tables.adhoc import spec_from_runs
from rotograd_cli.tables.runs import find_runs
from tests.fake_runs import fake_summary, write_run

SUMMARY = fake_summary({"left/accuracy": 0.5, "sum/mse": 2.0})
OTHER = {
    "train.select": "val/left/loss",
    "data._target_": "rotograd_cli.data.toy.Toy",
    "tasks": ["left"],
}


def composed(*words: str) -> TrainConfig:
    with composing():
        return to_train_config(compose("train", list(words)))


def test_names_of_folders_do_not_change() -> None:
    """The keys of runs that were trained before ``train.average_last_epochs`` existed."""
    setting = "experiment=multimnist"
    named = {
        "e91aeecb5037e7f8": ("method=vanilla",),
        "d0d869e2840750c2": ("method=single", "tasks=[left]"),
    }
    for name, words in named.items():
        assert key(asdict(composed(setting, *words))) == name
    averaged = composed(setting, "method=vanilla", "train.average_last_epochs=10")
    assert key(asdict(averaged)) not in named


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return composed()


def changed(config: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The configuration with another value at a dotted key."""
    first, _, rest = name.partition(".")
    inner = changed(config[first], rest, value) if rest else value
    return {**config, first: inner}


def another(name: str, value: Any) -> Any:
    """Another value of the same type."""
    if name in OTHER:
        return OTHER[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return {type(None): 7, tuple: [7]}.get(type(value), f"{value}x")


def test_resume_reproduce_and_table_agree_on_every_key(config: TrainConfig, tmp_path: Path) -> None:
    plain = asdict(config)
    leaves = flat(plain)
    assert {name.partition(".")[0] for name in leaves} >= set(UNCOUNTED)
    for index, (name, value) in enumerate(leaves.items()):
        section = name.partition(".")[0]
        counts = section not in UNCOUNTED
        other = changed(plain, name, another(name, value))
        folder = tmp_path / str(index)
        write_run(folder / "a", plain, SUMMARY)
        write_run(folder / "b", other, {**SUMMARY, "seed": other["seed"]})

        assert (key(other) != key(plain)) == counts, name
        assert holds_run(folder / "b", config) != counts, name
        assert len(folders_by_key(folder)) == 1 + counts, name

        starts_anew = not same_run(config, folder / "new", [folder / "b"]).resumed
        assert starts_anew == counts, name
        if counts and section not in ("seed", "tasks"):  # of which one row has several
            if name not in ("train.epochs", "train.patience"):  # which may be raised
                with pytest.raises(ConfigError, match=f"got {name}=x too"):
                    named_run(str(folder / "a"), config, [f"{name}=x"], Trust())
            rows = spec_from_runs(find_runs([str(folder)]))[0].rows
            assert len(rows) == 2, name
        else:
            assert setting(other) == setting(plain), name
    assert len(leaves) > 50


def test_sections_that_do_not_count_may_change_on_resume(
    config: TrainConfig, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", asdict(config), SUMMARY)
    for section in UNCOUNTED:
        assert named_run(str(tmp_path / "run"), config, [f"{section}.x=1"], Trust()).resumed


def test_how_torchs_loader_reads_is_no_part_of_a_run(config: TrainConfig, tmp_path: Path) -> None:
    saved = asdict(config)
    saved["data"] = {"_target_": "rotograd_cli.data.toy.Toy", "_partial_": True}
    run, other = (
        {**saved, "data": {**saved["data"], "num_workers": num, "pin_memory": pins}}
        for num, pins in ((0, True), (4, False))
    )
    assert key(run) == key(other)
    write_run(tmp_path / "run", run, SUMMARY)
    name = str(tmp_path / "run")
    resumed = named_run(name, to_train_config(other), ["+data.num_workers=4"], Trust())
    assert resumed.config.data == {**run["data"], "num_workers": 4}
    with pytest.raises(ConfigError, match=r"got data\.seed=4 too"):
        named_run(name, to_train_config(other), ["data.seed=4"], Trust())


def test_a_group_that_is_switched_off_as_by_default_may_be_named_on_resume(
    config: TrainConfig, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", asdict(config), SUMMARY)
    run = str(tmp_path / "run")
    for group in ("debug", "experiment", "launcher", "sweep"):
        (argument,) = ready([f"{group}=null"])
        assert named_run(run, config, [argument], Trust()).resumed
    with pytest.raises(ConfigError, match="got ~method too"):
        named_run(run, config, ready(["method=null"]), Trust())


def test_a_key_that_an_earlier_version_did_not_have_means_what_that_version_did(
    config: TrainConfig, tmp_path: Path
) -> None:
    for name in ADDED_KEYS:
        old = asdict(config)
        section, _, last = name.rpartition(".")
        del (old[section] if section else old)[last]
        write_run(tmp_path / name, old, SUMMARY)
        assert holds_run(tmp_path / name, config), name
    without = {k: v for k, v in asdict(config).items() if k != "checkpoints"}
    write_run(tmp_path / "without", without, SUMMARY)
    assert holds_run(tmp_path / "without", config)


def test_a_default_run_of_before_auto_is_the_default_run(
    config: TrainConfig, tmp_path: Path
) -> None:
    """Data sets of this package have no negative loss: ``auto`` stands for the old default."""
    assert config.train.select == "val/auto"
    old = changed(asdict(config), "train.select", "val/geomean_loss")
    write_run(tmp_path / "old", old, SUMMARY)
    assert same_run(config, tmp_path / "new", [tmp_path / "old"]).run_dir == tmp_path / "old"
    relative = changed(old, "train.select", "val/relative_loss")
    assert key(relative) != key(old)


def test_what_auto_stands_for_is_known_of_ones_own_data_by_what_a_run_has_selected(
    config: TrainConfig,
) -> None:
    own = changed(asdict(config), "data._target_", "mine.Data")
    assert setting(own)["train.select"] == "val/auto"
    for name in ("val/geomean_loss", "val/relative_loss"):
        assert setting(own, name)["train.select"] == name
        assert key(changed(own, "train.select", name)) != key(own)
    assert setting(own, "val/left/loss")["train.select"] == "val/auto"


def test_what_is_no_configuration_is_of_no_run(config: TrainConfig, tmp_path: Path) -> None:
    texts = ("[", "3", "seed: [{1: 2, a: 3}]", "{}", yaml.safe_dump({"train": 3}))
    for index, text in enumerate(texts):
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "config.yaml").write_text(text)
        assert not holds_run(folder, config)
    assert not holds_run(tmp_path / "none", config)
    assert key(asdict(config)) not in folders_by_key(tmp_path)


def test_a_run_may_be_made_longer_and_not_shorter(config: TrainConfig, tmp_path: Path) -> None:
    cosine = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "_partial_": True}
    saved = changed(asdict(config), "train.patience", 3)
    for name, scheduler in (
        ("model_scheduler", {**cosine, "T_max": 15, "eta_min": 0.0}),  # as earlier versions wrote
        ("method_scheduler", {**cosine, "T_max": 7}),
    ):
        saved = changed(saved, name, {**saved[name], "interval": "epoch", "scheduler": scheduler})
    assert key(saved) == key(changed(saved, "model_scheduler.scheduler.T_max", "end"))
    assert key(saved) != key(changed(saved, "method_scheduler.scheduler.T_max", "end"))
    write_run(tmp_path / "run", saved, SUMMARY)
    run = str(tmp_path / "run")

    def resumed(*words: str) -> Any:
        return named_run(run, composed(*words), words, Trust())

    longer = resumed("train.epochs=40", "train.patience=null")
    assert longer.extended
    assert not longer.finished
    assert (longer.config.train.epochs, longer.config.train.patience) == (40, None)
    horizons = [
        s["scheduler"]["T_max"]
        for s in (longer.config.model_scheduler, longer.config.method_scheduler)
    ]
    assert horizons == ["end", 7]
    assert not resumed("train.epochs=15", "train.patience=3").extended
    for word, reason in {
        "train.epochs=14": "`train.epochs` of a run that goes on must be at least 15, as in ",
        "train.patience=2": "`train.patience` of a run that goes on must be at least 3, as in ",
    }.items():
        with pytest.raises(ConfigError) as caught:
            resumed(word)
        assert str(caught.value).startswith(reason)
