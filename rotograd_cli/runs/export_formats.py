"""Files that hold networks and need nothing of this package: writing and running them."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rotograd_cli.errors import ConfigError
from rotograd_cli.extras import installing

INPUTS = "inputs"
"""Name of the networks' one input."""
METADATA = "rotograd.json"
"""Name of the JSON text in a file that says what is in it."""
_BATCH = {INPUTS: {0: torch.export.Dim("batch")}}


class NamedTasks(nn.Module):
    """A network for inference that returns its predictions by task.

    Args:
        network: Returns predictions in the order of the names. Its parameters are frozen.
        names: Names of the tasks.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.names = tuple(names)
        self.eval().requires_grad_(False)

    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return the predictions by task."""
        return dict(zip(self.names, self.network(inputs), strict=True))


def _program(network: NamedTasks, example: Tensor) -> torch.export.ExportedProgram:
    program = torch.export.export(network, (example,), dynamic_shapes=_BATCH)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths on this machine
    return program


class Format(ABC):
    """One kind of file."""

    title: ClassVar[str]
    """Its name in messages."""
    suffix: ClassVar[str]
    remedy: ClassVar[str]
    """What helps where a file predicts something else than the network."""

    @abstractmethod
    def write(self, network: NamedTasks, example: Tensor, metadata: str) -> bytes:
        """Return the content of a file.

        Args:
            network: The network, in evaluation mode.
            example: Inputs of two examples or more; the file takes any number.
            metadata: JSON text that the file carries.
        """

    @abstractmethod
    def predict(self, content: bytes, inputs: Tensor) -> dict[str, Tensor]:
        """Run what :meth:`write` returned, as a user of the file does."""


class TorchProgram(Format):
    """``torch.export``'s program, for ``torch.export.load``."""

    title = "torch.export"
    suffix = ".pt2"
    remedy = "a part of the network does something else when it is exported (a hook, say)"

    def write(self, network: NamedTasks, example: Tensor, metadata: str) -> bytes:
        """See :class:`Format`."""
        program = _program(network, example)
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={METADATA: metadata})
        return file.getvalue()

    def predict(self, content: bytes, inputs: Tensor) -> dict[str, Tensor]:
        """See :class:`Format`."""
        program = torch.export.load(io.BytesIO(content))
        predictions: dict[str, Tensor] = program.module()(inputs)
        return predictions


class ONNX(Format):
    """An ONNX model, run by onnxruntime.

    Raises:
        ConfigError: If a library is missing.
    """

    title = "ONNX"
    suffix = ".onnx"
    remedy = "use format=torch"

    def __init__(self) -> None:
        try:
            import onnxruntime
            import onnxscript
        except ImportError as error:
            raise ConfigError(
                f"`format=onnx` needs {error.name}, which is not installed; "
                f"run {installing('onnx')}."
            ) from error
        del onnxscript  # the exporter imports it
        self._runtime: Any = onnxruntime

    def write(self, network: NamedTasks, example: Tensor, metadata: str) -> bytes:
        """See :class:`Format`."""
        program: Any = torch.onnx.export(
            _program(network, example),
            input_names=[INPUTS],
            output_names=network.names,
            dynamo=True,
            verbose=False,
        )
        graph = program.model.graph
        for node in graph:
            node.metadata_props.clear()  # paths on this machine
            for value in node.outputs:
                if not value.is_graph_output():
                    value.name = f"/{value.name}"  # a task may be called relu, but not /relu
        for value in (*graph.inputs, *graph.outputs):
            value.shape[0] = "batch"
        program.model.metadata_props[METADATA] = metadata
        content: bytes = program.model_proto.SerializeToString()
        return content

    def predict(self, content: bytes, inputs: Tensor) -> dict[str, Tensor]:
        """See :class:`Format`."""
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = self._runtime.InferenceSession(content, options, ["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        arrays = session.run(names, {INPUTS: inputs.numpy()})
        return dict(zip(names, map(torch.from_numpy, arrays), strict=True))


FORMATS: dict[str, type[Format]] = {"torch": TorchProgram, "onnx": ONNX}
