"""From block times to medians with spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Block:
    """One uninterrupted stretch of steps of one subject."""

    subject: str
    """Whose steps."""
    round: int
    """Round, from 0."""
    position: int
    """Place in the order of the round, from 0."""
    steps: int
    """Number of steps."""
    seconds: float
    """Time of all of them."""

    @property
    def step_s(self) -> float:
        """Mean time of a step in seconds."""
        return self.seconds / self.steps


@dataclass(frozen=True)
class Spread:
    """Median, and the interval that holds the middle 80 % of the values."""

    median: float
    p10: float
    p90: float


def spread(values: Sequence[float]) -> Spread:
    """Return median, 10th and 90th percentile, interpolated linearly between neighbours.

    Examples:
        >>> spread([1.0, 2.0, 3.0])
        Spread(median=2.0, p10=1.2, p90=2.8)
    """
    p10, median, p90 = (float(x) for x in np.percentile(values, (10, 50, 90)))
    return Spread(median, p10, p90)


def times_by_round(blocks: Sequence[Block]) -> dict[str, dict[int, float]]:
    """Return the mean time of a step in seconds, by subject and round."""
    result: dict[str, dict[int, float]] = {}
    for block in blocks:
        result.setdefault(block.subject, {})[block.round] = block.step_s
    return result


def paired_ratios(times: Mapping[int, float], base: Mapping[int, float]) -> list[float]:
    """Return the ratio of two subjects' times for every round that both have, in order.

    A machine that slows down for a while slows both, and the ratio stays.

    Args:
        times: Time by round.
        base: Time of the denominator by round.
    """
    return [times[index] / base[index] for index in sorted(times) if index in base]
