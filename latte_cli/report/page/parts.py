"""What a page is made of: sections of facts, notes, pictures, boxes and tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from latte_cli.report import pictures
from latte_cli.report.page.modules import Box


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its title, and whether its cells are numbers."""

    title: str
    number: bool = False


@dataclass(frozen=True, kw_only=True)
class SortedCell:
    """What a cell shows, and what it is sorted by."""

    shown: str
    value: float | str


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table of the page; one that is `folded` is shown on a click."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[SortedCell]]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure with its name in files, its title, and what it shows in words."""

    name: str
    title: str
    description: str
    figure: Any

    @property
    def svg(self) -> str:
        """The figure as an element of the page."""
        return pictures.inline(self.figure, self.name, self.title, self.description)


@dataclass(frozen=True, kw_only=True)
class Icicle:
    """Boxes within boxes, with their title and what they show in words; `root` is the outermost box."""

    title: str
    description: str
    root: Box


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: facts as pairs, notes as sentences, pictures, boxes, tables."""

    title: str
    anchor: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    icicles: Sequence[Icicle] = ()
    tables: Sequence[Rows] = ()
    parts: Sequence["Section"] = field(default=())


def text_cell(shown: str) -> SortedCell:
    """A cell that is sorted by what it shows."""
    return SortedCell(shown=shown, value=shown)
