"""Code written for other releases and loops: what changes, shown by running both packages."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli import methods
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.authors import load_authors_state_dict
from tests.equivalence.defects.models import (
    BATCH,
    NUM_TASKS,
    SIZE,
    backbone_gradient,
    batch,
    build,
    make_backbone,
    make_heads,
    pass_once,
    reference,
    task_losses,
)


def both(*, as_maps: bool = False) -> tuple[Any, Any]:
    """The authors' RotoGrad and ours, in float64 and the same state.

    Args:
        as_maps: Whether features are maps of one pixel, ``[N, SIZE, 1]``, instead of vectors.
    """
    torch.manual_seed(0)
    backbone, heads = make_backbone(), make_heads()
    options: dict[str, Any] = {}
    if as_maps:
        backbone = nn.Sequential(backbone, nn.Unflatten(1, (SIZE, 1)))
        heads = [nn.Sequential(nn.Flatten(), head) for head in heads]
        options["post_shape"] = (1,)
    ours = build(methods, backbone=copy.deepcopy(backbone), heads=copy.deepcopy(heads), **options)
    theirs = build(reference, backbone=backbone, heads=nn.ModuleList(heads), **options)
    load_authors_state_dict(ours.double(), theirs.to(torch.float64).state_dict())
    return theirs.train(), ours.train()


def rotation_gradients(model: Any, *, theirs: bool) -> Tensor:
    if not theirs:
        gradient: Tensor = model.rotations.free_parameters.grad
        return gradient
    names = [f"rotation_{k}" for k in range(NUM_TASKS)]
    return packed(torch.stack([model.parametrizations[name].original.grad for name in names]))


def test_a_loss_averaged_over_the_batch_takes_a_rate_divided_by_its_size() -> None:
    """With a `post_shape` of one entry the authors' package averages vectors over the batch."""
    summed = both()
    averaged = both(as_maps=True)
    for index, (model, other) in enumerate(zip(summed, averaged, strict=True)):
        for each in (model, other):
            pass_once(each, batch())
        a, b = (rotation_gradients(each, theirs=index == 0) for each in (model, other))
        torch.testing.assert_close(a, BATCH * b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("package", [reference, methods])
def test_latent_size_is_refused_and_its_place_is_that_of_the_rotation_shape(package: Any) -> None:
    with pytest.raises(TypeError, match="latent_size"):
        package.RotoGrad(make_backbone(), make_heads(), latent_size=SIZE)
    assert tuple(package.RotoGrad(make_backbone(), make_heads(), SIZE).rotation_shape) == (SIZE,)


def test_stacked_losses_train_every_task() -> None:
    x = batch()
    theirs, ours = both()
    theirs.backward(torch.stack(task_losses(theirs(x), x)), retain_graph=True)
    norms = [float(g.norm()) for g in theirs.original_grads]
    assert norms[:-1] == [0] * (NUM_TASKS - 1)
    assert norms[-1] > 0
    ours.backward(torch.stack(task_losses(ours(x), x)))
    expected = both()[1]
    pass_once(expected, x)
    torch.testing.assert_close(backbone_gradient(ours), backbone_gradient(expected))


def test_one_optimiser_takes_the_parameters_of_the_method() -> None:
    for package in (reference, methods):
        backbone, heads = make_backbone(), make_heads()
        network = [{"params": list(module.parameters())} for module in (backbone, *heads)]
        model = package.RotoGrad(backbone, heads, SIZE)
        if package is methods:
            with pytest.raises(ValueError, match="more than one parameter group"):
                torch.optim.Adam([*network, {"params": model.parameters(), "lr": 1e-4}])
        own = model.parameters() if package is reference else model.mtl_parameters()
        torch.optim.Adam([*network, {"params": own, "lr": 1e-4}])


def test_features_are_rotated_for_a_plot_by_a_product() -> None:
    theirs, ours = both()
    z = torch.randn(BATCH, SIZE, dtype=torch.float64)
    for k in range(NUM_TASKS):
        product = z @ ours.rotation[k].detach().T
        torch.testing.assert_close(theirs.eval().heads[k][0].rotate(z), product)
