"""Weights that a file may hold twice: exporters write a tied table, or a layer that is called twice, a second time."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latte_cli.errors import LatteError
from latte_cli.layers import Shape, wide
from latte_cli.network.graph import Network, Node
from latte_cli.printable import few, few_names

_SAMPLED = 16  # random or trained numbers: so many are the same by no accident


def with_notes(network: Network, weights: Mapping[str, Any]) -> Network:
    """`network` with notes on weights that could be one, by a few of their numbers, and on those that could be several.

    `weights` are those that the file stores.
    """
    stored, missing = frozenset(weights), set[str]()

    def array(name: str) -> Any:
        try:
            return np.asarray(weights[name]) if name in stored else None
        except LatteError:  # the file next to the model is missing, or cut
            missing.add(name)
            return None

    pairs = list(_repetitions(network, array, lambda *_: True))
    reused = list(dict.fromkeys(_reuses(network.nodes)))
    notes = (*_notes_of_missing(missing), *_notes_of_pairs(pairs), *_notes_of_reused(reused))
    return replace(network, notes=(*network.notes, *notes))


def _reuses(nodes: Sequence[Node]) -> Iterator[str]:
    """The matrices that several layers of one kind have, by name."""
    first: dict[tuple[str, type], str] = {}
    for node in nodes:
        for name, shape in zip(node.parameters, node.parameter_shapes, strict=False):
            if wide(shape) > 1 and first.setdefault((name, type(node.layer)), node.name) != node.name:
                yield name


def _notes_of_missing(names: Collection[str]) -> Iterator[str]:
    if names:
        yield "weights beside the file cannot be read: one that is stored twice counts twice"


def _notes_of_pairs(pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    if pairs:
        each = " each" if len(pairs) > 1 else ""
        yield (
            f"{few([f'`{one}` and `{other}`' for one, other in pairs])} may{each} be one weight that is stored "
            "twice; `--compare-weights` compares their numbers"
        )


def _notes_of_reused(names: Sequence[str]) -> Iterator[str]:
    if names:
        are, count = ("are each", "count") if len(names) > 1 else ("is", "counts")
        yield (
            f"{few_names(names)} {are} the weight of several layers and {count} once; copies "
            "of a layer that have not been trained are exported as one weight too"
        )


def tie_weights(network: Network, weights: Mapping[str, Any]) -> Network:
    """`network` with those weights counted once that hold the same numbers as another, which are read for it.

    Exporters write a tied table a second time, transposed, and the matrix of a layer that is called twice once for
    each call.
    """

    def array(name: str) -> Any:
        try:
            return np.asarray(weights[name])
        except KeyError:
            return None

    same = {name for _, name in _repetitions(network, array, _alike)}
    known = dict(network.shared)
    sizes = {name: size for name, size in network.parameter_sizes.items() if name in same and name not in known}
    return replace(network, shared=(*network.shared, *sizes.items()))


def _repetitions(
    network: Network, array: Callable[[str], Any], alike: Callable[[Any, Any], bool]
) -> Iterator[tuple[str, str]]:
    """Matrices that are `alike`, by name, the first of them first; of each a few numbers are compared before."""
    first: dict[object, list[str]] = {}
    for name in _with_partners(network):
        found = array(name)
        sample = None if found is None else _sample(found)
        if sample is None:
            continue
        earlier = first.setdefault(sample, [])
        same = next((one for one in earlier if alike(array(one), found)), None)
        if same is None:
            earlier.append(name)
        else:
            yield same, name


def _with_partners(network: Network) -> Collection[str]:
    """The matrices that are as large as another, by name in the order in which layers read them."""
    sizes: dict[str, Shape] = {}
    for node in network.nodes:
        for name, shape in zip(node.parameters, node.parameter_shapes, strict=False):
            if wide(shape) > 1:
                sizes.setdefault(name, tuple(sorted(shape)))
    alike = Counter(sizes.values())
    return [name for name, shape in sizes.items() if alike[shape] > 1]


def _sample(array: Any) -> object:
    """Some numbers of a matrix, those on the diagonal, which its transposed copy has too; None if all are the same."""
    numbers = array.diagonal()[:_SAMPLED] if array.ndim == 2 else array.flat[:_SAMPLED]
    if (numbers == numbers[:1]).all():  # so are the first numbers of many layers
        return None
    shape = tuple(sorted(array.shape)) if array.ndim == 2 else array.shape
    return shape, array.dtype.str, np.ascontiguousarray(numbers).tobytes()


def _alike(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other) or np.array_equal(one, other.T))
