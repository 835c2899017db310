"""Checks: what the sub-models of a plan take today, and which classes still train and finish with theirs."""

from collections.abc import Callable
from dataclasses import dataclass

from latte_cli.allocator.plan import Plan, PlannedDevice, plan_device
from latte_cli.allocator.plan_file import PlanFile
from latte_cli.allocator.pricing import Pricer, Round
from latte_cli.allocator.sub_models import SubModel
from latte_cli.errors import LatteError
from latte_cli.fleet import FleetClass
from latte_cli.network import Network


@dataclass(frozen=True, kw_only=True)
class PlanCheck:
    """A plan, and for each of its classes the round of its sub-model today; None where it has none."""

    plan: Plan
    rounds: tuple[Round | None, ...]

    @property
    def devices(self) -> tuple[PlannedDevice, ...]:
        """What each class trains today; nothing where its sub-model does not finish."""
        return tuple(
            plan_device(each.fleet_class, [found], found if self._finishes(found) else None, complete=False)
            if found
            else each
            for each, found in zip(self.plan.devices, self.rounds, strict=True)
        )

    @property
    def without(self) -> tuple[FleetClass, ...]:
        """The classes that the plan lets train nothing."""
        return self._classes(lambda found: found is None)

    @property
    def too_large(self) -> tuple[FleetClass, ...]:
        """The classes whose sub-model does not fit their memory."""
        return self._classes(lambda found: found is not None and found.high_s is None)

    @property
    def late(self) -> tuple[FleetClass, ...]:
        """The classes whose round takes too long."""
        return self._classes(lambda found: found is not None and found.high_s is not None and not self._finishes(found))

    def _finishes(self, found: Round) -> bool:
        return found.meets(self.plan.round_duration_s)

    def _classes(self, which: Callable[[Round | None], bool]) -> tuple[FleetClass, ...]:
        pairs = zip(self.plan.devices, self.rounds, strict=True)
        return tuple(each.fleet_class for each, found in pairs if which(found))


def check_plan(file: PlanFile, price: Pricer, as_today: Callable[[FleetClass], FleetClass]) -> PlanCheck:
    """Price the sub-models of a plan again, those of each class with the settings of `as_today` of it.

    Raises LatteError where the plan is for another model, and as `price` does.
    """
    rounds: list[Round | None] = []
    for each in file.plan.devices:
        network = price.whole(each.fleet_class.batch)
        file.check_model(network)
        if each.sub_model:
            _check_size(each.sub_model, network)
        rounds.append(price(each.sub_model, as_today(each.fleet_class)) if each.sub_model else None)
    return PlanCheck(plan=file.plan, rounds=tuple(rounds))


def _check_size(sub_model: SubModel, network: Network) -> None:
    found = sub_model.of(network).parameters
    if sub_model.parameters != found:
        raise LatteError(
            f"sub-model `{sub_model.id}` has {found:,} parameters, not {sub_model.parameters:,} as the plan says",
            hint="make the plan again with `latte allocate`",
        )
