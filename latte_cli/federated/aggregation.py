"""Aggregation: what devices learned in their sub-models, put together in the whole network where they overlap."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import pairwise
from math import sqrt
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown
from latte_cli.network import Network
from latte_cli.network.channels import ChannelGroup, Positions
from latte_cli.network.channels import importance as importance_of
from latte_cli.network.depth import without

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Parameters by their names in the network."""

Kept: TypeAlias = Mapping[str, NDArray[np.int64]]
"""The channels kept of each channel group, ascending; a group that is not named stays whole."""

ParameterIndices: TypeAlias = Mapping[str, tuple[NDArray[np.int64], ...]]
"""For each parameter by name, the indices kept of each dimension."""

MOST_EXAMPLES = 10**9
"""More than any device has; what claims more would outweigh all others."""

MOST_CHANGE = 10.0
"""Measured on docs/federation: up to 0.6 where networks learn, 6 where training (learning rate 0.2) nearly diverges."""


class AggregationRule(StrEnum):
    """How the values that several devices return for a number of a parameter become one.

    `EXAMPLES` weighs each device by the examples it trained on (FedAvg, FjORD). `HOLDERS` weighs all that hold the
    number alike (HeteroFL, FedRolex); it is also FIARSE's sum of updates over the number of holders.
    """

    EXAMPLES = "examples"
    HOLDERS = "holders"


@dataclass(frozen=True, kw_only=True)
class Update:
    """What a device returns: the `arrays` of its sub-model and the number of `examples` it trained them on.

    The sub-model has the channels `kept` of the network, without the residual blocks `dropped`.
    """

    kept: Kept
    arrays: Arrays
    examples: int
    dropped: tuple[str, ...] = ()


def groups(network: Network) -> tuple[ChannelGroup, ...]:
    """The network's channel groups; those of a network that was seen before are known."""
    return _positions(network).groups


def indices_of(network: Network, kept: Kept, dropped: tuple[str, ...] = ()) -> ParameterIndices:
    """Where in each parameter of `network` those of the sub-model lie; known for channels that were kept before.

    Raises LatteError for an unknown group or block and for channels it does not have.
    """
    chosen = tuple(sorted((name, _numbers(name, channels)) for name, channels in kept.items()))
    return _cached_indices(network, chosen, dropped)


@lru_cache(maxsize=8)
def _positions(network: Network) -> Positions:
    return Positions(network)


@lru_cache(maxsize=1024)
def _cached_indices(
    network: Network, kept: tuple[tuple[str, tuple[int, ...]], ...], dropped: tuple[str, ...]
) -> ParameterIndices:
    found = _positions(network).parameters(dict(kept))
    if not dropped:
        return found
    left = without(network, dropped)
    names = {name for node in left.nodes for name in left.parameter_names(node)}
    return {name: index for name, index in found.items() if name in names}


def _numbers(name: str, channels: NDArray[np.int64]) -> tuple[int, ...]:
    found = np.asarray(channels)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise LatteError(f"channel group `{name}` keeps no list of channels", hint="name them by their numbers from 0")
    return tuple(found.tolist())


def part(network: Network, whole: Arrays, kept: Kept, dropped: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """The parameters of the sub-model that keeps these channels, cut out of the `whole` network's.

    Raises LatteError as `indices_of` does.
    """
    return {name: whole[name][np.ix_(*index)] for name, index in indices_of(network, kept, dropped).items()}


def trained_channels(network: Network, kept: Kept, dropped: tuple[str, ...] = ()) -> Kept:
    """The channels kept, and none of the groups that lie in the residual blocks `dropped`."""
    if not dropped:
        return kept
    left = {node.name for node in without(network, dropped).nodes}
    gone = {group.name: np.arange(0) for group in groups(network) if left.isdisjoint(group.nodes)}
    return {**kept, **gone}


def check_update(network: Network, update: Update) -> Update:
    """`update`, if it can be put together with others.

    Raises LatteError for channels that the network does not have or that do not ascend, parameters that are missing,
    unknown, of another shape or type, or no numbers, and for a number of examples that no device has.
    """
    if isinstance(update.examples, bool) or not isinstance(update.examples, int):
        raise LatteError(f"`{update.examples}` is no number of examples", hint="it is a whole number")
    if not 1 <= update.examples <= MOST_EXAMPLES:
        raise LatteError(f"it trained on {update.examples} examples", hint=f"from 1 to {MOST_EXAMPLES} count")
    for name, channels in update.kept.items():
        numbers = _numbers(name, channels)
        if any(low >= high for low, high in pairwise(numbers)):
            raise LatteError(f"the channels kept of `{name}` do not ascend", hint="sort them, each of them once")
    check_arrays(network, update.arrays, update.kept, update.dropped)
    return update


def check_arrays(network: Network, arrays: Arrays, kept: Kept, dropped: tuple[str, ...] = ()) -> None:
    """Raise LatteError where `arrays` are not the parameters of the sub-model that keeps these channels."""
    wanted = indices_of(network, kept, dropped)
    for name in arrays:
        if name not in wanted:
            raise unknown("parameter", name, wanted)
    for name, index in wanted.items():
        _check_array(name, arrays.get(name), tuple(map(len, index)))


def check_change(network: Network, whole: Arrays, update: Update) -> None:
    """Raise LatteError where an update that passed `check_update` changes the parameters by more than a training does.

    The bound is on the Euclidean norm of the change of all its parameters together (norm thresholding: Sun et al.,
    "Can You Really Backdoor Federated Learning?", 2019), MOST_CHANGE times the norm that they had in `whole`.
    """
    before = part(network, whole, update.kept, update.dropped)
    most = MOST_CHANGE * max(1.0, _norm(before.values()))
    change = _norm(update.arrays[name].astype(np.float64) - value for name, value in before.items())
    if change > most:
        raise LatteError(
            f"its parameters changed by {change:.3g}, a norm over the bound of {most:.3g}",
            hint="a smaller learning rate may help",
        )


def _norm(arrays: Iterable[NDArray[Any]]) -> float:
    return sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays))


def _check_array(name: str, array: NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    if array is None:
        raise LatteError(f"the parameter `{name}` is missing", hint="return all that the sub-model has")
    if array.dtype != np.float32:
        raise LatteError(f"the parameter `{name}` is of the type {array.dtype}", hint="return it as float32")
    if array.shape != shape:
        raise LatteError(f"the parameter `{name}` has the shape {array.shape}", hint=f"its channels make it {shape}")
    if not np.isfinite(array).all():
        raise LatteError(f"the parameter `{name}` holds what is no number", hint="a smaller learning rate may help")


def channel_importance(network: Network, whole: Arrays) -> dict[str, NDArray[np.float64]]:
    """How much each channel of each group matters, by the weights that make it."""
    return importance_of(network, groups(network), whole)


def aggregate(
    network: Network, whole: Arrays, updates: Sequence[Update], rule: AggregationRule = AggregationRule.EXAMPLES
) -> dict[str, NDArray[Any]]:
    """The parameters of `whole` after a round: each number is the mean, by `rule`, over the devices that hold it.

    What no device holds keeps its value. Sums are made in double precision, in the order of `updates`, which have
    passed `check_update`.
    """
    found = Averaging(network, whole, rule)
    for update in updates:
        found.add(update)
    return found.means()


class Averaging:
    """The means of `aggregate`, of one update after the other: no update is needed once it was added.

    It holds two numbers of 8 bytes for each of the network's. What was added in the same order gives the same bits.
    """

    def __init__(self, network: Network, whole: Arrays, rule: AggregationRule) -> None:
        self._network, self._whole, self._rule = network, whole, rule
        self._totals = {name: np.zeros(value.shape) for name, value in whole.items()}
        self._weights = {name: np.zeros(value.shape) for name, value in whole.items()}

    def add(self, update: Update) -> None:
        """Count an update that passed `check_update`."""
        weight = float(update.examples) if self._rule is AggregationRule.EXAMPLES else 1.0
        for name, index in indices_of(self._network, update.kept, update.dropped).items():
            block = np.ix_(*index)
            self._totals[name][block] += weight * update.arrays[name].astype(np.float64)
            self._weights[name][block] += weight

    def means(self) -> dict[str, NDArray[Any]]:
        """The parameters after the round."""
        merged = {}
        for name, value in self._whole.items():
            total, weights = self._totals[name], self._weights[name]
            touched = weights > 0
            merged[name] = value.copy()
            merged[name][touched] = (total[touched] / weights[touched]).astype(value.dtype)
        return merged


class ServerMomentum:
    """The server's momentum: to a round's change it adds `share` of its step before (FedAvgM, Hsu et al., 2019)."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._steps: dict[str, NDArray[Any]] = {}

    def after(self, before: Arrays, averaged: Arrays) -> dict[str, NDArray[Any]]:
        """The parameters after a round that began with `before`, in which devices' values were `averaged`.

        They are finite where those are: a step that overflows is forgotten.
        """
        if not self._share:
            return dict(averaged)
        with np.errstate(over="ignore", invalid="ignore"):
            for name, value in averaged.items():
                change = value - before[name]
                self._steps[name] = change + self._share * self._steps[name] if name in self._steps else change
            moved = {name: before[name] + step for name, step in self._steps.items()}
        if all(np.isfinite(each).all() for each in moved.values()):
            return moved
        self._steps = {}
        return dict(averaged)
