"""Graphs: a layer's phase as cuDNN's backend API has it, an operation graph; its engines, who lists them, and plans."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from ctypes import byref, c_int64, c_void_p
from functools import cached_property
from typing import Any, Self

from latte_cli.backends.contract import Failed, Unsupported
from latte_cli.backends.native.closeable import Closeable, SelfClosing
from latte_cli.backends.native.cudnn.attributes import C_TYPES, Attribute, Behavior, DescriptorKind, Numerical, Type
from latte_cli.backends.native.cudnn.convolutions import (
    check_describable,
    operand_shapes,
    sane_workspace,
    two_dimensional,
)
from latte_cli.backends.native.cudnn.descriptors import DATA_TYPES
from latte_cli.backends.native.cudnn.library import Library
from latte_cli.backends.native.cudnn.signatures import DataType, Mode
from latte_cli.backends.native.strides import strides
from latte_cli.engines import PREFIX, Engine, Heuristic
from latte_cli.errors import unknown
from latte_cli.layers import Convolution, Phase, Shape
from latte_cli.precisions import Layout, Precision

ALIGNMENT_BYTES = 16
"""What the addresses of tensors are multiples of: torch's are."""

_UIDS = {"x": 1, "w": 2, "y": 3}
_MOST_NOTES = 16  # more than there are of a kind (see `attributes.Numerical`, which has ten)


class BackendDescriptor(Closeable):
    """A descriptor of the backend API: what is set is fixed by `finalize`; what it is made of must outlive it."""

    def __init__(self, library: Library, kind: DescriptorKind) -> None:
        self._library, self.kind = library, kind
        made = c_void_p()
        library.call("cudnnBackendCreateDescriptor", kind, byref(made))
        self.address = made.value or 0

    def close(self) -> None:
        self._library.call("cudnnBackendDestroyDescriptor", self.address)

    def set(self, attribute: Attribute, type_: Type, *values: Any) -> Self:
        """Give `attribute` its values; raises Unsupported, OutOfMemory or Failed, as do the others."""
        array = (C_TYPES[type_] * len(values))(
            *(each.address if isinstance(each, BackendDescriptor) else each for each in values)
        )
        self._library.call("cudnnBackendSetAttribute", self.address, attribute, type_, len(values), array)
        return self

    def set_text(self, attribute: Attribute, text: str) -> Self:
        """Give `attribute` a text."""
        data = ctypes.create_string_buffer(text.encode())
        self._library.call("cudnnBackendSetAttribute", self.address, attribute, Type.CHAR, len(data), data)
        return self

    def finalize(self) -> Self:
        """Check what was set, and fix it."""
        self._library.call("cudnnBackendFinalize", self.address)
        return self

    def get(self, attribute: Attribute, type_: Type, most: int = 1) -> list[Any]:
        """The values of `attribute`, at most `most` of them."""
        array, found = (C_TYPES[type_] * most)(), c_int64()
        self._library.call("cudnnBackendGetAttribute", self.address, attribute, type_, most, byref(found), array)
        return list(array[: min(found.value, most)])

    def text(self, attribute: Attribute) -> str:
        """The text of `attribute`."""
        size = c_int64()
        self._library.call("cudnnBackendGetAttribute", self.address, attribute, Type.CHAR, 0, byref(size), None)
        return b"".join(self.get(attribute, Type.CHAR, size.value)).split(b"\0")[0].decode()

    def descriptors(self, attribute: Attribute, kind: DescriptorKind, stack: ExitStack) -> list["BackendDescriptor"]:
        """The descriptors of `kind` that `attribute` holds, which live until `stack` is closed."""
        size = c_int64()
        arguments = (self.address, attribute, Type.BACKEND_DESCRIPTOR)
        self._library.call("cudnnBackendGetAttribute", *arguments, 0, byref(size), None)
        made = [stack.enter_context(BackendDescriptor(self._library, kind)) for _ in range(size.value)]
        array = (c_void_p * len(made))(*(each.address for each in made))
        self._library.call("cudnnBackendGetAttribute", *arguments, len(made), byref(size), array)
        return made[: size.value]


class EngineTarget(Closeable):
    """The device whose engines are listed: a handle's own, or one that is described by its properties alone.

    Properties are the JSON that `properties` reads from a handle's device; with them nothing can be run, and no device
    or driver is needed (cuDNN 9.8 or later). Raises Unsupported for an older library or JSON that it does not take.
    """

    def __init__(self, library: Library, *, handle: int | None = None, json: str | None = None) -> None:
        self.library, self.handle, self._stack = library, handle, ExitStack()
        self.properties: BackendDescriptor | None = None
        if json is not None:
            if library.version < DEVICELESS_SINCE:
                wanted = ".".join(map(str, DEVICELESS_SINCE))
                raise Unsupported(f"cuDNN {library.version_text} knows no device that is not here; {wanted} does")
            with ExitStack() as stack:
                described = stack.enter_context(BackendDescriptor(library, DescriptorKind.DEVICEPROP))
                described.set_text(Attribute.DEVICEPROP_JSON_REPRESENTATION, json).finalize()
                self.properties, self._stack = described, stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def place_in(
        self, descriptor: BackendDescriptor, handle: Attribute | None, properties: Attribute | None
    ) -> BackendDescriptor:
        """Say in `descriptor` which device is meant, with whichever attribute it has for that."""
        if self.properties is None and handle is not None:
            descriptor.set(handle, Type.HANDLE, self.handle)
        elif self.properties is not None and properties is not None:
            descriptor.set(properties, Type.BACKEND_DESCRIPTOR, self.properties)
        return descriptor


DEVICELESS_SINCE = (9, 8, 0)
"""The first cuDNN that answers for a device that is described to it."""


def properties(library: Library, handle: int) -> str:
    """The properties of a handle's device as JSON, for a Target elsewhere; raises Unsupported before cuDNN 9.8."""
    if library.version < DEVICELESS_SINCE:
        raise Unsupported(f"cuDNN {library.version_text} does not describe devices")
    with BackendDescriptor(library, DescriptorKind.DEVICEPROP) as described:
        described.set(Attribute.DEVICEPROP_HANDLE, Type.HANDLE, handle).finalize()
        return described.text(Attribute.DEVICEPROP_JSON_REPRESENTATION)


class EngineGraph(SelfClosing):
    """A layer's phase described to cuDNN's backend API, made by `graph`; `close` destroys its descriptors.

    A plan refers to the graph that it was made of: it must not run once that is closed.
    """

    def __init__(
        self, target: EngineTarget, layer: Convolution, phase: Phase, precision: Precision, layout: Layout
    ) -> None:
        self.target, self.library = target, target.library
        self.operation = layer.computed_as(phase)
        shapes = operand_shapes(layer)
        with ExitStack() as stack:
            made = {name: self._tensor(name, shapes[name], precision, layout, stack) for name in _UIDS}
            convolution = self._convolution(layer, stack)
            described = stack.enter_context(BackendDescriptor(self.library, DescriptorKind[self.operation.name]))
            prefix = self.operation.name
            described.set(Attribute[f"{prefix}_ALPHA"], Type.FLOAT, 1.0)
            described.set(Attribute[f"{prefix}_BETA"], Type.FLOAT, 0.0)
            described.set(Attribute[f"{prefix}_CONV_DESC"], Type.BACKEND_DESCRIPTOR, convolution)
            for name, descriptor in made.items():
                described.set(Attribute[f"{prefix}_{name.upper()}"], Type.BACKEND_DESCRIPTOR, descriptor)
            described.finalize()
            self._graph = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.OPERATIONGRAPH))
            target.place_in(self._graph, Attribute.OPERATIONGRAPH_HANDLE, None)
            self._graph.set(Attribute.OPERATIONGRAPH_OPS, Type.BACKEND_DESCRIPTOR, described).finalize()
            super().__init__(stack.pop_all())

    @cached_property
    def count(self) -> int:
        """How many engines cuDNN has for the operation, whether or not they run this layer on the target."""
        return int(self._graph.get(Attribute.OPERATIONGRAPH_ENGINE_GLOBAL_COUNT, Type.INT64)[0])

    def engines(self) -> Iterator[Engine]:
        """The engines that take this layer on the target, in the order of their indices."""
        for index in range(self.count):
            with suppress(Unsupported, Failed):  # Failed where a library that it compiles with is not there
                yield self.engine(f"{PREFIX}{index}")

    def engine(self, name: str) -> Engine:
        """The engine `name`; raises LatteError for one that the operation has not, Unsupported or Failed where it does
        not take the layer."""
        with ExitStack() as stack:
            index = self._index_of(name)
            return self._engine(index, *self._configure(index, stack))

    def list_engines(self, mode: Heuristic) -> tuple[int, ...]:
        """The indices of the engines that a heuristic lists, best first; it may list one with several settings."""
        with ExitStack() as stack:
            asked = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.ENGINEHEUR))
            asked.set(Attribute.ENGINEHEUR_OPERATION_GRAPH, Type.BACKEND_DESCRIPTOR, self._graph)
            asked.set(Attribute.ENGINEHEUR_MODE, Type.HEUR_MODE, mode)
            self.target.place_in(asked, None, Attribute.ENGINEHEUR_DEVICEPROP)
            asked.finalize()
            found = asked.descriptors(Attribute.ENGINEHEUR_RESULTS, DescriptorKind.ENGINECFG, stack)
            return tuple(dict.fromkeys(self._index(configuration) for configuration in found))

    def plan(self, name: str) -> "ExecutionPlan":
        """The engine `name` with its knobs as they come, ready to run on the handle's device.

        Raises LatteError for a name that the operation has not, Unsupported where the engine does not take the layer.
        """
        with ExitStack() as stack:
            _, configuration = self._configure(self._index_of(name), stack)
            plan = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.EXECUTION_PLAN))
            self.target.place_in(plan, Attribute.EXECUTION_PLAN_HANDLE, Attribute.EXECUTION_PLAN_DEVICEPROP)
            plan.set(Attribute.EXECUTION_PLAN_ENGINE_CONFIG, Type.BACKEND_DESCRIPTOR, configuration).finalize()
            size = int(plan.get(Attribute.EXECUTION_PLAN_WORKSPACE_SIZE, Type.INT64)[0])
            return ExecutionPlan(self, plan, sane_workspace(size, name), stack.pop_all())

    def _tensor(
        self, name: str, shape: Shape, precision: Precision, layout: Layout, stack: ExitStack
    ) -> BackendDescriptor:
        made = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.TENSOR))
        made.set(Attribute.TENSOR_UNIQUE_ID, Type.INT64, _UIDS[name])
        made.set(Attribute.TENSOR_DATA_TYPE, Type.DATA_TYPE, DATA_TYPES[precision])
        made.set(Attribute.TENSOR_BYTE_ALIGNMENT, Type.INT64, ALIGNMENT_BYTES)
        made.set(Attribute.TENSOR_DIMENSIONS, Type.INT64, *shape)
        made.set(Attribute.TENSOR_STRIDES, Type.INT64, *strides(shape, layout))
        return made.finalize()

    def _convolution(self, layer: Convolution, stack: ExitStack) -> BackendDescriptor:
        made = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.CONVOLUTION))
        made.set(Attribute.CONVOLUTION_COMP_TYPE, Type.DATA_TYPE, DataType.FLOAT)
        made.set(Attribute.CONVOLUTION_CONV_MODE, Type.CONVOLUTION_MODE, Mode.CROSS_CORRELATION)
        made.set(Attribute.CONVOLUTION_SPATIAL_DIMS, Type.INT64, len(two_dimensional(layer.stride, 0)))
        sizes = {
            Attribute.CONVOLUTION_DILATIONS: two_dimensional(layer.dilation, 0),
            Attribute.CONVOLUTION_FILTER_STRIDES: two_dimensional(layer.stride, 0),
            Attribute.CONVOLUTION_PRE_PADDINGS: two_dimensional(layer.pad_before, 0, fill=0),
            Attribute.CONVOLUTION_POST_PADDINGS: two_dimensional(layer.pad_after, 0, fill=0),
        }
        for attribute, values in sizes.items():
            made.set(attribute, Type.INT64, *values)
        return made.finalize()

    def _configure(self, index: int, stack: ExitStack) -> tuple[BackendDescriptor, BackendDescriptor]:
        """The engine of an index and its configuration; raises Unsupported where it does not take the layer."""
        engine = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.ENGINE))
        engine.set(Attribute.ENGINE_OPERATION_GRAPH, Type.BACKEND_DESCRIPTOR, self._graph)
        engine.set(Attribute.ENGINE_GLOBAL_INDEX, Type.INT64, index)
        self.target.place_in(engine, None, Attribute.ENGINE_DEVICEPROP).finalize()
        configuration = stack.enter_context(BackendDescriptor(self.library, DescriptorKind.ENGINECFG))
        configuration.set(Attribute.ENGINECFG_ENGINE, Type.BACKEND_DESCRIPTOR, engine).finalize()
        return engine, configuration

    def _engine(self, index: int, engine: BackendDescriptor, configuration: BackendDescriptor) -> Engine:
        numerical = engine.get(Attribute.ENGINE_NUMERICAL_NOTE, Type.NUMERICAL_NOTE, _MOST_NOTES)
        behavior = engine.get(Attribute.ENGINE_BEHAVIOR_NOTE, Type.BEHAVIOR_NOTE, _MOST_NOTES)
        try:
            size = int(configuration.get(Attribute.ENGINECFG_WORKSPACE_SIZE, Type.INT64)[0])
        except Unsupported:  # before cuDNN 9.2 only a plan says so
            size = None
        return Engine(
            index=index,
            numerical=_note_names(Numerical, numerical),
            behavior=_note_names(Behavior, behavior),
            workspace_bytes=size,
        )

    def _index_of(self, name: str) -> int:
        names = [f"{PREFIX}{index}" for index in range(self.count)]
        if name not in names:
            raise unknown("engine of cuDNN's", name, names)
        return names.index(name)

    def _index(self, configuration: BackendDescriptor) -> int:
        with ExitStack() as stack:
            (engine,) = configuration.descriptors(Attribute.ENGINECFG_ENGINE, DescriptorKind.ENGINE, stack)
            return int(engine.get(Attribute.ENGINE_GLOBAL_INDEX, Type.INT64)[0])


class ExecutionPlan(SelfClosing):
    """An engine made ready for a layer; `workspace_bytes` is what a call needs."""

    def __init__(self, graph: EngineGraph, plan: BackendDescriptor, workspace_bytes: int, stack: ExitStack) -> None:
        super().__init__(stack)
        self._graph, self._library, self._plan, self._stack = graph, graph.library, plan, stack
        self.workspace_bytes = workspace_bytes

    def bind(self, handle: int, *, x: int, w: int, y: int, workspace: int = 0) -> Callable[[], None]:
        """A call on these device addresses, on the stream of `handle`; it raises Unsupported, OutOfMemory or Failed.

        As in `Problem.bound`, x, w and y are the layer's input, weights and output, or their gradients.
        """
        pack = self._stack.enter_context(self._pack(x, w, y, workspace or None))
        function = self._library.function("cudnnBackendExecute")
        arguments = tuple(map(c_void_p, (handle, self._plan.address, pack.address)))

        def run() -> None:
            status = function(*arguments)
            if status:
                self._library.check("cudnnBackendExecute", status)  # by `self`, which lives as long as the call

        return run

    def caller(self, handle: int) -> Callable[[c_void_p, c_void_p, c_void_p, c_void_p], None]:
        """`bind` without its memory: a call that is given the addresses x, w, y and of the workspace each time."""

        def run(x: c_void_p, w: c_void_p, y: c_void_p, workspace: c_void_p) -> None:
            with self._pack(x.value, w.value, y.value, workspace.value) as pack:
                self._library.call("cudnnBackendExecute", handle, self._plan.address, pack.address)

        return run

    def _pack(self, x: int | None, w: int | None, y: int | None, workspace: int | None) -> BackendDescriptor:
        pack = BackendDescriptor(self._library, DescriptorKind.VARIANT_PACK)
        pack.set(Attribute.VARIANT_PACK_UNIQUE_IDS, Type.INT64, *_UIDS.values())
        pack.set(Attribute.VARIANT_PACK_DATA_POINTERS, Type.VOID_PTR, x, w, y)
        return pack.set(Attribute.VARIANT_PACK_WORKSPACE, Type.VOID_PTR, workspace).finalize()


def graph(target: EngineTarget, layer: Convolution, phase: Phase, precision: Precision, layout: Layout) -> EngineGraph:
    """`phase` of `layer` described to cuDNN's backend API; to be closed, or used as a context manager.

    Raises Unsupported for a layer that cuDNN cannot describe.
    """
    check_describable(layer)
    return EngineGraph(target, layer, phase, precision, layout)


def _note_names(kind: type[Numerical] | type[Behavior], numbers: Sequence[int]) -> frozenset[str]:
    known = {each.value: each.name for each in kind}
    return frozenset(known.get(number, str(number)) for number in numbers)
