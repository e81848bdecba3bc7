"""Weights & Biases; the only module that imports it."""

import os
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from rotograd_cli.data.base import NotNegative
from rotograd_cli.tracking.mirror import Mirror
from rotograd_cli.training.evaluation_view import EXAMPLES, EvaluationView, confusion_key

Mode = Literal["online", "offline", "disabled"]


class WandbTracker(Mirror):
    """Mirror records and summary. If wandb cannot start or fails later, the run goes on and warns.

    Args:
        run_dir: Run directory; wandb writes below it, unless WANDB_DIR says otherwise.
        config: Resolved configuration.
        tags: Tags for finding the run; WANDB_TAGS if there are none.
        mode: ``offline`` needs no account and no network; ``online`` falls back to it;
            ``disabled``.
        project: Project name.
        entity: Team or user; None takes the account's default.
        group: Group on the site; None for none.
        init_timeout_s: Seconds to wait for the server before going offline.
        images: Validation examples in a picture per evaluation; the runner draws them.
        confusion: Whether evaluations count confusion matrices; the runner does.
    """

    name: ClassVar[str] = "wandb"

    def __init__(
        self,
        *,
        run_dir: Path,
        config: Mapping[str, Any],
        tags: Sequence[str],
        mode: Mode,
        project: str,
        entity: str | None,
        group: str | None,
        init_timeout_s: float,
        images: NotNegative = 0,
        confusion: bool = False,
    ) -> None:
        del images, confusion
        super().__init__()
        self._run: Any = None
        if mode == "disabled":
            return
        options = {
            "config": dict(config),
            "project": project,
            "entity": entity,
            "group": group,
            **_unless_in_environment(run_dir, tags),
            **_identity(run_dir),
            # a second run must not write into the first
            "reinit": "finish_previous",  # of a sweep in this process
        }
        attempts: tuple[Mode, ...] = (mode, "offline")
        for attempt in dict.fromkeys(attempts):
            start = partial(self._start, attempt, init_timeout_s, options)
            if self.guard(f"start {attempt}", start):
                return

    def log(self, record: Mapping[str, float]) -> None:
        """Mirror one record."""
        if self._run is not None:
            values = {key: value for key, value in record.items() if key != "step"}
            self.guard("log", lambda: self._run.log(values, step=int(record["step"])))

    def show(self, step: int, view: EvaluationView) -> None:
        """Mirror pictures and confusion matrices of an evaluation."""
        if self._run is not None:
            self.guard("log pictures", lambda: self._run.log(_pictures(view), step=step))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Mirror the summary and close."""
        run = self._run
        if run is None:
            return
        self._run = None
        failed = summary.get("status") != "finished"
        # metrics at the top, where wandb's tables look for them
        content = {**summary, **summary.get("metrics", {})}
        content.pop("metrics", None)
        self.guard("write the summary", lambda: run.summary.update(content))
        self.guard("finish", lambda: run.finish(exit_code=int(failed)))

    def _start(self, mode: Mode, timeout_s: float, options: dict[str, Any]) -> None:
        import wandb

        # without this, an online run without a key asks on the terminal and waits for an answer
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ConnectionError("no API key (wandb login stores one)")
        settings = wandb.Settings(silent=True, console="off", init_timeout=timeout_s)
        self._run = wandb.init(mode=mode, settings=settings, **options)


def _pictures(view: EvaluationView) -> dict[str, Any]:
    """Return wandb's objects by name."""
    import wandb

    pictures: dict[str, Any] = {}
    sheet = view.sheet()
    if sheet is not None:
        pictures[EXAMPLES] = wandb.Image(sheet)
    for task, counts in view.confusions.items():
        # as wandb.plot.confusion_matrix, which takes examples one by one instead of counts
        columns = ["Actual", "Predicted", "nPredictions"]
        rows = [[str(k), str(c), int(num)] for (k, c), num in np.ndenumerate(counts)]
        pictures[confusion_key(task)] = wandb.plot_table(
            vega_spec_name="wandb/confusion_matrix/v1",
            data_table=wandb.Table(columns=columns, data=rows),
            fields={name: name for name in columns},
            string_fields={"title": confusion_key(task)},
        )
    return pictures


def _unless_in_environment(run_dir: Path, tags: Sequence[str]) -> dict[str, Any]:
    """Arguments of wandb, without those that only its environment variables set."""
    options: dict[str, Any] = {}
    if not os.environ.get("WANDB_DIR"):
        options["dir"] = str(run_dir)
    if not os.environ.get("WANDB_NAME"):
        options["name"] = "/".join(run_dir.parts[-3:])
    if tags or not os.environ.get("WANDB_TAGS"):
        options["tags"] = list(tags)
    return options


def _identity(run_dir: Path) -> dict[str, str]:
    """The run's id at wandb, the same when it is resumed."""
    path = run_dir / "wandb-id"
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return {"id": path.read_text(encoding="utf-8").strip(), "resume": "allow"}
