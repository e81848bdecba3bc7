"""Sections on what a checkpoint predicts: classes, F1, numbers, and a grid of examples."""

import base64
from collections.abc import Sequence

from rotograd_cli.pictures import Answer, Example, Maps, jpeg, png
from rotograd_cli.pictures.colours import RGB
from rotograd_cli.report import charts, html
from rotograd_cli.report.html import Section
from rotograd_cli.report.measured import Measured, ious
from rotograd_cli.report.page import Charts
from rotograd_cli.runs.summary import RunSummary

MAX_CLASSES = 40
MAX_ANSWERS = 8
"""Answers below an example, beyond which those that are right are only counted."""
_PNG_BYTES = 12_000
"""A larger picture is stored as JPEG: the page stays small."""


def tasks_section(
    measured: Measured | str, summary: RunSummary, split: str, note: str | None, page: Charts
) -> Section:
    """Return confusion matrices, intersections over unions, F1 and scatter plots.

    Args:
        measured: Predictions, or in one sentence why there are none.
        summary: The run.
        split: The split that was predicted.
        note: That the checkpoint may still change; None where it will not.
        page: Takes up the charts.
    """
    drawn = _f1(summary, page)
    parts = []
    if isinstance(measured, str):
        parts.append(html.sentence(measured))
    else:
        for task, counts in measured.confusions.items():
            drawn += _classes(task, measured, counts.tolist(), page)
        for task, pairs in measured.pairs.items():
            title = f"{task}: prediction over truth, {len(pairs)} examples"
            drawn.append(page.add(title, charts.scatter(pairs)))
        parts.append(html.sentence(_extent(measured, split, summary)))
        if note is not None:
            parts.append(html.sentence(note))
    if drawn:
        parts.append(html.cards(drawn))
    return Section("Tasks", "".join(parts))


def _extent(measured: Measured, split: str, summary: RunSummary) -> str:
    """Say whose predictions these are, and of which examples."""
    which = f"all {measured.total:,}"
    if measured.evaluated < measured.total:
        which = f"the first {measured.evaluated:,} of {measured.total:,}"
    words = f"Predictions of {measured.checkpoint}.pt for {which} {split} examples"
    if measured.num < measured.evaluated:
        words = (
            f"Predictions of {measured.checkpoint}.pt for the first {measured.num:,} of "
            f"{measured.total:,} {split} examples; the run evaluates {which} "
            f"(limit={measured.evaluated} takes these)"
        )
    elif measured.evaluated < measured.total:
        words += ", those that the run evaluates"
    is_recorded = any(key.startswith(f"{split}/") for key in summary.metrics)
    is_whole = measured.num == measured.evaluated
    is_same = is_whole and measured.checkpoint == "best" and summary.averaged_epochs is None
    if not is_recorded or is_same:
        return f"{words}."
    return f"{words}. The {split} results above are of {which} examples, {summary.measured_at}."


def _f1(summary: RunSummary, page: Charts) -> list[str]:
    """F1 of every binary task as the run recorded it, the best first."""
    split = "test" if any(key.startswith("test/") for key in summary.metrics) else "val"
    recorded = {task: summary.metrics.get(f"{split}/{task}/f1") for task in summary.tasks}
    values = [(task, float(value)) for task, value in recorded.items() if value is not None]
    if len(values) < 2:
        return []
    values.sort(key=lambda pair: -pair[1])
    return [page.add(f"F1 of every binary task, {split} split", charts.bars(values, "F1"))]


def _classes(
    task: str, measured: Measured, counts: Sequence[Sequence[int]], page: Charts
) -> list[str]:
    kind = measured.kinds[task]
    if kind == "class_map":
        values = ious(measured.confusions[task]).tolist()
        named = [(f"class {k}", value) for k, value in enumerate(values)]
        title = f"{task}: intersection over union by class, counted from 0"
        return [page.add(title, charts.bars(named, "IoU"))]
    few_binary = sum(each == "binary" for each in measured.kinds.values()) <= 4
    if kind == "binary" and not few_binary:
        return []
    if len(counts) > MAX_CLASSES:
        return []
    return [page.add(f"{task}: prediction by true class", charts.confusion(counts))]


def examples_section(measured: Measured | str, split: str) -> Section:
    """Return examples with their predictions.

    Args:
        measured: Predictions, or why there are none, which the section on tasks says.
        split: The split that was predicted.
    """
    if isinstance(measured, str):
        return Section("Examples", html.sentence("There are none, for the same reason."))
    if not measured.examples:
        return Section("Examples", html.sentence("None were asked for; set examples=8."))
    has_maps = any(example.maps for example in measured.examples)
    has_image = any(example.image is not None for example in measured.examples)
    words = f"Examples of the {split} split, evenly spread. "
    if any(example.answers for example in measured.examples):
        words += "The truth stands in parentheses after wrong answers and after numbers. "
    if not has_image:
        words += "The inputs are not images, so they are not drawn."
    boxes = [_example(example) for example in measured.examples]
    return Section(
        "Examples", html.sentence(words) + html.cards(boxes, "wide" if has_maps else "tiles")
    )


def _example(example: Example) -> str:
    parts = []
    if example.image is not None:
        picture = image(example.image, "input")
        parts.append(f'<div class="input">{picture}</div>' if example.maps else picture)
    if example.answers:
        parts.append(f'<ul class="answers">{"".join(_answers(example.answers))}</ul>')
    if example.maps:
        parts.append(f'<div class="maps">{"".join(map(_maps, example.maps))}</div>')
    return "".join(parts)


def _answers(answers: Sequence[Answer]) -> list[str]:
    shown = list(answers)
    if len(answers) > MAX_ANSWERS:
        shown = [each for each in answers if each.right is not True][:MAX_ANSWERS]
    lines = [_answer(each) for each in shown]
    if len(shown) < len(answers):
        right = sum(each.right is True for each in answers)
        lines.append(f"<li><b>{right} of {len(answers)} right</b></li>")
    return lines


def _answer(answer: Answer) -> str:
    mark = {True: "right", False: "wrong", None: ""}[answer.right]
    words = html.text(str(answer).removeprefix(f"{answer.task} "))
    return f'<li><b>{html.text(answer.task)}</b> <span class="{mark}">{words}</span></li>'


def _maps(maps: Maps) -> str:
    pictures = (("truth", maps.truth), ("prediction", maps.prediction), ("error", maps.error))
    figures = "".join(
        f"<figure>{image(picture, f'{maps.title}: {name}')}<figcaption>{name}</figcaption></figure>"
        for name, picture in pictures
        if picture is not None
    )
    words = "; ".join(filter(None, (maps.values, maps.errors)))
    return (
        f'<div class="name">{html.text(maps.title)}</div>{figures}'
        f'<div class="what">{html.text(words)}</div>'
    )


def image(picture: RGB, description: str) -> str:
    """Return a picture as an element that holds its content."""
    content, kind = png(picture), "png"
    if len(content) > _PNG_BYTES:
        content, kind = jpeg(picture), "jpeg"
    height, width = picture.shape[:2]
    small = ' class="small"' if max(height, width) < 100 else ""
    data = base64.b64encode(content).decode()
    return (
        f'<img{small} alt="{html.text(description)}" width="{width}" height="{height}" '
        f'src="data:image/{kind};base64,{data}">'
    )
