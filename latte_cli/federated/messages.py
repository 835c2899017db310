"""Messages: what server and devices send each other, as Flower's records of plain arrays, numbers and texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isclose, isfinite
from typing import Any, TypeGuard

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import SType
from numpy.typing import NDArray

from latte_cli import documents
from latte_cli.allocator import Round, SubModel
from latte_cli.allocator.learning import most_spread_s
from latte_cli.documents import DocumentSource
from latte_cli.errors import LatteError
from latte_cli.federated import npy
from latte_cli.federated.aggregation import MOST_EXAMPLES, Update
from latte_cli.federated.device import MOST_DEVICES, DevicePrices, Returned
from latte_cli.federated.recipe import NetworkScore

ARRAYS, FREQUENCIES, KEPT, TASK, TABLE, METRICS = "arrays", "frequencies", "kept", "task", "table", "metrics"

SAME_VERSION = "server and devices need the same version of LATTE"
_CATALOGUE = "latte.catalogue/1"
_PROFILE = "profile the device again"
_ROUNDING = 1e-6  # chosen: far over what the sum of a few floats is rounded by
_LONGEST_NAME = 100  # chosen: a line of a log
_LONGEST_ROUND_S = 1e10  # 300 years; a mean over devices of more might not be finite
_MOST_LOSS = float(np.finfo(np.float32).max)  # devices compute it in single precision


@dataclass(frozen=True, kw_only=True)
class RoundTask:
    """What a device is asked: the graph of the `model`, the catalogue `sub_models`, and the round it is for.

    Rounds count from 0 and take `round_duration_s`; the device trains the entry `sub_model`. They say nothing where
    devices price or evaluate.
    """

    model: bytes
    sub_models: tuple[SubModel, ...]
    round_number: int = 0
    round_duration_s: float = inf
    sub_model: str = ""

    @property
    def entry(self) -> SubModel:
        """The sub-model to train; raises LatteError where the catalogue has none of that name."""
        found = next((each for each in self.sub_models if each.id == self.sub_model), None)
        if found is None:
            raise LatteError("the server's task names no sub-model of its catalogue", hint=SAME_VERSION)
        return found


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
            raise LatteError(f"the array `{name[:_LONGEST_NAME]}` cannot be read: {exc}", hint=SAME_VERSION) from exc
    return found


def _array(array: Array) -> NDArray[Any]:
    if array.stype != SType.NUMPY:
        raise ValueError(f"it is serialised as `{array.stype[:_LONGEST_NAME]}`")
    found = npy.read_array(array.data)
    if (array.dtype, array.shape) != (str(found.dtype), found.shape):
        raise ValueError(f"it holds {found.shape} of {found.dtype}, which its record does not say")
    return found


def task_record(task: RoundTask) -> ConfigRecord:
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
            "sub-model": task.sub_model,
        }
    )


def task_in(content: RecordDict) -> RoundTask:
    """The task in a message's content; raises LatteError where there is none."""
    record = config(content, TASK)
    model, catalogue = record.get("model"), record.get("catalogue")
    round_number, duration_s, sub_model = (record.get(key) for key in ("round", "round-duration-s", "sub-model"))
    if not (
        isinstance(model, bytes)
        and isinstance(catalogue, str)
        and _is_count(round_number, 0)
        and isinstance(duration_s, float)
        and duration_s > 0
        and isinstance(sub_model, str)
    ):
        raise LatteError("the server's task is incomplete", hint=SAME_VERSION)
    return RoundTask(
        model=model,
        sub_models=_catalogue(catalogue),
        round_number=round_number,
        round_duration_s=duration_s,
        sub_model=sub_model,
    )


def _catalogue(text: str) -> tuple[SubModel, ...]:
    source = DocumentSource(where="the server's catalogue of sub-models", fault="is damaged", hint=SAME_VERSION)
    found = documents.parse(text, source)
    documents.check(found, _CATALOGUE, source)
    return tuple(
        SubModel(
            id=each["id"],
            widths=tuple(each["widths"].items()),
            parameters=each["parameters"],
            dropped=tuple(each["dropped"]),
        )
        for each in found
    )


def prices_record(prices: DevicePrices) -> ConfigRecord:
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
            "step-s": [_or_ever(each.step_s) for each in prices.rounds],
            "sending-s": [each.sending_s if each.step_s else inf for each in prices.rounds],
            "sheet-shares": [each.sheet_share for each in prices.rounds],
            "steps": max((each.steps for each in prices.rounds), default=0),
        }
    )


def _or_ever(seconds: float | None) -> float:
    return inf if seconds is None else seconds


def prices_in(record: ConfigRecord, sub_models: Sequence[SubModel]) -> DevicePrices:
    """The prices in `record`, for each of `sub_models`; raises LatteError where they are no such."""
    name, device = record.get("name"), record.get("device")
    number, examples = record.get("number"), record.get("examples")
    if not (_is_name(name) and _is_name(device)):
        raise LatteError("it does not say what it is called and how many examples it has", hint=SAME_VERSION)
    if not (_is_count(number, 0, MOST_DEVICES - 1) and _is_count(examples, 1, MOST_EXAMPLES)):
        raise LatteError(f"`{name}` does not say what it is called and how many examples it has", hint=SAME_VERSION)
    try:
        rounds = _rounds(record, device, sub_models)
    except LatteError as exc:
        raise LatteError(f"`{name}`: {exc.message}", hint=exc.hint) from exc
    return DevicePrices(name=name, number=number, device=device, examples=examples, rounds=rounds)


def _rounds(record: ConfigRecord, device: str, sub_models: Sequence[SubModel]) -> tuple[Round, ...]:
    if record.get("ids") != [each.id for each in sub_models]:
        raise LatteError("its prices are not those of the catalogue", hint=SAME_VERSION)
    sizes = record.get("memory-bytes")
    memory = [each for each in sizes if _is_count(each, 0)] if isinstance(sizes, list) else []
    if len(memory) != len(sub_models):
        raise LatteError("its sub-models have no sizes in memory", hint=SAME_VERSION)
    middle, low, high = (_seconds(record, key, len(sub_models)) for key in ("round-s", "low-s", "high-s"))
    for each, *interval in zip(sub_models, low, middle, high, strict=True):
        if interval != sorted(interval) or isfinite(interval[0]) != isfinite(interval[-1]):
            raise LatteError(f"the times of `{each.id}` are no interval: {interval}", hint=_PROFILE)
    step, sending, steps = (
        *(_seconds(record, key, len(sub_models)) for key in ("step-s", "sending-s")),
        record.get("steps"),
    )
    if not _is_count(steps, 0):
        raise LatteError("its prices have no `steps`", hint=SAME_VERSION)
    return tuple(
        _round(
            Round(sub_model=each, device=device, memory_bytes=size, round_s=mid, low_s=least, high_s=most),
            steps=steps,
            step_s=step_s,
            sending_s=sending_s,
            sheet_share=share,
        )
        if isfinite(most)
        else Round(sub_model=each, device=device, memory_bytes=size)
        for each, size, mid, least, most, step_s, sending_s, share in zip(
            sub_models, memory, middle, low, high, step, sending, _sheet_shares(record, len(sub_models)), strict=True
        )
    )


def _sheet_shares(record: ConfigRecord, count: int) -> list[float]:
    """The shares that data sheets tell, 0 from a device of an earlier version; LatteError where they are none."""
    values = record.get("sheet-shares", [0.0] * count)
    if not isinstance(values, list) or len(values) != count:
        raise LatteError("its prices have no `sheet-shares`", hint=SAME_VERSION)
    if not all(isinstance(each, float) and 0 <= each <= 1 for each in values):
        raise LatteError("its prices have a `sheet-shares` that is no share", hint=SAME_VERSION)
    return [float(each) for each in values]


def _round(found: Round, *, steps: int, step_s: float, sending_s: float, sheet_share: float) -> Round:
    """The round with its parts; raises LatteError where they do not make it up."""
    if not isclose(steps * step_s + sending_s, found.round_s or 0.0, rel_tol=_ROUNDING):
        raise LatteError(f"the steps of `{found.sub_model.id}` do not make up its round", hint=_PROFILE)
    return replace(found, steps=steps, step_s=step_s, sending_s=sending_s, sheet_share=sheet_share)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= _LONGEST_NAME


def _is_count(value: object, least: int, most: int = 2**63 - 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _seconds(record: ConfigRecord, key: str, count: int) -> list[float]:
    values = record.get(key)
    if not (isinstance(values, list) and len(values) == count):
        raise LatteError(f"its prices have no `{key}`", hint=SAME_VERSION)
    if not all(isinstance(each, float) and (0 < each <= _LONGEST_ROUND_S or each == inf) for each in values):
        raise LatteError(f"its prices have a `{key}` that is no time", hint=_PROFILE)
    return [float(each) for each in values]


def returned_content(returned: Returned) -> RecordDict:
    """The content of a device's reply after training; no list in it is empty, which `message_size_mod` cannot count."""
    update, step_s = returned.update, returned.step_s
    measured = {} if step_s is None else {"step-s": step_s, "step-spread-s": returned.spread_s}
    dropped = {"dropped": list(update.dropped)} if update.dropped else {}
    return RecordDict(
        {
            ARRAYS: array_record(update.arrays),
            KEPT: array_record(update.kept),
            FREQUENCIES: array_record(returned.frequencies),
            TASK: ConfigRecord({"sub-model": returned.sub_model, "round": returned.round_number, **dropped}),
            METRICS: MetricRecord(
                {
                    "examples": update.examples,
                    "trained": returned.trained,
                    "loss": returned.loss,
                    "steps": returned.steps,
                    **measured,
                }
            ),
        }
    )


def returned_in(content: RecordDict) -> Returned:
    """What a device returns in `content`; raises LatteError naming the record that is missing or no such."""
    task, metrics = config(content, TASK), _record(content, METRICS, MetricRecord)
    examples, trained, loss = metrics.get("examples"), metrics.get("trained"), metrics.get("loss")
    sub_model, dropped, round_number = task.get("sub-model"), task.get("dropped", []), task.get("round")
    if not (_is_count(examples, 0) and _is_count(trained, 0) and isinstance(loss, float)):
        raise LatteError("its reply does not say how many examples it trained on, with which loss", hint=SAME_VERSION)
    if not (
        isinstance(sub_model, str) and isinstance(dropped, list) and all(isinstance(each, str) for each in dropped)
    ):
        raise LatteError("its reply does not say which sub-model it trained", hint=SAME_VERSION)
    steps, step_s, spread_s = _steps(metrics)
    arrays, kept, frequencies = (arrays_in(_record(content, key, ArrayRecord)) for key in (ARRAYS, KEPT, FREQUENCIES))
    return Returned(
        update=Update(kept=kept, arrays=arrays, examples=examples, dropped=tuple(map(str, dropped))),
        frequencies=frequencies,
        sub_model=sub_model,
        loss=_loss(loss),
        trained=trained,
        round_number=round_number if _is_count(round_number, 0) else -1,
        steps=steps,
        step_s=step_s,
        spread_s=spread_s,
    )


def _steps(metrics: MetricRecord) -> tuple[int, float | None, float]:
    """How many steps a device took, and how long: the mean and the deviation in seconds, None and 0 if not measured."""
    steps, step_s, spread_s = (metrics.get(key) for key in ("steps", "step-s", "step-spread-s"))
    if not _is_count(steps, 1):
        raise LatteError("its reply does not say how many steps it took", hint=SAME_VERSION)
    if step_s is None and spread_s is None:
        return steps, None, 0.0
    if not (isinstance(step_s, float) and 0 < step_s <= _LONGEST_ROUND_S):
        raise LatteError("its steps took no time that can be", hint=SAME_VERSION)
    if not (isinstance(spread_s, float) and 0 <= spread_s <= most_spread_s(steps, step_s)):
        raise LatteError("its steps spread more than they can", hint=SAME_VERSION)
    return steps, step_s, spread_s


def score_record(score: NetworkScore, examples: int) -> MetricRecord:
    """The record of the `score` of a network on so many `examples`."""
    return MetricRecord({"examples": examples, "accuracy": score.accuracy, "loss": score.loss})


def score_in(content: RecordDict, *, most_examples: int) -> tuple[int, NetworkScore]:
    """The number of examples and the score in `content`; raises LatteError where they are none."""
    metrics = _record(content, METRICS, MetricRecord)
    examples, accuracy, loss = (metrics.get(key) for key in ("examples", "accuracy", "loss"))
    if not (isinstance(examples, int) and isinstance(accuracy, float) and isinstance(loss, float)):
        raise LatteError("its reply holds no score", hint=SAME_VERSION)
    if not (examples >= 1 and 0 <= accuracy <= 1):
        raise LatteError(f"its score is no score: {accuracy:g} of {examples}", hint="is its data in order?")
    if examples > most_examples:
        raise LatteError(
            f"it evaluated on {examples} examples", hint=f"by its prices it holds out {most_examples} at most"
        )
    return examples, NetworkScore(accuracy=accuracy, loss=_loss(loss))


def _loss(value: float) -> float:
    if not 0 <= value <= _MOST_LOSS:
        raise LatteError(
            f"its loss is no number from 0 to {_MOST_LOSS:.2g}: {value:g}", hint="a smaller learning rate may help"
        )
    return value


def config(content: RecordDict, key: str) -> ConfigRecord:
    """The record of values called `key`; raises LatteError where there is none."""
    found: ConfigRecord = _record(content, key, ConfigRecord)
    return found


def _record(content: RecordDict, key: str, kind: type[Any]) -> Any:
    found = content.get(key)
    if not isinstance(found, kind):
        raise LatteError(f"the message holds no `{key}`", hint=SAME_VERSION)
    return found
