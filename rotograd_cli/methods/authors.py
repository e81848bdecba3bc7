"""Checkpoints of the authors' package (``rotograd`` 0.1.6.0), read into our methods."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from rotograd_cli.errors import CheckpointError
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rotateonly import RotateOnly
from rotograd_cli.methods.rotogradnorm import RotoGradNorm


@torch.no_grad()
def load_authors_state_dict(
    model: MultiTaskMethod, state_dict: Mapping[str, Tensor], *, strict: bool = True
) -> list[str]:
    """Load ``model.state_dict()`` of the authors' package: rotations, task weights, maybe heads.

    Their ``state_dict`` never holds the backbone, and holds the heads only if these were handed
    over as an ``nn.ModuleList``: load the rest into ``model.backbone`` and ``model.heads[k]``
    yourself. It holds no start values (losses, gradient norms) and no counters either, so the
    burn-in starts again here, as it does in the authors' own package after loading.

    Nothing is written when an error is raised.

    Args:
        model: The method of the same name, with as many heads and rotations of the same size.
        state_dict: What the authors' ``state_dict()`` returned.
        strict: Refuse missing and unexpected entries; otherwise, they are ignored.

    Returns:
        Names of the entries that were loaded.

    Raises:
        CheckpointError: If an entry is missing or unexpected (``strict``), or has another shape.
    """
    has_heads = any(name.startswith("heads.") for name in state_dict)
    places = _method_places(model) | (_head_places(model) if has_heads else {})
    if strict:
        _check_names(type(model).__name__, places.keys(), state_dict.keys())
    entries = {name: value for name, value in state_dict.items() if name in places}
    for name, value in entries.items():
        if value.shape != places[name].shape:
            raise CheckpointError(
                f"`{name}` must have shape {list(places[name].shape)}, got {list(value.shape)}; "
                "build the model with the sizes that it was trained with."
            )
    for name, value in entries.items():
        places[name].copy_(value)
    if isinstance(model, RotateOnly):
        # what stands above the authors' diagonals is read by nobody
        originals = [places[f"parametrizations.rotation_{k}.original"] for k in range(len(model))]
        model.rotations.free_parameters.copy_(packed(torch.stack(originals)))
    return list(entries)


def is_authors(state_dict: Mapping[str, Tensor]) -> bool:
    """Return whether a state is that of a method of the authors' package with rotations."""
    return "parametrizations.rotation_0.original" in state_dict


def _method_places(model: MultiTaskMethod) -> dict[str, Tensor]:
    """Return tensors of the method itself, by the authors' names."""
    places: dict[str, Tensor] = {}
    if isinstance(model, RotateOnly):
        rotations = model.rotations
        matrices = rotations.triangle.skew(rotations.free_parameters.detach())
        for k in range(model.num_tasks):
            name = f"parametrizations.rotation_{k}"
            places[f"{name}.original"] = matrices[k]
            places[f"{name}.0.base"] = rotations.base[k]
    if isinstance(model, RotoGradNorm):
        log_weight = model.get_parameter("rule.log_weight").detach()
        places |= {f"weight_.{k}": omega for k, omega in enumerate(log_weight)}
    return places


def _head_places(model: MultiTaskMethod) -> dict[str, Tensor]:
    """Return tensors of the heads, by the authors' names: a head comes after its rotation."""
    second = ".1" if isinstance(model, RotateOnly) else ""
    return {
        f"heads.{k}{second}.{name}": tensor
        for k, head in enumerate(model.heads)
        for name, tensor in head.state_dict().items()
    }


def _check_names(method: str, expected: Collection[str], names: Collection[str]) -> None:
    missing = [name for name in expected if name not in names]
    unexpected = [name for name in names if name not in expected]
    for kind, wrong in (("lacks", missing), ("has the unknown", unexpected)):
        if wrong:
            raise CheckpointError(
                f"`state_dict` must be that of the authors' {method} with the same tasks and "
                f"heads, got one that {kind} `{wrong[0]}` ({len(wrong)} in all); build the model "
                "that was saved, or pass strict=False."
            )
