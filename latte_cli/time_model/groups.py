"""Groups: what tasks have in common, by which times are learned, told apart and judged."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from latte_cli.algorithms import Algorithm
from latte_cli.devices import Device
from latte_cli.features import FEATURES, matrix
from latte_cli.layers import Layer, Phase, layer_text
from latte_cli.tasks import Task

Array: TypeAlias = npt.NDArray[np.float64]

_GROUPS = {"convolution": "products", "linear": "products", "matmul": "products"}
_OTHERS = "others"
_FOLDS = 4  # chosen: each learns from three quarters, at four times the time
_EXTENTS = ("input", "kernel", "stride", "dilation")


def kind_and_phase(task: Task) -> str:
    """The key of what a card says by kind and phase."""
    return f"{task.layer.kind} {task.phase}"


def label_of(algorithm: Algorithm) -> str:
    """The name of an algorithm's column."""
    return f"{algorithm.library}/{algorithm.name}"


def fold_of(layer: Layer) -> int:
    """The number of the fold that a layer is always in."""
    return sha256(layer_text(layer).encode()).digest()[0] % _FOLDS


def by_group(tasks: Sequence[Task]) -> Mapping[str, npt.NDArray[np.int64]]:
    """The rows of the tasks that share trees, by the name of their group."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for row, task in enumerate(tasks):
        groups[_GROUPS.get(task.layer.kind, _OTHERS)].append(row)
    return {group: np.array(rows) for group, rows in groups.items()}


def feature_count(algorithms: Sequence[str]) -> int:
    """How many columns `feature_columns` makes."""
    return len(FEATURES) + 1 + len(algorithms)


def feature_columns(tasks: Sequence[Task], device: Device, algorithms: Sequence[str], base: Array) -> Any:
    """The features, the roofline's logarithm and one column per algorithm."""
    features = matrix([(task.layer, task.phase) for task in tasks], [task.settings for task in tasks], device)
    labels = [label_of(task.algorithm) for task in tasks]
    chosen = np.array([[label == known for known in algorithms] for label in labels], dtype=np.float32)
    return np.hstack([features, base[:, None].astype(np.float32), chosen.reshape(len(tasks), len(algorithms))])


def sizes_of(layer: Layer, phase: Phase) -> dict[str, float]:
    """The sizes that a layer of its kind has, by name: FLOPs, elements moved, and its own fields."""
    own = {field.name: getattr(layer, field.name) for field in fields(layer)}
    named = {name.replace("_", " "): float(max(1, value)) for name, value in own.items() if type(value) is int}
    extents = {name: float(max(own[name])) for name in _EXTENTS if own.get(name)}
    flops, moved = layer.flops(phase), layer.elements_moved(phase)
    return {"FLOPs": float(max(1, flops)), "elements": float(max(1, moved)), **named, **extents}
