"""Estimates as a table, JSON or CSV."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from string import ascii_uppercase
from typing import Any, TextIO

from latte_cli import __version__
from latte_cli.estimator import BESIDE, CompiledStep, Estimate, LayerTime
from latte_cli.estimator.mixtures import MixedStep
from latte_cli.estimator.searches import SearchCost
from latte_cli.layers import Phase
from latte_cli.lookup import Source
from latte_cli.report import (
    Cell,
    Format,
    Table,
    checkpoints,
    duration,
    memories,
    percent,
    shorten,
    size,
    write_csv,
    write_json,
    write_table,
)
from latte_cli.schedule import Schedule
from latte_cli.thresholds import ESTIMATES

NO_SCHEDULE = Schedule()

_FLAGS = {Source.MEASURED: "", Source.INTERPOLATED: "~", Source.PREDICTED: "*", Source.DATA_SHEET: "^"}
_LEGEND = {
    Source.INTERPOLATED: "~ interpolated",
    Source.PREDICTED: "* predicted",
    Source.DATA_SHEET: "^ from its data sheet",
}
_COLUMNS = (
    *("device", "strategy", "precision", "layout", "threads", "name", "kind", "phase", "algorithm"),
    *("time_s", "low_s", "high_s", "low_80_s", "high_80_s", "workspace_bytes", "source", "confidence"),
    "memory_limit_bytes",
)
_MOST_COLUMNS = 4  # chosen: more do not fit a terminal side by side


def write_estimates(
    estimates: Sequence[Estimate],
    form: Format,
    *,
    schedule: Schedule = NO_SCHEDULE,
    out: TextIO | None = None,
) -> None:
    """Write estimates of one network; the `schedule` adds the times of an epoch and of all steps."""
    if form is Format.JSON:
        write_json(estimates_document(estimates, schedule), out)
    elif form is Format.CSV:
        write_csv(_COLUMNS, list(_lines(estimates)), out)
    elif len(estimates) == 1:
        write_table(_single(estimates[0], schedule), out)
    elif len(estimates) <= _MOST_COLUMNS:
        write_table(_side_by_side(estimates, schedule), out)
    else:
        write_table(_summary(estimates, schedule), out)


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
    if estimate.determinism:
        cost_s = estimate.determinism.step_s - estimate.step_s
        found["determinism"] = asdict(estimate.determinism) | {"cost_s": cost_s}
    return found


_COMPILED = {
    Source.MEASURED: "its passes were run compiled at this batch",
    Source.INTERPOLATED: "its passes were run compiled at batch {batches}",
    Source.PREDICTED: "learned from {networks} other networks that were run compiled",
}


def _compiled_line(told: CompiledStep, step_s: float) -> str:
    """What compiling changes, and how that is known."""
    more = step_s / told.eager_s - 1 if told.eager_s else 0.0
    how = _COMPILED[told.source].format(batches=", ".join(map(str, told.batches)), networks=told.networks)
    change = (
        f"{percent(abs(more))} {'longer' if more > 0 else 'shorter'} than the eager step ({duration(told.eager_s)})"
    )
    return f"compiled: {change}; {how}; layers are scaled to it"


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


def _beside_lines(estimate: Estimate) -> Iterator[str]:
    if estimate.compiled:
        yield _compiled_line(estimate.compiled, estimate.step_s)
    if estimate.search:
        yield f"first step: {search_line(estimate.search)}"
    if again := estimate.determinism:
        cost_s = again.step_s - estimate.step_s
        share = percent(cost_s / estimate.step_s if estimate.step_s else 0.0)
        yield f"determinism costs {duration(cost_s)} a step ({share}), {again.calls} calls run otherwise"


def _shared_entry(estimate: Estimate, schedule: Schedule) -> dict[str, Any]:
    settings = estimate.settings
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
        "layers": [_layer(part) | {"count": part.count} for part in estimate.parts],
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
            lines["loading the samples of a step"] = f"{loaded}, beside the step, which is the slower"
    if epoch_s := found["epoch_s"]:
        lines[f"epoch of {schedule.samples} samples"] = duration(epoch_s)
    low, middle, high = found["round_low_s"], found["round_s"], found["round_high_s"]
    if low and middle and high and (schedule.epochs > 1 or schedule.local_steps or found["moving_s"]):
        moved = f", {duration(found['moving_s'])} of it moving parameters" if found["moving_s"] else ""
        interval = f"95 % between {duration(low)} and {duration(high)}"
        lines[f"{found['steps']} steps"] = f"{duration(middle)}, {interval}{moved}"
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


def _lines(estimates: Sequence[Estimate]) -> Iterator[tuple[Cell, ...]]:
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
            yield tuple(values[column] for column in _COLUMNS)


def _single(estimate: Estimate, schedule: Schedule) -> Table:
    return Table(
        title=(
            f"{estimate.network.name}, batch {estimate.network.batch_size}: {estimate.strategy}",
            f"on {_on(estimate)}",
        ),
        columns=("layer", ">forward", ">backward", "algorithm"),
        rows=[_row(name, parts) for name, parts in _by_name(estimate).items()],
        footer=[*_legend(estimate.parts), *_totals(estimate, schedule)],
    )


def _on(estimate: Estimate) -> str:
    settings = estimate.settings
    threads = f", {settings.threads} thread{'s' * (settings.threads > 1)}" if settings.threads else ""
    return f"{estimate.device.slug}, {settings.precision} {settings.layout}{threads}"


def _by_name(estimate: Estimate) -> Mapping[str, Sequence[LayerTime]]:
    rows: dict[str, list[LayerTime]] = {}
    for part in estimate.parts:
        rows.setdefault(part.name, []).append(part)
    return rows


def _row(name: str, parts: Sequence[LayerTime]) -> tuple[str, ...]:
    forward = [part for part in parts if part.stage == Phase.FORWARD]
    others = [part for part in parts if part.stage != Phase.FORWARD]
    names = [part.algorithm.name for part in parts]
    algorithms = names[:1] if len(set(names)) == 1 else names
    return shorten(name), _time(forward), _time(others), " ".join(algorithms)


def _time(parts: Sequence[LayerTime]) -> str:
    """The sum of the parts, with the flag of the least certain of them."""
    if not parts:
        return "-"
    worst = max((part.source for part in parts), key=list(Source).index)
    return duration(sum(part.count * part.device_s for part in parts)) + _FLAGS[worst]


def _legend(parts: Sequence[LayerTime]) -> Iterator[str]:
    used = {part.source for part in parts}
    if text := "  ".join(text for source, text in _LEGEND.items() if source in used):
        yield text


def _totals(estimate: Estimate, schedule: Schedule) -> Iterator[str]:
    low, high = duration(estimate.step_low_s), duration(estimate.step_high_s)
    titles = ("forward", "backward", "loss", "update")
    split = (estimate.forward_s, estimate.backward_s, estimate.other_s, estimate.update_s)
    yield "  ".join(f"{title} {duration(seconds)}" for title, seconds in zip(titles, split, strict=True))
    yield f"step {duration(estimate.step_s)}, 95 % of steps between {low} and {high}"
    for title, text in schedule_lines(estimate, schedule).items():
        yield f"{title} {text}"
    buckets = " with gradient buckets" if estimate.step.replicated else ""
    held = "not known" if estimate.compiled else f"{size(estimate.memory_bytes)}{buckets}"
    yield f"memory {held}; {_shares(estimate)}"
    yield from checkpoints.checkpoint_lines(estimate)
    if estimate.transfer_s:
        yield f"copying a batch to the GPU {duration(estimate.transfer_s)}, beside the step"
    if estimate.energy_j:
        yield f"energy {estimate.energy_j:.3g} J"
    yield from _beside_lines(estimate)
    yield from left_out_line([estimate])


def _shares(estimate: Estimate) -> str:
    total = sum(part.count * part.device_s for part in estimate.parts) or 1.0
    shares = {
        source: sum(part.count * part.device_s for part in estimate.parts if part.source is source) for source in Source
    }
    return ", ".join(f"{percent(share / total)} {source}" for source, share in shares.items() if share)


def _side_by_side(estimates: Sequence[Estimate], schedule: Schedule) -> Table:
    """A column for each estimate, a line for each layer and total; letters name what sets them apart."""
    layers = [_by_name(estimate) for estimate in estimates]
    names = dict.fromkeys(name for found in layers for name in found if name not in BESIDE)
    rows = [(shorten(name), *(_time(found.get(name, ())) for found in layers)) for name in names]
    totals = [_total_cells(estimate, schedule) for estimate in estimates]
    rows += [("", *("" for _ in estimates)), *((title, *(cells[title] for cells in totals)) for title in totals[0])]
    letters = ascii_uppercase[: len(estimates)]
    parts = [part for estimate in estimates for part in estimate.parts]
    return Table(
        title=_title(estimates),
        columns=("layer", *(f">{letter}" for letter in letters)),
        rows=rows,
        footer=[
            *_legend(parts),
            *(f"{letter}: {_what(estimate, estimates)}" for letter, estimate in zip(letters, estimates, strict=True)),
        ],
    )


def _title(estimates: Sequence[Estimate]) -> str:
    network, strategies = estimates[0].network, {estimate.strategy for estimate in estimates}
    which = estimates[0].strategy if len(strategies) == 1 else f"{len(strategies)} strategies"
    return f"{network.name}, batch {network.batch_size}: {which}"


def _what(estimate: Estimate, among: Sequence[Estimate]) -> str:
    """What sets an estimate apart from the others."""
    words = []
    if len({one.strategy for one in among}) > 1:
        words.append(estimate.strategy)
    if len({one.limits for one in among}) > 1:
        words.append(_limit_line(estimate))
    if len({_on(one) for one in among}) > 1 or not words:
        words.append(_on(estimate))
    return ", ".join(words)


def _limit_line(estimate: Estimate) -> str:
    limit = estimate.limits.memory_bytes
    return "any memory" if limit is None else f"at most {size(limit)}"


def _summary(estimates: Sequence[Estimate], schedule: Schedule) -> Table:
    """A line for each estimate, where they are too many for a column each."""
    totals = [_total_cells(estimate, schedule) for estimate in estimates]
    shown = [title for title in totals[0] if title not in ("loss", "step, least (95 %)", "step, most (95 %)")]
    fastest = min(estimate.step_s for estimate in estimates)
    rows = [
        (_what(estimate, estimates), *(cells[title] for title in shown), f"{estimate.step_s / fastest:.2f}")
        for estimate, cells in zip(estimates, totals, strict=True)
    ]
    same = [_on(estimates[0])] if len({_on(one) for one in estimates}) == 1 else []
    return Table(
        title=_title(estimates),
        columns=("under", *(f">{title}" for title in shown), ">ratio"),
        rows=rows,
        footer=["ratio: of the step to the fastest one", *same],
    )


def _total_cells(estimate: Estimate, schedule: Schedule) -> dict[str, str]:
    cells = {
        "forward": duration(estimate.forward_s),
        "backward": duration(estimate.backward_s),
        "loss": duration(estimate.other_s),
        "update": duration(estimate.update_s),
        "step": duration(estimate.step_s),
        "step, least (95 %)": duration(estimate.step_low_s),
        "step, most (95 %)": duration(estimate.step_high_s),
        "memory": "not known" if estimate.compiled else size(estimate.memory_bytes),
    }
    found = schedule_times(estimate, schedule)
    if schedule.loading_per_s:
        cells["step with loading"] = duration(found["paced_step_s"])
    for title, seconds in ((f"epoch of {schedule.samples}", found["epoch_s"]), ("round", found["round_s"])):
        if seconds:
            cells[title] = duration(seconds)
    return cells
