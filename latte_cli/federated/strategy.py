"""The strategy of a federation: who is asked for what, and how their answers become the next round's parameters."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from latte_cli.allocator import SubModel, largest
from latte_cli.allocator.channels import Coverage, Frequencies, coverage
from latte_cli.allocator.curve import curve, shortest
from latte_cli.errors import LatteError, unknown
from latte_cli.federated import messages
from latte_cli.federated.aggregation import Kept, aggregated, checked, groups, trained_channels
from latte_cli.federated.device import Prices, Returned, too_slow
from latte_cli.federated.messages import ARRAYS, FREQUENCIES, METRICS, TABLE, TASK, Task
from latte_cli.federated.settings import Settings
from latte_cli.fleet import FleetClass
from latte_cli.network import Network
from latte_cli.network.channels import Resizing

log = logging.getLogger("flwr")

_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A device that took part in a round."""

    name: str
    sub_model: str
    examples: int
    loss: float


@dataclass(kw_only=True)
class RoundLog:
    """What happened in a round: who trained, and who was left out for which reason."""

    number: int
    trained: list[Trainer] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


class Overlap(Strategy):
    """Devices price the catalogue once, and train what fits the round duration; overlapping updates are averaged.

    What cannot be used of a device's answer is named in a warning and in `rounds`, and the round goes on without it;
    `refused` says why which nodes take no part at all. `frequencies` is F, the examples that each channel was trained
    on so far.
    """

    def __init__(self, network: Network, model: bytes, sub_models: tuple[SubModel, ...], settings: Settings) -> None:
        self.rounds: list[RoundLog] = []
        self.frequencies = Frequencies.none(groups(network))
        self.round_duration_s = settings.round_duration_s
        self.devices: dict[int, Prices] = {}
        self._trained: list[Kept] = []
        self._network, self._model, self._sub_models, self._settings = network, model, sub_models, settings
        self.refused: dict[int, str] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        self._asked: dict[int, str] = {}

    def summary(self) -> None:
        log.info("\t%d sub-models, channels `%s`", len(self._sub_models), self._settings.method)

    # Step 1: the catalogue goes to the devices, which price it

    def price(self, grid: Grid) -> None:
        """Ask the devices that were not asked yet what the sub-models cost them."""
        new = [node for node in grid.get_node_ids() if node not in self.devices and node not in self.refused]
        if not new:
            return
        content = RecordDict({TASK: messages.task_record(Task(model=self._model, sub_models=self._sub_models))})
        asked = [Message(content, dst_node_id=node, message_type=MessageType.QUERY) for node in sorted(new)]
        replies = {reply.metadata.src_node_id: reply for reply in self._replies(grid, asked)}
        for node in sorted(new):
            try:
                self.devices[node] = _priced(replies.get(node), self._sub_models)
            except LatteError as exc:
                self.refused[node] = _said(exc)
                log.warning("a device cannot take part: %s", _said(exc))

    def _replies(self, grid: Grid, asked: list[Message]) -> Iterable[Message]:
        return grid.send_and_receive(asked, timeout=self._settings.timeout_s)

    def duration_s(self) -> float:
        """The round duration; where it is not set, the shortest that keeps the wanted capacity.

        Raises LatteError where no round duration keeps it.
        """
        if self.round_duration_s is None:
            priced = [(_fleet_class(each), each.rounds) for each in self.devices.values()]
            points = curve(priced, self._network.parameters)
            self.round_duration_s = shortest(points, capacity=self._settings.capacity).round_duration_s
            log.info("\trounds take %.3g s", self.round_duration_s)
        return self.round_duration_s

    # Steps 2 and 3: parameters, F and U go to the devices, which train

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.price(grid)
        self.rounds.append(RoundLog(number=server_round))
        self._whole = messages.arrays_in(arrays)
        self._asked = {}
        there = set(grid.get_node_ids())
        named = {node: prices for node, prices in self.devices.items() if node in there}
        if not named:
            return []
        task = Task(
            model=self._model,
            sub_models=self._sub_models,
            round_number=server_round - 1,
            round_duration_s=self.duration_s(),
        )
        for node in self._drawn(named, server_round):
            if largest(named[node].rounds, task.round_duration_s) is None:
                self._leave_out(named[node].name, _said(too_slow(named[node].rounds, task.round_duration_s)))
            else:
                self._asked[node] = named[node].name
        content = RecordDict(
            {
                ARRAYS: arrays,
                FREQUENCIES: messages.array_record(self.frequencies.examples),
                TASK: messages.task_record(task),
            }
        )
        return [_message(content, node, MessageType.TRAIN, server_round) for node in self._asked]

    def _drawn(self, named: Mapping[int, Prices], server_round: int) -> list[int]:
        """The nodes of this round, by the numbers that devices have of their own: node ids are random."""
        order = sorted(named, key=lambda node: (named[node].number, named[node].name, node))
        count = self._settings.per_round
        if not count or count >= len(order):
            return order
        chosen = np.random.default_rng((self._settings.seed, server_round)).choice(len(order), count, replace=False)
        return [order[at] for at in sorted(chosen.tolist())]

    # Step 4: parameters and F come back

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        found = []
        for node, name in self._asked.items():
            try:
                returned = self._returned(by_node.get(node))
            except LatteError as exc:
                self._leave_out(name, _said(exc))
            else:
                found.append(returned)
                self.rounds[-1].trained.append(_trainer(name, returned))
        if not found:
            log.warning("round %d: no device trained, the parameters stay as they are", server_round)
            return None, None
        updates = [each.update for each in found]
        whole = aggregated(self._network, self._whole, updates, self._settings.rule)
        for update in updates:
            channels = trained_channels(self._network, update.kept, update.dropped)
            self._trained.append(channels)
            self.frequencies = self.frequencies.after(channels, self._settings.epochs * update.examples)
        examples = sum(update.examples for update in updates)
        loss = sum(each.loss * each.update.examples for each in found) / examples
        return messages.array_record(whole), MetricRecord({"examples": examples, "loss": loss, "devices": len(found)})

    def _returned(self, reply: Message | None) -> Returned:
        """What a device returned, checked; raises LatteError where it is of no use."""
        returned = messages.returned_in(_content(reply))
        checked(self._network, returned.update)
        self._check_sub_model(returned)
        self._check_gain(returned)
        if not np.isfinite(returned.loss):
            raise LatteError("its loss is no number", hint="a smaller learning rate may help")
        return returned

    def _check_sub_model(self, returned: Returned) -> None:
        """Raise LatteError where the device trained another sub-model than one of the catalogue."""
        update, name = returned.update, returned.sub_model
        entry = next((each for each in self._sub_models if each.id == name), None)
        if entry is None:
            raise unknown("sub-model", name[:_SHOWN], (each.id for each in self._sub_models))
        widths = dict(entry.widths)
        for group in groups(self._network):
            width = len(update.kept.get(group.name, range(group.channels)))
            if width != widths.get(group.name, group.channels):
                raise LatteError(
                    f"it kept {width} channels of `{group.name}`", hint=f"`{name}` has {widths.get(group.name)}"
                )
        if update.dropped != entry.dropped:
            raise LatteError(f"it left out other blocks than `{name}` does", hint="is it the same model?")

    def _check_gain(self, returned: Returned) -> None:
        """Raise LatteError where its part of F is not what follows from the channels and examples it names."""
        update, found = returned.update, returned.frequencies
        channels = trained_channels(self._network, update.kept, update.dropped)
        wanted = (
            Frequencies.none(groups(self._network)).after(channels, self._settings.epochs * update.examples).examples
        )
        if set(found) != set(wanted) or not all(np.array_equal(found[name], wanted[name]) for name in wanted):
            raise LatteError("its frequency table is not that of the channels it kept", hint="is it the same model?")

    def covered(self) -> Coverage | None:
        """The share of the pairs of channels that were trained together so far; None where no channels were cut."""
        if not any(each.widths for each in self._sub_models):
            return None
        return coverage(Resizing(self._network).pairs, groups(self._network), self._trained)

    def _leave_out(self, name: str, reason: str) -> None:
        self.rounds[-1].left_out.append((name, reason))
        log.warning("round %d goes on without `%s`: %s", self.rounds[-1].number, name, reason)

    # Evaluation on the devices, where they hold something out

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        if not self._settings.held_out_locally:
            return []
        there = set(grid.get_node_ids())
        content = RecordDict(
            {
                ARRAYS: arrays,
                TASK: messages.task_record(
                    Task(model=self._model, sub_models=self._sub_models, round_number=server_round - 1)
                ),
            }
        )
        nodes = self._drawn({node: each for node, each in self.devices.items() if node in there}, server_round)
        self._asked = {node: self.devices[node].name for node in nodes}
        return [_message(content, node, MessageType.EVALUATE, server_round) for node in nodes]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        found = []
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        for node, name in self._asked.items() if self._settings.held_out_locally else ():
            try:
                found.append(_scores(_content(by_node.get(node))))
            except LatteError as exc:
                self._leave_out(name, _said(exc))
        examples = sum(count for count, _, _ in found)
        if not examples:
            return None
        return MetricRecord(
            {
                "examples": examples,
                "accuracy": sum(count * accuracy for count, accuracy, _ in found) / examples,
                "loss": sum(count * loss for count, _, loss in found) / examples,
            }
        )


def _message(content: RecordDict, node: int, kind: str, server_round: int) -> Message:
    return Message(content, dst_node_id=node, message_type=kind, group_id=str(server_round))


def _content(reply: Message | None) -> RecordDict:
    """The content of a reply; raises LatteError for one that did not come or is an error."""
    if reply is None:
        raise LatteError("it did not reply")
    if reply.has_error():
        raise LatteError(" ".join((reply.error.reason or "it failed").split())[:300])
    if not reply.has_content():
        raise LatteError("its reply is empty")
    return reply.content


def _priced(reply: Message | None, sub_models: tuple[SubModel, ...]) -> Prices:
    record = _content(reply).config_records.get(TABLE)
    if record is None:
        raise LatteError("its reply holds no prices", hint="server and devices need the same version of LATTE")
    return messages.prices_in(record, sub_models)


def _fleet_class(prices: Prices) -> FleetClass:
    """The device as a class of one, for the curve of round durations, which has its rounds already."""
    return FleetClass(
        name=prices.name, device=prices.device, samples=prices.examples, batch=1, up_bit_per_s=1.0, down_bit_per_s=1.0
    )


def _trainer(name: str, returned: Returned) -> Trainer:
    return Trainer(name=name, sub_model=returned.sub_model, examples=returned.update.examples, loss=returned.loss)


def _scores(content: RecordDict) -> tuple[int, float, float]:
    metrics = content.metric_records.get(METRICS, MetricRecord())
    examples, accuracy, loss = (metrics.get(key) for key in ("examples", "accuracy", "loss"))
    if not (isinstance(examples, int) and isinstance(accuracy, float) and isinstance(loss, float)):
        raise LatteError("its reply holds no score", hint="server and devices need the same version of LATTE")
    if examples < 1 or not 0 <= accuracy <= 1 or not np.isfinite(loss):
        raise LatteError(f"its score is no score: {accuracy:g} of {examples}", hint="is its data in order?")
    return examples, accuracy, loss


def _said(exc: LatteError) -> str:
    return f"{exc.message} ({exc.hint})" if exc.hint else exc.message
