"""What a task calls of oneDNN's: an implementation by name, on torch's tensors where they lie."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isnan

import torch
from torch import Tensor

from latte_cli.algorithms import LISTED, Algorithm
from latte_cli.backends.contract import Failed, Unsupported
from latte_cli.backends.native import onednn
from latte_cli.backends.native.closeable import KEPT
from latte_cli.backends.native.onednn.find import VARIABLE
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, activations_type, operands
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase, Shape
from latte_cli.precisions import Layout
from latte_cli.tasks import Settings, Task

ABSENT = "there is no oneDNN besides the one inside torch, see `latte doctor`"

TOLERANCES = {"float32": 1e-4, "bfloat16": 3e-2}
"""How far a result may be from the reference, relative to its largest number: rounding stays below, faults do not."""

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class _Workspace(threading.local):
    """A thread's workspace, as large as the largest that was requested: calls of one thread come one by one."""

    memory: Tensor | None = None

    def address(self, size_bytes: int) -> int:
        if not size_bytes:
            return 0
        if self.memory is None or self.memory.nbytes < size_bytes:
            self.memory = None
            self.memory = torch.empty(size_bytes, dtype=torch.uint8)
        return self.memory.data_ptr()


_workspace = _Workspace()


@lru_cache
def library() -> onednn.Library | None:
    """The second oneDNN of this process, next to torch's own, or None.

    Raises LatteError where `LATTE_ONEDNN` names one that cannot be opened: it must be used.
    """
    try:
        return onednn.open_library()
    except LatteError:
        if os.environ.get(VARIABLE):
            raise
        return None


def candidates(layer: Convolution, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
    """oneDNN's implementations of `phase` as they are listed; none where there is no library or it refuses"""
    try:
        names = _ask(layer, phase, settings, lambda found: found.implementations())
    except Unsupported:
        return ()
    return tuple(Algorithm(library=LISTED.library, name=name) for name in names)


def ranking(layer: Convolution, phase: Phase, settings: Settings) -> tuple[str, ...]:
    """The names of oneDNN's implementations in the order in which it takes them; raises Unsupported where it cannot."""
    return _ask(layer, phase, settings, onednn.Problem.ranking)


def _ask(
    layer: Convolution, phase: Phase, settings: Settings, ask: Callable[[onednn.Problem], tuple[str, ...]]
) -> tuple[str, ...]:
    found = library()
    if found is None:
        raise Unsupported(ABSENT)
    with onednn.problem(found, layer, phase, settings.precision, settings.layout) as described:
        return ask(described)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What a tensor has to be, since its address alone says nothing to the library."""

    shape: Shape
    dtype: torch.dtype
    form: torch.memory_format

    def of(self, tensor: Tensor | None, name: str) -> Tensor:
        """`tensor`, copied where it lies otherwise; raises Unsupported where it is another."""
        if tensor is None:
            raise Unsupported(f"{name} was made for a layer with a bias, and there is none")
        if tensor.shape != self.shape or tensor.dtype != self.dtype or not tensor.is_cpu:
            told = f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
            raise Unsupported(f"{name} was made for {self.shape} of {self.dtype} on the CPU, not for {told}")
        return tensor.contiguous(memory_format=self.form)

    def empty(self) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, memory_format=self.form)


class OnednnComputation:
    """One implementation of a layer's phase as a function of torch's tensors; it is made anew for each thread count.

    Raises Unsupported for an implementation that this layer, library or processor does not have.
    """

    def __init__(self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings) -> None:
        opened = library()
        if opened is None:
            raise Unsupported(ABSENT)
        self._library, self._name = opened, algorithm.name
        self._layer, self._phase, self._settings = layer, phase, settings
        self._executions: dict[int, onednn.Execution] = {}
        self._execution()
        self._x, self._w, self._y, self._b = (
            _wanted_tensor(shape, settings)
            for shape in (layer.input_shapes[0], layer.weight_shape, layer.output_shape, (layer.out_channels,))
        )
        self._fused = layer.bias and phase is Phase.FORWARD and not layer.transposed

    @property
    def workspace_bytes(self) -> int:
        """The workspace of a call: scratch memory, and the copies in other formats."""
        return self._execution().workspace_bytes

    def __call__(self, o: Operands) -> Tensor:
        """The result of the phase, in the layout of the settings; backward filter gives the weight's gradient alone."""
        return _CALLS[self._phase](self, o)

    def forward(self, o: Operands) -> Tensor:
        into, name = self._y.empty(), self._name
        b = self._b.of(o.b, name) if self._fused else None
        self._run(self._x.of(o.x, name), self._w.of(o.weight(), name), into, b)
        if o.b is not None and b is None:
            into.add_(o.b.view(-1, *(1,) * len(self._layer.kernel)))
        return into

    def backward_data(self, o: Operands) -> Tensor:
        into, name = self._x.empty(), self._name
        self._run(into, self._w.of(o.w, name), self._y.of(o.gy, name))
        return into

    def backward_filter(self, o: Operands) -> Tensor:
        into, name = self._w.empty(), self._name
        self._run(self._x.of(o.x, name), into, self._y.of(o.gy, name))
        return o.gradient(into)

    def _run(self, x: Tensor, w: Tensor, y: Tensor, b: Tensor | None = None) -> None:
        # The tensors live until the call is done, those that had to be copied too.
        execution = self._execution()
        bias = 0 if b is None else b.data_ptr()
        execution(x.data_ptr(), w.data_ptr(), y.data_ptr(), bias, _workspace.address(execution.workspace_bytes))

    def _execution(self) -> onednn.Execution:
        threads = torch.get_num_threads()
        found = self._executions.get(threads)
        if found is None:
            found = self._executions[threads] = self._make(threads)
        return found

    def _make(self, threads: int) -> onednn.Execution:
        precision, layout = self._settings.precision, self._settings.layout
        with onednn.problem(self._library, self._layer, self._phase, precision, layout) as described:
            try:
                return described.execution(self._name, threads)
            except LatteError as exc:
                raise Unsupported(exc.message) from exc


_CALLS: dict[Phase, Callable[[OnednnComputation, Operands], Tensor]] = {
    Phase.FORWARD: OnednnComputation.forward,
    Phase.BACKWARD_DATA: OnednnComputation.backward_data,
    Phase.BACKWARD_FILTER: OnednnComputation.backward_filter,
}


def _wanted_tensor(shape: Shape, settings: Settings) -> _Wanted:
    last = settings.layout is Layout.CHANNELS_LAST
    form = _LAST.get(len(shape), torch.contiguous_format) if last else torch.contiguous_format
    return _Wanted(shape=shape, dtype=activations_type(settings.precision), form=form)


def check_result(settings: Settings, result: Tensor, expected: Tensor) -> None:
    """Compare a result with the `expected` one; raises Failed where it is wrong."""
    off, most = difference(result, expected), TOLERANCES[settings.precision.arithmetic.activations]
    if not off <= most:
        raise Failed(f"wrong result: off by {off:.2g} of the largest number, {most:g} is rounding")


def difference(result: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected number; infinite where a number is none."""
    if result.shape != expected.shape:
        return inf
    scale, off = float(expected.abs().max()), float((result.to(expected.dtype) - expected).abs().max())
    if isnan(off) or (off and not scale):
        return inf
    return off / scale if scale else 0.0


@lru_cache(maxsize=KEPT)  # what it evicts closes itself
def checked_computation(task: Task) -> OnednnComputation:
    """What computes `task`, after a `check_result` of what it makes of random operands against float64."""
    assert isinstance(task.layer, Convolution)
    compute = OnednnComputation(task.algorithm, task.layer, task.phase, task.settings)
    o, expected = _reference(task.layer, task.phase, task.settings)
    check_result(task.settings, compute(o), expected)
    return compute


@lru_cache(maxsize=1)
def _reference(layer: Convolution, phase: Phase, settings: Settings) -> tuple[Operands, Tensor]:
    """Random operands and what a phase makes of them in float64; the algorithms of a phase are checked in turn."""
    o = operands(layer, settings)
    double = Operands(x=_double(o.x), w=_double(o.w), b=None if o.b is None else _double(o.b), gy=_double(o.gy))
    return o, FRAMEWORK_CONVOLUTIONS[phase](layer, double)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().contiguous()
