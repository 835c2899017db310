"""A report as one HTML page that opens from disk: devices, a network and a plan, without anything from elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pkgutil import get_data
from statistics import geometric_mean
from typing import Any

from latte_cli import __version__
from latte_cli.allocator import PlanFile
from latte_cli.estimator import BESIDE, Estimate, doubts_of
from latte_cli.printable import printable
from latte_cli.report import count, duration, duration_at_most, percent, pictures, size
from latte_cli.report.estimates import left_out_line
from latte_cli.summaries import CHANNELS, SIZES, DeviceSummary, typical_spread


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
class Section:
    """A part of the page: facts as pairs, notes as sentences, pictures, tables."""

    title: str
    anchor: str
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Rows] = ()
    parts: Sequence["Section"] = field(default=())


def page(title: str, sections: Sequence[Section]) -> str:
    """The sections as HTML."""
    return str(_template().render(title=title, sections=sections, version=__version__))


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, finalize=_show, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((get_data(__name__, "page.html.j2") or b"").decode())


def _show(value: Any) -> Any:
    """What the template writes of a value: text made printable, save for what is HTML already."""
    return printable(value) if type(value) is str else value


def all_pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    """Every picture of the sections, in their order."""
    for section in sections:
        yield from section.pictures
        yield from all_pictures(section.parts)


def _text(shown: str) -> SortedCell:
    return SortedCell(shown=shown, value=shown)


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
        ("libraries", " ".join(f"{name} {version}" for name, version in device.libraries)),
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
            _text(cell.kernel),
            _text(cell.phase.replace("_", " ")),
            SortedCell(shown=_end(CHANNELS, cell.channels), value=CHANNELS[cell.channels]),
            SortedCell(shown=_end(SIZES, cell.size), value=SIZES[cell.size]),
            SortedCell(shown=str(cell.layers), value=cell.layers),
            _text(cell.algorithm.name),
            SortedCell(shown=percent(cell.share), value=cell.share),
            SortedCell(shown=f"{cell.gain:.2f}" if cell.gain else "-", value=cell.gain or 0.0),
        ]
        for cell in sorted(found.cells, key=lambda cell: (cell.kernel, cell.phase, cell.channels, cell.size))
    ]
    return Rows(caption="Which algorithm wins where", columns=columns, rows=rows, folded=True)


def _end(ends: Sequence[int], at: int) -> str:
    return f"{ends[at]} and more" if at == len(ends) - 1 else str(ends[at])


# A network


def network_section(estimates: Sequence[Estimate], at: int) -> Section:
    """A network on one device: strategies side by side, and the layers of the first."""
    first = estimates[0]
    network, settings = first.network, first.settings
    threads = f", {settings.threads} threads" if settings.threads else ""
    facts = [
        ("batch size", str(network.batch_size)),
        ("parameters", f"{network.parameters:,}"),
        ("settings", f"{settings.precision} {settings.layout}{threads}, {first.optimizer}"),
        (
            "step",
            f"{duration(first.step_s)}, 95 % between {duration(first.step_low_s)} and {duration(first.step_high_s)}",
        ),
        ("forward", duration(first.forward_s)),
        ("backward", duration(first.backward_s)),
        ("memory", size(first.memory_bytes)),
    ]
    name = f"network{at}"
    steps = ", ".join(f"{each.strategy} {duration(each.step_s)}" for each in estimates)
    shown = [
        Picture(
            name=f"{name}-strategies",
            title="A step under each strategy",
            description=f"A bar for each strategy, stacked by forward, backward, loss and update: {steps}.",
            figure=pictures.strategies_figure(estimates),
        ),
        Picture(
            name=f"{name}-layers",
            title=f"Where the time goes ({first.strategy})",
            description="The layers that take most, in the order of the network, forward and backward stacked. The "
            "table below has all of them.",
            figure=pictures.layers_figure(first),
        ),
        Picture(
            name=f"{name}-memory",
            title="What the step holds in memory",
            description=f"Memory call by call; the peak is {size(first.memory_bytes)}.",
            figure=pictures.memory_figure(first),
        ),
    ]
    return Section(
        title=f"{network.name} on {first.device.slug}",
        anchor=name,
        facts=facts,
        notes=[*doubts_of(first, estimates[1:]), *left_out_line(estimates)],
        pictures=shown,
        tables=[_strategies_table(estimates), _layers_table(first)],
    )


def _strategies_table(estimates: Sequence[Estimate]) -> Rows:
    titles = ("forward", "backward", "update", "step", "memory")
    columns = [Column(title="strategy"), *(Column(title=title, number=True) for title in titles)]
    rows = [
        [
            _text(each.strategy),
            *(
                SortedCell(shown=duration(seconds), value=seconds)
                for seconds in (each.forward_s, each.backward_s, each.update_s, each.step_s)
            ),
            SortedCell(shown=size(each.memory_bytes), value=each.memory_bytes),
        ]
        for each in estimates
    ]
    return Rows(caption="Strategies", columns=columns, rows=rows)


def _layers_table(estimate: Estimate) -> Rows:
    columns = [
        Column(title="layer"),
        Column(title="time", number=True),
        *(Column(title=title) for title in ("phase", "algorithm")),
        *(Column(title=title, number=True) for title in ("of the step", "workspace")),
        *(Column(title=title) for title in ("kind", "known from")),
    ]
    total_s = sum(part.count * part.device_s for part in estimate.parts) or 1.0
    rows = []
    for part in estimate.parts:
        spent_s = part.count * part.device_s
        if not spent_s and part.name not in BESIDE:
            continue
        rows.append(
            [
                _text(part.name),
                SortedCell(shown=duration(spent_s), value=spent_s),
                _text(part.stage.replace("_", " ")),
                _text(part.algorithm.name),
                SortedCell(shown=percent(spent_s / total_s), value=spent_s / total_s),
                SortedCell(shown=size(part.workspace_bytes), value=part.workspace_bytes or 0),
                _text(part.layer.kind),
                _text(part.source),
            ]
        )
    return Rows(caption=f"Calls of a step ({estimate.strategy})", columns=columns, rows=rows)


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
            _text(each.fleet_class.name),
            _text(each.device),
            SortedCell(shown=str(each.fleet_class.count), value=each.fleet_class.count),
            _text(each.sub_model.id if each.sub_model else "none"),
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
