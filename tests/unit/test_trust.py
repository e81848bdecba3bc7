"""What a saved configuration may name: decided without importing anything of a stranger's."""

import copy
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose

from rotograd_cli.config.compose import composing
from rotograd_cli.config.files import config_dir
from rotograd_cli.config.schema import to_train_config
from rotograd_cli.errors import ConfigError
from rotograd_cli.runs.saved import MAX_BYTES, load_run_config, saved_config
from rotograd_cli.runs.trust import Trust, trust_arguments

SOURCE = Path("run/config.yaml")

EVIL = """
from pathlib import Path
Path(__file__).with_name("hacked").touch()
Net = dict
"""


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """A run's configuration, as it is saved."""
    with composing():
        return asdict(to_train_config(compose("train", ["data=synthetic", "logger=none"])))


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that is there once the module ``evil`` has been imported."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "hacked"
    sys.modules.pop("evil", None)


def check(config: dict[str, Any], trust: Trust | None = None) -> None:
    """What every command does before it builds."""
    (trust or Trust()).check(asdict(saved_config(config, SOURCE)), SOURCE, SOURCE.parent)


def changed(config: dict[str, Any], where: str, node: Any) -> dict[str, Any]:
    """The configuration with another node at a dotted place."""
    result = copy.deepcopy(config)
    section = result
    *parents, last = where.split(".")
    for name in parents:
        section = section.setdefault(name, {})
    section[last] = node
    return result


def of(target: Any, **values: Any) -> dict[str, Any]:
    return {"_target_": target, **values}


PLACES = (
    *("data", "backbone", "head", "heads.task_0", "method", "model_optimizer", "method_optimizer"),
    *("model_scheduler.scheduler", "method_scheduler.scheduler", "logger"),
)
STRANGERS = (
    "evil.Net",
    "evil",
    "os.mkdir",
    "builtins.exec",
    "hydra.utils.instantiate",
    "functools.partial",
    "torch.hub.load",
    "torch.load",
    "torch.nn.modules.module.torch.hub.load",
    "torch.nn.modules.module.torch.load",
    "torch.nn.Module.load_state_dict",
    "torch.nn.Module.__init__",
    "torch.nn.modules.module.torch.jit.ScriptModule",
    "torch.nn.modules.module.torch.ao.nn.quantized.Linear",
    "torch.nn.functional.relu",
    "torch.nn.init.zeros_",
    "torch.nn",
    "torch.nnx.Linear",
    "torch.optim.lr_scheduler.partial",
    "torch.optim.lr_scheduler.warnings.warn",
    "torchvision.models.get_model",
    "torchvision.models.resnet.partial",
    "torchvision.datasets.MNIST",
    "torchvision.models._api.import_module",
    "rotograd_cli.cli.os.mkdir",
    "rotograd_cli.cli.main",
    "rotograd_cli.runs.experiment.train",
    "rotograd_cli.runs.trust.Trust",
    "rotograd_cli.evil.Net",
    "rotograd_cli.tracking.wandb.Path",
    "rotograd_cli..cli.main",
    "rotograd_cli. cli.main",
    ".rotograd_cli.cli.main",
    "",
    "???",
    3,
    None,
    ["torch.nn.Linear"],
    {"_target_": "torch.nn.Linear"},
)


def test_no_place_takes_a_strangers_component(config: dict[str, Any], marker: Path) -> None:
    for where in PLACES:
        for name in STRANGERS:
            with pytest.raises(ConfigError, match=r"run/config\.yaml"):
                Trust().check(changed(config, where, of(name)), SOURCE, SOURCE.parent)
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_the_refusal_names_place_file_kind_name_and_both_remedies(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(changed(config, "backbone", of("torch.hub.load", repo_or_dir=".")))
    assert str(caught.value) == (
        "`backbone._target_` in run/config.yaml must be a network of this package, torch.nn or "
        "torchvision.models, got 'torch.hub.load'; add --config-dir DIR if one of your YAML "
        "files in DIR names it, or trust=true to run it anyway."
    )


KINDS = {
    "data": "rotograd_cli.data.synthetic.Synthetic",
    "backbone": "torch.nn.Flatten",
    "head": "torchvision.models.resnet18",
    "heads.task_0": "rotograd_cli.models.heads.MLPHead",
    "method": "rotograd_cli.methods.rotograd.RotoGrad",
    "model_optimizer": "torch.optim.AdamW",
    "model_scheduler.scheduler": "torch.optim.lr_scheduler.StepLR",
    "logger": "rotograd_cli.tracking.wandb.WandbTracker",
}


def test_a_place_takes_its_own_kind_alone(config: dict[str, Any]) -> None:
    networks = ("backbone", "head", "heads.task_0")
    for where in KINDS:
        for other, name in KINDS.items():
            node = changed(config, where, of(name))
            # a method is a network; whether it is one that fits is said when it is built
            if where == other or (where in networks and other in (*networks, "method")):
                check(node)
            else:
                with pytest.raises(ConfigError, match=rf"`{where}\._target_`"):
                    check(node)


def test_networks_alone_are_taken_inside_a_component(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def inside(node: Any) -> Iterator[dict[str, Any]]:
        yield of("torch.nn.Sequential", _args_=[of("torch.nn.Flatten"), node])
        yield of("torch.nn.Sequential", layer={"list": [[node]]})
        yield of("torch.nn.Sequential", _recursive_=False, _partial_=True, layer=node)

    file = str(tmp_path / "hacked")
    for where in PLACES:
        for name in ("os.mkdir", "rotograd_cli.tracking.jsonl.JsonlTracker", "torch.optim.SGD"):
            for node in inside(of(name, path=file)):
                top = KINDS.get(where, KINDS.get(where.replace("method_", "model_")))
                with pytest.raises(ConfigError, match=f"got '{name}'"):
                    check(changed(config, where, {**node, "_target_": top}))
    for node in inside(of("torch.nn.ReLU")):
        check(changed(config, "backbone", node))


def test_what_the_users_own_files_name_is_taken(config: dict[str, Any], tmp_path: Path) -> None:
    own, run_dir = tmp_path / "conf", tmp_path / "data"
    node = changed(config, "backbone", of("mylib.Net", layer=of("mylib.Layer")))
    for folder in (own / "backbone", own / "sub", own / "backbone" / "more"):
        folder.mkdir(parents=True)
    (own / "backbone" / "broken.yaml").write_text("a: [")
    (own / "sub" / "mine.yaml").write_text("_target_: mylib.Net\nx: {_target_: mylib.Layer}")
    (own / "backbone" / "commented.yaml").write_text("# _target_: mylib.Net\n_target_: torch.nn.X")
    with pytest.raises(ConfigError, match=r"mylib\.Net"):  # `sub` is no group
        check(node, Trust(folders=(own,)))
    (own / "backbone" / "mine.yaml").write_text("_target_: mylib.Net")
    with pytest.raises(ConfigError, match=r"`backbone\.layer\._target_`.*mylib\.Layer"):
        check(node, Trust(folders=(own,)))
    (own / "backbone" / "more" / "mine.yaml").write_text("x: [{_target_: mylib.Layer}]")
    check(node, Trust(folders=(own,)))
    check(node, Trust(everything=True))

    # a run in a folder whose name is a group's vouches for nothing, not even in the user's folder
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text("_target_: mylib.Net\nx: {_target_: mylib.Layer}")
    with pytest.raises(ConfigError, match=r"mylib\.Net"):
        Trust(folders=(tmp_path,)).check(node, run_dir / "config.yaml", run_dir)


def test_every_component_of_this_package_is_taken() -> None:
    groups = {place.split("_")[-1].split(".")[0]: place for place in KINDS if "." not in place}
    groups["scheduler"] = "model_scheduler"
    num = 0
    for group, place in groups.items():
        for file in (config_dir() / group).glob("*.yaml"):
            text = file.read_text(encoding="utf-8").replace("???", "torch.nn.Identity")  # yours
            Trust().check({place: yaml.safe_load(text)}, file, file)
            num += "_target_" in text
    assert num > 40


def test_nothing_in_a_saved_configuration_is_resolved(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "12345")
    for value in (
        "${oc.env:SECRET}",
        "\\${oc.env:SECRET}",
        "x${seed}",
        "${oc.decode:'[1]'}",
        "${oc.create:{_target_:os.mkdir,path:hacked}}",
        "${rotograd.process:}",
    ):
        for where in ("paths.data_dir", "device", "backbone.x", "heads.task_0.x", "rotation.shape"):
            for node in (value, {"a": [value]}):
                with pytest.raises(
                    ConfigError, match="is an interpolation, which no run"
                ) as caught:
                    saved_config(changed(config, where, node), SOURCE)
                assert "12345" not in str(caught.value)


def saved(tmp_path: Path, text: str) -> Path:
    (tmp_path / "config.yaml").write_text(text)
    return tmp_path


LAUGHS = "\n".join(
    ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]
)
MERGES = "\n".join(
    [
        "a0: &a0 {x: 1}",
        *(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)),
    ]
)


def test_a_file_that_no_run_wrote_is_refused_at_once(tmp_path: Path) -> None:
    for text in (
        "tags: !!python/object/apply:os.mkdir [hacked]",
        "tags: !!python/name:os.system",
        "tags: !unknown x",
        LAUGHS,
        MERGES,
        "a: " + "[" * 5000 + "]" * 5000,
        "{" * 5000,
        "a: " + "x" * MAX_BYTES,
        "? [a]\n: b",
        "a: \x00",
        "- a",
        "seed: 2001-01-01",
        "seed: .nan",
        "seed: !!binary aGVsbG8=",
        "seed: !!set {a, b}",
        "1: 2",
        "null: 2",
        "seed: {1: 2}",
    ):
        with pytest.raises(ConfigError) as caught:
            load_run_config(saved(tmp_path, text))
        assert len(str(caught.value)) < 600
        assert len(str(caught.value).splitlines()) == 1
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_run_config(tmp_path)
    assert not (tmp_path / "hacked").exists()


def test_a_value_is_written_out_and_not_repeated(config: dict[str, Any], tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in config.items() if key != "heads"})
    load_run_config(saved(tmp_path, f"{text}heads: {{a: {{b: 1}}, c: {{b: 1}}}}"))
    with pytest.raises(ConfigError, match=r"cannot be read \(it repeats a value with \*"):
        load_run_config(saved(tmp_path, f"{text}heads: {{a: &x {{b: 1}}, c: *x}}"))


def test_records_are_sent_to_an_account_that_the_user_has_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logger = {"mode": "online", "entity": "evil"}
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    with pytest.raises(ConfigError) as caught:
        Trust().check_destination(logger, SOURCE)
    assert str(caught.value) == (
        "`logger.entity` in run/config.yaml must be named by you before records are sent there, "
        "got 'evil'; add trust=true if it is yours, or logger=none."
    )
    for harmless in ({**logger, "mode": "offline"}, {**logger, "entity": None}, {}, None):
        Trust().check_destination(harmless, SOURCE)
    Trust(everything=True).check_destination(logger, SOURCE)
    monkeypatch.setenv("WANDB_ENTITY", "evil")
    Trust().check_destination(logger, SOURCE)


def test_a_saved_configuration_is_read_as_it_was(config: dict[str, Any], tmp_path: Path) -> None:
    text = yaml.safe_dump({**config, "tags": ["ü", "a: b", "*c", "$d"]}, allow_unicode=True)
    assert "&" not in text
    loaded = asdict(load_run_config(saved(tmp_path, text)))
    assert loaded == {**config, "tags": ["ü", "a: b", "*c", "$d"]}


def test_a_command_names_the_folder_that_vouches_for_a_run(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "backbone").mkdir(parents=True)
    (tmp_path / "conf" / "backbone" / "mine.yaml").write_text("_target_: mine.Net\n")
    own = changed(config, "backbone", {"_target_": "mine.Net"})
    assert trust_arguments(config, SOURCE.parent) == []
    assert trust_arguments(own, SOURCE.parent) == ["trust=true"]
    monkeypatch.setattr("rotograd_cli.runs.trust.user_folders", lambda: (tmp_path / "conf",))
    assert trust_arguments(config, SOURCE.parent) == []
    assert trust_arguments(own, SOURCE.parent) == ["--config-dir", "conf"]
