"""Plan files: a plan with the model it is for and the channels that each device trains, as JSON."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latte_cli.allocator.channels import Coverage, Frequencies, Indices, Kept, coverage, kept
from latte_cli.allocator.plan import Plan, PlannedDevice
from latte_cli.allocator.sub_models import SubModel
from latte_cli.errors import LatteError
from latte_cli.fleet import FleetClass, Method
from latte_cli.network import Network
from latte_cli.network.channels import ChannelGroup, Resizing
from latte_cli.network.depth import blocks
from latte_cli.tasks import Layout, Precision

SCHEMA = "latte.plan/1"
CATALOGUE = "catalogue"
"""The objective of plans that give each class the largest sub-model of a catalogue."""

_LARGEST_FILE_BYTES = 1 << 30
MANY = 10_000
"""Of more devices the channels are not listed one by one."""

_T = TypeVar("_T")


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
        return len(self.trainees) == self.plan.training

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


def shared_out(
    plan: Plan,
    network: Network,
    *,
    objective: str,
    method: Method,
    seed: int = 0,
    before: PlanFile | None = None,
    importance: Mapping[str, Any] | None = None,
) -> PlanFile:
    """The plan with the channels of every device that trains; after `before`, the next round on its F.

    Devices choose one after the other, each on what those before it train; of more than 10,000 none is listed. Raises
    LatteError where `before` is for another model, and where `least-trained` has to go on from an F that is not known.
    """
    if before:
        before.check_model(network)
    listed = plan.training <= MANY
    resizing = _resizing(network, cut=any(each.sub_model and each.sub_model.widths for each in plan.devices))
    groups = resizing.groups if resizing else ()
    frequencies = _so_far(before, groups) if listed else None
    if listed and frequencies is None and method is Method.LEAST_TRAINED:
        raise LatteError(
            "the plan of the round before does not say how often each channel was trained",
            hint="choose other `--channels`, or begin again without `--after`",
        )
    round_number = before.round_number + 1 if before else 0
    trainees, number = [], 0
    for each in plan.devices if listed else ():
        gone = left_out(network, groups, each.sub_model)
        for _ in range(each.fleet_class.count):
            if each.sub_model:
                mine = kept(
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
    covered = coverage(resizing.pairs, groups, (each.kept for each in trainees)) if resizing and listed else None
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


def _resizing(network: Network, *, cut: bool) -> Resizing | None:
    """The network's channels; None where they cannot be followed and, since nothing is `cut`, need not be."""
    try:
        return Resizing(network)
    except LatteError:
        if cut:
            raise
        return None


def _so_far(before: PlanFile | None, groups: Sequence[ChannelGroup]) -> Frequencies | None:
    """F after the round `before`; None where the plan does not say."""
    if before is None:
        return Frequencies.none(groups)
    if before.frequencies:
        return before.frequencies
    if before.round_number or not before.listed:
        return None
    found = Frequencies.none(groups)
    examples = {each.fleet_class.name: _examples(each.fleet_class) for each in before.plan.devices}
    for each in before.trainees:
        found = found.after(each.kept, examples[each.class_name])
    return found


def _examples(fleet_class: FleetClass) -> int:
    """What a device is trained on in a round."""
    return fleet_class.samples * fleet_class.epochs


def left_out(network: Network, groups: Iterable[ChannelGroup], sub_model: SubModel | None) -> Kept:
    """Nothing of the groups that lie in the residual blocks that the sub-model is without."""
    dropped = sub_model.dropped if sub_model else ()
    gone = {node for block in blocks(network) if block.name in dropped for node in block.nodes} if dropped else set()
    return {group.name: np.arange(0) for group in groups if set(group.nodes) <= gone}


# As JSON


def as_json(file: PlanFile) -> dict[str, Any]:
    """The plan file as the document `latte.plan/1`.

    `devices` has an entry a class. Its `windows` are, for each of its devices, runs of channels by group, each as
    [first, last], both included; a group that is not named is trained whole.
    """
    return {
        "schema": SCHEMA,
        "model": {
            "name": file.model,
            "sha256": file.sha256,
            "parameters": file.parameters,
            "groups": [
                {"name": each.name, "channels": each.channels, "nodes": list(each.nodes), "multiple": each.multiple}
                for each in file.groups
            ],
        },
        "round_duration_s": file.plan.round_duration_s,
        "objective": file.objective,
        "sub_models": [
            {
                "id": each.id,
                "parameters": each.parameters,
                "width": each.width,
                "depth": each.depth,
                "widths": dict(each.widths),
                "dropped": list(each.dropped),
            }
            for each in file.plan.sub_models
        ],
        "devices": [_class_as_json(each, file.trainees) for each in file.plan.devices],
        "channels": {"method": file.method, "seed": file.seed, "round": file.round_number},
        "frequencies": {name: counts.tolist() for name, counts in file.frequencies.examples.items()}
        if file.frequencies
        else None,
        "coverage": asdict(file.coverage) if file.coverage else None,
    }


def _class_as_json(planned: PlannedDevice, trainees: Iterable[Trainee]) -> dict[str, Any]:
    training = asdict(planned.fleet_class)
    del training["name"], training["count"]
    return {
        **outcome(planned),
        "training": training,
        "windows": [
            {"number": each.number, "channels": {name: runs(channels) for name, channels in each.kept.items()}}
            for each in trainees
            if each.class_name == planned.fleet_class.name
        ],
    }


def outcome(planned: PlannedDevice) -> dict[str, str | int | float | None]:
    """What a class trains and how long that takes, by the document's names."""
    return {
        "class": planned.fleet_class.name,
        "count": planned.fleet_class.count,
        "device": planned.device,
        "sub_model": planned.sub_model.id if planned.sub_model else None,
        "parameters": planned.sub_model.parameters if planned.sub_model else None,
        "round_s": planned.round_s,
        "low_s": planned.low_s,
        "high_s": planned.high_s,
        "memory_bytes": planned.memory_bytes,
        "status": "ok" if planned.feasible else "infeasible",
        "least_s": planned.least_s,
    }


def runs(channels: Indices) -> list[list[int]]:
    """Ascending numbers as runs of neighbours, each by its first and its last."""
    parts = np.split(channels, np.flatnonzero(np.diff(channels) != 1) + 1)
    return [[int(part[0]), int(part[-1])] for part in parts if len(part)]


def read_plan(path: Path | str) -> PlanFile:
    """The plan in the JSON file at `path`; raises LatteError naming what is wrong with it."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
        document = json.loads(content) if len(content) <= _LARGEST_FILE_BYTES else None
    except OSError as exc:
        hint = "`latte allocate MODEL --fleet FILE -o plan.json` makes one"
        raise LatteError(f"cannot read the plan `{path}`: {exc.strerror}", hint=hint) from exc
    except (ValueError, RecursionError) as exc:
        raise LatteError(f"`{path}` is not a plan: it is not JSON", hint="is it the right file?") from exc
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        hint = (
            "make it again with `latte allocate`" if str(schema).startswith("latte.plan/") else "is it the right file?"
        )
        raise LatteError(f"`{path}` is not a plan of the form {SCHEMA}", hint=hint)
    reader = _Reader(f"`{path}`")
    return reader.plan_file(document or {})


class _Reader:
    """Reads a document part by part; what is not as it should be is named by its place."""

    def __init__(self, where: str) -> None:
        self._where = where

    def plan_file(self, document: Mapping[str, Any]) -> PlanFile:
        model = self.of(document, "model", dict)
        groups = tuple(self._group(each) for each in self.of(model, "groups", list))
        channels = {group.name: group.channels for group in groups}
        sub_models = tuple(self._sub_model(each, channels) for each in self.of(document, "sub_models", list))
        by_id = {each.id: each for each in sub_models}
        entries = self._entries(document)
        chosen = self.of(document, "channels", dict)
        objective = self.of(document, "objective", str)
        return PlanFile(
            model=self.of(model, "name", str),
            sha256=self.of(model, "sha256", str),
            parameters=self.count(model, "parameters"),
            groups=groups,
            objective=objective,
            plan=Plan(
                round_duration_s=self.number(document, "round_duration_s", least=5e-324),
                sub_models=sub_models,
                devices=tuple(self._class(each, by_id, complete=objective == CATALOGUE) for each in entries),
            ),
            method=self.parsed(chosen, "method", Method),
            seed=self.count(chosen, "seed"),
            round_number=self.count(chosen, "round"),
            trainees=tuple(
                self._trainee(each, window, channels) for each in entries for window in self.of(each, "windows", list)
            ),
            frequencies=self._frequencies(document, channels),
            coverage=self._coverage(document),
        )

    def _entries(self, document: Any) -> list[Any]:
        """The classes, at least one, each with a name of its own."""
        found = self.of(document, "devices", list)
        names = [self.text(each, "class") for each in found]
        if not names or len(set(names)) < len(names):
            raise LatteError(f"{self._where} is not a plan: the classes are wrong", hint="make it again")
        return found

    def of(self, part: Any, name: str, kind: type[_T]) -> _T:
        value = part.get(name) if isinstance(part, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise LatteError(f"{self._where} is not a plan: `{name}` is missing or wrong", hint="make it again")
        return value

    def text(self, part: Any, name: str) -> str:
        return self.of(part, name, str)

    def mapping(self, part: Any, name: str) -> dict[str, Any]:
        return self.of(part, name, dict)

    def number(self, part: Any, name: str, *, least: float = 0.0) -> float:
        value = part.get(name) if isinstance(part, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < float("inf"):
            raise LatteError(f"{self._where} is not a plan: `{name}` is missing or wrong", hint="make it again")
        return float(value)

    def count(self, part: Any, name: str, *, least: int = 0) -> int:
        value = self.of(part, name, int)
        self.number(part, name, least=least)
        return value

    def perhaps(self, part: Any, name: str, read: Callable[..., _T]) -> _T | None:
        return None if isinstance(part, dict) and part.get(name) is None else read(part, name)

    def parsed(self, part: Any, name: str, kind: Callable[[str], _T]) -> _T:
        try:
            return kind(self.of(part, name, str))
        except ValueError:
            raise LatteError(f"{self._where} is not a plan: `{name}` is wrong", hint="make it again") from None

    def texts(self, part: Any, name: str) -> tuple[str, ...]:
        found = self.of(part, name, list)
        if not all(isinstance(each, str) for each in found):
            raise LatteError(f"{self._where} is not a plan: `{name}` is wrong", hint="make it again")
        return tuple(found)

    def _group(self, part: Any) -> ChannelGroup:
        return ChannelGroup(
            name=self.of(part, "name", str),
            channels=self.count(part, "channels", least=1),
            nodes=self.texts(part, "nodes"),
            multiple=self.count(part, "multiple", least=1),
        )

    def _sub_model(self, part: Any, channels: Mapping[str, int]) -> SubModel:
        widths = self.of(part, "widths", dict)
        for name in widths:
            if name not in channels or not self.count(widths, name, least=1) <= channels[name]:
                raise LatteError(f"{self._where} is not a plan: the width of `{name}` is wrong", hint="make it again")
        return SubModel(
            id=self.of(part, "id", str),
            widths=tuple(widths.items()),
            parameters=self.count(part, "parameters"),
            width=self.perhaps(part, "width", self.number),
            depth=self.number(part, "depth"),
            dropped=self.texts(part, "dropped"),
        )

    def _class(self, part: Any, sub_models: Mapping[str, SubModel], *, complete: bool) -> PlannedDevice:
        """What a class trains; older plans with fine widths call the shortest round that was looked at the least."""
        chosen = self.perhaps(part, "sub_model", self.text)
        if chosen is not None and chosen not in sub_models:
            raise LatteError(f"{self._where} is not a plan: there is no sub-model `{chosen}`", hint="make it again")
        round_s, low_s, high_s, least_s = (
            self.perhaps(part, name, self.number) for name in ("round_s", "low_s", "high_s", "least_s")
        )
        if chosen is not None and (round_s is None or low_s is None or high_s is None):
            raise LatteError(f"{self._where} is not a plan: a round without its times", hint="make it again")
        if chosen is not None and not (low_s or 0.0) <= (round_s or 0.0) <= (high_s or 0.0):
            raise LatteError(f"{self._where} is not a plan: a round outside its interval", hint="make it again")
        return PlannedDevice(
            fleet_class=self._fleet_class(part),
            device=self.of(part, "device", str),
            sub_model=None if chosen is None else sub_models[chosen],
            memory_bytes=self.count(part, "memory_bytes"),
            round_s=round_s,
            low_s=low_s,
            high_s=high_s,
            least_s=least_s if complete else None,
        )

    def _fleet_class(self, part: Any) -> FleetClass:
        training = self.of(part, "training", dict)
        known = {field.name for field in fields(FleetClass)} - {"name", "count"}
        if set(training) != known:
            raise LatteError(f"{self._where} is not a plan: `training` is wrong", hint="make it again")
        return FleetClass(
            name=self.of(part, "class", str),
            count=self.count(part, "count", least=1),
            device=self.of(training, "device", str),
            samples=self.count(training, "samples", least=1),
            epochs=self.count(training, "epochs", least=1),
            batch=self.count(training, "batch", least=1),
            up_bit_per_s=self.number(training, "up_bit_per_s", least=1e-9),
            down_bit_per_s=self.number(training, "down_bit_per_s", least=1e-9),
            overhead_s=self.number(training, "overhead_s"),
            memory_bytes=self.perhaps(training, "memory_bytes", self.count),
            threads=self.perhaps(training, "threads", self.count),
            precision=self.parsed(training, "precision", Precision),
            layout=self.parsed(training, "layout", Layout),
            strategy=self.perhaps(training, "strategy", self.text),
            optimizer=self.perhaps(training, "optimizer", self.text),
        )

    def _trainee(self, entry: Any, window: Any, channels: Mapping[str, int]) -> Trainee:
        chosen = self.of(window, "channels", dict)
        return Trainee(
            class_name=self.of(entry, "class", str),
            number=self.count(window, "number"),
            kept={name: self._numbers(chosen[name], name, channels.get(name, 0)) for name in chosen},
        )

    def _numbers(self, found: Any, name: str, channels: int) -> Indices:
        last, numbers = -1, []
        pairs: list[Any] = found if isinstance(found, list) else [None]
        for pair in pairs:
            good = (
                isinstance(pair, list) and len(pair) == len(("first", "last")) and all(type(at) is int for at in pair)
            )
            if not good or not last < pair[0] <= pair[1] < channels:
                raise LatteError(
                    f"{self._where} is not a plan: the channels of `{name}` are wrong", hint="make it again"
                )
            numbers.append(np.arange(pair[0], pair[1] + 1))
            last = pair[1]
        return np.concatenate(numbers) if numbers else np.arange(0)

    def _frequencies(self, document: Any, channels: Mapping[str, int]) -> Frequencies | None:
        found: dict[str, Any] | None = self.perhaps(document, "frequencies", self.mapping)
        if not found:
            return None
        if {name: len(self.of(found, name, list)) for name in found} != dict(channels):
            raise LatteError(f"{self._where} is not a plan: `frequencies` are wrong", hint="make it again")
        for counts in found.values():
            for at, count in enumerate(counts):
                self.number({str(at): count}, str(at))
        return Frequencies(examples={name: np.array(counts, dtype=float) for name, counts in found.items()})

    def _coverage(self, document: Any) -> Coverage | None:
        found: dict[str, Any] | None = self.perhaps(document, "coverage", self.mapping)
        if not found:
            return None
        first, second = (*self.texts(found, "least_pair"), "", "")[:2]
        return Coverage(
            share=self.number(found, "share"),
            least_share=self.number(found, "least_share"),
            least_pair=(first, second),
        )


# Two plans


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a class did in the plan before and does in the one after; None where it is not there."""

    name: str
    before: PlannedDevice | None
    after: PlannedDevice | None

    @property
    def alike(self) -> bool:
        """Whether as many devices train the same in the same way, and take as long."""
        if self.before is None or self.after is None:
            return False
        return _trained(self.before) == _trained(self.after)


def _trained(planned: PlannedDevice) -> object:
    part = (planned.sub_model.widths, planned.sub_model.dropped) if planned.sub_model else None
    return part, planned.fleet_class.count, planned.device, planned.round_s, planned.low_s, planned.high_s


def changes(before: Iterable[PlannedDevice], after: Sequence[PlannedDevice]) -> list[Change]:
    """Each class of either plan, in the order of the later one, then those that are gone."""
    old = {each.fleet_class.name: each for each in before}
    new = {each.fleet_class.name: each for each in after}
    return [Change(name=name, before=old.get(name), after=new.get(name)) for name in dict.fromkeys((*new, *old))]
