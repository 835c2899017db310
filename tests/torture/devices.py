"""Hostile devices: each is refused and named, and the good devices beside them alone decide the result.

`python tests/torture/devices.py` runs one federation of two good devices and a bad one of each kind, and one without
the bad ones. It prints how many kinds there are and each fault, and ends with 1 if there is one.
"""

import json
import logging
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from io import BytesIO
from math import inf, nan
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import numpy as np  # noqa: E402
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402

from latte_cli.allocator.channels import Frequencies  # noqa: E402
from latte_cli.federated import client, messages, models, server  # noqa: E402
from latte_cli.federated.aggregation import Update, groups, trained_channels  # noqa: E402
from latte_cli.federated.device import DevicePrices, Returned  # noqa: E402
from latte_cli.federated.grid import LocalGrid, _copy  # noqa: E402
from latte_cli.federated.recipe import NetworkScore  # noqa: E402
from latte_cli.federated.settings import FederationSettings, settings  # noqa: E402
from latte_cli.federated.strategy import Overlap  # noqa: E402

CPU, GPU = "reference-amd-epyc-family-26-model-2-2c-2t", "nvidia-h200-reference"
CONFIG = {
    **{"model": "custom_cnn", "image-size": 8, "round-duration": "1s", "rounds": 2, "learning-rate": 0.02},
    **{"partition": "iid", "deadline": "drop", "held-out-locally": 0.2, "learn-times": False},
}
GOOD = (
    {"partition-id": 0, "num-partitions": 2, "device": CPU, "up": "4Mbit"},
    {"partition-id": 1, "num-partitions": 2, "device": GPU, "name": "workstation"},
)
PRICES, TRAINING, SCORE = "query", "train", "evaluate"  # what the server asks for: Flower's types of messages
BUSY = "busy with something else"  # what a bad device says where it gets no message that it is bad at

# Values of the kinds that fields have, none of which a good device sends

GONE = object()
LONG = "n" * 101
MEGABYTE = "m" * (1 << 20)
CONTROLS = {
    **{"ESC": "\x1b[2J", "BEL": "\a", "NUL": "\0", "CR": "\r", "LF": "\n", "TAB": "\t", "DEL": "\x7f"},
    **{"CSI": "\x9b2J", "NEL": "\x85", "RLO": "\u202e", "RLI": "\u2066", "ZWSP": "\u200b", "BOM": "\ufeff"},
    **{"LS": "\u2028", "tag": "\U000e0041", "private": "\ue000", "noncharacter": "\ufffe"},
}
WRONG_TYPES = {"missing": GONE, "list": [7], "bytes": b"7", "bool": True}
COUNTS = {**WRONG_TYPES, "text": "7", "fraction": 1.5, "nan": nan, "inf": inf, "negative": -1, "huge": 2**62}
NUMBERS = {
    **{"missing": GONE, "list": [1.0], "text": "1", "int": 1, "nan": nan, "inf": inf, "-inf": -inf},
    **{"negative": -1.0, "huge": 1e308},
}
TEXTS = {
    **{"missing": GONE, "int": 7, "bytes": b"7", "list": ["a"], "empty": "", "long": LONG, "megabyte": MEGABYTE},
    **{name: f"a{sign}b" for name, sign in CONTROLS.items()},
}

# Cases: what becomes of a good reply

Replies: TypeAlias = Message | Sequence[Message]
Change: TypeAlias = Callable[[Message, Message], Replies]
"""What a bad device sends in place of a good reply; the second message is the server's."""


class Case(NamedTuple):
    """A kind of bad device: which message it gets when it answers badly, and how."""

    name: str
    asked: str
    change: Change


def with_content(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    """The reply with other records."""
    return lambda reply, asked: Message(RecordDict(change(dict(reply.content))), reply_to=asked)


def with_record(key: str, change: Callable[[Any], Any]) -> Change:
    """The reply with another record under `key`; none where `change` returns None."""

    def records(content: dict[str, Any]) -> dict[str, Any]:
        return {name: each for name, each in {**content, key: change(content[key])}.items() if each is not None}

    return with_content(records)


def with_value(key: str, name: str, value: Any) -> Change:
    """The reply with another value in a record; `value` may be a function of the good one."""

    def record(before: Any) -> Any:
        found = dict(before)
        found[name] = value(found[name]) if callable(value) else value
        return type(before)({name: each for name, each in found.items() if each is not GONE})

    return with_record(key, record)


def carries(kind: type[Any], value: Any) -> bool:
    """Whether Flower's records of a kind carry the value at all."""
    try:
        kind({"a": value} if value is not GONE and not callable(value) else {})
    except TypeError:
        return False
    return True


def fields(asked: str, key: str, kind: type[Any], name: str, values: Mapping[str, Any]) -> Iterator[Case]:
    """A case for each value of a field."""
    for how, value in values.items():
        if carries(kind, value):
            yield Case(f"{asked}: {key}/{name}: {how}", asked, with_value(key, name, value))


def records(asked: str, key: str) -> Iterator[Case]:
    """Cases in which a whole record is another."""
    others = {
        "missing": None,
        "empty arrays": ArrayRecord(),
        "empty values": ConfigRecord(),
        "empty numbers": MetricRecord(),
        "other values": ConfigRecord({"a": "b"}),
    }
    for how, record in others.items():
        yield Case(f"{asked}: {key}: {how}", asked, with_record(key, lambda _, record=record: record))


# Prices


def every(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda before: [value] * len(before)


def first(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda before: [value, *before[1:]]


SECONDS = {
    **{"missing": GONE, "scalar": 1.0, "text": "1", "texts": every("1"), "ints": every(1), "none": lambda _: []},
    **{"too few": lambda before: before[1:], "too many": lambda before: [*before, before[0]]},
    **{"nan": first(nan), "inf": first(inf), "-inf": first(-inf), "negative": first(-1.0), "zero": first(0.0)},
    **{"huge": first(1e308), "all huge": every(1e308), "all bools": every(True)},
}
SIZES = {
    **{"missing": GONE, "scalar": 1, "texts": every("1"), "fractions": every(1.5), "negative": first(-1)},
    **{"too few": lambda before: before[1:], "all bools": every(True)},
}
IDS = {
    **{"missing": GONE, "text": "w1", "ints": every(1), "too few": lambda before: before[1:]},
    **{"in another order": lambda before: before[::-1], "others": first("w2"), "escape": first("\x1b[2J")},
}


def low_over_high(reply: Message, asked: Message) -> Message:
    """Intervals whose ends are swapped."""
    table = dict(reply.content["table"])
    table["low-s"], table["high-s"] = table["high-s"], table["low-s"]
    return Message(RecordDict({"table": ConfigRecord(table)}), reply_to=asked)


def no_round_fits(reply: Message, asked: Message) -> Message:
    """Prices of a device that no sub-model fits."""
    keys = ("round-s", "low-s", "high-s", "step-s", "sending-s")
    table = {key: [inf] * len(each) if key in keys else each for key, each in reply.content["table"].items()}
    return Message(RecordDict({"table": ConfigRecord(table)}), reply_to=asked)


def prices_cases() -> Iterator[Case]:
    """Bad prices."""
    own = partial(fields, PRICES, "table", ConfigRecord)
    yield from records(PRICES, "table")
    for name in ("name", "device"):
        yield from own(name, TEXTS)
    yield from own("name", {"a good device's": "device-0", "the other good device's": "workstation"})
    for name in ("number", "examples", "steps"):
        yield from own(name, COUNTS)
    yield from own("examples", {"zero": 0})
    yield from own("ids", IDS)
    yield from own("memory-bytes", SIZES)
    for name in ("round-s", "low-s", "high-s", "step-s", "sending-s"):
        yield from own(name, SECONDS)
    yield Case("query: low over high", PRICES, low_over_high)
    yield Case("query: no sub-model fits", PRICES, no_round_fits)


# Training


def npy(array: Any) -> bytes:
    data = BytesIO()
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


def header(shape: str = "(10,)", descr: str = "'<f4'", payload: bytes = bytes(40)) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + payload


def number(value: float) -> Callable[[Any], Any]:
    """An array with one number changed."""

    def change(before: Any) -> Any:
        after = before.copy()
        after.flat[0] = value
        return after

    return change


ARRAYS: Mapping[str, Callable[[Any], Any]] = {
    **{"short": lambda each: each[1:], "long": lambda each: np.concatenate([each, each[:1]])},
    **{"deep": lambda each: each[None], "deepest": lambda each: each[(None,) * 20], "flat": lambda each: each[0]},
    **{"empty": lambda each: each[:0], "table": lambda each: np.stack([each, each])},
    **{kind: lambda each, kind=kind: each.astype(kind) for kind in ("?", "c8", "U9", ">f4")},
}
FLOATS = {
    **{kind: lambda each, kind=kind: each.astype(kind) for kind in ("f2", "f8", "i4", "i8", "u1")},
    **{"nan": number(nan), "inf": number(inf), "-inf": number(-inf), "3e38": number(3e38), "1e30": number(1e30)},
    **{"all 3e38": lambda each: np.full_like(each, 3e38), "all 1e6": lambda each: np.full_like(each, 1e6)},
}
CHANNELS = {
    **{"twice": lambda each: np.repeat(each[:1], len(each)), "descending": lambda each: each[::-1].copy()},
    **{"negative": number(-1), "beyond": lambda each: each + 1000, "others": lambda each: each + 1},
    **{"fractions": lambda each: each + 0.5, "fewer": lambda each: each[:-1]},
    **{"huge": lambda each: np.full(len(each), 2**64 - 1, "u8")},
}
FREQUENCIES = {
    **{"nan": number(nan), "inf": number(inf), "negative": number(-1), "1e300": number(1e300)},
    **{"more": lambda each: each + 1e6, "fewer": lambda each: each - 1, "none": np.zeros_like},
}
RAW: Mapping[str, Array] = {
    name: Array("float32", (10,), stype, data)
    for name, stype, data in (
        ("pickle", "numpy.ndarray", npy(np.array([{"a": 1}] * 10, dtype=object))),
        ("another serialisation", "pickle", header()),
        ("a serialisation that writes to the terminal", "\x1b[2J", header()),
        ("no bytes", "numpy.ndarray", b""),
        ("half", "numpy.ndarray", header()[:40]),
        ("a byte less", "numpy.ndarray", header(payload=bytes(39))),
        ("a byte more", "numpy.ndarray", header(payload=bytes(41))),
        ("a terabyte", "numpy.ndarray", header("(1000000000000,)")),
        ("a dimension beyond all memory", "numpy.ndarray", header("(" + "9" * 400 + ",)")),
        ("a negative dimension", "numpy.ndarray", header("(-10,)")),
        ("nothing of enormous dimensions", "numpy.ndarray", header("(0, 999999999999999999)", payload=b"")),
        ("a nested header", "numpy.ndarray", header("(" * 60000)),
        ("minus signs", "numpy.ndarray", header("(" + "-" * 9000 + "1,)")),
        ("code", "numpy.ndarray", header("__import__('os').abort()")),
        ("objects", "numpy.ndarray", header(descr="'|O'", payload=bytes(80))),
        ("fields", "numpy.ndarray", header(descr="[('a', '<f4')]")),
    )
} | {
    "another shape than it says": Array("float32", (5, 2), "numpy.ndarray", header()),
    "another type than it says": Array("float64", (10,), "numpy.ndarray", header()),
    "a type that writes to the terminal": Array("\x1b[2J", (10,), "numpy.ndarray", header()),
}


def arrays(key: str, changes: Mapping[str, Callable[[Any], Any]]) -> Iterator[Case]:
    """Cases in which the last array of a record is another, gone, or not alone."""

    def changed(change: Callable[[str, ArrayRecord], Mapping[str, Array]]) -> Change:
        return with_record(key, lambda before: ArrayRecord(dict(change(list(before)[-1], before))))

    def plain(change: Callable[[Any], Any], name: str, before: ArrayRecord) -> Mapping[str, Array]:
        return {**before, name: Array(np.asarray(change(before[name].numpy())))}

    def raw(array: Array, name: str, before: ArrayRecord) -> Mapping[str, Array]:
        return {**before, name: array}

    def other(named: str, name: str, before: ArrayRecord) -> Mapping[str, Array]:
        return {**before, named: before[name]}

    ways = {how: partial(plain, change) for how, change in {**ARRAYS, **changes}.items()}
    ways |= {how: partial(raw, array) for how, array in RAW.items()}
    ways |= {f"one more called {how}": partial(other, named) for how, named in _other_names().items()}
    ways["missing"] = lambda name, before: {each: array for each, array in before.items() if each != name}
    ways["renamed"] = lambda name, before: {f"{each}x": array for each, array in before.items()}
    for how, change in ways.items():
        yield Case(f"train: {key}: {how}", TRAINING, changed(change))


def _other_names() -> dict[str, str]:
    return {**{name: f"a{sign}" for name, sign in CONTROLS.items()}, "empty": "", "long": LONG, "megabyte": MEGABYTE}


def sent_again(reply: Message, asked: Message) -> list[Message]:
    """The same reply twice."""
    return [reply, _copy(reply)]


def metadata(**changes: Any) -> Change:
    """The reply with other metadata."""

    def change(reply: Message, asked: Message) -> Message:
        for name, value in changes.items():
            reply.metadata.__dict__[f"_{name}"] = value
        return reply

    return change


def error(reason: str | None) -> Change:
    """An error reply."""
    return lambda reply, asked: Message(Error(code=2, reason=reason), reply_to=asked)


def common_cases(asked: str) -> Iterator[Case]:
    """Replies that are bad whatever was asked."""
    ways: dict[str, Change] = {
        "no records": lambda reply, asked: Message(RecordDict(), reply_to=asked),
        "what it was sent": lambda reply, asked: Message(asked.content, reply_to=asked),
        "twice": sent_again,
        "three times": lambda reply, asked: [reply, _copy(reply), _copy(reply)],
        "a good one and an error": lambda reply, asked: [reply, *_listed(error("no")(reply, asked))],
        "to another message": metadata(reply_to_message_id="7"),
        "to another kind of message": metadata(message_type="system"),
        "of another round": metadata(group_id="77"),
        "of a round that writes to the terminal": metadata(group_id="\x1b[2J"),
        "of another node": metadata(src_node_id=77),
        "in a good device's name": metadata(src_node_id=2**63),
        "more than it can hold": with_content(lambda each: {**each, "more": ConfigRecord({"a": bytes(9_000_000)})}),
        "an error of megabytes": error("://" * (1 << 20)),
        "an error without a reason": error(None),
        **{f"an error with {name}": error(f"a{sign}b\nerror: gone") for name, sign in CONTROLS.items()},
    }
    for how, change in ways.items():
        yield Case(f"{asked}: {how}", asked, change)


def _listed(replies: Replies) -> Sequence[Message]:
    return [replies] if isinstance(replies, Message) else replies


@dataclass
class Replay:
    """A device that fails in the first round, and then sends what it made in the first."""

    whole: bool
    kept: Message | None = None

    def __call__(self, reply: Message, asked: Message) -> Message:
        if self.kept is None:
            self.kept = reply
            return Message(Error(code=2, reason="not yet"), reply_to=asked)
        return _copy(self.kept) if self.whole else Message(self.kept.content, reply_to=asked)


def training_cases() -> Iterator[Case]:
    """Bad replies after training."""
    for key in ("arrays", "kept", "frequencies", "task", "metrics"):
        yield from (each for each in records(TRAINING, key) if each.name != "train: kept: empty arrays")
    yield from arrays("arrays", FLOATS)
    yield from arrays("kept", CHANNELS)
    yield from arrays("frequencies", FREQUENCIES)
    numbers = partial(fields, TRAINING, "metrics", MetricRecord)
    for name in ("examples", "trained"):
        yield from numbers(name, {**COUNTS, "zero": 0, "one more": lambda before: before + 1})
    yield from numbers("loss", NUMBERS)
    yield from numbers("steps", {**COUNTS, "zero": 0, "too few": 1, "too many": lambda before: before + 1})
    yield from numbers("step-s", {**NUMBERS, "zero": 0.0, "four hundred years": 1.3e10})
    yield from numbers("step-spread-s", {**NUMBERS, "more than its steps can": 1e3})
    task = partial(fields, TRAINING, "task", ConfigRecord)
    yield from task("sub-model", {**TEXTS, "another": "w1"})
    yield from task("round", {**COUNTS, "another": 7})
    dropped = {"ints": [7], "int": 7, "text": "layer1", "a block": ["layer1"], "a secret": ["s3://a:hidden@b/c"]}
    yield from task("dropped", {**dropped, **{name: [f"a{sign}"] for name, sign in CONTROLS.items()}})
    yield Case("train: what it made in another round", TRAINING, Replay(whole=False))
    yield Case("train: its reply of another round", TRAINING, Replay(whole=True))


def score_cases() -> Iterator[Case]:
    """Bad scores."""
    yield from records(SCORE, "metrics")
    own = partial(fields, SCORE, "metrics", MetricRecord)
    yield from own("examples", {**COUNTS, "zero": 0, "all that any device has": 10**9})
    yield from own("loss", NUMBERS)
    yield from own("accuracy", {**NUMBERS, "over 1": 1.0000001})


def cases() -> list[Case]:
    """All kinds of bad devices."""
    own = {PRICES: prices_cases, TRAINING: training_cases, SCORE: score_cases}
    return [case for asked, make in own.items() for case in (*make(), *common_cases(asked))]


# The federation


@dataclass
class Hostile:
    """Bad devices that would send good replies, each in one way bad, beside two good ones."""

    cases: Sequence[Case]
    prices: DevicePrices
    chosen: FederationSettings = field(default_factory=lambda: settings(CONFIG))

    def app(self) -> ClientApp:
        """The app of all devices."""
        found = ClientApp()
        for kind in (found.query, found.train, found.evaluate):
            kind()(self._answer)
        return found

    def case(self, node: Mapping[str, Any]) -> Case | None:
        """The kind of a node; None for a good one."""
        at = int(node["partition-id"]) - len(GOOD)
        return None if at < 0 else self.cases[at]

    def _answer(self, message: Message, context: Any) -> Message:
        case = self.case(context.node_config)
        if case is None:
            found: Message = client.app(message, context)
            return found
        if message.metadata.message_type not in (PRICES, case.asked):
            return Message(Error(code=2, reason=BUSY), reply_to=message)
        return Message(self._content(message, int(context.node_config["partition-id"])), reply_to=message)

    def _content(self, message: Message, number: int) -> RecordDict:
        """What a good device replies, but for the training, of which it has what it was sent."""
        own = replace(self.prices, name=f"bad-{number - len(GOOD)}", number=number)
        if message.metadata.message_type == PRICES:
            return RecordDict({"table": messages.prices_record(own)})
        if message.metadata.message_type == SCORE:
            return RecordDict({"metrics": messages.score_record(NetworkScore(accuracy=0.0, loss=9.0), 9)})
        task = messages.task_in(message.content)
        kept, sent = (messages.arrays_in(message.content.array_records[key]) for key in ("kept", "arrays"))
        network = _network(task.model)
        gained = Frequencies.none(groups(network)).after(trained_channels(network, kept), own.examples)
        returned = Returned(
            update=Update(kept=kept, arrays=sent, examples=own.examples),
            frequencies=gained.examples,
            sub_model=task.sub_model,
            loss=1.0,
            trained=own.examples,
            round_number=task.round_number,
            steps=-(-own.examples // network.batch_size),
            step_s=0.01,
        )
        return messages.returned_content(returned)

    def nodes(self) -> list[dict[str, Any]]:
        """The configurations of all nodes."""
        bad = ({**GOOD[0], "partition-id": len(GOOD) + at} for at in range(len(self.cases)))
        return [*map(dict, GOOD), *bad]


@cache
def _network(model: bytes) -> Any:
    return models.network_from(model, batch=32)


class HostileGrid(LocalGrid):
    """A grid on which the replies of bad devices are changed on their way."""

    def __init__(self, hostile: Hostile) -> None:
        super().__init__(hostile.app(), hostile.nodes(), CONFIG)
        self._kinds = {key: hostile.case(each.node_config) for key, each in self._contexts.items()}
        self._messages: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = list(messages)
        keys = list(super().push_messages(sent))
        self._messages |= dict(zip(keys, sent, strict=True))
        return keys

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        keys = list(message_ids)
        replies = list(super().pull_messages(keys))
        found = zip((self._messages[each] for each in keys), replies, strict=True)
        return [_copy(each) for asked, reply in found for each in self._changed(asked, reply)]

    def _changed(self, asked: Message, reply: Message) -> Sequence[Message]:
        case = self._kinds[asked.metadata.dst_node_id]
        if case is None or case.asked != asked.metadata.message_type:
            return [reply]
        return _listed(case.change(reply, asked))


class Log(logging.Handler):
    """What the federation says."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Outcome(NamedTuple):
    """What came of a federation: its strategy, the files that it wrote, and its log."""

    strategy: Overlap
    model: bytes
    document: str
    log: list[str]


def federation(bad: Sequence[Case], prices: DevicePrices) -> Outcome:
    """Run the server's own code with the two good devices and the bad ones."""
    log, logger = Log(), logging.getLogger("flwr")
    logger.addHandler(log)
    hostile = Hostile(bad, prices)
    try:
        with tempfile.TemporaryDirectory() as folder:
            strategy, _ = server.federation(HostileGrid(hostile), replace(hostile.chosen, output=folder))
            path = Path(folder)
            found = (path / "model.safetensors").read_bytes(), (path / "rounds.json").read_text("utf-8")
    finally:
        logger.removeHandler(log)
    return Outcome(strategy, *found, log.lines)


def good_prices() -> DevicePrices:
    """The prices of a slow device, which trains a part of the channels."""
    chosen = settings(CONFIG)
    model = models.content("custom_cnn", image_size=8)
    network = _network(model)
    strategy = server._strategy(network, model, chosen)
    grid = LocalGrid(client.app, [dict(GOOD[0])], dict(CONFIG))
    strategy.price(grid)
    (found,) = strategy.devices.values()
    return found


# What has to hold


def faults(bad: Sequence[Case]) -> list[str]:
    """What is wrong with a federation of good devices and these bad ones."""
    prices = good_prices()
    alone, found = federation([], prices), federation(bad, prices)
    return [
        *_result_faults(alone, found),
        *(f"{each.name}: {fault}" for at, each in enumerate(bad) for fault in _case_faults(at, each, found)),
        *(f"the log holds {line[:200]!r}" for line in found.log if _unfit(line) or "hidden" in line),
    ]


def _result_faults(alone: Outcome, found: Outcome) -> Iterator[str]:
    if found.model != alone.model:
        yield "the bad devices have a say in the model"
    if _unfit(found.document.replace("\n", "")):
        yield "`rounds.json` holds control characters"
    documents = [json.loads(each.document, parse_constant=_no_number) for each in (alone, found)]
    for key in ("frequencies", "coverage"):
        if documents[0][key] != documents[1][key]:
            yield f"the bad devices have a say in the {key}"
    for before, after in zip(*(each["rounds"] for each in documents), strict=True):
        for key in ("trained", "evaluation", "local_evaluation"):
            if before[key] != after[key]:
                yield f"round {before['number']}: the bad devices have a say in what is `{key}`"
    names = [each["name"] for each in documents[1]["devices"]]
    if names[:2] != ["device-0", "workstation"] or len(set(names)) < len(names):
        yield f"the devices are called {names[:2]}"


def _no_number(name: str) -> None:
    raise ValueError(name)


def _case_faults(at: int, case: Case, found: Outcome) -> Iterator[str]:
    node, name = 2**63 + len(GOOD) + at, f"bad-{at}"
    said = _reasons(node, name, found)
    reasons = [each for each in said if BUSY not in each]
    wanted = 1 if case.asked == PRICES else len(found.strategy.rounds)
    if len(reasons) != wanted:
        yield f"it is refused {len(reasons)} times of {wanted}"
    for reason in said:
        if not reason or _unfit(reason) or len(reason) > 400:
            yield f"the reason is {reason[:200]!r}"
    who = str(node) if case.asked == PRICES else f"`{name}`"
    if not any(who in line and reason in line for line in found.log for reason in reasons):
        yield "the log does not name it"


def _reasons(node: int, name: str, found: Outcome) -> list[str]:
    of_rounds = [reason for each in found.strategy.rounds for who, reason in each.left_out if who == name]
    return [*([found.strategy.refused[node]] if node in found.strategy.refused else []), *of_rounds]


def _unfit(text: str) -> bool:
    """Whether a text is more than one line of printable signs (Flower indents with tabs)."""
    return not re.sub(r"[\t\n]", "", text).isprintable() if text.startswith(("\t", "\n")) else not text.isprintable()


def main() -> int:
    """The exit code: 1 where there are faults."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("flwr").handlers.clear()
    bad = cases()
    found = faults(bad)
    for fault in found:
        print(fault)
    print(f"kinds of bad devices: {len(bad)}, faults: {len(found)}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
