"""Options of training: the sections ``train`` and ``checkpoints`` of a configuration.

``conf/training.yaml`` says what each key means and has the values: there are no defaults here.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from rotograd_cli.bounds import AtLeastOne
from rotograd_cli.metric_keys import Split

END = "end"
"""Value of an option of a schedule: as many intervals as are left when it begins."""


@dataclass
class TrainOptions:
    """The training loop."""

    epochs: AtLeastOne
    batch_size: AtLeastOne
    accumulate_steps: AtLeastOne
    grad_clip_norm: Annotated[float, Gt(0)] | None
    eval_batch_size: AtLeastOne
    log_every_steps: AtLeastOne
    shuffle: bool
    augment: bool
    limit_batches: AtLeastOne | None
    limit_eval_batches: AtLeastOne | None
    eval_every_epochs: AtLeastOne
    evaluate_train: bool
    average_last_epochs: AtLeastOne | None
    select: str
    select_mode: Annotated[str, Literal["min", "max"]]
    patience: AtLeastOne | None
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None
    on_nonfinite: Annotated[str, Literal["stop", "skip"]]
    max_skipped_steps: Annotated[int, Ge(0)]

    @property
    def evaluated_splits(self) -> tuple[Split, ...]:
        """Splits that are evaluated after an epoch."""
        return ("train", "val") if self.evaluate_train else ("val",)

    def is_evaluated(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 1, is evaluated."""
        has_turn = epoch == self.epochs or epoch % self.eval_every_epochs == 0
        return has_turn or self.is_averaged(epoch)

    def is_averaged(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 1, is one of the last whose mean is reported."""
        return epoch > self.epochs - (self.average_last_epochs or 0)


@dataclass
class CheckpointOptions:
    """When checkpoints are written, and which are kept."""

    every_epochs: AtLeastOne
    every_minutes: Annotated[float, Gt(0)]
    keep_epochs: Annotated[int, Ge(0)]


NONFINITE_REMEDY = "lower model_optimizer.lr or method_optimizer.lr, or set train.grad_clip_norm"
"""What to try where losses or gradients become infinite or NaN."""
