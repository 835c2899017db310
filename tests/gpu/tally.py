"""What came of trying every algorithm of cuDNN's: a table for the report of a run."""

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import product

from gpu_convolutions import PHASES, PRECISIONS, Case
from trying_cases import Answer

from latte_cli.backends.native import cudnn
from latte_cli.layers import Phase
from latte_cli.measure import Outcome
from latte_cli.precisions import Layout, Precision


class Tally:
    """What came of all cases, by cuDNN's operation, algorithm, precision and layout."""

    def __init__(self) -> None:
        self._errors: dict[tuple[Phase, str, Precision, Layout], list[float]] = defaultdict(list)
        self._others: dict[str, int] = defaultdict(int)

    def add(self, case: Case, answer: Answer) -> None:
        """Count one more case."""
        if answer.outcome is Outcome.OK:
            operation = case.layer.computed_as(case.phase)
            self._errors[operation, case.algorithm.name, case.precision, case.layout].append(answer.error)
        elif answer.outcome is not Outcome.UNSUPPORTED:
            self._others[f"{answer.outcome}: {case}: {answer.detail}"] += 1

    def lines(self) -> Iterator[str]:
        """A table: how many layers each algorithm ran, and its largest error."""
        if not (self._errors or self._others):
            return
        columns = list(product(PRECISIONS, Layout))
        titles = (
            f"{precision} {'nhwc' if layout is Layout.CHANNELS_LAST else layout}" for precision, layout in columns
        )
        yield f"{'':38}" + "".join(f"{title:>13}" for title in titles)
        for phase in PHASES:
            for algorithm in cudnn.ALGORITHMS[phase]:
                cells = (_cell(self._errors.get((phase, algorithm.name, *column), [])) for column in columns)
                yield f"{phase:16}{algorithm.name:22}" + "".join(f"{cell:>13}" for cell in cells)
        for text, count in sorted(self._others.items()):
            yield f"{count} x {text}"


def _cell(errors: list[float]) -> str:
    worst = math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)
    return f"{len(errors)} {worst:.0e}" if errors else "-"
