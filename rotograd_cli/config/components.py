"""From a YAML node to a constructor: target, names and types are checked first."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra._internal.utils import _locate
from hydra.errors import HydraException
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from torch import nn

from rotograd_cli.bounds import check_range, hints_of
from rotograd_cli.config.kinds import Kind, kind_of
from rotograd_cli.config.labels import FEATURES, GRADIENTS, LABEL, without_label
from rotograd_cli.config.schedules import Schedule
from rotograd_cli.config.schema import TrainConfig
from rotograd_cli.errors import ConfigError, RotogradError, listed, suggest
from rotograd_cli.methods.engine.method import MultiTaskMethod
from rotograd_cli.methods.rule import Rule
from rotograd_cli.tasks import Task
from rotograd_cli.user_code import blamed, describe

_RUNNER_KEYS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_", LABEL)
_METHOD_PARTS = ("backbone", "heads", "feature_shape")


class Constructor:
    """Checked constructor of a component, with the YAML's values bound.

    Components inside it are checked likewise, and built when it is called: what they draw or read
    is drawn from the seed of the run, and read where it is needed. Calling it raises
    :class:`ConfigError` where the component refuses a value.

    Args:
        node: Content of a component's YAML: ``_target_``, ``_partial_: true`` and keyword values.
        where: Name of the node in messages, e.g. ``method``.
        *supplied: Names of keyword arguments that the runner will add.
        kind: Class that the component must have; None takes that of its place.

    Raises:
        ConfigError: If the target cannot be imported, or a key is unknown, missing or of a wrong
            type.
    """

    def __init__(self, node: Any, where: str, *supplied: str, kind: Kind | None = None) -> None:
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise _no_component(node, where)
        self.where = where
        self.supplied = supplied
        self._kind = kind or kind_of(where)[0]
        self.target = import_target(str(node["_target_"]), where)
        values = {key: value for key, value in node.items() if key not in _RUNNER_KEYS}
        _check_values(self.target, values, where, supplied)
        _check_inside(values, where)
        self._content = {**without_label(node), "_partial_": True}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Build the component and those inside it, and refuse what is none."""
        name = self.target.__name__
        with blamed(f"`{self.where}` cannot be built", "correct it or its values"):
            try:
                component = self._make()(*args, **kwargs)
            except RotogradError:
                raise
            except (TypeError, ValueError) as error:
                raise ConfigError(f"`{self.where}` was refused by {name}: {error}") from error
        _check_component(component, self.where, name, self._kind)
        return component

    def _make(self) -> Any:
        try:
            return hydra.utils.instantiate(self._content, _convert_="all")
        except (HydraException, TypeError) as error:  # a component inside it, a flag of Hydra's
            cause = error if error.__cause__ is None else error.__cause__
            raise ConfigError(
                f"`{self.where}` cannot be built ({describe(cause)}); check its values."
            ) from error


def _check_inside(value: Any, where: str) -> None:
    """Check the components inside a component as it is checked itself."""
    items: Iterable[tuple[str, Any]] = ()
    if isinstance(value, Mapping):
        items = ((f"{where}.{key}", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        items = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    for place, item in items:
        if isinstance(item, Mapping) and "_target_" in item:
            options = {key: each for key, each in item.items() if key not in _RUNNER_KEYS}
            _check_values(import_target(str(item["_target_"]), place), options, place, ())
        _check_inside(item, place)


def _check_component(component: Any, where: str, name: str, kind: Kind) -> None:
    if not isinstance(component, kind):
        kinds: Sequence[Any] = get_args(kind) or [kind]
        names = " or ".join(each.__name__ for each in kinds)
        raise ConfigError(
            f"`{where}` must be of class {names}, got {type(component).__name__}; let {name} "
            "derive from it, or return such an object."
        )
    if isinstance(component, nn.Module) and not hasattr(component, "_modules"):
        raise ConfigError(
            f"`{where}` must be initialised, but {name} never calls the __init__ of its base "
            "class; begin its own with super().__init__()."
        )


def _no_component(node: Any, where: str) -> ConfigError:
    group = "method" if where == "method.rule" else where.rpartition("_")[2]
    is_shared = where != "method" and group in ("method", "optimizer", "scheduler")
    choice = f"{group}@{where}" if is_shared else where
    if isinstance(node, Mapping) and node:
        return ConfigError(
            f"`{where}` must be a component with a _target_, got the keys {listed(list(node))}; "
            "begin its file with the built-in one that it changes, such as defaults: [torch]."
        )
    return ConfigError(
        f"`{where}` must be a component with a _target_, got {node!r}; choose one with "
        f"{choice}=NAME (rotograd train --help lists them)."
    )


def method_constructor(node: Any) -> Callable[..., MultiTaskMethod]:
    """Checked constructor of a method: of its own class, or of a network around a rule.

    Args:
        node: Content of a method's YAML. ``_target_`` is a method or a rule; a method on top of a
            rule has that rule's content under ``rule``. ``gradients`` of a rule is an option of the
            network around it.

    Returns:
        A function of ``backbone``, ``heads``, ``feature_shape`` and, for rules that ask for it,
        ``task_names``.

    Raises:
        ConfigError: As :class:`Constructor`.
    """
    make: Callable[..., MultiTaskMethod] = MultiTaskMethod
    options: Mapping[str, Any] = {}
    make_rule: Callable[[Mapping[str, Any]], Rule] | None = None
    is_component = isinstance(node, Mapping) and "_target_" in node
    if is_component and _is_rule(import_target(str(node["_target_"]), "method")):
        options, of_rule = _split(node)
        _check_values(make, options, "method", ())
        make_rule = _rule_constructor(of_rule, "method")
    elif is_component and node.get("rule") is not None:
        others = {key: value for key, value in node.items() if key != "rule"}
        make = Constructor(others, "method", *_METHOD_PARTS, "rule")
        under_method, of_rule = _split(node["rule"])
        if under_method.get(GRADIENTS, FEATURES) != FEATURES:
            raise ConfigError(
                f"`method.rule.{GRADIENTS}` must be {FEATURES}, which {make.target.__name__} "
                f"rotates, got {under_method[GRADIENTS]!r}; leave it out, or choose another rule."
            )
        make_rule = _rule_constructor(of_rule, "method.rule")
    else:
        make = Constructor(node, "method", *_METHOD_PARTS)

    def build(
        backbone: nn.Module,
        heads: Sequence[nn.Module],
        *,
        task_names: Sequence[str] | None = None,
        **shape: Any,
    ) -> MultiTaskMethod:
        if make_rule is None:
            return make(backbone, heads, **shape)
        rule = make_rule({"num_tasks": len(heads), "task_names": task_names})
        return make(backbone, heads, rule=rule, **options, **shape)

    return build


def data_constructor(node: Any) -> Constructor:
    """Checked constructor of a data set.

    The runner hands it the names of the chosen tasks as ``tasks``; as ``task_names`` if it takes
    those, because its own ``tasks`` declare tasks.
    """
    names = "tasks"
    if isinstance(node, Mapping) and "_target_" in node:
        target = import_target(str(node["_target_"]), "data")
        names = "task_names" if "task_names" in (accepted_parameters(target) or {}) else names
    return Constructor(node, "data", "data_dir", names, "device")


def _split(node: Any) -> tuple[dict[str, Any], Any]:
    """Split a rule's content into options of the network and what the rule is made of."""
    if not isinstance(node, Mapping):
        return {}, node
    of_network = {key: value for key, value in node.items() if key == GRADIENTS}
    return of_network, {key: value for key, value in node.items() if key != GRADIENTS}


def _is_rule(target: Any) -> bool:
    return inspect.isclass(target) and issubclass(target, Rule)


def _rule_constructor(node: Any, where: str) -> Callable[[Mapping[str, Any]], Rule]:
    """Constructor of a rule from what is known of the tasks, of which it gets what it asks for."""
    make = Constructor(node, where, "num_tasks", "task_names")
    if not _is_rule(make.target):
        raise ConfigError(
            f"`{where}._target_` must be a rule, got {node['_target_']!r}; choose one with "
            f"method@{where}=NAME, or the plain sum with {where}=null."
        )
    accepted = accepted_parameters(make.target) or {}
    return lambda tasks: make(**{key: tasks[key] for key in tasks if key in accepted})


def import_target(path: str, where: str) -> Callable[..., Any]:
    """Return the class or function that ``_target_`` of a node names.

    Raises:
        ConfigError: If there is none.
    """
    try:
        target: Callable[..., Any] = _locate(path)  # as Hydra finds it when it is built
    except (ImportError, ValueError, AttributeError) as error:
        raise ConfigError(f"`{where}._target_` {_not_found(path, error)}.") from error
    if not callable(target):
        raise ConfigError(f"`{where}._target_` must be a class or function, got {path!r}.")
    return target


def _not_found(path: str, error: Exception) -> str:
    """Return why a target cannot be imported, and the remedy."""
    module = path.partition(".")[0]
    what = f"cannot be imported, got {path!r}"
    name = getattr(error.__cause__, "name", None)
    if name not in (module, path):
        return f"{what} ({describe(error.__cause__ or error)}); check its spelling and its file"
    folder = "." if Path(f"{module}.py").exists() else "FOLDER"
    return f"{what} (no {name!r}); check its spelling, or run with PYTHONPATH={folder} in front"


def _check_values(
    target: Callable[..., Any], values: Mapping[str, Any], where: str, supplied: Sequence[str]
) -> None:
    parameters = accepted_parameters(target)
    if parameters is None:
        return
    for key, value in values.items():
        if key in supplied:
            raise ConfigError(f"`{where}.{key}` is given by the runner; leave it out.")
        if key not in parameters:
            choices = sorted(set(parameters) - set(supplied))
            choices += [GRADIENTS] * getattr(target, "sees_gradients", False)  # of the network
            remedy = suggest(str(key), choices, f"{where}.")
            raise ConfigError(f"`{where}.{key}` is not an option of {target.__name__}; {remedy}")
        _check_type(value, parameters[key], f"{where}.{key}")


def accepted_parameters(target: Callable[..., Any]) -> dict[str, Any] | None:
    """Keyword parameters with their annotations, through ``**kwargs`` to base classes.

    Args:
        target: Class or function.

    Returns:
        Annotation by name (``inspect.Parameter.empty`` where there is none), or None if it takes
        any keyword.
    """
    functions = (
        [cls.__init__ for cls in target.__mro__ if "__init__" in vars(cls)]  # type: ignore[misc]
        if inspect.isclass(target)
        else [target]
    )
    result: dict[str, Any] = {}
    for function in functions:
        try:
            signature = inspect.signature(function)
        except ValueError:  # implemented in C
            return None
        hints = hints_of(function)
        for name, parameter in signature.parameters.items():
            is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if name != "self" and not is_variadic:
                result.setdefault(name, hints.get(name, parameter.annotation))
        if all(p.kind is not p.VAR_KEYWORD for p in signature.parameters.values()):
            return result
    return None


def _check_type(value: Any, annotation: Any, name: str) -> None:
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return
    if isinstance(value, Mapping) and "_target_" in value:
        return  # a component in its place
    config = ConfigDict(strict=True, arbitrary_types_allowed=True)
    try:
        adapter = TypeAdapter(annotation, config=config)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return  # an annotation that pydantic does not know
    candidates = [value, tuple(value)] if isinstance(value, list) else [value]
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
        else:
            return
    with suppress(TypeError):  # another type has no range
        check_range(name, value, annotation)
    raise ConfigError(f"`{name}` has a wrong value: {reason}, got {value!r}.")


class Constructors:
    """Constructors of all components of a training run, checked before data is touched.

    Args:
        config: Checked configuration.

    Raises:
        ConfigError: If a node does not fit its target.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.data = data_constructor(config.data)
        self.backbone = Constructor(config.backbone, "backbone", "input_shape")
        self.method = method_constructor(config.method)
        self.logger = Constructor(config.logger, "logger", "run_dir", "config", "tags")
        # it is built when the run has begun, and must be refused before
        getattr(self.logger.target, "check_installed", lambda: None)()
        self.optimizers = {
            "model": Constructor(config.model_optimizer, "model_optimizer", "params"),
            "method": Constructor(config.method_optimizer, "method_optimizer", "params"),
        }
        self.schedulers = {
            "model": Schedule(config.model_scheduler, "model_scheduler", Constructor),
            "method": Schedule(config.method_scheduler, "method_scheduler", Constructor),
        }
        self._head = config.head
        self._heads = config.heads
        Constructor(config.head, "head", "feature_shape", "num_outputs")

    def head(self, task: Task, feature_shape: Sequence[int]) -> nn.Module:
        """Head of a task: ``head`` with what ``heads.<task>`` changes."""
        where = f"heads.{task.name}" if task.name in self._heads else "head"
        changes = self._heads.get(task.name) or {}
        if not isinstance(changes, Mapping):
            raise ConfigError(
                f"`{where}` must be options of the head, got {changes!r}; write +{where}.KEY=VALUE."
            )
        node = OmegaConf.to_container(OmegaConf.merge(self._head, changes))
        make = Constructor(node, where, "feature_shape", "num_outputs")
        head: nn.Module = make(feature_shape=feature_shape, num_outputs=task.num_outputs)
        return head

    def check_heads(self, tasks: Sequence[Task]) -> None:
        """Refuse head options of tasks that are not trained."""
        names = [task.name for task in tasks]
        for name in self._heads:
            if name not in names:
                raise ConfigError(
                    f"`heads.{name}` is not a task of this run; {suggest(name, names, 'heads.')}"
                )
