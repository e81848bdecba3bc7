"""`distribute`: a user's loop in N processes is that loop in one, or says why not."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from rotograd_cli import methods
from rotograd_cli.errors import ConfigError, RankError
from tests import many_ranks, own_loop

pytestmark = pytest.mark.xdist_group("ranks")
SAID = {
    "uneven": r"^Every rank must have as many rows of a batch, got \[6, 5\]; let torch's Dist",
    "absent": r"^`losses\[2\]` must be None on all ranks or on none, .* rank 1 .*predictions\[2\]",
    "uncleared": r"^Gradients that were summed over the ranks must be cleared before the next",
    "micro": r"^accumulating=True must be said of the forward pass too; run both inside `with mod",
    "wrapped": r"^PCGrad must not be inside DistributedDataParallel, .*methods\.distribute",
    "alone": r"^Each of 2 processes trains a model of its own; call rotograd_cli\.methods\.distr",
}


@pytest.mark.slow
def test_a_loop_on_two_ranks_takes_the_steps_of_one(tmp_path: Path) -> None:
    first, second = many_ranks.together(2, tmp_path / "ranks", "tests.own_loop:train_all")
    assert list(first) == own_loop.CASES
    for name, state in first.items():
        method, variant = name.split("/")
        tolerance = 1e-7 if method == "nashmtl" else 1e-10
        expected = own_loop.loop(method, variant, 0, 1)
        torch.testing.assert_close(state, expected, rtol=tolerance, atol=tolerance, msg=name)
        assert all(torch.equal(value, second[name][key]) for key, value in state.items()), name


@pytest.mark.slow
def test_ranks_that_would_go_apart_are_refused_in_one_line(tmp_path: Path) -> None:
    for found in many_ranks.together(2, tmp_path / "ranks", "tests.own_loop:refusals"):
        for name, expected in SAID.items():
            assert "\n" not in found[name]
            assert re.match(expected, found[name]), (name, found[name])


def test_one_process_is_left_as_it_is_and_a_job_without_a_group_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = methods.VanillaMTL(nn.Linear(2, 2), [nn.Linear(2, 1)])
    assert methods.distribute(model) is model
    assert model.ranks.size == 1
    with pytest.raises(ConfigError, match="must be a method, got Sequential; pass the MultiTask"):
        methods.distribute(nn.Sequential(model))  # type: ignore[type-var]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RankError, match=r"The 2 processes of this job .*init_process_group\(\) fi"):
        methods.distribute(model)
