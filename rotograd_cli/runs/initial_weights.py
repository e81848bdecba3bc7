"""``init_from``: the weights of another run, or of a file, before the first step."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.config.weights import fingerprint, weights_file
from rotograd_cli.errors import CheckpointError, ConfigError, first_line, listed
from rotograd_cli.linalg.triangle import packed
from rotograd_cli.methods.authors import is_authors, load_authors_state_dict
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.models.features import first_convolution, weight_for_channels
from rotograd_cli.ranks.base import Ranks
from rotograd_cli.runs.summary import RunSummary
from rotograd_cli.tasks import Task
from rotograd_cli.training.checkpoint import with_bases

_CONTAINERS = ("model", "state_dict", "model_state_dict")
"""Keys under which files hold a state, beside optimisers and the like."""
_COUNTER = "num_batches_tracked"
"""Of BatchNorm; old files lack it."""
_NOT_LOADED = "num_nonfinite"
"""Counts what happened to the run that wrote the file."""
_DEPTH = 2
"""Names before those of the backbone in a file: ``module.backbone.``."""


@dataclass
class _Part:
    """A part of the model: its tensors, and what of them the file has."""

    label: str
    tensors: Mapping[str, Tensor]
    """By name within the part."""
    found: Mapping[str, Tensor]
    """Of the file, by the same names."""
    place: str = ""
    """What precedes the names in the model."""
    reason: str = ""
    """Why nothing is taken."""
    loaded: list[str] = field(default_factory=list)

    @property
    def misfits(self) -> list[str]:
        """What is there in another shape, in words."""
        return [
            f"{name} {list(self.found[name].shape)} for {list(tensor.shape)}"
            for name, tensor in self.tensors.items()
            if name in self.found and name not in self.loaded
        ]

    @property
    def missing(self) -> list[str]:
        """What is not there."""
        return [name for name in self.tensors if name not in self.found]

    def __str__(self) -> str:
        """One line of the report."""
        others = {"of another shape": self.misfits, "not in the file": self.missing}
        words = [f"{what}: {listed(names)}" for what, names in others.items() if names]
        rest = self.reason or "; ".join(words)
        count = f"{self.label}: {len(self.loaded)} of {len(self.tensors)} tensors"
        return f"{count}; {rest}" if rest else count


def load_initial_weights(
    model: MultiTaskMethod, config: TrainConfig, tasks: Sequence[Task], ranks: Ranks
) -> list[str]:
    """Load what ``init_from`` names into a model.

    Args:
        model: The model before its first step.
        config: Says where the weights are, and what is to be loaded.
        tasks: The K tasks.
        ranks: The processes that train together; the first one reads the file.

    Returns:
        What was loaded and what was not, in lines; none without ``init_from``.

    Raises:
        CheckpointError: If the file cannot be read, or does not fit.
        ConfigError: If there is no file, or it is not the one that the configuration knows.
    """
    if config.init_from is None:
        return []
    content = ranks.broadcast_content(lambda: _read(config))
    file = content["file"]
    state: dict[str, Tensor] = content["state"]
    names = [task.name for task in tasks]
    with torch.no_grad():
        parts, prefix = _load(model, state, content["tasks"], names, config.init_what)
    if config.init_what == "backbone" and len(parts[0].loaded) < len(parts[0].tensors):
        raise _incomplete(file, parts[0], state)
    if all(name.endswith(_COUNTER) for part in parts for name in part.loaded):
        raise CheckpointError(
            f"{file} holds nothing of this model (its tensors are {listed(list(state))}; the "
            f"model's are {listed(list(model.state_dict()))}); choose the networks that were saved."
        )
    where = "" if prefix in ("", "backbone.") else f", tensors below {prefix!r}"
    begin = f"Weights from {file} (SHA-256 {str(config.init_sha256)[:12]}){where}:"
    return [begin, *(f"  {part}" for part in parts)]


def _incomplete(file: str, part: _Part, state: Mapping[str, Tensor]) -> CheckpointError:
    wrong = part.misfits or part.missing
    kind = "in another shape" if part.misfits else "not there"
    names = "" if part.loaded else f" (the file has {listed(list(state))})"
    return CheckpointError(
        f"{file} must hold the whole backbone, but {len(wrong)} of its {len(part.tensors)} tensors "
        f"are {kind}: {listed(wrong)}{names}; choose the `backbone` that was saved, or take what "
        "fits with init_what=all."
    )


def _read(config: TrainConfig) -> dict[str, Any]:
    """Return the tensors of the file, and the tasks of the run that wrote it, if one did."""
    file = weights_file(str(config.init_from))
    if fingerprint(file) != config.init_sha256:
        raise ConfigError(
            f"`init_sha256` must be that of {file}, got {config.init_sha256}: the file has "
            "changed, or is another one; restore it, or start a new run with init_sha256=null."
        )
    state = {name: x for name, x in _state(file, config.init_what).items() if isinstance(x, Tensor)}
    if not state:
        raise CheckpointError(
            f"{file} must hold tensors by name, got none; save network.state_dict() with "
            "torch.save."
        )
    summary = RunSummary.read(file.parents[1]) if file.parent.name == "checkpoints" else None
    return {"file": str(file), "state": state, "tasks": summary.tasks if summary else None}


def _state(file: Path, what: str) -> Mapping[str, Any]:
    try:
        content = _content(file)
    except Exception as error:  # damaged and foreign bytes make an unpickler raise anything
        # never torch's words: they advise to read it in the way that executes code
        is_plain = isinstance(error, (OSError, MemoryError, ImportError))
        reason = first_line(error) if is_plain else "it is damaged, or holds more than tensors"
        raise CheckpointError(
            f"{file} cannot be read as weights ({reason}); save network.state_dict() with "
            "torch.save."
        ) from error
    if what == "all":
        content = with_bases(content, file)
    nested = [content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)]
    return nested[0] if nested else content


def _content(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(file)
        return tensors
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return dict(torch.load(file, map_location="cpu", weights_only=True))


def _load(
    model: MultiTaskMethod,
    state: Mapping[str, Tensor],
    saved_tasks: Sequence[str] | None,
    tasks: Sequence[str],
    what: str,
) -> tuple[list[_Part], str]:
    """Load what fits; return the parts of the model, and what precedes the backbone's names."""
    backbone, prefix = _backbone(model.backbone, state)
    parts = [backbone]
    if what == "all" and is_authors(state):
        names = load_authors_state_dict(model, state, strict=False)
        parts.append(_Part("heads and method (authors' package)", state, state, loaded=names))
    elif what == "all":
        before, _, _ = prefix.rpartition("backbone.")
        others = _below(state, before)
        parts += _heads(model, others, saved_tasks, tasks)
        parts.append(_method(model, others, fits=saved_tasks in (None, list(tasks))))
    stem = first_convolution(model.backbone)
    parts = [part for part in parts if part.tensors]
    for part in parts:
        if not part.reason and not part.loaded:
            fitting = _fitting(part, f"backbone.{stem[0]}.weight" if stem else None)
            part.loaded = list(fitting)
            in_model = {part.place + name: value for name, value in fitting.items()}
            model.load_state_dict(in_model, strict=False)
    return parts, prefix


def _fitting(part: _Part, stem: str | None) -> dict[str, Tensor]:
    """Return what fits; the weight of the first convolution does for any number of channels."""
    fitting = {}
    for name, tensor in part.tensors.items():
        value = part.found.get(name)
        if value is not None and part.place + name == stem and value.dim() == 4:
            is_other = value.shape[1] != tensor.shape[1]
            value = weight_for_channels(value, tensor.shape[1]) if is_other else value
        if value is not None and value.shape == tensor.shape:
            fitting[name] = value
    return fitting


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in module.state_dict().items() if name != _NOT_LOADED}


def _found(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Return what a file has of some tensors below a prefix, and counters that it lacks."""
    counters = {name: x for name, x in tensors.items() if name.endswith(_COUNTER)}
    return counters | _below(state, prefix)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}


def _backbone(backbone: nn.Module, state: Mapping[str, Tensor]) -> tuple[_Part, str]:
    """Return the backbone, and what precedes its names in the file.

    A backbone that does nothing but hold one network is that network. Of all ways to read the
    names, the one counts by which most tensors fit.
    """
    tensors = _tensors(backbone)
    children = {name.partition(".")[0] for name in tensors}
    candidates = []
    for inner in ["", f"{children.pop()}."] if len(children) == 1 else [""]:
        own = _below(tensors, inner)
        for prefix in _prefixes(state):
            found = _found(own, state, prefix)
            num = sum(k in found and found[k].shape == x.shape for k, x in own.items())
            candidates.append((num, prefix, _Part("backbone", own, found, f"backbone.{inner}")))
    _, prefix, part = max(candidates, key=lambda candidate: candidate[0])
    return part, prefix


def _prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield every beginning of names: nothing first, then ``module.``, ``module.backbone.``."""
    parts = [name.split(".")[:-1] for name in state]
    yield from dict.fromkeys(
        "".join(f"{each}." for each in path[:num]) for num in range(_DEPTH + 1) for path in parts
    )


def _heads(
    model: MultiTaskMethod,
    state: Mapping[str, Tensor],
    saved_tasks: Sequence[str] | None,
    tasks: Sequence[str],
) -> Iterator[_Part]:
    """Yield the heads; those of a run by their tasks, of another file by their position."""
    places = list(tasks) if saved_tasks is None else list(saved_tasks)
    for position, (head, task) in enumerate(zip(model.heads, tasks, strict=True)):
        index = places.index(task) if task in places else -1
        tensors = _tensors(head)
        found = _found(tensors, state, f"heads.{index}.")
        yield _Part(f"head of {task}", tensors, found, f"heads.{position}.")


def _method(model: MultiTaskMethod, state: Mapping[str, Tensor], *, fits: bool) -> _Part:
    """Return the method's own state, which is loaded whole or not at all."""
    tensors = {
        k: x for k, x in _tensors(model).items() if not k.startswith(("backbone.", "heads."))
    }
    found = {k: packed(x) if k == "rotations.free_parameters" else x for k, x in state.items()}
    is_whole = all(k in found and found[k].shape == x.shape for k, x in tensors.items())
    reason = "" if is_whole else "the file's is of another method or shape"
    reason = reason if fits else "the file's is of other tasks"
    return _Part("method", tensors, found, reason=reason)
