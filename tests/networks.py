"""Small networks that several test files need."""

from torch import Tensor, nn


class Reshape(nn.Module):
    """Give each example another shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Same values, shape ``[N, *shape]``."""
        return x.reshape(x.shape[0], *self.shape)


class WithExtras(nn.Module):
    """Return a tuple: the wrapped module's output, then something more."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output and its mean, which has no gradient."""
        y = self.module(x)
        return y, y.detach().mean()
