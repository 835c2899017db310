"""Messages: what server and devices send each other, as Flower's records of plain arrays, numbers and texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any, TypeGuard

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from latte_cli.allocator import Round, SubModel
from latte_cli.errors import LatteError
from latte_cli.federated import npy
from latte_cli.federated.aggregation import Update
from latte_cli.federated.device import Prices, Returned

ARRAYS, FREQUENCIES, KEPT, TASK, TABLE, METRICS = "arrays", "frequencies", "kept", "task", "table", "metrics"

_OLD = "server and devices need the same version of LATTE"
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a device is asked: the graph of the `model`, the catalogue `sub_models`, and the round it is for.

    Rounds count from 0 and take `round_duration_s`; both say nothing where devices are asked for prices only.
    """

    model: bytes
    sub_models: tuple[SubModel, ...]
    round_number: int = 0
    round_duration_s: float = inf


def array_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """The record of `arrays`, in their order."""
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def arrays_in(record: ArrayRecord) -> dict[str, NDArray[Any]]:
    """The arrays in `record`, which come from anywhere: nothing is unpickled, and no more is allocated than was sent.

    Raises LatteError naming the array that is no plain one, or not what the record says of it.
    """
    found = {}
    for name, array in record.items():
        try:
            found[name] = _array(array)
        except ValueError as exc:
            raise LatteError(f"the array `{name[:_LONGEST_NAME]}` cannot be read: {exc}", hint=_OLD) from exc
    return found


def _array(array: Array) -> NDArray[Any]:
    if array.stype != SType.NUMPY:
        raise ValueError(f"it is serialised as `{array.stype[:_LONGEST_NAME]}`")
    found = npy.read(array.data)
    if (array.dtype, array.shape) != (str(found.dtype), found.shape):
        raise ValueError(f"it holds {found.shape} of {found.dtype}, which its record does not say")
    return found


def task_record(task: Task) -> ConfigRecord:
    """The record of `task`."""
    catalogue = [
        {
            "id": each.id,
            "widths": dict(each.widths),
            "parameters": each.parameters,
            "dropped": list(each.dropped),
        }
        for each in task.sub_models
    ]
    return ConfigRecord(
        {
            "model": task.model,
            "catalogue": json.dumps(catalogue),
            "round": task.round_number,
            "round-duration-s": task.round_duration_s,
        }
    )


def task_in(content: RecordDict) -> Task:
    """The task in a message's content; raises LatteError where there is none."""
    record = _config(content, TASK)
    model, catalogue = record.get("model"), record.get("catalogue")
    round_number, duration_s = record.get("round"), record.get("round-duration-s")
    if not (
        isinstance(model, bytes)
        and isinstance(catalogue, str)
        and isinstance(round_number, int)
        and isinstance(duration_s, float)
    ):
        raise LatteError("the server's task is incomplete", hint=_OLD)
    try:
        sub_models = tuple(
            SubModel(
                id=str(each["id"]),
                widths=tuple((str(name), int(width)) for name, width in each["widths"].items()),
                parameters=int(each["parameters"]),
                dropped=tuple(map(str, each["dropped"])),
            )
            for each in json.loads(catalogue)
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise LatteError("the server's catalogue of sub-models is damaged", hint=_OLD) from exc
    return Task(model=model, sub_models=sub_models, round_number=round_number, round_duration_s=duration_s)


def prices_record(prices: Prices) -> ConfigRecord:
    """The record of `prices`; a round that does not fit the memory takes for ever."""
    return ConfigRecord(
        {
            "name": prices.name,
            "number": prices.number,
            "device": prices.device,
            "examples": prices.examples,
            "ids": [each.sub_model.id for each in prices.rounds],
            "memory-bytes": [each.memory_bytes for each in prices.rounds],
            "round-s": [_or_ever(each.round_s) for each in prices.rounds],
            "low-s": [_or_ever(each.low_s) for each in prices.rounds],
            "high-s": [_or_ever(each.high_s) for each in prices.rounds],
        }
    )


def _or_ever(seconds: float | None) -> float:
    return inf if seconds is None else seconds


def prices_in(record: ConfigRecord, sub_models: Sequence[SubModel]) -> Prices:
    """The prices in `record`, for each of `sub_models`; raises LatteError where they are no such."""
    name, device = record.get("name"), record.get("device")
    number, examples = record.get("number"), record.get("examples")
    if not (_is_name(name) and _is_name(device) and _is_count(number, 0) and _is_count(examples, 1)):
        raise LatteError("it does not say what it is called and how many examples it has", hint=_OLD)
    if record.get("ids") != [each.id for each in sub_models]:
        raise LatteError("its prices are not those of the catalogue", hint=_OLD)
    sizes = record.get("memory-bytes")
    memory = [each for each in sizes if _is_count(each, 0)] if isinstance(sizes, list) else []
    if len(memory) != len(sub_models):
        raise LatteError("its sub-models have no sizes in memory", hint=_OLD)
    middle, low, high = (_seconds(record, key, len(sub_models)) for key in ("round-s", "low-s", "high-s"))
    rounds = tuple(
        Round(sub_model=each, device=device, memory_bytes=size, round_s=mid, low_s=least, high_s=most)
        for each, size, mid, least, most in zip(sub_models, memory, middle, low, high, strict=True)
    )
    return Prices(name=name, number=number, device=device, examples=examples, rounds=rounds)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST_NAME


def _is_count(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**63


def _seconds(record: ConfigRecord, key: str, count: int) -> list[float | None]:
    values = record.get(key)
    if not (isinstance(values, list) and len(values) == count):
        raise LatteError(f"its prices have no `{key}`", hint=_OLD)
    if not all(isinstance(each, float) and each > 0 for each in values):
        raise LatteError(f"its prices have a `{key}` that is no time", hint="profile the device again")
    return [float(each) if isfinite(float(each)) else None for each in values]


def returned_content(returned: Returned) -> RecordDict:
    """The content of a device's reply after training."""
    update = returned.update
    return RecordDict(
        {
            ARRAYS: array_record(update.arrays),
            KEPT: array_record(update.kept),
            FREQUENCIES: array_record(returned.frequencies),
            TASK: ConfigRecord({"sub-model": returned.sub_model, "dropped": list(update.dropped)}),
            METRICS: MetricRecord({"examples": update.examples, "loss": returned.loss}),
        }
    )


def returned_in(content: RecordDict) -> Returned:
    """What a device returns in `content`; raises LatteError naming the record that is missing or no such."""
    task, metrics = _config(content, TASK), _record(content, METRICS, MetricRecord)
    examples, loss = metrics.get("examples"), metrics.get("loss")
    sub_model, dropped = task.get("sub-model"), task.get("dropped")
    if not (_is_count(examples, 0) and isinstance(loss, float)):
        raise LatteError("its reply does not say how many examples it trained on, with which loss", hint=_OLD)
    if not (isinstance(sub_model, str) and isinstance(dropped, list)):
        raise LatteError("its reply does not say which sub-model it trained", hint=_OLD)
    arrays, kept, frequencies = (arrays_in(_record(content, key, ArrayRecord)) for key in (ARRAYS, KEPT, FREQUENCIES))
    update = Update(kept=kept, arrays=arrays, examples=examples, dropped=tuple(map(str, dropped)))
    return Returned(update=update, frequencies=frequencies, sub_model=sub_model, loss=loss)


def _config(content: RecordDict, key: str) -> ConfigRecord:
    found: ConfigRecord = _record(content, key, ConfigRecord)
    return found


def _record(content: RecordDict, key: str, kind: type[Any]) -> Any:
    found = content.get(key)
    if not isinstance(found, kind):
        raise LatteError(f"the message holds no `{key}`", hint=_OLD)
    return found
