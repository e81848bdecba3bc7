"""Write a run's networks to a file for inference: rotograd export run=DIR [format=onnx].

usage: rotograd export run=DIR [format=torch|onnx] [tasks=[NAME,...]] [checkpoint=best|last]
           [output=FILE] [data_dir=...] [trust=true] [--config-dir DIR]

Writes backbone and heads as a torch.export program or an ONNX model that runs without this package,
for any batch size on the CPU. Rotations are multiplied into the heads' first layers where that can
be done; the network then costs no more than one without rotations. The file is kept only if its
predictions equal the run's on validation examples. docs/export.md says how to load it.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rotograd_cli.runs.exporting import Agreement

from rotograd_cli.commands import run_by_hydra

GROUPS = ()
HEADS = ("task", "rotation", "prediction", "largest", "difference / largest")


def _export(config: Any) -> None:
    from rotograd_cli.config.schema import ExportConfig, typed

    request = typed(config, ExportConfig)  # before torch is imported: a refusal comes at once
    from rotograd_cli.printing.grid import Grid, print_grid
    from rotograd_cli.runs.exporting import BATCH_SIZES, TOLERANCE, export_run

    export = export_run(request)
    print(f"{os.path.normpath(request.run)}: {request.checkpoint}.pt as {request.format}")
    print_grid(Grid.of_texts(HEADS, map(_row, export.agreements), labels=3))
    print(
        f"Checked on val examples in batches of {BATCH_SIZES[0]} and {BATCH_SIZES[1]}: nothing "
        f"differs from the run by more than {TOLERANCE:.0e} of the task's largest prediction."
    )
    if export.precision != "fp32":
        print(f"The run computed in {export.precision}, the file computes in float32.")
    shape = ", ".join(map(str, ("batch", *export.input_shape)))
    print(f"Takes `inputs` of shape [{shape}], {export.input_kind}.")
    print(f"File: {os.path.relpath(export.path)}")


def _row(agreement: "Agreement") -> list[str]:
    shape = ", ".join(map(str, ("batch", *agreement.shape)))
    numbers = [f"{agreement.largest:.4g}", f"{agreement.ratio:.1e}"]
    return [agreement.task, agreement.rotation, f"[{shape}]", *numbers]


run = run_by_hydra("export", _export)
