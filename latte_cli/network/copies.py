"""Weights that a file may hold twice: exporters write a tied table a second time, transposed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latte_cli.layers import Embedding, Linear, wide
from latte_cli.network.graph import Network, Node


def _possible_copies(nodes: Sequence[Node]) -> Iterator[tuple[str, str]]:
    """Pairs of a table and of a linear layer's weight, by name, that could be one: each is as large as the other."""
    tables = {
        (node.layer.entries, node.layer.width): node.parameters[0]
        for node in nodes
        if isinstance(node.layer, Embedding) and node.parameters
    }
    for node in nodes:
        if isinstance(node.layer, Linear) and node.parameters:
            table = tables.get((node.layer.out_features, node.layer.in_features))
            if table is not None and table != node.parameters[0]:
                yield table, node.parameters[0]


def with_notes(network: Network) -> Network:
    """`network` with a note on each pair that could be one weight, for a file that does not say which weights are."""
    return replace(
        network, notes=(*network.notes, *dict.fromkeys(_note(*pair) for pair in _possible_copies(network.nodes)))
    )


def _note(table: str, weight: str) -> str:
    """What is said of a pair whose numbers were not compared."""
    return (
        f"`{table}` and `{weight}` may be one weight that is stored twice; `--compare-weights` compares their numbers"
    )


def tie_weights(network: Network, weights: Mapping[str, Any]) -> Network:
    """`network` with those weights counted once that hold the same numbers as another, which are read for it.

    Exporters write a tied table a second time, and the matrix of a layer that is called twice once for each call.
    """
    pairs = dict.fromkeys(_possible_copies(network.nodes))
    same = {weight for table, weight in pairs if _alike(weights, table, weight)}
    same |= set(_repetitions(network, weights, same))
    known = dict(network.shared)
    sizes = {name: size for name, size in network.parameter_sizes.items() if name in same and name not in known}
    return replace(network, shared=(*network.shared, *sizes.items()))


def _repetitions(network: Network, weights: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """The matrices that hold the same numbers as one before them, by name; their first numbers are compared first."""
    first: dict[tuple[object, bytes], list[str]] = {}
    for node in network.nodes:
        for name, shape in zip(node.parameters, node.parameter_shapes, strict=False):
            array = _array(weights, name) if wide(shape) > 1 and name not in known else None
            if array is None or not array.size:
                continue
            alike = first.setdefault((array.shape, np.asarray(array.flat[:_FIRST]).tobytes()), [])
            if name in alike or (array == array.flat[0]).all():
                continue
            if any(_alike(weights, one, name) for one in alike):
                yield name
            else:
                alike.append(name)


_FIRST = 64  # numbers that tell matrices apart without reading all of them


def _array(weights: Mapping[str, Any], name: str) -> Any:
    try:
        return np.asarray(weights[name])
    except KeyError:
        return None


def _alike(weights: Mapping[str, Any], table: str, weight: str) -> bool:
    a, b = _array(weights, table), _array(weights, weight)
    return a is not None and b is not None and bool(np.array_equal(a, b) or np.array_equal(a, b.T))
