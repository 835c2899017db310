"""Parts of a model file: the ONNX model and the weights of a sub-model, cut out of the whole one's."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from latte_cli import files
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Copy, Linear, Shape, View
from latte_cli.network import torch_program
from latte_cli.network.channels import Indices, Positions, importance, resize
from latte_cli.network.depth import blocks, without
from latte_cli.network.graph import Network, Node
from latte_cli.network.weights import Array, check_unpacked, weights


@dataclass(frozen=True, kw_only=True)
class SubModelFile:
    """A sub-model's ONNX file, weights included, and the same weights by the names of the whole model's file.

    `arrays` has none where the file holds no weights.
    """

    onnx: bytes
    arrays: Mapping[str, Array]


def check_cuttable(path: Path, content: bytes) -> None:
    """Raise LatteError for a file that is not cut, as its first bytes tell: a program of torch.export, or packed."""
    check_unpacked(path, content)
    if torch_program.is_archive(content):
        hint = "export it as ONNX (`torch.onnx.export`) to cut sub-models out of it"
        raise LatteError(f"`{path}` is a program of torch.export, not an ONNX model", hint=hint)


class Cutter:
    """Cuts sub-models out of the ONNX file at `path`, from which `network` was read."""

    def __init__(self, path: Path, network: Network) -> None:
        """Raises LatteError for a file that is no ONNX model."""
        content = path.read_bytes()
        check_cuttable(path, content)
        self._weights = weights(path)
        self._stored = frozenset(self._weights)
        self._model = ModelProto.FromString(content)
        self._network, self._positions = network, Positions(network)
        self._blocks = {block.name: block for block in blocks(network)}
        self._turned = {
            node.parameters[0]: node.layer.parameter_shapes[0]
            for node in network.nodes
            if isinstance(node.layer, Linear) and node.parameters and dict(node.attributes).get("stored_by_inputs")
        }

    def part(self, kept: Mapping[str, Sequence[int]], dropped: Collection[str] = ()) -> SubModelFile:
        """The sub-model with the channels `kept` of each group and without the residual blocks `dropped`.

        Raises LatteError where the cut file would not be read as that sub-model.
        """
        wanted = {name: channels for name, channels in kept.items() if len(channels)}
        expected = self._expected_network(wanted, dropped)
        indices = {**self._positions.parameters(wanted), **self._positions.statistics(wanted)}
        model = ModelProto()
        model.CopyFrom(self._model)
        graph = model.graph
        self._skip(graph, dropped)
        _drop_unused(graph)
        arrays = self._cut_tensors(graph, indices)
        _set_groups(graph, expected)
        self._set_sizes(graph, expected)
        del graph.value_info[:]
        self._check(model, expected)
        return SubModelFile(onnx=model.SerializeToString(), arrays=arrays)

    def importance(self) -> dict[str, Array]:
        """How much each channel of each group matters, by the weights that make it.

        Raises LatteError where the file holds no weights.
        """
        makers = {node for group in self._positions.groups for node in group.nodes}
        names = [self._network.parameter_names(node)[0] for node in self._network.nodes if node.name in makers]
        if not self._stored.issuperset(names):
            raise LatteError(
                f"`{self._network.name}` holds no weights, so no channel is more important than another",
                hint="export it with its weights, or choose another method",
            )
        arrays = {name: np.asarray(self._weights[name]) for name in names}
        turned = {name: array.T if name in self._turned else array for name, array in arrays.items()}
        return importance(self._network, self._positions.groups, turned)

    # The graph

    def _skip(self, graph: GraphProto, dropped: Iterable[str]) -> None:
        """Let the readers of a dropped block read its input."""
        instead = {self._blocks[name].output: self._blocks[name].skip for name in dropped}
        for node in graph.node:
            for at, name in enumerate(node.input):
                source = name
                while source in instead:
                    source = instead[source]
                node.input[at] = source

    def _cut_tensors(self, graph: GraphProto, indices: Mapping[str, tuple[Indices, ...]]) -> dict[str, Array]:
        """Replace each tensor by its part; those that are made without values get the part's shape."""
        arrays, made = {}, {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}
        stored = {tensor.name: tensor for tensor in graph.initializer}
        for name, index in indices.items():
            index = index[::-1] if name in self._turned else index
            if name in made:
                _reshape(graph, made[name], tuple(map(len, index)))
            elif name in stored:
                arrays[name] = _index(np.asarray(self._weights[name]), index, name)
                stored[name].CopyFrom(numpy_helper.from_array(arrays[name], name))
        given = {value.name: value for value in graph.input}
        for name in arrays.keys() & given.keys():  # old files list their weights among the inputs
            graph.input.remove(given[name])
        return arrays

    def _set_sizes(self, graph: GraphProto, expected: Network) -> None:
        """Let reshapes and splits whose sizes are constants have those of the sub-model."""
        before, after = self._network.shapes, expected.shapes
        for node in graph.node:
            changed = any(before.get(name) != after.get(name) for name in node.output)
            if node.op_type not in ("Reshape", "Split") or len(node.input) < 2 or not changed:
                continue
            try:
                given = [int(size) for size in self._weights[node.input[1]]]
            except KeyError:  # it follows from an input's shape
                continue
            if node.op_type == "Reshape":
                old, new = before[node.output[0]], after[node.output[0]]
                sizes = [to if size == was else size for size, was, to in zip(given, old, new, strict=True)]
            else:
                sizes = _sizes_of_split(node, given, after)
            name = f"{node.output[0]}/sizes"
            node.input[1] = name
            graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, (len(sizes),), sizes))

    def _expected_network(self, kept: Mapping[str, Sequence[int]], dropped: Collection[str]) -> Network:
        widths = {name: len(channels) for name, channels in kept.items()}
        return without(resize(self._network, widths) if widths else self._network, dropped)

    def _check(self, model: ModelProto, expected: Network) -> None:
        """Read the cut model again: its layers have to be those of the sub-model."""
        from latte_cli.network.onnx import read

        network = self._network
        try:
            found = read(model, name=network.name, sha256="", batch_size=network.batch_size, allow_unknown=False)
        except LatteError as exc:
            raise LatteError(
                f"the sub-model of `{network.name}` cannot be written: {exc.message}",
                hint="a shape in the file says how many channels there are; leave it open (-1) in the export",
            ) from exc
        own, wanted = _computed_nodes(found), _computed_nodes(expected)
        if [node.layer for node in own] != [node.layer for node in wanted]:
            pairs = zip(wanted, own, strict=False)
            differing = next((node.name for node, other in pairs if node.layer != other.layer), "its end")
            raise LatteError(
                f"the sub-model of `{network.name}` cannot be written: it would be another at `{differing}`",
                hint="a shape in the file says how many channels there are; leave it open (-1) in the export",
            )


def _computed_nodes(network: Network) -> list[Node]:
    """The nodes but for views and transposes, which are one where a single head is left."""
    moving = (each for each in network.nodes if isinstance(each.layer, View | Copy))
    free = {each.name for each in moving if isinstance(each.layer, View) or each.layer.variant == "transpose"}
    return [node for node in network.nodes if node.name not in free]


def _index(array: Array, index: tuple[Indices, ...], name: str) -> Array:
    """The part of a tensor; one with more dimensions than the layer's has them of size 1."""
    if array.ndim == len(index):
        return np.ascontiguousarray(array[np.ix_(*index)])
    sizes = [size for size in array.shape if size > 1]
    if len(index) == 1 and prod(array.shape) == (sizes[0] if sizes else 1):
        part = array.reshape(-1)[index[0]]
        axis = next((at for at, size in enumerate(array.shape) if size > 1), 0)
        return part.reshape([len(part) if at == axis else 1 for at in range(array.ndim)])
    raise LatteError(f"`{name}` has the shape {array.shape}, which cannot be cut", hint="export the model again")


def _set_groups(graph: GraphProto, network: Network) -> None:
    """Let each convolution have as many groups as in `network`: depthwise ones have one a channel."""
    groups = {
        node.parameters[0]: node.layer.groups
        for node in network.nodes
        if isinstance(node.layer, Convolution) and node.parameters
    }
    for node in graph.node:
        own = groups.get(node.input[1]) if len(node.input) > 1 else None
        for attribute in node.attribute:
            if own is not None and attribute.name == "group":
                attribute.i = own


def _sizes_of_split(node: NodeProto, given: Sequence[int], shapes: Mapping[str, Shape]) -> list[int]:
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    pairs = zip(node.output, given, strict=True)
    return [shapes[name][axis] if name in shapes else size for name, size in pairs]


def _reshape(graph: GraphProto, node: NodeProto, shape: tuple[int, ...]) -> None:
    """Let a node that makes a constant make one of another shape."""
    name = f"{node.output[0]}/shape"
    node.input[0] = name
    graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, (len(shape),), shape))


def _drop_unused(graph: GraphProto) -> None:
    """Drop the nodes and constants that no output depends on."""
    wanted = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input) | _read_within(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def _read_within(node: NodeProto) -> set[str]:
    """What the graphs in a node's attributes read."""
    found: set[str] = set()
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs) if attribute.ByteSize() else ():
            for inner in graph.node:
                found |= set(inner.input) | _read_within(inner)
    return found


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as safetensors; raises LatteError where they cannot be written."""
    from safetensors.numpy import save

    files.write_file(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
