"""Filling a layer's module with the weights of a file: their names, orientations, and the order of their gates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Linear, Norm, Recurrent
from latte_cli.network.graph import Node, part_named

Arrays = Mapping[str, NDArray[Any]]

_GATES = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}
"""For each of torch's gates its place in ONNX: i f g o of i o f c, and r z n of z r h."""


def tensor(array: NDArray[Any]) -> Tensor:
    """A copy of `array` in a type that torch has."""
    plain = np.array(array)
    if plain.dtype.name == "bfloat16":
        return torch.from_numpy(plain.astype(np.float32)).bfloat16()
    return torch.from_numpy(plain)


def constants_of(node: Node, weights: Arrays, trained: Collection[str]) -> dict[int, Tensor]:
    """The constants that a node reads, by their places, `trained` ones as parameters.

    Those that the file does not hold are left out.
    """
    found = {}
    for place, name in node.constants:
        try:
            found[place] = nn.Parameter(tensor(weights[name])) if name in trained else tensor(weights[name])
        except (KeyError, TypeError):
            continue
    return found


def fill(node: Node, module: nn.Module, weights: Arrays) -> None:
    """Copy a node's parameters, and the running statistics of a batch norm, into its module.

    Raises LatteError for a parameter of another shape; those that the file does not hold stay as they are.
    """
    arrays = [_found(weights, name) for name in node.parameters]
    if isinstance(node.layer, Recurrent):
        if arrays and all(array is not None for array in arrays):
            own_order = bool(dict(node.attributes).get("torch_order"))
            _fill_recurrent(node.layer, module, [array for array in arrays if array is not None], own_order)
        return
    if isinstance(node.layer, Linear) and arrays and arrays[0] is not None:
        by_inputs = dict(node.attributes).get("stored_by_inputs")
        shape = node.layer.parameter_shapes[0]
        arrays[0] = (arrays[0].T if by_inputs and arrays[0].ndim == 2 else arrays[0]).reshape(shape)
    for name, array, parameter in zip(node.parameters, arrays, module.parameters(), strict=False):
        if array is not None:
            _copy(parameter, array, name)
    if isinstance(node.layer, Norm) and node.layer.function == "batch":
        statistics = [_found(weights, name) for place, name in node.constants if place in (3, 4)]
        for own, array in zip(module.buffers(), statistics, strict=False):
            if array is not None:
                _copy(own, array, node.name)


def _found(weights: Arrays, name: str) -> NDArray[Any] | None:
    """A stored tensor, or the part of one that a name says; None where the file does not hold it."""
    try:
        return weights[name]
    except KeyError:
        origin, index = part_named(name)
    try:
        return _part(weights[origin], index) if index else None
    except KeyError:
        return None


def _part(array: NDArray[Any], index: Sequence[slice | list[int]]) -> NDArray[Any]:
    for axis, along in enumerate(index):
        array = array.take(np.arange(array.shape[axis])[along], axis)
    return array


def _copy(own: Tensor, array: NDArray[Any], name: str) -> None:
    array = _without_repeats(array, tuple(own.shape))
    if array.size != own.numel():
        raise LatteError(
            f"`{name}` has the shape {array.shape} where {tuple(own.shape)} is wanted", hint="export it again"
        )
    with torch.no_grad():
        own.copy_(tensor(array).reshape(own.shape))


def _without_repeats(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """`array` with one of those numbers that an export repeated for each sample, where one has the `shape`."""
    for axis, size in enumerate(shape if array.ndim == len(shape) else ()):
        first = array.take([0], axis) if size == 1 < array.shape[axis] else array
        array = first if np.array_equal(np.broadcast_to(first, array.shape), array) else array
    return array


def _fill_recurrent(layer: Recurrent, module: nn.Module, arrays: list[NDArray[Any]], own_order: bool) -> None:
    """ONNX stacks directions and both biases; torch holds each by itself, gates in its own order."""
    order = tuple(range(layer.gates)) if own_order else _GATES[layer.function]
    parameters = dict(module.named_parameters())
    for direction in range(layer.directions):
        parts = [arrays[0][direction], arrays[1][direction]]
        if layer.bias:
            parts += np.split(arrays[2][direction], 2)
        suffix = "_l0_reverse" if direction else "_l0"
        for kind, part in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parts, strict=False):
            gates = np.split(part, layer.gates)
            name = f"cells.{kind}{suffix}"
            _copy(parameters[name], np.concatenate([gates[at] for at in order]), name)
