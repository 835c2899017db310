"""Plan files as JSON: the document `latte.plan/1`, written and read."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from latte_cli import documents
from latte_cli.allocator.channels import Coverage, Frequencies, Indices
from latte_cli.allocator.plan import Plan, PlannedDevice
from latte_cli.allocator.plan_file import CATALOGUE, PlanFile, Trainee
from latte_cli.allocator.rounds_file import ROUNDS_SCHEMA, RoundsFile, rounds_file, rounds_source
from latte_cli.allocator.sub_models import SubModel
from latte_cli.documents import DocumentSource
from latte_cli.fleet import FleetClass, Method
from latte_cli.network.channels import ChannelGroup
from latte_cli.precisions import Layout, Precision

SCHEMA = "latte.plan/1"

_MOST_BYTES = 1 << 30  # the separate channels of 10,000 devices take about half of it


def plan_document(file: PlanFile) -> dict[str, Any]:
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
        "sheet_share": planned.sheet_share,
    }


def runs(channels: Indices) -> list[list[int]]:
    """Ascending numbers as runs of neighbours, each by its first and its last."""
    parts = np.split(channels, np.flatnonzero(np.diff(channels) != 1) + 1)
    return [[int(part[0]), int(part[-1])] for part in parts if len(part)]


def read_plan(path: Path | str) -> PlanFile:
    """The plan in the JSON file at `path`; raises LatteError naming what is wrong with it."""
    hint = "`latte allocate MODEL --fleet FILE -o plan.json` makes one"
    source = DocumentSource(where=f"`{path}`", fault="is not a plan", kind="plan", hint=hint)
    return _plan_file(documents.load_document(path, SCHEMA, source, most_bytes=_MOST_BYTES), source)


def read_before(path: Path | str) -> PlanFile | RoundsFile:
    """The plan, or the rounds of a federation, in the JSON file at `path`, as its `schema` says.

    Raises LatteError naming what is wrong with it.
    """
    hint = "a plan of `latte allocate -o plan.json`, or `rounds.json` of a federation"
    either = DocumentSource(
        where=f"`{path}`", fault="is neither a plan nor a federation's rounds", kind="plan", hint=hint
    )
    found = documents.read(path, either, most_bytes=_MOST_BYTES)
    said = found.get("schema") if isinstance(found, dict) else None
    if said == ROUNDS_SCHEMA:
        documents.check(found, ROUNDS_SCHEMA, rounds_source(path))
        return rounds_file(found, rounds_source(path))
    documents.check(found, SCHEMA, either)
    return _plan_file(found, either)


def _plan_file(document: Mapping[str, Any], source: DocumentSource) -> PlanFile:
    model, chosen = document["model"], document["channels"]
    groups = tuple(map(_group, model["groups"]))
    channels = {group.name: group.channels for group in groups}
    sub_models = [_sub_model(each, channels, source) for each in document["sub_models"]]
    by_id = {each.id: each for each in sub_models}
    classes = [each["class"] for each in document["devices"]]
    if len(set(classes)) < len(classes):
        raise source.error("two of its classes have the same name")
    return PlanFile(
        model=model["name"],
        sha256=model["sha256"],
        parameters=model["parameters"],
        groups=groups,
        objective=document["objective"],
        plan=Plan(
            round_duration_s=float(document["round_duration_s"]),
            sub_models=tuple(sub_models),
            devices=tuple(
                _parse_planned(each, by_id, source, complete=document["objective"] == CATALOGUE)
                for each in document["devices"]
            ),
        ),
        method=Method(chosen["method"]),
        seed=chosen["seed"],
        round_number=chosen["round"],
        trainees=tuple(
            Trainee(
                class_name=each["class"],
                number=window["number"],
                kept={name: _numbers(found, name, channels, source) for name, found in window["channels"].items()},
            )
            for each in document["devices"]
            for window in each["windows"]
        ),
        frequencies=_frequencies(document["frequencies"], channels, source),
        coverage=_coverage(document["coverage"]),
    )


def _group(part: Mapping[str, Any]) -> ChannelGroup:
    return ChannelGroup(
        name=part["name"], channels=part["channels"], nodes=tuple(part["nodes"]), multiple=part["multiple"]
    )


def _sub_model(part: Mapping[str, Any], channels: Mapping[str, int], source: DocumentSource) -> SubModel:
    for name, width in part["widths"].items():
        if width > channels.get(name, 0):
            raise source.error(f"the width of `{name}` in `{part['id']}` is wrong")
    return SubModel(
        id=part["id"],
        widths=tuple(part["widths"].items()),
        parameters=part["parameters"],
        width=_float(part["width"]),
        depth=float(part["depth"]),
        dropped=tuple(part["dropped"]),
    )


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def _parse_planned(
    part: Mapping[str, Any], sub_models: Mapping[str, SubModel], source: DocumentSource, *, complete: bool
) -> PlannedDevice:
    """What a class trains; older plans with fine widths call the shortest round that was looked at the least."""
    chosen = part["sub_model"]
    if chosen is not None and chosen not in sub_models:
        raise source.error(f"there is no sub-model `{chosen}`")
    round_s, low_s, high_s, least_s = (_float(part[name]) for name in ("round_s", "low_s", "high_s", "least_s"))
    if chosen is not None and (round_s is None or low_s is None or high_s is None or not low_s <= round_s <= high_s):
        raise source.error(f"the round of `{part['class']}` has no time, or one outside its interval")
    return PlannedDevice(
        fleet_class=_fleet_class(part),
        device=part["device"],
        sub_model=None if chosen is None else sub_models[chosen],
        memory_bytes=part["memory_bytes"],
        round_s=round_s,
        low_s=low_s,
        high_s=high_s,
        least_s=least_s if complete else None,
        sheet_share=float(part.get("sheet_share", 0.0)),
    )


def _fleet_class(part: Mapping[str, Any]) -> FleetClass:
    training = part["training"]
    numbers = {name: float(training[name]) for name in ("up_bit_per_s", "down_bit_per_s", "overhead_s")}
    kinds = {"precision": Precision(training["precision"]), "layout": Layout(training["layout"])}
    return FleetClass(name=part["class"], count=part["count"], **{**training, **numbers, **kinds})


def _numbers(found: Any, name: str, channels: Mapping[str, int], source: DocumentSource) -> Indices:
    """The channels in runs of them, which ascend; all checks are here, for there may be millions of runs."""
    last, numbers = -1, []
    pairs: list[Any] = found if isinstance(found, list) else [None]
    for pair in pairs:
        good = isinstance(pair, list) and len(pair) == len(("first", "last")) and all(type(at) is int for at in pair)
        if not good or not last < pair[0] <= pair[1] < channels.get(name, 0):
            raise source.error(f"the channels of `{name}` are wrong")
        numbers.append(np.arange(pair[0], pair[1] + 1))
        last = pair[1]
    return np.concatenate(numbers) if numbers else np.arange(0)


def _frequencies(
    found: Mapping[str, Any] | None, channels: Mapping[str, int], source: DocumentSource
) -> Frequencies | None:
    if not found:
        return None
    if {name: len(counts) for name, counts in found.items()} != dict(channels):
        raise source.error("its frequencies are not those of its channel groups")
    return Frequencies(examples={name: np.array(counts, dtype=float) for name, counts in found.items()})


def _coverage(found: Mapping[str, Any] | None) -> Coverage | None:
    if not found:
        return None
    first, second = found["least_pair"]
    return Coverage(share=float(found["share"]), least_share=float(found["least_share"]), least_pair=(first, second))
