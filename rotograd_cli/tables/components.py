"""Settings that differ in a component: its name in place of all of its options."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rotograd_cli.config.labels import shipped_components
from rotograd_cli.errors import override_value
from rotograd_cli.runs.saved import flat
from rotograd_cli.tables.runs import varying
from rotograd_cli.training.options import END

_TARGET = "._target_"


def collapsed(settings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return what differs among settings, a component that differs under the name of its file.

    An option of such a component is left out if it has the same value in all settings with that
    component, and this is the value of its file; without a file here, the first is enough.

    Args:
        settings: Values by dotted key, as overrides write them.

    Returns:
        Values by key for each, in order; two are equal only if the settings are.
    """
    keys = varying(settings)
    results = [dict(each) for each in settings]
    for target in [key for key in keys if key.endswith(_TARGET)]:
        by_class: dict[str, list[dict[str, str]]] = defaultdict(list)
        for each in results:
            if target in each:
                by_class[each[target]].append(each)
        _collapse(target, by_class)
    keys = varying(results)
    return [{key: each[key] for key in keys if key in each} for each in results]


def _collapse(target: str, by_class: Mapping[str, Sequence[dict[str, str]]]) -> None:
    """Put the names of components into settings, and take out the options that they stand for."""
    shipped = shipped_components()
    short = {
        name: shipped[name][0] if name in shipped else name.split(".")[-1] for name in by_class
    }
    is_clear = len(set(short.values())) == len(short)
    section = target.removesuffix(_TARGET)
    owner = section.removesuffix(".scheduler")  # the file of a schedule has its interval too
    for name, members in by_class.items():
        content = flat(shipped[name][1]) if name in shipped else None
        differing = varying(members)
        for each in members:
            for key in [key for key in each if key.startswith(f"{owner}.")]:
                is_meant = (
                    key.startswith(f"{section}.")
                    if content is None
                    else _is_default(content.get(key.removeprefix(f"{owner}."), "???"), key, each)
                )
                if key == target or (is_meant and key not in differing):
                    del each[key]
            each[owner] = short[name] if is_clear else name


def _is_default(default: object, key: str, setting: Mapping[str, str]) -> bool:
    """Return whether a value is that of the component's file; one that it computes always is."""
    if default == END and setting[key] == setting.get("train.epochs"):
        return True
    return str(default).startswith("${") or override_value(default) == setting[key]
