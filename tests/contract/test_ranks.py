"""N processes take the steps of one: every method, every layout of the features."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import many_ranks

SOLVERS = {"nashmtl": 1e-7}  # stops short of the solution, where rounding decides


pytestmark = pytest.mark.xdist_group("ranks")  # what is trained serves all tests
worlds = pytest.mark.parametrize(("world", "job"), [(2, "train_all"), (4, "train_some")])
CASES = [
    *((method, 2, "train_all") for method in many_ranks.METHODS),
    *((method, 4, "train_some") for method in many_ranks.SOME),
    *(
        pytest.param(method, 4, "train_all", marks=pytest.mark.slow)
        for method in many_ranks.METHODS
        if method not in many_ranks.SOME
    ),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What every process got for every case, by number of processes and choice of methods."""

    @cache
    def train(world: int, job: str) -> list[dict[str, Any]]:
        folder: Path = tmp_path_factory.mktemp("ranks") / str(world)
        return many_ranks.together(world, folder, job)

    return train


@pytest.mark.parametrize(("method", "world", "job"), CASES)
def test_n_ranks_take_the_steps_of_one_process(
    trained: Any, method: str, world: int, job: str
) -> None:
    tolerance = SOLVERS.get(method, 1e-10)
    for case in many_ranks.cases(world, [method]):
        wanted = many_ranks.alone(*case)
        for result in trained(world, job):
            found = result["/".join(map(str, case))]
            torch.testing.assert_close(
                found["state"], wanted["state"], rtol=0, atol=tolerance, msg=_named(case)
            )
            torch.testing.assert_close(
                found["losses"], wanted["losses"], rtol=tolerance, atol=tolerance, equal_nan=True
            )
            assert torch.equal(found["draw"], wanted["draw"]), case  # generators are in step


def _named(case: tuple[Any, ...]) -> Any:
    return lambda message: f"{case}: {message}"


@worlds
def test_all_ranks_have_the_same_bits(trained: Any, world: int, job: str) -> None:
    first, *others = trained(world, job)
    for name, result in first.items():
        for other in others:
            assert all(
                torch.equal(value, other[name]["state"][key])
                for key, value in result["state"].items()
            ), name


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_an_evaluation_on_n_ranks_has_the_bits_of_one(tmp_path: Path, world: int) -> None:
    wanted = many_ranks.evaluate_all(many_ranks.ONE)
    for found in many_ranks.together(world, tmp_path, "evaluate_all"):
        assert repr(found) == repr(wanted)  # NaN equal to itself
