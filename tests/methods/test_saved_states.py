"""States of runs whose methods were their own rules (to version 0.1, commit 6f00429) load."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.test_methods import build
from tests.samplers import SIZE

K = 3
INITIAL: dict[str, Any] = {
    "values": torch.tensor([0.5, 2.0, 3.0]),
    "num_steps": torch.tensor([4, 4, 3]),
    "num_micro_batches": torch.zeros(K, dtype=torch.int64),
}


def initial(name: str) -> dict[str, Any]:
    return {f"{name}.{key}": value for key, value in INITIAL.items()}


# what the method's own part of a state_dict was called
STATES: dict[str, dict[str, Any]] = {
    "scaleonly": initial("initial_norms"),
    "gradnorm": {"log_weight": torch.tensor([0.1, -0.2, 0.3]), **initial("initial_losses")},
    "uncertainty": {"log_variance": torch.tensor([0.1, -0.2, 0.3])},
    "dwa": {
        "sums": torch.tensor([1.0, 2.0, 3.0]),
        "counts": torch.tensor([2.0, 2.0, 1.0]),
        "means": torch.tensor([[1.0, 2.0, 3.0], [0.5, 1.5, 2.0]]),
    },
    "famo": {"logits": torch.tensor([0.1, -0.2, 0.3]), **initial("initial_losses")},
    "nashmtl": {
        "_extra_state": {"previous": torch.tensor([0.5, 1.0, 2.0]).double(), "num_passes": 7}
    },
    "pcgrad": {},
}


def flat(state: Any) -> list[Any]:
    return [
        v for value in state.values() for v in (flat(value) if type(value) is dict else [value])
    ]


@pytest.mark.parametrize("method", STATES)
def test_a_state_of_an_earlier_version_loads_into_the_rule(method: str) -> None:
    model = build(method, [nn.Linear(SIZE, 1) for _ in range(K)])
    shared = {n: t for n, t in model.state_dict().items() if not n.startswith("rule.")}
    model.load_state_dict({**shared, **STATES[method]})
    pairs = zip(flat(model.rule.state_dict()), flat(STATES[method]), strict=True)
    for value, expected in pairs:
        assert torch.equal(value, expected) if isinstance(value, Tensor) else value == expected


ROTATED: dict[str, dict[str, Any]] = {
    "rotateonly": {},
    "rotograd": initial("initial_norms"),
    "rotogradnorm": {"log_weight": torch.tensor([0.1, -0.2, 0.3])},
    "imtlg_rotations": {},
}


def test_a_state_of_an_earlier_version_loads_into_rotations_and_rule() -> None:
    """Start losses, which every rotated method had, are RotoGradNorm's too."""
    for method, own in ROTATED.items():
        model = build(method, [nn.Linear(SIZE, 1) for _ in range(K)])
        shared = {n: t for n, t in model.state_dict().items() if not n.startswith("rule.")}
        shared["rotations.free_parameters"] = torch.randn(K, SIZE * (SIZE - 1) // 2)
        expected = {**shared, **initial("initial_losses")}
        model.load_state_dict({**expected, **own})
        expected |= {f"rule.{name}": value for name, value in own.items()}
        if method == "rotogradnorm":
            expected |= {f"rule.{n}": value for n, value in initial("initial_losses").items()}
        state = model.state_dict()
        assert state.keys() == expected.keys(), method
        assert all(torch.equal(state[name], value) for name, value in expected.items()), method


def test_parameters_keep_their_order_in_the_state_of_the_second_optimiser() -> None:
    model = build("rotogradnorm", [nn.Linear(SIZE, 1) for _ in range(K)])
    shapes = [tuple(p.shape) for p in model.mtl_parameters()]
    assert shapes == [(K,), (K, SIZE * (SIZE - 1) // 2)]  # task weights, then rotations, as before


def test_a_state_of_this_version_is_loaded_as_it_is() -> None:
    model = build("famo", [nn.Linear(SIZE, 1) for _ in range(K)])
    state = model.state_dict()
    assert {"rule.logits", "rule.initial_losses.values"} <= set(state)
    model.load_state_dict(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        model.load_state_dict({**state, "logits": state["rule.logits"]})
