"""Charts as Vega-Lite specifications, made with Altair. They take their colours from the page."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rotograd_cli.errors import ConfigError
from rotograd_cli.extras import installing
from rotograd_cli.report.palette import variables
from rotograd_cli.tables.colours import COLOURS

HEIGHT = 180
MAX_COLOURS = len(COLOURS)
"""Lines of different colours in one chart; more of them become rows of a heat map."""
MOST_NUMBERED = 15
"""Classes of a confusion matrix whose counts can be read."""
Spec = dict[str, Any]


class Point(NamedTuple):
    """A point of a line."""

    line: str
    step: float
    value: float


class Band(NamedTuple):
    """A point of a line with the extremes over seeds."""

    line: str
    step: float
    value: float
    low: float
    high: float


def missing(name: str) -> ConfigError:
    """Return the refusal for a library that is not installed."""
    return ConfigError(f"Reports need {name}, which is not installed; run {installing('report')}.")


def library() -> Any:
    """Return Altair.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import altair
    except ImportError as error:
        raise missing("altair") from error
    return altair


def lines(
    points: Sequence[Point | Band],
    *,
    x: str = "step",
    log: bool = False,
    percent: bool = False,
    mark_step: float | None = None,
    names: Sequence[str] | None = None,
    dashed: Sequence[Point | Band] = (),
) -> Spec:
    """Return a chart of lines over steps.

    Args:
        points: Points or bands, those of one line in order.
        x: Title of the horizontal axis.
        log: Whether the vertical axis is logarithmic; values above 0 only.
        percent: Whether the vertical axis shows shares in percent.
        mark_step: Step at which a vertical rule stands; None for none.
        names: Lines that the page's colours stand for, in order, with a legend outside of the
            chart; None takes those of the chart, with a legend of its own.
        dashed: Points of dashed lines, which have the colours of the solid ones of their names.
    """
    alt = library()
    has_legend = names is None
    names = names or list(dict.fromkeys(point.line for point in points))
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    everything = [*points, *dashed]
    step_scale = alt.Scale(zero=False, nice=False)
    axis = _values(alt, everything, log, percent)
    encoding = {
        "x": alt.X("step:Q", title=x, scale=step_scale, axis=_steps(alt, everything)),
        "y": alt.Y("value:Q", title=None, scale=scale, axis=axis),
        "color": _colour(alt, names, has_legend),
    }
    layers = _layers(alt, points, encoding, point=_points(points, names))
    if dashed:
        hollow = {"size": 24, "filled": False, "strokeDash": [1, 0]}
        is_short = len(dashed) <= 3 * len(names)  # a single point is no line
        layers += _layers(
            alt, dashed, encoding, strokeDash=[5, 3], point=hollow if is_short else False
        )
    if mark_step is not None:
        layers.append(_rule(alt, mark_step))
    return _finished(alt.layer(*layers), HEIGHT)


def _steps(alt: Any, points: Sequence[Point | Band]) -> Any:
    """Axis with whole steps alone: a chart of one step has that one."""
    steps = {int(point.step) for point in points}
    axis = alt.Axis(format=",d", tickMinStep=1)
    if len(steps) == 1:
        axis.values = list(steps)
    return axis


def _values(alt: Any, points: Sequence[Point | Band], log: bool, percent: bool) -> Any:
    """Axis of values; one that all points share is labelled as it is, not rounded."""
    ends = {value for point in points for value in point[2:]}
    axis = alt.Axis(tickCount=4) if log else alt.Axis()
    tiny = 0 < max((abs(point.value) for point in points), default=0) < 1e-3
    if percent or tiny:
        axis.format = "~%" if percent else "~e"
    if len(ends) == 1:
        axis.values = [_short(value) for value in ends]
        axis.format = ".4~%" if percent else ".4~g"
    return axis


def _row(point: Point | Band) -> dict[str, Any]:
    """Return a point as the chart's data have it; steps stay whole."""
    row = {key: _short(value) for key, value in point._asdict().items()}
    return {**row, "step": int(point.step)}


def _layers(
    alt: Any, points: Sequence[Point | Band], encoding: dict[str, Any], **style: Any
) -> list[Any]:
    """Return the lines, over their bands if they have some."""
    rows = [_row(point) for point in points]
    base = alt.Chart(alt.InlineData(values=rows)).encode(**encoding)
    line = base.mark_line(strokeWidth=1.8, **style).encode(
        tooltip=[alt.Tooltip("line:N", title=" "), "step:Q", alt.Tooltip("value:Q", format=".4~g")],
    )
    if not (points and isinstance(points[0], Band)):
        return [line]
    opacity = 0.08 if "strokeDash" in style else 0.18
    return [base.mark_area(opacity=opacity).encode(y=alt.Y("low:Q", title=None), y2="high:Q"), line]


def _points(points: Sequence[Point | Band], names: Sequence[str]) -> Any:
    """Dots where lines have few points: a single one would not be seen."""
    few = len(points) <= 30 * max(1, len(names))
    return {"size": 18, "filled": True} if few else False


def _rule(alt: Any, step: float) -> Any:
    return (
        alt.Chart(alt.InlineData(values=[{"step": step}]))
        .mark_rule(strokeDash=[4, 3], opacity=0.7)
        .encode(x="step:Q")
    )


def _colour(alt: Any, names: Sequence[str], has_legend: bool) -> Any:
    width = 26 + 6.5 * max(map(len, names), default=0)  # of an entry, in pixels
    columns = max(1, int(320 // width))
    legend = alt.Legend(title=None, orient="bottom", columns=columns, symbolType="stroke")
    return alt.Color(
        "line:N",
        scale=alt.Scale(domain=list(names), range=list(variables(names).values())),
        legend=legend if has_legend and len(names) > 1 else None,
    )


def heat_rows(points: Sequence[Point], *, log: bool = False) -> Spec:
    """Return a heat map with a row per line and the steps across, for many lines.

    Args:
        points: Points; every line has the same steps.
        log: Whether the scale of colours is logarithmic; values above 0 only.
    """
    alt = library()
    legend = alt.Legend(title=None, orient="bottom", gradientThickness=10)
    scale = alt.Scale(type="log" if log else "linear", range="heatmap")
    names = list(dict.fromkeys(point.line for point in points))
    rows = [_row(point) for point in points]
    chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_rect()
        .encode(
            x=alt.X("step:O", axis=alt.Axis(labelOverlap="greedy", labelAngle=0), title="step"),
            y=alt.Y("line:N", sort=names, title=None),
            color=alt.Color("value:Q", scale=scale, legend=legend),
            tooltip=["line:N", "step:Q", alt.Tooltip("value:Q", format=".4~g")],
        )
    )
    return _finished(chart, max(HEIGHT, 14 * len(names)))


def cosine_matrix(tasks: Sequence[str], largest: float) -> Spec:
    """Return an empty heat map of cosines, which the page's script fills for the chosen step.

    Args:
        tasks: Tasks in order.
        largest: Absolute value at the ends of the scale of colours, above 0.
    """
    alt = library()
    is_large = len(tasks) > MAX_COLOURS
    # of many tasks the rows alone are named: the columns have the same order
    axis = alt.Axis(labels=False, ticks=False) if is_large else alt.Axis(labelAngle=-40)
    base = alt.Chart(alt.NamedData(name="cells")).encode(
        x=alt.X("b:N", scale=alt.Scale(domain=list(tasks)), title=None, axis=axis),
        y=alt.Y("a:N", scale=alt.Scale(domain=list(tasks)), title=None),
    )
    domain = [-largest, 0, largest]
    scale = alt.Scale(domain=domain, range="diverging", interpolate="rgb", clamp=True)
    legend = alt.Legend(title=None, orient="bottom", gradientLength=160, gradientThickness=10)
    cells = base.mark_rect().encode(
        color=alt.Color("cosine:Q", scale=scale, legend=legend),
        tooltip=["a:N", "b:N", alt.Tooltip("cosine:Q", format=".2f")],
    )
    if is_large:
        return _finished(cells, min(12 * len(tasks), 520))
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text("cosine:Q", format=".2f"),
        color=alt.when(f"abs(datum.cosine) > {0.55 * largest}").then(alt.value("white")),
    )
    return _finished(alt.layer(cells, numbers), max(HEIGHT, 44 * len(tasks)))


def confusion(counts: Sequence[Sequence[int]]) -> Spec:
    """Return a confusion matrix: the share of each true class that got each prediction.

    Args:
        counts: Number of examples by true and predicted class.
    """
    alt = library()
    rows = [
        {"true": t, "predicted": p, "count": n, "share": _short(n / max(1, sum(row)))}
        for t, row in enumerate(counts)
        for p, n in enumerate(row)
    ]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("predicted:O", axis=alt.Axis(labelAngle=0)), y=alt.Y("true:O")
    )
    scale = alt.Scale(domain=[0, 1])
    cells = base.mark_rect().encode(
        color=alt.Color("share:Q", scale=scale, legend=None),
        tooltip=["true:O", "predicted:O", "count:Q", alt.Tooltip("share:Q", format=".1%")],
    )
    if len(counts) > MOST_NUMBERED:
        return _finished(cells, min(14 * len(counts), 420))
    numbers = base.mark_text(fontSize=10).encode(
        text=alt.condition("datum.count > 0", "count:Q", alt.value("")),
        color=alt.when("datum.share > 0.5").then(alt.value("white")),
    )
    return _finished(alt.layer(cells, numbers), 26 * len(counts) + 40)


def bars(values: Sequence[tuple[str, float]], title: str) -> Spec:
    """Return horizontal bars, from 0 to 1, in the order given.

    Args:
        values: Names and values; one that is NaN is said to have none.
        title: What the values are.
    """
    alt = library()
    rows = [
        {"name": name, "value": _short(value) if math.isfinite(value) else None}
        for name, value in values
    ]
    names = [name for name, _ in values]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        y=alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelOverlap=False)),
        x=alt.X("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%")),
    )
    bar = base.mark_bar(height=9, cornerRadiusEnd=2).encode(
        tooltip=["name:N", alt.Tooltip("value:Q", format=".1%")]
    )
    number = (
        base.transform_calculate(
            words="isValid(datum.value) ? format(datum.value, '.1%') : 'does not occur'",
            at="isValid(datum.value) ? datum.value : 0",
        )
        .mark_text(align="left", dx=4, fontSize=10)
        .encode(x="at:Q", text="words:N")
    )
    return _finished(alt.layer(bar, number), 16 * len(values) + 10)


def scatter(pairs: Sequence[tuple[float, float]]) -> Spec:
    """Return predictions over true values, with the line on which they would be equal.

    Args:
        pairs: True value and prediction.
    """
    alt = library()
    rows = [{"true": _short(t), "predicted": _short(p)} for t, p in pairs]
    ends = [_short(f(value for pair in pairs for value in pair)) for f in (min, max)]
    dots = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_circle(size=16, opacity=0.45)
        .encode(
            x=alt.X("true:Q", scale=alt.Scale(zero=False)),
            y=alt.Y("predicted:Q", scale=alt.Scale(zero=False)),
            tooltip=["true:Q", "predicted:Q"],
        )
    )
    diagonal = (
        alt.Chart(alt.InlineData(values=[{"true": end, "predicted": end} for end in ends]))
        .mark_line(strokeDash=[4, 3], opacity=0.7, strokeWidth=1)
        .encode(x="true:Q", y="predicted:Q")
    )
    return _finished(alt.layer(dots, diagonal), 260)


def _short(value: Any) -> Any:
    """Four digits: what a chart shows, at half the size of the page's data."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _finished(chart: Any, height: int) -> Spec:
    spec: Spec = chart.properties(width="container", height=height).to_dict()
    spec.pop("config", None)  # the page's theme
    return spec
