"""``freeze``: what is frozen does not move, the rest trains as before."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.training.freezing import freeze, frozen
from tests.contract.test_methods import FILES, METHODS, build, max_num_tasks


def model_of(method: str) -> Any:
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 8))
    heads = [nn.Linear(8, 2) for _ in range(3)][: max_num_tasks(method)]
    return build(method, heads, backbone).double()


def gradients(model: Any) -> dict[str, Tensor | None]:
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)  # of rules that draw
    model.train()
    model.backward([y.square().mean() for y in model(x)], one_head_per_loss=True)
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("method", FILES)
@pytest.mark.parametrize("pattern", ["backbone.3.*", "heads.0.*", "heads.?.weight"])
def test_gradients_of_what_is_trained_are_those_without_freezing(method: str, pattern: str) -> None:
    whole = gradients(model_of(method))
    model = model_of(method)
    model.held = freeze(model, [pattern])
    names = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert names
    assert model.held == []  # no module with statistics is wholly frozen
    for name, gradient in gradients(model).items():
        if name in names:
            assert gradient is None
        else:  # of the same rule, from the same features
            torch.testing.assert_close(gradient, whole[name])


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_backbone_keeps_its_statistics(method: str) -> None:
    model = model_of(method)
    model.held = freeze(model, ["backbone.*"])
    sizes = [sum(p.numel() for p in module.parameters()) for module in (model.backbone, model)]
    assert frozen(model, ["backbone.*"]) == [f"Frozen: {sizes[0]:,} of {sizes[1]:,} parameters."]
    before = {name: x.clone() for name, x in model.backbone.state_dict().items()}
    found = gradients(model)
    for name, gradient in found.items():
        if not name.startswith("rule."):  # FAMO's come after the update
            assert (gradient is None) == name.startswith("backbone."), name
    assert model.training
    assert [m.training for m in model.backbone] == [True, False, True, True]
    assert all(torch.equal(x, before[name]) for name, x in model.backbone.state_dict().items())


def test_statistics_stay_where_a_module_with_all_its_weights_is_frozen() -> None:
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False))
    loose = nn.BatchNorm2d(4, affine=False)
    network = nn.ModuleDict({"backbone": nn.Sequential(block, loose, nn.Conv2d(4, 4, 1))})
    assert freeze(network, ["backbone.0.*"]) == [block[1]]
    assert freeze(network, []) == []


def test_a_pattern_that_matches_nothing_is_refused_with_what_would() -> None:
    model = model_of("rotograd")
    with pytest.raises(ConfigError, match=r"got 'backbon.0.*'; try .*backbone\.0\.\*"):
        freeze(model, ["backbon.0.*"])
    with pytest.raises(ConfigError, match=r"'zzz'; try backbone\.\*, heads\.\*, rotations\.\*"):
        freeze(model, ["zzz"])
    with pytest.raises(ConfigError, match="must leave a parameter of backbone or heads"):
        freeze(model, ["backbone.*", "heads.*"])
