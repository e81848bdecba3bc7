"""Colours of lines in the page: those of the figures, as variables of its style."""

from collections.abc import Sequence

from rotograd_cli.tables.colours import COLOURS, ON_DARK, styles


def variables(labels: Sequence[str]) -> dict[str, str]:
    """Return the colour of each label as CSS writes it, which light and dark pages define.

    Args:
        labels: At most as many as there are colours, so that each has another one.
    """
    return {
        label: f"var(--c{COLOURS.index(style.color)})" for label, style in styles(labels).items()
    }


def style_sheet() -> str:
    """Return the definition of the variables."""
    light, dark = (
        ":root{" + "".join(f"--c{k}:{colour};" for k, colour in enumerate(colours)) + "}"
        for colours in (COLOURS, ON_DARK)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"
