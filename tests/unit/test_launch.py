"""Joining a job: every attempt meets under a name of its own."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from rotograd_cli.errors import ConfigError, RankError
from rotograd_cli.ranks import launch
from tests.waiting import PATIENCE_S

PATIENCE = timedelta(seconds=PATIENCE_S)


@pytest.fixture
def store() -> Any:
    return dist.TCPStore("localhost", 0, is_master=True, timeout=PATIENCE)


def attempt(store: Any, size: int, delays: dict[int, float] | None = None) -> list[str]:
    """The names that the ranks of one attempt get."""
    names = [""] * size

    def join(rank: int) -> None:
        own = dist.TCPStore("localhost", store.port, is_master=False, timeout=PATIENCE)
        threading.Event().wait((delays or {}).get(rank, 0))
        names[rank] = launch.meet(own, rank, size)

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    return names


@pytest.mark.parametrize("size", [1, 2, 4])
def test_every_attempt_has_a_name_that_all_ranks_know(store: Any, size: int) -> None:
    seen = set()
    for late in range(4):  # a late rank must not be confused with its predecessor
        names = attempt(store, size, {late % size: 0.2})
        assert len(set(names)) == 1
        seen.add(names[0])
    assert len(seen) == 4
    assert "" not in seen


def test_an_attempt_that_some_ranks_never_joined_does_not_disturb_the_next(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_MEETING_S", 0.3)
    with pytest.raises(RankError, match="The 3 ranks must all start within"):
        launch.meet(store, 2, 3)
    with pytest.raises(RankError, match="got rank 0 waiting"):
        launch.meet(store, 0, 3)
    monkeypatch.setattr(launch, "_MEETING_S", PATIENCE_S)
    assert len(set(attempt(store, 3))) == 1


def test_a_rank_without_a_device_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="must leave each of the 2 ranks a device of its own"):
        launch._take_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(ConfigError, match="start fewer processes or use device=cpu"):
        launch._take_device("cuda")
