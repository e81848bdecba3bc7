"""Guards around a component of somebody else: its failure becomes one line that names it."""

import contextlib
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rotograd_cli.errors import ShapeError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.tasks import Task
from rotograd_cli.training.schedules import OptimizerGroup


def component_of(
    model: MultiTaskMethod, tasks: Sequence[Task], groups: Sequence[OptimizerGroup] = ()
) -> Callable[[Exception], str]:
    """Return a function that tells from an error which component of a run was running."""
    owners = {id(model): "`method`", id(model.backbone): "`backbone`"}
    for task, head in zip(tasks, model.heads, strict=True):
        owners[id(head)] = f"the `head` of task {task.name!r}"
    owners |= {id(g.optimizer): f"step() of `{g.name}_optimizer`" for g in groups}

    def what(error: Exception) -> str:
        # outside of all modules are the losses that are computed at once
        name = "the loss of the tasks with batchable=True"
        for frame, _ in traceback.walk_tb(error.__traceback__):
            name = owners.get(id(frame.f_locals.get("self")), name)
            if frame.f_locals.get("self") is model.rule and frame.f_code.co_name == "factors":
                name = "`factors` of `method`, which is given Losses (values, present),"
        return f"{name} fails"

    return what


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Inside, nothing is warned of: a few examples are no reason. Broadcasting is an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # FAMO's remark on negative losses comes in the run itself
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", message="Using a target size")
            yield
    finally:
        logging.disable(before)


class NoBroadcasting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, ``[N, 1]`` against ``[N]`` is an error: it would become ``[N, N]``, unnoticed.

    ``[N, 1]`` against C thresholds, an ordinal loss's, is none.

    Args:
        num: Number N of examples.
    """

    def __init__(self, num: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num = num

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        shapes = [tuple(x.shape) for x in args if isinstance(x, Tensor) and x.dim()]
        if torch.Tag.pointwise in func.tags and len({len(shape) for shape in shapes}) > 1:
            shape = tuple(result.shape)
            if shape not in shapes and min(shapes, key=len)[0] == self.num:
                pair = " against ".join(str(list(shape)) for shape in shapes)
                raise ShapeError(
                    f"prediction and target must have one shape, got {pair}, which is broadcast "
                    f"to {list(shape)}; write prediction.squeeze(1), or target.unsqueeze(1)."
                )
        return result
