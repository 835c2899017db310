"""Layers as torch calls: the operands of a task on a device, and the call that a model would make there."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import accumulate
from math import prod
from typing import Any, TypeAlias, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from latte_cli.backends.contract import OutOfMemory, Unsupported
from latte_cli.backends.torch.updates import update_call
from latte_cli.devices import Kind, kind_of_torch
from latte_cli.errors import LatteError
from latte_cli.layers import Attention, Convolution, Embedding, Layer, Linear, Optimizer, Phase, Transfer
from latte_cli.network.module import layer_module
from latte_cli.precisions import Layout, Precision
from latte_cli.tasks import Settings

aten: Any = torch.ops.aten

_Result = TypeVar("_Result")

REFUSALS = (RuntimeError, ValueError, TypeError, NotImplementedError, LatteError)
"""What torch raises for a layer that it does not compute."""

_WATCHED = "latte: watched"
_MORE_NODES = 20  # chosen: so many nodes take several times what the call does, whose noise then hardly counts
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True, kw_only=True)
class LayerCall:
    """One call of a layer's phase on tensors that are ready.

    `first` are the tensors that the layer before has just written, `reset` makes ready for the next call, `drop` lets
    go of what the call left behind, as a step does sooner or later, `by_autograd` says that the call starts autograd's
    engine, whose fixed cost is no layer's own, and `repeatable` that it can be made again without `reset`.
    `workspace_bytes` gives the workspace of calls that torch's allocator does not see, or whose one more call would
    not show it.
    """

    call: Callable[[], object]
    first: Sequence[Tensor] = ()
    reset: Callable[[], None] = lambda: None
    drop: Callable[[], None] = lambda: None
    by_autograd: bool = False
    repeatable: bool = True
    workspace_bytes: Callable[[], int] | None = None


@dataclass(frozen=True, kw_only=True)
class Operands:
    """The tensors of one convolution: input, weight, bias or None, gradient of the output.

    `master` are the weights that autocast makes `w` from in each step, and gives the gradient of; else None.
    """

    x: Tensor
    w: Tensor
    b: Tensor | None
    gy: Tensor
    master: Tensor | None = None

    def weight(self) -> Tensor:
        """The weight as the forward pass gets it, cast first under autocast."""
        return self.w if self.master is None else self.master.to(self.w.dtype)

    def record(self) -> "Operands":
        """The same tensors, as leaves whose use autograd records, as it does in a model."""
        leaves = (None if one is None else one.detach().requires_grad_() for one in (self.x, self.w, self.b))
        x, w, b = leaves
        assert x is not None
        assert w is not None
        master = None if self.master is None else self.master.detach().requires_grad_()
        return Operands(x=x, w=w, b=b, gy=self.gy, master=master)

    def just_written(self, phase: Phase) -> tuple[Tensor]:
        """What the layer before has left in the cache."""
        return (self.x if phase is Phase.FORWARD else self.gy,)

    def gradient(self, of_weight: Tensor) -> Tensor:
        """The gradient as the optimizer gets it."""
        return of_weight if self.master is None else of_weight.to(self.master.dtype)


ConvolutionCall: TypeAlias = Callable[[Convolution, Operands], Tensor]


def refusal(error: Exception) -> Exception:
    """Torch's error as our answer: no memory, or an algorithm that does not do this layer."""
    text = str(error).partition("\n")[0]
    no_memory = "can't allocate memory" in str(error) or "out of memory" in str(error).lower()
    return OutOfMemory(text) if no_memory else Unsupported(text)


def kind_of(device: str | torch.device) -> Kind:
    """The kind of a device as torch names it."""
    return kind_of_torch(torch.device(device).type)


def synchronizer(device: str | torch.device) -> Callable[[], object]:
    """What waits until `device` has done all that was launched."""
    return torch.cuda.synchronize if kind_of(device).queued else lambda: None


def overhead_s(device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """What a lone `backward()` call costs beyond what its nodes cost inside a graph.

    That is the call on a graph of one node less the cost of a node, as a longer graph shows it.
    """
    one, more = (_backward_s(device, count, clock) for count in (1, 1 + _MORE_NODES))
    return max(0.0, one - (more - one) / _MORE_NODES)


def _backward_s(device: str, nodes: int, clock: Callable[[], float]) -> float:
    leaf = torch.zeros(1, device=device, requires_grad=True)
    seed, out = torch.ones(1, device=device), leaf
    for _ in range(nodes):
        out = out.view(1)
    times = []
    for _ in range(300):
        leaf.grad = None
        start = clock()
        torch.autograd.backward((out,), (seed,), retain_graph=True)
        times.append(clock() - start)
    return sorted(times)[len(times) // 2]


def cpu_peak_bytes(call: Callable[[], object]) -> int:
    """The peak of what torch's allocator holds on the CPU during `call`, less what the call leaves or returns."""
    peak, held, result = cpu_growth(lambda: call)
    return max(0, peak - max(held, nbytes(result)))


def cpu_growth(prepare: Callable[[], Callable[[], _Result]]) -> tuple[int, int, _Result]:
    """The most by which the CPU's memory in use grows during a call, by how much at its end, and what it returns.

    `prepare` returns the call. The profiler sees it too: it counts as freed only what it has seen come.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            call = prepare()
            with torch.autograd.profiler.record_function(_WATCHED):
                result = call()
        events = sorted(profile.kineto_results.events(), key=lambda event: event.start_ns())
    start_ns = next(event.start_ns() for event in events if event.name() == _WATCHED)
    within = [event for event in events if event.name() == "[memory]" and event.start_ns() >= start_ns]
    grown = [0, *accumulate(event.nbytes() for event in within)]
    return max(grown), grown[-1], result


class Arriving(torch.autograd.Function):
    """The end of a network, whose backward pass makes the gradient that arrives, and does not hold it."""

    @staticmethod
    def forward(ctx: Any, out: Tensor) -> Tensor:
        ctx.like = torch.empty_like(out, device="meta")
        return out.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Tensor:
        return torch.empty_like(ctx.like, device="cpu").fill_(1)


def _cpu_backward_bytes(module: torch.nn.Module, inputs: Sequence[Tensor]) -> int:
    """What a backward pass takes beyond what its layer saved, the gradient that arrives and those that it leaves.

    Its graph is made anew and goes with it: a step frees what was saved, and the gradient that arrived, on the way.
    """
    leaves = [tensor for tensor in (*inputs, *module.parameters()) if tensor.requires_grad]
    kept = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    arriving = 0

    def prepare() -> Callable[[], object]:
        nonlocal arriving
        out = module(*inputs)
        arriving = out.nbytes
        return Arriving.apply(out).backward  # type: ignore[no-untyped-call]

    peak, _, _ = cpu_growth(prepare)
    left = sum(leaf.grad.nbytes for leaf in leaves if leaf.grad is not None)
    for leaf, gradient in zip(leaves, kept, strict=True):
        leaf.grad = gradient
    return max(0, peak - arriving - left)


def nbytes(result: object) -> int:
    """The bytes of a call's result."""
    return result.nbytes if isinstance(result, Tensor) else 0


@lru_cache(maxsize=8)
def _noise(dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(2**20, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def random(shape: tuple[int, ...], settings: Settings, device: str = "cpu") -> Tensor:
    """Normal numbers in the type of the settings' activations and in their layout."""
    tensor = _normal(shape, activations_type(settings.precision), device)
    if settings.layout is Layout.CHANNELS_LAST and tensor.dim() in _FORMATS:
        return tensor.contiguous(memory_format=_FORMATS[tensor.dim()])
    return tensor


def _normal(shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
    """A million normal numbers over and over: drawing all anew would take longer than most calls."""
    noise, count = _noise(dtype, device), prod(shape)
    tensor = noise[:count].clone() if count <= len(noise) else noise.repeat(-(-count // len(noise)))[:count]
    return tensor.view(tuple(shape))


def activations_type(precision: Precision) -> torch.dtype:
    """The type of activations, and of their gradients."""
    return _torch_type(precision.arithmetic.activations)


def weights_type(precision: Precision) -> torch.dtype:
    """The type of parameters, their gradients and the optimizer's state."""
    return _torch_type(precision.arithmetic.weights)


def _torch_type(name: str) -> torch.dtype:
    return getattr(torch, name)


def module_precision(dtype: torch.dtype) -> Precision | None:
    """The arithmetic of a module whose tensors are of that type; None where there is none."""
    return next((one for one in Precision if one.arithmetic.plain and weights_type(one) is dtype), None)


def _master(w: Tensor, settings: Settings) -> Tensor | None:
    kind = weights_type(settings.precision)
    return w.to(kind) if settings.precision.arithmetic.autocast else None


def operands(layer: Convolution, settings: Settings, device: str = "cpu") -> Operands:
    """Random operands of a convolution."""
    w = random(layer.weight_shape, settings, device)
    return Operands(
        x=random(layer.input_shapes[0], settings, device),
        w=w,
        master=_master(w, settings),
        b=random((layer.out_channels,), settings, device) if layer.bias else None,
        gy=random(layer.output_shape, settings, device),
    )


def layer_call(layer: Layer, phase: Phase, settings: Settings, device: str = "cpu") -> LayerCall:
    """The call for any layer but a convolution; raises what torch raises, or Unsupported."""
    torch.manual_seed(0)
    if isinstance(layer, Optimizer):
        return _update(layer, settings, device)
    if isinstance(layer, Linear):
        return _linear(layer, phase, settings, device)
    if isinstance(layer, Transfer):
        return _transfer(layer, settings, device)
    with torch.device(device):
        module = layer_module(layer).to(device, weights_type(settings.precision))
    inputs = _inputs(layer, settings, device)
    if phase is Phase.FORWARD:
        return LayerCall(call=lambda: module(*inputs), first=inputs)
    leaves = [tensor for tensor in (*inputs, *module.parameters()) if tensor.requires_grad]
    if kind_of(device).own_memory:
        return backward_call(module(*inputs), leaves)
    call = gradients_call(module(*inputs), leaves)
    return replace(call, workspace_bytes=partial(_cpu_backward_bytes, module, inputs))


def _inputs(layer: Layer, settings: Settings, device: str) -> list[Tensor]:
    """What a layer reads: indices all over an embedding's table, normal numbers elsewhere."""
    if isinstance(layer, Embedding):
        return [torch.randint(layer.entries, (layer.rows,), generator=torch.Generator().manual_seed(0)).to(device)]
    inputs = [random(shape, settings, device).requires_grad_() for shape in layer.input_shapes]
    if isinstance(layer, Attention) and layer.mask:
        inputs[3].requires_grad_(layer.trained_mask)
    return inputs


def _seed(out: Tensor) -> Tensor:
    """A gradient that arrives at `out`, in its layout."""
    seed = _normal(out.shape, out.dtype, str(out.device))
    if out.dim() == 4 and out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous():
        return seed.contiguous(memory_format=torch.channels_last)
    return seed


def gradients_call(out: Tensor, leaves: Sequence[Tensor]) -> LayerCall:
    """A backward pass from `out` that hands on the gradients of `leaves`, as one within a network does.

    One that ends at leaves copies each gradient that it cannot keep as it lies: one that two inputs share, or a part of
    another.
    """
    seed = _seed(out)
    call = partial(torch.autograd.grad, (out,), tuple(leaves), (seed,), retain_graph=True, allow_unused=True)
    return LayerCall(call=call, first=(seed,), by_autograd=True)


def backward_call(out: Tensor, leaves: Sequence[Tensor]) -> LayerCall:
    """A backward pass from `out` through autograd that leaves the gradients of `leaves`."""
    seed = _seed(out)

    def drop() -> None:
        for leaf in leaves:
            leaf.grad = None

    call = partial(torch.autograd.backward, (out,), (seed,), retain_graph=True)
    return LayerCall(call=call, first=(seed,), reset=drop, drop=drop, by_autograd=True)


def _update(layer: Optimizer, settings: Settings, device: str) -> LayerCall:
    """An update of all parameters, which have the type of weights; it is made ready again before each call."""
    kind = weights_type(settings.precision)
    call, reset, repeatable = update_call(layer, lambda shape: _normal(shape, kind, device), device)
    return LayerCall(call=call, reset=reset, repeatable=repeatable)


def _linear(layer: Linear, phase: Phase, settings: Settings, device: str) -> LayerCall:
    """On a CPU the backward phases go through autograd, whose products read other layouts than plain ones do."""
    x = random(layer.input_shapes[0], settings, device)
    w = random((layer.out_features, layer.in_features), settings, device)
    b = random((layer.out_features,), settings, device) if layer.bias else None
    if phase is not Phase.FORWARD and not kind_of(device).own_memory:
        return _linear_gradients(Operands(x=x, w=w, b=b, gy=x, master=_master(w, settings)).record(), phase)
    gy = random(layer.output_shape, settings, device)
    o = Operands(x=x, w=w, b=b, gy=gy, master=_master(w, settings))

    def backward_filter() -> Tensor:
        if layer.bias:
            gy.sum(0)
        return o.gradient(gy.t().mm(x))

    used = o.record() if kind_of(device).queued else o
    calls: dict[Phase, Callable[[], Tensor]] = {
        Phase.FORWARD: lambda: F.linear(used.x, used.weight(), used.b),
        Phase.BACKWARD_DATA: lambda: gy.mm(w),
        Phase.BACKWARD_FILTER: backward_filter,
    }
    return LayerCall(call=calls[phase], first=(x if phase is Phase.FORWARD else gy,))


def _linear_gradients(o: Operands, phase: Phase) -> LayerCall:
    """A phase of a linear layer's backward pass, of recorded operands."""
    filters = (o.w if o.master is None else o.master, o.b)
    leaves = (o.x,) if phase is Phase.BACKWARD_DATA else filters
    return gradients_call(F.linear(o.x, o.weight(), o.b), [leaf for leaf in leaves if leaf is not None])


def _transfer(layer: Transfer, settings: Settings, device: str) -> LayerCall:
    """A copy out of pinned memory that the host does not wait for, as data loaders for GPUs are set up."""
    batch = _normal((layer.elements,), weights_type(settings.precision), "cpu")
    batch = batch.pin_memory() if kind_of(device).own_memory else batch
    return LayerCall(call=lambda: batch.to(device, non_blocking=True, copy=True))


def bias_gradient(layer: Convolution, o: Operands) -> None:
    """The gradient of the bias, where the layer has one: a separate sum in every library."""
    if layer.bias:
        o.gy.sum((0, *range(2, o.gy.dim())))


def pads(layer: Convolution) -> list[int]:
    """Padding as `F.pad` takes it: last dimension first, before and after."""
    pairs = zip(reversed(layer.pad_before), reversed(layer.pad_after), strict=True)
    return [side for pair in pairs for side in pair]


def _arguments(layer: Convolution) -> tuple[object, ...]:
    pad = layer.pad_before if layer.symmetric else (0,) * len(layer.input)
    return (layer.stride, pad, layer.dilation, layer.transposed, layer.output_padding, layer.groups)


def _forward(layer: Convolution, o: Operands) -> Tensor:
    x = o.x if layer.symmetric else F.pad(o.x, pads(layer))
    return aten.convolution(x, o.weight(), o.b, *_arguments(layer))


def _backward(layer: Convolution, o: Operands, mask: list[bool]) -> Tensor:
    x = o.x if layer.symmetric else F.pad(o.x, pads(layer))
    bias = [layer.out_channels] if layer.bias else None
    grads = aten.convolution_backward(o.gy, x, o.w, bias, *_arguments(layer), mask)
    if mask[1]:
        return o.gradient(grads[1])
    return grads[0] if layer.symmetric else F.pad(grads[0], [-pad for pad in pads(layer)])


FRAMEWORK_CONVOLUTIONS: dict[Phase, ConvolutionCall] = {
    Phase.FORWARD: _forward,
    Phase.BACKWARD_DATA: lambda layer, o: _backward(layer, o, [True, False, False]),
    Phase.BACKWARD_FILTER: lambda layer, o: _backward(layer, o, [False, True, layer.bias]),
}
"""The framework's own convolution, with whatever its flags make it choose."""
