"""Study files: which methods are compared on which fleets, with which data and recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

from latte_cli.allocator.pacing import Deadline
from latte_cli.errors import LatteError, unknown
from latte_cli.estimator import check_names
from latte_cli.federated.settings import FederationSettings, settings
from latte_cli.federated.study.availability import Availability, Periods
from latte_cli.federated.study.methods import METHODS
from latte_cli.fleet import (
    Fields,
    FleetClass,
    Objective,
    file_content,
    mapping,
    parse_list,
    parse_yaml,
    text,
    whole_number,
)
from latte_cli.precisions import Layout, Precision
from latte_cli.quantities import bandwidth_bit_per_s, duration_or_zero_s, duration_s, size_bytes

EXAMPLE = "`latte simulate --help` shows one"
FINE = "fine"

_MOST_DEVICES = 100_000  # chosen: a study keeps every device's examples and history in memory


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A class of a scenario's devices, whose samples are each device's own.

    `slower` makes it a stand-in for devices of the same kind that take so many times as long for a step.
    """

    fleet_class: FleetClass
    slower: int = 1


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A fleet: its `tiers`, and what happens to its devices by chance."""

    name: str
    tiers: tuple[Tier, ...]
    availability: Availability = Availability()

    @property
    def devices(self) -> tuple[Tier, ...]:
        """The tier of each device, by its number."""
        return tuple(tier for tier in self.tiers for _ in range(tier.fleet_class.count))


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What each method is tuned over, on `seeds` that are no other run's: the option that reaches `target` first wins.

    `round_durations` are shares of the full model's slowest round, `levels` the widths of a small global model,
    `latte_widths` those of the model that LATTE cuts, and `tier_widths` of the one that HeteroFL and FedRolex cut.
    `tiers` are the shares of the slowest device's whole step that a step of a tier's level may take; without them they
    are the round durations. `deadlines` say what the end of a round means for devices. `proximal` are factors of
    FedProx's term, and `buffers` how many trainings FedBuff aggregates. `over_selections` are how many times as many
    devices are drawn as are waited for; they are for methods that have rounds.
    """

    seeds: tuple[int, ...]
    target: float
    round_durations: tuple[float, ...]
    levels: tuple[float, ...]
    latte_widths: tuple[float, ...] = (1.0,)
    tier_widths: tuple[float, ...] = (1.0,)
    tiers: tuple[float, ...] = ()
    deadlines: tuple[Deadline, ...] = tuple(Deadline)
    proximal: tuple[float, ...] = (0.01,)  # one of those that FedProx was tuned over: 0.001, 0.01, 0.1, 1
    buffers: tuple[int, ...] = (4,)  # chosen: half of the devices that train at once in docs/study-fleets.yaml
    over_selections: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison of `methods` in `scenarios`: `rounds` of the same data and recipe, once for each of `seeds`.

    A run ends with the round in which `budget` times the whole network's slowest round is over, if it is given.
    `settings` are those of a federation whose method is LATTE's; `fine` gives its devices a width for each channel
    group, with this `objective`. The network is evaluated after every `every` rounds; `targets` are accuracies. A round
    of which less than the `least_share` of the devices drawn returned changes nothing on the server.
    """

    settings: FederationSettings
    every: int
    seeds: tuple[int, ...]
    tuning: Tuning
    targets: tuple[float, ...]
    methods: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    fine: bool = False
    objective: Objective = Objective.BALANCED
    budget: float = inf
    least_share: float = 0.0


def read_study(path: Path | str) -> Study:
    """The study in the YAML file at `path`; raises LatteError naming file, place and field of what is wrong."""
    return parse_study(file_content(path, what="study", example=EXAMPLE), source=f"`{path}`")


def parse_study(content: bytes, *, source: str) -> Study:
    """The study that `content` (YAML) describes; `source` names it in errors."""
    fields = Fields(parse_yaml(content, source, what="study", example=EXAMPLE), source, EXAMPLE)
    fields.check_names((*_DATA, *_OWN))
    recipe, latte = _inner(fields, "recipe", _RECIPE), _inner(fields, "latte", _LATTE)
    fine = latte.values.get("widths") == FINE
    chosen = _settings(
        fields,
        {
            **_scalars(fields, [name for name in _DATA if name != "devices-per-round"]),
            **_scalars(recipe, _RECIPE),
            **_scalars(latte, ("rule", "masked", "scaled")),
            "method": latte.optional("channels", text) or "rolling",
            "per-round": fields.optional("devices-per-round", whole_number) or 0,
            "widths": "" if fine else ",".join(map(str, latte.several("widths", _share))),
        },
    )
    targets = fields.several("targets", _share)
    if not targets:
        raise LatteError(f"{source}: `targets` is missing", hint=EXAMPLE)
    seeds = fields.several("seeds", _seed)
    if not seeds:
        raise LatteError(f"{source}: `seeds` is missing", hint=EXAMPLE)
    study = Study(
        settings=chosen,
        every=fields.optional("evaluate-every", whole_number) or 1,
        seeds=seeds,
        tuning=_parse_tuning(fields, targets),
        targets=tuple(sorted(targets)),
        methods=tuple(dict.fromkeys(fields.several("methods", _method))) or tuple(METHODS),
        scenarios=_scenarios(fields, chosen),
        fine=fine,
        objective=latte.optional("objective", _objective) or Objective.BALANCED,
        budget=fields.optional("budget", _number(1e-3, 1e9)) or inf,
        least_share=fields.optional("least-share", _share) or 0.0,
    )
    _check(study, source)
    return study


_DATA = (
    *("model", "image-size", "classes", "data", "held-out", "partition", "alpha", "classes-each"),
    *("rounds", "devices-per-round"),
)
_OWN = (
    "budget",
    "least-share",
    "recipe",
    "evaluate-every",
    "seeds",
    "tuning",
    "targets",
    "methods",
    "latte",
    "scenarios",
)
_RECIPE = ("batch", "epochs", "learning-rate", "momentum", "weight-decay", "server-momentum", "final-rate")
_LATTE = ("widths", "objective", "channels", "rule", "masked", "scaled")
_TUNING = (
    *("seed", "target", "round-durations", "levels", "latte-widths", "tier-widths", "tiers", "deadlines"),
    *("proximal", "buffers", "over-selections"),
)
_SCENARIO = ("scenario", "noise", "dropout", "available", "classes")
_CLASS = ("class", "count", "device", "threads", "strategy", "slower", "bandwidth", "overhead", "memory")


def _inner(fields: Fields, name: str, known: tuple[str, ...]) -> Fields:
    """The fields of a mapping in the file; none where it is not there."""
    found = Fields(fields.optional(name, mapping) or {}, f"{fields.where}, `{name}`", fields.example)
    found.check_names(known)
    return found


def _scalars(fields: Fields, names: Any) -> dict[str, Any]:
    """The values of the fields that are there, as numbers where they read so."""
    found = {name: fields.optional(name, _scalar) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _scalar(value: str) -> Any:
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        try:
            number = kind(value) if value.isascii() and len(value) <= _LONGEST_NUMBER else None
        except ValueError:
            continue
        if number is not None and isfinite(number):
            return number
    return text(value)


_LONGEST_NUMBER = 30  # chosen: a float has 17 digits, a sign, a point and an exponent


def _settings(fields: Fields, values: Mapping[str, Any]) -> FederationSettings:
    try:
        return settings(values)
    except LatteError as exc:
        message = exc.message.removeprefix("setting ")
        raise LatteError(f"{fields.where}: {message}", hint=exc.hint) from exc


def _parse_tuning(fields: Fields, targets: tuple[float, ...]) -> Tuning:
    found = _inner(fields, "tuning", _TUNING)
    if not found.values:
        raise LatteError(f"{fields.where}: `tuning` is missing", hint=EXAMPLE)
    seeds = found.several("seed", _seed)
    if not seeds:
        raise LatteError(f"{found.where}: `seed` is missing", hint=EXAMPLE)
    return Tuning(
        seeds=tuple(dict.fromkeys(seeds)),
        target=found.optional("target", _share) or max(targets),
        round_durations=tuple(sorted(found.several("round-durations", _share))) or (1.0,),
        levels=tuple(sorted(found.several("levels", _share))) or (1.0,),
        latte_widths=tuple(sorted(found.several("latte-widths", _share))) or (1.0,),
        tier_widths=tuple(sorted(found.several("tier-widths", _share))) or (1.0,),
        tiers=tuple(sorted(found.several("tiers", _share))),
        deadlines=tuple(dict.fromkeys(found.several("deadlines", _deadline))) or tuple(Deadline),
        proximal=tuple(sorted(set(found.several("proximal", _number(1e-9, 1e3))))) or Tuning.proximal,
        buffers=tuple(sorted(set(found.several("buffers", whole_number)))) or Tuning.buffers,
        over_selections=tuple(sorted(set(found.several("over-selections", _number(1, 10))))) or Tuning.over_selections,
    )


def _scenarios(fields: Fields, chosen: FederationSettings) -> tuple[Scenario, ...]:
    found: dict[str, Scenario] = {}
    for number, entry in enumerate(fields.require("scenarios", parse_list), start=1):
        scenario = _scenario(entry, fields.where, number, chosen)
        if scenario.name in found:
            raise LatteError(f"{fields.where}: two scenarios are called `{scenario.name}`", hint="rename one of them")
        found[scenario.name] = scenario
    return tuple(found.values())


def _scenario(entry: object, source: str, number: int, chosen: FederationSettings) -> Scenario:
    if not isinstance(entry, dict):
        raise LatteError(f"{source}: scenario {number} is not a mapping of fields", hint="begin it with `- scenario:`")
    name = Fields(entry, f"{source}, scenario {number}", EXAMPLE).require("scenario", text)
    fields = Fields(entry, f"{source}, scenario `{name}`", EXAMPLE)
    fields.check_names(_SCENARIO)
    tiers: dict[str, Tier] = {}
    for at, each in enumerate(fields.require("classes", parse_list), start=1):
        tier = _tier(each, fields.where, at, chosen)
        if tier.fleet_class.name in tiers:
            message = f"{fields.where}: two classes are called `{tier.fleet_class.name}`"
            raise LatteError(message, hint="give each its own name")
        tiers[tier.fleet_class.name] = tier
    scenario = Scenario(
        name=name,
        tiers=tuple(tiers.values()),
        availability=Availability(
            noise=fields.optional("noise", _number(0, 2)) or 0.0,
            dropout=fields.optional("dropout", _number(0, 0.9)) or 0.0,
            available=_periods(fields),
        ),
    )
    count = sum(tier.fleet_class.count for tier in scenario.tiers)
    if count > _MOST_DEVICES:
        raise LatteError(f"{fields.where}: there are {count:,} devices", hint=f"at most {_MOST_DEVICES:,}")
    if chosen.per_round > count:
        raise LatteError(
            f"{fields.where}: {chosen.per_round} devices cannot take part in a round", hint=f"there are only {count}"
        )
    return scenario


def _periods(fields: Fields) -> Periods | None:
    found = _inner(fields, "available", ("on", "off"))
    if not found.values:
        return None
    return Periods(on_s=found.require("on", duration_s), off_s=found.require("off", duration_s))


def _tier(entry: object, source: str, number: int, chosen: FederationSettings) -> Tier:
    if not isinstance(entry, dict):
        raise LatteError(f"{source}: class {number} is not a mapping of fields", hint="begin it with `- class: NAME`")
    name = Fields(entry, f"{source}, class {number}", EXAMPLE).require("class", text)
    fields = Fields(entry, f"{source}, class `{name}`", EXAMPLE)
    fields.check_names(_CLASS)
    bandwidth = Fields(fields.require("bandwidth", mapping), f"{fields.where}, `bandwidth`", EXAMPLE)
    bandwidth.check_names(("up", "down"))
    fleet_class = FleetClass(
        name=name,
        device=fields.require("device", text),
        count=fields.optional("count", whole_number) or 1,
        samples=1,
        epochs=chosen.epochs,
        batch=chosen.batch,
        up_bit_per_s=bandwidth.require("up", bandwidth_bit_per_s),
        down_bit_per_s=bandwidth.require("down", bandwidth_bit_per_s),
        overhead_s=fields.optional("overhead", duration_or_zero_s) or 0.0,
        memory_bytes=fields.optional("memory", size_bytes),
        threads=fields.optional("threads", whole_number),
        strategy=fields.optional("strategy", _strategy),
        optimizer=chosen.optimizer,
    )
    return Tier(fleet_class=fleet_class, slower=fields.optional("slower", whole_number) or 1)


def _check(study: Study, source: str) -> None:
    for seed in study.tuning.seeds:
        if seed in study.seeds:
            message = f"{source}, `tuning`: the seed {seed} is one of `seeds` too"
            raise LatteError(message, hint="tune on another seed")
    if len(set(study.seeds)) < len(study.seeds):
        raise LatteError(f"{source}: `seeds` has one of them twice", hint="each gives the same result every time")
    if not study.settings.held_out:
        raise LatteError(f"{source}: `held-out` is 0", hint="nothing would be left to evaluate on; 0.2 is usual")
    _check_selection(study, source)
    if study.every > study.settings.rounds:
        raise LatteError(
            f"{source}: `evaluate-every` {study.every} is more than `rounds`", hint=f"at most {study.settings.rounds}"
        )


def _check_selection(study: Study, source: str) -> None:
    most = max(study.tuning.over_selections)
    if most > 1 and not study.settings.per_round:
        message = f"{source}, `tuning`: `over-selections` draw more devices than all, which take part in every round"
        raise LatteError(message, hint="say in `devices-per-round` how many are enough")
    if most * study.least_share > 1:
        message = f"{source}: `least-share` {study.least_share:g} of {most:g} times as many devices is more than return"
        raise LatteError(message, hint=f"at most {int(100 / most) / 100:g}")


def _number(least: float, most: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        found = _scalar(value)
        if isinstance(found, bool) or not isinstance(found, int | float) or not least <= found <= most:
            shown = " ".join(value.split())[:40]
            raise LatteError(f"`{shown}` is not what it can be", hint=f"a number from {least:g} to {most:g}")
        return float(found)

    return parse


def _share(value: str) -> float:
    found = _scalar(value.strip())
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found <= 1:
        shown = " ".join(value.split())[:40]
        raise LatteError(f"`{shown}` is not a share", hint="a number over 0 and at most 1")
    return float(found)


def _seed(value: str) -> int:
    found = _scalar(value.strip())
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < 2**31:
        shown = " ".join(value.split())[:40]
        raise LatteError(f"`{shown}` is not a seed", hint="a whole number from 0")
    return found


def _method(value: str) -> str:
    if value.strip() not in METHODS:
        raise unknown("method", " ".join(value.split())[:40], METHODS)
    return value.strip()


def _deadline(value: str) -> Deadline:
    if value.strip() not in tuple(Deadline):
        raise unknown("deadline", " ".join(value.split())[:40], Deadline)
    return Deadline(value.strip())


def _objective(value: str) -> Objective:
    if value not in tuple(Objective):
        raise unknown("objective", " ".join(value.split())[:40], Objective)
    return Objective(value)


def _strategy(value: str) -> str:
    check_names(Precision.FP32, Layout.NCHW, text(value), "sgd")
    return value


def of_seed(study: Study, seed: int) -> FederationSettings:
    """The settings of the study's data, and of LATTE's own method, with this seed."""
    return replace(study.settings, seed=seed)
