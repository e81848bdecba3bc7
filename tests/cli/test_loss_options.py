"""Class weights and label smoothing from the command line."""

import shlex
from pathlib import Path

import pytest

from .conftest import Cli
from .test_contributing import blocks
from .test_train import summary


@pytest.mark.slow
def test_the_line_of_the_page_trains_and_evaluates_with_its_losses(cli: Cli) -> None:
    (line,) = [b for b in blocks("bash", "docs/own_data.md") if "losses." in b]
    words = shlex.split(line)[1:]
    for name, given in (("with", words), ("without", words[:3])):
        assert cli(*given, "device=cpu", f"hydra.run.dir={name}").code == 0
    weighted, plain = (summary(Path(name))["metrics"] for name in ("with", "without"))
    assert weighted["val/left/loss"] != plain["val/left/loss"]
    assert weighted["val/parity/loss"] != plain["val/parity/loss"]
    shown = cli("evaluate", "run=with")
    assert "equal the run's record exactly" in shown.out
    for word, message in (
        ("losses.left.label_smoothing=0.1", "add it with +losses.left.label_smoothing=VALUE"),
        ("+losses.lef.label_smoothing=0.1", "`losses.lef` is not a task of this run"),
        ("+losses.sum.label_smoothing=0.1", "which task 'sum' does not have"),
    ):
        refused = cli("train", "debug=smoke", "logger=none", word)
        assert refused.code == 2
        assert message in refused.err
        assert refused.err.count("\n") == 1
