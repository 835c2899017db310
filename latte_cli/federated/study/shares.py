"""Shares: which sub-model each device of a scenario trains under a method, and how long a round takes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from latte_cli.allocator import Pricer, Round, Search, SubModel, catalogue, estimator_of, largest
from latte_cli.errors import LatteError
from latte_cli.estimator import Estimator, Step, step_calls
from latte_cli.federated import models
from latte_cli.federated.study.clock import Share
from latte_cli.federated.study.document import Scenario, Study, Tier
from latte_cli.federated.study.methods import LEVELS, Learning, StudyMethod, SubModelSizes
from latte_cli.fleet import FleetClass
from latte_cli.profiles import resolve_profile
from latte_cli.store import Store


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the devices do, by number: `sub_models` of the network `small` (None: of the whole) and their `shares`.

    Devices that are not there can train nothing in time. `limit_s` is the round duration, where the method has one.
    """

    sub_models: Mapping[int, SubModel]
    shares: Mapping[int, Share]
    small: SubModel | None = None
    limit_s: float | None = None


class ScenarioPrices:
    """What sub-models cost the classes of scenarios; each is estimated once.

    Raises LatteError for profiles that are not in the store, and as the estimator does.
    """

    def __init__(self, study: Study, store: Store) -> None:
        settings = study.settings
        self.model = models.content(settings.model, image_size=settings.image_size, classes=settings.classes)
        self.study = study
        self.network = models.network_from(self.model, batch=settings.batch)
        self.whole = SubModel(id="whole", widths=(), parameters=self.network.parameters)
        self._pricer = Pricer(lambda batch: models.network_from(self.model, batch=batch), _estimators(store))
        self._searches: dict[FleetClass, Search] = {}
        self._flops: dict[str, float] = {}

    @cached_property
    def levels(self) -> tuple[SubModel, ...]:
        """The levels of HeteroFL, FedRolex and FjORD, largest first."""
        return catalogue(self.network, LEVELS)

    @cached_property
    def catalogue(self) -> tuple[SubModel, ...]:
        """What LATTE chooses from."""
        return catalogue(self.network, self.study.settings.widths)

    def small(self, width: float) -> SubModel:
        """The small global model of this width."""
        return catalogue(self.network, (width,))[0]

    def fleet(self, scenario: Scenario, samples: Sequence[int]) -> "ScenarioFleet":
        """The scenario's devices, with so many samples each."""
        return ScenarioFleet(self, scenario, samples)

    def round(self, sub_model: SubModel, fleet_class: FleetClass) -> Round:
        """The round of a device of the class."""
        return self._pricer(sub_model, fleet_class)

    def best(self, fleet_class: FleetClass, duration_s: float) -> Round | None:
        """The best sub-model for LATTE's devices whose round meets the duration."""
        if not self.study.fine:
            return largest([self.round(each, fleet_class) for each in self.catalogue], duration_s)
        if fleet_class not in self._searches:
            self._searches[fleet_class] = Search(self._pricer, fleet_class, self.study.objective)
        return self._searches[fleet_class].best(duration_s)

    def peak_flop_per_s(self, tier: Tier) -> float:
        """The peak speed that the profile of the tier's device states; LatteError where it states none."""
        device = self._pricer.estimator(tier.fleet_class).device
        if not device.peak_flop_per_s:
            message = f"the profile `{device.slug}` does not say how many operations a second the device makes"
            raise LatteError(message, hint="methods that go by it need it; profile the device again")
        return device.peak_flop_per_s / tier.slower

    def flops(self, sub_model: SubModel) -> float:
        """The floating-point operations of a training step."""
        if sub_model.id not in self._flops:
            works = step_calls(sub_model.of(self.network), Step(optimizer=self.study.settings.optimizer))
            self._flops[sub_model.id] = float(sum(work.count * work.layer.flops(work.phase) for work in works))
        return self._flops[sub_model.id]


def _estimators(store: Store) -> Callable[[FleetClass], Estimator]:
    return lambda each: estimator_of(store, resolve_profile(store, each.device, each.threads), each)


class ScenarioFleet:
    """The devices of a scenario; `whole_s` is the round of each with the whole network, None where it does not fit."""

    def __init__(self, prices: ScenarioPrices, scenario: Scenario, samples: Sequence[int]) -> None:
        self._prices = prices
        self._tiers = scenario.devices
        self.classes = tuple(
            replace(
                tier.fleet_class,
                count=1,
                samples=_fill_batches(count, tier.fleet_class.batch),
                epochs=tier.fleet_class.epochs * tier.slower,
            )
            for tier, count in zip(self._tiers, samples, strict=True)
        )
        self.whole_s = tuple(self._round_s(prices.whole, each) for each in self.classes)

    @property
    def slowest_s(self) -> float:
        """The longest round with the whole network; LatteError where no device can train it."""
        found = [each for each in self.whole_s if each is not None]
        if not found:
            raise LatteError("no device has the memory for the whole network", hint="a smaller `batch` needs less")
        return max(found)

    def share_out(self, method: StudyMethod, option: float) -> Shared:
        """What the devices do under `method`, tuned to `option`: a level, or a share of the whole's slowest round."""
        if method.sizes is SubModelSizes.WHOLE:
            return self._alike(self._prices.whole, None)
        if method.sizes is SubModelSizes.SMALL:
            small = self._prices.small(option)
            return self._alike(small, small)
        if method.sizes is SubModelSizes.TIERS:
            return self._by_tiers(method, option)
        return self._by_estimates(method, option * self.slowest_s)

    def _alike(self, sub_model: SubModel, small: SubModel | None) -> Shared:
        """All devices train `sub_model`, which is the whole of the network that is trained."""
        whole = replace(sub_model, id="whole", widths=())
        rounds = {device: self._round_s(sub_model, each) for device, each in enumerate(self.classes)}
        shares = {device: _once(round_s) for device, round_s in rounds.items() if round_s is not None}
        return Shared(sub_models=dict.fromkeys(shares, whole), shares=shares, small=small)

    def _by_tiers(self, method: StudyMethod, option: float) -> Shared:
        """Levels by peak speed: the largest whose step takes at most the share `option` of the slowest whole one's."""
        peaks = [self._prices.peak_flop_per_s(tier) for tier in self._tiers]
        levels, flops = self._prices.levels, self._prices.flops
        most_s = option * flops(levels[0]) / min(peaks)
        chosen = {
            device: next((each for each in levels if flops(each) <= most_s * peak), levels[-1])
            for device, peak in enumerate(peaks)
        }
        shares = {device: share for device, each in chosen.items() if (share := self._share(method, device, each))}
        return Shared(sub_models={device: chosen[device] for device in shares}, shares=shares)

    def _by_estimates(self, method: StudyMethod, duration_s: float) -> Shared:
        chosen, shares = {}, {}
        for device, fleet_class in enumerate(self.classes):
            found = self._prices.best(self._with_whole_download(method, fleet_class), duration_s)
            share = self._share(method, device, found.sub_model, duration_s) if found else None
            if found and share:
                chosen[device], shares[device] = found.sub_model, share
        return Shared(sub_models=chosen, shares=shares, limit_s=duration_s)

    def _share(self, method: StudyMethod, device: int, sub_model: SubModel, limit_s: float = inf) -> Share | None:
        """The device's time for the sub-model; None where a step does not fit its memory."""
        fleet_class, whole_s = self.classes[device], self.whole_s[device]
        if method.learning is Learning.ORDERED:
            round_s = self._mean_s(sub_model, fleet_class)
        else:
            round_s = self._round_s(sub_model, self._with_whole_download(method, fleet_class))
        first_s = whole_s if method.learning is Learning.PRUNED else round_s
        if round_s is None or first_s is None:
            return None
        return Share(round_s=round_s, first_s=first_s, limit_s=limit_s)

    def _mean_s(self, sub_model: SubModel, fleet_class: FleetClass) -> float | None:
        """A round whose steps are of all levels up to `sub_model`, one as often as another; all of it is sent."""
        levels = self._prices.levels
        moving = fleet_class.schedule.moving_s
        steps = [
            None if (round_s := self._round_s(each, fleet_class)) is None else round_s - moving(each.parameters)
            for each in levels[levels.index(sub_model) :]
        ]
        known = [each for each in steps if each is not None]
        return sum(known) / len(known) + moving(sub_model.parameters) if len(known) == len(steps) else None

    def _with_whole_download(self, method: StudyMethod, fleet_class: FleetClass) -> FleetClass:
        """The class as it is where all parameters come down, whatever it trains of them, if they do."""
        if not method.chooses_itself:
            return fleet_class
        bits = fleet_class.schedule.parameter_bits(self._prices.network.parameters)
        overhead_s = fleet_class.overhead_s + bits / fleet_class.down_bit_per_s
        return replace(fleet_class, down_bit_per_s=inf, overhead_s=overhead_s)

    def _round_s(self, sub_model: SubModel, fleet_class: FleetClass) -> float | None:
        return self._prices.round(sub_model, fleet_class).round_s


def _fill_batches(samples: int, batch: int) -> int:
    """The samples of whole batches: the last one of a round takes as long as the others."""
    return -(-samples // batch) * batch


def _once(round_s: float) -> Share:
    return Share(round_s=round_s, first_s=round_s)


def tuning_options(method: StudyMethod, study: Study) -> tuple[float, ...]:
    """What the method is tuned over; a single one where there is nothing to tune."""
    match method.sizes:
        case SubModelSizes.WHOLE:
            return (1.0,)
        case SubModelSizes.SMALL:
            return study.tuning.levels
        case _:
            return study.tuning.round_durations
