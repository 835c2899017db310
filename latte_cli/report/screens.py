"""The screen that a table is for: how much it holds, and whether it shows bars."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TextIO

from latte_cli.printable import printable

_BLOCKS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, kw_only=True)
class Screen:
    """A terminal of so many columns and lines; `bars` says whether it shows colours and blocks."""

    columns: int
    lines: int
    bars: bool

    def lines_of(self, texts: Iterable[str]) -> int:
        """How many lines the texts take, those that are longer than one included."""
        from rich.cells import cell_len

        return sum(max(1, ceil(cell_len(printable(text)) / self.columns)) for text in texts)


def screen_of(out: TextIO) -> Screen | None:
    """The screen that `out` writes to; None for a pipe or a file."""
    if not out.isatty():
        return None
    from rich.console import Console

    console = Console(file=out)
    colours = console.color_system is not None and not console.no_color
    bars = colours and console.encoding.lower().startswith("utf")
    return Screen(columns=console.width, lines=console.height, bars=bars)


def bar(share: float, width: int) -> str:
    """A share of 1 as a bar that is at most so many characters wide."""
    eighths = round(8 * width * min(max(share, 0.0), 1.0))
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].rstrip()
