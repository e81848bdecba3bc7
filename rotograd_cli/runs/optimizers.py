"""The optimisers of a run with their schedules, and parameter groups by patterns of names."""

import difflib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rotograd_cli.config.components import Constructors
from rotograd_cli.config.schema import ParameterGroup, TrainConfig, read_parameter_groups
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.training.schedules import OptimizerGroup, RunLength

_OPTIONS = ("lr", "weight_decay")


def optimizer_groups(
    config: TrainConfig, constructors: Constructors, length: RunLength, model: MultiTaskMethod
) -> list[OptimizerGroup]:
    """Build the optimisers of the network and of the method's own parameters.

    Args:
        config: Checked configuration.
        constructors: Its checked constructors.
        length: That of the run.
        model: What is trained.

    Returns:
        The network's first; none for a method without parameters.

    Raises:
        ConfigError: If an option is refused, or a pattern matches no parameter.
    """
    patterns = read_parameter_groups(config)
    set_by = _set_by(model, patterns)
    parameters = {"model": model.model_parameters(), "method": model.mtl_parameters()}
    groups = []
    for name, iterator in parameters.items():
        params = [parameter for parameter in iterator if parameter.requires_grad]
        if not params:  # vanilla has no parameters of its own, others may be frozen
            continue
        sections = _sections(params, set_by)
        chosen = [_merged(patterns, numbers) for numbers in sections]
        make: Any = constructors.optimizers[name]
        if chosen == [None]:
            optimizer = make(params)
        else:
            optimizer = _grouped(make, list(sections.values()), chosen, name)
        rates = [group["lr"] for group in optimizer.param_groups]
        schedule = constructors.schedulers[name]
        scheduler = schedule(optimizer, length, config.train.select_mode)
        _check_rates(optimizer, rates, scheduler)
        groups.append(
            OptimizerGroup(
                name,
                optimizer,
                scheduler,
                schedule.interval,
                schedule.warmup_steps(length),
                schedule.ends_with_run,
                [None if each is None else each.pattern for each in chosen],
            )
        )
    return groups


def described(groups: Sequence[OptimizerGroup]) -> list[str]:
    """Return a line for each optimiser with several groups: their sizes and options."""
    return [
        f"Parameter groups of {group.name}_optimizer: {'; '.join(_described(group))}."
        for group in groups
        if list(group.patterns) != [None]
    ]


def _described(group: OptimizerGroup) -> Iterator[str]:
    for pattern, built in zip(group.patterns, group.optimizer.param_groups, strict=True):
        num = sum(parameter.numel() for parameter in built["params"])
        rate = built.get("initial_lr", built["lr"])  # before any warm-up
        options = {"lr": rate, "weight_decay": built.get("weight_decay")}
        shown = [f"{key}={value:g}" for key, value in options.items() if value is not None]
        yield f"{pattern or 'the others'}: {num:,} parameters with {', '.join(shown)}"


def _set_by(
    model: nn.Module, patterns: Sequence[ParameterGroup]
) -> Mapping[nn.Parameter, tuple[int, int]]:
    """Return the numbers of the first patterns that set rate and weight decay, by parameter.

    A number is -1 where none does.

    Raises:
        ConfigError: If a pattern is refused, or sets nothing of any parameter.
    """
    names = {name: parameter for name, parameter in model.named_parameters() if patterns}
    first: tuple[dict[nn.Parameter, int], ...] = ({}, {})
    for number, group in enumerate(patterns):
        _check(group, f"parameter_groups[{number}]")
        found = [p for name, p in names.items() if fnmatchcase(name, group.pattern)]
        sets = (_sets_rate(group), group.weight_decay is not None)
        taken = [of for of, does in zip(first, sets, strict=True) if does]
        left = [[p for p in found if p not in of] for of in taken]
        if not any(left):
            reason = _taken(found) or _unknown(group.pattern, list(names))
            raise ConfigError(
                f"`parameter_groups[{number}].pattern` must match a parameter, got "
                f"{group.pattern!r}{reason}"
            )
        for of, some in zip(taken, left, strict=True):
            of.update(dict.fromkeys(some, number))
    rates, decays = first
    return {p: (rates.get(p, -1), decays.get(p, -1)) for p in names.values()}


def _sets_rate(group: ParameterGroup) -> bool:
    return group.lr is not None or group.lr_factor is not None


def _sections(
    params: Sequence[nn.Parameter], set_by: Mapping[nn.Parameter, tuple[int, int]]
) -> dict[tuple[int, ...], list[nn.Parameter]]:
    """Return parameters by the patterns that set something of them, in the patterns' order."""
    sections: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
    for parameter in params:
        sections[set_by.get(parameter, (-1, -1))].append(parameter)
    order = sorted(sections, key=lambda numbers: (sorted(set(numbers) - {-1}), numbers))
    return {numbers: sections[numbers] for numbers in order}


def _merged(patterns: Sequence[ParameterGroup], numbers: Sequence[int]) -> ParameterGroup | None:
    """Return the options of a section, rate and weight decay each from its pattern."""
    used = [patterns[number] for number in sorted(set(numbers) - {-1})]
    if not used:
        return None
    rate = patterns[numbers[0]] if numbers[0] >= 0 else ParameterGroup()
    decay = patterns[numbers[1]] if numbers[1] >= 0 else ParameterGroup()
    name = " & ".join(group.pattern for group in used)
    return ParameterGroup(name, rate.lr, rate.lr_factor, decay.weight_decay)


def _check(group: ParameterGroup, where: str) -> None:
    if group.lr is not None and group.lr_factor is not None:
        raise ConfigError(f"`{where}` must have lr or lr_factor, got both; leave one out.")
    if (group.lr, group.lr_factor, group.weight_decay) == (None, None, None):
        raise ConfigError(
            f"`{where}` must change something, got the pattern {group.pattern!r} alone; give it "
            "lr, lr_factor or weight_decay."
        )


def _taken(found: Sequence[nn.Parameter]) -> str:
    same = "; patterns before it set the same of all that it matches, move it up or leave it out."
    return same if found else ""


def _unknown(pattern: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
    return f"; names are such as {', '.join(close)}, and * stands for any characters."


def _grouped(
    make: Any, sections: Sequence[list[nn.Parameter]], groups: Sequence[Any], name: str
) -> Optimizer:
    """Build an optimiser with a parameter group for every section.

    Args:
        make: Checked constructor of the optimiser.
        sections: Parameters of each group.
        groups: Options of each; None for those of the optimiser itself.
        name: ``model`` or ``method``.

    Raises:
        ConfigError: If the optimiser does not have an option.
    """
    params: list[dict[str, Any]] = []
    for section, group in zip(sections, groups, strict=True):
        options = {key: getattr(group, key, None) for key in _OPTIONS}
        given = {key: value for key, value in options.items() if value is not None}
        params.append({"params": section, **given})
    optimizer: Optimizer = make(params)
    for group, built in zip(groups, optimizer.param_groups, strict=True):
        for key in _OPTIONS:
            if getattr(group, key, None) is not None and key not in optimizer.defaults:
                raise ConfigError(
                    f"`parameter_groups` cannot set {key} of {group.pattern!r}: {name}_optimizer "
                    f"({type(optimizer).__name__}) has no such option; leave it out."
                )
        if group is not None and group.lr_factor is not None:
            built["lr"] = optimizer.defaults["lr"] * group.lr_factor
    return optimizer


def _check_rates(optimizer: Optimizer, rates: Sequence[float], scheduler: Any) -> None:
    """Refuse a schedule that brings groups of different rates to one rate.

    Args:
        optimizer: Whose rates the schedule has set.
        rates: Those of its groups before.
        scheduler: The schedule.
    """
    pairs = zip(optimizer.param_groups, rates, strict=True)
    now = {group.get("initial_lr", rate) for group, rate in pairs}
    if len(set(rates)) > 1 and len(now) == 1:
        raise ConfigError(
            f"`parameter_groups` must have no lr or lr_factor with {type(scheduler).__name__}, "
            f"which sets rates of its own, got {', '.join(f'{rate:g}' for rate in rates)}; leave "
            "them out, or give the schedule a list with a rate for each group."
        )
