"""What devices reply: used, or refused with a reason, and never the end of a round."""

import json
import logging
import sys
from dataclasses import asdict
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import test_federated_rounds as rounds
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latte_cli.federated import client, messages, server
from latte_cli.federated.aggregation import groups
from latte_cli.federated.device import Returned
from latte_cli.federated.grid import LocalGrid
from latte_cli.federated.receiving import Receiving
from latte_cli.federated.settings import settings as chosen
from latte_cli.federated.strategy import RoundLog

sys.path.append(str(Path(__file__).parent / "torture"))
import devices  # what `make torture` runs as well

CONFIG, NODES = rounds.CONFIG, rounds.NODES


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _messages(caplog):
    logging.getLogger("flwr").addHandler(caplog.handler)
    yield
    logging.getLogger("flwr").removeHandler(caplog.handler)


class Asked:
    """A strategy that has asked two devices to train, and their good replies."""

    def __init__(self, federation):
        self.federation = federation
        self.strategy = federation.strategy(held_out_locally=0.2)
        self.strategy.devices.update(federation.devices)
        federation.tamper = None
        self.first, self.second = self.ask(1)

    def ask(self, number):
        arrays = messages.array_record(self.federation.whole)
        asked = self.strategy.configure_train(number, arrays, ConfigRecord(), self.federation.grid)
        return list(self.federation.grid.send_and_receive(asked))

    def trained(self, *replies, number=1):
        """The names of the devices whose replies were used, and who was left out for which reason."""
        self.strategy.rounds = [RoundLog(number=number)]
        arrays, metrics = self.strategy.aggregate_train(number, replies)
        if arrays is not None:
            found = messages.arrays_in(arrays)
            assert {name: each.shape for name, each in found.items()} == {
                name: each.shape for name, each in self.federation.whole.items()
            }
            assert all(np.isfinite(each).all() for each in found.values())
            assert np.isfinite(metrics["loss"])
        (log,) = self.strategy.rounds
        json.dumps(asdict(log), allow_nan=False)
        return [each.name for each in log.trained], log.left_out


@pytest.fixture(scope="module")
def federation():
    return rounds.Federation()


@pytest.fixture(scope="module")
def asked(federation):
    return Asked(federation)


def copied(message, **metadata):
    found = message_from_proto(message_to_proto(message))
    for name, value in metadata.items():
        found.metadata.__dict__[f"_{name}"] = value
    return found


# Replies to what was not asked


def test_a_reply_that_comes_twice_is_refused(asked):
    assert asked.trained(asked.first, asked.second, copied(asked.second)) == (
        ["device-0"],
        [("workstation", "it replied 2 times")],
    )


def test_a_reply_of_a_node_that_was_not_asked_is_named_and_left_out(asked):
    stranger = copied(asked.second, src_node_id=77)
    assert asked.trained(asked.first, asked.second, stranger) == (
        ["device-0", "workstation"],
        [("node 77", "no reply of it was requested")],
    )


def test_a_reply_in_the_name_of_another_device_costs_that_device_nothing(asked):
    first = asked.first.metadata.src_node_id
    assert asked.trained(asked.first, copied(asked.second, src_node_id=first)) == (
        ["device-0"],
        [("workstation", "it did not reply")],
    )


def test_what_flower_replies_itself_is_the_reason_of_the_device_that_was_asked(asked):
    error = rounds.failing(None, asked.second)
    lost = copied(error, reply_to_message_id=asked.second.metadata.reply_to_message_id, src_node_id=1, dst_node_id=1)
    _, ((name, reason),) = asked.trained(asked.first, lost)
    assert (name, "division by zero" in reason) == ("workstation", True)


def test_a_reply_of_an_earlier_round_is_refused_in_a_later_one(federation):
    asked = Asked(federation)
    early = asked.second
    first, second = asked.ask(2)
    assert asked.trained(first, early, number=2) == (
        ["device-0"],
        [("workstation", "its reply is to another message")],
    )
    assert asked.trained(first, early, second, number=2)[0] == ["device-0", "workstation"]
    again = Message(early.content, reply_to=asked.strategy._asked[second.metadata.src_node_id])
    _, ((name, reason),) = asked.trained(first, again, number=2)
    assert (name, "is of another round" in reason) == ("workstation", True)


def test_a_round_with_bad_replies_alone_is_skipped_with_a_warning(asked, caplog):
    empty = [Message(RecordDict(), reply_to=each) for each in asked.strategy._asked.values()]
    trained, left_out = asked.trained(*empty)
    assert (trained, [name for name, _ in left_out]) == ([], ["device-0", "workstation"])
    assert "no device trained, the parameters stay as they are" in caplog.text


# Bad devices of all kinds


def test_bad_devices_of_all_kinds_are_named_and_the_good_ones_decide_the_result():
    kinds = devices.cases()
    assert len(kinds) > 500
    assert devices.faults(kinds) == []


def test_a_device_of_no_bad_kind_would_be_told():
    kinds = [devices.Case(asked, asked, lambda reply, _: reply) for asked in ("query", "train", "evaluate")]
    found = devices.faults(kinds)
    assert "query: it is refused 0 times of 1" in found
    assert "train: it is refused 0 times of 2" in found
    assert "evaluate: it is refused 0 times of 2" in found
    assert "the bad devices have a say in the model" in found


# Any bytes and any values

VALUES = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.booleans(),
    st.binary(max_size=20),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.lists(st.floats(), max_size=5),
    st.lists(st.text(max_size=5), max_size=5),
)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.lists(st.floats(), max_size=3)
DTYPES = st.sampled_from(["float32", "float64", "int64", "uint64", "int8", "bool", "float16"])
ARRAYS = DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0)))
HEADERS = st.builds(
    rounds.npy_of,
    st.sampled_from(["'<f4'", "'<f8'", "'<i8'", "'|O'", "'<U9'", "[('a', '<f4')]", "'f4'"]),
    st.sampled_from(["()", "(10,)", "(-1,)", "(0, 999999999999999999)", "(10", "(" * 5000, "(" + "-" * 9000 + "1,)"]),
    st.sampled_from([0, 4, 40, 80]).map(bytes),
)
RAW = st.builds(
    lambda dtype, shape, data: Array(dtype, tuple(shape), "numpy.ndarray", data),
    DTYPES,
    st.lists(st.integers(-5, 2**40), max_size=4),
    st.binary(max_size=80) | HEADERS,
)


@st.composite
def changed_contents(draw, original):
    """What `original()` gives, with some of its values, arrays and records changed, gone or added.

    A function, since Hypothesis writes out what a strategy was made with, and here that is millions of numbers.
    """
    content = original()
    found = {key: record.copy() for key, record in content.items()}
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(found) or ["task"]))
        record = found.get(key, ConfigRecord())
        what = draw(st.sampled_from(["change", "change", "change", "drop", "add", "record gone", "other record"]))
        names = st.sampled_from(sorted(record) or ["a"]) if what != "add" else st.text(max_size=8)
        name = draw(names)
        if what == "record gone":
            found.pop(key, None)
        elif what == "other record":
            found[key] = draw(st.sampled_from(list(content.values()))).copy()
        elif what == "drop":
            record.pop(name, None)
        elif isinstance(record, ArrayRecord):
            record[name] = draw(RAW | ARRAYS.map(lambda each: Array(np.asarray(each))))
        else:
            record[name] = draw(NUMBERS if isinstance(record, MetricRecord) else VALUES)
    return RecordDict(found)


@settings(max_examples=40)
@given(st.data())
def test_a_reply_whose_records_are_changed_is_refused_or_used(asked, data):
    content = data.draw(changed_contents(lambda: asked.second.content))
    reply = Message(content, reply_to=asked.strategy._asked[asked.second.metadata.src_node_id])
    trained, left_out = asked.trained(asked.first, reply)
    assert trained == ["device-0"] if left_out else ["device-0", "workstation"]
    assert [name for name, _ in left_out] == ["workstation"] * (2 - len(trained))
    assert all(reason.isprintable() and len(reason) < 400 for _, reason in left_out)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**30), st.integers(0, 255)), min_size=1, max_size=4), st.integers(-9, 9))
def test_a_reply_whose_bytes_are_changed_is_refused_or_used(asked, changes, longer):
    whole = message_to_proto(asked.second).SerializeToString()
    data = bytearray(whole[: len(whole) + min(longer, 0)] + bytes(max(longer, 0)))
    for at, byte in changes:
        # every other place lies near the start of a record, where there is more than numbers
        data[at % len(data) if at % 2 else at // 2 % 2000] = byte
    try:
        reply = message_from_proto(ProtoMessage.FromString(bytes(data)))
    except (DecodeError, ValueError, TypeError, AttributeError):
        return  # Flower does not hand it on
    trained, left_out = asked.trained(asked.first, reply)
    assert trained[:1] == ["device-0"]
    assert len(trained) == 2 or left_out


@settings(max_examples=40)
@given(st.data())
def test_prices_and_scores_that_are_changed_are_refused_or_used(asked, data):
    prices = messages.prices_record(next(iter(asked.federation.devices.values())))
    scores = MetricRecord({"examples": 9, "accuracy": 0.5, "loss": 1.0})
    content = data.draw(changed_contents(lambda: RecordDict({"table": prices, "metrics": scores})))
    strategy = asked.federation.strategy(held_out_locally=0.2)
    strategy.devices.update(asked.federation.devices)
    strategy.rounds.append(RoundLog(number=1))
    questions = strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), asked.federation.grid)
    found = strategy.aggregate_evaluate(1, [Message(content, reply_to=each) for each in questions])
    assert found is None or (0 < found["examples"] < 1000 and 0 <= found["accuracy"] <= 1 and found["loss"] < inf)
    grid = LocalGrid(answering(content), list(NODES), CONFIG)
    strategy = asked.federation.strategy(round_duration_s=None)
    strategy.price(grid)
    assert len(strategy.devices) + len(strategy.refused) == 2
    if strategy.devices:
        assert 0 < strategy.duration_s() < 1e11


def answering(content):
    """Devices that reply with `content` whatever the message."""
    app = ClientApp()
    for kind in (app.query, app.train, app.evaluate):
        kind()(lambda message, context: Message(content, reply_to=message))
    return app


# Prices


def priced(federation, change, nodes=NODES):
    """The strategy that asked two devices for prices, of which the second replied with its record changed."""
    app = ClientApp()

    @app.query()
    def query(message, context):
        record = messages.prices_record(list(federation.devices.values())[context.node_config["partition-id"]])
        if context.node_config["partition-id"]:
            record = change(record)
        return Message(RecordDict({"table": record}), reply_to=message)

    strategy = federation.strategy()
    grid = LocalGrid(app, list(nodes), CONFIG)
    strategy.price(grid)
    return strategy, grid


def config(**changes):
    return lambda record: ConfigRecord({**record, **changes})


def reversed_interval(record):
    return ConfigRecord({**record, "low-s": record["high-s"], "high-s": record["low-s"]})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: MetricRecord({"examples": 1}), "the message holds no `table`"),
        (reversed_interval, "`workstation`: the times of `w1` are no interval"),
        (config(**{"high-s": [inf] * 4}), "`workstation`: the times of `w1` are no interval"),
        (config(**{key: [1e308] * 4 for key in ("low-s", "round-s", "high-s")}), "a `round-s` that is no time"),
        (config(**{key: [inf] * 4 for key in ("low-s", "round-s", "high-s")}), "no sub-model fits its memory"),
        (config(**{"round-s": [nan] * 4}), "a `round-s` that is no time"),
        (config(**{"memory-bytes": ["1"] * 4}), "`workstation`: its sub-models have no sizes in memory"),
        (config(examples=2**62), "`workstation` does not say"),
        (config(number=2**62), "`workstation` does not say"),
        (config(name="device-0"), "another device is called `device-0`"),
        (config(name="a" * 101), "does not say what it is called"),
        (config(more="a" * 2_000_000), "its reply holds 2"),
    ],
)
def test_prices_of_no_use_are_refused_and_named(federation, caplog, change, reason):
    strategy, _ = priced(federation, change)
    assert [each.name for each in strategy.devices.values()] == ["device-0"]
    ((node, said),) = strategy.refused.items()
    assert reason in said
    assert any(str(node) in each.getMessage() and reason in each.getMessage() for each in caplog.records)


def test_a_device_that_comes_back_as_another_node_takes_the_place_it_had(federation):
    strategy, grid = priced(federation, config(name="device-0"))
    (gone,) = strategy.devices
    strategy.devices, strategy.refused = {77: strategy.devices[gone]}, {}
    strategy.price(grid)
    assert list(strategy.devices) == [gone]


# Scores


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"examples": 2**62}, f"it evaluated on {2**62} examples (by its prices it holds out "),
        ({"examples": 2000}, "it evaluated on 2000 examples"),
        ({"examples": 0}, "its score is no score"),
        ({"examples": 1.0}, "its reply holds no score"),
        ({"accuracy": nan}, "its score is no score"),
        ({"accuracy": 1.5}, "its score is no score"),
        ({"accuracy": [0.5]}, "its reply holds no score"),
        ({"loss": 1e308}, "its loss is no number"),
        ({"loss": -1.0}, "its loss is no number"),
        ({"loss": nan}, "its loss is no number"),
    ],
)
def test_scores_of_no_use_are_left_out_and_named(asked, changes, reason):
    strategy = asked.federation.strategy(held_out_locally=0.2)
    strategy.devices.update(asked.federation.devices)
    strategy.rounds.append(RoundLog(number=1))
    first, second = strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), asked.federation.grid)
    good = {"examples": 9, "accuracy": 0.5, "loss": 1.0}
    bad = Message(RecordDict({"metrics": MetricRecord({**good, **changes})}), reply_to=second)
    found = strategy.aggregate_evaluate(1, [Message(RecordDict({"metrics": MetricRecord(good)}), reply_to=first), bad])
    assert dict(found) == good
    ((name, said),) = strategy.rounds[0].left_out
    assert (name, reason in said) == ("workstation", True)


def test_an_evaluation_by_nobody_is_skipped_with_a_warning(asked, caplog):
    strategy = asked.federation.strategy(held_out_locally=0.2)
    strategy.devices.update(asked.federation.devices)
    strategy.rounds.append(RoundLog(number=1))
    strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), asked.federation.grid)
    assert strategy.aggregate_evaluate(1, []) is None
    assert "no device evaluated the parameters" in caplog.text


def test_as_many_examples_as_a_device_can_hold_out_are_taken(asked):
    grid = LocalGrid(client.app, list(NODES), {**CONFIG, "held-out-locally": 0.5})
    strategy = asked.federation.strategy(held_out_locally=0.5)
    strategy.price(grid)
    strategy.rounds.append(RoundLog(number=1))
    sent = messages.array_record(asked.federation.whole)
    replies = grid.send_and_receive(strategy.configure_evaluate(1, sent, ConfigRecord(), grid))
    assert strategy.aggregate_evaluate(1, replies)["examples"] > 0
    assert strategy.rounds[0].left_out == []


# Bytes that Flower cannot unpack


class Wire(LocalGrid):
    """Replies come as the objects that Flower makes of them, those of the second node with bytes of `change`."""

    def __init__(self, app, change):
        super().__init__(app, list(NODES), CONFIG)
        self.change = change

    def pull_messages(self, message_ids):
        return [self._unpacked(each) for each in super().pull_messages(message_ids)]

    def _unpacked(self, message):
        contents = {key: each.deflate() for key, each in get_all_nested_objects(message).items()}
        if message.metadata.src_node_id == list(self.get_node_ids())[1]:
            contents = self.change(contents)
        return inflate_object_from_contents(message.object_id, contents)


def replaced(before, after):
    return lambda contents: {key: each.replace(before, after) for key, each in contents.items()}


@pytest.mark.parametrize(
    "change",
    [
        replaced(b'"dtype"', b'"dtypo"'),
        replaced(b'"float32"', b"1"),
        replaced(b'"arraychunk_ids": [0]', b'"arraychunk_ids": [7]'),
        replaced(b'{"arrays"', b"[" * 100_000),
        lambda contents: {key: each[:-3] for key, each in contents.items()},
        lambda contents: {key: contents[key] for key in list(contents)[:1]},
    ],
)
def test_a_reply_that_flower_cannot_unpack_costs_its_device_alone(federation, change):
    federation.tamper = None
    grid = Wire(federation.app, lambda contents: contents)
    strategy = federation.strategy()
    strategy.devices.update(federation.devices)
    sent = messages.array_record(federation.whole)
    asked = strategy.configure_train(1, sent, ConfigRecord(), grid)
    grid.change = change
    strategy.aggregate_train(1, Receiving(grid).send_and_receive(asked, timeout=1))
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0"]
    ((name, reason),) = strategy.rounds[0].left_out
    assert (name, reason.startswith("its reply cannot be unpacked")) == ("workstation", True)


# The result


def test_a_network_that_overflows_has_no_loss_in_the_result(federation, tmp_path):
    config = {**CONFIG, "rounds": 12, "devices": 1, "widths": "1", "output": str(tmp_path)}
    app = ClientApp()
    app.query()(lambda message, context: client.app(message, context))

    @app.train()
    def growing(message, context):
        task, whole = messages.task_in(message.content), messages.arrays_in(message.content["arrays"])
        update = messages.Update(kept={}, arrays={name: 9 * each for name, each in whole.items()}, examples=1)
        counts = {group.name: np.ones(group.channels) for group in groups(federation.network)}
        returned = Returned(
            update=update,
            frequencies=counts,
            sub_model="w1",
            loss=1.0,
            trained=1,
            round_number=task.round_number,
            steps=1,
        )
        return Message(messages.returned_content(returned), reply_to=message)

    server.federation(LocalGrid(app, [{**NODES[1], "partition-id": 0}], config), chosen(config))
    found = json.loads((tmp_path / "rounds.json").read_text(), parse_constant=pytest.fail)
    assert found["rounds"][-1]["evaluation"]["loss"] is None
