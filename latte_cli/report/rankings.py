"""Which device trains best, as a section of the page."""

from collections.abc import Sequence

from latte_cli.report.page.parts import Column, Rows, Section, SortedCell
from latte_cli.report.sides import legend_lines, side_cells
from latte_cli.sides import Side


def ranking_section(sides: Sequence[Side]) -> Section:
    """The sides in their order, which is that of `sides.rank`, with their places and figures."""
    titles, rows = side_cells(sides, [str(at) for at in range(1, len(sides) + 1)], "place")
    return Section(
        title="Which device",
        anchor="ranking",
        notes=list(legend_lines(sides)),
        tables=[
            Rows(
                caption="Trainings by their time; what does not fit comes last",
                columns=[Column(title=title.removeprefix(">"), number=title.startswith(">")) for title in titles],
                rows=[
                    [_cell(title, shown, side, at) for title, shown in zip(titles, row, strict=True)]
                    for at, (side, row) in enumerate(zip(sides, rows, strict=True))
                ],
            )
        ],
    )


def _values(side: Side) -> dict[str, float | None]:
    """What the cells of a column are sorted by; others are sorted by what they show."""
    told = side.training
    return {
        ">step": side.step_s,
        ">samples/s": side.samples_per_s,
        ">speed": side.samples_per_s,
        ">memory": side.process_bytes or side.memory_bytes,
        ">training": told.time_s if told else None,
        ">95 % from": told.low_s if told else None,
        ">to": told.high_s if told else None,
        ">energy": told.energy_j if told else None,
        ">cost": told.cost if told else None,
    }


_UNKNOWN = 1e300  # sorts behind all figures


def _cell(title: str, shown: str, side: Side, at: int) -> SortedCell:
    if title == "place":
        return SortedCell(shown=shown, value=at)
    values = _values(side)
    if title not in values:
        return SortedCell(shown=shown, value=shown)
    value = values[title]
    return SortedCell(shown=shown, value=_UNKNOWN if value is None else value)
