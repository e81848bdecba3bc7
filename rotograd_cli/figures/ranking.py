"""Methods ranked over several columns of tables, and which of them are told apart.

References:
    Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, 2006.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rotograd_cli.tables.statistics import LEVEL, critical_difference


@dataclass(frozen=True)
class Block:
    """A column of a table, in which every method has one rank: what Demšar calls a data set."""

    name: str
    ranks: Mapping[str, float]
    """By method, from the table's statistic over seeds: seeds are no data sets of their own."""


@dataclass(frozen=True)
class Ranking:
    """Methods over blocks."""

    blocks: Sequence[Block]

    @cached_property
    def means(self) -> dict[str, float]:
        """Mean rank by method, the best first."""
        means = {
            method: statistics.fmean(block.ranks[method] for block in self.blocks)
            for method in self.blocks[0].ranks
        }
        return dict(sorted(means.items(), key=lambda item: item[1]))

    @cached_property
    def distance(self) -> float:
        """Nemenyi's critical difference."""
        return critical_difference(len(self.means), len(self.blocks))

    @cached_property
    def p(self) -> float:
        """Of Friedman's test that no methods differ; 1 where all are equal in every block."""
        from scipy import stats

        if all(len(set(block.ranks.values())) == 1 for block in self.blocks):
            return 1.0
        samples = [[block.ranks[method] for block in self.blocks] for method in self.means]
        return float(stats.friedmanchisquare(*samples).pvalue)

    @property
    def joined(self) -> list[tuple[float, float]]:
        """Stretches of mean ranks that are not told apart, none within another.

        All of them where Friedman's test does not say that any methods differ.
        """
        means = list(self.means.values())
        if not self.p < LEVEL:
            return [(means[0], means[-1])]
        stretches: list[tuple[float, float]] = []
        for low in means:
            high = max(mean for mean in means if mean - low < self.distance)
            if high > max([low, *(end for _, end in stretches)]):
                stretches.append((low, high))
        return stretches
