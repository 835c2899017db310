"""A `torch.export` program as ONNX: the tables that rules look into, and what they emit."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from latte_cli.errors import LatteError
from latte_cli.network.graph import LAID
from latte_cli.network.torch_program.archive import DAMAGED
from latte_cli.network.torch_program.checkpointed import Mark
from latte_cli.precisions import Layout

ELEMENTS = {
    1: TensorProto.UINT8,
    2: TensorProto.INT8,
    3: TensorProto.INT16,
    4: TensorProto.INT32,
    5: TensorProto.INT64,
    6: TensorProto.FLOAT16,
    7: TensorProto.FLOAT,
    8: TensorProto.DOUBLE,
    12: TensorProto.BOOL,
    13: TensorProto.BFLOAT16,
}
"""ONNX's element types by the numbers that programs have for torch's."""

WHOLE = frozenset(
    (
        *(TensorProto.BOOL, TensorProto.INT4, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32),
        *(TensorProto.INT64, TensorProto.UINT4, TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32),
        TensorProto.UINT64,
    )
)
"""Element types of whole numbers, which no gradient passes."""

COUNTING = frozenset(
    (
        *("ArgMax", "ArgMin", "NonZero", "OneHot", "Shape", "Size", "BitwiseAnd", "BitwiseNot"),
        *("BitwiseOr", "BitwiseXor", "BitShift", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("Not", "And", "Or", "Xor", "IsNaN", "IsInf"),
    )
)
"""ONNX operators whose results are places, counts or truths, which no gradient passes."""

_LAYOUTS = {1: Layout.NCHW, 2: Layout.CHANNELS_LAST, 3: Layout.CHANNELS_LAST}
"""Layouts by the numbers that programs have for torch's memory formats; 3 is that of volumes."""

ROLE = "latte.role"
"""The key under which a stored tensor says what the module has it for: `parameter`, `frozen` or `buffer`."""

Size: TypeAlias = "int | Symbol"


@dataclass(frozen=True)
class Ref:
    """A tensor, by its name in ONNX."""

    name: str


@dataclass(frozen=True)
class Symbol:
    """A size that is computed, by the name of the scalar that holds it."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a program says of a tensor: its sizes, None for symbolic ones, and its element type."""

    sizes: tuple[int | None, ...]
    element: int


@dataclass(frozen=True)
class Region:
    """A graph within the program, as JSON has it, that one of its nodes runs."""

    graph: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aten:
    """A node of the program: `kind` without `torch.ops.aten.`, overload and the `_` of what works in place.

    `values` are its arguments in their order. By the program's names, `first` is the tensor that it is given first,
    `results` is what it returns, and `mutated` is what it writes to in place.
    """

    target: str
    kind: str
    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[str, ...]
    values: tuple[Any, ...] = ()
    first: str = ""
    results: tuple[str, ...] = ()
    mutated: str = ""

    def tensor(self, *names: str) -> str:
        """The name of the tensor that is the first given of `names`; raises LatteError where there is none."""
        for name in names:
            found = self.arguments.get(name)
            if isinstance(found, Ref):
                return found.name
        raise LatteError(f"`{self.target}` node `{self.name}` has no tensor `{names[0]}`", hint=DAMAGED)

    def optional(self, name: str) -> str:
        """The name of a tensor, "" where it is None or left out."""
        found = self.arguments.get(name)
        return found.name if isinstance(found, Ref) else ""

    def tensors(self, name: str) -> tuple[str, ...]:
        """The names of a list of tensors."""
        found = self.arguments.get(name)
        if not isinstance(found, tuple):
            raise LatteError(f"`{self.target}` node `{self.name}` has no tensors `{name}`", hint=DAMAGED)
        return tuple(each.name if isinstance(each, Ref) else "" for each in found)

    @property
    def read(self) -> tuple[str, ...]:
        """The names of all tensors that it reads, each once."""
        lists = (each if isinstance(each, tuple) else (each,) for each in self.values)
        return tuple(dict.fromkeys(one.name for each in lists for one in each if isinstance(one, Ref)))

    def number(self, name: str, default: float) -> float:
        found = self.arguments.get(name)
        return found if isinstance(found, int | float) else default

    def integer(self, name: str, default: int) -> int:
        found = self.arguments.get(name)
        return int(found) if isinstance(found, int | float) else default

    def flag(self, name: str, default: bool = False) -> bool:
        found = self.arguments.get(name)
        return bool(found) if isinstance(found, bool | int) else default

    def text(self, name: str, default: str = "") -> str:
        found = self.arguments.get(name)
        return found if isinstance(found, str) else default

    def integers(self, name: str, count: int = 0, default: int = 0) -> list[int]:
        """A list of integers; a single one means `count` of them, one that is left out the `default`."""
        found = self.arguments.get(name)
        values = list(found) if isinstance(found, tuple) else [found] if isinstance(found, int) else []
        if not all(isinstance(value, int) for value in values):
            raise LatteError(f"`{self.target}` node `{self.name}` has a `{name}` that is computed", hint=DAMAGED)
        values = values or [default] * count
        return values * count if len(values) == 1 < count else values

    def sizes(self, name: str) -> list[Size]:
        """A list of sizes, some of which may be computed."""
        found = self.arguments.get(name)
        values = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(value, int | Symbol) for value in values):
            raise LatteError(f"`{self.target}` node `{self.name}` has no sizes `{name}`", hint=DAMAGED)
        return list(values)


def layout_attribute(op: Aten, default: Layout | None = None) -> dict[str, str]:
    """The layout that an operator is asked to write in, as an attribute; none where it keeps that of what it reads."""
    found = _LAYOUTS.get(op.integer("memory_format", 0), default)
    return {LAID: found.value} if found else {}


@dataclass(kw_only=True)
class Lowering:
    """The ONNX nodes and constants so far, and what the program says of each tensor.

    `idle` counts what does nothing in evaluation mode, `marks` say by the lines that made them which nodes lie in
    regions that run a second time backward, and `regions` by graphs within the graph. `calls` are the calls of the
    module's parts that nodes lie in, `sequences` the parts that are an `nn.Sequential`, and `functions` the autograd
    functions that have their own backward pass. `written` says what a region has put in place of tensors that it
    was given, by their names.
    """

    metas: dict[str, Meta]
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    names: Counter[str] = field(default_factory=Counter)
    label: str = ""
    idle: Counter[str] = field(default_factory=Counter)
    marks: dict[str, Mark] = field(default_factory=dict)
    regions: dict[str, Mark] = field(default_factory=dict)
    calls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sequences: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    written: dict[str, str] = field(default_factory=dict)

    def meta(self, name: str) -> Meta:
        """What is known of the tensor `name`; raises LatteError for one that the program does not describe."""
        found = self.metas.get(name)
        if found is None:
            raise LatteError(f"the program does not describe `{name}`", hint=DAMAGED)
        return found

    def rank(self, name: str) -> int:
        return len(self.meta(name).sizes)

    def axis(self, axis: int, rank: int) -> int:
        if not -max(1, rank) <= axis < max(1, rank):
            raise LatteError(f"axis {axis} does not exist in {rank} dimensions", hint=DAMAGED)
        return axis % max(1, rank)

    def emit(self, kind: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        """Add a node; without `outputs` it writes one with a fresh name, which is returned."""
        written = outputs or (self.fresh(kind),)
        name = self.label if outputs else f"{self.label}.{written[0].strip('%')}"
        if outputs and self.names[f"node {name}"]:
            name = f"{name}.{outputs[0].lstrip('%')}"
        self.names[f"node {name}"] += 1
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        self.nodes.append(helper.make_node(kind, given, list(written), name=name, **attributes))
        return written[0]

    def other(self, op: Aten, name: str = "", inputs: Sequence[str] | None = None) -> object:
        """Work that no ONNX operator describes: what it reads, and the shapes that the program says it writes."""
        given = op.read if inputs is None else inputs
        sizes = {
            f"shape{at}": [-1 if size is None else size for size in self.meta(output).sizes]
            for at, output in enumerate(op.outputs)
            if self.metas.get(output) is not None and self.meta(output).sizes
        }
        elements = [self.metas[output].element if output in self.metas else 0 for output in op.outputs]
        arguments = dict(_written_arguments(op, given))
        return self.emit(
            "Other",
            given,
            *op.outputs,
            domain="latte",
            operation=name or op.kind,
            elements=elements,
            **sizes,
            **arguments,
        )

    def fresh(self, hint: str) -> str:
        self.names["%"] += 1
        return f"%{hint.lower()}{self.names['%']}"

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """The name of a constant."""
        array = np.asarray(values, dtype)
        values = str(array.ravel().tolist()).replace(".", "_")  # a dot would say that it is a parameter of a module
        name = f"%const_{array.dtype.name}_{'x'.join(map(str, array.shape))}_{values}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def scalar(self, value: Any, like: str) -> str:
        """A number in the element type of the tensor `like`, or the computed size that it is."""
        if isinstance(value, Symbol):
            return self.emit("Cast", [value.name], to=self.meta(like).element)
        element = self.meta(like).element
        whole = element in (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL) and not isinstance(value, float)
        return self.constant(value, np.int64 if whole else np.float32)

    def filled(self, name: str, shape: Sequence[int], element: int = TensorProto.FLOAT, role: str = "") -> str:
        """A constant of `shape` that says its shape, its `role` in the module, and nothing more."""
        tensor = TensorProto(name=name, dims=list(shape), data_type=element)
        if role:
            tensor.metadata_props.add(key=ROLE, value=role)
        tensor.data_location = TensorProto.EXTERNAL
        self.constants.setdefault(name, tensor)
        return name

    def vector(self, sizes: Iterable[Size]) -> str:
        """A vector of sizes: a constant, or put together where some are computed."""
        values = list(sizes)
        if all(isinstance(value, int) for value in values):
            return self.constant(values)
        zero = self.constant([0])
        parts = [
            self.emit("Unsqueeze", [value.name, zero]) if isinstance(value, Symbol) else self.constant([value])
            for value in values
        ]
        return self.emit("Concat", parts, axis=0)

    def shape_of(self, name: str) -> list[int]:
        """A target for Reshape: the sizes of `name`, one symbolic size as -1, a first one before others as 0."""
        sizes: list[int] = []
        for at, size in enumerate(self.meta(name).sizes):
            later = any(other is None for other in self.meta(name).sizes[at + 1 :])
            sizes.append(size if size is not None else 0 if later else -1)
        if 0 in sizes[1:]:
            raise LatteError(f"the shape of `{name}` has several symbolic sizes", hint="export it with fewer")
        return sizes


def _written_arguments(op: Aten, given: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """An operator's arguments as attributes: numbers and texts, truths, and which of the tensors `given` one is.

    Of sizes that are computed, and of graphs, there is only that they are there.
    """
    places = {name: place for place, name in enumerate(given)}
    for name, value in op.arguments.items():
        tensors = [each.name for each in value if isinstance(each, Ref)] if isinstance(value, tuple) else []
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(each, Symbol | Region) for each in parts):
            yield f"computed.{name}", 1
        elif isinstance(value, Ref):
            if value.name in places:
                yield f"tensor.{name}", places[value.name]
        elif tensors:
            yield f"tensors.{name}", [places.get(getattr(each, "name", ""), -1) for each in value]
        elif isinstance(value, bool):
            yield f"flag.{name}", int(value)
        elif isinstance(value, int | float | str) or (isinstance(value, tuple) and value and _are_numbers(value)):
            yield f"argument.{name}", value


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


Rule: TypeAlias = Callable[[Lowering, Aten], object]
Rules: TypeAlias = Mapping[str, Rule]
"""What operators are in ONNX, by their names."""
