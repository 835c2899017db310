"""Settings: what a federation does, as the run's configuration says it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from latte_cli.allocator.pacing import Deadline
from latte_cli.errors import LatteError, unknown
from latte_cli.federated.aggregation import AggregationRule
from latte_cli.federated.data import Partition
from latte_cli.federated.recipe import Recipe
from latte_cli.fleet import Method
from latte_cli.quantities import bandwidth_bit_per_s, duration_s

_MOST = 10**9  # chosen: more than any round, batch or number of devices, and exact in 32 bits

FINAL_SHARE = 0.3  # chosen: a lower rate from 70 % on gave digits one to two points
"""The share of the rounds, or of the time, in which the learning rate is the final one."""


@dataclass(frozen=True, kw_only=True)
class FederationSettings:
    """A federation: its model, the rounds, how devices train, which channels, and their data.

    `widths` and `depths` are those of the catalogue of sub-models; a `plan` of `latte allocate` brings its own, and its
    round duration. `deadline` says what the end of a round means for devices. Where `round_duration_s` is None, devices
    that stop in time get a few steps of the slowest (`paced_duration_s`), and other rounds are the shortest that let
    devices train the share `capacity` of the parameters on average. A round waits for `devices`; `per_round` of them
    take part (0: all), dealt by `seed`. The server waits for a device as long as its prices say, or `timeout_s` for
    all. Of `data` (empty: each device brings its own) the server holds out the share `held_out` for its evaluation, and
    each device `held_out_locally` of its samples. `server_momentum` is the share of its step before that the server
    adds to a round's change; `final_rate` times the learning rate is that of the last rounds. `proximal` is that of the
    recipe. `learn_times` lets devices say how long their steps took, which corrects their prices of later rounds.
    `fleet` is a file of classes that the nodes of a simulation represent. `output` is a folder for the result.
    """

    model: str = "custom_cnn"
    image_size: int = 8
    classes: int = 10
    pretrained: bool = False
    widths: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25)
    depths: tuple[float, ...] = (1.0,)
    plan: str = ""
    round_duration_s: float | None = None
    deadline: Deadline = Deadline.PARTIAL
    capacity: float = 0.5
    rounds: int = 3
    devices: int = 2
    per_round: int = 0
    timeout_s: float | None = None
    learn_times: bool = True
    method: Method = Method.ROLLING
    rule: AggregationRule = AggregationRule.EXAMPLES
    batch: int = 32
    epochs: int = 1
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    server_momentum: float = 0.0
    final_rate: float = 1.0
    masked: bool = False
    scaled: bool = False
    proximal: float = 0.0
    data: str = "digits"
    partition: Partition = Partition.DIRICHLET
    alpha: float = 0.5
    classes_each: int = 2
    held_out: float = 0.2
    held_out_locally: float = 0.0
    up_bit_per_s: float = 20e6
    down_bit_per_s: float = 100e6
    fleet: str = ""
    seed: int = 0
    output: str = ""

    @property
    def recipe(self) -> Recipe:
        """How devices train."""
        return Recipe(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            masked=self.masked,
            scaled=self.scaled,
            proximal=self.proximal,
        )

    def in_round(self, number: int) -> "FederationSettings":
        """The settings in the round `number` (from 0): the last FINAL_SHARE of the rounds have the final rate."""
        if number < (1 - FINAL_SHARE) * self.rounds:
            return self
        return replace(self, learning_rate=self.final_rate * self.learning_rate)

    @property
    def measures_steps(self) -> bool:
        """Whether devices say how long their steps took; the clock of this machine is not that of a virtual device."""
        return self.learn_times and not self.fleet

    @property
    def optimizer(self) -> str:
        """The optimizer's name for the estimator."""
        return self.recipe.optimizer


def settings(config: Mapping[str, Any]) -> FederationSettings:
    """The settings in a run's configuration, whose keys are the fields of FederationSettings with dashes.

    `round-duration`, `timeout`, `up` and `down` are quantities with their unit; what is an empty text or missing is
    left as it is by default. Raises LatteError naming the key of what is wrong.
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key not in _FIELDS:
            raise unknown("setting", key, _FIELDS)
        name, parse = _FIELDS[key]
        if value == "":
            continue
        try:
            found[name] = parse(value)
        except LatteError as exc:
            raise LatteError(f"setting `{key}`: {exc.message}", hint=exc.hint) from exc
    return FederationSettings(**found)


def _whole(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _MOST:
            raise LatteError(f"`{value}` is not what it can be", hint=f"a whole number from {least} to {_MOST}")
        return value

    return parse


def _number(least: float, most: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise LatteError(f"`{value}` is not what it can be", hint=f"a number from {least:g} to {most:g}")
        return float(value)

    return parse


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise LatteError(f"`{value}` is neither true nor false", hint="true or false, without quotes")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise LatteError(f"`{value!r}` is no text", hint="write it in quotes, on one line")
    return value


def _shares(value: Any) -> tuple[float, ...]:
    """Shares in a text such as `1,0.5`."""
    try:
        found = tuple(float(each) for each in str(value).split(","))
    except ValueError as exc:
        raise LatteError(f"`{value}` is no list of shares", hint='as in "1,0.75,0.5"') from exc
    if not all(0 < each <= 1 for each in found):
        raise LatteError(f"`{value}` has a share out of range", hint="a share is over 0 and at most 1")
    return found


def _one_of(what: str, kind: Any) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if value not in tuple(kind):
            raise unknown(what, str(value)[:40], kind)
        return kind(value)

    return parse


_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    "model": _text,
    "image_size": _whole(1),
    "classes": _whole(1),
    "pretrained": _truth,
    "widths": _shares,
    "depths": _shares,
    "plan": _text,
    "round_duration_s": duration_s,
    "deadline": _one_of("deadline", Deadline),
    "capacity": _number(0, 1),
    "rounds": _whole(1),
    "devices": _whole(1),
    "per_round": _whole(0),
    "timeout_s": duration_s,
    "learn_times": _truth,
    "method": _one_of("method", Method),
    "rule": _one_of("rule", AggregationRule),
    "batch": _whole(1),
    "epochs": _whole(1),
    "learning_rate": _number(0, 1e3),
    "momentum": _number(0, 1),
    "weight_decay": _number(0, 1e3),
    "server_momentum": _number(0, 0.99),
    "final_rate": _number(0, 1),
    "masked": _truth,
    "scaled": _truth,
    "proximal": _number(0, 1e3),
    "data": _text,
    "partition": _one_of("partition", Partition),
    "alpha": _number(1e-3, 1e6),
    "classes_each": _whole(1),
    "held_out": _number(0, 0.9),
    "held_out_locally": _number(0, 0.9),
    "up_bit_per_s": bandwidth_bit_per_s,
    "down_bit_per_s": bandwidth_bit_per_s,
    "fleet": _text,
    "seed": _whole(0),
    "output": _text,
}


def _key(name: str) -> str:
    return name.removesuffix("_bit_per_s").removesuffix("_s").replace("_", "-")


_FIELDS = {_key(field.name): (field.name, _PARSERS[field.name]) for field in fields(FederationSettings)}
