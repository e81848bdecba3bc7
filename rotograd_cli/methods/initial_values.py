"""Start values (losses, gradient norms) that later values are measured against."""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rotograd_cli.bounds import checked
from rotograd_cli.linalg import devices


class InitialValues(nn.Module):
    r"""One start value per entry: that of the first step, replaced once at the end of the burn-in.

    Entry k has its own clock, which advances once per optimiser step in which the entry takes part.
    Its value is recorded at step 0 and again at step ``burn_in_period`` (both counted from 0), from
    the mean over the micro-batches of that step. An entry whose value is infinite or NaN takes no
    part, and a value of zero is never recorded, so that everything divided by a start value stays
    finite: until a usable value comes, :attr:`denominators` is 1 and the entry is left as it is.

    All state is in buffers, so ``state_dict`` continues exactly, and nothing waits for the device.

    Args:
        num: Number of entries.
        burn_in_period: Steps after which the start values are replaced.
    """

    values: Tensor  # [num]; 0 marks an entry that has none yet
    num_steps: Tensor  # [num] optimiser steps in which the entry took part
    num_micro_batches: Tensor  # [num] usable micro-batches of the step under way

    @checked
    def __init__(self, num: int, burn_in_period: Annotated[int, Ge(0)]) -> None:
        super().__init__()
        self.burn_in_period = burn_in_period
        self.register_buffer("values", torch.zeros(num))
        self.register_buffer("num_steps", torch.zeros(num, dtype=torch.int64))
        self.register_buffer("num_micro_batches", torch.zeros(num, dtype=torch.int64))

    @property
    def denominators(self) -> Tensor:
        """Magnitudes to divide by, shape ``[num]``, positive: 1 where nothing is recorded yet."""
        return self.values.abs().masked_fill(self.values == 0, 1)

    @torch.no_grad()
    def update(self, values: Tensor, present: Tensor, *, accumulating: bool = False) -> None:
        """Take in the values of one micro-batch.

        Args:
            values: Current values, shape ``[num]``.
            present: Entries that take part in this micro-batch, boolean, shape ``[num]``.
            accumulating: True for every micro-batch of an optimiser step but the last.
        """
        values = values.to(self.values.dtype)
        present = present & (0 * values == 0)  # finite: 0 times anything else is NaN
        usable = present & (values != 0)
        in_step = self.num_micro_batches > 0
        due = (self.num_steps == 0) | (self.num_steps == self.burn_in_period) | (self.values == 0)
        recorded = due & usable
        if not (devices.reads_are_free(values.device) and not recorded.any()):
            so_far = self.values * in_step
            mean = so_far + (values - so_far) / (self.num_micro_batches + 1)
            torch.where(recorded, mean, self.values, out=self.values)
        if accumulating:
            self.num_micro_batches += usable
        else:
            self.num_steps += present | in_step
            self.num_micro_batches.zero_()
