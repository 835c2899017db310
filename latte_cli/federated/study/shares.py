"""Shares: which sub-model each device of a scenario trains under a method, and how long a round takes it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf

from latte_cli.allocator import (
    Deadline,
    Pricer,
    Round,
    Search,
    SubModel,
    catalogue,
    class_estimator,
    largest,
    paced_duration_s,
    paced_round,
)
from latte_cli.errors import LatteError
from latte_cli.estimator import LOOKUP, Step, step_calls
from latte_cli.federated import models
from latte_cli.federated.study.clock import Share
from latte_cli.federated.study.document import Scenario, Study, Tier, Tuning
from latte_cli.federated.study.methods import LEVELS, Learning, StudyMethod, SubModelSizes
from latte_cli.fleet import FleetClass, Method
from latte_cli.precisions import Precision
from latte_cli.profiles import sheet_of
from latte_cli.store import Store


@dataclass(frozen=True, kw_only=True)
class TunedOption:
    """What a method is tuned to: the `width` of the model that the server trains, and the end of a round.

    A round ends after `duration` times the whole network's slowest round (None: as LATTE's rule says where devices stop
    in time, else never); `deadline` says for whom. `tier` is the share of the slowest device's whole step that a step
    of a tier's level may take; None: the duration. `proximal` is the factor of FedProx's term; 0: there is none.
    `buffer` is how many trainings FedBuff aggregates; 0: there are rounds. The server draws `over_selection` times as
    many devices as it waits for.
    """

    width: float = 1.0
    duration: float | None = None
    deadline: Deadline = Deadline.NONE
    tier: float | None = None
    proximal: float = 0.0
    buffer: int = 0
    over_selection: float = 1.0

    def __str__(self) -> str:
        parts = [f"width {self.width:g}"] if self.width < 1 else []
        parts += [f"tiers {self.tier:g}"] if self.tier is not None else []
        parts += [f"{self.duration:g}"] if self.duration is not None else []
        parts += [self.deadline.value] if self.deadline is not Deadline.NONE else []
        parts += [f"proximal {self.proximal:g}"] if self.proximal else []
        parts += [f"buffer {self.buffer}"] if self.buffer else []
        parts += [f"over-selection {self.over_selection:g}"] if self.over_selection > 1 else []
        return ", ".join(parts) or "-"


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the devices do, by number: `sub_models` of the network `small` (None: of the whole) and their `shares`.

    Devices that are not there can train nothing in time. `limit_s` is when a round ends, where it does.
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
        self._store = store
        self._pricers: dict[str, Pricer] = {}
        self._searches: dict[tuple[str, FleetClass], Search] = {}
        self._flops: dict[tuple[tuple[str, int], ...], float] = {}
        self._catalogues: dict[tuple[float, tuple[float, ...]], tuple[SubModel, ...]] = {}

    @cached_property
    def levels(self) -> tuple[SubModel, ...]:
        """The levels of the whole network, largest first."""
        return self.cut(1.0, LEVELS)

    @cached_property
    def catalogue(self) -> tuple[SubModel, ...]:
        """What LATTE chooses from."""
        return self.cut(1.0, self.study.settings.widths)

    def cut(self, width: float, shares: tuple[float, ...]) -> tuple[SubModel, ...]:
        """The sub-models with these `shares` of the model of this `width`, the largest first."""
        if (width, shares) not in self._catalogues:
            network = self.small(width).of(self.network) if width < 1 else self.network
            self._catalogues[width, shares] = catalogue(network, shares)
        return self._catalogues[width, shares]

    def small(self, width: float) -> SubModel:
        """The small global model of this width."""
        return catalogue(self.network, (width,))[0]

    def fleet(self, scenario: Scenario, samples: Sequence[int]) -> "ScenarioFleet":
        """The scenario's devices, with so many samples each."""
        return ScenarioFleet(self, scenario, samples)

    def pricer(self, estimator: str = LOOKUP) -> Pricer:
        """What prices by this estimator's times."""
        if estimator not in self._pricers:
            self._pricers[estimator] = Pricer(
                lambda batch: models.network_from(self.model, batch=batch),
                lambda each: class_estimator(self._store, each, estimator=estimator),
            )
        return self._pricers[estimator]

    def round(self, sub_model: SubModel, fleet_class: FleetClass, estimator: str = LOOKUP) -> Round:
        """The round of a device of the class."""
        return self.pricer(estimator)(sub_model, fleet_class)

    def best(self, fleet_class: FleetClass, duration_s: float, estimator: str = LOOKUP) -> Round | None:
        """The best sub-model for LATTE's devices whose round meets the duration."""
        if not self.study.fine:
            return largest([self.round(each, fleet_class, estimator) for each in self.catalogue], duration_s)
        key = (estimator, fleet_class)
        if key not in self._searches:
            self._searches[key] = Search(self.pricer(estimator), fleet_class, self.study.objective)
        return self._searches[key].best(duration_s)

    def peak_flop_per_s(self, tier: Tier) -> float:
        """The peak speed that the profile or sheet of the tier's device states; LatteError where it states none."""
        device = self.pricer().estimator(tier.fleet_class).device
        sheet = sheet_of(self._store, device.slug)
        peak = device.peak_flop_per_s if sheet is None else sheet.peak(Precision.FP32)
        if not peak:
            message = f"the profile `{device.slug}` does not say how many operations a second the device makes"
            raise LatteError(message, hint="methods that go by it need it; profile the device again")
        return peak / tier.slower

    def flops(self, sub_model: SubModel) -> float:
        """The floating-point operations of a training step."""
        if sub_model.widths not in self._flops:
            works = step_calls(sub_model.of(self.network), Step(optimizer=self.study.settings.optimizer))
            self._flops[sub_model.widths] = float(sum(work.count * work.layer.flops(work.phase) for work in works))
        return self._flops[sub_model.widths]


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

    def share_out(self, method: StudyMethod, option: TunedOption) -> Shared:
        """What the devices do under `method`, tuned to `option`."""
        small = self._prices.small(option.width) if option.width < 1 else None
        if method.sizes is SubModelSizes.ESTIMATES:
            chosen = self._by_estimates(option, small, method.estimator)
        elif method.sizes is SubModelSizes.TIERS:
            chosen = self._by_tiers(option, small)
        else:
            whole = replace(small or self._prices.whole, id="whole", widths=())
            chosen = dict.fromkeys(range(len(self.classes)), whole)
        if option.deadline is Deadline.PARTIAL and self._cuts_first_channels(method):
            small = _widest(small, chosen.values())
        shares = {
            device: share
            for device, each in chosen.items()
            if (share := self._share(method, device, _widths_in(each, small), option))
        }
        limit_s = None if option.deadline is Deadline.NONE else self._limit_s(option)
        return Shared(
            sub_models={device: chosen[device] for device in shares}, shares=shares, small=small, limit_s=limit_s
        )

    def _cuts_first_channels(self, method: StudyMethod) -> bool:
        """Whether sub-models are the first channels of the server's model, in every round."""
        sizes, channels = method.sizes, method.channels or self._prices.study.settings.method
        cuts = sizes in (SubModelSizes.ESTIMATES, SubModelSizes.TIERS) and method.learning is Learning.OVERLAP
        return cuts and channels is Method.NESTED

    def _limit_s(self, option: TunedOption) -> float:
        if option.duration is not None:
            return option.duration * self.slowest_s
        return self._paced_s if option.deadline is Deadline.PARTIAL else inf

    @cached_property
    def _paced_s(self) -> float:
        """How long rounds are where nobody says so."""
        devices = range(len(self.classes))
        return paced_duration_s([[self._price(device, each) for each in self._prices.catalogue] for device in devices])

    def _by_tiers(self, option: TunedOption, small: SubModel | None) -> dict[int, SubModel]:
        """Levels by memory and peak speed: the largest that fits and whose step is short enough by its FLOPs.

        It takes at most the option's share of the slowest device's step with the whole network or, where the server
        trains a `small` one, with that.
        """
        peaks = [self._prices.peak_flop_per_s(tier) for tier in self._tiers]
        levels = [(each, _widths_in(each, small)) for each in self._prices.cut(option.width, LEVELS)]
        flops = [self._prices.flops(each) for _, each in levels]
        most = (option.tier or option.duration or 1.0) * flops[0]
        found = {}
        for device, peak in enumerate(peaks):
            fitting = [at for at, (_, each) in enumerate(levels) if self._price(device, each).step_s is not None]
            fitting = fitting or [len(levels) - 1]
            in_time = (at for at in fitting if flops[at] * min(peaks) <= most * peak)
            found[device] = levels[next(in_time, fitting[-1])][0]
        return found

    def _by_estimates(self, option: TunedOption, small: SubModel | None, estimator: str) -> dict[int, SubModel]:
        """What LATTE gives the devices: by mean times where they stop in time, else by upper ends of intervals."""
        found: dict[int, SubModel] = {}
        for device, fleet_class in enumerate(self.classes):
            if option.deadline is Deadline.PARTIAL:
                entries = {each.id: each for each in self._prices.cut(option.width, self._prices.study.settings.widths)}
                rounds = [self._price(device, _widths_in(each, small), estimator) for each in entries.values()]
                best = paced_round(rounds, self._limit_s(option))
                chosen = entries[best.sub_model.id] if best else None
            else:
                best = self._prices.best(fleet_class, self._limit_s(option), estimator)
                chosen = best.sub_model if best else None
            if chosen:
                found[device] = chosen
        return found

    def _share(self, method: StudyMethod, device: int, sub_model: SubModel, option: TunedOption) -> Share | None:
        """The device's time for the sub-model; None where it does not fit its memory, or would always be lost."""
        found = self._mean_round(device, sub_model) if method.learning is Learning.ORDERED else None
        found = found or self._price(device, sub_model)
        pruned = method.learning is Learning.PRUNED
        first = self._price(device, self._prices.whole) if pruned else found
        if found.round_s is None or found.step_s is None or first.round_s is None or first.step_s is None:
            return None
        limit_s = self._limit_s(option) if option.deadline is not Deadline.NONE else inf
        if option.deadline is Deadline.DROP and found.round_s > limit_s:
            return None
        return Share(
            round_s=found.round_s,
            step_s=found.step_s,
            steps=found.steps,
            first_s=first.round_s,
            first_step_s=first.step_s,
            limit_s=limit_s,
            deadline=option.deadline,
        )

    def _mean_round(self, device: int, sub_model: SubModel) -> Round | None:
        """A round whose steps are of all levels up to `sub_model`, one as often as another; all of it is sent."""
        levels = self._prices.levels
        own = self._price(device, sub_model)
        steps = [self._price(device, each).step_s for each in levels[levels.index(sub_model) :]]
        known = [each for each in steps if each is not None]
        if len(known) < len(steps):
            return replace(own, round_s=None)
        step_s = sum(known) / len(known)
        return replace(own, step_s=step_s, round_s=own.steps * step_s + own.sending_s)

    def _price(self, device: int, sub_model: SubModel, estimator: str = LOOKUP) -> Round:
        """The round of the device, with its own number of steps and their time."""
        found, slower = self._prices.round(sub_model, self.classes[device], estimator), self._tiers[device].slower
        if found.step_s is None:
            return found
        return replace(found, step_s=slower * found.step_s, steps=found.steps // slower)

    def _round_s(self, sub_model: SubModel, fleet_class: FleetClass) -> float | None:
        return self._prices.round(sub_model, fleet_class).round_s


def _widest(small: SubModel | None, chosen: Collection[SubModel]) -> SubModel | None:
    """The model that the server trains where devices train the first channels of it: no wider than the widest of those.

    Channels that no device trains would stay as they were drawn, and spoil what the others compute.
    """
    widest = max(chosen, key=lambda each: each.parameters, default=None)
    return small if widest is None or widest.width == 1 else _widths_in(widest, small)


def _widths_in(sub_model: SubModel, small: SubModel | None) -> SubModel:
    """The sub-model of a `small` network (None: of the whole one) as one of the whole network."""
    if small is None:
        return sub_model
    return replace(sub_model, widths=tuple({**dict(small.widths), **dict(sub_model.widths)}.items()))


def _fill_batches(samples: int, batch: int) -> int:
    """The samples of whole batches: the last one of a round takes as long as the others."""
    return -(-samples // batch) * batch


def tuning_options(method: StudyMethod, study: Study) -> tuple[TunedOption, ...]:
    """What the method is tuned over; a single one where there is nothing to tune."""
    if not method.tuned:
        return (TunedOption(deadline=Deadline.PARTIAL),)
    tuning = study.tuning
    tiers = tuning.tiers if method.sizes is SubModelSizes.TIERS else ()
    buffered = method.learning is Learning.BUFFERED
    return tuple(
        replace(end, width=width, tier=tier, proximal=proximal, buffer=buffer, over_selection=over_selection)
        for width in _tuned_widths(method, tuning)
        for tier in tiers or (None,)
        for proximal in (tuning.proximal if method.proximal else (0.0,))
        for buffer in (tuning.buffers if buffered else (0,))
        for over_selection in ((1.0,) if buffered else tuning.over_selections)
        for end in _tuned_ends(method, tuning)
    )


def _tuned_widths(method: StudyMethod, tuning: Tuning) -> Collection[float]:
    """The widths of the model that the server trains."""
    if method.learning is Learning.BUFFERED:
        return dict.fromkeys((*tuning.levels, 1.0))
    if method.sizes is SubModelSizes.TIERS and method.learning is not Learning.OVERLAP:
        return (1.0,)
    widths = {
        SubModelSizes.SMALL: tuning.levels,
        SubModelSizes.ESTIMATES: tuning.latte_widths,
        SubModelSizes.TIERS: tuning.tier_widths,
    }
    return widths.get(method.sizes, (1.0,))


def _tuned_ends(method: StudyMethod, tuning: Tuning) -> list[TunedOption]:
    """The ends of rounds, or of a device's work where there are no rounds, of which nothing can then be late."""
    tiers_by_end = method.sizes is SubModelSizes.TIERS and not tuning.tiers
    without = (
        [TunedOption(duration=duration) for duration in tuning.round_durations] if tiers_by_end else [TunedOption()]
    )
    ends = [
        TunedOption(duration=duration, deadline=deadline)
        for deadline in tuning.deadlines
        if deadline is not Deadline.NONE
        for duration in tuning.round_durations
    ]
    if method.learning is Learning.BUFFERED:
        ends = [each for each in ends if each.deadline is not Deadline.DROP]
        return [*(without if Deadline.NONE in tuning.deadlines or not ends else []), *ends]
    if method.sizes is SubModelSizes.ESTIMATES:
        return ends
    return [*(without if Deadline.NONE in tuning.deadlines else []), *ends]
