"""Rounds files: what the devices of a federation measured in its rounds, read to correct the prices of a plan."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from statistics import fmean
from typing import Any

import numpy as np

from latte_cli.allocator.channels import Frequencies
from latte_cli.allocator.learning import LATEST, MeasuredSteps, StepPrice, correct_rounds, most_spread_s
from latte_cli.allocator.plan import Priced
from latte_cli.allocator.pricing import Round
from latte_cli.documents import DocumentSource
from latte_cli.errors import LatteError, unknown
from latte_cli.fleet import FleetClass
from latte_cli.network import Network
from latte_cli.network.channels import channel_groups
from latte_cli.printable import printable

ROUNDS_SCHEMA = "latte-federation/1"

LONGEST_CLASS = 80  # so that a name with its number stays under the 100 characters that a server takes
"""The letters of a class's name that a device's begins with, before its number."""

_ROUNDING = 1e-9  # chosen: far over what a root is rounded by


@dataclass(frozen=True, kw_only=True)
class MeasuredDevice:
    """A device by its `name`, priced on the profile `device`, and what it measured in its rounds, the latest ones."""

    name: str
    device: str
    measured: tuple[MeasuredSteps, ...]


@dataclass(frozen=True, kw_only=True)
class RoundsFile:
    """The rounds of a federation of the model with this `sha256`, in steps of `batch` examples.

    `round_number` is that of the last one, from 0, and `frequencies` the table F after it. `devices` are those that
    measured their steps.
    """

    where: str
    model: str
    sha256: str
    batch: int
    round_number: int
    frequencies: Frequencies
    devices: tuple[MeasuredDevice, ...]

    def check_model(self, network: Network) -> None:
        """Raise LatteError where the rounds are of another model."""
        if self.sha256 != network.sha256:
            raise LatteError(
                f"{self.where} is of another model than `{network.name}`: `{self.model}`, sha256 {self.sha256[:12]}",
                hint="name the model that the federation trained",
            )
        wanted = {group.name: group.channels for group in channel_groups(network)}
        if {name: len(counts) for name, counts in self.frequencies.examples.items()} != wanted:
            raise LatteError(f"{self.where}: its frequencies are not those of `{network.name}`", hint=_HINT)

    def measured_by(self, classes: Sequence[FleetClass]) -> dict[str, list[MeasuredDevice]]:
        """The devices of each class, by its name: those called as it is, or so with a hyphen and a number.

        Raises LatteError for a device of no class, and for one that may be of two.
        """
        found: dict[str, list[MeasuredDevice]] = {}
        for each in self.devices:
            stem = re.sub(r"-[0-9]+\Z", "", each.name)
            meant = [
                one.name for one in classes if each.name == one.name or stem == one.name[:LONGEST_CLASS] != each.name
            ]
            if not meant:
                said = unknown("class", printable(stem)[:40], [one.name for one in classes])
                raise LatteError(f"{self.where}: `{printable(each.name)}` is of no class of the fleet", hint=said.hint)
            if len(meant) > 1:
                raise LatteError(
                    f"{self.where}: `{printable(each.name)}` may be of the classes {' and '.join(meant)}",
                    hint="call one of the classes otherwise",
                )
            found.setdefault(meant[0], []).append(each)
        return found

    def summaries(self, classes: Sequence[FleetClass]) -> Iterator[str]:
        """For each class with measured steps, how many rounds they are of and how long they took; as `measured_by`."""
        for name, devices in self.measured_by(classes).items():
            logs = [one.log_ratio for each in devices for one in each.measured]
            rounds = f"{len(logs)} rounds of {len(devices)} devices"
            yield f"class `{name}`: steps took {exp(fmean(logs)):.3g} times their estimate ({rounds})"

    def correct(self, priced: Priced) -> Priced:
        """Each class with its rounds, as corrected by what its devices measured; classes without any stay.

        Raises LatteError as `measured_by` does, for a device that was priced on another profile than its class is, and
        for another batch size.
        """
        by_class = self.measured_by([each for each, _ in priced])
        return [
            (each, self._correct_class(each, rounds, by_class[each.name]) if each.name in by_class else rounds)
            for each, rounds in priced
        ]

    def _correct_class(
        self, fleet_class: FleetClass, rounds: Sequence[Round], devices: Sequence[MeasuredDevice]
    ) -> tuple[Round, ...]:
        where = f"{self.where}, class `{fleet_class.name}`"
        for each in devices:
            if each.device != rounds[0].device:
                raise LatteError(
                    f"{where}: `{printable(each.name)}` was priced on `{printable(each.device)[:80]}`, "
                    f"and the class is on `{rounds[0].device}`",
                    hint="name the same profile as `device` of the class, or leave `--after` out",
                )
        if fleet_class.batch != self.batch:
            raise LatteError(
                f"{where}: its batch is {fleet_class.batch}, and that of the rounds {self.batch}",
                hint=f"`batch: {self.batch}`, or leave `--after` out",
            )
        return correct_rounds(rounds, [one for each in devices for one in each.measured])


_HINT = "a federation's server writes one as `rounds.json` in its `output`"


def rounds_source(path: object) -> DocumentSource:
    """How errors name the rounds file at `path`."""
    return DocumentSource(where=f"`{path}`", fault="is not a federation's rounds", kind="rounds file", hint=_HINT)


def rounds_file(document: Mapping[str, Any], source: DocumentSource) -> RoundsFile:
    """The rounds in a `document` that keeps to its schema; raises LatteError naming what is wrong with it."""
    if "model" not in document:
        raise source.error("it does not say of which model", "an earlier version wrote it; run the federation again")
    profiles = {each["name"]: each["device"] for each in document["devices"]}
    if len(profiles) < len(document["devices"]):
        raise source.error("two of its devices have the same name")
    measured: dict[str, list[MeasuredSteps]] = {}
    for at, each in enumerate(document["rounds"]):
        for trained in each["trained"]:
            place = f"`{printable(trained['name'])[:40]}` in round {at + 1}"
            if trained["name"] not in profiles:
                raise source.error(f"{place} is not one of its devices")
            if trained.get("step_s") is not None and trained.get("price") is not None:
                measured.setdefault(trained["name"], []).append(_parse_measured(trained, place, source))
    model = document["model"]
    return RoundsFile(
        where=source.where,
        model=model["name"],
        sha256=model["sha256"],
        batch=model["batch"],
        round_number=len(document["rounds"]) - 1,
        frequencies=Frequencies(
            examples={name: np.array(counts, dtype=float) for name, counts in document["frequencies"].items()}
        ),
        devices=tuple(
            MeasuredDevice(name=name, device=profiles[name], measured=tuple(found[-LATEST:]))
            for name, found in measured.items()
        ),
    )


def _parse_measured(trained: Mapping[str, Any], place: str, source: DocumentSource) -> MeasuredSteps:
    missing = [key for key in ("parameters", "steps", "step_spread_s") if trained.get(key) is None]
    if missing:
        raise source.error(f"{place} has steps without `{missing[0]}`")
    names = ("step_s", "low_s", "high_s", "alike")
    price = StepPrice(**{key: float(trained["price"][key]) for key in names if key in trained["price"]})
    if not price.low_s <= price.step_s <= price.high_s:
        raise source.error(f"the price of {place} is no interval")
    steps, step_s, spread_s = trained["steps"], float(trained["step_s"]), float(trained["step_spread_s"])
    if spread_s > most_spread_s(steps, step_s) * (1 + _ROUNDING):
        raise source.error(f"the steps of {place} spread more than they can")
    return MeasuredSteps(
        sub_model=trained["sub_model"],
        parameters=trained["parameters"],
        steps=steps,
        step_s=step_s,
        spread_s=spread_s,
        price=price,
    )
