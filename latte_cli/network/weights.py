"""The weights of a model file: arrays by name, each read or computed when it is first used."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.network import torch_program
from latte_cli.network.graph import COPIED, DETACHED, LAID
from latte_cli.network.onnx import constants, stripped
from latte_cli.network.onnx.external import external_file
from latte_cli.network.onnx.operation import FOLDED_ELEMENTS
from latte_cli.network.onnx.stripped import Bytes

Array = NDArray[Any]

_DAMAGED = "is the file complete? export it again"


class Weights(Mapping[str, Array]):
    """The constants of an ONNX model by the names that nodes have for them: stored ones, and those that follow.

    `stored` are those that come from another place than the model. Data outside of the file at `path` are looked for
    in its folder and nowhere else. Raises LatteError for data that do not fill their shape, and KeyError for a name
    that is no constant.
    """

    def __init__(self, model: ModelProto, path: Path | None, stored: Mapping[str, Array] | None = None) -> None:
        self._model, self._path, self._graph = model, path, model.graph
        self._known: dict[str, Array] = {}
        self._elsewhere_stored = stored or {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._known:
            self._known[name] = self._read_stored(name) if name in self._tensors else self._compute(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @cached_property
    def _tensors(self) -> Mapping[str, TensorProto]:
        return {tensor.name: tensor for tensor in self._graph.initializer}

    @property
    def element_types(self) -> Mapping[str, int]:
        """What kind of numbers each stored tensor holds, as ONNX counts them."""
        return {name: tensor.data_type for name, tensor in self._tensors.items()}

    @cached_property
    def _makers(self) -> Mapping[str, NodeProto]:
        return {name: node for node in self._graph.node for name in node.output if name}

    def _read_stored(self, name: str) -> Array:
        if name in self._elsewhere_stored:
            return self._elsewhere_stored[name]
        tensor = self._tensors[name]
        try:
            elsewhere = tensor.data_location == TensorProto.EXTERNAL
            found: Array = self._elsewhere(tensor) if elsewhere else numpy_helper.to_array(tensor)
            return found
        except (ValueError, TypeError, KeyError, OSError) as exc:
            raise LatteError(f"the data of `{name}` do not fill its shape {tuple(tensor.dims)}", hint=_DAMAGED) from exc

    def _elsewhere(self, tensor: TensorProto) -> Array:
        if self._path is None:
            raise ValueError("beside a model that is no file")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        file = external_file(self._path, entries.get("location", ""))
        dtype, count = helper.tensor_dtype_to_np_dtype(tensor.data_type), int(np.prod(tensor.dims))
        offset = int(entries.get("offset", 0))
        if offset < 0 or offset + count * dtype.itemsize > file.stat().st_size:
            raise ValueError("beyond the file's end")
        return np.memmap(file, dtype, "r", offset, tuple(tensor.dims))

    def _compute(self, name: str) -> Array:
        """What the constant part of the graph before `name` gives, computed node by node as far as sizes allow."""
        nodes = [*map(self._plain, self._before(name))]
        stored = sorted({each for node in nodes for each in node.input if each in self._tensors})
        arrays = {each: np.asarray(self[each], order="C") for each in stored}
        try:
            return constants.computed(name, nodes, arrays, self._model.opset_import)
        except ValueError as exc:
            raise LatteError(f"the constant `{name}` cannot be computed: {exc}", hint=_DAMAGED) from exc

    def _before(self, name: str) -> list[NodeProto]:
        """The nodes that `name` follows from, first ones first; raises KeyError where it depends on an input."""
        found: dict[int, NodeProto] = {}
        wanted = [name]
        while wanted:
            each = wanted.pop()
            if each in self._tensors or not each:
                continue
            node = self._makers[each]
            if id(node) not in found:
                found[id(node)] = node
                wanted += () if self._says_shape(node) else node.input
        order = {id(node): at for at, node in enumerate(self._graph.node)}
        return sorted(found.values(), key=lambda node: order.get(id(node), 0))

    def _says_shape(self, node: NodeProto) -> bool:
        """Whether a node asks for a shape that the file says."""
        return node.op_type == "Shape" and not node.attribute and node.input[0] in self._shapes

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shapes of activations that the file says whole."""
        dimensions = {value.name: value.type.tensor_type.shape.dim for value in self._graph.value_info}
        return {
            name: tuple(each.dim_value for each in known)
            for name, known in dimensions.items()
            if known and all(each.HasField("dim_value") for each in known)
        }

    def _plain(self, node: NodeProto) -> NodeProto:
        """The node without attributes that ONNX does not have; a shape that the file says as a constant."""
        if self._says_shape(node):
            sizes = np.array(self._shapes[node.input[0]], np.int64)
            return helper.make_node("Constant", [], list(node.output), value=numpy_helper.from_array(sizes))
        plain = NodeProto()
        plain.CopyFrom(node)
        kept = [each for each in node.attribute if each.name not in (DETACHED, LAID, COPIED)]
        del plain.attribute[:]
        plain.attribute.extend(kept)
        return plain


def with_small_values(content: bytes, path: Path | None) -> ModelProto | bytes:
    """The ONNX model in `content`, with the numbers of those tensors that are small and lie next to the file at `path`.

    What is no model stays as it is. Raises LatteError where the data do not fill a tensor's shape.
    """
    try:
        model = ModelProto.FromString(content)
    except DecodeError:
        return content
    found = Weights(model, path)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and prod(tensor.dims) <= FOLDED_ELEMENTS:
            values = np.ascontiguousarray(found[tensor.name]).tobytes()
            tensor.ClearField("external_data")
            tensor.data_location, tensor.raw_data = TensorProto.DEFAULT, values
    return model


def weights(path: Path | str) -> Weights:
    """The weights of the ONNX or `.pt2` file at `path`; raises LatteError for a file that cannot be read."""
    path = Path(path)
    try:
        content = np.memmap(path, mode="r").data
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is empty"
        raise LatteError(f"cannot read `{path}`: {reason}", hint="is it the right file?") from exc
    check_unpacked(path, content)
    if torch_program.is_archive(content):
        name, whole = path.stem, bytes(content)
        return Weights(torch_program.model(whole, name), path, torch_program.arrays(whole, name))
    return weights_in(content, path)


def check_unpacked(path: Path, content: Bytes) -> None:
    """Raise LatteError for a file packed by gzip, as its first bytes tell: weights are read in place."""
    if bytes(content[:2]) == b"\x1f\x8b":
        hint = "unpack it with `gunzip`: its weights are read from the file"
        raise LatteError(f"`{path}` is packed by gzip", hint=hint)


def weights_in(content: Bytes, path: Path | None = None) -> Weights:
    """The weights of the ONNX model in `content`, the file at `path`; large ones are read when they are used.

    Raises LatteError for what is no model.
    """
    try:
        return Weights(ModelProto.FromString(stripped.stripped(content)), path, dict(_large(content)))
    except DecodeError as exc:
        name = path.stem if path else "model"
        raise LatteError(f"`{name}` is not an ONNX model, or it is damaged", hint=_DAMAGED) from exc


def _large(content: Bytes) -> Iterator[tuple[str, Array]]:
    """What `stripped` leaves out, where the numbers fill the shape; of the others, asking for them shows it."""
    for described, data in stripped.large_data(content):
        tensor = TensorProto.FromString(described)
        with suppress(KeyError, TypeError, ValueError):
            numbers = np.frombuffer(data, helper.tensor_dtype_to_np_dtype(tensor.data_type))
            yield tensor.name, numbers.reshape(tuple(tensor.dims))
