"""Several processes in a loop that is not this package's."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef

from rotograd_cli.errors import RankError
from rotograd_cli.ranks.many import ManyRanks


class OwnLoop(ManyRanks):
    """Processes with equal parts of each batch, whose losses are means over their own parts.

    So a loop for one process is right for many. What would make ranks differ is refused in every
    backward pass, for one operation on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        host: Any = dist.new_group(backend="gloo")  # whatever backend the default group has
        self._host = host
        # gradients that have been summed over the ranks, and their versions
        self._summed: list[tuple[nn.Parameter, TensorWeakRef, int]] = []

    def start(self, model: nn.Module, *, find_unused: bool) -> None:
        """Give all ranks the state of the first one, and let layers see the whole batch.

        Args:
            model: Has a ``backbone``; on its device.
            find_unused: Whether some passes leave parameters of the backbone out.
        """
        device = next(model.parameters()).device
        cuda = device if device.type == "cuda" else None
        on_host = torch.get_rng_state()
        on_device = on_host if cuda is None else torch.cuda.get_rng_state(cuda)
        of_first = self.broadcast_content(lambda: (model.state_dict(), [on_host, on_device]))
        state, (on_host, on_device) = of_first
        model.load_state_dict(state)
        torch.set_rng_state(on_host)
        if cuda is not None:
            torch.cuda.set_rng_state(on_device, cuda)
        self.wrap(model, find_unused=find_unused)

    def check_pass(
        self, losses: Sequence[Tensor | None], num_rows: int, *, accumulating: bool
    ) -> None:
        """See :class:`~rotograd_cli.ranks.base.Ranks`.

        Raises:
            RankError: If ranks have different numbers of rows or losses of different tasks, or if
                gradients of several passes would be added up in a wrong way.
        """
        if any(_is_unchanged(*summed) for summed in self._summed):
            raise RankError(
                "Gradients that were summed over the ranks must be cleared before the next pass, "
                "got some that are still there; call optimizer.zero_grad() after every step, or "
                "pass model.backward(num_micro_batches=N, accumulating=True) before the last one."
            )
        if any(wrapped.require_backward_grad_sync == accumulating for wrapped in self._backbone):
            raise RankError(
                f"accumulating={accumulating} must be said of the forward pass too; run both "
                f"inside `with model.ranks.accumulating({accumulating}):`."
            )
        self._check_equal_parts([num_rows, *(loss is not None for loss in losses)])

    def share(self, loss: Tensor) -> Tensor:
        """See :class:`~rotograd_cli.ranks.base.Ranks`."""
        return loss / self.size

    def whole(self, values: Tensor) -> Tensor:
        """See :class:`~rotograd_cli.ranks.base.Ranks`."""
        return self.sum(values) / self.size

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :class:`~rotograd_cli.ranks.base.Ranks`."""
        with_gradient = [p for p in parameters if p.grad is not None]
        super().sum_gradients(with_gradient)
        self._summed = [
            (p, TensorWeakRef(p.grad), p.grad._version) for p in with_gradient if p.grad is not None
        ]

    def _check_equal_parts(self, here: Sequence[int]) -> None:
        mine = torch.tensor(here, dtype=torch.int64)
        every = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(every, mine, group=self._host)
        num_rows, *present = torch.stack(every).unbind(1)
        if bool((num_rows != num_rows[0]).any()):
            raise RankError(
                f"Every rank must have as many rows of a batch, got {num_rows.tolist()}; let "
                "torch's DistributedSampler share them out, with drop_last=True in the DataLoader."
            )
        for k, flags in enumerate(present):
            if bool((flags != flags[0]).any()):
                raise RankError(
                    f"`losses[{k}]` must be None on all ranks or on none, got None on rank "
                    f"{int(flags.argmin())} alone or with others; pass a loss of zero there, "
                    f"predictions[{k}].sum() * 0."
                )


def _is_unchanged(parameter: nn.Parameter, gradient: TensorWeakRef, version: int) -> bool:
    now = parameter.grad
    return now is not None and gradient() is now and now._version == version
