"""One ONNX operator at its place in a graph: what it is given, and the tensors and nodes it leaves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import isfinite, prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.layers import Layer, Shape, View
from latte_cli.network.graph import DETACHED, Node, Value
from latte_cli.network.onnx.origins import Part, whole
from latte_cli.network.torch_program.program import COUNTING, WHOLE

Array: TypeAlias = NDArray[Any]

OPEN_BATCH = (
    'export the model with an open batch: `dynamic_shapes=({0: torch.export.Dim("batch")},)` of `torch.export.export` '
    'and `torch.onnx.export`, or `dynamic_axes={"INPUT": {0: "batch"}}` of the older exporter'
)
"""The cure for a file into which the batch of its export is baked."""

LARGEST_RANK = 16
LARGEST_SIZE = 2**40
_FLOATING = (
    *(TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16),
    *(TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ),
)
_QUANTISED = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)
_LIKE_A_MASK = -1e4  # the least that exporters add to a score to hide it; weights are smaller
_NAMED = re.compile(r"(^|[._/])(weight|bias|gamma|alpha|beta|gain|scale|slope|temperature)s?$|^\w+(\.\w+)+$")
"""What the names of single numbers have that a module trains; others are constants of its code."""

_DOTTED = re.compile(r"^[^/%]*\.[^/%]*$")
"""The name of a module's own single number; one in its code is called as `/layer.0/Constant` or as a value is."""

_ROOT = re.compile(r"^[A-Za-z]\w*_(weight|bias|gamma|alpha|beta|gain|scale|slope|temperature)$")
"""The name of a number that the outermost module trains, as CLIP's `logit_scale`."""

_IN_CODE = re.compile(r"^/(.+/)?Constant(_\d+)?_output_0$")
"""What torch's older exporter calls numbers in a module's code; it calls parameters as the module does."""

NO_NUMBERS = (TensorProto.UNDEFINED, TensorProto.STRING)
FEW_NUMBERS = 1024
"""Constants of up to so many numbers are kept with a node that needs them to run."""

FOLDED_ELEMENTS = 65_536
"""Constants of up to so many elements are computed with; of larger ones only the shape is known."""


class Unreadable(LatteError):
    """A form of an operator that is not known; `allow_unknown` lets it pass."""


class NotConstant(Unreadable):
    """A value that shapes depend on is not a constant."""


class Undecided(LatteError):
    """A dimension that only the values of the model's inputs decide, and that nobody has named a size for."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What is known of a tensor before it exists.

    `name` is an activation's own name and, for a constant, the initializer it comes from; `values` are a constant's
    where they are at hand and few; `computed` marks what follows from the shape of an activation, `turned` a matrix
    that is stored with its dimensions exchanged. `parts` are the numbers of stored tensors that it consists of, in
    another order and shape at most; `derived` marks what is computed from such numbers in each step. `made` is the name
    under which an operator writes what a network computes of such numbers, if an activation is wanted.
    """

    name: str
    shape: Shape
    constant: bool = False
    values: Array | None = None
    computed: bool = False
    turned: bool = False
    element: int = TensorProto.FLOAT
    parts: tuple[Part, ...] = ()
    derived: bool = False
    made: str = ""

    @property
    def floating(self) -> bool:
        """Whether it holds floating-point numbers."""
        return self.element in _FLOATING

    @property
    def countable(self) -> bool:
        """Whether it counts among the parameters as what it is: stored, and a weight by its type."""
        return bool(self.parts) and (self.floating or self.element in _QUANTISED)

    @property
    def varies(self) -> bool:
        """Whether it is another in each step: an activation, or computed from stored numbers."""
        return not self.constant or self.derived

    @property
    def trained(self) -> bool:
        """Whether it is a constant that holds what is trained, or follows from that."""
        return self.constant and self.floating and (self.derived or bool(self.parts))


def stored(tensor: TensorProto, name: str = "") -> Tensor:
    """A stored tensor; one that holds several numbers, or one under a parameter's name, is trained if they are real.

    A tensor of numbers as low as a mask's is no parameter.
    """
    shape, values = checked_shape(tuple(tensor.dims), f"`{tensor.name}`"), tensor_values(tensor)
    name = name or tensor.name
    mask = values is not None and values.dtype.kind == "f" and values.size > 0 and values.min() <= _LIKE_A_MASK
    named = _NAMED.search(name) if shape else _DOTTED.search(name) or _ROOT.search(name)
    trained = (prod(shape) > 1 or (prod(shape) == 1 and bool(named))) and not _IN_CODE.search(name)
    parts = (whole(name, shape),) if trained and not mask else ()
    return Tensor(name=name, shape=shape, constant=True, values=values, element=tensor.data_type, parts=parts)


def at_shape(tensor: Tensor, shape: Shape) -> Tensor:
    """A constant that was made for another batch: its values stay where they are the same for each sample."""
    if shape == tensor.shape:
        return tensor
    values = tensor.values
    for axis, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        if values is not None and old != new:
            values = np.repeat(values.take([0], axis), new, axis) if axis in uniform_axes(tensor) else None
    parts = tuple(replace(part, axes=None) for part in tensor.parts)
    return replace(tensor, shape=shape, values=values, parts=parts)


def uniform_axes(tensor: Tensor) -> tuple[int, ...]:
    """The axes along which a constant is known to repeat the same numbers."""
    values = tensor.values
    if values is None or not values.size:
        return ()
    return tuple(axis for axis in range(values.ndim) if (values == values.take([0], axis)).all())


def checked_shape(shape: tuple[int, ...], what: str) -> Shape:
    """`shape` as plain integers; raises LatteError for one that no tensor has."""
    sizes = tuple(int(size) for size in shape)
    if len(sizes) > LARGEST_RANK or not all(0 <= size < LARGEST_SIZE for size in sizes):
        shown = f"{sizes[:4]}…" if len(sizes) > 4 else f"{sizes}"
        raise LatteError(f"{what} has an impossible shape {shown}", hint="is the file damaged? export it again")
    return sizes


def tensor_values(tensor: TensorProto) -> Array | None:
    """The values of a stored tensor: None where they are many, elsewhere, or not numbers; nothing else is opened."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type in NO_NUMBERS:
        return None
    if prod(checked_shape(tuple(tensor.dims), f"`{tensor.name}`")) > FOLDED_ELEMENTS:
        return None
    try:
        values: Array = numpy_helper.to_array(tensor)
        return values
    except (ValueError, TypeError, KeyError):  # its data do not fill its shape
        return None


@dataclass(kw_only=True)
class Operation:
    """An operator with its inputs; its reader adds `nodes` and the tensors it makes, `results`.

    `wanted` are the shapes that activations have at `batch`, where that differs from the one of which the file's
    numbers are, `own_batch`; `open_batch` says that the file leaves it open. `named_sizes` are what the user says of
    dimensions by name. `lift` turns a constant into an activation; `lifted` are the names of those that were, `held`
    the parts that the parameters of its nodes consist of.
    """

    kind: str
    name: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeProto]
    opset: int
    place: str = ""
    wanted: Mapping[str, Shape] = field(default_factory=dict)
    own_batch: int = 1
    open_batch: bool = False
    batch: int = 1
    named_sizes: Mapping[str, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    results: dict[str, Tensor] = field(default_factory=dict)
    lift: Callable[[Tensor], Tensor] = lambda tensor: tensor
    lifted: set[str] = field(default_factory=set)
    held: dict[str, tuple[Part, ...]] = field(default_factory=dict)

    def input(self, index: int = 0) -> Tensor:
        """The input at `index`; raises LatteError where it is left out."""
        found = self.optional(index)
        if found is None:
            raise LatteError(f"input {index} is missing")
        return found

    def optional(self, index: int) -> Tensor | None:
        """The input at `index`, or None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    @property
    def given(self) -> tuple[Tensor, ...]:
        """The inputs that are not left out."""
        return tuple(tensor for tensor in self.inputs if tensor is not None)

    @property
    def constant_inputs(self) -> tuple[tuple[int, str], ...]:
        """The constants among the inputs, each with its place."""
        named = ((index, tensor) for index, tensor in enumerate(self.inputs))
        return tuple((index, tensor.name) for index, tensor in named if tensor is not None and tensor.constant)

    @property
    def numbers(self) -> tuple[tuple[str, Value], ...]:
        """All attributes that are numbers, texts or lists of numbers, by their names in ONNX."""
        found = ((name, _plain(attribute)) for name, attribute in self.attributes.items())
        return tuple((name, value) for name, value in found if value is not None)

    @property
    def scaled(self) -> bool:
        """Whether the file's numbers are those of another batch size."""
        return self.batch != self.own_batch

    @property
    def folds(self) -> bool:
        """Whether it computes a constant from constants."""
        return all(tensor.constant for tensor in self.given)

    def weight(self, index: int, *shape: int) -> Tensor:
        """The weights at `index`, of `shape` if one is given."""
        tensor = self.input(index)
        if shape and tensor.shape != shape:
            raise LatteError(f"`{tensor.name}` has the shape {tensor.shape} where {shape} is wanted")
        return tensor

    def activation(self, tensor: Tensor) -> Tensor:
        """`tensor` as something that a layer reads, also where it is a constant."""
        if not tensor.constant or self.folds:
            return tensor
        self.lifted.add(tensor.name)
        return self.lift(tensor)

    def values(self, index: int) -> Array | None:
        """The values of the constant at `index`, None where it is left out; Unreadable where they are not known."""
        tensor = self.optional(index)
        if tensor is None:
            return None
        if tensor.values is None and 0 in tensor.shape:
            return np.zeros(tensor.shape, np.int64)
        if tensor.values is None:
            raise NotConstant(f"its input `{tensor.name}` is not a constant with known values")
        return tensor.values

    def sizes(self, index: int, attribute: str = "") -> tuple[int, ...] | None:
        """Integers given as the constant at `index`, or in older files as an attribute; None where there are none."""
        values = self.values(index)
        if values is None:
            return self.integers(attribute) if attribute else None
        if values.dtype.kind not in "iub":
            raise LatteError(f"its input {index} does not hold integers")
        return tuple(int(value) for value in values.ravel())

    def scalar(self, index: int, attribute: str = "") -> float | None:
        """A number given as the constant at `index`, or in older files as an attribute; None where it is not known."""
        tensor = self.optional(index)
        if tensor is None:
            return self.real(attribute) if attribute and attribute in self.attributes else None
        if tensor.values is None or tensor.values.size != 1 or tensor.values.dtype.kind not in "fiu":
            return None
        return shortest(tensor.values.ravel()[0])

    def integer(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        found = self._attribute(name, AttributeProto.INT)
        return default if found is None else int(found.i)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """A list of integers, or None where the attribute is not there."""
        found = self._attribute(name, AttributeProto.INTS)
        return None if found is None else tuple(int(value) for value in found.ints)

    def real(self, name: str, default: float = 0.0) -> float:
        """A finite number."""
        found = self._attribute(name, AttributeProto.FLOAT)
        value = default if found is None else shortest(found.f)
        if not isfinite(value):
            raise LatteError(f"attribute `{name}` is not a finite number")
        return value

    def reals(self, name: str) -> tuple[float, ...] | None:
        """A list of numbers, or None where the attribute is not there."""
        found = self._attribute(name, AttributeProto.FLOATS)
        return None if found is None else tuple(float(value) for value in found.floats)

    def text(self, name: str, default: str = "") -> str:
        """A text attribute."""
        found = self._attribute(name, AttributeProto.STRING)
        return default if found is None else found.s.decode("utf-8", "replace")

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        found = self.attributes.get(name)
        if found is not None and found.type != kind:
            raise LatteError(f"attribute `{name}` is not of the type {AttributeProto.AttributeType.Name(kind)}")
        return found

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the first dimension."""
        if not -rank <= axis < rank:
            raise LatteError(f"axis {axis} does not exist in {rank} dimensions")
        return axis % rank

    def axes(self, axes: tuple[int, ...], rank: int) -> tuple[int, ...]:
        """`axes` counted from the first dimension, in order; each may be there once."""
        found = tuple(sorted(self.axis(axis, rank) for axis in axes))
        if len(set(found)) != len(found):
            raise LatteError(f"axes {axes} name a dimension twice")
        return found

    def decided(self, sizes: Sequence[int | None], index: int = 0) -> Shape:
        """The shape of the output at `index`, where None means a size that only values decide.

        Such a dimension is named as in `y[0]`; raises Undecided where the user has not said how large it is.
        """
        names = [f"{self.outputs[index]}[{axis}]" for axis in range(len(sizes))]
        found = [self.named_sizes.get(name) if size is None else size for name, size in zip(names, sizes, strict=True)]
        missing = [name for name, size in zip(names, found, strict=True) if size is None]
        if missing:
            shown = ", ".join(f"`{name}`" for name in missing)
            raise Undecided(
                f"only the values of the model's inputs decide the size of {shown}",
                hint="give it: " + " ".join(f"--shape '{name}=SIZE'" for name in missing),
            )
        return checked_shape(tuple(size for size in found if size is not None), "the result")

    def result(
        self,
        layer: Layer,
        *inputs: Tensor,
        index: int = 0,
        parameters: tuple[Tensor, ...] = (),
        attributes: tuple[tuple[str, Value], ...] = (),
        constants: tuple[tuple[int, str], ...] | None = None,
    ) -> Tensor:
        """Add the node that writes the output at `index`; by default with all that the operator has and reads."""
        if index >= len(self.outputs) or not self.outputs[index]:
            raise LatteError(f"output {index} has no name")
        name = self.name if index == 0 else f"{self.name}/{index}"
        return self._add(name, self.outputs[index], layer, inputs, parameters, attributes or self.numbers, constants)

    def step(
        self,
        label: str,
        layer: Layer,
        *inputs: Tensor,
        parameters: tuple[Tensor, ...] = (),
        attributes: tuple[tuple[str, Value], ...] = (),
        constants: tuple[tuple[int, str], ...] = (),
    ) -> Tensor:
        """Add a node on the way to the output; nothing for a view that keeps the shape."""
        if isinstance(layer, View) and layer.shape == layer.output:
            return inputs[0]
        output = f"{next(filter(None, self.outputs))}/{label}"
        return self._add(f"{self.name}/{label}", output, layer, inputs, parameters, attributes, constants)

    def operands(self, places: Sequence[int], index: int = 0) -> tuple[tuple[str, Value], ...]:
        """What a module needs to run it: which operands vary, by their `places`, small constants, and which result.

        Of larger constants, and of those whose numbers are not known, there are shapes and element types.
        """
        found: list[tuple[str, Value]] = [("places", tuple(places)), ("result", index)]
        for place, tensor in enumerate(self.inputs):
            if tensor is None or place in places:
                continue
            found += [(f"constant_shape.{place}", tensor.shape), (f"constant_element.{place}", tensor.element)]
            if tensor.values is not None and tensor.values.size <= FEW_NUMBERS and tensor.values.dtype.kind in "biuf":
                found.append((f"constant.{place}", tuple(tensor.values.ravel().tolist())))
        return tuple(found)

    def _read_besides(self, parameters: tuple[Tensor, ...]) -> tuple[tuple[int, str], ...]:
        trained = {tensor.name for tensor in parameters} | self.lifted
        return tuple((index, name) for index, name in self.constant_inputs if name not in trained)

    def _add(
        self,
        name: str,
        output: str,
        layer: Layer,
        inputs: tuple[Tensor, ...],
        parameters: tuple[Tensor, ...],
        attributes: tuple[tuple[str, Value], ...],
        constants: tuple[tuple[int, str], ...] | None,
    ) -> Tensor:
        own = parameters if self.folds else tuple(takewhile(lambda tensor: not tensor.varies, parameters))
        first = (*inputs[:1], *parameters)  # a look-up has floating-point numbers, whatever its indices are
        element = next((one.element for one in first if one.floating), first[0].element if first else TensorProto.FLOAT)
        inputs = tuple(self.activation(tensor) for tensor in (*inputs, *parameters[len(own) :]))
        node = Node(
            name=name,
            layer=layer,
            inputs=tuple(tensor.name for tensor in inputs),
            output=output,
            parameters=tuple(tensor.name for tensor in own),
            attributes=attributes if self._passes_gradients(output) else (*attributes, (DETACHED, 1)),
            constants=self._read_besides(parameters) if constants is None else constants,
            weights_given=len(own) < len(parameters),
        )
        self.nodes.append(node)
        self.held |= {tensor.name: tensor.parts for tensor in own}
        tensor = Tensor(name=output, shape=layer.output_shape, element=element)
        self.results[output] = tensor
        return tensor

    def _passes_gradients(self, output: str) -> bool:
        """Whether a gradient passes to what an output is made of; none passes places, counts and truths."""
        if self.kind == "Cast":
            return self.integer("to", TensorProto.FLOAT) not in WHOLE
        return self.kind not in COUNTING and (self.kind != "TopK" or output == self.outputs[0])

    def view(self, x: Tensor, shape: Shape, attributes: tuple[tuple[str, Value], ...] = ()) -> Tensor:
        """Make the output another view of `x`."""
        if self.folds:  # a constant may be empty, which no layer's input can be
            return self.constant(shape)
        return self.result(View(shape=x.shape, output=checked_shape(shape, "the result")), x, attributes=attributes)

    def constant(
        self, shape: Shape, values: Array | None = None, *, computed: bool = False, element: int = TensorProto.UNDEFINED
    ) -> Tensor:
        """Make the output a constant; its values are dropped where they are many.

        Its element type is that of the values or the one given, else that of the first input.
        """
        shape = checked_shape(shape, "the result")
        kept = None if values is None or values.size > FOLDED_ELEMENTS else values
        computed = computed or any(tensor.computed for tensor in self.given)
        if not element:
            element = np_element(values) if values is not None else self._first_element
        tensor = self.results[self.outputs[0]] = Tensor(
            name=self.outputs[0], shape=shape, constant=True, values=kept, computed=computed, element=element
        )
        return tensor

    @property
    def _first_element(self) -> int:
        return next((tensor.element for tensor in self.given), int(TensorProto.FLOAT))


Reader: TypeAlias = Callable[[Operation], object]
"""Reads one operator: leaves its nodes and results with it."""


def shortest(value: Any) -> float:
    """A single-precision number as the decimal that was meant: 0.9, not 0.8999999761581421."""
    return float(str(np.float32(value)))


def _plain(attribute: AttributeProto) -> Value | None:
    match attribute.type:
        case AttributeProto.INT:
            return int(attribute.i)
        case AttributeProto.FLOAT:
            return shortest(attribute.f)
        case AttributeProto.STRING:
            return str(attribute.s, "utf-8", "replace")
        case AttributeProto.INTS:
            return tuple(map(int, attribute.ints))
        case AttributeProto.FLOATS:
            return tuple(map(shortest, attribute.floats))
    return None


def np_element(values: Array) -> int:
    """ONNX's number for the element type of `values`."""
    try:
        return int(helper.np_dtype_to_tensor_dtype(values.dtype))
    except (KeyError, ValueError):
        return int(TensorProto.UNDEFINED)
