"""`from rotograd_cli import methods`: every method, with the signature that its YAML file fills."""

import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rotograd_cli
from rotograd_cli import methods
from rotograd_cli.errors import ConfigError
from rotograd_cli.methods.rule import Rule
from tests.contract.test_methods import FILES as METHODS
from tests.contract.test_methods import OVER_PARAMETERS, node_of

TARGETS = {method: node_of(method)["_target_"] for method in METHODS}
PUBLIC = [name for name in methods.__all__ if inspect.isclass(getattr(methods, name))]
OF_RUNNER = ("_target_", "_partial_", "_label_")


def test_every_method_is_exported() -> None:
    for target in TARGETS.values():
        module, _, name = target.rpartition(".")
        assert name in methods.__all__, (
            f"{target} cannot be used from Python; add `from {module} import {name}` and "
            f"'{name}' in `__all__` to rotograd_cli/methods/__init__.py"
        )
        assert getattr(methods, name) is pkgutil.resolve_name(target)
        assert name in dir(methods)


@pytest.mark.parametrize("method", METHODS)
def test_python_defaults_are_those_of_the_file(method: str) -> None:
    target = pkgutil.resolve_name(TARGETS[method])
    parameters = dict(inspect.signature(target).parameters)
    if issubclass(target, Rule):  # `gradients` is an option of the network around it
        parameters |= inspect.signature(methods.MultiTaskMethod).parameters
    for key, value in node_of(method).items():
        if key in OF_RUNNER or isinstance(value, Mapping):  # a component has no default
            continue
        if key == "gradients" and method in OVER_PARAMETERS:
            assert value == "parameters"
            continue
        default = parameters[key].default
        default = list(default) if isinstance(default, tuple) else default
        assert (type(default), default) == (type(value), value), (
            f"conf/method/{method}.yaml has {key}: {value}, its class {default}"
        )


@pytest.mark.parametrize("name", PUBLIC)
def test_a_signature_has_no_hidden_parameter_and_every_one_is_explained(name: str) -> None:
    public = getattr(methods, name)
    parameters = inspect.signature(public).parameters.values()
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    assert not [p.name for p in parameters if p.kind in variadic]
    texts = [base.__doc__ or "" for base in public.__mro__ if base.__module__.startswith("roto")]
    explained = set(re.findall(r"^ {8}(\w+): ", "\n".join(texts), re.MULTILINE))
    if public is not methods.ExtraOutputs:  # a named tuple, whose fields have docstrings
        assert {p.name for p in parameters} <= explained


def test_every_rule_trains_a_network_as_constructed_in_python() -> None:
    for name in PUBLIC:
        kind = getattr(methods, name)
        if not issubclass(kind, Rule) or kind is Rule:
            continue
        number = {"num_tasks": 2} if "num_tasks" in inspect.signature(kind).parameters else {}
        torch.manual_seed(0)
        networks = nn.Linear(3, 4), [nn.Linear(4, 1), nn.Linear(4, 2)]
        rule = kind(**number)
        gradients: Any = "parameters" if rule.needs_parameters else "features"
        model = methods.MultiTaskMethod(*networks, rule=rule, gradients=gradients).train()
        model.backward([y.square().mean() for y in model(torch.randn(5, 3))])
        assert all(p.grad is not None for p in model.backbone.parameters()), name


@pytest.mark.parametrize(
    ("rule", "remedy"), [(methods.PCGrad, "PCGrad()"), (methods.FAMO, "FAMO(num_tasks=2)")]
)
def test_a_class_instead_of_a_rule_is_refused_with_the_call(rule: Any, remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"got the class .*; pass {re.escape(remedy)}, say"):
        methods.MultiTaskMethod(nn.Identity(), [nn.Identity()] * 2, rule=rule)


USER = """
from torch import nn
from rotograd_cli import methods

heads: list[nn.Module] = [nn.Linear(4, 1), nn.Linear(4, 2)]
model = methods.MultiTaskMethod(nn.Linear(3, 4), heads, rule=methods.CAGrad(c=0.2))
rotated = methods.RotoGrad(nn.Linear(3, 4), heads, 4, burn_in_period=5)
reveal_type(rotated.backward)
methods.CAGrad(c="0.2")
methods.RotoGrad(nn.Linear(3, 4), heads, 4, burnin=5)
methods.PCgrad()
"""


@pytest.mark.slow
def test_a_strict_type_checker_knows_the_methods(tmp_path: Path) -> None:
    assert (Path(rotograd_cli.__file__).parent / "py.typed").is_file()
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version=3.11", "user.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found = re.findall(r"^user.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)
    wrong = [("9", "arg-type"), ("10", "call-arg"), ("11", "attr-defined")]
    assert found == wrong, done.stdout + done.stderr
    assert re.search(r"losses: \S*Sequence\[\S*Tensor \| None\]", done.stdout)
