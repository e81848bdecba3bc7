"""Rotations stored as one number per degree of freedom, and what earlier versions stored."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.linalg.triangle import Triangle, packed
from rotograd_cli.methods.rotation import plan
from rotograd_cli.methods.rotation.rotations import Rotations
from rotograd_cli.training.checkpoint import load_checkpoint
from tests.skews import skew, unpacked
from tests.unit.test_loop import trainer

SIZES = (1, 2, 3, 8, 11)


@pytest.mark.parametrize("size", SIZES)
def test_packing_is_the_inverse_of_unpacking(size: int) -> None:
    x = torch.randn(3, size * (size - 1) // 2, generator=torch.Generator().manual_seed(0))
    triangle = Triangle(size)
    expected = skew(unpacked(x))
    assert torch.equal(triangle.skew(x), expected)
    assert torch.equal(triangle.skew(x, out=torch.full_like(expected, torch.nan)), expected)
    found = torch.empty_like(x)
    triangle.pack(expected, out=found)
    assert torch.equal(found, x)
    assert torch.equal(packed(expected), x)
    assert packed(x) is x


@pytest.mark.parametrize("size", [1, 11, 129, 300])
def test_a_skew_product_is_packed_from_blocks(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 3, 5, size, dtype=torch.float64, generator=generator)
    found = left.new_empty(3, size * (size - 1) // 2)
    Triangle(size).pack_skew(left, right, out=found)
    torch.testing.assert_close(found, packed(left.mT @ right - right.mT @ left))


def test_rotations_are_folded_task_by_task_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rotations = Rotations(3, 8).double()
    nn.init.normal_(rotations.free_parameters, generator=generator)
    rows, Q, P = torch.randn(3, 3, 2, 8, dtype=torch.float64, generator=generator)

    def results() -> tuple[Tensor, ...]:
        folded = rotations.fold(rows)
        return (folded.weight, *folded.gradient(Q, P))

    with torch.no_grad():
        at_once = results()
        monkeypatch.setitem(plan._CHUNK_BYTES, "cpu", 1)
        torch.testing.assert_close(results(), at_once)


def test_there_is_a_parameter_for_every_degree_of_freedom() -> None:
    rotations = Rotations(4, 6)
    assert [tuple(p.shape) for p in rotations.parameters()] == [(4, 15)]
    assert list(rotations.state_dict()) == ["free_parameters", "manifold.base"]


OPTIMIZERS: dict[str, Any] = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "NAdam": {},
    "RAdam": {},
    "Adamax": {},
    "Adagrad": {},
    "RMSprop": {"centered": True},
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_elementwise_optimisers_take_the_steps_that_they_took_on_whole_matrices(
    name: str, foreach: bool
) -> None:
    """Bit for bit, with weight decay too: zeros stay zeros."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 10, generator=generator)
    parameters = [nn.Parameter(start.clone()), nn.Parameter(unpacked(start))]
    make = getattr(torch.optim, name)
    options = {"lr": 0.05, "weight_decay": 0.1, "foreach": foreach, **OPTIMIZERS[name]}
    optimizers = [make([parameter], **options) for parameter in parameters]
    for _ in range(10):
        gradient = torch.randn(2, 10, generator=generator)
        for parameter, given in zip(parameters, (gradient, unpacked(gradient)), strict=True):
            parameter.grad = given
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(unpacked(parameters[0].detach()), parameters[1].detach())


def test_on_meta_and_loaded_rotations_are_those_that_were_saved() -> None:
    saved = Rotations(2, 4)
    saved.free_parameters.detach().normal_()
    with torch.device("meta"):
        empty = Rotations(2, 4)
    empty.load_state_dict(saved.state_dict(), assign=True)
    assert torch.equal(empty.whole().R, saved.whole().R)


def as_earlier(path: Path) -> None:
    """Write a checkpoint as versions did that trained whole matrices: strictly lower triangles."""
    content = torch.load(path, weights_only=True)
    shape = content["model"]["rotations.free_parameters"].shape

    def whole(value: Any) -> Any:
        is_packed = isinstance(value, Tensor) and value.shape == shape
        return unpacked(value) if is_packed else value

    content["format"] = 1
    content["model"] = {name: whole(x) for name, x in content["model"].items()}
    for state in content["optimizers"]["method"]["state"].values():
        state |= {name: whole(x) for name, x in state.items()}
    torch.save(content, path)


@pytest.mark.parametrize("method", ["rotograd", "rotogradnorm"])
def test_a_run_of_an_earlier_version_goes_on_bit_for_bit(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rotations and their moments were whole matrices."""
    monkeypatch.setattr(torch.optim, "SGD", torch.optim.Adam)
    ends = []
    for name in ("earlier", "now"):
        trainer(tmp_path / name, method, epochs=1).fit()
        if name == "earlier":
            as_earlier(tmp_path / name / "last.pt")
        loop = trainer(tmp_path / name, method, epochs=2)
        loop.checkpoints.resume()
        loop.fit()
        ends.append(load_checkpoint(tmp_path / name / "last.pt"))
    earlier, now = ends
    X = "rotations.free_parameters"
    assert earlier["model"][X].any()
    assert_same(earlier["model"], now["model"])
    assert_same(earlier["optimizers"], now["optimizers"])


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)
