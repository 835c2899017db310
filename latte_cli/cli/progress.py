"""How a progress bar looks: how much is done, how fast, and how long it still takes, which no budget exceeds."""

from datetime import timedelta
from math import ceil

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress_bar import ProgressBar as Bar
from rich.text import Text

_WIDE = 100  # chosen: columns from which on a longer bar leaves room for the rest
_LONG, _SHORT = 20, 10  # chosen: characters of a bar
_BESIDE = 20  # of the rate and the time left with the blanks between all columns: "123.4/s", "0:12:34"
_LEAST_TITLE = 12  # chosen: a title that is cut further says nothing


def share_done(done: float, total: float | None, elapsed_s: float, budget_s: float | None) -> float | None:
    """How much of the way is done: of all tasks, or of the budget where that ends first; None where nobody knows."""
    shares = [done / total] if total else []
    shares += [elapsed_s / budget_s] if budget_s else []
    return min(1.0, max(shares)) if shares else None


def seconds_left(by_rate_s: float | None, elapsed_s: float, budget_s: float | None) -> float | None:
    """How long it still takes: what the rate says, and at most what is left of the budget."""
    left = [] if by_rate_s is None else [by_rate_s]
    left += [] if budget_s is None else [max(0.0, budget_s - elapsed_s)]
    return min(left, default=None)


class _BudgetBar(ProgressColumn):
    """The bar itself."""

    def __init__(self, width: int, budget_s: float | None) -> None:
        super().__init__()
        self._width, self._budget_s = width, budget_s

    def render(self, task: Task) -> Bar:
        share = share_done(task.completed, task.total, task.elapsed or 0.0, self._budget_s)
        return Bar(
            total=None if share is None else 1.0,
            completed=share or 0.0,
            width=self._width,
            pulse=share is None,
            animation_time=task.get_time(),
        )


class _Count(MofNCompleteColumn):
    """How many are done, of how many; nothing where nobody counts."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.completed or task.total else Text("")


class _TimeLeft(ProgressColumn):
    """The time left, as `0:00:12`."""

    max_refresh = 0.5

    def __init__(self, budget_s: float | None) -> None:
        super().__init__()
        self._budget_s = budget_s

    def render(self, task: Task) -> Text:
        left_s = seconds_left(task.time_remaining, task.elapsed or 0.0, self._budget_s)
        return Text("-:--:--" if left_s is None else str(timedelta(seconds=ceil(left_s))), style="progress.remaining")


def progress_of(console: Console, total: float | None, budget_s: float | None) -> Progress:
    """A bar with `rate` and `label` as fields of its task."""
    columns = (
        TextColumn("{task.description}", markup=False),
        _BudgetBar(_LONG if console.width >= _WIDE else _SHORT, budget_s),
        _Count(),
        TextColumn("{task.fields[rate]}"),
        _TimeLeft(budget_s),
        TextColumn("{task.fields[label]}", markup=False),
    )
    return Progress(*columns, console=console, transient=True)


def fit_texts(title: str, label: str, total: float | None, width: int) -> tuple[str, str]:
    """A title and a label that leave room on a line of `width` for the rest; the label is cut first."""
    room = width - (_LONG if width >= _WIDE else _SHORT) - 2 * len(f"{total or 0:.0f}") - 1 - _BESIDE
    title = _cut(title, max(_LEAST_TITLE, room))
    return title, _cut(label, max(0, room - len(title)))


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…" * (width > 0)
