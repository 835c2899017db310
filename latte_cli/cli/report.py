"""`latte report`: devices, a network and a plan as one HTML page."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli import files
from latte_cli.cli import console
from latte_cli.cli.options import (
    MODEL_HELP,
    AllowUnknownOption,
    BatchAxisOption,
    BatchSizeOption,
    DeviceOption,
    EpochsOption,
    LayoutOption,
    OptimizerOption,
    PrecisionOption,
    PricesOption,
    SamplesOption,
    ShapeOption,
    StoreOption,
    ThreadsOption,
    names_among,
    parse_shapes,
)
from latte_cli.cli.ranking import prices_for
from latte_cli.cli.request import Request, from_options
from latte_cli.cli.stores import store_to_read
from latte_cli.errors import ExitCode, LatteError
from latte_cli.precisions import Precision
from latte_cli.schedule import Schedule

if TYPE_CHECKING:
    from latte_cli.estimator import Estimate
    from latte_cli.network import Network
    from latte_cli.prices import PriceList
    from latte_cli.report.page import Section
    from latte_cli.store import Store


@dataclass(frozen=True, kw_only=True)
class ReportRequest(Request):
    """What `latte report` is asked."""

    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page, as .html.")]
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=False)] = None
    device: DeviceOption = None
    plan: Annotated[Path | None, typer.Option(metavar="FILE", help="Also show this plan of `latte allocate -o`.")] = (
        None
    )
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Strategies to show side by side; only the first layer by layer. Repeatable. "
            "[default: latte, pytorch and exhaustive]",
        ),
    ] = None
    batch_size: BatchSizeOption = None
    batch_axis: BatchAxisOption = None
    shape: ShapeOption = None
    precision: PrecisionOption = Precision.FP32.value
    layout: LayoutOption = None
    threads: ThreadsOption = None
    optimizer: OptimizerOption = "sgd"
    allow_unknown: AllowUnknownOption = False
    samples: SamplesOption = None
    epochs: EpochsOption = 1
    prices: PricesOption = None
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write each figure as .png and .svg into this folder.")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False
    store: StoreOption = None

    @property
    def schedule(self) -> Schedule:
        """What a training is made of."""
        return Schedule(samples=self.samples, epochs=self.epochs)


@from_options
def report(request: ReportRequest) -> None:
    """Write devices, a network and a plan as one HTML page.

    The page needs nothing else. It shows a device's profile, a network's layers, or a plan. With --samples it ranks the
    devices by the time, energy and cost of a training.
    """
    from latte_cli.report.page import all_pictures, page

    output, model = request.output, request.model
    if output.suffix.lower() not in (".html", ".htm"):
        raise LatteError(f"`{output}` is not the name of a page", hint="it ends in .html", exit_code=ExitCode.USAGE)
    files.check_free(output, force=request.force)
    with console.progress("drawing", None):
        sections = list(_sections(request))
    title = "LATTE: " + (sections[0].title if len(sections) == 1 else f"{model.stem if model else 'a report'}")
    if request.figures:
        _write_figures(request.figures, [(each.name, each.figure) for each in all_pictures(sections)], request.force)
    with console.progress("writing", None):
        files.write_file(output, page(title, sections))
    console.note(f"wrote `{output}`: open it in a browser")


def _write_figures(folder: Path, found: list[tuple[str, object]], force: bool) -> None:
    from latte_cli.report import pictures

    files.make_folder(folder)
    paths = [(folder / f"{name}{suffix}", figure) for name, figure in found for suffix in (".png", ".svg")]
    for path, _ in paths:
        files.check_free(path, force=force)
    for path, figure in paths:
        pictures.save_figure(figure, path)
    console.note(f"wrote {len(paths)} files into `{folder}`")


def _sections(request: ReportRequest) -> "Iterator[Section]":
    """What there is to show: the network first, then the plan, then the devices."""
    from latte_cli.allocator import read_plan
    from latte_cli.network import load
    from latte_cli.profiles import resolve_profile, sheet_of
    from latte_cli.report.page import device_section, network_section, plan_section
    from latte_cli.summaries import device_summaries

    if request.samples and not request.model:
        raise LatteError("`--samples` means nothing without a model", hint="name one", exit_code=ExitCode.USAGE)
    prices = prices_for(request.prices, request.schedule)
    store = store_to_read(request.store)
    file = read_plan(request.plan) if request.plan else None
    names: list[str] | list[None] = names_among(request.device) or ([None] if request.model or not request.plan else [])
    slugs = [resolve_profile(store, name, request.threads) for name in names]
    if request.model:
        sizes = parse_shapes(request.shape)
        network = load(
            request.model,
            batch_size=request.batch_size,
            batch_axis=request.batch_axis,
            sizes=sizes,
            allow_unknown=request.allow_unknown,
        )
        found = [_estimates(store, slug, network, request) for slug in slugs]
        if request.samples:
            yield _ranking(request, [each[0] for each in found], prices)
        yield from (network_section([_with_advice(each) for each in its], at) for at, its in enumerate(found))
    if file:
        yield plan_section(file)
    for at, slug in enumerate(slugs):
        if (sheet_of(store, slug) is None) and (summaries := device_summaries(store, slug)):
            yield device_section(summaries, at)


def _ranking(request: ReportRequest, estimates: "Sequence[Estimate]", prices: "PriceList | None") -> "Section":
    """Devices ranked by the requested training, each with its first strategy."""
    from latte_cli.cli.ranking import fits_within, say_unpriced, sides_in_order
    from latte_cli.report.estimates import estimates_document
    from latte_cli.report.rankings import ranking_section

    body = estimates_document(estimates, request.schedule)
    fits = [fits_within(None, one) for one in estimates]
    sides = sides_in_order(body, fits, request.schedule, prices, file=str(request.model))
    say_unpriced(sides, prices)
    return ranking_section(sides)


def _estimates(store: "Store", slug: str, network: "Network", request: ReportRequest) -> "list[Estimate]":
    from latte_cli.estimator import estimate_each
    from latte_cli.profiles import device_of
    from latte_cli.strategies import usual

    names = request.strategy or list(dict.fromkeys(["latte", *usual(device_of(store, slug).kind), "exhaustive"]))
    return estimate_each(
        store,
        slug,
        network,
        strategies=names,
        precision=request.precision,
        layout=request.layout,
        threads=request.threads,
        optimizer=request.optimizer,
        allow_unknown=request.allow_unknown,
        note=console.note,
    )


def _with_advice(estimate: "Estimate") -> "Estimate":
    """The estimate with its diagnostics in the words of this command."""
    warnings = tuple(replace(each, message=console.advice(each.message)) for each in estimate.warnings)
    return replace(estimate, warnings=warnings)
