"""Composition: the timings of a step's calls become its rows, its time with an interval, and its memory."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.devices import Device, Kind
from latte_cli.estimator.calibration import Calibration
from latte_cli.estimator.checkpoint_costs import CheckpointCosts
from latte_cli.estimator.clocks import one_clock, two_clocks
from latte_cli.estimator.intervals import intervals
from latte_cli.estimator.limits import own_workspaces
from latte_cli.estimator.memory import CallPosition, Memory
from latte_cli.estimator.records import Estimate, LayerTime
from latte_cli.estimator.steps import ACCUMULATION, CLIP, EMA, LOSS, SCALER, UPDATE, ZERO, Step, Work
from latte_cli.layers import Checkpoint, Phase
from latte_cli.lookup import Source, Timing
from latte_cli.network import Network
from latte_cli.precisions import Layout
from latte_cli.strategies import Selection
from latte_cli.tasks import Settings

NO_ALGORITHM = Algorithm(library="", name="none")
"""What computes a layer that costs nothing."""

Row: TypeAlias = tuple[LayerTime, Timing | None]
"""A call's row, and the timing that it was made from; None for a layer that costs nothing."""


_PLAIN = {
    LOSS: "the loss",
    ACCUMULATION: "adding gradients up",
    CLIP: "clipping the gradients' norm (`--clip-norm`)",
    EMA: "the moving average (`--ema`)",
    SCALER: "the gradient scaler (`--grad-scaler`)",
    ZERO: "filling gradients with zeros (`--zero-grad keep`)",
}
"""What a step does beside the network's nodes, in plain words."""


@dataclass(frozen=True, kw_only=True)
class StepCalls:
    """The calls of a step of `network`, whoever chooses their algorithms; `memory` is without their workspaces.

    `turned` are calls that run channels last although the model as a whole does not, with their timings in that layout;
    None where they were not measured in it. `views` are calls that move no data. `checkpoint_costs` price the calls of
    `torch.utils.checkpoint`; None where these were not measured, and are left out.
    """

    network: Network
    step: Step
    works: tuple[Work, ...]
    memory: Memory
    turned: Mapping[CallPosition, Timing | None] = field(default_factory=dict)
    views: Collection[CallPosition] = frozenset()
    checkpoint_costs: CheckpointCosts | None = None

    @property
    def costly(self) -> list[Work]:
        """The calls that take time and that a strategy chooses an algorithm for."""
        return [work for work in self.works if not self.is_free(work) and not isinstance(work.layer, Checkpoint)]

    def is_free(self, work: Work) -> bool:
        """Whether a call only sees data otherwise."""
        return work.layer.free or (work.name, work.phase) in self.views

    @property
    def unpriced_checkpoints(self) -> int:
        """How many regions' calls of `torch.utils.checkpoint` are left out."""
        if self.checkpoint_costs:
            return 0
        return sum(isinstance(work.layer, Checkpoint) and work.phase is Phase.FORWARD for work in self.works)


def compose_rows(
    calls: StepCalls, selections: Iterable[Selection], layout: Layout, calibration: Calibration
) -> tuple[list[Row], tuple[str, ...]]:
    """The row of each call, and the names of those without a timing; `selections` has one for each costly call."""
    if calls.step.cuda_graph:
        calibration = Calibration()  # a graph has no gaps between its calls
    selected = iter(selections)
    rows: list[Row] = []
    missing = []
    for work in calls.works:
        if isinstance(work.layer, Checkpoint):
            if calls.checkpoint_costs:
                timing = calls.checkpoint_costs.timing_of(work.layer, work.phase)
                rows.append((_row(work, timing, layout, Calibration(), None), timing))
            continue
        if calls.is_free(work):
            rows.append((_free_row(work, layout), None))
            continue
        selection, turned = next(selected), calls.turned.get((work.name, work.phase))
        if turned:
            rows.append((_row(work, turned, Layout.CHANNELS_LAST, calibration, None), turned))
        elif selection.timing:
            rows.append((_row(work, selection.timing, layout, calibration, selection.confidence), selection.timing))
        else:
            missing.append(missing_name(work))
    return rows, tuple(dict.fromkeys(missing))


def missing_name(work: Work) -> str:
    """What a call without a timing is called."""
    return f"{work.name} {work.phase} ({work.layer.kind})"


def plain_name(work: Work, step: Step) -> str:
    """What a call without a timing is called in a sentence."""
    if work.name == UPDATE:
        return f"the update of `--optimizer {step.optimizer}`"
    return _PLAIN.get(work.name, missing_name(work))


def compose_step(
    calls: StepCalls,
    rows: Sequence[Row],
    missing: tuple[str, ...],
    calibration: Calibration,
    *,
    device: Device,
    strategy: str,
    estimator: str,
    settings: Settings,
    transfer_s: float | None,
) -> Estimate:
    """The step of which `rows` are known and `missing` names the rest, on `device`; no limits, no warnings yet."""
    parts = tuple(part for part, _ in rows)
    step = calls.step
    if device.kind.queued:
        spans = two_clocks(parts, asked_at_once=step.cuda_graph, log_every=step.rest.log_every)
    else:
        spans = one_clock(parts)
    real, unsure = None if step.cuda_graph else calibration.real_steps, rows
    spread = hypot(calibration.spread, waiting_share(parts, spans.step_s, device.kind) * calibration.host_spread)
    if real and real.own:
        spread, unsure = real.spread, [row for row in rows if row[0].algorithm != FRAMEWORK_DEFAULT]
    elif real:
        spread = hypot(spread, real.spread)
    (low_s, high_s), (low_80_s, high_80_s) = intervals(rows, spans.step_s, spread, unsure)
    return Estimate(
        device=device,
        network=calls.network,
        strategy=strategy,
        settings=settings,
        step=calls.step,
        parts=parts,
        forward_s=spans.forward_s,
        backward_s=spans.backward_s,
        update_s=spans.update_s,
        other_s=spans.other_s,
        step_low_s=low_s,
        step_high_s=high_s,
        step_low_80_s=low_80_s,
        step_high_80_s=high_80_s,
        memory=calls.memory.with_workspaces(workspaces_of(calls, parts, device, settings)),
        transfer_s=transfer_s,
        estimator=estimator,
        missing=missing,
        real_steps=real,
    )


def waiting_share(parts: Iterable[LayerTime], step_s: float, kind: Kind) -> float:
    """The share of a step in which a device of `kind` waits for its host."""
    return 1 - sum(part.count * part.device_s for part in parts) / step_s if kind.queued and step_s else 0.0


def _free_row(work: Work, layout: Layout) -> LayerTime:
    """The row of a layer that only changes the shape: it takes no time."""
    return LayerTime(
        device_s=0.0,
        host_s=0.0,
        low_s=0.0,
        high_s=0.0,
        low_80_s=0.0,
        high_80_s=0.0,
        name=work.name,
        layer=work.layer,
        phase=work.phase,
        algorithm=NO_ALGORITHM,
        layout=layout,
        workspace_bytes=0,
        source=Source.MEASURED,
        count=work.count,
        again=work.again,
    )


def _row(work: Work, timing: Timing, layout: Layout, calibration: Calibration, confidence: float | None) -> LayerTime:
    """The row of one call, as it takes within a step."""
    if timing.in_step:
        calibration = calibration.of_real_steps
    factor = calibration.factor(work.name, work.phase, timing.device_s)
    return LayerTime(
        name=work.name,
        layer=work.layer,
        phase=work.phase,
        algorithm=timing.task.algorithm,
        layout=layout,
        device_s=factor * timing.device_s,
        host_s=calibration.host_factor(work.phase) * timing.host_s,
        low_s=factor * timing.low_s,
        high_s=factor * timing.high_s,
        low_80_s=factor * timing.low_80_s,
        high_80_s=factor * timing.high_80_s,
        workspace_bytes=timing.workspace_bytes,
        source=timing.source,
        count=work.count,
        waits=work.waits,
        again=work.again,
        power_w=timing.power_w,
        confidence=confidence,
        notes=timing.notes,
        alike=timing.alike,
    )


def workspaces_of(
    calls: StepCalls, parts: Iterable[LayerTime], device: Device, settings: Settings
) -> dict[CallPosition, int]:
    """The workspaces that were measured, and on a CPU those that layers know of themselves."""
    measured = {
        (part.name, part.phase): part.workspace_bytes
        for part in parts
        if part.workspace_bytes is not None and part.name != LOSS and part.phase is not Phase.UPDATE
    }
    own = own_workspaces(calls.works, device.kind, settings.precision)
    return {position: size for position, size in (own | measured).items() if size}
