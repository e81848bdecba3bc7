"""N processes take the steps of one: every method, every layout of the features."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rotograd_cli.ranks.layers import see_whole_batch
from rotograd_cli.ranks.many import has_unused
from tests import many_ranks

SOLVERS = {"nashmtl": 1e-7}  # stops short of the solution, where rounding decides


pytestmark = pytest.mark.xdist_group("ranks")  # what is trained serves all tests
QUICK = (2, "train_some_and_evaluate")
SLOW = [(2, "train_all_and_evaluate"), (4, "train_all_and_evaluate")]
WORLDS = [QUICK, *(pytest.param(*world, marks=pytest.mark.slow) for world in SLOW)]
worlds = pytest.mark.parametrize(("world", "job"), WORLDS)
CASES = [
    *((method, *QUICK) for method in many_ranks.SOME),
    *(
        pytest.param(method, *world, marks=pytest.mark.slow)
        for method in many_ranks.METHODS
        for world in SLOW
    ),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What every process got for every case, by number of processes and choice of methods."""

    @cache
    def train(world: int, job: str) -> list[tuple[dict[str, Any], Any]]:
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
        for result, _ in trained(world, job):
            found = result["/".join(map(str, case))]
            torch.testing.assert_close(
                found["state"], wanted["state"], rtol=0, atol=tolerance, msg=_named(case)
            )
            torch.testing.assert_close(
                found["losses"], wanted["losses"], rtol=tolerance, atol=tolerance, equal_nan=True
            )
            assert torch.equal(found["draw"], wanted["draw"]), case  # generators are in step
            for record, expected in zip(found["records"], wanted["records"], strict=True):
                assert record == pytest.approx(expected, rel=tolerance, abs=10 * tolerance), case


def _named(case: tuple[Any, ...]) -> Any:
    return lambda message: f"{case}: {message}"


@worlds
def test_all_ranks_have_the_same_bits(trained: Any, world: int, job: str) -> None:
    first, *others = [result for result, _ in trained(world, job)]
    for name, result in first.items():
        for other in others:
            assert all(
                torch.equal(value, other[name]["state"][key])
                for key, value in result["state"].items()
            ), name


@worlds
def test_an_evaluation_on_n_ranks_is_that_of_one(trained: Any, world: int, job: str) -> None:
    expected = many_ranks.evaluate_all(many_ranks.ONE)
    for _, result in trained(world, job):
        for num, metrics in expected.items():
            assert result[num] == pytest.approx(metrics, rel=1e-10, abs=1e-10, nan_ok=True)


@pytest.mark.parametrize("tracks", [True, False])
def test_layers_talk_to_no_other_rank_in_evaluation(tracks: bool) -> None:
    """There ranks are not in step. Here is no process group, so that talking is an error."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=tracks), nn.Dropout()).eval()
    x = torch.randn(5, 3)
    expected = network(x)
    see_whole_batch(network, many_ranks.ONE)
    assert torch.equal(network(x), expected)


def test_looking_for_unused_parameters_leaves_a_backbone_as_it_is() -> None:
    backbone = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3).eval())
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert not has_unused(backbone, torch.zeros(1, 2))
    assert [module.training for module in backbone] == [True, False]
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    backbone.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    assert has_unused(backbone, torch.zeros(1, 2))
