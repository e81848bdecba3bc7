"""Pictures of examples: colours, words and errors against what tasks and metrics say."""

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rotograd_cli.data.base import MultiTaskDataset
from rotograd_cli.pictures import Example, draw_examples, kind_of, png, sheet
from rotograd_cli.pictures.colours import RIGHT, UNLABELLED, WRONG, paint_numbers, palette
from rotograd_cli.tasks import Task, losses, metrics
from tests.toy import ToyDataset

MAP = (2, 3)


def mine(prediction: Tensor, target: Tensor) -> Tensor:
    """A loss of the user's, of which nothing is known."""
    return (prediction - target).mean()


def drawn(task: Task, prediction: Tensor, target: Tensor | None) -> Example:
    dataset: MultiTaskDataset = ToyDataset()
    dataset.tasks = (task,)
    targets = {} if target is None else {task.name: target}
    inputs = torch.zeros(len(prediction), 6)
    return draw_examples(dataset, inputs, targets, {task.name: prediction})[0]


@pytest.mark.parametrize(
    ("loss", "num_outputs", "shape", "target", "kind"),
    [
        (losses.cross_entropy, 4, (), None, "class"),
        (losses.binary_cross_entropy, 1, (), None, "binary"),
        (losses.segmentation_cross_entropy, 4, MAP, None, "class_map"),
        (losses.normal_cosine, 3, MAP, None, "normal_map"),
        (mine, 4, (), torch.zeros(5, dtype=torch.long), "class"),
        (mine, 1, (), torch.zeros(5, dtype=torch.long), "binary"),
        (mine, 1, (), torch.zeros(5), "number"),
        (mine, 4, MAP, torch.zeros(5, *MAP, dtype=torch.uint8), "class_map"),
        (mine, 4, MAP, torch.zeros(5, 4, *MAP), "number_map"),
        (F.cross_entropy, 4, (), torch.zeros(5, 4), "number"),  # probabilities of classes
    ],
)
def test_kind_follows_from_the_loss_and_for_a_users_from_shapes(
    loss: object, num_outputs: int, shape: tuple[int, ...], target: Tensor | None, kind: str
) -> None:
    task = Task("t", num_outputs, loss, (), shape)  # type: ignore[arg-type]
    assert kind_of(task, target) == kind


def test_answers_are_marked_as_the_metrics_count_them() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 3, generator=generator)
    target = torch.randint(-1, 3, (50,), generator=generator)
    task = Task("kind", 3, losses.cross_entropy, (metrics.accuracy(3),))
    dataset = ToyDataset()
    dataset.tasks = (task,)
    examples = draw_examples(dataset, torch.zeros(50, 6), {"kind": target}, {"kind": logits})
    marks = [example.answers[0].right for example in examples]
    (spec,) = task.metrics
    metric = spec.create()
    metric.update(spec.prepare(logits), target)
    assert marks.count(None) == int((target == -1).sum())
    share = marks.count(True) / (50 - marks.count(None))
    assert share == pytest.approx(float(spec.value(metric.compute())))


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "text"),
    [
        (losses.cross_entropy, [0.0, 2.0, 1.0], 2, "t 1 (2)"),
        (losses.cross_entropy, [0.0, 2.0, 1.0], 1, "t 1"),
        (losses.cross_entropy, [0.0, 2.0, 1.0], -1, "t 1 (?)"),
        (losses.cross_entropy, [0.0, float("nan"), 1.0], 1, "t nan (1)"),
        (losses.binary_cross_entropy, [-0.1], 1.0, "t no (yes)"),
        (losses.mean_squared_error, [11.8049], 12.0, "t 11.8 (12)"),
        (losses.mean_squared_error, [11.8049], float("nan"), "t 11.8 (?)"),
    ],
)
def test_answer_in_words(loss: object, prediction: list[float], target: float, text: str) -> None:
    task = Task("t", len(prediction), loss, ())  # type: ignore[arg-type]
    (answer,) = drawn(task, torch.tensor([prediction]), torch.tensor([target])).answers
    assert str(answer) == text


@pytest.mark.parametrize(
    ("logits", "target", "text", "right"),
    [
        ([1.0, -1.0, 1.0], [1.0, 0.0, 1.0], "t {0, 2}", True),
        ([1.0, -1.0, -1.0], [1.0, 1.0, 0.0], "t {0} ({0, 1})", False),
        ([-1.0, -1.0, -1.0], [1.0, 0.0, 0.0], "t {} ({0})", False),
        ([1.0, -1.0, 1.0], [1.0, 0.0, -1.0], "t {0, 2}", True),  # the third has no label
        ([1.0, -1.0, 1.0], [-1.0, -1.0, -1.0], "t {0, 2} (?)", None),
    ],
)
@pytest.mark.parametrize("loss", [losses.binary_cross_entropy, mine])
def test_several_labels_are_right_together(
    loss: object, logits: list[float], target: list[float], text: str, right: bool | None
) -> None:
    task = Task("t", 3, loss, (metrics.f1(),))  # type: ignore[arg-type]
    (answer,) = drawn(task, torch.tensor([logits]), torch.tensor([target])).answers
    assert (str(answer), answer.right) == (text, right)


def test_segmentation_shows_void_and_marks_wrong_pixels() -> None:
    task = Task("t", 3, losses.segmentation_cross_entropy, (), (1, 3))
    logits = F.one_hot(torch.tensor([[[0, 1, 2]]]), 3).permute(0, 3, 1, 2).float()
    (maps,) = drawn(task, logits, torch.tensor([[[0, 2, -1]]])).maps
    colours = palette(3)
    assert maps.truth is not None
    assert maps.error is not None
    assert (maps.prediction[0] == colours).all()
    assert (maps.truth[0] == [colours[0], colours[2], UNLABELLED]).all()
    assert (maps.error[0] == [RIGHT, WRONG, UNLABELLED]).all()


def test_depth_shares_one_scale_and_errors_are_absolute() -> None:
    task = Task("t", 1, losses.depth_l1, (), (1, 101))
    truth = torch.arange(100.0, 201.0).view(1, 1, 1, 101)
    truth[..., 50] = 0  # no depth there
    (maps,) = drawn(task, truth + 7, truth).maps
    low, high = np.percentile(np.delete(np.arange(100.0, 201.0), 50), (1, 99))
    assert maps.truth is not None
    assert maps.error is not None
    expected = paint_numbers(truth[0, 0].numpy() + 7, low, high, "viridis")
    assert np.abs(maps.prediction.astype(int) - expected).max() <= 1
    assert tuple(maps.truth[0, 50]) == tuple(maps.error[0, 50]) == UNLABELLED
    assert len(np.unique(maps.error[0], axis=0)) == 2  # the same error everywhere, and no depth
    assert f"{low:.3g}" in maps.values


def test_normals_are_coloured_by_direction_and_errors_by_angle() -> None:
    task = Task("t", 3, losses.normal_cosine, (), (1, 2))
    truth = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]]]])  # the second has none
    prediction = torch.tensor([[[[5.0, 1.0]], [[0.0, 1.0]], [[5.0, 1.0]]]])  # 45 degrees off
    (maps,) = drawn(task, prediction, truth).maps
    assert maps.truth is not None
    assert maps.error is not None
    assert maps.truth[0].tolist() == [[128, 128, 255], list(UNLABELLED)]
    expected = paint_numbers(np.array([[45.0, np.nan]]), 0, 60, "inferno")
    assert np.abs(maps.error.astype(int) - expected).max() <= 1


def test_large_maps_and_images_shrink_alike() -> None:
    dataset = ToyDataset()
    dataset.tasks = (Task("t", 1, losses.depth_l1, (), (30, 50)),)
    inputs = torch.rand(1, 3, 30, 50)
    depth = torch.rand(1, 1, 30, 50)
    (example,) = draw_examples(dataset, inputs, {"t": depth}, {"t": depth}, largest=20)
    assert example.image is not None
    assert example.image.shape == example.maps[0].prediction.shape == (10, 17, 3)


def test_png_has_every_pixel_and_a_sheet_holds_tasks_of_all_kinds() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 40, 3)).astype(np.uint8)
    few = palette(13)[np.arange(26).reshape(2, 13) % 13]
    for each in (picture, few):
        assert (np.asarray(Image.open(io.BytesIO(png(each))).convert("RGB")) == each).all()
    dataset = ToyDataset()
    batch = dataset.batch("val", torch.arange(3))
    predictions = {task.name: torch.zeros(3, task.num_outputs) for task in dataset.tasks}
    examples = draw_examples(dataset, batch.inputs, batch.targets, predictions)
    assert [example.image for example in examples] == [None] * 3  # inputs are no images
    assert [answer.task for answer in examples[0].answers] == ["kind", "value", "flag"]
    assert sheet(examples).shape[2] == 3


def test_a_task_without_target_shows_the_prediction_alone() -> None:
    task = Task("t", 3, losses.segmentation_cross_entropy, (), MAP)
    (maps,) = drawn(task, torch.randn(1, 3, *MAP), None).maps
    assert maps.truth is None
    assert maps.error is None
