"""A refusal changes no file: not of a run, not of a sweep, whatever was asked for."""

import json
import shutil
from pathlib import Path

import pytest

from rotograd_cli.errors import CELL_FAILED, WRONG_INPUT
from rotograd_cli.runs.directory import claimed
from tests.forked import Forked

from .conftest import Cli, run_in

TINY = (
    *("debug=smoke", "logger=none", "method=vanilla", "data=synthetic"),
    *("data.num_train=32", "data.num_val=16", "data.num_test=16"),
)
SWEEP = ("train", "-m", *TINY, "hydra.sweep.dir=sweep")


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file with its time and content, every folder."""
    found = sorted(folder.rglob("*"))
    files = {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in found if p.is_file()}
    return files | {str(p): (0, b"") for p in found if p.is_dir()}


def set_status(run: Path, status: str) -> None:
    path = run / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, unfinished ones that nothing can go on with, and a finished sweep."""
    folder = tmp_path_factory.mktemp("refusals")
    run_in(folder, "train", *TINY, "hydra.run.dir=run")
    for name in ("damaged", "foreign"):
        shutil.copytree(folder / "run", folder / name)
        (folder / name / ".lock").unlink()
        set_status(folder / name, "interrupted")
    (folder / "damaged" / "checkpoints" / "last.pt").write_bytes(b"<html>")
    config = folder / "foreign" / "config.yaml"
    config.write_text(config.read_text().replace("num_features: 50", "num_features: 40"))
    assert "num_features: 40" in config.read_text()
    run_in(folder, *SWEEP, "seed=0,1")
    return folder


@pytest.fixture
def folders(trained: Path, tmp_path: Path) -> Path:
    """A copy of them, in ``tmp_path``."""
    return shutil.copytree(trained, tmp_path, dirs_exist_ok=True)


def test_a_refusal_changes_no_file(cli: Cli, folders: Path) -> None:
    before = tree(folders)
    for words, message in (
        (("train", *TINY, "hydra.run.dir=run"), "run holds a run already"),
        (("train", *TINY, "hydra.run.dir=run", "hydra.output_subdir=.hydra"), "a run already"),
        (("train", *TINY, "hydra.run.dir=run", "train.epochs=0"), "a run already"),
        (("train", *TINY, "hydra.run.dir=new", "train.epochs=0"), "at least 1"),
        (("train", *TINY, "hydra.run.dir=run", "resume=auto", "seed=9"), "another configuration"),
        (("train", "resume=run", "seed=9"), "as it was configured, got seed=9"),
        (("train", "resume=nosuch"), "`resume` must be a run directory, got nosuch"),
        (("train", "resume=damaged"), "last.pt cannot be read as a checkpoint"),
        (("train", "resume=foreign"), "checkpoint of another model"),
        ((*SWEEP, "seed=7,8"), "sweep already holds runs, in 0, 1;"),
        (
            (*SWEEP, "seed=0,7", "resume=auto"),
            "runs of other configurations, in 1;",
        ),
        ((*SWEEP, "seed=0,1", "resume=run"), "`resume` must be auto in a sweep"),
        ((*SWEEP, "method=vanilla,nosuch", "resume=auto"), "must be one of"),
        ((*SWEEP, "seed=0,1", "resume=auto", "sed=3"), "did you mean seed?"),
        (
            ("train", "-m", *TINY, "hydra.sweep.dir=.", "hydra.sweep.subdir=run"),
            "already holds runs",
        ),
        (("evaluate", "run=damaged", "checkpoint=last"), "cannot be read as a checkpoint"),
        (("evaluate", "run=run", "split=tset"), "`split` must be train or val"),
        (("table", "runs=run", "table=nosuch", "output=run"), "`table` must be one of"),
        (("table", "runs=[run,sweep]", "seeds=0", "output=run"), "`seeds` must be"),
        (("bench", "data=synthetic", "hydra.run.dir=run"), "holds a run already"),
        (("reproduce", "table=nosuch", "paths.output_dir=run"), "must be one of"),
    ):
        result = cli(*words)
        assert result.code == WRONG_INPUT, (words, result)
        assert message in result.err, words
        assert len(result.err.splitlines()) == 1, result.err
        after = tree(folders)
        changed = sorted(set(after.items()) ^ set(before.items()))
        assert not changed, (words, [name for name, _ in changed])


@pytest.mark.slow
def test_a_launcher_gets_no_cell_whose_folder_holds_another_run(cli: Cli, folders: Path) -> None:
    before = tree(folders)
    for launcher, package in (("local", "joblib"), ("slurm", "submitit")):
        pytest.importorskip(f"hydra_plugins.hydra_{package}_launcher")
        result = cli(*SWEEP, f"launcher={launcher}", "resume=auto", "seed=7,8")
        assert result.code == WRONG_INPUT
        assert "holds runs of other configurations, in 0, 1;" in result.err
        assert tree(folders) == before
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    result = cli(*SWEEP, "sweep=optuna", "hydra.sweeper.n_trials=2")
    assert result.code == WRONG_INPUT
    assert "sweep already holds runs, in 0, 1" in result.err
    assert tree(folders) == before


@pytest.mark.slow
def test_a_search_ends_at_a_trial_whose_folder_holds_another_run(folders: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    before = tree(folders)
    process = Forked((*SWEEP, "sweep=optuna", "resume=auto"), folders, {"OMP_NUM_THREADS": "1"})
    _, err = process.communicate(timeout=120)
    assert process.returncode == WRONG_INPUT, err
    assert "sweep/0 holds a run of another configuration" in err.splitlines()[-1]
    assert tree(folders) == before


def test_a_sweep_goes_on_with_what_is_there(cli: Cli, folders: Path) -> None:
    sweep = folders / "sweep"
    shutil.rmtree(sweep / "1" / "checkpoints")
    set_status(sweep / "1", "interrupted")
    before = tree(sweep / "0")
    result = cli(*SWEEP, "seed=0,1,2", "resume=auto")
    assert result.code == 0, result.err
    assert "sweep/0 is finished" in result.err
    assert "3 cells on synthetic: test metrics" in result.out
    assert tree(sweep / "0") == before


def test_a_cell_leaves_the_folder_alone_in_which_another_process_trains(
    cli: Cli, folders: Path
) -> None:
    sweep = folders / "sweep"
    set_status(sweep / "0", "interrupted")
    before = tree(sweep / "0")
    with claimed(sweep / "0"):
        result = cli(*SWEEP, "seed=0,1,2", "resume=auto")
        assert result.code == CELL_FAILED
        assert "cell 0 failed: " in result.err
        assert "is training in it" in result.err.splitlines()[-1]
        assert tree(sweep / "0") == before
    assert json.loads((sweep / "2" / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_cell_of_another_process_leaves_it_alone_too(cli: Cli, folders: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    set_status(folders / "sweep" / "0", "interrupted")
    before = tree(folders / "sweep" / "0")
    with claimed(folders / "sweep" / "0"):
        result = cli(*SWEEP, "launcher=local", "seed=0,1", "resume=auto")
    assert result.code == CELL_FAILED
    assert tree(folders / "sweep" / "0") == before


def test_a_finished_cell_of_a_table_is_not_said_to_have_failed(cli: Cli, tmp_path: Path) -> None:
    """A cell that was refused in a new folder is recorded there, and tried again."""
    words = ("method.rotation_shape=30", "backbone.num_features=20,40", "method=rotateonly")
    assert cli(*SWEEP, *words, "resume=auto").code == CELL_FAILED
    found = tree(tmp_path / "sweep" / "1")
    again = cli(*SWEEP, *words, "resume=auto")
    assert again.code == CELL_FAILED
    assert tree(tmp_path / "sweep" / "1") == found
    fresh = cli(*SWEEP, *words)
    assert fresh.code == WRONG_INPUT
    assert "already holds runs, in 0, 1" in fresh.err
