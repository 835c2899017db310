"""What a task calls of oneDNN's: an implementation by name, on torch's tensors where they lie."""

import os
import threading
from functools import lru_cache
from math import inf, isnan

import torch
from torch import Tensor

from latte_cli.algorithms import Algorithm
from latte_cli.backends import Failed, Unsupported, onednn
from latte_cli.backends.onednn.find import VARIABLE
from latte_cli.backends.torch_layers import DTYPES, FRAMEWORK_CONVOLUTIONS, Operands
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase, Shape
from latte_cli.tasks import Layout, Precision, Settings, Task

LIBRARY = "onednn"
"""The library of these algorithms, as stores name it."""

TOLERANCES = {Precision.FP32: 1e-4, Precision.BF16: 3e-2, Precision.BF16_AUTOCAST: 3e-2}
"""How far a result may be from the reference, relative to its largest number: rounding stays below, faults do not."""

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class _Workspace(threading.local):
    """A thread's workspace, as large as the largest that was asked for: calls of one thread come one by one."""

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
    """The oneDNN of this process beside torch's own, or None where there is none.

    Raises LatteError where `LATTE_ONEDNN` names one that cannot be opened: who names it wants it.
    """
    try:
        return onednn.open_library()
    except LatteError:
        if os.environ.get(VARIABLE):
            raise
        return None


def candidates(layer: Convolution, phase: Phase, settings: Settings) -> tuple[Algorithm, ...]:
    """oneDNN's implementations of `phase`, in its own order; none where there is no library or it refuses the layer."""
    found = library()
    if found is None:
        return ()
    try:
        with onednn.problem(found, layer, phase, settings.precision, settings.layout) as described:
            return tuple(Algorithm(library=LIBRARY, name=each.name) for each in described.implementations())
    except Unsupported:
        return ()


class Computation:
    """One implementation of a layer's phase as a function of torch's tensors; it is made anew for each thread count."""

    def __init__(self, algorithm: Algorithm, layer: Convolution, phase: Phase, settings: Settings) -> None:
        opened = library()
        if opened is None:
            raise Unsupported(f"{algorithm.name} needs oneDNN's library, which is not there")
        self._library, self._name = opened, algorithm.name
        self._layer, self._phase, self._settings = layer, phase, settings
        self._result = {
            Phase.FORWARD: layer.output_shape,
            Phase.BACKWARD_DATA: layer.input_shapes[0],
            Phase.BACKWARD_FILTER: layer.weight_shape,
        }.get(phase, ())
        self._executions: dict[int, onednn.Execution] = {}
        self._execution()

    @property
    def workspace_bytes(self) -> int:
        """The workspace of a call: scratch memory, and the copies in other formats."""
        return self._execution().workspace_bytes

    def __call__(self, o: Operands) -> Tensor:
        """The result of the phase, in the layout of the settings; backward filter gives the weight's gradient alone."""
        execution, layer = self._execution(), self._layer
        dtype, into = DTYPES[self._settings.precision], self._empty()
        # What had to be copied lives until the call is done.
        x = into if self._phase is Phase.BACKWARD_DATA else self._held(o.x, layer.input_shapes[0], dtype)
        w = into if self._phase is Phase.BACKWARD_FILTER else self._held(self._weight(o), layer.weight_shape, dtype)
        y = into if self._phase is Phase.FORWARD else self._held(o.gy, layer.output_shape, dtype)
        fused = self._phase is Phase.FORWARD and layer.bias and not layer.transposed
        b = self._held(_bias(o), (layer.out_channels,), dtype) if fused else None
        execution(
            x.data_ptr(),
            w.data_ptr(),
            y.data_ptr(),
            b.data_ptr() if b is not None else 0,
            _workspace.address(execution.workspace_bytes),
        )
        if self._phase is Phase.BACKWARD_FILTER:
            return o.gradient(into)
        if self._phase is Phase.FORWARD and o.b is not None and not fused:
            into.add_(o.b.view(-1, *(1,) * len(layer.kernel)))
        return into

    def _weight(self, o: Operands) -> Tensor:
        return o.weight() if self._phase is Phase.FORWARD else o.w

    def _execution(self) -> onednn.Execution:
        threads = torch.get_num_threads()
        found = self._executions.get(threads)
        if found is None:
            settings = self._settings
            with onednn.problem(
                self._library, self._layer, self._phase, settings.precision, settings.layout
            ) as described:
                try:
                    found = self._executions[threads] = described.execution(self._name, threads)
                except LatteError as exc:
                    raise Unsupported(exc.message) from exc
        return found

    def _empty(self) -> Tensor:
        form = self._form(len(self._result))
        return torch.empty(self._result, dtype=DTYPES[self._settings.precision], memory_format=form)

    def _form(self, dimensions: int) -> torch.memory_format:
        last = self._settings.layout is Layout.CHANNELS_LAST
        return _LAST.get(dimensions, torch.contiguous_format) if last else torch.contiguous_format

    def _held(self, tensor: Tensor, shape: Shape, dtype: torch.dtype) -> Tensor:
        """`tensor` in the layout of the settings; an address tells the library nothing, so all is looked at here."""
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device.type != "cpu":
            told = f"{tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
            raise Unsupported(f"{self._name} was made for {shape} of {dtype} on the CPU, not for {told}")
        return tensor.detach().contiguous(memory_format=self._form(tensor.dim()))


def _bias(o: Operands) -> Tensor:
    if o.b is None:
        raise Unsupported("the layer has a bias, the operands have none")
    return o.b


def check(layer: Convolution, phase: Phase, settings: Settings, o: Operands, result: Tensor) -> None:
    """Compare a result with the framework's, in fp32 and its plain layout; raises Failed where it is wrong."""
    plain = Operands(x=_plain(o.x), w=_plain(o.w), b=None if o.b is None else _plain(o.b), gy=_plain(o.gy))
    expected = FRAMEWORK_CONVOLUTIONS[phase](layer, plain)
    off, most = difference(result, expected), TOLERANCES[settings.precision]
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


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().contiguous()


_checked: set[str] = set()


def check_once(task: Task, o: Operands, compute: Computation) -> None:
    """`check` what `compute` makes of the operands of `task`, unless this process has done so; raises Failed."""
    if task.id not in _checked:
        assert isinstance(task.layer, Convolution)
        check(task.layer, task.phase, task.settings, o, compute(o))
        _checked.add(task.id)
