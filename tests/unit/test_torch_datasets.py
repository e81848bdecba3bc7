"""``data=torch``: any data set of map style, its order, its random numbers, what it lacks."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rotograd_cli.data.base import Batch
from rotograd_cli.data.torch_datasets import PerTaskDatasets, TorchDatasets
from rotograd_cli.data.torch_datasets.reading import spread
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rotograd import RotoGrad
from rotograd_cli.ranks.base import ONE, Ranks
from rotograd_cli.training.batches import EpochBatches
from rotograd_cli.training.objective import predict, task_losses
from tests.own_data import Numbers, Points
from tests.unit.test_loop import OPTIONS

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
CPU = torch.device("cpu")
CLASS = {"kind": "classification", "num_outputs": 2}


def make(**changes: Any) -> TorchDatasets:
    datasets = {split: Points(20, seed=k) for k, split in enumerate(("train", "val", "test"))}
    options: dict[str, Any] = {
        "data_dir": Path(),
        "task_names": None,
        "device": CPU,
        "name": "points",
        "datasets": datasets,
        "inputs": "x",
        "tasks": {"label": CLASS, "size": {"kind": "regression"}},
        "collate": None,
        "num_workers": 0,
        "pin_memory": True,
    }
    return TorchDatasets(**{**options, **changes})


def with_train(dataset: Any, **changes: Any) -> TorchDatasets:
    return make(datasets={"train": dataset, "val": Points(6), "test": Points(6)}, **changes)


def epoch(data: TorchDatasets, num: int, *, epoch: int = 0, first: int = 0, **more: Any) -> Any:
    ranks = more.pop("ranks", ONE)
    options = replace(OPTIONS, **{"batch_size": num, "augment": True, **more})
    return EpochBatches(data, options, 3, CPU, ranks).steps(epoch, first)


class _Half(Ranks):
    size = 2

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank

    def part(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.tensor_split(2)[self.rank]


def test_an_example_without_a_target_has_no_label_and_a_batch_without_any_no_task() -> None:
    points = Points(20)
    batch = make().batch("train", torch.arange(6))
    assert torch.equal(batch.inputs, points.x[:6])
    assert batch.targets["label"].tolist() == (points.x[:6, 0] > 0).long().tolist()
    expected = points.x[:6].norm(dim=1)
    expected[[1, 2, 4, 5]] = torch.nan  # None, and an absent key
    torch.testing.assert_close(batch.targets["size"], expected, equal_nan=True)
    assert list(make().batch("train", torch.tensor([1, 2])).targets) == ["label"]


@pytest.mark.parametrize("kind", ["tuple", "named", "data"])
def test_an_item_may_be_a_tuple_or_a_dataclass(kind: str) -> None:
    x, label = (0, 1) if kind == "tuple" else ("x", "label")
    datasets = {split: Points(8, kind=kind) for split in ("train", "val", "test")}
    tasks = {"sign": {**CLASS, "target": label}}
    batch = make(datasets=datasets, inputs=x, tasks=tasks).batch("val", torch.arange(8))
    expected = make().batch("train", torch.arange(8))
    assert torch.equal(batch.inputs, expected.inputs)
    assert torch.equal(batch.targets["sign"], expected.targets["label"])


def test_labels_that_training_items_lack_are_counted() -> None:
    expected = "Labels in training items that were checked: label 16 of 16, size 6 of 16."
    assert make().remarks == (expected,)
    assert make(tasks={"label": CLASS}).remarks == ()


def test_inputs_are_a_tree_where_they_are_declared_as_one() -> None:
    datasets = {split: Points(8, kind="tree") for split in ("train", "val", "test")}
    tasks = {"label": CLASS}
    data = make(datasets=datasets, inputs=["x", {"words": "text.ids"}, "text"], tasks=tasks)
    x, words, text = data.batch("train", torch.arange(3)).inputs
    assert words["words"].tolist() == [[0, 1, 2], [1, 1, 2], [2, 1, 2]]
    assert words["words"].dtype == torch.int64
    assert torch.equal(text["mask"], torch.ones(3, 3))
    assert data.input_shape == ((2,), {"words": (3,)}, {"ids": (3,), "mask": (3,)})
    assert len(x) == 3


def test_what_is_drawn_for_an_example_depends_on_seed_epoch_and_place_alone() -> None:
    def read(num: int, **more: Any) -> torch.Tensor:
        data = with_train(Points(32, draws=True), num_workers=more.pop("num_workers", 0))
        return torch.cat([b.inputs for step in epoch(data, num, **more) for b in step])

    random.seed(7)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    wanted = read(8)
    assert torch.equal(read(4), wanted)  # other batches
    assert torch.equal(read(8, accumulate_steps=2), wanted)
    assert torch.equal(read(8, first=2), wanted[16:])  # resumed
    halves = [_Half(rank) for rank in (0, 1)]  # of two processes, which read their rows alone
    rows = [read(8, ranks=half).view(4, 4, 2) for half in halves]
    assert torch.equal(torch.cat(rows, 1).view(32, 2), wanted)
    assert not torch.equal(read(8, epoch=1).sort(0).values, wanted.sort(0).values)
    still = read(8, augment=False)
    assert torch.equal(still.sort(0).values, read(8, epoch=1, augment=False).sort(0).values)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(read(8, num_workers=2), wanted)  # in other processes


def test_a_share_of_a_split_leaves_it_and_two_shares_have_nothing_in_common() -> None:
    share = {"split_of": "train", "fraction": 0.25}
    data = make(datasets={"train": Points(40), "val": share, "test": {**share, "seed": 1}})
    nums = [data.num_examples(split) for split in ("train", "val", "test")]
    assert nums == [22, 10, 8]
    rows = [
        data.batch(s, torch.arange(n)).inputs
        for s, n in zip(("train", "val", "test"), nums, strict=True)
    ]
    assert torch.equal(torch.cat(rows).sort(0).values, Points(40).x.sort(0).values)


def test_the_fingerprint_tells_other_content_and_other_lengths() -> None:
    fingerprint = make().fingerprint
    assert make(num_workers=1, name="other").fingerprint == fingerprint
    assert with_train(Points(20, seed=1)).fingerprint != fingerprint
    assert with_train(Points(20)).fingerprint != with_train(Points(21)).fingerprint


def test_the_items_that_are_looked_at_are_in_the_split_however_long_it_is() -> None:
    for num in (1, 16, 17, 2**24 + 8, 2**40 + 3):  # float32 rounds the last two beyond the end
        chosen = spread(num)
        assert (chosen[0], chosen[-1], len(set(chosen))) == (0, num - 1, min(num, 16))


def _dropped(items: Any) -> Any:
    return {"x": torch.ones(len(items) - 1, 2), "label": [0] * (len(items) - 1)}


def _ragged(items: Any) -> Any:
    return {"x": torch.ones(len(items), 2), "label": torch.tensor(1)}


def _short(items: Any) -> Any:
    return {"x": torch.ones(len(items), 2), "label": [0] * len(items), "m": [True]}


def test_a_collate_that_leaves_examples_out_is_refused_in_every_batch() -> None:
    """Predictions and counts would belong to other examples than they are said to."""
    for collate, mask in ((_dropped, None), (_ragged, None), (_short, "m")):
        tasks = {"label": {**CLASS, "mask": mask}}
        with pytest.raises(ConfigError, match=r"what `data\.collate` returns: "):
            make(tasks=tasks, collate=collate).batch("train", torch.arange(4))


class _OwnGenerator(Points):
    rng = np.random.default_rng()

    def __getitem__(self, index: int) -> Any:
        item = super().__getitem__(index)
        return {**item, "x": item["x"] + float(self.rng.random())}


def test_items_that_draw_from_a_generator_of_their_own_are_said_and_not_in_the_fingerprint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise such a run could never be resumed: its data would always be other data."""
    fingerprint = with_train(_OwnGenerator(20)).fingerprint
    assert with_train(_OwnGenerator(20, seed=1)).fingerprint == fingerprint
    assert with_train(_OwnGenerator(21)).fingerprint != fingerprint
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0] == (
        "Data set 'points', split train: _OwnGenerator[0] is another item when it is read again, "
        "although Python, NumPy and torch are seeded alike; runs on it can be neither repeated nor "
        "resumed exactly. Let it draw from torch.rand or np.random.rand, and keep nothing."
    )


WRONG = {
    "raises": "item 7: Points[7] fails (LookupError: no such point, own_data.py line",
    "shape": "item 7: inputs must be like those of the first item, [N, 2], got [N, 1]; make them",
    "dtype": "first item, [N, 2], got [N, 2] of float64; make them alike",
    "list": "item 7: the input 'x' must be a tensor or an array, got a list; return a tensor: of",
    "text": "must be a tensor or an array, got a str; return a tensor: of a picture with transform",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_item_is_refused_in_one_line_that_names_it(kind: str) -> None:
    data = with_train(Points(20, wrong=kind))
    with pytest.raises(ConfigError) as caught:
        data.batch("train", torch.arange(8))
    line = str(caught.value)
    assert line.startswith("Data set 'points', split train")
    assert WRONG[kind].removeprefix("item 7: ") in line
    assert "\n" not in line


def test_a_failure_in_a_worker_is_the_same_line() -> None:
    parts = torch.arange(8).split(4)
    with pytest.raises(ConfigError, match=r"Points\[7\] fails \(LookupError.*own_data.py line \d+"):
        list(with_train(Points(20, wrong="raises"), num_workers=2).batches("train", parts))
    with pytest.raises(ConfigError, match=r"DataLoader fail .*set data\.num_workers=0"):
        list(with_train(Points(20, wrong="dies"), num_workers=2).batches("train", parts))


SPLITS = dict.fromkeys(("train", "val", "test"), Points(3))
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no split": ({"datasets": {"train": Points(3)}}, "the keys train, val and test, got train; na"),
    "nothing": ({"datasets": None}, "the keys train, val and test, got none; name a data set for"),
    "unknown": ({"datasets": {"dev": Points(3)}}, "the keys train, val and test, got dev; name a"),
    "empty": (
        {"datasets": {**SPLITS, "train": []}},
        "`data.datasets.train` must have at least",
    ),
    "stream": ({"datasets": {**SPLITS, "val": iter("ab")}}, "must be a data set of map style"),
    "key": ({"inputs": "y"}, "`data.inputs` must be a key of it, got 'y'; it has x, label, size."),
    "target": (
        {"tasks": {"l": {**CLASS, "target": "lbl"}}},
        "`data.tasks.l.target` must be a key of one of the 16 training items that are checked, "
        "got 'lbl'; it has x, label, size",
    ),
    "mask": (
        {"tasks": {"label": {**CLASS, "mask": "m"}}},
        "`data.tasks.label.mask` must be a key of it, got 'm'; it has x, label, size.",
    ),
    "tasks": ({"tasks": None}, "`data.tasks` must declare at least one task, got {}"),
    "chosen": ({"task_names": ["lable"]}, "did you mean label?"),
    "share": (
        {"datasets": {**SPLITS, "val": {"split_of": "train", "fraction": 0.1}}},
        "`data.datasets.val.fraction` must leave examples on both sides, got 0.1 of the 3 of train",
    ),
    "collate": ({"collate": sum}, "`data.collate` fails (TypeError: unsupported operand"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_missing_is_said_with_what_is_there(case: str) -> None:
    changes, text = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        make(**changes).batch("train", torch.arange(2))
    assert text in str(caught.value)


def test_a_picture_is_refused_with_the_transform_that_makes_a_tensor() -> None:
    torchvision = pytest.importorskip("torchvision")
    fake = torchvision.datasets.FakeData(8, (3, 4, 4), 2)
    with pytest.raises(ConfigError, match="got a Image; return a tensor: of a picture"):
        make(datasets=dict.fromkeys(("train", "val", "test"), fake), inputs=0)


@pytest.mark.slow
def test_a_parquet_file_is_read_by_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    rows = {"x": [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]], "label": [0, 1, 1], "size": [1.5, None, 2]}
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    files = str(tmp_path / "rows.parquet")
    read = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path)).with_format("torch")
    batch = make(datasets=dict.fromkeys(("train", "val", "test"), read)).batch(
        "val", torch.arange(3)
    )
    assert torch.equal(batch.inputs, torch.tensor(rows["x"]))
    assert batch.targets["label"].tolist() == rows["label"]
    expected = torch.tensor([1.5, torch.nan, 2.0])
    torch.testing.assert_close(batch.targets["size"], expected, equal_nan=True)


def test_an_evaluation_of_examples_that_are_varied_at_random_is_noted() -> None:
    drawing = {"train": Points(20, draws=True), "test": Points(6)}
    own = make(datasets={**drawing, "val": Points(6)})
    share = make(datasets={**drawing, "val": {"split_of": "train", "fraction": 0.5}})
    assert own.notes == ()
    assert share.notes == (
        "split val is evaluated on examples that Points varies at random; for plain ones give it a "
        "data set of its own, without augmentation",
    )


@pytest.mark.parametrize(
    ("shape", "is_noted"),
    [
        *(((16, 18, 3), True), ((16, 16, 1), True), ((3, 8, 4), False), ((16, 3, 3), False)),
        *(((8, 8, 8), False), ((8, 3), False)),
    ],
)
def test_pictures_with_channels_last_are_noted(shape: tuple[int, ...], is_noted: bool) -> None:
    items = [{"x": torch.zeros(shape), "label": 1}]
    data = make(datasets=dict.fromkeys(("train", "val", "test"), items), tasks={"label": CLASS})
    assert bool(data.notes) == is_noted
    if is_noted:
        height, width, num = shape
        assert data.notes[0] == (
            f"inputs {list(shape)} are read as {height} channels of {width} x {num}; if the "
            "channels are last, return x.permute(2, 0, 1)"
        )


# ---- data sets of their own per task


def per_task(**changes: Any) -> PerTaskDatasets:
    lengths = {"a": 10, "b": 6}
    datasets = {
        name: {split: Numbers(num, seed=k) for split in ("train", "val", "test")}
        for k, (name, num) in enumerate(lengths.items())
    }
    options: dict[str, Any] = {
        "data_dir": Path(),
        "task_names": None,
        "device": CPU,
        "name": "own",
        "datasets": datasets,
        "epoch": "longest",
        "batch_sizes": None,
        "inputs": 0,
        "tasks": {name: {"kind": "regression", "target": 1} for name in lengths},
        "num_workers": 0,
        "pin_memory": False,
    }
    return PerTaskDatasets(**{**options, **changes})


def test_a_step_has_examples_of_every_task_each_once_per_round() -> None:
    data = per_task(batch_sizes={"a": 2, "b": 2})
    counts: dict[str, list[float]] = {"a": [], "b": []}
    for (batch,) in epoch(data, 4):
        for name, target in batch.targets.items():
            labelled = target[~target.isnan()]
            assert len(labelled) == 2
            counts[name] += labelled.tolist()
    assert sorted(counts["a"]) == sorted(Numbers(10, 0).y.tolist())
    assert sorted(counts["b"][:6]) == sorted(Numbers(6, 1).y.tolist())  # then it begins again
    assert len(set(counts["b"][6:])) == 4


@pytest.mark.parametrize(("choice", "num"), [("longest", 5), ("shortest", 3), ("sum", 4), (7, 7)])
def test_the_length_of_an_epoch_is_chosen(choice: Any, num: int) -> None:
    assert len(list(epoch(per_task(epoch=choice), 4))) == num


def test_gradients_are_those_of_a_loop_over_the_tasks_batches() -> None:
    """Each task's loss is the mean over its own examples; the backbone gets the sum (float64)."""
    data = per_task(batch_sizes={"a": 5, "b": 2})
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    heads = [nn.Linear(4, 1).double() for _ in range(2)]
    model = RotoGrad(backbone, heads, 4).double().train()
    (batch,) = next(epoch(data, 7))
    batch = Batch(batch.inputs.double(), {k: y.double() for k, y in batch.targets.items()})
    predictions = predict(model, batch)
    losses = task_losses(data.tasks, predictions, batch)
    wanted = []
    for k, (name, target) in enumerate(batch.targets.items()):
        own = ~target.isnan()
        assert int(own.sum()) == {"a": 5, "b": 2}[name]
        z = backbone(batch.inputs[own])
        rotated = z @ model.rotation[k].T.detach()
        loss = (heads[k](rotated).squeeze(1) - target[own]).square().mean()
        torch.testing.assert_close(losses[k], loss, rtol=1e-12, atol=0)
        wanted += [*torch.autograd.grad(loss, heads[k].parameters())]
    model.backward(losses)
    found = [p.grad for head in heads for p in head.parameters()]
    for x, y in zip(found, wanted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-14)


def test_a_small_data_set_beside_a_large_one_is_looked_at_too() -> None:
    """16 of all items would be the large one's: a key would be missed, and other content too."""

    def of(small: list[Any], key: str = "y") -> PerTaskDatasets:
        large = [{"x": torch.zeros(2), "z": 0.0}] * 5000
        datasets = {
            n: dict.fromkeys(("train", "val", "test"), d) for n, d in (("a", large), ("b", small))
        }
        tasks = {
            "a": {"kind": "regression", "target": "z"},
            "b": {"kind": "regression", "target": key},
        }
        return per_task(datasets=datasets, inputs="x", tasks=tasks)

    items = [{"x": torch.ones(2), "y": float(i)} for i in range(20)]
    fingerprint = of(items).fingerprint
    assert fingerprint == of(list(items)).fingerprint
    assert fingerprint != of([*items[:-1], {"x": torch.ones(2), "y": 7.0}]).fingerprint
    with pytest.raises(ConfigError, match=r"b.target` must be a key of one of the .*got 'z'"):
        of(items, "z")  # the other task's items have it


def test_wrong_shares_of_a_step_are_refused() -> None:
    for changes, text in (
        ({"batch_sizes": {"a": 1, "b": 1}}, "add up to train.batch_size=4, got"),
        ({"batch_sizes": {"a": 4, "b": 0}}, "add up to train.batch_size=4, got"),
        ({"batch_sizes": {"a": 5, "b": -1}}, "add up to train.batch_size=4, got"),
        ({"batch_sizes": {"a": "2", "b": 2}}, "add up to train.batch_size=4, got"),
        ({"batch_sizes": [2, 2]}, r"add up to train.batch_size=4, got \[2, 2\]"),
        ({"epoch": "all"}, "`data.epoch` must be one of longest, shortest, sum, or a number"),
        ({"datasets": {"a": {}}}, "must have train, val and test of every task, by its name: a, b"),
    ):
        with pytest.raises(ConfigError, match=text):
            next(epoch(per_task(**changes), 4))
    with pytest.raises(ConfigError, match=r"equal shares, which add up to .* got None"):
        next(epoch(per_task(), 5))
