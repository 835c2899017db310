"""Estimates as a document, as lines of CSV, and what is said of them in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from latte_cli import __version__
from latte_cli.estimator import CompiledStep, Estimate, LayerTime, RealSteps
from latte_cli.estimator.mixtures import MixedStep
from latte_cli.estimator.searches import SearchCost
from latte_cli.lookup import Source
from latte_cli.report import Cell, checkpoints, duration, long_duration, memories, percent, size
from latte_cli.report.layers import layer_figures, module_paths
from latte_cli.schedule import Schedule
from latte_cli.thresholds import ESTIMATES

NO_SCHEDULE = Schedule()

COLUMNS = (
    *("device", "strategy", "precision", "layout", "threads", "name", "kind", "phase", "algorithm"),
    *("time_s", "low_s", "high_s", "low_80_s", "high_80_s", "workspace_bytes", "source", "confidence"),
    "memory_limit_bytes",
)
"""The columns of an estimate's CSV."""


def left_out_line(estimates: Sequence[Estimate]) -> list[str]:
    """A line that names what some of the estimates of a step leave out; none where nothing is."""
    names = dict.fromkeys(name for each in estimates for name in each.missing)
    return [f"left out: {', '.join(names)}"] if names else []


def estimates_document(estimates: Sequence[Estimate], schedule: Schedule = NO_SCHEDULE) -> dict[str, Any]:
    """Estimates as the document `latte.estimate/1`."""
    network = estimates[0].network
    return {
        "schema": ESTIMATES,
        "version": __version__,
        "model": {
            "name": network.name,
            "sha256": network.sha256,
            "batch_size": network.batch_size,
            "parameters": network.parameters,
            "trained_parameters": network.trained_parameters,
        },
        "estimates": [_entry(estimate, schedule) for estimate in estimates],
    }


def _entry(estimate: Estimate, schedule: Schedule) -> dict[str, Any]:
    return _shared_entry(estimate, schedule) | _beside(estimate)


def _beside(estimate: Estimate) -> dict[str, Any]:
    """What only some strategies have: the cost of their search, and that of results that repeat."""
    found: dict[str, Any] = {}
    if estimate.search:
        found["search"] = search_entry(estimate.search)
    if estimate.compiled:
        told = estimate.compiled
        found["compiled"] = {
            "eager_step_s": told.eager_s,
            "source": told.source,
            "batches": list(told.batches),
            "networks": told.networks,
        }
    if estimate.real_steps:
        real = estimate.real_steps
        found["real_steps"] = {
            "forward": real.forward,
            "backward": real.backward,
            "update": real.update,
            "spread": real.spread,
        }
    if estimate.determinism:
        cost_s = estimate.determinism.step_s - estimate.step_s
        found["determinism"] = asdict(estimate.determinism) | {"cost_s": cost_s}
    return found


_COMPILED = {
    Source.MEASURED: "both were run whole at this batch",
    Source.INTERPOLATED: "its passes were run compiled at batch {batches}",
    Source.PREDICTED: "learned from {networks} other networks that were run compiled",
}


def compiled_line(told: CompiledStep, step_s: float) -> str:
    """What compiling changes, and how that is known."""
    more = step_s / told.eager_s - 1 if told.eager_s else 0.0
    how = _COMPILED[told.source].format(batches=", ".join(map(str, told.batches)), networks=told.networks)
    change = (
        f"{percent(abs(more))} {'longer' if more > 0 else 'shorter'} than the eager step ({duration(told.eager_s)})"
    )
    return f"compiled: {change}; {how}; layers are scaled to it"


def real_steps_line(real: RealSteps) -> str:
    """To what the layers were scaled, and by how much."""
    factors = f"forward by {real.forward:.2f}, backward by {real.backward:.2f}, update by {real.update:.2f}"
    return f"this model was run whole there: its layers are scaled to its steps ({factors})"


def search_entry(search: SearchCost) -> dict[str, float | int | None]:
    """What searching costs, as part of a document: seconds and bytes."""
    return {
        "time_s": search.time_s,
        "workspace_bytes": search.workspace_bytes,
        "shapes": search.shapes,
        "runs": search.runs,
        "unknown": search.unknown,
    }


def search_line(search: SearchCost) -> str:
    """What searching costs beyond the steps, for people."""
    unknown = f"; not known of {search.unknown} others" if search.unknown else ""
    held = "not known" if search.workspace_bytes is None else size(search.workspace_bytes)
    return (
        f"{duration(search.time_s)} more to search {search.shapes} shapes in {search.runs} runs, "
        f"workspace {held}{unknown}"
    )


def beside_lines(estimate: Estimate) -> Iterator[str]:
    """What only some estimates have, for people: what compiling changes, and what searching and repeating cost."""
    if estimate.compiled:
        yield compiled_line(estimate.compiled, estimate.step_s)
    if estimate.real_steps:
        yield real_steps_line(estimate.real_steps)
    if estimate.search:
        yield f"first step: {search_line(estimate.search)}"
    if again := estimate.determinism:
        cost_s = again.step_s - estimate.step_s
        share = percent(cost_s / estimate.step_s if estimate.step_s else 0.0)
        yield f"determinism costs {duration(cost_s)} a step ({share}), {again.calls} calls run otherwise"


def _shared_entry(estimate: Estimate, schedule: Schedule) -> dict[str, Any]:
    settings, paths = estimate.settings, module_paths(estimate.network)
    return {
        "device": estimate.device.slug,
        "strategy": estimate.strategy,
        "estimator": estimate.estimator,
        "limits": {
            "workspace_bytes": estimate.limits.workspace_bytes,
            "memory_bytes": estimate.limits.memory_bytes,
        },
        "settings": {
            "precision": settings.precision,
            "layout": settings.layout,
            "threads": settings.threads,
            "optimizer": estimate.optimizer,
            "loss": estimate.step.loss,
            "accumulate": estimate.step.accumulate,
            "cuda_graph": estimate.step.cuda_graph,
            "clip_norm": estimate.step.rest.clip_norm,
            "ema": estimate.step.rest.ema,
            "grad_scaler": estimate.step.rest.grad_scaler,
            "zero_grad": estimate.step.rest.zero_grad,
            "log_every": estimate.step.rest.log_every,
            "library_versions": dict(settings.library_versions),
        },
        "totals": {
            "forward_s": estimate.forward_s,
            "backward_s": estimate.backward_s,
            "update_s": estimate.update_s,
            "other_s": estimate.other_s,
            "step_s": estimate.step_s,
            "step_low_s": estimate.step_low_s,
            "step_high_s": estimate.step_high_s,
            "step_low_80_s": estimate.step_low_80_s,
            "step_high_80_s": estimate.step_high_80_s,
            **schedule_times(estimate, schedule),
            "memory_bytes": None if estimate.compiled else estimate.memory_bytes,
            "energy_j": estimate.energy_j,
            "transfer_s": estimate.transfer_s,
        },
        "memory": None if estimate.compiled else memories.entry(estimate.memory),
        "checkpoints": checkpoints.checkpoint_entries(estimate),
        "layers": [
            _layer(part) | {"count": part.count} | layer_figures(part.layer, (part.phase,), paths.get(part.name))
            for part in estimate.parts
        ],
        "missing": list(estimate.missing),
        "warnings": [{"code": warn.code, "message": warn.message} for warn in estimate.warnings],
    }


def schedule_times(estimate: Estimate | MixedStep, schedule: Schedule) -> dict[str, float | int | None]:
    """The times that the schedule asks for; null for those that it says nothing of."""
    batch, parameters = estimate.samples_per_step, estimate.network.parameters
    epoch = schedule.epoch_steps(batch)
    low, middle, high = (
        schedule.round_s(step_s, batch, parameters)
        for step_s in (estimate.step_low_s, estimate.step_s, estimate.step_high_s)
    )
    return {
        "paced_step_s": schedule.paced_s(estimate.step_s, batch),
        "epoch_s": epoch * schedule.paced_s(estimate.step_s, batch) if epoch else None,
        "steps": schedule.steps(batch),
        "moving_s": schedule.moving_s(parameters),
        "round_s": middle,
        "round_low_s": low,
        "round_high_s": high,
    }


def schedule_lines(estimate: Estimate | MixedStep, schedule: Schedule) -> dict[str, str]:
    """What the schedule asks for, by name, for people."""
    found = schedule_times(estimate, schedule)
    lines = {}
    if schedule.loading_per_s and (paced_s := found["paced_step_s"]):
        loaded = duration(estimate.samples_per_step / schedule.loading_per_s)
        if paced_s > estimate.step_s:
            lines["step, waiting for data"] = duration(paced_s)
        else:
            lines["loading the samples of a step"] = f"{loaded}, while the step runs, which takes longer"
    if epoch_s := found["epoch_s"]:
        lines[f"epoch of {schedule.samples:,} samples"] = long_duration(epoch_s)
    low, middle, high = found["round_low_s"], found["round_s"], found["round_high_s"]
    if low and middle and high and (schedule.epochs > 1 or schedule.local_steps or found["moving_s"]):
        moved = f", {long_duration(found['moving_s'])} of it moving parameters" if found["moving_s"] else ""
        interval = f"95 % between {long_duration(low)} and {long_duration(high)}"
        lines[f"{found['steps']:,} steps"] = f"{long_duration(middle)}, {interval}{moved}"
    return lines


def _layer(part: LayerTime) -> dict[str, Cell]:
    return {
        "name": part.name,
        "kind": part.layer.kind,
        "phase": part.stage,
        "algorithm": part.algorithm.name,
        "layout": part.layout,
        "time_s": part.device_s,
        "low_s": part.low_s,
        "high_s": part.high_s,
        "low_80_s": part.low_80_s,
        "high_80_s": part.high_80_s,
        "workspace_bytes": part.workspace_bytes,
        "source": part.source,
        "confidence": part.confidence,
    }


def call_lines(estimates: Sequence[Estimate]) -> Iterator[tuple[Cell, ...]]:
    """A line of the CSV for each call."""
    for estimate in estimates:
        settings = estimate.settings
        shared: dict[str, Cell] = {
            "device": estimate.device.slug,
            "strategy": estimate.strategy,
            "precision": settings.precision,
            "threads": settings.threads,
            "memory_limit_bytes": estimate.limits.memory_bytes,
        }
        for part in estimate.parts:
            values = shared | _layer(part)
            yield tuple(values[column] for column in COLUMNS)
