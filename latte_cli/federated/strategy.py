"""The strategy of a federation: what each device is asked, and how the answers become the next round's parameters."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, exp, inf
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

from latte_cli.allocator import Deadline, Round, SubModel, largest, paced_duration_s, paced_round
from latte_cli.allocator.channels import Coverage, Frequencies, TrainedPairs
from latte_cli.allocator.curve import curve, shortest_point
from latte_cli.allocator.learning import LATEST, MeasuredSteps, StepPrice, correct_rounds, step_price
from latte_cli.errors import LatteError
from latte_cli.federated import messages
from latte_cli.federated.aggregation import (
    Averaging,
    Kept,
    ServerMomentum,
    check_change,
    check_update,
    groups,
    part,
    trained_channels,
)
from latte_cli.federated.device import DevicePrices, Returned, choose_channels, too_slow
from latte_cli.federated.messages import ARRAYS, KEPT, TABLE, TASK, RoundTask
from latte_cli.federated.participation import participants
from latte_cli.federated.recipe import NetworkScore
from latte_cli.federated.replies import SMALL_BYTES, answers, reason, update_bytes
from latte_cli.federated.settings import FederationSettings
from latte_cli.fleet import FleetClass, Method
from latte_cli.network import Network
from latte_cli.network.channels import resizing_of
from latte_cli.printable import printable

log = logging.getLogger("flwr")

LONGEST_WAIT_S = 3600.0  # chosen: an hour, as Flower's own strategies wait
"""How long the server waits for what it has no price of: devices to come, their prices, and their evaluations."""

LATE = 2.0  # chosen: upper ends are exceeded once in forty rounds, and twice as long hardly ever
START_S = 60.0  # chosen: Flower starts a process for each message, whose imports take 2 s of a fast CPU
"""A device may take LATE times the upper end of its round, and START_S for what no price knows."""

_SHOWN = 40  # chosen: longer than the names that LATTE gives sub-models
_PRICE_BYTES = 1024  # the name of a sub-model, and four numbers


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A device that took part in a round.

    It took `steps`, of `step_s` on average with the deviation `step_spread_s`, if it measured them. `price` is what a
    step was estimated to take, and `in_use` that as corrected by the rounds before, by which the server chose.
    """

    name: str
    sub_model: str
    parameters: int
    examples: int
    loss: float
    steps: int
    step_s: float | None
    step_spread_s: float | None
    price: StepPrice | None
    in_use: StepPrice | None


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

    def __init__(
        self, network: Network, model: bytes, sub_models: tuple[SubModel, ...], settings: FederationSettings
    ) -> None:
        self.rounds: list[RoundLog] = []
        self.frequencies = Frequencies.none(groups(network))
        self.round_duration_s = settings.round_duration_s
        self.devices: dict[int, DevicePrices] = {}
        self._network, self._model, self._sub_models, self._settings = network, model, sub_models, settings
        self.refused: dict[int, str] = {}
        self._whole: dict[str, NDArray[Any]] = {}
        self._update_bytes = update_bytes(network)
        self._asked: dict[int, Message] = {}
        self._limits_s: dict[int, float] = {}
        cut = any(each.widths for each in sub_models)
        self._pairs = TrainedPairs(resizing_of(network).pairs, groups(network)) if cut else None
        self._given: dict[int, tuple[Round, Kept]] = {}
        self._unable: set[int] = set()
        self._measured = defaultdict[str, deque[MeasuredSteps]](lambda: deque(maxlen=LATEST))
        self._momentum = ServerMomentum(settings.server_momentum)

    def summary(self) -> None:
        log.info("\t%d sub-models, channels `%s`", len(self._sub_models), self._settings.method)

    # Step 1: the catalogue goes to the devices, which price it

    def price(self, grid: Grid) -> None:
        """Ask the devices that were not asked yet what the sub-models cost them."""
        there = set(grid.get_node_ids())
        new = there - self.devices.keys() - self.refused.keys()
        if not new:
            return
        content = RecordDict({TASK: messages.task_record(RoundTask(model=self._model, sub_models=self._sub_models))})
        asked = {node: Message(content, dst_node_id=node, message_type=MessageType.QUERY) for node in sorted(new)}
        replies = grid.send_and_receive(list(asked.values()), timeout=self._settings.timeout_s or LONGEST_WAIT_S)
        most_bytes = SMALL_BYTES + _PRICE_BYTES * len(self._sub_models)
        for node, found in answers(asked, replies, self._read_prices, most_bytes=most_bytes):
            if node not in new:
                log.warning("a reply of node %d is left out: %s", node, found)
            elif isinstance(found, LatteError):
                self._refuse(node, found)
            elif self._twin(found.name, there):
                self._refuse(node, LatteError(f"another device is called `{found.name}`", hint="set its `name`"))
            else:
                self.devices[node] = found

    def _read_prices(self, _: int, content: RecordDict) -> DevicePrices:
        prices = messages.prices_in(messages.config(content, TABLE), self._sub_models)
        if all(each.high_s is None for each in prices.rounds):
            error = too_slow(prices.rounds, inf)
            raise LatteError(f"`{prices.name}`: {error.message}", hint=error.hint)
        return prices

    def _twin(self, name: str, there: Collection[int]) -> bool:
        """Whether a device of this name is there already; one that has gone makes room."""
        for node in [node for node, each in self.devices.items() if each.name == name]:
            if node in there:
                return True
            del self.devices[node]
        return False

    def _refuse(self, node: int, refused: LatteError) -> None:
        self.refused[node] = reason(refused)
        log.warning("a device cannot take part: %s (node %d)", self.refused[node], node)

    def duration_s(self) -> float:
        """The round duration; where it is not set, the shortest that keeps the wanted capacity.

        Raises LatteError where no round duration keeps it.
        """
        if self.round_duration_s is None and self._settings.deadline is Deadline.PARTIAL:
            self.round_duration_s = paced_duration_s([each.rounds for each in self.devices.values()])
            log.info("\trounds take %.3g s", self.round_duration_s)
        elif self.round_duration_s is None:
            priced = [(_fleet_class(each), each.rounds) for each in self.devices.values()]
            points = curve(priced, self._network.parameters)
            self.round_duration_s = shortest_point(points, capacity=self._settings.capacity).round_duration_s
            log.info("\trounds take %.3g s", self.round_duration_s)
        return self.round_duration_s

    def warn_of_untrained(self) -> None:
        """Say so where no device trains the whole network, and the rule leaves the same channels out every time."""
        given = [best.sub_model for each in self.devices.values() if (best := self._best(each.rounds))]
        widest = max(given, key=lambda each: each.parameters, default=None)
        if widest and self._settings.method is Method.NESTED and widest.parameters < self._network.parameters:
            log.warning(
                "no device trains more than `%s`, and `nested` leaves out the same channels in each round: they stay "
                "as they were drawn, which spoils the network; train a smaller model, or set a longer `round-duration`",
                printable(widest.id),
            )

    # Steps 2 and 3: parameters, F and U go to the devices, which train

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.price(grid)
        self.rounds.append(RoundLog(number=server_round))
        self._whole = messages.arrays_in(arrays)
        self._asked, self._limits_s, self._given = {}, {}, {}
        able = self._able(set(grid.get_node_ids()))
        for node in self._draw(able, server_round):
            number, chosen = self.devices[node].number, able[node]
            self._given[node] = chosen, self._channels(number, chosen.sub_model, server_round - 1)
            if not self._settings.fleet:  # the clock of this machine is not that of virtual devices
                self._limits_s[node] = self._longest_s(chosen)
        return self._messages(
            self._given, lambda node: self._work(*self._given[node], server_round - 1), MessageType.TRAIN, server_round
        )

    def _able(self, there: Collection[int]) -> dict[int, Round]:
        """What each of these devices would train, without those that can train nothing; they are named once."""
        able, before = dict[int, Round](), self._unable
        self._unable = set()
        for node in sorted(self.devices.keys() & there):
            rounds = self._prices_now(self.devices[node])
            chosen = self._best(rounds)
            if chosen:
                able[node] = chosen
                continue
            self._unable.add(node)
            if node not in before:
                self._leave_out(node, too_slow(rounds, self.duration_s()))
        return able

    def limit_s(self, message: Message) -> float | None:
        """How long the reply to a message may take, in seconds; None where nothing is known of it."""
        if self._settings.timeout_s is not None or message.metadata.message_type != MessageType.TRAIN:
            return self._settings.timeout_s
        return self._limits_s.get(message.metadata.dst_node_id)

    def _longest_s(self, given: Round) -> float:
        """How long the server waits for a device that was given this: LATE times what it takes at most, and START_S.

        At most it takes the upper end of its round. One that stops in time ends by U, but for its first step.
        """
        price, most_s = step_price(given), given.high_s or 0.0
        if self._settings.deadline is Deadline.PARTIAL:
            first_s = given.sending_s + (price.high_s if price else 0.0)
            most_s = min(most_s, max(self.duration_s(), first_s))
        return LATE * most_s + START_S

    def _prices_now(self, device: DevicePrices) -> tuple[Round, ...]:
        """The prices of a device, as its own rounds so far correct them."""
        return correct_rounds(device.rounds, self._measured.get(device.name, ()))

    def _best(self, rounds: Sequence[Round]) -> Round | None:
        """What a device trains: as much as it can start in time, or as it finishes for sure; None where nothing."""
        if self._settings.deadline is Deadline.PARTIAL:
            return paced_round(rounds, self.duration_s())
        return largest(rounds, inf if self._settings.deadline is Deadline.NONE else self.duration_s())

    def _channels(self, device: int, sub_model: SubModel, round_number: int) -> Kept:
        return choose_channels(
            self._network,
            self._whole,
            self.frequencies,
            sub_model,
            self._settings,
            round_number=round_number,
            device=device,
        )

    def _work(self, given: Round, channels: Kept, round_number: int) -> RecordDict:
        """What a device is sent: the parameters of its sub-model, which channels they are, and its task."""
        sub_model = given.sub_model
        task = RoundTask(
            model=self._model,
            sub_models=self._sub_models,
            round_number=round_number,
            round_duration_s=self.duration_s(),
            sub_model=sub_model.id,
        )
        arrays = part(self._network, self._whole, channels, sub_model.dropped)
        return RecordDict(
            {
                ARRAYS: messages.array_record(arrays),
                KEPT: messages.array_record(channels),
                TASK: messages.task_record(task),
            }
        )

    def _messages(
        self, nodes: Iterable[int], content: Callable[[int], RecordDict], kind: str, server_round: int
    ) -> Iterator[Message]:
        """A message to each node, whose replies are waited for; each is made when its turn comes."""
        self._asked = {}
        return (self._message(node, content(node), kind, server_round) for node in nodes)

    def _message(self, node: int, content: RecordDict, kind: str, server_round: int) -> Message:
        message = Message(content, dst_node_id=node, message_type=kind, group_id=str(server_round))
        self._asked[node] = message
        return message

    def _draw(self, nodes: Iterable[int], server_round: int) -> list[int]:
        """Those of `nodes` that take part, by the devices' own numbers: node ids are random."""
        order = sorted(nodes, key=lambda node: (self.devices[node].number, self.devices[node].name, node))
        count = self._settings.per_round
        return [order[at] for at in participants(len(order), count, server_round - 1, self._settings.seed)]

    # Step 4: parameters and F come back

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        average, examples, losses = Averaging(self._network, self._whole, self._settings.rule), 0, 0.0
        for node, returned in answers(self._asked, replies, self._read_returned, most_bytes=self._update_bytes):
            if isinstance(returned, LatteError):
                self._leave_out(node, returned)
                continue
            average.add(returned.update)
            self._count(returned)
            examples += returned.update.examples
            losses += returned.loss * returned.update.examples
            self.rounds[-1].trained.append(self._trainer(node, returned))
        if not examples:
            log.warning("round %d: no device trained, the parameters stay as they are", server_round)
            return None, None
        whole = self._momentum.after(self._whole, average.means())
        devices = len(self.rounds[-1].trained)
        return messages.array_record(whole), MetricRecord(
            {"examples": examples, "loss": losses / examples, "devices": devices}
        )

    def _count(self, returned: Returned) -> None:
        """Count the channels that a device trained: how often, and which of them together."""
        channels = trained_channels(self._network, returned.update.kept, returned.update.dropped)
        self.frequencies = self.frequencies.after(channels, returned.trained)
        if self._pairs:
            self._pairs.add(channels)

    def _read_returned(self, node: int, content: RecordDict) -> Returned:
        """What a device returned, checked; raises LatteError where it is of no use."""
        returned = messages.returned_in(content)
        update, priced = returned.update, self.devices[node].examples
        check_update(self._network, update)
        self._check_sub_model(node, returned)
        if update.examples > priced:
            raise LatteError(f"it trained on {update.examples} examples", hint=f"by its prices it has {priced}")
        if not 1 <= returned.trained <= self._settings.epochs * update.examples:
            raise LatteError(
                f"it trained on {returned.trained} examples in all", hint="it has at most those of its epochs"
            )
        self._check_steps(returned)
        self._check_gain(returned)
        if returned.round_number != self.rounds[-1].number - 1:
            raise LatteError("what it trained is of another round", hint=messages.SAME_VERSION)
        check_change(self._network, self._whole, update)
        return returned

    def _check_sub_model(self, node: int, returned: Returned) -> None:
        """Raise LatteError where the device trained something else than it was sent."""
        given, channels = self._given[node]
        entry = given.sub_model
        if returned.sub_model != entry.id:
            name = returned.sub_model[:_SHOWN]
            raise LatteError(f"it trained the sub-model `{name}`", hint=f"it was sent `{entry.id}`")
        kept = returned.update.kept
        for name in {*kept, *channels}:
            if not np.array_equal(kept.get(name, ()), channels.get(name, ())):
                raise LatteError(f"it kept other channels of `{name[:_SHOWN]}` than it was sent")
        if returned.update.dropped != entry.dropped:
            raise LatteError(f"it left out other blocks than `{entry.id}` does", hint="is it the same model?")

    def _check_steps(self, returned: Returned) -> None:
        """Raise LatteError where it cannot have trained on its examples in so many steps."""
        batch, examples = self._network.batch_size, returned.update.examples
        most = min(returned.trained, self._settings.epochs * ceil(examples / batch))
        if not ceil(returned.trained / batch) <= returned.steps <= most:
            raise LatteError(
                f"it trained on {returned.trained} examples in {returned.steps} steps",
                hint=f"its epochs have {most} at most, of up to {batch} examples",
            )

    def _check_gain(self, returned: Returned) -> None:
        """Raise LatteError where its part of F is not what follows from the channels and examples it names."""
        update, found = returned.update, returned.frequencies
        channels = trained_channels(self._network, update.kept, update.dropped)
        wanted = Frequencies.none(groups(self._network)).after(channels, returned.trained).examples
        if set(found) != set(wanted) or not all(np.array_equal(found[name], wanted[name]) for name in wanted):
            raise LatteError("its frequency table is not that of the channels it kept", hint="is it the same model?")

    def _trainer(self, node: int, returned: Returned) -> Trainer:
        """What is written of a device's round; how long its steps took counts from the next round on."""
        device, (given, _) = self.devices[node], self._given[node]
        priced = next(each for each in device.rounds if each.sub_model == given.sub_model)
        price = step_price(priced)
        if self._settings.learn_times and price and returned.step_s is not None:
            measured = MeasuredSteps(
                sub_model=given.sub_model.id,
                parameters=given.sub_model.parameters,
                steps=returned.steps,
                step_s=returned.step_s,
                spread_s=returned.spread_s,
                price=price,
            )
            self._measured[device.name].append(measured)
            if measured.counted != measured.log_ratio:
                said = f"a step of `{device.name}` took {exp(measured.log_ratio):.3g} times what its profile says"
                log.warning("%s, of which %.3g times count; profile it again", said, exp(measured.counted))
        return Trainer(
            name=device.name,
            sub_model=returned.sub_model,
            parameters=given.sub_model.parameters,
            examples=returned.update.examples,
            loss=returned.loss,
            steps=returned.steps,
            step_s=returned.step_s,
            step_spread_s=None if returned.step_s is None else returned.spread_s,
            price=price,
            in_use=step_price(given),
        )

    def coverage(self) -> Coverage | None:
        """The share of the pairs of channels that were trained together so far; None where no channels were cut."""
        return self._pairs.coverage() if self._pairs else None

    def _leave_out(self, node: int, refused: LatteError) -> None:
        name = self.devices[node].name if node in self.devices else f"node {node}"
        self.rounds[-1].left_out.append((name, reason(refused)))
        log.warning("round %d goes on without `%s`: %s", self.rounds[-1].number, name, reason(refused))

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
                    RoundTask(model=self._model, sub_models=self._sub_models, round_number=server_round - 1)
                ),
            }
        )
        nodes = self._draw(self.devices.keys() & there, server_round)
        return self._messages(nodes, lambda _: content, MessageType.EVALUATE, server_round)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        if not self._settings.held_out_locally:
            return None
        found = []
        for node, scored in answers(self._asked, replies, self._read_score):
            if isinstance(scored, LatteError):
                self._leave_out(node, scored)
            else:
                found.append(scored)
        if not found:
            log.warning("round %d: no device evaluated the parameters", server_round)
            return None
        examples = sum(count for count, _ in found)
        return MetricRecord(
            {
                "examples": examples,
                "accuracy": sum(count * score.accuracy for count, score in found) / examples,
                "loss": sum(count * score.loss for count, score in found) / examples,
            }
        )

    def _read_score(self, node: int, content: RecordDict) -> tuple[int, NetworkScore]:
        """A device's score; it holds out a share of each class, at least one example (`data.split_examples`)."""
        share, classes = self._settings.held_out_locally, self._network.shapes[self._network.scores][-1]
        most = ceil((share * self.devices[node].examples + classes) / (1 - share))
        return messages.score_in(content, most_examples=most)


def _fleet_class(prices: DevicePrices) -> FleetClass:
    """The device as a class of one, for the curve of round durations, which has its rounds already."""
    return FleetClass(
        name=prices.name, device=prices.device, samples=prices.examples, batch=1, up_bit_per_s=1.0, down_bit_per_s=1.0
    )
