"""Start values against a plain account of what was handed in, entry by entry."""

import pytest
import torch

from rotograd_cli.methods.initial_values import InitialValues

inf, nan = float("inf"), float("nan")


def update(
    initial: InitialValues, *values: float, present: str = "11", accumulating: bool = False
) -> list[float]:
    """One call; returns the values recorded so far."""
    mask = torch.tensor([mark == "1" for mark in present])
    initial.update(torch.tensor(values), mask, accumulating=accumulating)
    return initial.values.tolist()


def test_values_are_those_of_step_0_and_then_of_the_burn_in_step() -> None:
    initial = InitialValues(2, burn_in_period=2)
    assert initial.denominators.tolist() == [1, 1]
    assert update(initial, 5, -6) == [5, -6]
    assert initial.denominators.tolist() == [5, 6]
    assert update(initial, 3, 4) == [5, -6]
    assert update(initial, 1, 2) == [1, 2]
    assert update(initial, 9, 9) == [1, 2]
    assert initial.num_steps.tolist() == [4, 4]


def test_without_burn_in_the_first_step_is_final() -> None:
    initial = InitialValues(2, burn_in_period=0)
    assert update(initial, 5, 6) == [5, 6]
    assert update(initial, 1, 1) == [5, 6]


def test_an_absent_entry_keeps_its_value_and_its_clock() -> None:
    initial = InitialValues(2, burn_in_period=1)
    assert update(initial, 5, 77, present="10") == [5, 0]
    assert update(initial, 4, 6) == [4, 6]  # step 1 of the first entry, step 0 of the second
    assert update(initial, 3, 2) == [4, 2]
    assert initial.num_steps.tolist() == [3, 2]


@pytest.mark.parametrize(("useless", "num_steps"), [(0.0, 4), (inf, 1), (-inf, 1), (nan, 1)])
def test_useless_values_wait_for_the_first_usable_one(useless: float, num_steps: int) -> None:
    initial = InitialValues(2, burn_in_period=3)
    assert update(initial, useless, 1) == [0, 1]
    assert initial.denominators.tolist() == [1, 1]
    assert update(initial, useless, 9) == [0, 1]
    assert update(initial, 7, 9) == [7, 1]
    assert update(initial, useless, 2) == [7, 2]  # the burn-in step brings nothing better
    assert initial.num_steps.tolist() == [num_steps, 4]  # not finite: absent


def test_micro_batches_of_a_step_are_averaged_and_counted_once() -> None:
    initial = InitialValues(2, burn_in_period=1)
    update(initial, 2, 0, accumulating=True)
    update(initial, 4, 8, accumulating=True)
    assert update(initial, 9, 10) == [5, 9]  # a useless value is left out of the mean
    assert initial.num_steps.tolist() == [1, 1]
    update(initial, 1, 1, accumulating=True)
    assert update(initial, 3, 5) == [2, 3]
    assert initial.num_steps.tolist() == [2, 2]


def test_an_entry_in_any_micro_batch_takes_part_in_the_step() -> None:
    initial = InitialValues(2, burn_in_period=1)
    update(initial, 2, 3, present="10", accumulating=True)
    assert update(initial, 9, 4, present="01") == [2, 4]
    assert initial.num_steps.tolist() == [1, 1]


def test_state_in_the_middle_of_a_step_continues_exactly() -> None:
    initial, other = InitialValues(2, burn_in_period=1), InitialValues(2, burn_in_period=1)
    update(initial, 2, 3, accumulating=True)
    other.load_state_dict(initial.state_dict())
    assert update(initial, 4, 9) == update(other, 4, 9) == [3, 6]
    assert torch.equal(initial.num_steps, other.num_steps)
