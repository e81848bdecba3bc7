"""Two digits in one image: geometry, targets, seeds."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rotograd_cli.data.base import Split
from rotograd_cli.data.two_digits import SPLITS, Digits, TwoDigits, overlap
from rotograd_cli.errors import ConfigError
from tests.counting import CountOperations

MEAN, STD = 0.1307, 0.3081


def random_digits(num: int, seed: int, labels: Sequence[int] = range(10)) -> Digits:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (num, 28, 28), generator=generator, dtype=torch.uint8)
    images[torch.rand(num, 28, 28, generator=generator) < 0.5] = 0
    chosen = torch.randint(len(labels), (num,), generator=generator)
    return Digits(images, torch.tensor(labels)[chosen])


def two_digits(
    digits: dict[Split, Digits] | None = None,
    *,
    seed: int = 0,
    partners: int = 2,
    tasks: Sequence[str] | None = None,
) -> TwoDigits:
    if digits is None:
        digits = {split: random_digits(30 + 5 * i, i) for i, split in enumerate(SPLITS)}
    return TwoDigits(
        digits=digits,
        compose=overlap,
        tasks=tasks,
        partners=partners,
        seed=seed,
        mean=MEAN,
        std=STD,
        device=torch.device("cpu"),
    )


def everything(dataset: TwoDigits, split: Split) -> tuple[Tensor, dict[str, Tensor]]:
    """Images in 0..255 and targets of a split."""
    batch = dataset.batch(split, torch.arange(dataset.num_examples(split)))
    images = (255 * (batch.inputs.double() * STD + MEAN)).round().squeeze(1)
    return images, dict(batch.targets)


# ---- composition


def test_composition_agrees_with_a_loop_over_pixels() -> None:
    left, right = random_digits(4, 0).images, random_digits(4, 1).images
    composed = overlap(left, right)
    assert composed.dtype == torch.uint8
    for n in range(4):
        for i in range(28):
            for j in range(28):
                y, x = int((i + 0.5) * 36 / 28), int((j + 0.5) * 36 / 28)
                in_left = y < 28 and x < 28
                in_right = 6 <= y < 34 and 6 <= x < 34
                values = [0]
                values += [int(left[n, y, x])] if in_left else []
                values += [int(right[n, y - 6, x - 6])] if in_right else []
                assert composed[n, i, j] == max(values)


def test_composition_agrees_with_pil() -> None:
    left, right = random_digits(20, 0).images.numpy(), random_digits(20, 1).images.numpy()
    composed = overlap(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    for n in range(20):
        canvas = np.zeros((36, 36), np.uint8)
        canvas[:28, :28] = left[n]
        canvas[6:34, 6:34] = np.maximum(canvas[6:34, 6:34], right[n])
        resized = Image.fromarray(canvas).resize((28, 28), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(composed[n], np.asarray(resized))


def test_left_digit_is_up_right_digit_is_down_and_overlap_is_the_maximum() -> None:
    left = torch.full((2, 28, 28), 50, dtype=torch.uint8)
    right = torch.stack((torch.full((28, 28), 90), torch.full((28, 28), 10))).byte()
    bright, dark = overlap(left, right)
    assert bright[0, 0] == dark[0, 0] == 50
    assert (bright[5:21, 5:21] == 90).all()
    assert (dark[5:21, 5:21] == 50).all()
    assert (bright[22:26, 22:26] == 90).all()
    assert (dark[22:26, 22:26] == 10).all()
    for image in (bright, dark):  # the canvas's last two rows and columns hold neither digit
        assert not image[26:].any()
        assert not image[:, 26:].any()
        assert image[0, 22] == image[22, 0] == 0


def test_composition_leaves_its_arguments_alone() -> None:
    left, right = random_digits(3, 0).images, random_digits(3, 1).images
    before = left.clone(), right.clone()
    overlap(left, right)
    assert torch.equal(left, before[0])
    assert torch.equal(right, before[1])


def test_composition_takes_as_many_operations_for_all_digits_as_for_one() -> None:
    counts = []
    for num in (1, 1000):
        digits = random_digits(num, 0).images
        with CountOperations() as operations:
            overlap(digits, digits)
        counts.append(operations.num)
    assert counts[0] == counts[1] > 0


# ---- targets


def test_targets_follow_from_the_two_labels_and_the_pixels() -> None:
    dataset = two_digits()
    train_images, _ = everything(dataset, "train")
    counts = (train_images > 127.5).sum((1, 2)).double()
    for split in SPLITS:
        images, targets = everything(dataset, split)
        left, right = targets["left"], targets["right"]
        assert left.dtype == right.dtype == torch.int64
        assert torch.equal(targets["sum"], (left + right).float())
        assert torch.equal(targets["parity"] == 1, (left % 2 == 1) & (right % 2 == 1))
        assert set(targets["parity"].tolist()) == {0.0, 1.0}
        own = (images > 127.5).sum((1, 2)).double()
        expected = (own - counts.mean()) / counts.std()  # every split by the train statistics
        torch.testing.assert_close(targets["pixels"].double(), expected, rtol=1e-6, atol=1e-6)


def test_pixel_counts_are_standardised_on_the_training_split_alone() -> None:
    dense = random_digits(40, 2)
    dense.images.fill_(255)
    sparse = random_digits(40, 1)
    dataset = two_digits({"train": sparse, "val": dense, "test": dense})
    pixels = everything(dataset, "train")[1]["pixels"].double()
    assert abs(float(pixels.mean())) < 1e-6  # float32 rounding of numbers near 1
    assert abs(float(pixels.std()) - 1) < 1e-6
    assert (everything(dataset, "val")[1]["pixels"] > 5).all()


def test_image_shows_the_digits_of_its_labels_and_partners_come_from_the_same_split() -> None:
    labels: dict[Split, Sequence[int]] = {"train": [1, 2, 3], "val": [4, 5, 6], "test": [7, 8, 9]}
    digits: dict[Split, Digits] = {}
    for split in SPLITS:
        drawn = random_digits(20, 0, labels[split])
        images = (20 * drawn.labels).byte().view(-1, 1, 1).expand(-1, 28, 28).contiguous()
        images[:, 1:20, 1:20] = 255  # so that the number of active pixels varies below
        images[::2, 1:20, 1:20] = 0
        digits[split] = Digits(images, drawn.labels)
    dataset = two_digits(digits)
    for split in SPLITS:
        images, targets = everything(dataset, split)
        assert images.shape[0] == 2 * 20
        assert torch.equal(images[:, 0, 0], 20.0 * targets["left"])
        assert torch.equal(images[:, 25, 25], 20.0 * targets["right"])
        assert set(targets["right"].tolist()) <= set(labels[split])
        assert torch.equal(targets["left"], digits[split].labels.repeat(2))


# ---- reading


def test_batch_reads_by_index_in_the_order_asked_for() -> None:
    dataset = two_digits()
    all_of_it = dataset.batch("val", torch.arange(dataset.num_examples("val")))
    indices = torch.tensor([7, 0, 7, 3])
    batch = dataset.batch("val", indices)
    assert torch.equal(batch.inputs, all_of_it.inputs[indices])
    for name, target in batch.targets.items():
        assert torch.equal(target, all_of_it.targets[name][indices])


def test_inputs_are_normalised_by_the_given_mean_and_standard_deviation() -> None:
    left = Digits(torch.full((4, 28, 28), 255, dtype=torch.uint8), torch.arange(4))
    left.images[0, 3:9] = 0
    dataset = two_digits(dict.fromkeys(SPLITS, left))
    inputs = dataset.batch("test", torch.arange(4)).inputs
    assert inputs.shape == (4, 1, 28, 28)
    assert inputs.dtype == torch.float32
    assert float(inputs.max()) == pytest.approx((1 - MEAN) / STD, rel=1e-6)
    assert float(inputs.min()) == pytest.approx((0 - MEAN) / STD, rel=1e-6)


def test_only_the_chosen_tasks_are_read_in_their_order() -> None:
    dataset = two_digits(tasks=["parity", "left"])
    assert [task.name for task in dataset.tasks] == ["parity", "left"]
    assert list(dataset.batch("train", torch.arange(3)).targets) == ["parity", "left"]


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="got 'product'; choose from left, right, sum, parity"):
        two_digits(tasks=["left", "product"])


# ---- seeds


def test_same_seed_gives_the_same_bytes_and_another_seed_does_not() -> None:
    first, second, other = two_digits(seed=4), two_digits(seed=4), two_digits(seed=5)
    for split in SPLITS:
        assert torch.equal(everything(first, split)[0], everything(second, split)[0])
        assert not torch.equal(everything(first, split)[0], everything(other, split)[0])
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_partners_are_independent_of_the_global_generator_and_leave_it_alone() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = two_digits()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert two_digits().fingerprint == first.fingerprint


def test_fingerprint_does_not_depend_on_the_chosen_tasks_and_sees_every_label() -> None:
    digits = {split: random_digits(12, i) for i, split in enumerate(SPLITS)}
    fingerprint = two_digits(digits).fingerprint
    assert two_digits(digits, tasks=["sum"]).fingerprint == fingerprint
    labels = digits["test"].labels.clone()
    labels[-1] = (labels[-1] + 1) % 10
    changed = {**digits, "test": Digits(digits["test"].images, labels)}
    assert two_digits(changed).fingerprint != fingerprint
