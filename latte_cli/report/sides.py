"""Steps side by side: a line for each as a table, JSON, CSV or Markdown, and where two differ layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, TextIO

from latte_cli import __version__
from latte_cli.report import Cell, Format, Table, duration, long_duration, size, write_csv, write_json, write_table
from latte_cli.report.thresholds import checks_json
from latte_cli.schedule import Schedule
from latte_cli.sides import EnergySource, Side, Training, apart, rank
from latte_cli.thresholds import Comparison, ThresholdCheck

COMPARISON = "latte.comparison/1"
"""The schema of the document."""

_COLUMNS = (
    *("side", "file", "model", "sha256", "device", "batch_size", "accumulate", "shape", "precision", "layout"),
    *("threads", "strategy", "estimator", "optimizer", "compiled", "checkpoint", "memory_limit_bytes", "version"),
    *("libraries", "step_s"),
    *("step_low_s", "step_high_s", "samples_per_s", "memory_bytes", "process_bytes", "fits", "steps", "time_s"),
    *("time_low_s", "time_high_s", "energy_j", "energy_source", "cost", "currency"),
)
_TITLES = {
    "batch_size": ">batch",
    "accumulate": ">accumulated",
    "threads": ">threads",
    "memory_limit_bytes": ">memory limit",
    "version": "latte",
    "sha256": "file's sha256",
}
_SPARE = (">samples/s", ">speed", ">95 % from", ">to")
"""What a narrow terminal does without."""
_NAMED = ("model", "device", "precision", "strategy")
"""Shown above a table, where it is the same for all."""


@dataclass(frozen=True, kw_only=True)
class SidePair:
    """Two sides layer by layer, with their letters."""

    before: str
    after: str
    comparison: Comparison

    @property
    def title(self) -> str:
        """Which two they are, in words."""
        return f"from {self.before} to {self.after}"

    @property
    def names(self) -> tuple[str, str]:
        """Where the times before and after are."""
        return f"in {self.before}", f"in {self.after}"


def letters(count: int) -> list[str]:
    """The names of so many sides: A to Z, and then A2, B2 and on."""
    return [ascii_uppercase[at % 26] + (str(at // 26 + 1) if at >= 26 else "") for at in range(count)]


def ranking_json(sides: Sequence[Side]) -> dict[str, Any]:
    """The key `ranking` of an estimate's document, only where there is one."""
    return {"ranking": [_values(side, at) for at, side in enumerate(sides, start=1)]} if sides else {}


def write_ranking(sides: Sequence[Side], form: Format = Format.TABLE, out: TextIO | None = None) -> None:
    """Write which side trains best: `sides` in the order of `sides.rank`, by their places."""
    places = [str(at) for at in range(1, len(sides) + 1)]
    _write_rows(sides, places, "place", form, out)


def write_sides(sides: Sequence[Side], form: Format, out: TextIO | None = None) -> None:
    """Write sides by letters, ranked where a training's length is known, and in their own order otherwise."""
    names = dict(zip(map(id, sides), letters(len(sides)), strict=True))
    shown = rank(sides) if all(side.training for side in sides) else sides
    _write_rows(shown, [names[id(side)] for side in shown], "", form, out)


def _write_rows(sides: Sequence[Side], names: Sequence[str], title: str, form: Format, out: TextIO | None) -> None:
    if form is Format.CSV:
        flat = [_flat(_values(side, name)) for side, name in zip(sides, names, strict=True)]
        write_csv(_COLUMNS, [tuple(row.get(column) for column in _COLUMNS) for row in flat], out)
        return
    columns, rows = side_cells(sides, names, title)
    table = Table(title=_title(sides), columns=columns, rows=rows, footer=[*legend_lines(sides)], spare=_SPARE)
    write_table(table, out)


def write_comparison(
    sides: Sequence[Side],
    pairs: Sequence[SidePair],
    checks: Sequence[ThresholdCheck],
    schedule: Schedule,
    out: TextIO | None = None,
) -> None:
    """Write the document `latte.comparison/1`."""
    named = zip(letters(len(sides)), sides, strict=True)
    document = {
        "schema": COMPARISON,
        "version": __version__,
        "training": {"samples": schedule.samples, "epochs": schedule.epochs, "local_steps": schedule.local_steps}
        if schedule.samples or schedule.local_steps
        else None,
        "apart": list(apart(sides)),
        "sides": [_values(side, letter) for letter, side in named],
    }
    found = checks_json(checks, [pair.comparison for pair in pairs])
    for pair, entry in zip(pairs, found.get("comparisons", ()), strict=True):
        entry |= {"before_side": pair.before, "after_side": pair.after}
    write_json(document | found, out)


def _values(side: Side, name: str | int) -> dict[str, Any]:
    found = {column: getattr(side, column) for column in _COLUMNS[1:-8]}
    told = side.training
    return {
        "side": str(name),
        **found,
        "libraries": dict(side.libraries),
        "steps": told and told.steps,
        "time_s": told and told.time_s,
        "time_low_s": told and told.low_s,
        "time_high_s": told and told.high_s,
        "energy_j": told and told.energy_j,
        "energy_source": told and told.energy_source,
        "cost": told and told.cost,
        "currency": told.currency if told and told.cost is not None else None,
    }


def _flat(values: Mapping[str, Any]) -> dict[str, Cell]:
    libraries = " ".join(f"{name}={version}" for name, version in values["libraries"].items())
    return {**values, "libraries": libraries}


def _title(sides: Sequence[Side]) -> tuple[str, ...]:
    """What is the same for all."""
    differing = apart(sides)
    same = [str(getattr(sides[0], name)) for name in _NAMED if name not in differing]
    return (", ".join(same),) if same else ("side by side",)


def side_cells(
    sides: Sequence[Side], names: Sequence[str], title: str
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The titles of columns, and a line of cells for each side: what sets it apart, and its figures."""
    differing = apart(sides)
    with_fits, with_training = any(side.fits for side in sides), any(side.training for side in sides)
    fastest = sides[0]
    columns = [title, *(_TITLES.get(name, name) for name in differing), ">step", ">samples/s", ">speed", ">memory"]
    columns += ["fits"] * with_fits
    if with_training:
        columns += [">training", ">95 % from", ">to", ">energy", ">cost"]
    rows = []
    for name, side in zip(names, sides, strict=True):
        cells = [name, *(_asked_text(sides, side, each) for each in differing), duration(side.step_s)]
        speed = side.samples_per_s / fastest.samples_per_s if fastest.samples_per_s else 1.0
        cells += [f"{side.samples_per_s:.4g}", f"{speed:.2f}"]
        cells.append(size(side.memory_bytes) if side.process_bytes is None else size(side.process_bytes))
        cells += [side.fits or "-"] * with_fits
        cells += _training_cells(side.training) if with_training else []
        rows.append(tuple(cells))
    return tuple(columns), rows


def _asked_text(sides: Sequence[Side], side: Side, name: str) -> str:
    value = getattr(side, name)
    if name == "memory_limit_bytes":
        return "any" if value is None else size(value)
    if name == "libraries":
        same = set.intersection(*(set(each.libraries) for each in sides))
        return ", ".join(
            f"{library} {version}" for library, version in side.libraries if (library, version) not in same
        )
    if name == "compiled":
        return "yes" if value else "no"
    return str(value)[:8] if name == "sha256" else str(value)


def _training_cells(told: Training | None) -> list[str]:
    if told is None:
        return ["-"] * 5
    mark = "*" if told.energy_source is EnergySource.STATED else ""
    energy = "-" if told.energy_j is None else f"{_energy_text(told.energy_j)}{mark}"
    cost = "-" if told.cost is None else f"{_amount_text(told.cost)} {told.currency}".rstrip()
    return [long_duration(told.time_s), long_duration(told.low_s), long_duration(told.high_s), energy, cost]


def _energy_text(joules: float) -> str:
    for factor, unit in ((3.6e6, "kWh"), (3.6e3, "Wh")):
        if joules >= factor:
            return f"{joules / factor:.3g} {unit}" if joules < 1000 * factor else f"{joules / factor:.0f} {unit}"
    return f"{joules:.3g} J"


def _amount_text(amount: float) -> str:
    return f"{amount:.2f}" if amount >= 0.1 or amount == 0 else f"{amount:.2g}"


def legend_lines(sides: Sequence[Side]) -> Iterator[str]:
    """What the columns mean, for those that need it."""
    process = [side.process_bytes is not None for side in sides]
    held = "of the process that trains" if all(process) else "of the step" if not any(process) else ""
    yield "speed: samples per second, to those of the first line"
    yield f"memory: {held or 'of the process where it says whether that fits, else of the step'}"
    if any(side.training and side.training.energy_source is EnergySource.STATED for side in sides):
        yield "* energy by the power that the file of prices states; else by the power measured while layers ran"
    elif any(side.training and side.training.energy_source for side in sides):
        yield "energy: by the power measured while layers ran"
