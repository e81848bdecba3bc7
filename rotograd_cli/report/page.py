"""The page: sections, charts and scripts in one HTML file that needs no network."""

import json
from collections.abc import Sequence
from importlib.resources import files
from string import Template
from typing import Any

from rotograd_cli import __version__
from rotograd_cli.report import html
from rotograd_cli.report.charts import Spec, library
from rotograd_cli.report.html import Section
from rotograd_cli.report.palette import style_sheet

_GLOBALS = "window.vegaEmbed = vegaEmbed;"
"""What the page's own script needs of the libraries."""


class Charts:
    """The charts of a page, in order; a chart's place in it is an element with its number."""

    def __init__(self) -> None:
        self.specs: list[Spec] = []

    def add(self, title: str, spec: Spec, kind: str = "") -> str:
        """Take up a chart.

        Args:
            title: Heading above it.
            spec: Its specification.
            kind: Further class of its element.

        Returns:
            Its place in the page.
        """
        self.specs.append(spec)
        number = len(self.specs) - 1
        label = html.text(title)
        return (
            f'<h4>{label}</h4><div class="chart {kind}" role="img" aria-label="{label}" '
            f'data-chart="{number}"></div>'
        )


def render(title: str, subtitle: str, sections: Sequence[Section], charts: Charts) -> str:
    """Return the page.

    Args:
        title: Heading.
        subtitle: Line below it.
        sections: Sections in order.
        charts: All charts that the sections have places for.

    Raises:
        ConfigError: If altair or vl-convert is not installed.
    """
    navigation = "".join(
        f'<a href="#{section.anchor}">{html.text(section.title)}</a>' for section in sections
    )
    body = "".join(
        f'<section id="{s.anchor}"><h2>{html.text(s.title)}</h2>{s.body}</section>'
        for s in sections
    )
    return Template(_asset("page.html")).substitute(
        title=html.text(title),
        subtitle=html.text(subtitle),
        navigation=navigation,
        body=body,
        style=style_sheet() + _asset("page.css"),
        charts=in_script(charts.specs),
        libraries=_libraries(),
        script=_asset("page.js"),
        version=html.text(__version__),
    )


def in_script(value: Any) -> str:
    """Return JSON that may stand inside of a script element."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _libraries() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes."""
    version = library().SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    from vl_convert import javascript_bundle

    script: str = javascript_bundle(_GLOBALS, version)
    return script.replace("</script", "<\\/script")


def _asset(name: str) -> str:
    return files("rotograd_cli.report").joinpath(name).read_text(encoding="utf-8")
