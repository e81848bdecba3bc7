"""TensorBoard; the only module that imports it, through PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from rotograd_cli.data.base import NotNegative
from rotograd_cli.errors import ConfigError, first_line
from rotograd_cli.extras import installing
from rotograd_cli.pictures.confusion import draw_confusion
from rotograd_cli.tracking.mirror import Mirror
from rotograd_cli.training.evaluation_view import EXAMPLES, EvaluationView, confusion_key


class TensorBoardTracker(Mirror):
    """Write an event file below the run directory: scalars as float32, tagged by their keys.

    Args:
        run_dir: Run directory; events go to its folder ``tensorboard``.
        config: Resolved configuration, shown as text.
        tags: Tags of the run; part of the configuration.
        images: Validation examples in a picture per evaluation; the runner draws them.
        confusion: Whether evaluations count confusion matrices; the runner does.
    """

    name: ClassVar[str] = "TensorBoard"

    def __init__(
        self,
        *,
        run_dir: Path,
        config: Mapping[str, Any],
        tags: Sequence[str],
        images: NotNegative,
        confusion: bool,
    ) -> None:
        del tags, images, confusion
        super().__init__()
        self._folder = run_dir / "tensorboard"
        self._config = config
        self._writer: Any = None
        self._step: float | None = None

    @staticmethod
    def check_installed() -> None:
        """Refuse to start without TensorBoard.

        Raises:
            ConfigError: If it cannot be imported.
        """
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"`logger` tensorboard needs TensorBoard, which is not installed "
                f"({first_line(error)}); run {installing('tensorboard')}."
            ) from error

    def log(self, record: Mapping[str, float | None]) -> None:
        """Write one record, and have it on disk: a checkpoint counts on it."""
        self.guard("log", lambda: self._log(record))

    def show(self, step: int, view: EvaluationView) -> None:
        """Write pictures and confusion matrices of an evaluation."""
        self.guard("log pictures", lambda: self._show(step, view))

    def rewind(self, step: int, kept: Sequence[Mapping[str, float | None]]) -> None:
        """Let TensorBoard drop what a killed run wrote after its last checkpoint."""
        if not self.guard("go back", lambda: self._open(purge_step=step)):
            return
        for record in kept:
            self.log(record)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the file."""
        if self._writer is not None:
            self.guard("finish", self._writer.close)

    def _open(self, purge_step: int | None = None) -> Any:
        """Return the writer, opened at first use."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            is_new = not self._folder.exists()
            self._writer = SummaryWriter(self._folder, purge_step=purge_step)
            if is_new:
                text = yaml.safe_dump(dict(self._config), sort_keys=False, allow_unicode=True)
                self._writer.add_text("config", f"```yaml\n{text}```")
        return self._writer

    def _log(self, record: Mapping[str, float | None]) -> None:
        writer = self._open()
        step = record["step"]
        # several records of a step have them: that of training, and that of an evaluation
        repeated = ("epoch", "seconds") if step == self._step else ()
        for key, value in record.items():
            if key not in ("step", *repeated) and value is not None:
                writer.add_scalar(key, value, step)
        writer.flush()
        self._step = step

    def _show(self, step: int, view: EvaluationView) -> None:
        writer = self._open()
        sheet = view.sheet()
        if sheet is not None:
            writer.add_image(EXAMPLES, sheet, step, dataformats="HWC")
        for task, counts in view.confusions.items():
            picture = draw_confusion(counts)
            writer.add_image(confusion_key(task), picture, step, dataformats="HWC")
        writer.flush()
