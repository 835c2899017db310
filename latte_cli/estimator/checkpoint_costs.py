"""What a call of `torch.utils.checkpoint` costs by how many tensors its region saves, between two that were timed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from latte_cli.layers import CHECKPOINTS, Checkpoint, Phase
from latte_cli.lookup import Pair, Source, Timing

CHECKPOINT_PAIRS: tuple[Pair, ...] = tuple((layer, phase) for layer in CHECKPOINTS for phase in Checkpoint.phases)
"""What `checkpoint_costs` needs the timings of."""

_Ends: TypeAlias = tuple[tuple[int, Timing], tuple[int, Timing]]


@dataclass(frozen=True, kw_only=True)
class CheckpointCosts:
    """The timings of the call for the least and for the most tensors that were measured, forward and backward."""

    ends: Mapping[Phase, _Ends]

    def timing_of(self, layer: Checkpoint, phase: Phase) -> Timing:
        """A fixed part, and one for each tensor: linear in their number (docs/checkpointing.md); it never falls."""
        (least, first), (most, last) = self.ends[phase]
        share = (layer.tensors - least) / (most - least)

        def at(value: Callable[[Timing], float]) -> float:
            return value(first) + share * max(0.0, value(last) - value(first))

        device_s = at(lambda one: one.device_s)
        nearest = last if share > 0.5 else first
        return replace(
            nearest,
            task=replace(nearest.task, layer=layer),
            device_s=device_s,
            host_s=at(lambda one: one.host_s),
            low_s=device_s * nearest.low_s / nearest.device_s,
            high_s=device_s * nearest.high_s / nearest.device_s,
            low_80_s=device_s * nearest.low_80_s / nearest.device_s,
            high_80_s=device_s * nearest.high_80_s / nearest.device_s,
            workspace_bytes=None,
            source=Source.MEASURED if layer in CHECKPOINTS else Source.INTERPOLATED,
        )

    def seconds(self, tensors: int, *, queued: bool) -> float:
        """The call's seconds of a step, forward and backward; on a device that is `queued` they are its host's."""
        timings = (self.timing_of(Checkpoint(tensors=tensors), phase) for phase in self.ends)
        return sum(max(one.device_s, one.host_s if queued else 0.0) for one in timings)


def checkpoint_costs(measured: Mapping[Pair, Sequence[Timing]]) -> CheckpointCosts | None:
    """The costs that the timings of CHECKPOINT_PAIRS tell; None where one of them is not there."""
    if any(not measured.get(pair) for pair in CHECKPOINT_PAIRS):
        return None
    first, last = CHECKPOINTS
    return CheckpointCosts(
        ends={
            phase: ((first.tensors, measured[first, phase][0]), (last.tensors, measured[last, phase][0]))
            for phase in Checkpoint.phases
        }
    )
