"""Wrong input is one line that names thing and remedy, exit code 2, and nothing left behind."""

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from rotograd_cli.config.messages import explain
from rotograd_cli.runs import building
from tests.marks import slow_unless

from .conftest import SMOKE, Cli

VANILLA = "_target_: rotograd_cli.methods.vanilla.VanillaMTL\n_partial_: true\n"


def refused(cli: Cli, folder: Path, *words: str) -> str:
    """The one line of a refusal; checks everything that all refusals share."""
    before = set(folder.rglob("*"))
    result = cli(*words)
    assert result.code == 2, result
    assert result.out == ""
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("rotograd: ")
    assert set(folder.rglob("*")) == before, "something was left behind"
    return result.err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("trian", "'trian' is not a command; did you mean train?"),
        ("frobnicate", "choose from bench, data, evaluate, "),
        ("seed=1", "put it after a command: rotograd train seed=1"),
        ("train --foo", "unrecognized arguments: --foo; rotograd train --help"),
        ("train --epochs 3", "unrecognized arguments: --epochs; write train.epochs=VALUE."),
        ("train --cfg", "expected one argument; rotograd train --help"),
        ("train --cfg everything", "choose from 'job', 'hydra', 'all'"),
        ("train -m --cfg job seed=0,1", "leave -m out to see one cell"),
        ("train --info all -m", "leave -m out"),
        ("train -m --run seed=0,1", "Only one of --run, --multirun"),
        ("train --config-dir nowhere", "--config-dir must name an existing folder"),
        ("train --config-name other", "add your own files with --config-dir"),
        ("train --experimental-rerun x.pickle", "not supported; give the run's overrides"),
        ("evaluate", "`run` needs a value; add run=VALUE"),
        ("evaluate outputs/run", "must read KEY=VALUE, got 'outputs/run'"),
        ("evaluate run=nowhere", "nowhere without a config.yaml; rotograd train prints"),
        ("evaluate run=", "`run` must be a run directory"),
        ("evaluate run=x split=tset", "`split` must be train or val or test, got 'tset'"),
        ("evaluate run=x checkpoint=first", "`checkpoint` must be best or last"),
        ("evaluate run=x split=val,test", "add -m to run them all"),
        ("evaluate run=x splt=val", "did you mean split?"),
    ],
)
def test_a_wrong_command_is_refused(cli: Cli, tmp_path: Path, words: str, expected: str) -> None:
    assert expected in refused(cli, tmp_path, *words.split())


WRONG_OVERRIDES = [
    # names
    ("method=../data/multidigits", "`method`"),
    ("model_optimizer=sgd", "choose one with optimizer@model_optimizer=NAME"),
    ("method=null", "`method` needs a value; add method=VALUE (alignedmtl, "),
    ("method=3", "must name a file of its group, got 'method=3'"),
    ("method=[vanilla,rotograd]", "takes one file"),
    ("hydra/launcher=joblb", "`hydra/launcher` must be one of"),
    ("train.epocs=3", "did you mean train.epochs?"),
    ("hydra.run.dir=", "`hydra.run.dir` must be a folder of its own"),
    ("logger.images=3", "logger=none, which takes no pictures; choose logger=tensorboard or"),
    ("+train.epocs=3", "did you mean train.epochs?"),
    ("++foo=3", "`foo` is not a key; choose from backbone"),
    ("+method.foo=3", "`method.foo` is not an option of RotoGrad; choose from"),
    ("+backbone.input_shape=[1]", "given by the runner; leave it out"),
    ("+heads.foo.hidden=[3]", "`heads.foo` is not a task of this run"),
    ("+heads.left.hiden=[3]", "did you mean heads.left.hidden?"),
    ("+heads.left=3", "write +heads.left.KEY=VALUE"),
    ("tasks=[lft]", "got 'lft'; did you mean left?"),
    ("tasks=[left,left]", "each task once"),
    ("tasks=[]", "use null for all"),
    ("train.select=val/foo", "choose from val/auto, val/left/loss"),
    ("method._target_=nowhere.Foo", "cannot be imported, got 'nowhere.Foo'"),
    ("~seed", "`seed` needs a value; add seed=VALUE"),
    # values
    ("seed=abc", "a whole number is needed, got 'abc'"),
    ("seed=-1", "must be at least 0, got -1"),
    ("device=tpu", "auto, cpu, cuda or cuda:i, got 'tpu'"),
    ("device=cuda:99", "use device=auto or device=cpu"),
    ("train.epochs=0", "must be at least 1"),
    ("train.batch_size=1000000", "must be at most the 11970 training examples"),
    ("train.accumulate_steps=3", "must divide train.batch_size"),
    ("train.grad_clip_norm=0", "must be more than 0"),
    ("train.patience=0", "`train.patience` must be at least 1, got 0"),
    ("train.ema_decay=1", "`train.ema_decay` must be less than 1, got 1.0"),
    ("parameter_groups=[{patern: x}]", "did you mean parameter_groups[0].pattern?"),
    ("parameter_groups=[{pattern: x, lr: 1}]", "must match a parameter, got 'x'; try backbone.*"),
    ("method.gradients=parameters", "does not rotate, such as method=pcgrad."),
    ("parameter_groups=3", "`parameter_groups`"),
    ("model_scheduler.warmup_epochs=1", "must leave steps to train after the warm-up, got 1"),
    ("train.select_mode=least", "must be min or max, got 'least'"),
    ("model_optimizer.lr=fast", "should be a valid number, got 'fast'"),
    ("model_optimizer.lr=-1", "was refused by"),
    ("method_scheduler.interval=day", "must be step or epoch"),
    ("backbone.num_features=many", "should be a valid integer"),
    ("backbone.num_features=0", "must be at least 1"),
    ("head.hidden=3", "`head.hidden` has a wrong value"),
    ("method.init=harr", "haar or identity, got 'harr'"),
    ("method._recursive_=3", "_recursive_"),
    ("data.partners=0", "must be at least 1"),
    ("data.seed=-1", "`data"),
    ("paths.output_dir=", "`paths.output_dir` must name a folder"),
    ("hydra.verbose=3", "check the command"),
    # what does not fit together
    ("method.rotation_shape=60", "choose a size of at most 50"),
    ("+heads.left._target_=torch.nn.Identity", "must return shape [1, 10] (N = 1), got [1, 50]"),
    ("head.hidden=[100000000000]", "does not fit into memory; lower"),
    # grammar
    ("foo", "must read KEY=VALUE, got 'foo'"),
    ("seed=1\n2", "check brackets and quotes"),
    ("seed=${sed}", "Interpolation key 'sed' not found"),
    ("seed=${oc.env:ROTOGRAD_NOT_SET}", "'ROTOGRAD_NOT_SET' not found"),
    ("paths.output_dir=${oc.env:ROTOGRAD_NOT_SET}", "'ROTOGRAD_NOT_SET' not found"),
]


# by default every fourth, which are some of each kind
@pytest.mark.parametrize(("word", "expected"), slow_unless(WRONG_OVERRIDES[::4], WRONG_OVERRIDES))
def test_a_wrong_override_is_refused(cli: Cli, tmp_path: Path, word: str, expected: str) -> None:
    if word.startswith("method._rec"):
        word = f"+{word}"
    assert expected in refused(cli, tmp_path, "train", *SMOKE, word)


@pytest.mark.parametrize("word", ["paths.output_dir=file/x", "hydra.run.dir=file/x"])
def test_an_output_directory_that_cannot_be_made_is_refused(
    cli: Cli, tmp_path: Path, word: str
) -> None:
    (tmp_path / "file").touch()
    line = refused(cli, tmp_path, "train", *SMOKE, word)
    assert "file/x" in line
    assert "choose another path" in line


def test_batches_that_are_too_large_are_refused_before_networks_are_built(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("networks are built")

    monkeypatch.setattr(building, "_build_parts", fail)
    line = refused(cli, tmp_path, "train", *SMOKE, "train.batch_size=20000")
    assert "must be at most the 11970 training examples, got 20000" in line


def test_a_figure_without_runs_names_some_that_are_there(cli: Cli, tmp_path: Path) -> None:
    for name in ("figures", "multidigits/run"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    (tmp_path / "outputs/multidigits/run/summary.json").touch()
    assert refused(cli, tmp_path, "plot").endswith("example runs=outputs/multidigits.\n")


def test_a_refusal_leaves_the_folders_that_were_there(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(cli, tmp_path, "train", *SMOKE, "train.epochs=0", "paths.output_dir=empty")
    refused(cli, tmp_path, "train", *SMOKE, "train.epochs=0", "hydra.run.dir=empty")
    refused(cli, tmp_path, "train", *SMOKE, "-m", "seed=a,b", "hydra.sweep.dir=empty/sweep")


@pytest.mark.parametrize("word", ["sed=0,1", "seed=a,b", "method=vanilla,foo", "method=[a"])
def test_a_wrong_sweep_is_refused_before_its_first_cell(
    cli: Cli, tmp_path: Path, word: str
) -> None:
    refused(cli, tmp_path, "train", *SMOKE, "-m", word)


def test_a_sweep_without_values_does_not_pass_for_done(cli: Cli) -> None:
    result = cli("train", *SMOKE, "-m", "seed=range(0)")
    assert result.code == 1
    assert "no cell" in result.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2", "mine.yaml, line 2, is not valid YAML"),
        ("strength:\t3", "mine.yaml, line 1, is not valid YAML"),
        (f"{VANILLA}a: 3\na: 4", "found duplicate key a"),
        ("", "must be a component with a _target_"),
        ("- 3", "must be a component with a _target_"),
        ("strength: 3", "must be a component with a _target_"),
        (f"{VANILLA}strength: 3", "`method.strength` is not an option of VanillaMTL"),
        ("defaults: [nowhere]", "got 'nowhere'"),
    ],
)
def test_a_broken_file_of_ones_own_is_refused(
    cli: Cli, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(text)
    words = ("--config-dir", "conf", "method=mine")
    assert expected in refused(cli, tmp_path, "train", *SMOKE, *words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train: {epocs: 3}", "In 'experiment/mine': `train.epocs` is not a key"),
        (
            "defaults: [override /methd: vanilla]",
            "In 'experiment/mine': `methd` is not a group here; did you mean method?",
        ),
        ("defaults: [override /method: vanila]", "Did you mean vanilla?"),
        ("defaults: [override /frob: sgd]", "`frob` is not a group; rotograd train --help lists"),
        ("defaults: [override /model_optimizer: sgd]", "did you mean optimizer@model_optimizer?"),
        ("defaults: [override /optimizer: sgd]", " or optimizer@model_optimizer?"),
        ("method: vanilla", "choose one with method=NAME"),
        ("seed: soon", "seed"),
        ("train: 3", "`train` has a wrong value: "),
        ("defaults: [/method: vanilla]", "`method` is chosen twice; write override /method: "),
        ("defaults: [override method: vanilla]", "write override /method: NAME."),
    ],
)
def test_a_broken_experiment_is_refused(cli: Cli, tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    file = tmp_path / "conf" / "experiment" / "mine.yaml"
    file.write_text(f"# @package _global_\n{text}\n")
    words = ("--config-dir", "conf", "experiment=mine")
    assert expected in refused(cli, tmp_path, "train", *SMOKE, *words)


def test_an_experiment_that_lacks_its_first_line_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    for text in ("", "train: {epochs: 2}", "defaults: [override /method: vanilla]"):
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
        line = refused(cli, tmp_path, "train", "--config-dir", "conf", "experiment=mine")
        assert "begin it with # @package _global_." in line


def test_missing_data_files_are_named(cli: Cli, tmp_path: Path) -> None:
    words = ("data=multimnist", "data.download=false", "paths.data_dir=nowhere")
    line = refused(cli, tmp_path, "train", *SMOKE, *words)
    assert "nowhere/MNIST/raw has 0 of MNIST's 4 files" in line
    assert "set paths.data_dir" in line


def test_corrupt_data_files_are_named(cli: Cli, tmp_path: Path) -> None:
    from rotograd_cli.data.multimnist import FILES

    (tmp_path / "mnist").mkdir()
    for name in FILES:
        (tmp_path / "mnist" / name).write_bytes(b"not a digit")
    words = ("data=multimnist", "data.download=false", "paths.data_dir=.")
    line = refused(cli, tmp_path, "train", *SMOKE, *words)
    assert "train-images-idx3-ubyte" in line
    assert "download MNIST again" in line


def _garbage(run: Path) -> None:
    (run / "checkpoints" / "best.pt").write_bytes(b"garbage")


def _cut(run: Path) -> None:
    path = run / "checkpoints" / "best.pt"
    path.write_bytes(path.read_bytes()[:1000])


def _no_checkpoint(run: Path) -> None:
    (run / "checkpoints" / "best.pt").unlink()


def _foreign(run: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, run / "checkpoints" / "best.pt")


def _without_model(run: Path) -> None:
    torch.save({"format": 1}, run / "checkpoints" / "best.pt")


def _other_model(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("num_features: 50", "num_features: 40"))


def _unknown_key(run: Path) -> None:
    path = run / "config.yaml"
    path.write_text(path.read_text() + "sed: 0\n")


def _bad_yaml(run: Path) -> None:
    (run / "config.yaml").write_text("a: [")


def _empty(run: Path) -> None:
    (run / "config.yaml").write_text("")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_garbage, "best.pt cannot be read as a checkpoint"),
        (_cut, "best.pt cannot be read as a checkpoint"),
        (_no_checkpoint, "no checkpoint run/checkpoints/best.pt"),
        (_foreign, "is not a checkpoint of this version"),
        (_without_model, "best.pt holds no model"),
        (_other_model, "best.pt is the checkpoint of another model"),
        (_unknown_key, "config.yaml is not a run's configuration: `sed` is not a key"),
        (_bad_yaml, "config.yaml cannot be read"),
        (_empty, "config.yaml must hold a mapping"),
    ],
)
def test_a_damaged_run_is_refused(
    cli: Cli, smoke_run: Path, damage: Callable[[Path], None], expected: str
) -> None:
    damage(smoke_run)
    assert expected in refused(cli, smoke_run.parent, "evaluate", "run=run")


def test_rotations_that_are_too_large_name_their_size(cli: Cli, tmp_path: Path) -> None:
    large = ("backbone=mlp", "backbone.hidden=[1]", "backbone.num_features=200000", "head=linear")
    line = refused(cli, tmp_path, "train", *SMOKE, "data=synthetic", *large)
    assert "rotate features of shape [200000] for each of 3 tasks" in line
    assert "rotation.shape=512" in line


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(-2, "Name or service not known"), "A connection failed (Name or service"),
        (URLError(socket.gaierror(-2, "Name or service not known")), "A connection failed (<url"),
        (ConnectionResetError(104, "Connection reset by peer"), "A connection failed (Connection"),
        (OSError(28, "No space left on device"), "free space or choose another folder"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (PermissionError(13, "Permission denied", "x"), "x cannot be used (Permission denied)"),
    ],
)
def test_what_the_system_refused_has_a_remedy_of_its_kind(error: OSError, expected: str) -> None:
    message = explain(error)
    assert message is not None
    assert expected in message
    assert ("free space" in message) == (error.errno == 28)


def test_a_bug_keeps_its_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr("rotograd_cli.runs.experiment.train", broken)
    with pytest.raises(ValueError, match="a bug of ours"):
        cli("train", *SMOKE)


def test_a_schedule_that_fails_when_it_advances_is_refused(cli: Cli, tmp_path: Path) -> None:
    words = ("scheduler@model_scheduler=step", "model_scheduler.scheduler.step_size=0")
    message = refused(cli, tmp_path, "train", "debug=smoke", "logger=none", *words)
    assert "`model_scheduler.scheduler` fails in step()" in message


@pytest.mark.parametrize("gamma", ["1e400", "nan"])
def test_a_schedule_whose_rate_becomes_infinite_or_nan_is_refused(
    cli: Cli, tmp_path: Path, gamma: str
) -> None:
    name = "method_scheduler"
    words = (f"scheduler@{name}=exponential", f"{name}.scheduler.gamma={gamma}", "method=rotograd")
    message = refused(cli, tmp_path, "train", "debug=smoke", "logger=none", *words)
    assert f"`{name}.scheduler` must keep learning rates finite, got {float(gamma)}" in message
    assert f"scheduler@{name}=constant" in message


def test_a_run_directory_given_to_evaluate_without_its_key_is_explained(
    cli: Cli, tmp_path: Path
) -> None:
    assert "did you mean run=outputs/x?" in refused(cli, tmp_path, "evaluate", "outputs/x")
