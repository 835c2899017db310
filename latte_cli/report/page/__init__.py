"""A report as one HTML page that opens from disk: devices, a network and a plan, without anything from elsewhere."""

from collections.abc import Iterator, Sequence
from functools import cache
from math import sqrt
from pkgutil import get_data
from statistics import geometric_mean
from typing import Any

from latte_cli import __version__
from latte_cli.allocator import PlanFile
from latte_cli.printable import printable
from latte_cli.report import count, duration, duration_at_most, percent, pictures, size
from latte_cli.report.page.networks import network_section
from latte_cli.report.page.parts import Column, Picture, Rows, Section, SortedCell, text_cell
from latte_cli.summaries import CHANNELS, SIZES, DeviceSummary, typical_spread

__all__ = [
    "Column",
    "Picture",
    "Rows",
    "Section",
    "SortedCell",
    "all_pictures",
    "device_section",
    "network_section",
    "page",
    "plan_section",
]


def page(title: str, sections: Sequence[Section]) -> str:
    """The sections as HTML."""
    return str(_template().render(title=title, sections=sections, version=__version__))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, finalize=_show, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(duration=duration, percent=percent, width=_width, tint=_tint)
    return environment.from_string((get_data(__name__, "page.html.j2") or b"").decode())


def _width(share: float) -> str:
    """A share as a number that CSS takes."""
    return f"{share:.6f}"


def _tint(share: float) -> int:
    """How much of the accent's colour a box has, in per cent: the more the longer it takes; text stays readable."""
    return round(6 + 34 * sqrt(min(1.0, share)))


def _show(value: Any) -> Any:
    """What the template writes of a value: text made printable, save for what is HTML already."""
    return printable(value) if type(value) is str else value


def all_pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    """Every picture of the sections, in their order."""
    for section in sections:
        yield from section.pictures
        yield from all_pictures(section.parts)


# Devices


def device_section(found: Sequence[DeviceSummary], at: int) -> Section:
    """What the rows of one device show: a part for each precision, layout and number of threads."""
    device = found[0].device
    facts = [
        ("kind", device.kind.name),
        ("name", device.name),
        ("memory", size(device.memory_bytes)),
        ("bandwidth", f"{count(device.bandwidth_bytes_per_s)}B/s"),
        ("fp32 arithmetic", f"{count(device.peak_flop_per_s)}FLOP/s"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in device.libraries)),
    ]
    parts = [_summary(each, f"device{at}-{number}") for number, each in enumerate(found)]
    return Section(title=f"Device {device.slug}", anchor=f"device{at}", facts=facts, parts=parts)


def _summary(found: DeviceSummary, name: str) -> Section:
    threads = f", {found.threads} threads" if found.threads else ""
    pictures_ = [
        Picture(
            name=f"{name}-winners",
            title="Which algorithm wins where",
            description="For each kernel and phase, the algorithm that is fastest most often, by channels and input "
            "size; the number is how many times as long the framework's own choice takes. The table has the same.",
            figure=pictures.winners_figure(found),
        ),
        Picture(
            name=f"{name}-roofline",
            title="Roofline",
            description="What the fastest algorithm of every convolution reaches, in GFLOP per second over FLOP per "
            "byte moved, and the device's measured bandwidth and arithmetic as a roof.",
            figure=pictures.roofline_figure(found),
        ),
    ]
    if found.gains:
        means = ", ".join(f"{geometric_mean(gains):.2f} for {phase.replace('_', ' ')}" for phase, gains in found.gains)
        pictures_.append(
            Picture(
                name=f"{name}-gains",
                title="What the framework's own choice loses",
                description="The framework's own time over the best, for all layers, largest first. Geometric mean: "
                f"{means}.",
                figure=pictures.gains_figure(found),
            )
        )
    notes = [
        f"{found.pairs} convolutions and phases. The upper end of a call's 95 % interval typically lies "
        f"{percent(typical_spread(found))} above its median."
    ]
    if found.above_roof:
        notes.append("Some calls lie above the roof: the device was slower when that was measured.")
    return Section(
        title=f"{found.precision} {found.layout}{threads}",
        anchor=name,
        notes=notes,
        pictures=pictures_,
        tables=[_winners_table(found)],
    )


def _winners_table(found: DeviceSummary) -> Rows:
    columns = [
        *(Column(title=title) for title in ("kernel", "phase")),
        *(Column(title=title, number=True) for title in ("channels up to", "size up to", "layers")),
        Column(title="fastest most often"),
        *(Column(title=title, number=True) for title in ("share of them", "own choice / best")),
    ]
    rows = [
        [
            text_cell(cell.kernel),
            text_cell(cell.phase.replace("_", " ")),
            SortedCell(shown=_end(CHANNELS, cell.channels), value=CHANNELS[cell.channels]),
            SortedCell(shown=_end(SIZES, cell.size), value=SIZES[cell.size]),
            SortedCell(shown=str(cell.layers), value=cell.layers),
            text_cell(cell.algorithm.name),
            SortedCell(shown=percent(cell.share), value=cell.share),
            SortedCell(shown=f"{cell.gain:.2f}" if cell.gain else "-", value=cell.gain or 0.0),
        ]
        for cell in sorted(found.cells, key=lambda cell: (cell.kernel, cell.phase, cell.channels, cell.size))
    ]
    return Rows(caption="Which algorithm wins where", columns=columns, rows=rows, folded=True)


def _end(ends: Sequence[int], at: int) -> str:
    return f"{ends[at]} and more" if at == len(ends) - 1 else str(ends[at])


# A plan


def plan_section(file: PlanFile) -> Section:
    """A plan: the round as a Gantt chart, and what each class trains."""
    plan = file.plan
    columns = [
        *(Column(title=title) for title in ("class", "device")),
        Column(title="devices", number=True),
        Column(title="sub-model"),
        *(Column(title=title, number=True) for title in ("parameters", "round", "95 % interval to", "memory")),
    ]
    rows = [
        [
            text_cell(each.fleet_class.name),
            text_cell(each.device),
            SortedCell(shown=str(each.fleet_class.count), value=each.fleet_class.count),
            text_cell(each.sub_model.id if each.sub_model else "none"),
            SortedCell(
                shown=f"{each.sub_model.parameters:,}" if each.sub_model else "-",
                value=each.sub_model.parameters if each.sub_model else 0,
            ),
            SortedCell(shown=duration(each.round_s), value=each.round_s or 0.0),
            SortedCell(shown=duration(each.high_s), value=each.high_s or 0.0),
            SortedCell(shown=size(each.memory_bytes if each.feasible else None), value=each.memory_bytes),
        ]
        for each in plan.devices
    ]
    picture = Picture(
        name="plan-round",
        title="A round",
        description="For each class of devices: receiving, training, sending and waiting, from the start of the round "
        f"to its end after {duration_at_most(plan.round_duration_s)}. The table below has the numbers.",
        figure=pictures.round_figure(plan, f"{file.model}: a round of {duration_at_most(plan.round_duration_s)}"),
    )
    return Section(
        title=f"Plan for {file.model}",
        anchor="plan",
        facts=[("round duration", duration_at_most(plan.round_duration_s)), ("objective", str(file.objective))],
        pictures=[picture],
        tables=[Rows(caption="Classes of devices", columns=columns, rows=rows)],
    )
