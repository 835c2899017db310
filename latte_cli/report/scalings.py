"""Steps of several GPUs, as table, JSON or CSV."""

from collections.abc import Sequence
from typing import Any, TextIO

from latte_cli.estimator import Estimate
from latte_cli.estimator.data_parallel import DDP, Message, ScaledStep
from latte_cli.report import Cell, Format, Table, duration, percent, size, write_csv, write_table

_TITLES = {DDP: "DistributedDataParallel"}
_COLUMNS = (
    *("device", "strategy", "mode", "gpus", "step_s", "efficiency", "samples_per_s"),
    *("communication_s", "exposed_s", "copies_s", "host_s", "memory_bytes"),
)


def scaling_entry(step: ScaledStep) -> dict[str, Any]:
    """A step of several GPUs as part of the document `latte.estimate/1`."""
    return {
        "mode": step.mode,
        "gpus": step.gpus,
        "step_s": step.step_s,
        "efficiency": step.efficiency,
        "samples_per_s": step.samples_per_s,
        "communication_s": step.communication_s,
        "exposed_s": step.exposed_s,
        "copies_s": step.copies_s,
        "host_s": step.host_s,
        "memory_bytes": step.memory_bytes,
        "buckets": [_message(message) for message in step.messages],
    }


def _message(message: Message) -> dict[str, Any]:
    return {
        "size_bytes": message.bucket.size_bytes,
        "parameters": list(message.bucket.parameters),
        "ready_s": message.ready_s,
        "start_s": message.start_s,
        "end_s": message.end_s,
    }


def write_scaling(
    estimates: Sequence[Estimate], scaled: Sequence[Sequence[ScaledStep]], form: Format, out: TextIO | None = None
) -> None:
    """Write the steps of several GPUs of each estimate."""
    for estimate, steps in zip(estimates, scaled, strict=True):
        if form is Format.CSV:
            write_csv(_COLUMNS, [_line(estimate, step) for step in steps], out)
        else:
            write_table(_table(estimate, steps), out)


def _line(estimate: Estimate, step: ScaledStep) -> tuple[Cell, ...]:
    values: dict[str, Cell] = scaling_entry(step) | {"device": estimate.device.slug, "strategy": estimate.strategy}
    return tuple(values[column] for column in _COLUMNS)


def _table(estimate: Estimate, steps: Sequence[ScaledStep]) -> Table:
    alone = estimate.samples_per_step / estimate.step_s if estimate.step_s else 0.0
    rows = [("1", duration(estimate.step_s), f"{alone:.4g}", percent(1.0), "-", "-")]
    rows += [
        (
            str(step.gpus),
            duration(step.step_s),
            f"{step.samples_per_s:.4g}",
            percent(step.efficiency),
            duration(step.communication_s),
            duration(step.exposed_s),
        )
        for step in steps
        if step.gpus > 1
    ]
    mode = steps[0].mode
    batch = estimate.network.batch_size
    title = f"{estimate.strategy}, {_TITLES.get(mode, 'DataParallel')}, batch {batch} on each {estimate.device.slug}"
    return Table(
        title=title,
        columns=(">GPUs", ">step", ">samples/s", ">efficiency", ">communication", ">exposed"),
        rows=rows,
        footer=_footer(steps[-1]),
    )


def _footer(step: ScaledStep) -> list[str]:
    lines = []
    if step.messages:
        sizes = [message.bucket.size_bytes for message in step.messages]
        held = f"memory of each GPU {size(step.memory_bytes)} with them"
        span = f"{size(min(sizes))} to {size(max(sizes))}"
        what = (
            f"{len(sizes)} buckets of gradients, {span}"
            if len(sizes) > 1
            else f"one bucket of gradients, {size(*sizes)}"
        )
        lines.append(f"{what}; {held}")
    if step.copies_s:
        lines.append(f"copying gradients into buckets and back {duration(step.copies_s)}")
    if step.host_s:
        lines.append(f"replicas of modules, {step.gpus} GPUs: {duration(step.host_s)} of Python")
    return lines
