"""The server waits for each device as long as its prices say, and holds one reply at a time."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import test_federated_rounds as rounds
from flwr.app import ConfigRecord, Message, RecordDict

from latte_cli.allocator import Deadline
from latte_cli.federated import messages
from latte_cli.federated.grid import LocalGrid
from latte_cli.federated.receiving import Receiving
from latte_cli.federated.strategy import LATE, START_S

pytestmark = pytest.mark.usefixtures("one_thread", "flower_log")


@pytest.fixture(scope="module")
def federation():
    return rounds.Federation()


class Time:
    """A clock that goes on while somebody waits."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s

    def wait(self, seconds):
        self.now_s += seconds


class Slow(LocalGrid):
    """A grid on which the replies of devices take so long, by their numbers, after they were sent."""

    def __init__(self, federation, clock, *takes_s):
        super().__init__(federation.app, list(rounds.NODES), rounds.UNEVEN)
        self.clock, self.takes_s, self._there_s = clock, takes_s, {}

    def push_messages(self, messages):
        keys = list(super().push_messages(messages))
        self._there_s |= {key: self.clock() + self.takes_s[(int(key) - 1) % len(self.takes_s)] for key in keys}
        return keys

    def pull_messages(self, message_ids):
        return super().pull_messages([each for each in message_ids if self.clock() >= self._there_s[each]])


def a_round(federation, *takes_s, **changes):
    """The strategy after a round in which the replies took so long, and how long it waited."""
    federation.tamper = None
    strategy, clock = federation.strategy(**changes), Time()
    strategy.devices.update(federation.devices)
    grid = Receiving(Slow(federation, clock, *takes_s), strategy.limit_s, clock=clock, wait=clock.wait)
    asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), grid)
    replies = grid.send_and_receive(asked, timeout=3600.0)
    strategy.aggregate_train(1, replies)
    return strategy, clock() - 100.0


def test_a_device_that_takes_longer_than_its_own_time_is_named_and_the_round_goes_on(federation, caplog):
    strategy, waited_s = a_round(federation, 0.0, 1e9)
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0"]
    node = next(node for node, each in strategy.devices.items() if each.name == "workstation")
    most_s = LATE * strategy._given[node][0].high_s + START_S
    assert strategy.rounds[0].left_out == [("workstation", f"it did not reply in {most_s:.3g} s")]
    assert most_s < waited_s <= most_s + 3
    assert "goes on without `workstation`" in caplog.text


def test_each_device_has_its_own_time(federation):
    strategy = federation.strategy(deadline=Deadline.NONE, round_duration_s=None)
    strategy.devices.update(federation.devices)
    slow, fast = (each.rounds[0] for each in sorted(federation.devices.values(), key=lambda each: each.number))
    asked = list(strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), federation.grid))
    assert [strategy.limit_s(each) for each in asked] == [LATE * each.high_s + START_S for each in (slow, fast)]


def test_a_device_that_stops_in_time_has_the_time_of_the_round_or_of_one_step(federation):
    slow = next(each for each in federation.devices.values() if each.number == 0).rounds[-1]
    first_s = slow.sending_s + (slow.high_s - slow.sending_s) / slow.steps
    for duration_s, most_s in ((1e-6, first_s), ((first_s + slow.high_s) / 2,) * 2, (1e6, slow.high_s)):
        strategy = federation.strategy(deadline=Deadline.PARTIAL, round_duration_s=duration_s)
        assert strategy._longest_s(slow) == pytest.approx(LATE * most_s + START_S)


def test_a_device_that_was_corrected_has_the_time_that_it_takes_now(federation):
    measured, _, _ = rounds.sent_in_round_2(federation, 1.5)
    node = next(node for node, each in measured.devices.items() if each.name == "workstation")
    now, before = measured._given[node][0], federation.devices[node].rounds[0]
    assert now.high_s != before.high_s
    assert measured._limits_s[node] == LATE * now.high_s + START_S


@pytest.mark.parametrize(("changes", "late"), [({"timeout_s": 50.0}, True), ({"timeout_s": 5000.0}, False)])
def test_a_timeout_that_is_set_is_that_of_all(federation, changes, late):
    strategy, waited_s = a_round(federation, 0.0, 1000.0, **changes)
    assert [name for name, _ in strategy.rounds[0].left_out] == ["workstation"] * late
    assert waited_s == pytest.approx(50.0 if late else 1000.0, abs=3.0)


def test_virtual_devices_have_no_time_of_this_machine(federation):
    strategy = federation.strategy(fleet="fleet.yaml")
    strategy.devices.update(federation.devices)
    asked = list(strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), federation.grid))
    assert [strategy.limit_s(each) for each in asked] == [None, None]


def test_a_reply_that_is_there_when_its_turn_comes_counts(federation):
    """The server waits for the first one anyway."""
    strategy, waited_s = a_round(federation, 62.0, 1.0)
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0", "workstation"]
    assert waited_s == pytest.approx(62.0, abs=3.0)


# Memory


class Watched(Slow):
    """A grid that keeps no reply, and counts those that somebody else keeps as another one is pulled."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sent, self.pulled, self.most_kept = [], [], 0

    def push_messages(self, messages):
        assert all(each() is None for each in self.sent)
        pushed = list(messages)
        self.sent += [weakref.ref(each.content) for each in pushed]
        return super().push_messages(pushed)

    def pull_messages(self, message_ids):
        gc.collect()
        self.most_kept = max(self.most_kept, sum(each() is not None for each in self.pulled))
        found = super().pull_messages(message_ids)
        self.pulled += [weakref.ref(array) for reply in found for array in reply.content["arrays"].values()]
        return found


def test_one_reply_is_held_at_a_time_and_no_message_that_was_sent(federation):
    nodes, clock = 6, Time()
    federation.tamper = None
    grid = Watched(federation, clock, 0.0)
    template = next(iter(federation.devices.values()))
    grid._contexts = {2**63 + at: replace(grid._contexts[2**63], node_id=2**63 + at) for at in range(nodes)}
    strategy = federation.strategy()
    strategy.devices.update({2**63 + at: replace(template, name=f"d{at}", number=at) for at in range(nodes)})
    receiving = Receiving(grid, strategy.limit_s, clock=clock, wait=clock.wait)
    asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), receiving)
    strategy.aggregate_train(1, receiving.send_and_receive(asked, timeout=60.0))
    assert len(strategy.rounds[0].trained) == nodes
    assert len(grid.sent) == nodes
    assert grid.most_kept <= len(federation.whole)
    assert len(grid.pulled) == nodes * len(federation.whole)
    assert all(not each.content for each in strategy._asked.values())


class Keeping(LocalGrid):
    """A grid that keeps the very messages until their replies are pulled, as Flower's simulation engine does."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.kept = {}

    def push_messages(self, messages):
        pushed = {str(id(each)): each for each in messages}
        self.kept |= pushed
        return list(pushed)

    def pull_messages(self, message_ids):
        pushed = super().push_messages([self.kept.pop(each) for each in message_ids])
        return super().pull_messages(pushed)


def test_a_grid_that_hands_messages_over_later_has_their_content_still(federation):
    federation.tamper = None
    strategy = federation.strategy()
    strategy.devices.update(federation.devices)
    grid = Receiving(Keeping(federation.app, list(rounds.NODES), rounds.UNEVEN))
    asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), grid)
    strategy.aggregate_train(1, grid.send_and_receive(asked))
    assert [each.name for each in strategy.rounds[0].trained] == ["device-0", "workstation"]
    assert strategy.rounds[0].left_out == []


def test_the_result_is_that_of_all_replies_at_once_bit_for_bit(federation):
    found = []
    for receiving in (False, True):
        federation.tamper = None
        strategy = federation.strategy()
        strategy.devices.update(federation.devices)
        grid = Receiving(federation.grid, strategy.limit_s) if receiving else federation.grid
        asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), grid)
        replies = grid.send_and_receive(asked)
        arrays, metrics = strategy.aggregate_train(1, replies if receiving else list(replies))
        found.append((messages.arrays_in(arrays), dict(metrics), strategy.frequencies, strategy.coverage()))
    (first, *one), (second, *other) = found
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert one[0] == other[0] and one[2] == other[2]
    assert all(np.array_equal(one[1].examples[name], other[1].examples[name]) for name in one[1].examples)


def test_a_message_that_the_grid_did_not_take_is_named(federation):
    class Full(LocalGrid):
        def push_messages(self, messages):
            list(messages)
            return []

    strategy = federation.strategy()
    strategy.devices.update(federation.devices)
    grid = Receiving(Full(federation.app, list(rounds.NODES), rounds.UNEVEN), strategy.limit_s)
    asked = strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), grid)
    assert strategy.aggregate_train(1, grid.send_and_receive(asked)) == (None, None)
    assert {reason for _, reason in strategy.rounds[0].left_out} == {"it could not be sent its message"}


def test_a_reply_is_pulled_once(federation):
    grid = Receiving(federation.grid)
    strategy = federation.strategy()
    strategy.devices.update(federation.devices)
    replies = grid.send_and_receive(
        strategy.configure_train(1, messages.array_record(federation.whole), ConfigRecord(), grid)
    )
    first = next(iter(strategy._asked.values()))
    assert [each.metadata.src_node_id for each in replies.to(first)] == [first.metadata.dst_node_id]
    assert replies.to(first) == [] and len(list(replies)) == 1
    assert replies.to(Message(RecordDict(), dst_node_id=1, message_type="train")) == []
