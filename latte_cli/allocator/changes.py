"""Two plans: what each class trains in the one and in the other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latte_cli.allocator.plan import PlannedDevice


@dataclass(frozen=True, kw_only=True)
class ClassChange:
    """What a class did in the plan before and does in the one after; None where it is not there."""

    name: str
    before: PlannedDevice | None
    after: PlannedDevice | None

    @property
    def alike(self) -> bool:
        """Whether as many devices train the same in the same way, and take as long."""
        if self.before is None or self.after is None:
            return False
        return _part_trained(self.before) == _part_trained(self.after)


def _part_trained(planned: PlannedDevice) -> object:
    part = (planned.sub_model.widths, planned.sub_model.dropped) if planned.sub_model else None
    return part, planned.fleet_class.count, planned.device, planned.round_s, planned.low_s, planned.high_s


def changes(before: Iterable[PlannedDevice], after: Sequence[PlannedDevice]) -> list[ClassChange]:
    """Each class of either plan, in the order of the later one, then those that are gone."""
    old = {each.fleet_class.name: each for each in before}
    new = {each.fleet_class.name: each for each in after}
    return [ClassChange(name=name, before=old.get(name), after=new.get(name)) for name in dict.fromkeys((*new, *old))]
