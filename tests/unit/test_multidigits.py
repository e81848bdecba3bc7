"""MultiDigits: the split of scikit-learn's digits and their enlargement."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from rotograd_cli.data import multidigits
from rotograd_cli.data.multidigits import MultiDigits
from rotograd_cli.errors import ConfigError

OPTIONS: dict[str, Any] = {
    "data_dir": Path("absent"),
    "tasks": None,
    "device": torch.device("cpu"),
    "partners": 1,
    "num_val": 300,
    "num_test": 300,
    "seed": 0,
    "mean": 0.1307,
    "std": 0.3081,
}


def test_splits_share_no_handwriting_and_cover_all_digits() -> None:
    digits = multidigits._load(300, 300, 0)
    sizes = {split: len(part.labels) for split, part in digits.items()}
    assert sizes == {"train": 1_197, "val": 300, "test": 300}
    images = [image.numpy().tobytes() for part in digits.values() for image in part.images]
    assert len(set(images)) == 1_797  # all different, so none is in two splits
    labels = torch.cat([part.labels for part in digits.values()])
    assert Counter(labels.tolist()) == Counter(load_digits().target.tolist())


def test_every_split_has_the_classes_in_proportion() -> None:
    shares = torch.bincount(torch.from_numpy(load_digits().target)) / 1_797
    for part in multidigits._load(300, 300, 0).values():
        expected = shares * len(part.labels)
        # stratified rounding moves a class by one, and twice for what is split twice
        assert (torch.bincount(part.labels) - expected).abs().max() <= 2


def test_classes_are_split_as_scikit_learn_splits_them() -> None:
    labels = load_digits().target
    for num_held in (10, 37, 300, 777, 1_777):
        for seed in range(4):
            expected = train_test_split(
                np.arange(1_797), test_size=num_held, stratify=labels, random_state=seed
            )
            found = multidigits._stratified(labels, num_held, seed)
            assert [part.tolist() for part in found] == [part.tolist() for part in expected]


def test_digits_are_enlarged_bilinearly_and_keep_their_label() -> None:
    source = load_digits()
    enlarged = {}
    for image, label in zip(source.images, source.target, strict=True):
        grey = Image.fromarray((image * 255 / 16).astype(np.float32))
        large = np.asarray(grey.resize((28, 28), Image.Resampling.BILINEAR))
        enlarged[large.round().astype(np.uint8).tobytes()] = int(label)
    part = multidigits._load(300, 300, 0)["val"]
    labels = [enlarged.get(image.numpy().tobytes()) for image in part.images]
    known = [(a, int(b)) for a, b in zip(labels, part.labels, strict=True) if a is not None]
    assert len(known) > 250  # the others differ by the rounding of an exact half
    assert all(a == b for a, b in known)


def test_seed_decides_the_split() -> None:
    first, second = (multidigits._load(300, 300, 7)["test"].images for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, multidigits._load(300, 300, 8)["test"].images)


def test_partners_multiply_the_examples() -> None:
    dataset = MultiDigits(**{**OPTIONS, "partners": 3})
    assert dataset.num_examples("train") == 3 * 1_197
    assert dataset.num_examples("test") == 3 * 300


def test_bad_option_is_refused_in_one_line() -> None:
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"partners": 0}, "`partners` must be at least 1, got 0"),
        ({"num_val": 9}, "got 9 and 300"),
        ({"num_test": 0}, "got 300 and 0"),
        ({"num_val": 900, "num_test": 888}, "leave 10 of the 1,797 digits"),
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"seed": 2**32}, "`seed` must be less than 4294967296"),
        ({"std": 0.0}, "`std` must be more than 0, got 0.0"),
    )
    for changes, message in bad:
        with pytest.raises(ConfigError, match=message) as caught:
            MultiDigits(**{**OPTIONS, **changes})
        assert "\n" not in str(caught.value)


def test_every_size_that_passes_the_check_can_be_split() -> None:
    for num_val, num_test in [(10, 1_777), (1_777, 10), (893, 894)]:
        for seed in range(3):
            dataset = MultiDigits(
                **{**OPTIONS, "num_val": num_val, "num_test": num_test, "seed": seed}
            )
            assert dataset.num_examples("train") == 1_797 - num_val - num_test
