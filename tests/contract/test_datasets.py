"""The contract of data/base.py for every file of conf/data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rotograd_cli.config.components import data_constructor
from rotograd_cli.config.files import config_dir
from rotograd_cli.data.base import MultiTaskDataset, Split
from rotograd_cli.errors import DatasetError
from tests import fake_celeba, fake_cifar10, fake_mnist, fake_nyuv2, fake_svhn

FILES = sorted((config_dir() / "data").glob("*.yaml"))
SPLITS: tuple[Split, ...] = ("train", "val", "test")
CPU = torch.device("cpu")


def _fake_multimnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mnist.expect(monkeypatch)
    fake_mnist.write(folder / "mnist")


def _fake_celeba(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_celeba.expect(monkeypatch)
    fake_celeba.write(folder / "celeba")
    fake_celeba.prepare(folder, limit=None, image_size=64)


def _fake_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cifar10.expect(monkeypatch)
    fake_cifar10.write(folder / "cifar10")


def _fake_nyuv2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nyuv2.expect(monkeypatch, 20, 3)
    fake_nyuv2.write_layout(folder / "nyuv2", 20, 3)
    fake_nyuv2.prepare(folder)


def _fake_multisvhn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_svhn.write(folder / "svhn", {"train": 10_040, "test": 12})  # 10,000 are for validation
    fake_svhn.expect(folder / "svhn", monkeypatch)


def _own(num: int) -> dict[str, Any]:
    """Data sets of torchvision, as a user names them."""
    to_tensor = {"_target_": "torchvision.transforms.ToTensor"}
    fake = {"_target_": "torchvision.datasets.FakeData", "size": num, "image_size": [3, 8, 8]}
    whole = {**fake, "num_classes": 10, "transform": to_tensor}
    share = {"split_of": "train", "fraction": 0.25}
    return {"train": whole, "val": share, "test": {**share, "seed": 1}}


CLASS = {"kind": "classification", "num_outputs": 10, "target": 1}
# what the files leave to the user
OPTIONS: dict[str, Any] = {
    "torch": {"datasets": _own(40), "tasks": {"a": CLASS, "b": CLASS}},
    "torch_per_task": {
        "datasets": {"a": _own(40), "b": _own(24)},
        "tasks": {"a": CLASS, "b": CLASS},
    },
}
# data sets that read files: what writes small ones in their format
FAKES: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "celeba": _fake_celeba,
    "cifar10": _fake_cifar10,
    "multimnist": _fake_multimnist,
    "multisvhn": _fake_multisvhn,
    "nyuv2": _fake_nyuv2,
}


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def build(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Builds a data set from its YAML file, with what the runner supplies."""
    path: Path = request.param
    folder = tmp_path_factory.mktemp(path.stem)
    with pytest.MonkeyPatch.context() as monkeypatch:
        if path.stem in FAKES:
            FAKES[path.stem](folder, monkeypatch)
        node = OmegaConf.to_container(OmegaConf.load(path))
        make = data_constructor({**node, **OPTIONS.get(path.stem, {})})

        def build(tasks: list[str] | None = None) -> MultiTaskDataset:
            supplied = dict(zip(make.supplied, (folder, tasks, CPU), strict=True))
            dataset: MultiTaskDataset = make(**supplied)
            return dataset

        yield build


@pytest.fixture(scope="module")
def dataset(build: Callable[..., MultiTaskDataset]) -> MultiTaskDataset:
    return build()


def test_there_are_data_sets() -> None:
    assert {"multidigits", "multimnist"} <= {path.stem for path in FILES}


def test_batch_has_the_promised_shapes_and_lives_on_the_device(dataset: MultiTaskDataset) -> None:
    for split in SPLITS:
        indices = torch.tensor([1, dataset.num_examples(split) - 1, 0])
        batch = dataset.batch(split, indices)
        assert batch.inputs.shape == (3, *dataset.input_shape)
        assert batch.inputs.is_floating_point()
        assert batch.inputs.isfinite().all()
        assert batch.inputs.device == CPU
        assert set(batch.targets) <= {task.name for task in dataset.tasks}
        for target in batch.targets.values():
            assert len(target) == 3
            assert target.device == CPU


def test_batch_depends_on_the_indices_alone(dataset: MultiTaskDataset) -> None:
    indices = torch.tensor([2, 5, 2])
    batch = dataset.batch("train", indices)
    for position, index in enumerate(indices):
        single = dataset.batch("train", index.view(1))
        assert torch.equal(single.inputs[0], batch.inputs[position])
        for name, target in batch.targets.items():
            assert torch.equal(single.targets[name][0], target[position])


def test_batches_cover_an_order_in_order_with_a_smaller_last_one(dataset: MultiTaskDataset) -> None:
    order = torch.tensor([3, 1, 4, 1, 5])
    batches = list(dataset.batches("val", order.split(2)))
    assert [len(batch.inputs) for batch in batches] == [2, 2, 1]
    whole = dataset.batch("val", order)
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), whole.inputs)


def test_reading_never_changes_the_data(dataset: MultiTaskDataset) -> None:
    indices = torch.arange(4)
    before = dataset.batch("train", indices)
    expected = before.inputs.clone()
    before.inputs.zero_()
    for target in before.targets.values():
        target.zero_()
    assert torch.equal(dataset.batch("train", indices).inputs, expected)


def test_inputs_are_shown_as_images_of_known_intensity(dataset: MultiTaskDataset) -> None:
    inputs = dataset.batch("train", torch.arange(4)).inputs
    images = dataset.images(inputs)
    if len(dataset.input_shape) != 3:  # no images
        assert images is None
        return
    assert images is not None
    assert images.shape == inputs.shape
    whole = images * 255  # what was decoded: bytes
    assert images.amin() >= -1e-6
    assert images.amax() <= 1 + 1e-6
    if dataset.name not in ("synthetic", *OPTIONS):
        assert (whole - whole.round()).abs().max() < 1e-3


def test_loss_and_metrics_take_predictions_of_the_declared_size(dataset: MultiTaskDataset) -> None:
    names = [task.name for task in dataset.tasks]
    assert len(set(names)) == len(names) > 0
    batch = dataset.batch("train", torch.arange(8))
    for task in dataset.tasks:
        prediction = torch.randn(8, task.num_outputs, *task.map_shape, requires_grad=True)
        loss = task.loss(prediction, batch.targets[task.name])
        assert loss.shape == ()
        assert loss.isfinite()
        loss.backward()
        assert prediction.grad is not None
        for spec in task.metrics:
            metric = spec.create()
            metric.update(spec.prepare(prediction.detach()), batch.targets[task.name])
            assert spec.value(metric.compute()).isfinite()


def test_same_options_give_the_same_fingerprint_whatever_the_tasks(
    build: Callable[..., MultiTaskDataset], dataset: MultiTaskDataset
) -> None:
    again = build(tasks=[dataset.tasks[-1].name])
    assert [task.name for task in again.tasks] == [dataset.tasks[-1].name]
    assert list(again.batch("val", torch.arange(2)).targets) == [dataset.tasks[-1].name]
    assert again.fingerprint == dataset.fingerprint
    assert len(dataset.fingerprint) == 16


def test_name_is_that_of_the_yaml_file(
    request: pytest.FixtureRequest, dataset: MultiTaskDataset
) -> None:
    assert dataset.name == request.node.callspec.params["build"].stem


@pytest.mark.parametrize("path", [p for p in FILES if p.stem in FAKES], ids=lambda path: path.stem)
def test_absent_files_without_a_download_are_an_error_of_the_data_set(
    path: Path, tmp_path: Path
) -> None:
    config: Any = OmegaConf.load(path)
    partial = instantiate(config, **({"download": False} if "download" in config else {}))
    with pytest.raises(DatasetError, match=str(tmp_path)):
        partial(data_dir=tmp_path, tasks=None, device=CPU)
