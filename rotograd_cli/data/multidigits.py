"""MultiDigits: two-digit images from the 1,797 real digits that scikit-learn ships."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Positive, Seed, Split
from rotograd_cli.data.two_digits import SIZE, Digits, TwoDigits, overlap
from rotograd_cli.errors import ConfigError


class MultiDigits(TwoDigits):
    """Real handwritten digits without a download (UCI ML hand-written digits, 8×8, 16 grey levels).

    The digits are enlarged to 28×28 (bilinear) and composed as MultiMNIST's are. The single digits
    are split before composition, stratified by class, so no handwriting of the test split is seen
    in training.

    Args:
        data_dir: Not used: scikit-learn carries the data.
        tasks: Names of the wanted tasks; None for all five.
        device: Where the images live.
        partners: Right digits drawn for every left digit.
        num_val: Single digits held out for validation.
        num_test: Single digits held out for the test.
        seed: Seed of split and partners.
        mean: Pixel mean of the normalisation.
        std: Pixel standard deviation of the normalisation.

    Raises:
        ConfigError: If an option is out of range, or a split would be too small.
    """

    name = "multidigits"

    @checked
    def __init__(
        self,
        *,
        data_dir: Path,
        tasks: Sequence[str] | None,
        device: torch.device,
        partners: AtLeastOne,
        num_val: int,
        num_test: int,
        seed: Seed,
        mean: float,
        std: Positive,
    ) -> None:
        del data_dir
        _check_sizes(num_val, num_test)
        super().__init__(
            digits=_load(num_val, num_test, seed),
            compose=overlap,
            tasks=tasks,
            partners=partners,
            seed=seed,
            mean=mean,
            std=std,
            device=device,
        )


def _load(num_val: int, num_test: int, seed: int) -> dict[Split, Digits]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear").squeeze(1).round().byte()
    labels = torch.from_numpy(data.target).long()
    rest, test = train_test_split(
        range(len(labels)), test_size=num_test, stratify=labels, random_state=seed
    )
    train, val = train_test_split(rest, test_size=num_val, stratify=labels[rest], random_state=seed)
    parts: dict[Split, list[int]] = {"train": train, "val": val, "test": test}
    return {split: Digits(large[part], labels[part]) for split, part in parts.items()}


def _check_sizes(num_val: int, num_test: int) -> None:
    if min(num_val, num_test) < 10 or num_val + num_test > 1_787:
        raise ConfigError(
            "`data.num_val` and `data.num_test` must each be at least 10 and leave 10 of the 1,797 "
            f"digits for training, got {num_val} and {num_test}."
        )
