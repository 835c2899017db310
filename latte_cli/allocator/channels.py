"""Which channels a device trains: nested, rolling or drawn, or those that were trained least."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError
from latte_cli.fleet import Method
from latte_cli.network.channels import ChannelGroup

Indices: TypeAlias = NDArray[np.int64]
Kept: TypeAlias = dict[str, Indices]
"""The channels that stay of each group, in ascending order; a group that is not named stays whole."""


@dataclass(frozen=True, kw_only=True)
class Frequencies:
    """The frequency table F: for each channel group the number of examples that each channel was trained on."""

    examples: Mapping[str, NDArray[np.float64]]

    @staticmethod
    def none(groups: Iterable[ChannelGroup]) -> "Frequencies":
        """Of a network that was not trained."""
        return Frequencies(examples={group.name: np.zeros(group.channels) for group in groups})

    def after(self, kept: Mapping[str, Indices], examples: float) -> "Frequencies":
        """With `examples` more for the channels `kept`; groups that are not named were trained whole."""
        added = {name: counts.copy() for name, counts in self.examples.items()}
        for name, counts in added.items():
            counts[kept.get(name, slice(None))] += examples
        return Frequencies(examples=added)


def kept_channels(
    method: Method,
    groups: Sequence[ChannelGroup],
    widths: Mapping[str, int],
    *,
    round_number: int,
    device: int,
    seed: int = 0,
    frequencies: Frequencies | None = None,
    importance: Mapping[str, NDArray[np.float64]] | None = None,
) -> Kept:
    """The channels of a device's sub-model with `widths`, in the round `round_number` (both from 0).

    `least-trained` goes by `frequencies` (default: nothing was trained), `importance` by that of each group's channels.
    The same arguments give the same channels. Raises LatteError for a width that the group cannot have.
    """
    found: Kept = {}
    for group in groups:
        width = widths.get(group.name, group.channels)
        if not 0 < width <= group.channels:
            hint = f"it can have 1 to {group.channels}"
            raise LatteError(f"channel group `{group.name}` cannot have {width} channels", hint=hint)
        units, wide = group.channels // group.multiple, width // group.multiple
        if wide == units:
            continue
        match method:
            case Method.NESTED:
                chosen = np.arange(wide)
            case Method.LOCK_STEP:
                chosen = (round_number + np.arange(wide)) % units
            case Method.ROLLING:
                chosen = (_start(group, seed, round_number, device) + np.arange(wide)) % units
            case Method.RANDOM:
                chosen = _random(group, seed, round_number, device).permutation(units)[:wide]
            case Method.LEAST_TRAINED | Method.IMPORTANCE:
                score = _scores(method, group, frequencies, importance).reshape(group.multiple, units).sum(axis=0)
                drawn = _random(group, seed, round_number, device).permutation(units)
                chosen = drawn[np.argsort(score[drawn], kind="stable")[:wide]]
        found[group.name] = _channels(np.sort(chosen), group)
    return found


def _channels(units: Indices, group: ChannelGroup) -> Indices:
    """The same channels of each part of a group that is divided: part by part, as grouped convolutions have them."""
    size = group.channels // group.multiple
    return (np.arange(group.multiple)[:, None] * size + units[None]).ravel()


def _scores(
    method: Method,
    group: ChannelGroup,
    frequencies: Frequencies | None,
    importance: Mapping[str, NDArray[np.float64]] | None,
) -> NDArray[np.float64]:
    """What is least of the channels to take."""
    if method is Method.IMPORTANCE:
        if importance is None or group.name not in importance:
            raise LatteError(f"the importance of channel group `{group.name}` is not known", hint="give it its weights")
        return -np.asarray(importance[group.name], dtype=float)
    return np.zeros(group.channels) if frequencies is None else frequencies.examples[group.name]


def _random(group: ChannelGroup, seed: int, round_number: int, device: int) -> np.random.Generator:
    return np.random.default_rng((_number(group.name), seed, round_number, device))


def _start(group: ChannelGroup, seed: int, round_number: int, device: int) -> int:
    """The start of a window: the group's own permutation of all starts, read at another place each round."""
    units = group.channels // group.multiple
    index = np.random.default_rng((_number(group.name), seed, round_number)).integers(units)
    order = np.random.default_rng((_number(group.name), seed)).permutation(units)
    return int(order[(int(index) + device) % units])


def _number(name: str) -> int:
    return int.from_bytes(sha256(name.encode()).digest()[:8], "big")


# Pairs: what was trained together


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """The share of the pairs of channels, one that a weight reads and one that it writes, trained together."""

    share: float
    least_share: float
    least_pair: tuple[str, str]


def coverage(
    pairs: Iterable[tuple[str, str]], groups: Sequence[ChannelGroup], devices: Iterable[Mapping[str, Indices]]
) -> Coverage | None:
    """How many channel pairs of the group pairs `pairs` any of `devices` trains; None where there are no pairs."""
    found = TrainedPairs(pairs, groups)
    for device in devices:
        found.add(device)
        if found.complete:
            break
    return found.coverage()


class TrainedPairs:
    """Which pairs of channels of the group pairs `pairs` were trained together: a byte for each of them."""

    def __init__(self, pairs: Iterable[tuple[str, str]], groups: Sequence[ChannelGroup]) -> None:
        self._channels = {group.name: group.channels for group in groups}
        self._seen = {
            (first, second): np.zeros((self._channels[first], self._channels[second]), dtype=bool)
            for first, second in pairs
        }
        self._left = set(self._seen)

    @property
    def complete(self) -> bool:
        """Whether all pairs were."""
        return not self._left

    def add(self, device: Mapping[str, Indices]) -> None:
        """Count the channels that a device trained; groups that are not named were trained whole."""
        for first, second in tuple(self._left):
            rows = device.get(first, np.arange(self._channels[first]))
            columns = device.get(second, np.arange(self._channels[second]))
            self._seen[first, second][np.ix_(rows, columns)] = True
        self._left = {pair for pair in self._left if not self._seen[pair].all()}

    def coverage(self) -> Coverage | None:
        """The share of the pairs that were; None where there are no pairs."""
        seen = self._seen
        if not seen:
            return None
        least = min(seen, key=lambda pair: float(seen[pair].mean()))
        trained, all_pairs = sum(int(each.sum()) for each in seen.values()), sum(each.size for each in seen.values())
        return Coverage(share=trained / all_pairs, least_share=float(seen[least].mean()), least_pair=least)


# Windows laid end to end: for fleets too large to look at every device's channels one by one


@dataclass(frozen=True, kw_only=True)
class Windows:
    """For each group the start of each device's window, which goes on at 0 where it passes the end, and what F becomes.

    `starts` are by group, one for each device.
    """

    starts: Mapping[str, Indices]
    frequencies: Frequencies


def windows(
    groups: Sequence[ChannelGroup], widths: Mapping[str, Indices], examples: NDArray[np.float64], before: Frequencies
) -> Windows:
    """Windows of `widths` channels, a device after the other, laid end to end round each group's circle of channels.

    The first one starts where F has least, so all channels are trained by as many devices, but for one. `examples` are
    those of each device, which trains nothing of a group where its width is 0.
    """
    starts, after = {}, {}
    for group in groups:
        wide = widths[group.name]
        counts = before.examples[group.name]
        first = int(np.argmin(counts))
        starts[group.name] = (first + np.cumsum(wide, dtype=np.int64) - wide) % group.channels
        after[group.name] = counts + _examples_covered(starts[group.name], wide, examples, group.channels)
    return Windows(starts=starts, frequencies=Frequencies(examples=after))


def _examples_covered(
    starts: Indices, widths: Indices, examples: NDArray[np.float64], channels: int
) -> NDArray[np.float64]:
    """The examples that each channel gets from all windows."""
    change = np.zeros(2 * channels + 1)
    trained = np.where(widths > 0, examples, 0.0)
    np.add.at(change, starts, trained)
    np.add.at(change, starts + widths, -trained)
    twice = np.cumsum(change)[:-1]
    found: NDArray[np.float64] = twice[:channels] + twice[channels:]
    return found
