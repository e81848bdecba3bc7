"""rotograd data: check and prepare, then training on what was prepared."""

import shlex
from pathlib import Path

import pytest

from tests import fake_celeba, fake_svhn
from tests.cli.conftest import Cli
from tests.cli.test_train import summary

CELEBA = ("data.image_size=16", "data.limit=100", "paths.data_dir=data")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data root with a small CelebA, not prepared."""
    fake_celeba.write(tmp_path / "data" / "celeba")
    return tmp_path / "data"


def test_check_prepare_and_train_lead_from_files_to_a_table(
    cli: Cli, data_dir: Path, tmp_path: Path
) -> None:
    before = cli("data", "check", "celeba", *CELEBA)
    assert before.code == 2
    assert "NOT OK  prepared rows" in before.out
    command = "rotograd data prepare celeba data.image_size=16 data.limit=100"
    assert command in before.out
    assert "paths.data_dir" not in before.out  # it is the default
    refused = cli("train", "data=celeba", *CELEBA, "debug=smoke", "logger=none")
    assert refused.code == 2
    assert "run: rotograd data prepare celeba data.image_size=16" in refused.err
    assert len(refused.err.splitlines()) == 1

    prepared = cli("data", "prepare", "celeba", *CELEBA, "--workers", "1")
    assert prepared.code == 0, prepared.err
    assert "CelebA at 16x16 is prepared: 23 images" in prepared.out
    assert "preparing 23 of 23" in prepared.err
    after = cli("data", "check", "celeba", *CELEBA)
    assert after.code == 0
    assert "NOT OK" not in after.out

    words = ("data=celeba", *CELEBA, "backbone=lenet", "head=linear", "debug=smoke", "logger=none")
    result = cli("train", *words, "train.batch_size=5", "hydra.run.dir=run")
    assert result.code == 0, result.err
    assert "Note: subset: 10 / 7 / 6 of" in result.out
    assert "all" in result.out
    assert "mean f1 %" in result.out
    content = summary(tmp_path / "run")
    assert len(content["tasks"]) == 40
    assert content["metrics"]["test/mean_f1"] == pytest.approx(
        sum(content["metrics"][f"test/{task}/f1"] for task in content["tasks"]) / 40
    )
    assert 0 <= content["data_s"] <= content["train_s"]

    again = cli("evaluate", "run=run")
    assert again.code == 0, again.err
    assert "equal the run's record exactly" in again.out
    assert "Note: subset:" in again.out


@pytest.mark.slow
def test_svhn_trains_and_is_planned_as_a_table(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_svhn.write(tmp_path / "data" / "svhn")
    fake_svhn.expect(tmp_path / "data" / "svhn", monkeypatch)
    common = ("data.num_val=10", "logger=none", "device=cpu", "paths.data_dir=data")
    checked = cli("data", "check", "multisvhn", "paths.data_dir=data")
    assert checked.code == 0, checked.out
    trained = cli("train", "experiment=multisvhn", "debug=smoke", "train.batch_size=8", *common)
    assert trained.code == 0, trained.err
    options = ("table.grid=null", "methods=[single,vanilla]", "train.batch_size=8")
    planned = cli("reproduce", "table=svhn", "plan=true", *options, *common)
    assert planned.code == 0, planned.err
    rows = [line.split("│")[1:4] for line in planned.out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row] for row in rows[:2]] == [
        ["Single", "50", "0"],  # five tasks at ten seeds
        ["Vanilla", "10", "0"],
    ]


@pytest.mark.parametrize("name", ["da ta", "d'a\"t;a", "größe", "$HOME", "a=b,c", "(1)"])
def test_commands_that_are_suggested_work_when_pasted(name: str, cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / name
    fake_celeba.write(root / "celeba", counts=(2, 1, 1))
    options = ["data.image_size=16", "data.limit=2"]
    escaped = str(root).replace('"', '\\"')
    before = cli("data", "check", "celeba", *options, f'paths.data_dir="{escaped}"')
    assert before.code == 2
    (line,) = [x for x in before.out.splitlines() if x.startswith("prepared rows: ")]
    _, _, *words = shlex.split(line.partition("run: ")[2])
    prepared = cli("data", *words)
    assert prepared.code == 0, prepared.err
    assert (root / "celeba" / "prepared").is_dir()


def test_check_without_a_name_looks_at_every_data_set(cli: Cli) -> None:
    result = cli("data", "check", "paths.data_dir=nowhere")
    assert result.code == 0, result.err
    lines = {line.split()[0]: line for line in result.out.splitlines()}
    assert "needs no files" in lines["multidigits"]
    command = "rotograd data check NAME paths.data_dir=nowhere"
    assert f"{command} says what is missing and where to get it." in result.out
    for name in ("celeba", "cifar10", "multimnist", "multisvhn", "nyuv2"):
        assert "not ok" in lines[name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data",), "needs check or prepare, got 'nothing'"),
        (("data", "chekc"), "needs check or prepare, got 'chekc'"),
        (("data", "prepare"), "takes one data set, got none"),
        (("data", "prepare", "celebA"), "got 'celebA'. Did you mean celeba?"),
        (("data", "prepare", "multidigits"), "MultiDigits needs no preparation"),
        (("data", "prepare", "celeba", "--workers", "0"), "`--workers` must be at least 1, got 0"),
        (("data", "prepare", "celeba", "--workers", "x"), "rotograd data --help"),
        (("data", "prepare", "nyuv2", "--from", "x.mat"), "`--from` must name a file, got 'x.mat'"),
        (("data", "check", "nyuv2", "--from", "x"), "belongs to `rotograd data prepare`"),
        (("data", "prepare", "celeba", "data.imagesize=8"), "did you mean data.image_size?"),
        (("data", "prepare", "celeba", "data.image_size=big"), "`data.image_size` has a wrong"),
        (("data", "prepare", "celeba", "data.limit=0"), "`data.limit` must be at least 1"),
        (("data", "check", "celeba", "seed=1"), "`seed` has no meaning for the files"),
        (
            ("data", "check", "foo", "--config-dir", "none"),
            "--config-dir must name an existing folder",
        ),
        (("data", "prepare", "celeba", "paths.data_dir=nowhere"), "nowhere"),
        (("data", "prepare", "nyuv2", "paths.data_dir=nowhere"), "NYUv2 is not in nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    words: tuple[str, ...], message: str, cli: Cli, tmp_path: Path
) -> None:
    result = cli(*words)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_both_actions(cli: Cli) -> None:
    result = cli("data", "--help")
    assert result.code == 0
    assert "rotograd data check" in result.out
    assert "rotograd data prepare" in result.out
