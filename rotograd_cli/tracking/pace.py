"""How fast a run trains and when it will end, and lines whose values stand in columns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

Item = tuple[str, str]
"""Label and value; the label may be empty."""
_HOUR_S = 3600
_UNKNOWN = "-"


@dataclass
class Pace:
    """The pace of a run since it began or was resumed.

    Args:
        num_steps: Steps of the whole run.
        batch_size: Examples of a step, over all ranks.
        step: Steps taken before.
        seconds: Seconds of training before.
        clock: Seconds since 1970; elapsed time is measured with it too.
    """

    _: KW_ONLY
    num_steps: int
    batch_size: int
    step: int = 0
    seconds: float = 0.0
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._first_step = self.step
        self._began = self.clock()

    def advance(self, step: int, seconds: float) -> list[str]:
        """Go on to a later step.

        Args:
            step: Steps taken so far.
            seconds: Seconds of training so far.

        Returns:
            Seconds of training and examples per second since the last call, and when the run will
            end, evaluations included: ``3.1 s``, ``4,120 ex/s``, ``16:42``. A dash where no step
            has been taken.
        """
        duration_s = seconds - self.seconds
        num_examples = (step - self.step) * self.batch_size
        self.step = step
        self.seconds = seconds
        return [_duration(duration_s), _rate(num_examples, duration_s), self._end()]

    def _end(self) -> str:
        num_taken = self.step - self._first_step
        if num_taken == 0:
            return _UNKNOWN
        now = self.clock()
        end = now + (now - self._began) / num_taken * (self.num_steps - self.step)
        is_today = time.localtime(end)[:3] == time.localtime(now)[:3]
        return time.strftime("%H:%M" if is_today else "%m-%d %H:%M", time.localtime(end))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _HOUR_S else f"{seconds / _HOUR_S:.2f} h"


def _rate(num_examples: int, seconds: float) -> str:
    if num_examples == 0 or seconds <= 0:
        return f"{_UNKNOWN} ex/s"
    rate = num_examples / seconds
    return f"{rate:,.0f} ex/s" if rate >= 10 else f"{rate:.2f} ex/s"


class Columns:
    """Lines of labelled values, each value as wide as the widest in its place so far."""

    def __init__(self) -> None:
        self._widths: dict[int, int] = {}

    def line(self, groups: Sequence[Sequence[Item]]) -> str:
        """Return a line: two blanks between groups, one between the items of a group."""
        place = 0
        texts = []
        for group in groups:
            items = []
            for label, value in group:
                width = max(len(value), self._widths.get(place, 0))
                self._widths[place] = width
                items.append(f"{label} {value:>{width}}" if label else f"{value:>{width}}")
                place += 1
            texts.append(" ".join(items))
        return "  ".join(texts)
