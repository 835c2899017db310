"""Savings: what each checkpointed region of an estimate saves and costs."""

from dataclasses import dataclass, replace

from latte_cli.estimator.memory import memory
from latte_cli.estimator.records import Estimate, LayerTime
from latte_cli.estimator.steps import LOSS, checkpoint_name
from latte_cli.network import Network
from latte_cli.network.regions import Region


@dataclass(frozen=True, kw_only=True)
class Saving:
    """What a region saves, in bytes that are held when backward begins, and costs, in seconds of a step.

    Of `extra_s` the call of `torch.utils.checkpoint` itself takes `call_s`; None where that was not measured, and is
    left out. `own` says that the module checkpoints it itself.
    """

    region: Region
    saved_bytes: int
    extra_s: float
    call_s: float | None
    own: bool


def savings(estimate: Estimate) -> list[Saving]:
    """What each checkpointed region saves beside the others, and costs."""
    regions = (*estimate.network.checkpoints, *estimate.step.checkpoints)
    if not regions:
        return []
    with_all = _held_bytes(estimate, estimate.network)
    found = []
    for region in regions:
        names, calls = set(region.nodes), [part for part in estimate.parts if part.name == checkpoint_name(region)]
        call_s = sum(part.count * _seconds(estimate, part) for part in calls)
        again_s = sum(part.count * part.device_s for part in estimate.parts if part.again and part.name in names)
        saving = Saving(
            region=region,
            saved_bytes=_held_bytes(estimate, estimate.network, without=region) - with_all,
            extra_s=again_s + call_s,
            call_s=call_s if calls else None,
            own=region in estimate.network.checkpoints,
        )
        found.append(saving)
    return found


def _seconds(estimate: Estimate, part: LayerTime) -> float:
    """What a call of `torch.utils.checkpoint` takes: on a device that is queued, its host's time."""
    return max(part.device_s, part.host_s) if estimate.device.kind.queued else part.device_s


def _held_bytes(estimate: Estimate, network: Network, without: Region | None = None) -> int:
    """The bytes held when backward begins; a loss without a name counts as the mean squared error."""
    network = replace(network, checkpoints=tuple(one for one in network.checkpoints if one != without))
    kept = tuple(one for one in estimate.step.checkpoints if one != without)
    loss = "mse" if estimate.step.loss == "none" else estimate.step.loss
    step = replace(estimate.step, checkpoints=kept, loss=loss)
    found = memory(network, step, estimate.settings.precision, fused=estimate.device.kind.queued)
    return max((moment.activations_bytes for moment in found.timeline if moment.name == LOSS), default=0)
