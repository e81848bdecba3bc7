"""``init_from``: the weights of another run, or of a file, before the first step."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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


@dataclass(frozen=True)
class _Part:
    """A part of the model, and what a file has of it."""

    label: str
    place: str
    """What precedes its names in the model."""
    own: Mapping[str, Tensor]
    """Its tensors by name."""
    found: Mapping[str, Tensor]
    """Those of the file, by the same names."""
    reason: str = ""
    """Why tensors are not loaded, if not by name or shape."""

    @cached_property
    def fitting(self) -> dict[str, Tensor]:
        """What is loaded: the names and shapes of the model."""
        names = self.own.keys() & self.found.keys()
        return {k: self.found[k] for k in names if self.found[k].shape == self.own[k].shape}

    def __str__(self) -> str:
        """One line of the report."""
        others = [name for name in self.own if name not in self.fitting]
        shapes = [
            f"{name} {list(self.found[name].shape)} for {list(self.own[name].shape)}"
            for name in others
            if name in self.found
        ]
        missing = [name for name in others if name not in self.found]
        kinds = {"of another shape": shapes, "not in the file": missing}
        lists = [f"{kind}: {listed(names)}" for kind, names in kinds.items() if names]
        count = f"{self.label}: {len(self.fitting)} of {len(self.own)} tensors"
        return "; ".join([count, *([self.reason] if self.reason else lists)])


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
    saved = content["tasks"] or names
    with torch.no_grad():
        parts, prefix = _load(model, state, config.init_what, names, saved)
    if all(name.endswith(_COUNTER) for part in parts for name in part.fitting):
        raise CheckpointError(
            f"{file} holds nothing of this model (its tensors are {listed(list(state))}; the "
            f"model's are {listed(list(model.state_dict()))}); choose the networks that were saved."
        )
    backbone = parts[0]
    if config.init_what == "backbone" and len(backbone.fitting) < len(backbone.own):
        raise CheckpointError(
            f"{file} must hold the whole backbone, got {backbone}; choose the `backbone` that was "
            "saved, or take what fits with init_what=all."
        )
    where = "" if prefix in ("", "backbone.") else f", tensors below {prefix!r}"
    begin = f"Weights from {file} (SHA-256 {str(config.init_sha256)[:12]}){where}:"
    return [begin, *(f"  {part}" for part in parts if part.own)]


def _read(config: TrainConfig) -> dict[str, Any]:
    """Return the tensors of the file, and the tasks of the run that wrote it, if it was a run."""
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
    nested = (content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping))
    return next(nested, content)


def _content(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(file))
    with warnings.catch_warnings(action="ignore"):  # torch's remarks on foreign pickles
        return dict(torch.load(file, map_location="cpu", weights_only=True))


def _load(
    model: MultiTaskMethod,
    state: Mapping[str, Tensor],
    what: str,
    tasks: Sequence[str],
    saved_tasks: Sequence[str],
) -> tuple[list[_Part], str]:
    """Load what fits; return the parts of the model, and what precedes the backbone's names."""
    backbone, prefix = _backbone(model.backbone, state)
    parts = [backbone]
    others = []
    if what == "all" and is_authors(state):
        names = load_authors_state_dict(model, state, strict=False)
        loaded = {name: state[name] for name in names}
        left = "the others have no place here" if len(names) < len(state) else ""
        others.append(_Part("heads and method (authors' package)", "", state, loaded, left))
    elif what == "all":
        before, _, _ = prefix.rpartition("backbone.")
        beside = _below(state, before)
        parts += _heads(model, beside, tasks, saved_tasks)
        parts.append(_method(model, beside, fits=list(saved_tasks) == list(tasks)))
    for part in parts:
        in_model = {part.place + name: value for name, value in part.fitting.items()}
        model.load_state_dict(in_model, strict=False)
    return [*parts, *others], prefix


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in module.state_dict().items() if name != _NOT_LOADED}


def _found(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """Return what a file has below a prefix, and a part's own counters, which it may lack."""
    counters = {name: x for name, x in own.items() if name.endswith(_COUNTER)}
    return counters | _below(state, prefix)


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): x for k, x in state.items() if k.startswith(prefix)}


def _backbone(backbone: nn.Module, state: Mapping[str, Tensor]) -> tuple[_Part, str]:
    """Return the backbone, and what precedes its names in the file.

    A backbone that only holds one network is that network. Of all ways to read the names, the one
    with the most fitting tensors is taken.
    """
    whole = _own(backbone)
    children = {name.partition(".")[0] for name in whole}
    candidates = {}
    for inner in ["", f"{children.pop()}."] if len(children) == 1 else [""]:
        own = _below(whole, inner)
        for prefix in _prefixes(state):
            found = _found(own, state, prefix)
            candidates[inner, prefix] = _Part("backbone", f"backbone.{inner}", own, found)
    best = max(candidates, key=lambda names: len(candidates[names].fitting))
    inner, prefix = best
    part = candidates[best]
    return replace(part, found=_with_stem(part, backbone, inner)), prefix


def _with_stem(part: _Part, backbone: nn.Module, inner: str) -> dict[str, Tensor]:
    """Return what the file has, its first convolution for the backbone's number of channels."""
    stem = first_convolution(backbone)
    name = f"{stem[0]}.weight".removeprefix(inner) if stem else ""
    weight = part.found.get(name)
    if weight is None or weight.dim() != 4 or weight.shape[1] == part.own[name].shape[1]:
        return dict(part.found)
    return {**part.found, name: weight_for_channels(weight, part.own[name].shape[1])}


def _prefixes(state: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield what names may begin with: nothing, then ``module.``, ``module.backbone.``."""
    parts = [name.split(".")[:-1] for name in state]
    yield from dict.fromkeys(
        "".join(f"{each}." for each in path[:num]) for num in range(_DEPTH + 1) for path in parts
    )


def _heads(
    model: MultiTaskMethod,
    state: Mapping[str, Tensor],
    tasks: Sequence[str],
    saved_tasks: Sequence[str],
) -> Iterator[_Part]:
    """Yield the heads, each with that of the same task in the file."""
    for position, (head, task) in enumerate(zip(model.heads, tasks, strict=True)):
        index = saved_tasks.index(task) if task in saved_tasks else -1
        own = _own(head)
        found = _found(own, state, f"heads.{index}.")
        yield _Part(f"head of {task}", f"heads.{position}.", own, found)


def _method(model: MultiTaskMethod, state: Mapping[str, Tensor], *, fits: bool) -> _Part:
    """Return the method's state, which is loaded whole or not at all."""
    own = {k: x for k, x in _own(model).items() if not k.startswith(("backbone.", "heads."))}
    found = {k: packed(x) if k == "rotations.free_parameters" else x for k, x in state.items()}
    if not fits:
        return _Part("method", "", own, {}, "the file's is of other tasks")
    if not all(k in found and found[k].shape == x.shape for k, x in own.items()):
        return _Part("method", "", own, {}, "the file's is of another method or shape")
    return _Part("method", "", own, found)
