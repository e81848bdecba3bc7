"""MultiDigits: two-digit images from the 1,797 real digits that scikit-learn ships."""

from collections.abc import Sequence
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from rotograd_cli.bounds import AtLeastOne, checked
from rotograd_cli.data.base import Positive, Seed, Split
from rotograd_cli.data.two_digits import SIZE, Digits, TwoDigits, overlap
from rotograd_cli.errors import ConfigError

Positions = NDArray[np.int64]


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
    # the file alone: to import scikit-learn takes as long as to import torch
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = torch.from_numpy(np.loadtxt(str(file), delimiter=","))
    images = table[:, :-1].float().view(-1, 1, 8, 8) * (255 / 16)
    large = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear").squeeze(1).round().byte()
    labels = table[:, -1].long()
    rest, test = _stratified(labels.numpy(), num_test, seed)
    train, val = (rest[part] for part in _stratified(labels[rest].numpy(), num_val, seed))
    parts: dict[Split, Positions] = {"train": train, "val": val, "test": test}
    return {split: Digits(large[part], labels[part]) for split, part in parts.items()}


def _stratified(labels: Positions, num_held: int, seed: int) -> tuple[Positions, Positions]:
    """Split positions as ``sklearn.model_selection.train_test_split(stratify=labels)`` does.

    Args:
        labels: Classes 0..C-1, each of them several times, shape ``[N]``.
        num_held: Size of the second part.
        seed: Seed of NumPy's older generator.

    Returns:
        The positions in both parts, each class in proportion to its size.
    """
    random = np.random.RandomState(seed)
    counts = np.bincount(labels)
    members = np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])
    kept = _shares(counts, len(labels) - num_held, random)
    held = _shares(counts - kept, num_held, random)
    shuffled = [own[random.permutation(len(own))] for own in members]
    first = [own[:num] for own, num in zip(shuffled, kept, strict=True)]
    second = [own[num:][:more] for own, num, more in zip(shuffled, kept, held, strict=True)]
    return random.permutation(np.concatenate(first)), random.permutation(np.concatenate(second))


def _shares(counts: Positions, total: int, random: np.random.RandomState) -> Positions:
    """Divide ``total`` in proportion to ``counts``: largest remainders first, ties by lot."""
    exact = counts / counts.sum() * total
    shares: NDArray[np.float64] = np.floor(exact)
    remainders = exact - shares
    for value in np.unique(remainders)[::-1]:
        missing = int(total - shares.sum())
        if missing > 0:
            (tied,) = np.nonzero(remainders == value)
            shares[random.choice(tied, min(len(tied), missing), replace=False)] += 1
    return shares.astype(np.int64)


def _check_sizes(num_val: int, num_test: int) -> None:
    if min(num_val, num_test) < 10 or num_val + num_test > 1_787:
        raise ConfigError(
            "`data.num_val` and `data.num_test` must each be at least 10 and leave 10 of the 1,797 "
            f"digits for training, got {num_val} and {num_test}."
        )
