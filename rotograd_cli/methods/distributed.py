"""One model, trained by several processes in a loop of your own."""

import os
from typing import TypeVar

import torch.distributed as dist

from rotograd_cli.errors import ConfigError, RankError
from rotograd_cli.methods.engine.method import MultiTaskMethod

Method = TypeVar("Method", bound=MultiTaskMethod)


def distribute(model: Method, *, find_unused_parameters: bool = False) -> Method:
    """Let the processes of a job train one model, in place of ``DistributedDataParallel``.

    Every process calls it once, with the model on its device, after
    ``torch.distributed.init_process_group()``. All get the weights and the random generators of
    rank 0. Then each runs the loop for one process on its own rows, as many as the others have; the
    update is that of one process with the rows of all, where losses are means over rows. Generators
    must stay in step: draw on all ranks alike, or from a ``torch.Generator`` of your own.

    Args:
        model: The method, in no wrapper. It is changed in place; names in its ``state_dict`` stay.
        find_unused_parameters: Whether some passes leave parameters of the backbone out.

    Returns:
        The model. In one process nothing is done.

    Raises:
        ConfigError: If the model is no method.
        RankError: If the job's processes have not joined a group, or a layer cannot be shared.
    """
    if not isinstance(model, MultiTaskMethod):
        raise ConfigError(
            f"`model` must be a method, got {type(model).__name__}; pass the MultiTaskMethod "
            "(RotoGrad, say) that is inside it."
        )
    if not (dist.is_available() and dist.is_initialized()):
        num_processes = os.environ.get("WORLD_SIZE", "1")
        if num_processes != "1":
            raise RankError(
                f"The {num_processes} processes of this job must have joined a group before "
                "distribute(model); call torch.distributed.init_process_group() first."
            )
        return model
    if dist.get_world_size() > 1:
        from rotograd_cli.ranks.own_loop import OwnLoop

        ranks = OwnLoop()
        ranks.start(model, find_unused=find_unused_parameters)
        model.join(ranks)
    return model
