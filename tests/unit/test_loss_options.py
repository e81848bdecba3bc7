"""Class weights and label smoothing, against torch's cross-entropy over the whole batch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rotograd_cli.data.base import Batch
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.vanilla import VanillaMTL
from rotograd_cli.tasks import Task
from rotograd_cli.tasks.declaring import declared_tasks
from rotograd_cli.tasks.loss_options import with_all_loss_options
from rotograd_cli.training.evaluation import evaluate
from rotograd_cli.training.stepper import train_step
from tests.toy import TASKS

NUM = 12
OPTIONS: list[dict[str, Any]] = [
    {"class_weights": [0.02, 0.05, 0.0]},  # sums below 1
    {"label_smoothing": 0.1},
    {"class_weights": [1, 3, 0.5], "label_smoothing": 0.3},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(-1, 3, (NUM, *shape), generator=generator)


def of_torch(logits: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
    weights = options.get("class_weights")
    return F.cross_entropy(
        logits,
        target,
        weight=None if weights is None else torch.tensor(weights, dtype=torch.float64),
        label_smoothing=options.get("label_smoothing", 0.0),
        ignore_index=-1,
    )


@each
@pytest.mark.parametrize("map_shape", [[], [2, 3]])
def test_the_loss_of_classes_is_that_of_torch(options: dict[str, Any], map_shape: Any) -> None:
    kind = "segmentation" if map_shape else "classification"
    declared = {"kind": kind, "num_outputs": 3, "map_shape": map_shape, **options}
    (task,) = declared_tasks({"a": declared})
    logits = drawn(NUM, 3, *map_shape).requires_grad_()
    target = classes(*map_shape)
    expected = of_torch(logits, target, options)
    loss = task.loss(logits, target)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits)
    )
    assert task.loss(logits, torch.full_like(target, -1)) == 0
    assert task.loss(logits, torch.full_like(target, 3)).isnan()  # no class
    assert task.loss(logits, target.to(torch.int8)) == loss
    with pytest.raises(ConfigError, match="must hold whole numbers"):
        task.loss(logits, target.double())


@each
def test_the_loss_of_flags_is_that_of_two_classes(options: dict[str, Any]) -> None:
    weights = options.get("class_weights")
    options = options | ({} if weights is None else {"class_weights": weights[:2]})
    (task,) = declared_tasks({"a": {"kind": "binary", **options}})
    logits = drawn(NUM, 1)
    target = classes().clamp_max(1)
    expected = of_torch(torch.cat((torch.zeros_like(logits), logits), 1), target, options)
    for same in (target, target.double(), target.to(torch.int8)):
        torch.testing.assert_close(task.loss(logits, same), expected)
    yes = target == 1
    torch.testing.assert_close(
        task.loss(logits[yes], yes[yes]), task.loss(logits[yes], yes[yes] * 1.0)
    )


@each
@pytest.mark.parametrize("sizes", [[NUM], [4, 4, 4], [1, 3, 8]])
def test_micro_batches_and_evaluations_add_up_to_the_whole_batch(
    options: dict[str, Any], sizes: list[int]
) -> None:
    (task,) = declared_tasks({"a": {"kind": "classification", "num_outputs": 3, **options}})
    inputs = drawn(NUM, 4, seed=2)
    target = classes()
    torch.manual_seed(0)
    backbone, head = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
    expected = of_torch(head(backbone(inputs)), target, options)
    gradients = torch.autograd.grad(expected, [*backbone.parameters(), *head.parameters()])
    model = VanillaMTL(backbone, [head]).train()
    batches = [
        Batch(x, {"a": y}) for x, y in zip(inputs.split(sizes), target.split(sizes), strict=True)
    ]
    measured = evaluate(model, [task], batches, "val")
    assert measured["val/a/loss"] == pytest.approx(float(expected.detach()), rel=1e-12)
    seen = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(
        lambda *_: seen.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
    )
    total = train_step(model, [task], batches, [optimizer])
    torch.testing.assert_close(total[0, 0], expected.detach())
    torch.testing.assert_close(seen, list(gradients))


def test_options_of_a_section_reach_their_tasks_alone() -> None:
    section = {"kind": {"class_weights": [1, 2, 3]}, "flag": {"label_smoothing": 0.1}}
    kind, value, flag = with_all_loss_options(TASKS, section)
    assert value is TASKS[1]
    logits, target = drawn(NUM, 3), classes()
    torch.testing.assert_close(kind.loss(logits, target), of_torch(logits, target, section["kind"]))
    assert flag.metrics == TASKS[2].metrics
    assert with_all_loss_options(TASKS, {}) == TASKS


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kin": {}}, "`losses.kin` is not a task of this run; did you mean losses.kind?"),
        ({"kind": 0.1}, "`losses.kind` takes class_weights and label_smoothing, got 0.1; write"),
        ({"kind": {"smoothing": 0.1}}, "takes class_weights and label_smoothing, got 'smoothing'"),
        ({"value": {"label_smoothing": 0.1}}, "`losses.value.label_smoothing` belongs to this"),
        ({"kind": {"class_weights": [1, 2]}}, "a list of 3 numbers, one per class, at least 0"),
        ({"kind": {"class_weights": [0, 0, 0]}}, "write ++losses.kind.class_weights=[1,1,1]."),
        ({"flag": {"label_smoothing": "a"}}, "must be a number in [0, 1), got 'a'; try 0.1."),
    ],
)
def test_wrong_options_are_refused_in_one_line(section: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_all_loss_options(TASKS, section)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_own_loss_takes_its_own_options() -> None:
    own = Task("a", 2, nn.CrossEntropyLoss(), ())
    with pytest.raises(ConfigError, match="leave it out, or give it to your own loss"):
        with_all_loss_options([own], {"a": {"label_smoothing": 0.1}})
