"""Dense tasks through the command line: a map for every pixel, rotations along the channels."""

from pathlib import Path

import pytest
import torch

from .conftest import SMOKE, Cli
from .test_train import summary

DENSE = (
    *SMOKE,
    "data=synthetic",
    "data.kind=map",
    "data.input_shape=[3,18,24]",
    "data.map_shape=[9,12]",
    "data.num_outputs=2",
    "data.num_train=32",
    "backbone=conv",
    "backbone.channels=[8,8]",
    "head=conv",
    "method=rotograd",
    "method.post_shape=[9,12]",
    "hydra.run.dir=run",
)


def test_dense_tasks_train_and_an_evaluation_equals_the_record(cli: Cli, tmp_path: Path) -> None:
    result = cli("train", *DENSE)
    assert result.code == 0, result.err
    content = summary(tmp_path / "run")
    assert content["tasks"] == ["task_0", "task_1", "task_2"]
    # an untrained network predicts a standard normal target with an error of 1 and a bit
    assert 0.9 < content["metrics"]["test/task_2/mse"] < 1.5
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    free = checkpoint["model"]["rotations.free_parameters"]
    assert free.shape == (3, 8 * 7 // 2)  # channels are rotated, pixels are not
    assert free.any()  # and have been trained
    assert "equal the run's record exactly" in cli("evaluate", "run=run").out


def test_what_gives_no_map_or_one_of_another_size_is_refused_in_one_line(cli: Cli) -> None:
    for word, message in (
        (
            "data.map_shape=[9,13]",
            "must return shape [1, 2, 9, 13] (N = 1), got [1, 2, 9, 12]",
        ),
        ("head=linear", "must return shape [1, 2, 9, 12] (N = 1), got [1, 2]; check `backbone`"),
        ("backbone=lenet", "ConvHead needs feature maps"),
    ):
        words = [old for old in DENSE if "channels" not in old]  # lenet has no such option
        result = cli("train", *words, word)
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1


PUBLISHED = (
    *SMOKE,
    "data=synthetic",
    "data.kind=map",
    "data.input_shape=[3,32,40]",
    "data.map_shape=[32,40]",
    "data.num_outputs=2",
    "data.num_train=8",
    "data.num_val=3",
    "data.num_test=3",
    "train.batch_size=2",
    "train.eval_batch_size=2",  # the last batch has one example
    "method=rotograd",
    "method.rotation_shape=[1,1,16]",
    "hydra.run.dir=run",
)
NETWORKS = {
    "segnet": ("backbone=segnet", "backbone.filters=[4,8]", "head=conv"),
    "mtan": ("backbone=segnet_mtan", "backbone.filters=[4,16]", "head=mtan"),
}
DEEPLAB = ("backbone=resnet50_dilated", "head=aspp", "tasks=[task_1]")  # large: it is not trained


@pytest.mark.parametrize("network", NETWORKS)
def test_the_published_dense_networks_train_and_evaluate(
    cli: Cli, tmp_path: Path, network: str
) -> None:
    result = cli("train", *PUBLISHED, *NETWORKS[network])
    assert result.code == 0, result.err
    assert "equal the run's record exactly" in cli("evaluate", "run=run").out
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    if network == "mtan":  # one set of blocks for all tasks, with one state
        name = "blocks.0.1.running_mean"
        means = [checkpoint["model"][f"heads.{k}.{name}"] for k in range(3)]
        assert means[0].any()
        assert torch.equal(means[0], means[1])
        assert torch.equal(means[0], means[2])


@pytest.mark.slow
def test_networks_that_do_not_fit_are_refused_in_one_line(cli: Cli) -> None:
    for words, message in (
        (("backbone=segnet", "head=conv"), "height and width are multiples of 32"),
        (("backbone=conv", "head=mtan"), "use backbone=segnet_mtan"),
        (("backbone=segnet", "backbone.filters=[4,16]", "head=mtan"), "got features of shape"),
        ((*DEEPLAB, "head.upsample=4"), "must return shape [1, 2, 32, 40]"),
        ((*DEEPLAB, "train.batch_size=1"), "at least 2 examples in training"),  # writes a run
    ):
        result = cli("train", *PUBLISHED, *words)
        assert result.code == 2
        assert message in result.err
        assert result.err.splitlines()[-1].startswith("rotograd: ")
