"""Learners: the devices of a study and their server in one process, a round after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latte_cli.allocator import SubModel
from latte_cli.allocator.channels import Frequencies, kept_channels
from latte_cli.errors import LatteError
from latte_cli.federated.aggregation import (
    AggregationRule,
    Arrays,
    Kept,
    ParameterIndices,
    ServerMomentum,
    Update,
    channel_importance,
    groups,
    indices_of,
    part,
    trained_channels,
)
from latte_cli.federated.data import Examples
from latte_cli.federated.device import Returned, choose_channels, train_part
from latte_cli.federated.recipe import GoOn
from latte_cli.federated.settings import FederationSettings
from latte_cli.federated.study import ordered
from latte_cli.federated.study.clock import DeviceWork
from latte_cli.federated.study.methods import Learning, StudyMethod
from latte_cli.federated.study.overlap import HeldPart, Sum, block, sums
from latte_cli.federated.training import Trained, evaluate_network, initial, train_network
from latte_cli.fleet import Method as Channels
from latte_cli.layers import Shape
from latte_cli.network import Network

Failures = list[tuple[int, str]]
"""Devices whose training failed, and why; a round goes on without them."""


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What a learner needs: the `network` that is trained, the devices' `examples`, and what each of them trains.

    `settings` are the method's own; `sub_models` are of `network`; `levels` are those that FjORD draws from. Where
    `rooted`, weights are used divided by the root of the share of the channels that they read. `last_use` is the last
    round to which a device returns what it began after so many rounds, where that is not the next one.
    """

    network: Network
    settings: FederationSettings
    method: StudyMethod
    examples: Sequence[Examples]
    sub_models: Mapping[int, SubModel]
    levels: Sequence[SubModel] = ()
    rooted: bool = False
    last_use: Mapping[int, int] = field(default_factory=dict)


class Learner(Protocol):
    """A federation in training: `whole` are the parameters of the network after the rounds so far."""

    whole: dict[str, NDArray[Any]]

    def round(self, number: int, work: Sequence[DeviceWork], rate: float = 1.0) -> Failures:
        """Train the round `number` (from 0), in which devices return what they learned by this `work`.

        The learning rate is `rate` times that of the recipe.
        """

    def own(self, device: int) -> tuple[Network, dict[str, NDArray[Any]]] | None:
        """The model that the device keeps for itself; None where it has none but the whole."""


def learner(federation: Federation) -> Learner:
    """The learner of the federation's method, at its beginning."""
    return _LEARNERS[federation.method.learning](federation)


class _Overlap:
    """Devices train channels by a rule; each number becomes the mean over its holders."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._frequencies = Frequencies.none(groups(federation.network))
        self.whole = initial(federation.network, seed=federation.settings.seed)
        self._momentum = ServerMomentum(federation.settings.server_momentum)
        self._heads = _heads(federation.network) if federation.settings.masked else ()

    def round(self, number: int, work: Sequence[DeviceWork], rate: float = 1.0) -> Failures:
        returned, failed = [], []
        for each in work:
            try:
                returned.append((each.device, self._train(number, each, rate)))
            except LatteError as exc:
                failed.append((each.device, exc.message))
        held = [self._held_part(device, found.update) for device, found in returned]
        for _, found in returned:
            channels = trained_channels(self._federation.network, found.update.kept, found.update.dropped)
            self._frequencies = self._frequencies.after(channels, found.trained)
        averaged = {name: total.mean(self.whole[name]) for name, total in sums(self.whole, held).items()}
        self.whole = self._momentum.after(self.whole, averaged)
        return failed

    def _train(self, number: int, work: DeviceWork, rate: float) -> Returned:
        own, device = self._federation, work.device
        roots, sub_model = self._roots(device), own.sub_models[device]
        whole = {name: value / roots[name] if name in roots else value for name, value in self.whole.items()}
        channels = choose_channels(
            own.network, whole, self._frequencies, sub_model, own.settings, round_number=number, device=device
        )
        return train_part(
            own.network,
            part(own.network, whole, channels, sub_model.dropped),
            channels,
            sub_model,
            own.examples[device],
            _with_rate(own.settings, rate),
            round_number=number,
            device=device,
            go_on=_up_to(work.steps),
        )

    def _held_part(self, device: int, update: Update) -> HeldPart:
        """What the device returns, at its place in the whole network."""
        roots, rule = self._roots(device), self._federation.settings.rule
        held = HeldPart(
            indices=indices_of(self._federation.network, update.kept, update.dropped),
            arrays={name: array * roots[name] if name in roots else array for name, array in update.arrays.items()},
            weight=float(update.examples) if rule is AggregationRule.EXAMPLES else 1.0,
        )
        return _of_classes(held, self._heads, self._federation.examples[device])

    def _roots(self, device: int) -> dict[str, np.float32]:
        own = self._federation
        return _roots(own.network, own.sub_models[device]) if own.rooted else {}

    def own(self, device: int) -> None:
        return None


_MATRIX = 2  # dimensions: a weight with fewer has no inputs to be cut


def _roots(network: Network, sub_model: SubModel) -> dict[str, np.float32]:
    """For each weight the root of the share of its inputs that the sub-model keeps; those that keep all are left out.

    Divided by it, the weights that Kaiming's rule drew for all of the inputs are as if drawn for those that are kept.
    """
    whole, kept_shapes = _shapes(network), _shapes(sub_model.of(network))
    shares = {name: shape[1] / whole[name][1] for name, shape in kept_shapes.items() if len(shape) >= _MATRIX}
    return {name: np.float32(np.sqrt(share)) for name, share in shares.items() if share < 1}


def _shapes(network: Network) -> dict[str, Shape]:
    return {
        name: shape
        for node in network.nodes
        for name, shape in zip(network.parameter_names(node), node.parameter_shapes, strict=True)
    }


def _heads(network: Network) -> tuple[str, ...]:
    """The parameters of the layer that makes the scores, which have a row for each class."""
    classes = network.shapes[network.scores][-1]
    node = next(each for each in network.nodes if each.output == network.scores)
    shapes = zip(network.parameter_names(node), node.parameter_shapes, strict=True)
    return tuple(name for name, shape in shapes if shape[0] == classes)


def _of_classes(held: HeldPart, heads: Sequence[str], examples: Examples) -> HeldPart:
    """Without the rows of `heads` for classes that the device has no examples of, as in HeteroFL."""
    if not heads:
        return held
    present = np.unique(examples.labels)
    where, arrays = dict(held.indices), dict(held.arrays)
    for name in heads:
        rows, *others = where[name]
        where[name] = (rows[present], *others)
        arrays[name] = arrays[name][present]
    return HeldPart(indices=where, arrays=arrays, weight=held.weight)


class _Ordered:
    """FjORD: a step trains the first channels of a width drawn from the levels up to the device's own."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.whole = initial(federation.network, seed=federation.settings.seed)
        self._momentum = ServerMomentum(federation.settings.server_momentum)
        largest_first = sorted(federation.levels, key=lambda each: -each.parameters)
        self._parts = {each.id: self._part(each) for each in largest_first}

    def _part(self, level: SubModel) -> ordered.NestedPart:
        network = self._federation.network
        return ordered.NestedPart.of(level.of(network), indices_of(network, _nested_channels(level, network)))

    def round(self, number: int, work: Sequence[DeviceWork], rate: float = 1.0) -> Failures:
        own, held, failed = self._federation, [], []
        recipe = _with_rate(own.settings, rate).recipe
        for each in work:
            names, device = list(self._parts), each.device
            parts = [self._parts[name] for name in names[names.index(own.sub_models[device].id) :]]
            examples, where = own.examples[device], parts[0].indices
            arrays = {name: self.whole[name][block(index)] for name, index in where.items()}
            try:
                seed = _seed(own.settings.seed, number, device)
                found = ordered.train_parts(parts, arrays, examples, recipe, seed=seed, go_on=_up_to(each.steps))
            except LatteError as exc:
                failed.append((device, exc.message))
                continue
            held.append(HeldPart(indices=where, arrays=found.arrays, weight=float(len(examples))))
        averaged = {name: total.mean(self.whole[name]) for name, total in sums(self.whole, held).items()}
        self.whole = self._momentum.after(self.whole, averaged)
        return failed

    def own(self, device: int) -> None:
        return None


def _with_rate(settings: FederationSettings, rate: float) -> FederationSettings:
    return replace(settings, learning_rate=rate * settings.learning_rate)


def _up_to(steps: int) -> GoOn:
    return lambda taken: taken < steps


def _nested_channels(level: SubModel, network: Network) -> Kept:
    return kept_channels(Channels.NESTED, groups(network), dict(level.widths), round_number=0, device=0)


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@dataclass(kw_only=True)
class _Pruned:
    """What a device keeps itself: where its channels lie, their parameters, and which of those nobody else had.

    `weight` is how much its numbers count.
    """

    network: Network
    indices: ParameterIndices
    arrays: dict[str, NDArray[Any]]
    alone: dict[str, NDArray[np.bool_]]
    weight: float


class _Pruning:
    """Hermes and TailorFL: a device prunes the network once, and shares what others hold too."""

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self._kept: dict[int, _Pruned] = {}
        self._steps: dict[int, int] = {}
        self._rate = 1.0
        self.whole = initial(federation.network, seed=federation.settings.seed)
        self._momentum = ServerMomentum(federation.settings.server_momentum)

    def round(self, number: int, work: Sequence[DeviceWork], rate: float = 1.0) -> Failures:
        held, failed, taking_part = [], [], []
        self._steps, self._rate = {each.device: each.steps for each in work}, rate
        for device in self._steps:
            try:
                first = device not in self._kept
                held.append(self._first(number, device) if first else self._again(number, device))
                taking_part.append(device)
            except LatteError as exc:
                failed.append((device, exc.message))
        found = sums(self.whole, held)
        averaged = {name: each.mean(self.whole[name], fewest=_SHARED) for name, each in found.items()}
        self.whole = self._momentum.after(self.whole, averaged)
        for device in taking_part:
            self._share(self._kept[device], found)
        return failed

    def _first(self, number: int, device: int) -> HeldPart:
        """Train the whole network, and prune it."""
        own, network = self._federation, self._federation.network
        found = self._train(network, self.whole, number, device)
        channels = self._choose_channels(found.arrays, number, device)
        self._kept[device] = _Pruned(
            network=own.sub_models[device].of(network),
            indices=indices_of(network, channels),
            arrays=part(network, found.arrays, channels),
            alone={},
            weight=self._share_kept(channels) if own.method.by_data else 1.0,
        )
        return HeldPart(indices=indices_of(network, {}), arrays=found.arrays)

    def _choose_channels(self, after: Mapping[str, NDArray[Any]], number: int, device: int) -> Kept:
        """The channels that matter most to the device: by their weights, or by how much its data moved them."""
        own, network = self._federation, self._federation.network
        if own.method.by_data:
            after = {name: np.sqrt(np.abs(array * (array - self.whole[name]))) for name, array in after.items()}
        matter = channel_importance(network, after)
        return kept_channels(
            Channels.IMPORTANCE,
            groups(network),
            dict(own.sub_models[device].widths),
            round_number=number,
            device=device,
            seed=own.settings.seed,
            importance={each.name: matter.get(each.name, np.zeros(each.channels)) for each in groups(network)},
        )

    def _again(self, number: int, device: int) -> HeldPart:
        """Train the part that the device kept, with what others have changed of it since."""
        mine = self._kept[device]
        for name, array in mine.arrays.items():
            shared = self.whole[name][block(mine.indices[name])]
            alone = mine.alone.get(name)
            mine.arrays[name] = shared if alone is None else np.where(alone, array, shared)
        mine.arrays = self._train(mine.network, mine.arrays, number, device).arrays
        return HeldPart(indices=mine.indices, arrays=mine.arrays, weight=mine.weight)

    def _train(self, network: Network, arrays: Mapping[str, NDArray[Any]], number: int, device: int) -> Trained:
        settings, examples = _with_rate(self._federation.settings, self._rate), self._federation.examples[device]
        seed, go_on = _seed(settings.seed, number, device), _up_to(self._steps[device])
        return train_network(network, arrays, examples, settings.recipe, seed=seed, go_on=go_on)

    def _share(self, mine: _Pruned, found: Mapping[str, Sum]) -> None:
        """Note which of the device's numbers no other device of the round held."""
        mine.alone = {name: found[name].holders[block(index)] < _SHARED for name, index in mine.indices.items()}

    def _share_kept(self, channels: Kept) -> float:
        """The share of all channels that stay: 1 less the pruning rate."""
        sizes = {group.name: group.channels for group in groups(self._federation.network)}
        return sum(len(channels.get(name, range(size))) for name, size in sizes.items()) / sum(sizes.values())

    def own(self, device: int) -> tuple[Network, dict[str, NDArray[Any]]] | None:
        mine = self._kept.get(device)
        return (mine.network, mine.arrays) if mine else None


_SHARED = 2  # a mean of one is that device's own value
"""Devices that have to hold a number for its mean to be taken."""


class _Buffered:
    """FedBuff: devices begin from the whole network as it was after some round; their changes are added when they come.

    A change counts by 1 / sqrt(1 + its staleness), the rounds that have passed since the device began.
    """

    def __init__(self, federation: Federation) -> None:
        self._federation = federation
        self.whole = initial(federation.network, seed=federation.settings.seed)
        self._momentum = ServerMomentum(federation.settings.server_momentum)
        self._versions = {0: self.whole}

    def round(self, number: int, work: Sequence[DeviceWork], rate: float = 1.0) -> Failures:
        totals = {name: np.zeros(value.shape) for name, value in self.whole.items()}
        returned, failed = 0, []
        for at, each in enumerate(work):
            version = number if each.version is None else each.version
            begun = self._versions[version]
            try:
                found = self._train(begun, each, (number, each.device, at), rate)
            except LatteError as exc:
                failed.append((each.device, exc.message))
                continue
            returned += 1
            for name, array in found.arrays.items():
                totals[name] += (array.astype(np.float64) - begun[name]) / sqrt(1 + number - version)
        averaged = {
            name: (value + totals[name] / max(1, returned)).astype(value.dtype) for name, value in self.whole.items()
        }
        self.whole = self._momentum.after(self.whole, averaged)
        self._keep_versions(number)
        return failed

    def _train(self, begun: Arrays, work: DeviceWork, numbers: tuple[int, ...], rate: float) -> Trained:
        """A device may come twice in a round, so that its seed depends on where in it that is."""
        own = self._federation
        recipe, seed = _with_rate(own.settings, rate).recipe, _seed(own.settings.seed, *numbers)
        examples = own.examples[work.device]
        return train_network(own.network, begun, examples, recipe, seed=seed, go_on=_up_to(work.steps))

    def _keep_versions(self, number: int) -> None:
        """Keep what devices begin from, or have begun from and return to a later round than this one."""
        self._versions[number + 1] = self.whole
        last_use = self._federation.last_use
        self._versions = {each: whole for each, whole in self._versions.items() if last_use.get(each, each) > number}

    def own(self, device: int) -> None:
        return None


_LEARNERS: Mapping[Learning, Callable[[Federation], Learner]] = {
    Learning.OVERLAP: _Overlap,
    Learning.ORDERED: _Ordered,
    Learning.PRUNED: _Pruning,
    Learning.BUFFERED: _Buffered,
}


def personal_accuracy(learner: Learner, federation: Federation, held_out: Examples, *, most: int = 200) -> float | None:
    """The mean accuracy of devices' own models on examples held out, drawn by the classes that each device has.

    None where devices do not have their own models.
    """
    found = []
    for device, examples in enumerate(federation.examples):
        own = learner.own(device)
        alike = _alike(examples, held_out, most, federation.settings.seed, device) if own else None
        if own and alike is not None and len(alike):
            found.append(evaluate_network(*own, alike, statistics=examples).accuracy)
    return float(np.mean(found)) if found else None


def device_accuracies(devices: Sequence[Examples], by_class: Mapping[int, float]) -> tuple[float, ...]:
    """The accuracy that a network has on each device's own mix of classes, where it gets these shares of them right.

    Classes of which no share is known do not count; a device of none but those has the mean of all that are known.
    """
    found = []
    for examples in devices:
        labels = [label for label in examples.labels.tolist() if label in by_class]
        shares = [by_class[label] for label in labels] or list(by_class.values())
        found.append(float(np.mean(shares)))
    return tuple(found)


def _alike(examples: Examples, held_out: Examples, most: int, seed: int, device: int) -> Examples:
    """Up to `most` of `held_out`, drawn so that each class is as frequent as in `examples`."""
    classes, counts = np.unique(examples.labels, return_counts=True)
    shares = dict(zip(classes.tolist(), (counts / counts.sum()).tolist(), strict=True))
    weights = np.array([shares.get(label, 0.0) for label in held_out.labels.tolist()])
    there = {label: int((held_out.labels == label).sum()) for label in shares}
    weights /= np.array([max(1, there.get(label, 0)) for label in held_out.labels.tolist()])
    if not weights.sum():
        return held_out.take(np.arange(0))
    drawn = np.random.default_rng((seed, device)).choice(len(weights), most, p=weights / weights.sum())
    return held_out.take(np.sort(drawn))
