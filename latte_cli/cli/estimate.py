"""`latte estimate`: how long a training step of a model takes on the devices of the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.gating import Form, Gate
from latte_cli.cli.options import (
    AllowUnknownOption,
    BatchAxisOption,
    BatchSizeOption,
    DeviceOption,
    ModelArgument,
    OptimizerOption,
    PrecisionOption,
    ShapeOption,
    StoreOption,
    ThreadsOption,
    WorkspaceLimitOption,
    parse_growth,
    parse_rate,
    parse_shapes,
    parse_size,
)
from latte_cli.gates import Limit, limit
from latte_cli.report import Format, size
from latte_cli.report.gates import Annotate
from latte_cli.schedule import Schedule
from latte_cli.tasks import Precision

if TYPE_CHECKING:
    from latte_cli.devices import Device
    from latte_cli.estimator import Estimate
    from latte_cli.store import Store
    from latte_cli.tasks import Task


def estimate(
    model: ModelArgument,
    device: DeviceOption = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Who chooses the algorithms: latte, pytorch, pytorch-benchmark, pytorch-legacy, tensorflow, xla, "
            "mindspore, mindspore-performance, onednn-default, exhaustive, deterministic or fixed:ALGORITHM; with "
            "knobs as in tensorflow:workspace-limit=1GiB. Repeatable, or several with commas between. [default: latte]",
        ),
    ] = None,
    estimator: Annotated[
        str, typer.Option(metavar="NAME", help="Where times come from: lookup, xgboost, roofline, beta or flops.")
    ] = "lookup",
    precision: PrecisionOption = Precision.FP32.value,
    layout: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="nchw, channels_last, or auto for the faster one. [default: the strategy's]"),
    ] = None,
    threads: ThreadsOption = None,
    workspace_limit: WorkspaceLimitOption = None,
    memory_limit: Annotated[
        list[int] | None,
        typer.Option(
            parser=parse_size,
            metavar="SIZE",
            help="Most memory of the step, as in 2GiB: each call's workspace must fit what is free then. Repeatable.",
        ),
    ] = None,
    measure_below: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Time the likeliest algorithms here and now where the selector is less sure than this."
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    batch_axis: BatchAxisOption = None,
    compare_weights: Annotated[
        bool, typer.Option("--compare-weights", help="Read weights that may be stored twice, to count them once.")
    ] = False,
    shape: ShapeOption = None,
    optimizer: OptimizerOption = "sgd",
    loss: Annotated[
        str, typer.Option(metavar="NAME", help="Of the last output: cross-entropy, mse or none.")
    ] = "cross-entropy",
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients one update takes together.")] = 1,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN", help="Parameters or layers that are not trained, as in 'layer1.*'. Repeatable."
        ),
    ] = None,
    restore_norms: Annotated[
        bool, typer.Option("--restore-norms", help="Put back the batch norms that an export for inference folded away.")
    ] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Show what the step holds in memory, call by call.")] = False,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples of an epoch, to print its time.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs over the samples.")] = 1,
    local_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a training or a round, instead of epochs.")
    ] = None,
    upload: Annotated[
        float | None,
        typer.Option(parser=parse_rate, metavar="RATE", help="Sends the parameters at, as in 20Mbit/s."),
    ] = None,
    download: Annotated[
        float | None,
        typer.Option(parser=parse_rate, metavar="RATE", help="Receives the parameters at, as in 100Mbit/s."),
    ] = None,
    loading_rate: Annotated[
        float | None, typer.Option(min=0.001, help="Samples per second that are loaded while a step computes.")
    ] = None,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="On a GPU: the whole step as one CUDA graph, launched at once.")
    ] = False,
    allow_unknown: AllowUnknownOption = False,
    fail_above: Annotated[
        list[Limit] | None,
        typer.Option(
            parser=limit,
            metavar="LIMIT",
            help="End with code 3 if a step takes longer, as in 50ms; or another quantity, as in backward=30ms or "
            "memory=2GiB. Repeatable.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compare with what an earlier run wrote as JSON, layer by layer."),
    ] = None,
    max_regression: Annotated[
        float | None,
        typer.Option(
            parser=parse_growth, metavar="SHARE", help="End with code 3 if a step is so much longer, as in 5%."
        ),
    ] = None,
    annotate: Annotated[
        Annotate | None,
        typer.Option(
            help="Say what was held to a limit for GitHub's runner, on stderr, or as JUnit's XML in place of the table."
        ),
    ] = None,
    form: Annotated[Form, typer.Option("--format", help="How to write the result.")] = Form.TABLE,
    store: StoreOption = None,
) -> None:
    """Estimate the training time of MODEL, layer by layer."""
    from latte_cli.estimator import Limits, check_names, compared
    from latte_cli.network import load
    from latte_cli.network.training import frozen, with_norms
    from latte_cli.profiles import profile
    from latte_cli.report import write_json
    from latte_cli.report.estimates import document, write_estimates
    from latte_cli.report.memories import write_memory
    from latte_cli.report.traces import trace
    from latte_cli.store import open_store

    gate = Gate.of(fail_above, baseline, max_regression, annotate, form)
    strategies = _strategies(strategy)
    for one in strategies:
        check_names(precision, layout, one, optimizer, loss, estimator)
    network = load(
        model,
        batch_size=batch_size,
        batch_axis=batch_axis,
        sizes=parse_shapes(shape),
        allow_unknown=allow_unknown,
        compare_weights=compare_weights,
    )
    for text in network.notes:
        console.note(text)
    network = frozen(with_norms(network) if restore_norms else network, freeze or ())
    opened = open_store(store)
    names: list[str] | list[None] = device or [None]
    memories: list[int] | list[None] = memory_limit or [None]
    slugs = [profile(opened, name, threads) for name in names]

    def estimates_of(slug: str) -> "list[Estimate]":
        return compared(
            opened,
            slug,
            network,
            strategies=strategies,
            limits=[Limits(workspace_bytes=workspace_limit, memory_bytes=most) for most in memories],
            precision=precision,
            layout=layout,
            threads=threads,
            estimator=estimator,
            optimizer=optimizer,
            loss=loss,
            accumulate=accumulate,
            cuda_graph=cuda_graph,
            allow_unknown=allow_unknown,
            note=console.note,
        )

    estimates = [found for slug in slugs for found in estimates_of(slug)]
    if measure_below is not None and _measured(opened, estimates, measure_below):
        estimates = [found for slug in slugs for found in estimates_of(slug)]
    _say_left_out(estimates, slugs, memories)
    schedule = Schedule(
        samples=samples,
        epochs=epochs,
        local_steps=local_steps,
        up_bit_per_s=upload,
        down_bit_per_s=download,
        loading_per_s=loading_rate,
    )
    body = document(estimates, schedule)
    held = gate.held(body)
    if form is Form.TRACE:
        write_json(trace(estimates))
    elif form is Form.JSON:
        write_json({**body, **held.as_json()})
    elif not gate.replaces_the_table:
        write_estimates(estimates, Format(form), schedule=schedule)
        if memory:
            write_memory(estimates, Format(form))
    _say_doubts(estimates)
    held.write(model.name, form)
    if form is Form.TABLE:
        console.note(f"next: `latte allocate {model} --fleet FILE --round-duration 10m`")
    held.enforce()


def _strategies(given: Sequence[str] | None) -> list[str]:
    """The strategies by name, each once."""
    names = [name.strip() for text in given or ("latte",) for name in text.split(",")]
    return list(dict.fromkeys(names))


def _say_left_out(
    estimates: "Sequence[Estimate]",
    slugs: Sequence[str],
    memories: Sequence[int] | Sequence[None],
) -> None:
    """Say which limits are below what the step needs."""
    found = {(each.device.slug, each.limits.memory_bytes) for each in estimates}
    for slug in slugs:
        if left := [most for most in memories if most is not None and (slug, most) not in found]:
            console.warn(f"the step does not fit {', '.join(map(size, left))} (`{slug}`): left out")


def _measured(store: "Store", estimates: "Sequence[Estimate]", below: float) -> bool:
    """Whether anything was measured in place of choices of low confidence."""
    from latte_cli.cli.measuring import measure_here
    from latte_cli.estimator import doubtful

    wanted: dict[Device, dict[Task, None]] = {}
    for each in estimates:
        wanted.setdefault(each.device, {}).update(dict.fromkeys(doubtful(store, each, below)))
    for device, tasks in wanted.items():
        if tasks:
            measure_here(store, device, tuple(tasks), f"measuring where less sure than {below:g}")
    return any(wanted.values())


def _say_doubts(estimates: Sequence["Estimate"]) -> None:
    said = [(warning.message, found.device.slug) for found in estimates for warning in found.warnings]
    for message, slug in dict.fromkeys(said):
        console.warn(f"{message} (`{slug}`)" if len(estimates) > 1 else message)
