"""Convolutions: a layer described to cuDNN; the algorithms that compute it, their workspace, and running one."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from ctypes import byref, c_float, c_int, c_size_t, c_void_p, sizeof
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import chain
from math import prod
from typing import Any

from latte_cli.algorithms import Algorithm
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.closeable import SelfClosing
from latte_cli.backends.native.cudnn import statuses
from latte_cli.backends.native.cudnn.descriptors import Descriptor, convolution, filter_, integers, tensor_descriptor
from latte_cli.backends.native.cudnn.library import Library
from latte_cli.backends.native.cudnn.signatures import (
    AlgoPerf,
    BackwardData,
    BackwardFilter,
    Determinism,
    Forward,
    Math,
)
from latte_cli.errors import unknown
from latte_cli.layers import Convolution, Phase, Shape
from latte_cli.precisions import Layout, Precision

LARGEST_TENSOR = 2**31 - 1
"""The most elements that a tensor of cuDNN's may have."""

LARGEST_WORKSPACE_BYTES = 2**40 - 1
"""Workspaces beyond this size are cuDNN's way of saying no."""

_ONE, _ZERO = c_float(1), c_float(0)


def _algorithms(numbers: type[IntEnum]) -> tuple[Algorithm, ...]:
    return tuple(Algorithm(library="cudnn", name=number.name, vendor_id=number.value) for number in numbers)


ALGORITHMS: dict[Phase, tuple[Algorithm, ...]] = {
    Phase.FORWARD: _algorithms(Forward),
    Phase.BACKWARD_DATA: _algorithms(BackwardData),
    Phase.BACKWARD_FILTER: _algorithms(BackwardFilter),
}
"""The algorithms of each of cuDNN's three operations, in the order of their numbers."""

_OPERATIONS: dict[Phase, tuple[str, tuple[str, str, str]]] = {
    Phase.FORWARD: ("ConvolutionForward", ("x", "w", "y")),
    Phase.BACKWARD_DATA: ("ConvolutionBackwardData", ("w", "y", "x")),
    Phase.BACKWARD_FILTER: ("ConvolutionBackwardFilter", ("x", "y", "w")),
}
"""What each operation is called, and its operands: two are read, the last is written."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """An algorithm in cuDNN's own order: whether it would run (`status` says why not), time, workspace, math type."""

    algorithm: Algorithm
    status_ok: bool
    status: str
    time_s: float | None
    workspace_bytes: int
    deterministic: bool
    math: str


def algorithms(layer: Convolution, phase: Phase) -> tuple[Algorithm, ...]:
    """The algorithms that cuDNN has for `phase` of `layer`, whether or not they run it."""
    return ALGORITHMS[layer.computed_as(phase)]


class Problem(SelfClosing):
    """A convolution described to cuDNN, made by `problem`; `close` destroys its descriptors.

    `output_dim` is the layer's output shape where cuDNN computes it (its input shape for a transposed layer, which
    is run backwards), with one spatial dimension more for 1-D layers.
    """

    def __init__(self, library: Library, layer: Convolution, precision: Precision, layout: Layout) -> None:
        self.library = library
        self.layer = layer
        shapes = operand_shapes(layer)
        with ExitStack() as stack:
            self._x = stack.enter_context(tensor_descriptor(library, shapes["x"], precision, layout))
            self._w = stack.enter_context(filter_(library, shapes["w"], precision, layout))
            self._y = stack.enter_context(tensor_descriptor(library, shapes["y"], precision, layout))
            self._convolution = stack.enter_context(_descriptor_of(library, layer, precision))
            self.output_dim = self._output_dim(len(shapes["y"]))
            if self.output_dim != shapes["y"]:
                raise Unsupported(f"cuDNN computes an output of {self.output_dim}, the layer has {shapes['y']}")
            super().__init__(stack.pop_all())

    def workspace_bytes(self, handle: int, phase: Phase, algorithm: Algorithm) -> int:
        """The bytes of workspace that `algorithm` wants; raises Unsupported where it cannot run the layer."""
        name, _, described = self._operation(phase)
        size = c_size_t()
        number = self._number(phase, algorithm)
        self.library.call(f"cudnnGet{name}WorkspaceSize", handle, *described, number, byref(size))
        return sane_workspace(size.value, algorithm)

    def bind(
        self,
        handle: int,
        phase: Phase,
        algorithm: Algorithm,
        *,
        x: int,
        w: int,
        y: int,
        workspace: int = 0,
        workspace_bytes: int = 0,
    ) -> Callable[[], None]:
        """A call of `phase` with everything converted once; it raises Unsupported, OutOfMemory or Failed.

        `x`, `w` and `y` are device addresses of the layer's own input, weights and output, or of their gradients:
        forward reads x and w and writes y, backward_data reads y and w and writes x, backward_filter reads x and y
        and writes w. It runs on the stream of `handle`; memory must outlive it, and the Problem does.
        """
        call = self.caller(handle, phase, algorithm, workspace_bytes=workspace_bytes)
        return partial(call, *map(c_void_p, (x, w, y, workspace or None)))

    def caller(
        self, handle: int, phase: Phase, algorithm: Algorithm, *, workspace_bytes: int = 0
    ) -> Callable[[c_void_p, c_void_p, c_void_p, c_void_p], None]:
        """`bind` without its memory: a call that is given the addresses x, w, y and of the workspace each time."""
        name, operands, (a_desc, b_desc, conv, out_desc) = self._operation(phase)
        places = {"x": 2, "w": 1, "y": 0} if self.layer.transposed else {"x": 0, "w": 1, "y": 2}
        a, b, out = (places[operand] for operand in operands)
        number = self._number(phase, algorithm)
        function, call = self.library.function(f"cudnn{name}"), f"cudnn{name}"
        kinds = function.argtypes  # type: ignore[attr-defined]
        values = (handle, byref(_ONE), a_desc, None, b_desc, None, conv, number, None, workspace_bytes, byref(_ZERO))
        fixed = [_convert(kind, value) for kind, value in zip(kinds, (*values, out_desc, None), strict=True)]
        (first, alpha, a_fixed, _, b_fixed, _, conv_fixed, number_fixed, _, size, beta, out_fixed, _) = fixed

        def run(x: c_void_p, w: c_void_p, y: c_void_p, workspace: c_void_p) -> None:
            data = (x, w, y)
            status = function(
                first,
                alpha,
                a_fixed,
                data[a],
                b_fixed,
                data[b],
                conv_fixed,
                number_fixed,
                workspace,
                size,
                beta,
                out_fixed,
                data[out],
            )
            if status:
                self.library.check(call, status)  # by `self`, whose descriptors live as long as the call

        return run

    def heuristic(self, handle: int, phase: Phase) -> tuple[Ranked, ...]:
        """What cuDNN would take for `phase`, best first, without running anything; times are its estimates."""
        name, _, described = self._operation(phase)
        most, found = c_int(), c_int()
        self.library.call(f"cudnnGet{name}AlgorithmMaxCount", handle, byref(most))
        rows = (AlgoPerf * most.value)()
        self.library.call(f"cudnnGet{name}Algorithm_v7", handle, *described, most, byref(found), rows)
        return performance_rows(self.layer.computed_as(phase), bytes(rows)[: found.value * sizeof(AlgoPerf)])

    def _operation(self, phase: Phase) -> tuple[str, tuple[str, str, str], tuple[Descriptor, ...]]:
        name, operands = _OPERATIONS[self.layer.computed_as(phase)]
        descriptors = {"x": self._x, "w": self._w, "y": self._y}
        a, b, out = (descriptors[operand] for operand in operands)
        return name, operands, (a, b, self._convolution, out)

    def _number(self, phase: Phase, algorithm: Algorithm) -> int:
        numbers = {known.name: known.vendor_id or 0 for known in algorithms(self.layer, phase)}
        if algorithm.name not in numbers:
            raise unknown("algorithm of cuDNN's", algorithm.name, numbers)
        return numbers[algorithm.name]

    def _output_dim(self, rank: int) -> Shape:
        sizes = integers((0,) * rank)
        described = (self._convolution, self._x, self._w)
        if rank == 4:
            parts = [c_int() for _ in range(rank)]
            self.library.call("cudnnGetConvolution2dForwardOutputDim", *described, *map(byref, parts))
            return tuple(part.value for part in parts)
        self.library.call("cudnnGetConvolutionNdForwardOutputDim", *described, rank, sizes)
        return tuple(sizes)


def problem(library: Library, layer: Convolution, precision: Precision, layout: Layout) -> Problem:
    """`layer` described to cuDNN; to be closed, or used as a context manager.

    Raises Unsupported as `check_describable` does, and for an output shape of another convention.
    """
    check_describable(layer)
    return Problem(library, layer, precision, layout)


def check_describable(layer: Convolution) -> None:
    """Raise Unsupported for a layer that cuDNN cannot describe: padding that differs between the sides, a tensor of
    2**31 or more elements, a number as large."""
    if not layer.symmetric:
        raise Unsupported(f"cuDNN pads both sides alike, not {layer.pad_before} and {layer.pad_after}")
    for shape in operand_shapes(layer).values():
        if prod(shape) > LARGEST_TENSOR:
            raise Unsupported(f"cuDNN takes no tensor of 2**31 or more elements, such as {shape}")
    for value in chain(layer.pad_before, layer.stride, layer.dilation):
        if value > LARGEST_TENSOR:
            raise Unsupported(f"cuDNN takes no number as large as {value}")


def operand_shapes(layer: Convolution) -> dict[str, Shape]:
    """The shapes of cuDNN's `x`, `w` and `y`; a transposed layer has x and y swapped, a 1-D layer has height 1."""
    x, y = layer.input_shapes[0], layer.output_shape
    if layer.transposed:
        x, y = y, x
    return {"x": two_dimensional(x, 2), "w": two_dimensional(layer.weight_shape, 2), "y": two_dimensional(y, 2)}


def sane_workspace(size: int, algorithm: Algorithm | str) -> int:
    """`size` in bytes; raises Unsupported for one of 1 TiB or more, which no device has."""
    if size > LARGEST_WORKSPACE_BYTES:
        raise Unsupported(f"{algorithm} wants a workspace of {size} bytes")
    return size


def performance_rows(of: Phase, data: bytes) -> tuple[Ranked, ...]:
    """The rows of an array of `cudnnConvolution…AlgoPerf_t` (48 bytes each) that the operation `of` returned."""
    names = {algorithm.vendor_id: algorithm for algorithm in ALGORITHMS[of]}
    rows = (AlgoPerf * (len(data) // sizeof(AlgoPerf))).from_buffer_copy(data)
    return tuple(_performance_row(row, names) for row in rows)


def _performance_row(row: AlgoPerf, names: dict[int | None, Algorithm]) -> Ranked:
    unheard = Algorithm(library="cudnn", name=f"ALGORITHM_{row.algo}", vendor_id=row.algo)
    return Ranked(
        algorithm=names.get(row.algo, unheard),
        status_ok=row.status == 0,
        status=statuses.status_name(row.status),
        time_s=row.time / 1e3 if row.time > 0 else None,
        workspace_bytes=row.memory,
        deterministic=row.determinism == Determinism.DETERMINISTIC,
        math=Math(row.math).name if row.math in list(Math) else str(row.math),
    )


def _descriptor_of(library: Library, layer: Convolution, precision: Precision) -> AbstractContextManager[Descriptor]:
    return convolution(
        library,
        precision,
        padding=two_dimensional(layer.pad_before, 0, fill=0),
        stride=two_dimensional(layer.stride, 0),
        dilation=two_dimensional(layer.dilation, 0),
        groups=layer.groups,
    )


def _convert(kind: type[Any], value: Any) -> Any:
    # Objects of ctypes are passed on as they are; converting a number takes time on each call.
    return kind(value) if value is None or isinstance(value, int) else value


def two_dimensional(sizes: Shape, leading: int, fill: int = 1) -> Shape:
    """`sizes`, of which `leading` are not spatial, with `fill` for a height: a 1-D layer is a 2-D one of height 1."""
    return (*sizes[:leading], fill, *sizes[leading:]) if len(sizes) - leading == 1 else sizes
