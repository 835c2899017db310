"""Plan files: a plan with the model that it is for, and the channels that each device trains in a round."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from latte_cli.allocator.channels import Coverage, Frequencies, Kept, coverage, kept_channels
from latte_cli.allocator.plan import Plan
from latte_cli.allocator.sub_models import SubModel
from latte_cli.errors import LatteError
from latte_cli.fleet import FleetClass, Method
from latte_cli.network import Network
from latte_cli.network.channels import ChannelGroup, resizing_of
from latte_cli.network.depth import blocks

CATALOGUE = "catalogue"
"""The objective of plans that give each class the largest sub-model of a catalogue."""

MANY = 10_000  # chosen: the lists would be most of the file
"""Of more devices the channels are not listed one by one."""

_MOST_COUNTED = 2**53  # the whole numbers up to here are floats, and the schema of plans allows no others


@dataclass(frozen=True, kw_only=True)
class Trainee:
    """One device of a class, by its number in the fleet, and the channels that it trains."""

    class_name: str
    number: int
    kept: Kept


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """A plan, the model that it is for, and what each device trains of it in the round `round_number` (from 0).

    `frequencies` is the table F once the round is done, None where it is not known, and `coverage` how many channel
    pairs the round trains. `trainees` are in the order of the fleet; none where they are too many to list.
    """

    model: str
    sha256: str
    parameters: int
    groups: tuple[ChannelGroup, ...]
    objective: str
    plan: Plan
    method: Method = Method.NESTED
    seed: int = 0
    round_number: int = 0
    trainees: tuple[Trainee, ...] = ()
    frequencies: Frequencies | None = None
    coverage: Coverage | None = None

    @property
    def listed(self) -> bool:
        """Whether every device that trains is among the trainees."""
        return len(self.trainees) == self.plan.training_devices

    @property
    def complete(self) -> bool:
        """Whether all sub-models that there are were priced, as those of a catalogue are."""
        return self.objective == CATALOGUE

    def check_model(self, network: Network) -> None:
        """Raise LatteError where the plan is for another model."""
        if self.sha256 != network.sha256:
            raise LatteError(
                f"the plan is for another model than `{network.name}`: `{self.model}`, sha256 {self.sha256[:12]}",
                hint="make a plan for this one: `latte allocate MODEL --fleet FILE`",
            )


class RoundBefore(Protocol):
    """What a round goes on from: a plan, or the rounds of a federation."""

    @property
    def round_number(self) -> int:
        """The number of the last round, from 0."""
        ...

    @property
    def frequencies(self) -> Frequencies | None:
        """F after it; None where it is not known."""
        ...

    def check_model(self, network: Network) -> None:
        """Raise LatteError where it is of another model."""
        ...


def shared_out(
    plan: Plan,
    network: Network,
    *,
    objective: str,
    method: Method,
    seed: int = 0,
    before: RoundBefore | None = None,
    importance: Mapping[str, Any] | None = None,
) -> PlanFile:
    """The plan with the channels of every device that trains; after `before`, the next round on its F.

    Devices choose one after the other, each on what those before it train; of more than 10,000 none is listed. Raises
    LatteError where `before` is for another model, and where `least-trained` has to go on from an F that is not known.
    """
    if before:
        before.check_model(network)
    listed = plan.training_devices <= MANY
    resizing = resizing_of(network)
    groups = resizing.groups
    frequencies = _so_far(before, groups) if listed else None
    if listed and frequencies is None and method is Method.LEAST_TRAINED:
        raise LatteError(
            "the plan of the round before does not say how often each channel was trained",
            hint="choose other `--channels`, or begin again without `--after`",
        )
    round_number = before.round_number + 1 if before else 0
    trainees, number = [], 0
    for each in plan.devices if listed else ():
        gone = left_out_widths(network, groups, each.sub_model)
        for _ in range(each.fleet_class.count):
            if each.sub_model:
                mine = kept_channels(
                    method,
                    groups,
                    dict(each.sub_model.widths),
                    round_number=round_number,
                    device=number,
                    seed=seed,
                    frequencies=frequencies,
                    importance=importance,
                )
                mine |= gone
                frequencies = frequencies.after(mine, _examples(each.fleet_class)) if frequencies else None
                trainees.append(Trainee(class_name=each.fleet_class.name, number=number, kept=mine))
            number += 1
    _check_counts(round_number, frequencies, before)
    covered = coverage(resizing.pairs, groups, (each.kept for each in trainees)) if listed else None
    return PlanFile(
        model=network.name,
        sha256=network.sha256,
        parameters=network.parameters,
        groups=groups,
        objective=objective,
        plan=plan,
        method=method,
        seed=seed,
        round_number=round_number,
        trainees=tuple(trainees),
        frequencies=frequencies if groups else None,
        coverage=covered,
    )


def _check_counts(round_number: int, frequencies: Frequencies | None, before: RoundBefore | None) -> None:
    """Raise LatteError for a round or examples beyond the whole numbers that a plan can hold."""
    most = max((counts.max(initial=0.0) for counts in frequencies.examples.values()), default=0.0) if frequencies else 0
    if max(round_number, most) > _MOST_COUNTED:
        hint = "begin again without `--after`" if before else "give the classes fewer `samples` or `epochs`"
        raise LatteError(f"no plan counts more than {_MOST_COUNTED:,} rounds, or examples of a channel", hint=hint)


def _so_far(before: RoundBefore | None, groups: Sequence[ChannelGroup]) -> Frequencies | None:
    """F after the round `before`; None where the plan does not say."""
    if before is None:
        return Frequencies.none(groups)
    if before.frequencies:
        return before.frequencies
    if before.round_number or not isinstance(before, PlanFile) or not before.listed:
        return None
    found = Frequencies.none(groups)
    examples = {each.fleet_class.name: _examples(each.fleet_class) for each in before.plan.devices}
    for each in before.trainees:
        found = found.after(each.kept, examples[each.class_name])
    return found


def _examples(fleet_class: FleetClass) -> int:
    """What a device is trained on in a round."""
    return fleet_class.samples * fleet_class.epochs


def left_out_widths(network: Network, groups: Iterable[ChannelGroup], sub_model: SubModel | None) -> Kept:
    """Nothing of the groups that lie in the residual blocks that the sub-model is without."""
    dropped = sub_model.dropped if sub_model else ()
    gone = {node for block in blocks(network) if block.name in dropped for node in block.nodes} if dropped else set()
    return {group.name: np.arange(0) for group in groups if set(group.nodes) <= gone}
