"""Drawing: a figure to draw in, and writing it to a file or into a page."""

import io
import logging
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latte_cli import files
from latte_cli.errors import ExitCode, LatteError
from latte_cli.printable import printable

SUFFIXES = (".png", ".svg", ".pdf")
"""The endings of pictures."""

INK, GRID = "#010203", "#030201"
"""Mark the colour of text and of faint lines: black and grey in a file, the page's own in a page."""


def check_suffix(path: Path) -> None:
    """Raise LatteError for a name that is not that of a picture."""
    if path.suffix not in SUFFIXES:
        names = ", ".join(SUFFIXES)
        raise LatteError(f"`{path}` is not the name of a picture", hint=f"it ends in {names}", exit_code=ExitCode.USAGE)


def figure_of(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, list[Any]]:
    """A figure of that size in inches, and its axes row by row; raises LatteError where Matplotlib does not begin."""
    # Where the home cannot be written, Matplotlib takes a temporary folder for its fonts, and says so when imported.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure
    except ValueError as exc:
        message = f"Matplotlib cannot begin: {' '.join(str(exc).split())[:120]}"
        raise LatteError(message, hint="unset MPLBACKEND, or mend its settings (`matplotlibrc`)") from exc

    figure = Figure(figsize=(width, height), layout="constrained", dpi=150)
    axes = [figure.add_subplot(rows, columns, at + 1) for at in range(rows * columns)]
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


_WIDEST = 1.6  # chosen: of the longest bar; an interval that goes further is cut, so that bars stay visible


def axis_end(values: Sequence[float], highs: Sequence[float]) -> float:
    """Where an axis of bars ends: it holds the bars, and their intervals unless these are much longer."""
    longest = max(values, default=0.0)
    return min(max([1.08 * longest, *(1.04 * high for high in highs)]), _WIDEST * longest) or 1.0


def draw_interval(axes: Any, row: float, low: float, high: float, end: float, text: str) -> None:
    """An interval from `low` to `high` across a bar; one beyond the axis' `end` is an arrow to the `text` of `high`."""
    if high <= end:
        axes.plot([low, high], [row, row], color=INK, linewidth=1, marker="|", markersize=6)
        return
    tip = 0.87 * end if low < 0.8 * end else 0.95 * end
    axes.plot([low], [row], color=INK, marker="|", markersize=6)
    axes.annotate(
        "", (tip, row), (low, row), arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1, "shrinkA": 0}
    )
    axes.text(0.88 * end, row, f"to {text}", va="center", fontsize=7, color=INK)


def readable_on(colour: str) -> str:
    """Black or white, whichever can be read better on a colour such as `#2F80C2`."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]  # sRGB's curve
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]  # WCAG 2, relative luminance
    return "#010101" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, in place of a file there; one figure gives one file, and an SVG's words can be searched."""
    from matplotlib import rc_context

    dates = {".svg": "Date", ".pdf": "CreationDate"}
    metadata = {dates[path.suffix]: None} if path.suffix in dates else None
    with files.replacement(path) as out, rc_context({"svg.hashsalt": "latte", "svg.fonttype": "none"}):
        _save(figure, out, format=path.suffix[1:], metadata=metadata)


def inline(figure: Any, name: str, title: str, description: str) -> str:
    """A figure as the SVG element of a page, which has a title and a description for screen readers.

    Text and lines have the page's colours; identifiers begin with `name`, so that several figures fit one page.
    """
    from html import escape

    from matplotlib import rc_context

    for each in (figure.patch, *(axes.patch for axes in figure.axes)):
        each.set_alpha(0)
    out = io.StringIO()
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none", "svg.id": None}):
        _save(figure, out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = text.replace(INK, "currentColor").replace(GRID, "var(--faint)")
    text = text.replace("fill: #000000", "fill: currentColor").replace("stroke: #000000", "stroke: currentColor")
    title, description = escape(printable(title)), escape(printable(description))
    head = f'<title id="{name}-t">{title}</title><desc id="{name}-d">{description}</desc>'
    start, end = text.index("<svg"), text.index(">") + 1
    opening = re.sub(r' (width|height)="[^"]*pt"', "", text[start:end])
    opening = opening[:-1] + f' role="img" aria-labelledby="{name}-t {name}-d" preserveAspectRatio="xMinYMin meet">'
    return opening + head + text[end:]


def _save(figure: Any, out: Any, **how: Any) -> None:
    """Write a figure whose names may be in any script: an SVG keeps them, and a PNG shows boxes without a font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(out, **how)


def label(name: str) -> str:
    """A name from outside as a figure shows it: what cannot be printed is visible, and a $ begins no formula."""
    return printable(name).replace("$", r"\$")
