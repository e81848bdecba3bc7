"""Tasks declared as plain values: their losses, metrics, targets and refusals."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.declaring import KINDS, declared_tasks
from rotograd_cli.tasks.losses import target_rule
from rotograd_cli.tasks.metrics import accuracy
from rotograd_cli.training import batch_checks
from rotograd_cli.training.data_scan import SeenFlags

CHECKOUT = Path(__file__).parents[2]
NUM = 9
SIZES: dict[str, dict[str, Any]] = {
    "classification": {"num_outputs": 4},
    "binary": {},
    "multilabel": {"num_outputs": 3},
    "regression": {"num_outputs": 2},
    "segmentation": {"num_outputs": 4, "map_shape": [2, 3]},
    "depth": {"map_shape": [2, 3]},
    "normals": {"map_shape": [2, 3]},
}


def declared(kind: str, **options: Any) -> Task:
    return declared_tasks({"a": {"kind": kind, **SIZES.get(kind, {}), **options}})[0]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs_of(task: Task) -> Tensor:
    return drawn(NUM, task.num_outputs, *task.map_shape)


def target_of(task: Task) -> Tensor:
    """Targets of which every third example lacks a label."""
    assert task.target is not None
    shape = task.target.shape or ()
    numbers = drawn(NUM, *shape, seed=1)
    if task.target.dtype == torch.int64:
        numbers = (numbers.abs() * 3).long() % task.num_outputs
    elif task.target.no_label == -1:
        numbers = (numbers > 0).double()
    rows = [
        task.target.unlabelled() if n % 3 == 0 else task.target.read(numbers[n]) for n in range(NUM)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("kind", SIZES)
def test_a_declared_kind_leaves_examples_without_a_label_out_of_loss_count_and_metrics(
    kind: str,
) -> None:
    task = declared(kind)
    target = target_of(task)
    outputs = outputs_of(task)
    labelled = torch.arange(NUM) % 3 != 0
    assert target.dtype == task.target.dtype  # type: ignore[union-attr]
    expected = task.loss(outputs[labelled], target[labelled])
    outputs[~labelled] = math.nan
    torch.testing.assert_close(task.loss(outputs, target), expected)
    assert task.num_labelled(target) == task.num_labelled(target[labelled]) > 0
    for spec in task.metrics:
        values = []
        for rows in (torch.ones(NUM).bool(), labelled):
            metric = spec.create()
            metric.update(spec.prepare(outputs[rows].nan_to_num(0)), target[rows])
            values.append(spec.value(metric.compute()))
        torch.testing.assert_close(*values)


OWN: list[tuple[str, Any, Callable[[Tensor, Tensor], Tensor]]] = [
    ("classification", nn.CrossEntropyLoss(), F.cross_entropy),
    (
        "classification",
        nn.CrossEntropyLoss(torch.tensor([1.0, 2, 0, 3]).double(), label_smoothing=0.2),
        partial(F.cross_entropy, weight=torch.tensor([1.0, 2, 0, 3]).double(), label_smoothing=0.2),
    ),
    ("segmentation", nn.CrossEntropyLoss(ignore_index=7), F.cross_entropy),
    ("binary", nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits),
    ("regression", nn.SmoothL1Loss(beta=0.3), partial(F.smooth_l1_loss, beta=0.3)),
    ("regression", partial(F.l1_loss), F.l1_loss),
    ("depth", nn.HuberLoss(), F.huber_loss),
    ("normals", nn.MSELoss(), F.mse_loss),
    ("multilabel", nn.MultiLabelSoftMarginLoss(), F.multilabel_soft_margin_loss),
    ("regression", lambda p, t: (p - t).abs().mean(1), F.l1_loss),  # one number per example
]


@pytest.mark.parametrize(("kind", "loss", "torch_loss"), OWN)
def test_an_own_loss_is_that_of_torch_over_the_labelled_examples_and_adds_up(
    kind: str, loss: Any, torch_loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    task = declared(kind, loss=loss)
    target = target_of(task)
    outputs = outputs_of(task).requires_grad_()
    labelled = torch.arange(NUM) % 3 != 0
    values = outputs.squeeze(1) if kind == "binary" else outputs
    number = target.dtype != torch.int64
    of_labelled = target[labelled].double() if number else target[labelled]
    expected = torch_loss(values[labelled], of_labelled)
    loss_value = task.loss(outputs, target)
    torch.testing.assert_close(loss_value, expected)
    gradients = [torch.autograd.grad(x, outputs)[0] for x in (loss_value, expected)]
    torch.testing.assert_close(*gradients)
    parts = [
        (task.loss(outputs[rows], target[rows]), task.num_labelled(target[rows]))
        for rows in (slice(0, 1), slice(1, 4), slice(4, NUM))  # the first has no label
    ]
    assert parts[0][0] == parts[0][1] == 0
    total = sum(num for _, num in parts)
    torch.testing.assert_close(sum(part * num for part, num in parts) / total, expected)


def test_an_own_loss_of_the_whole_batch_is_nan_where_a_label_is_missing() -> None:
    task = declared("regression", loss=lambda p, t: (p - t).square().mean())
    target = target_of(task)
    labelled = torch.arange(NUM) % 3 != 0
    outputs = outputs_of(task)
    assert task.loss(outputs, target).isnan()
    expected = F.mse_loss(outputs[labelled], target[labelled].double())
    torch.testing.assert_close(task.loss(outputs[labelled], target[labelled]), expected)
    rule = target_rule(task.loss)
    assert rule is not None
    (fault,) = batch_checks._unlabelled(target, task, rule, "here")
    assert fault.startswith("here: 6 of 18 elements have no label, which a loss that returns one")
    partly = declared("multilabel", loss=nn.MultiLabelSoftMarginLoss())
    target = target_of(partly)
    target[1, 0] = -1  # one of three: the loss has one number for all of them
    assert partly.loss(outputs_of(partly), target).isnan()


def test_soft_labels_go_to_an_own_loss_of_kind_custom() -> None:
    task = declared("custom", num_outputs=4, loss=nn.CrossEntropyLoss(label_smoothing=0.1))
    soft = drawn(NUM, 4, seed=2).softmax(1)
    outputs = drawn(NUM, 4)
    assert task.target is not None
    rows = [task.target.read(row, mask=n != 2) for n, row in enumerate(soft)]
    labelled = torch.arange(NUM) != 2
    expected = F.cross_entropy(outputs[labelled], soft[labelled], label_smoothing=0.1)
    torch.testing.assert_close(task.loss(outputs, torch.stack(rows)), expected)
    assert task.num_labelled(torch.stack(rows)) == NUM - 1


def test_batchmean_is_the_mean_of_the_examples_sums() -> None:
    """What torch's documentation recommends for KLDivLoss; a mean over elements is 1/C of it."""
    soft = drawn(NUM, 4, seed=2).softmax(1)
    outputs = drawn(NUM, 4).log_softmax(1)
    expected = F.kl_div(outputs[1:], soft[1:], reduction="batchmean")
    soft[0] = math.nan
    for loss in (nn.KLDivLoss(reduction="batchmean"), partial(F.kl_div, reduction="batchmean")):
        task = declared("custom", num_outputs=4, loss=loss)
        torch.testing.assert_close(task.loss(outputs, soft), expected)
        assert task.num_labelled(soft) == NUM - 1


def test_one_flag_of_a_multilabel_task_is_a_binary_task() -> None:
    task, binary = declared("multilabel", num_outputs=1), declared("binary")
    assert task.target is not None
    target = torch.stack([task.target.read(value) for value in ([1], [0], 1, None)])
    outputs = drawn(4, 1)
    assert task.loss(outputs, target) == binary.loss(outputs, torch.tensor([1.0, 0, 1, -1]))
    assert task.metrics[0].prepare(outputs).shape == target.shape


def test_a_split_of_few_flags_may_have_ones_alone() -> None:
    """-1 is what reading makes of an absent label there, and no "no" of the user's."""
    task = declared("binary")
    flags = SeenFlags([task])
    flags.add(Batch(torch.zeros(2, 1), {"a": torch.tensor([-1.0, 1.0])}))
    data = SimpleNamespace(name="mine", tasks=[task])
    flags.check(data, "val", is_whole=True)  # type: ignore[arg-type]


CLASS = torch.tensor(3)
READ: list[tuple[str, dict[str, Any], Any, Any, Any]] = [
    ("classification", {}, np.uint8(3), None, CLASS),
    ("classification", {}, [3], None, CLASS),
    ("classification", {}, True, None, torch.tensor(1)),
    ("classification", {}, 3.0, None, CLASS),  # as pandas keeps a column with gaps
    ("classification", {}, math.nan, None, torch.tensor(-1)),
    ("classification", {}, None, None, torch.tensor(-1)),
    ("classification", {}, 3, False, torch.tensor(-1)),
    ("classification", {"ignore_index": 255}, np.uint8(255), None, torch.tensor(-1)),
    ("classification", {"loss": nn.CrossEntropyLoss()}, -100, None, torch.tensor(-1)),
    ("binary", {}, np.array([True]), None, torch.tensor(1.0)),
    ("binary", {}, math.nan, None, torch.tensor(-1.0)),
    ("binary", {"ignore_index": -1}, -1, None, torch.tensor(-1.0)),
    ("multilabel", {}, [1, 0, -1], [1, 1, 0], torch.tensor([1.0, 0, -1])),
    ("regression", {}, np.array([1, 2]), None, torch.tensor([1.0, 2])),
    ("regression", {"num_outputs": 1}, torch.tensor([2.5]), None, torch.tensor(2.5)),
    ("regression", {"num_outputs": 1, "ignore_index": -9}, -9, None, torch.tensor(math.nan)),
    ("regression", {}, None, None, torch.full((2,), math.nan)),
    ("depth", {}, np.ones((2, 3), np.uint16), None, torch.ones(1, 2, 3)),
]


@pytest.mark.parametrize(("kind", "options", "value", "mask", "expected"), READ)
def test_targets_are_read_as_losses_take_them(
    kind: str, options: dict[str, Any], value: Any, mask: Any, expected: Tensor
) -> None:
    form = declared(kind, **options).target
    assert form is not None
    torch.testing.assert_close(form.read(value, mask), expected, equal_nan=True)


def test_a_mask_of_pixels_holds_for_all_channels() -> None:
    form = declared("normals").target
    assert form is not None
    mask = torch.tensor([[True, False, True]] * 2)
    target = form.read(torch.ones(3, 2, 3), mask)
    assert torch.equal(~target.isnan(), mask.expand(3, 2, 3))


def test_a_mask_may_have_the_channel_that_the_target_has() -> None:
    form = declared("segmentation").target
    assert form is not None
    target = torch.ones(1, *form.shape, dtype=torch.int64)
    mask = torch.zeros_like(target).bool()
    mask[0, 0, 0] = True
    assert torch.equal(form.read(target, mask) == 1, mask[0])


@pytest.mark.parametrize(
    ("kind", "value", "mask", "message"),
    [
        ("classification", 1.5, None, "a class, a whole number, got 1.5; for probabilities"),
        ("classification", [1, 2], None, "must have shape [], got [2]; correct the target"),
        ("classification", [0, 1, 0], None, "shape [], got [3]; write target.argmax(0)."),
        ("regression", [0, 1, 0], None, "must have shape [2], got [3]; set `num_outputs: 3`"),
        ("regression", [1.0], None, "must have shape [2], got [1]; set `num_outputs: 1`"),
        ("binary", "yes", None, "an array or a tensor, got a str; convert it in your data set."),
        (
            "binary",
            -1,
            None,
            "got -1; for no label set ++data.tasks.a.ignore_index=-1, and",
        ),
        ("multilabel", [1, -1, 1], [1, 1, 1], "must be 0 or 1, got -1; for no label set"),
        ("multilabel", [1, 0, 1], [1, 1], "its mask must have one value, or the target's shape"),
    ],
)
def test_a_target_of_another_form_is_refused(
    kind: str, value: Any, mask: Any, message: str
) -> None:
    form = declared(kind).target
    assert form is not None
    with pytest.raises(ConfigError) as caught:
        form.read(value, mask)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("Task 'a': ")


@pytest.mark.parametrize("value", [-100, 255])
def test_a_class_that_often_means_no_label_is_refused_with_the_option_that_says_so(
    value: int,
) -> None:
    task = declared("classification")
    data = SimpleNamespace(name="mine", tasks=[task])
    batch = Batch(torch.zeros(2, 1), {"a": torch.tensor([0, value])})
    with pytest.raises(ConfigError) as caught:
        batch_checks.refuse_faults([batch], data, "val")  # type: ignore[arg-type]
    assert f"; if it means no label, set ++data.tasks.a.ignore_index={value}." in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`data.tasks.a`: `kind` must be one of classification, binary, "),
        ({"kind": "multiclass"}, ", custom, got 'multiclass'."),
        ({"kind": "binary", "num_classes": 2}, "`data.tasks.a`: `num_classes` is not a key"),
        ({"kind": "binary", "num_outputs": 3}, "must be 1 for kind binary, got 3; take kind: mul"),
        (
            {"kind": "classification"},
            "`data.tasks.a`: `num_outputs` must be an integer of",
        ),
        (
            {"kind": "classification", "num_outputs": 1},
            "got 1; for yes or no take kind: binary.",
        ),
        ({"kind": "segmentation", "num_outputs": 3}, "[HEIGHT, WIDTH] for kind segmentation"),
        (
            {"kind": "custom", "num_outputs": 3},
            "must be a function for kind custom, got None",
        ),
        ({"kind": "binary", "loss": 3}, "`loss` must be a function for kind binary, got 3"),
        (
            {"kind": "regression", "loss": nn.MSELoss(reduction="sum")},
            "`data.tasks.a`: `loss` must be a mean, got reduction='sum'",
        ),
        ({"kind": "regression", "label_smoothing": 0.1}, "losses of classes, which task 'a' does"),
        ({"kind": "binary", "label_smoothing": 1}, "must be a number in [0, 1), got 1"),
        ({"kind": "binary", "class_weights": [1]}, "a list of 2 numbers, one per class"),
        ({"kind": "binary", "metrics": {"b": 3}}, "`metrics.b` must be a metric of torchmetrics"),
        ({"kind": "binary", "metrics": "f1"}, "`metrics` must name metrics, got 'f1'"),
        (
            {"kind": "binary", "ignore_index": "x"},
            "`data.tasks.a`: `ignore_index` must be",
        ),
    ],
)
def test_a_wrong_declaration_is_refused_in_one_line(options: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        declared_tasks({"a": options})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declaration_without_tasks_is_refused() -> None:
    for nothing in ({}, None, ["a"]):
        with pytest.raises(ConfigError, match="must declare at least one task"):
            declared_tasks(nothing)  # type: ignore[arg-type]


@pytest.mark.slow  # torchmetrics takes seconds to import
def test_metrics_of_torchmetrics_see_labelled_examples_and_probabilities() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    classification = torchmetrics.classification
    cases: list[tuple[str, Any, Any]] = [
        (
            "classification",
            classification.MulticlassAccuracy(4),
            classification.MulticlassAccuracy(4),
        ),
        ("binary", partial(classification.BinaryAUROC), classification.BinaryAUROC()),
        ("regression", torchmetrics.R2Score(), torchmetrics.R2Score()),
        (
            "segmentation",
            classification.MulticlassJaccardIndex(4),
            classification.MulticlassJaccardIndex(4),
        ),
    ]
    labelled = torch.arange(NUM) % 3 != 0
    for kind, metric, oracle in cases:
        task = declared(kind, metrics={"own": metric})
        (spec,) = task.metrics
        assert (spec.name, spec.better) == ("own", "higher")
        target, outputs = target_of(task), outputs_of(task) / 10  # logits in [0, 1] too
        own: Any = spec.create()
        for rows in (slice(0, 1), slice(1, NUM)):
            own.update(spec.prepare(outputs[rows]), target[rows])
        chosen = outputs[labelled]
        if kind == "binary":
            chosen = chosen.squeeze(1).sigmoid()
        elif kind != "regression":
            chosen = chosen.softmax(1)
        truth = target[labelled] if kind == "regression" else target[labelled].long()
        torch.testing.assert_close(own.compute(), oracle(chosen, truth), check_dtype=False)


def test_metrics_of_this_package_can_be_listed_or_named() -> None:
    listed = declared("classification", metrics=[accuracy(4)])
    assert [spec.name for spec in listed.metrics] == ["accuracy"]
    named = declared("classification", metrics={"top": accuracy(4)})
    assert [spec.name for spec in named.metrics] == ["top"]


def test_forty_declared_flags_have_their_losses_computed_at_once() -> None:
    tasks = declared_tasks({f"t{k}": {"kind": "binary"} for k in range(40)})
    assert all(task.batchable and task.loss is tasks[0].loss for task in tasks)
    assert set(KINDS) == {*SIZES, "custom"}


def test_the_example_of_the_page_is_right() -> None:
    page = (CHECKOUT / "docs" / "own_data.md").read_text(encoding="utf-8")
    section = page.split("## Labels that are missing")[1]
    exec(section.split("```python\n")[1].split("```")[0], {})
