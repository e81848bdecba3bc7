"""What is said of numbers that do not come from whole splits."""

from dataclasses import dataclass

import pytest

from rotograd_cli.training.batches import cut_notes, evaluation_parts
from tests.toy import ToyDataset


@dataclass(frozen=True)
class Limits:
    batch_size: int = 6
    eval_batch_size: int = 4
    limit_batches: int | None = None
    limit_eval_batches: int | None = None


def test_the_cut_of_an_evaluation_of_training_examples_names_its_cause() -> None:
    notes = cut_notes(ToyDataset(), ("train",), Limits(limit_batches=2))
    assert notes[1:] == (
        "cut evaluation: the first 12 of 20 examples of train (train.limit_batches)",
    )


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (Limits(), ()),
        (Limits(limit_batches=3, limit_eval_batches=3), ()),  # limits that cut nothing
        (
            Limits(limit_batches=2),
            ("cut training: 2 of 3 batches per epoch (train.limit_batches)",),
        ),
        (
            Limits(limit_eval_batches=2),
            (
                "cut evaluation: the first 8 of 11 examples of val (train.limit_eval_batches)",
                "cut evaluation: the first 8 of 9 examples of test (train.limit_eval_batches)",
            ),
        ),
    ],
)
def test_every_cut_is_said_and_nothing_else(limits: Limits, said: tuple[str, ...]) -> None:
    dataset = ToyDataset()  # 20, 11 and 9 examples
    assert cut_notes(dataset, ("val", "test"), limits) == said
    whole = [sum(len(p) for p in evaluation_parts(dataset, s, limits)) for s in ("val", "test")]
    assert (whole == [11, 9]) == (not any("evaluation" in note for note in said))
