"""Convolutions that run with chosen algorithms: torch's own module, with another way to compute the same."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from latte_cli.algorithms import FRAMEWORK_DEFAULT, Algorithm
from latte_cli.backends import computation
from latte_cli.backends.contract import Computation, Failed, OutOfMemory, Unsupported
from latte_cli.backends.torch.layers import REFUSALS, Operands, aten, module_precision, synchronizer
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Pair
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

_FORMATS = {Layout.CHANNELS_LAST: torch.channels_last, Layout.NCHW: torch.contiguous_format}
_MOST_SHAPES = 64  # of inputs to one module; torch.compile gives up on a module after 8 (`recompile_limit`)
_REFUSALS = (*REFUSALS, Unsupported, OutOfMemory, Failed, MemoryError)


@dataclass(kw_only=True)
class Bindings:
    """The algorithms of a module's convolutions by layer and phase, shared by all of them; `refused` says which failed.

    `precision` is the arithmetic that they were chosen for.
    """

    algorithms: dict[Pair, Algorithm] = field(default_factory=dict)
    precision: Precision = Precision.FP32
    refused: dict[Pair, str] = field(default_factory=dict)

    def algorithm(self, layer: Convolution, phase: Phase) -> Algorithm:
        """What computes a phase of `layer`."""
        pair = (layer, phase)
        return FRAMEWORK_DEFAULT if pair in self.refused else self.algorithms.get(pair, FRAMEWORK_DEFAULT)

    def refuse(self, layer: Convolution, phase: Phase, error: BaseException) -> None:
        """Let PyTorch compute this from now on; said once for each algorithm."""
        pair = (layer, phase)
        name = self.algorithms[pair].name if pair in self.algorithms else "?"
        known = {self.algorithms[one].name for one in self.refused if one in self.algorithms}
        self.refused[pair] = str(error)
        if name not in known:
            text = (str(error).splitlines() or [type(error).__name__])[0][:160]
            warnings.warn(f"{name} refuses {phase} of a convolution, PyTorch computes it: {text}", stacklevel=3)


@dataclass(frozen=True, kw_only=True)
class TunedCall:
    """A convolution of one input: each phase's function where an algorithm was chosen, None where PyTorch computes."""

    layer: Convolution
    bindings: Bindings
    layout: Layout
    forward: Computation | None
    backward_data: Computation | None
    backward_filter: Computation | None


class TunedConv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` whose phases run with the algorithms of `bindings`; `tune_module` makes one of a Conv2d."""

    bindings: Bindings
    calls: dict[tuple[Any, ...], TunedCall | None]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002 - torch's name
        if torch.compiler.is_compiling():
            outside: Tensor = _outside(self, input, weight, bias)
            return outside
        return self.run(input, weight, bias)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of `x`, by the chosen algorithms where there are some for it."""
        call = self._call(x, weight)
        if call is None:
            return super()._conv_forward(x, weight, bias)  # type: ignore[no-any-return]
        if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
            result: Tensor = _Convolution.apply(x, weight, bias, call)  # type: ignore[no-untyped-call]
            return result
        return _forward(call, x, weight, bias)

    def _call(self, x: Tensor, weight: Tensor) -> TunedCall | None:
        """How to compute an input like `x`; None where nothing was chosen for it or PyTorch has to see it itself."""
        if (
            type(x) is not Tensor
            or self.padding_mode != "zeros"
            or x.dim() != 4
            or x.dtype is not weight.dtype
            or torch.is_autocast_enabled(x.device.type)
            or torch._C._are_functorch_transforms_active()
        ):
            return None
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        key = (x.shape, x.dtype, x.device, last, weight.shape)
        if key not in self.calls:
            if len(self.calls) >= _MOST_SHAPES:
                del self.calls[next(iter(self.calls))]
            self.calls[key] = self._make_call(x, Layout.CHANNELS_LAST if last else Layout.NCHW)
        return self.calls[key]

    def _make_call(self, x: Tensor, layout: Layout) -> TunedCall | None:
        if module_precision(x.dtype) is not self.bindings.precision:
            return None
        layer = layer_of(self, tuple(x.shape))
        if not layer.symmetric:
            return None
        settings = Settings(precision=self.bindings.precision, layout=layout)
        device = str(x.device)
        found = {phase: self._function_for(layer, phase, settings, device) for phase in Convolution.phases}
        if not any(found.values()):
            return None
        return TunedCall(layer=replace(layer, bias=False), bindings=self.bindings, layout=layout, **_by_phase(found))

    def _function_for(self, layer: Convolution, phase: Phase, settings: Settings, device: str) -> Computation | None:
        algorithm = self.bindings.algorithm(layer, phase)
        if algorithm == FRAMEWORK_DEFAULT:
            return None
        own = layer if phase is Phase.FORWARD else replace(layer, bias=False)
        try:
            return _guard(computation(algorithm, own, phase, settings, device), self, layer, phase)
        except _REFUSALS as exc:
            self.bindings.refuse(layer, phase, exc)
            return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "calls": {}}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _outside(module: TunedConv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The call as it is outside a compiled graph, which it breaks."""
    return module.run(x, weight, bias)


def _by_phase(found: dict[Phase, Computation | None]) -> dict[str, Computation | None]:
    return {str(phase): compute for phase, compute in found.items()}


def _guard(compute: Computation, module: TunedConv2d, layer: Convolution, phase: Phase) -> Computation:
    """`compute`, or None for what it refuses once, when its module asks for it anew."""

    def call(o: Operands) -> Tensor:
        try:
            return compute(o)
        except _REFUSALS as exc:
            module.bindings.refuse(layer, phase, exc)
            module.calls.clear()
            raise _Refused from exc

    return call


class _Refused(Exception):
    """An algorithm does not compute what it was chosen for: PyTorch has to."""


def tune_module(module: nn.Conv2d, bindings: Bindings) -> None:
    """Make `module` run with `bindings`, its parameters, hooks and state untouched."""
    module.__class__ = TunedConv2d
    module.bindings, module.calls = bindings, {}  # type: ignore[assignment]


def layer_of(module: nn.Conv2d, shape: tuple[int, ...]) -> Convolution:
    """The layer that `module` is for an input of `shape`; raises LatteError for a shape that does not fit."""
    before, after = _padding_of(module)
    return Convolution(
        batch=shape[0],
        in_channels=shape[1],
        out_channels=module.out_channels,
        groups=module.groups,
        input=shape[2:],
        kernel=tuple(module.kernel_size),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        pad_before=before,
        pad_after=after,
        bias=module.bias is not None,
    )


def _padding_of(module: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        before = tuple(pad // 2 for pad in total)
        return before, tuple(pad - first for pad, first in zip(total, before, strict=True))
    if isinstance(module.padding, str):
        return (0, 0), (0, 0)
    return tuple(module.padding), tuple(module.padding)


def _forward(call: TunedCall, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    if call.forward:
        try:
            return call.forward(Operands(x=x, w=w, b=b, gy=_NO_GRADIENT))
        except _Refused:
            pass
    result: Tensor = aten.convolution(x, w, b, *_arguments(call.layer))
    return result


_NO_GRADIENT = torch.empty(0)


def _arguments(layer: Convolution) -> tuple[object, ...]:
    return (layer.stride, layer.pad_before, layer.dilation, False, (0, 0), layer.groups)


class _Convolution(torch.autograd.Function):
    """The phases of a convolution by the functions of a Call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, call: TunedCall) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.call = call
        ctx.bias = None if b is None else [b.shape[0]]
        return _forward(call, x, w, b)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        (x, w), call = ctx.saved_tensors, ctx.call
        wants_x, wants_w, wants_b = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # a second derivative is wanted, which only torch's own operator has
            mask = [wants_x, wants_w, wants_b]
            return (*_by_torch(ctx, gy, x, w, mask), None)
        gy = gy.contiguous(memory_format=_FORMATS[call.layout])
        gx = gw = gb = None
        operands = Operands(x=x, w=w, b=None, gy=gy)
        if wants_x and call.backward_data:
            gx = _try(call.backward_data, operands)
        if wants_w and call.backward_filter:
            gw = _try(call.backward_filter, operands)
        rest = [wants_x and gx is None, wants_w and gw is None]
        if any(rest):
            own = _by_torch(ctx, gy, x, w, [*rest, wants_b])
            gx, gw, gb = gx if gx is not None else own[0], gw if gw is not None else own[1], own[2]
        elif wants_b:
            gb = gy.sum((0, 2, 3))
        return gx, gw, gb, None


def _by_torch(ctx: Any, gy: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> tuple[Tensor | None, ...]:
    found = aten.convolution_backward(gy, x, w, ctx.bias, *_arguments(ctx.call.layer), mask)
    return tuple(one if wanted else None for one, wanted in zip(found, mask, strict=True))


def _try(compute: Computation, operands: Operands) -> Tensor | None:
    try:
        return compute(operands)
    except _Refused:
        return None


# What the wrapper costs

_ROUNDS, _CALLS = 15, 20  # chosen: a median of rounds, each long against the clock


@cache
def wrapper_s(device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a convolution takes longer, forward and backward, for being called through the wrapper.

    Measured once in a process, on a layer so small that little else counts: medians of calls in turn.
    """
    plain = nn.Conv2d(8, 8, 1).to(device)
    wrapped = nn.Conv2d(8, 8, 1).to(device)
    x = torch.randn(1, 8, 4, 4, device=device, requires_grad=True)
    layer = layer_of(wrapped, tuple(x.shape))
    tune_module(wrapped, Bindings())
    call = TunedCall(
        layer=replace(layer, bias=False),
        bindings=Bindings(),
        layout=Layout.NCHW,
        forward=None,
        backward_data=None,
        backward_filter=None,
    )
    key = (x.shape, x.dtype, x.device, False, wrapped.weight.shape)
    calls: Any = wrapped.calls
    calls[key] = call
    times = {id(module): [_spent_s(module, x, clock) for _ in range(_ROUNDS)] for module in (plain, wrapped)}
    return max(0.0, median(times[id(wrapped)]) - median(times[id(plain)]))


def _spent_s(module: nn.Module, x: Tensor, clock: Callable[[], float]) -> float:
    synchronize = synchronizer(x.device)
    synchronize()
    started = clock()
    for _ in range(_CALLS):
        module(x).sum().backward()
        x.grad = None
    synchronize()
    return (clock() - started) / _CALLS
