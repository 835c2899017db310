"""Weights that a file may hold twice: exporters write a tied table a second time, transposed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latte_cli.layers import Embedding, Linear
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
    """`network` with those weights counted once that hold the same numbers as a table, which are read for it."""
    pairs = dict.fromkeys(_possible_copies(network.nodes))
    same = [(table, weight) for table, weight in pairs if _alike(weights, table, weight)]
    sizes = {name: size for name, size in network.parameter_sizes.items() if name in {weight for _, weight in same}}
    return replace(network, shared=(*network.shared, *sizes.items()))


def _alike(weights: Mapping[str, Any], table: str, weight: str) -> bool:
    try:
        a, b = np.asarray(weights[table]), np.asarray(weights[weight])
    except KeyError:
        return False
    return bool(np.array_equal(a, b) or np.array_equal(a, b.T))
