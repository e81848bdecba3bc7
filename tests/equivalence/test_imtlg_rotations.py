"""IMTL-G with rotations: autograd for the rotations, the paper's property for the weights."""

import pytest
import torch
from torch import Tensor, nn

from rotograd_cli.linalg.rotations import haar_rotations
from rotograd_cli.methods.imtlg_rotations import IMTLGRotations

K, N, D = 3, 7, 6


class Rotated(nn.Module):
    """A head on features of which the first axis is rotated, vectors or maps."""

    def __init__(self, out: int, map_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(D, out)
        self.map_shape = map_shape

    def forward(self, z: Tensor) -> Tensor:
        y = z.flatten(2).mean(2) * 2 + z.flatten(2).square().sum(2) if self.map_shape else z
        output: Tensor = self.linear(y).tanh()
        return output


def model_for(m: int, path: str, map_shape: tuple[int, ...]) -> IMTLGRotations:
    torch.manual_seed(3)
    size = D
    for length in map_shape:
        size *= length
    backbone = nn.Sequential(nn.Linear(4, size), nn.Tanh(), nn.Unflatten(1, (D, *map_shape)))
    heads: list[nn.Module] = [Rotated(2, map_shape) for _ in range(K)]
    if path == "folded":
        heads = [nn.Sequential(nn.Linear(D, 3), nn.Tanh(), nn.Linear(3, 1)) for _ in range(K)]
        if map_shape:
            heads = [nn.Sequential(nn.Conv2d(D, 2, 2), nn.Tanh()) for _ in range(K)]
    model = IMTLGRotations(
        backbone,
        heads,
        [m],
        post_shape=map_shape,
        rotation_path=path,
        feature_shape=(D, *map_shape),
    ).double()
    model.rotation = haar_rotations(K, m)
    return model


@pytest.mark.parametrize(
    ("m", "path", "map_shape"),
    [
        (6, "general", ()),
        (4, "general", ()),
        (6, "folded", ()),
        (4, "folded", ()),
        (4, "general", (2, 3)),
        (4, "folded", (2, 3)),  # into convolutions
    ],
)
def test_rotations_get_the_gradient_of_their_task_loss(
    m: int, path: str, map_shape: tuple[int, ...]
) -> None:
    model = model_for(m, path, map_shape)
    x = torch.randn(N, 4, dtype=torch.float64)
    targets = [torch.randn_like(p) for p in model(x)]
    model.zero_grad()

    R = model.rotation  # differentiable in the free parameters
    z = model.backbone(x).detach().requires_grad_()
    losses = []
    for k, head in enumerate(model.heads):
        rotated = torch.einsum("ij,nj...->ni...", R[k], z[:, :m])
        losses.append((head(torch.cat((rotated, z[:, m:]), 1)) - targets[k]).square().mean())
    (wanted,) = torch.autograd.grad(
        sum(losses), [model.rotations.free_parameters], retain_graph=True
    )
    gradients = [torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses]

    model.backward([(p - t).square().mean() for p, t in zip(model(x), targets, strict=True)])
    found = model.rotations.free_parameters.grad
    assert found is not None
    torch.testing.assert_close(found, wanted)

    # the backbone's gradient projects equally onto all task gradients, with weights of sum 1
    features = model.backbone(x)
    G = torch.stack(gradients)
    units = G / G.norm(dim=1, keepdim=True)
    v = torch.linalg.solve(units @ units.T, torch.ones(K, dtype=torch.float64))
    w = v / G.norm(dim=1)
    shared = (w / w.sum()) @ G
    torch.testing.assert_close(units @ shared, (units @ shared)[0].expand(K))
    (by_hand,) = torch.autograd.grad(features, [model.backbone[0].weight], shared.view_as(features))
    torch.testing.assert_close(model.backbone[0].weight.grad, by_hand)
