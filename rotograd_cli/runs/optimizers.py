"""The optimisers of a run with their schedules, and parameter groups by patterns of names."""

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
from rotograd_cli.training.freezing import similar
from rotograd_cli.training.schedules import OptimizerGroup, RunLength

Setters = tuple[int, int]
"""Numbers of the patterns that set the rate and the weight decay of a parameter."""
Section = tuple[ParameterGroup, list[nn.Parameter]]
"""Options, and the parameters that have them."""
_NONE = -1


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
    setters = _setters(model, patterns)
    groups = []
    for name, iterator in (("model", model.model_parameters()), ("method", model.mtl_parameters())):
        parameters = [parameter for parameter in iterator if parameter.requires_grad]
        if not parameters:  # vanilla has no parameters of its own, others may be frozen
            continue
        sections = _sections(parameters, setters, patterns)
        optimizer = _optimizer(constructors.optimizers[name], sections, name)
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
                [options.pattern for options, _ in sections],
            )
        )
    return groups


def described(groups: Sequence[OptimizerGroup]) -> list[str]:
    """Return a line for each optimiser with patterns: sizes and options of its groups."""
    return [
        f"Parameter groups of {group.name}_optimizer: {'; '.join(_described(group))}."
        for group in groups
        if any(group.patterns)
    ]


def _described(group: OptimizerGroup) -> Iterator[str]:
    for pattern, built in zip(group.patterns, group.optimizer.param_groups, strict=True):
        num = sum(parameter.numel() for parameter in built["params"])
        rate = built.get("initial_lr", built["lr"])  # before any warm-up
        options = {"lr": rate, "weight_decay": built.get("weight_decay")}
        shown = [f"{key}={value:g}" for key, value in options.items() if value is not None]
        yield f"{pattern or 'the others'}: {num:,} parameters with {', '.join(shown)}"


def _setters(
    model: nn.Module, patterns: Sequence[ParameterGroup]
) -> Mapping[nn.Parameter, Setters]:
    """Return which patterns set rate and weight decay of each parameter: the first that do.

    Raises:
        ConfigError: If a pattern is refused, or sets nothing of any parameter.
    """
    setters = {}
    for name, parameter in model.named_parameters():
        matching = [(n, g) for n, g in enumerate(patterns) if fnmatchcase(name, g.pattern)]
        rates = [n for n, group in matching if (group.lr, group.lr_factor) != (None, None)]
        decays = [n for n, group in matching if group.weight_decay is not None]
        setters[parameter] = (*rates, _NONE)[0], (*decays, _NONE)[0]
    names = [name for name, _ in model.named_parameters()]
    used = {number for each in setters.values() for number in each}
    for number, group in enumerate(patterns):
        _check(group, f"parameter_groups[{number}]", names, is_used=number in used)
    return setters


def _check(group: ParameterGroup, where: str, names: Sequence[str], *, is_used: bool) -> None:
    if group.lr is not None and group.lr_factor is not None:
        raise ConfigError(f"`{where}` must have lr or lr_factor, got both; leave one out.")
    if (group.lr, group.lr_factor, group.weight_decay) == (None, None, None):
        raise ConfigError(
            f"`{where}` must change something, got the pattern {group.pattern!r} alone; give it "
            "lr, lr_factor or weight_decay."
        )
    if not is_used:
        remedy = f"try {similar(group.pattern, names)}"
        if any(fnmatchcase(name, group.pattern) for name in names):
            remedy = "earlier patterns set all that it would set, move it up or leave it out"
        raise ConfigError(
            f"`{where}.pattern` must match a parameter, got {group.pattern!r}; {remedy}."
        )


def _used(setters: Setters) -> list[int]:
    """Return the numbers of the patterns, in their order."""
    return sorted(set(setters) - {_NONE})


def _merged(patterns: Sequence[ParameterGroup], setters: Setters) -> ParameterGroup:
    """Return rate and weight decay, each from its pattern; those of no pattern stay None."""
    rate, decay = (ParameterGroup("") if n == _NONE else patterns[n] for n in setters)
    name = " & ".join(patterns[number].pattern for number in _used(setters))
    return ParameterGroup(name, rate.lr, rate.lr_factor, decay.weight_decay)


def _sections(
    parameters: Sequence[nn.Parameter],
    setters: Mapping[nn.Parameter, Setters],
    patterns: Sequence[ParameterGroup],
) -> list[Section]:
    """Return parameters with the same options together, in the order of the patterns."""
    sections: dict[Setters, list[nn.Parameter]] = defaultdict(list)
    for parameter in parameters:
        sections[setters[parameter]].append(parameter)
    order = sorted(sections, key=lambda each: (_used(each), each))
    return [(_merged(patterns, each), sections[each]) for each in order]


def _optimizer(make: Any, sections: Sequence[Section], name: str) -> Optimizer:
    """Build an optimiser.

    Args:
        make: Its checked constructor.
        sections: Its parameter groups.
        name: ``model`` or ``method``.

    Raises:
        ConfigError: If the optimiser does not have an option.
    """
    params: Any = [_group(*section) for section in sections]
    if not any(options.pattern for options, _ in sections):
        params = sections[0][1]
    optimizer: Optimizer = make(params)
    for (options, _), built in zip(sections, optimizer.param_groups, strict=True):
        for key in ("lr", "weight_decay"):
            if getattr(options, key) is not None and key not in optimizer.defaults:
                raise ConfigError(
                    f"`parameter_groups` cannot set {key} of {options.pattern!r}: {name}_optimizer "
                    f"({type(optimizer).__name__}) has no such option; leave it out."
                )
        if options.lr_factor is not None:
            built["lr"] = optimizer.defaults["lr"] * options.lr_factor
    return optimizer


def _group(options: ParameterGroup, params: list[nn.Parameter]) -> dict[str, Any]:
    given = {"lr": options.lr, "weight_decay": options.weight_decay}
    return {"params": params, **{k: value for k, value in given.items() if value is not None}}


def _check_rates(optimizer: Optimizer, rates: Sequence[float], scheduler: Any) -> None:
    """Refuse a schedule that has brought groups of different rates to one rate."""
    pairs = zip(optimizer.param_groups, rates, strict=True)
    now = {group.get("initial_lr", rate) for group, rate in pairs}
    if len(set(rates)) > 1 and len(now) == 1:
        raise ConfigError(
            f"`parameter_groups` must have no lr or lr_factor with {type(scheduler).__name__}, "
            f"which sets rates of its own, got {', '.join(f'{rate:g}' for rate in rates)}; leave "
            "them out, or give the schedule a list with a rate for each group."
        )
