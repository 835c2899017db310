"""Updates as torch calls: an optimizer's step, and the other operations on all parameters that a step makes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from latte_cli.backends.contract import Unsupported
from latte_cli.layers import Optimizer
from latte_cli.network.module import optimizer as make_optimizer
from latte_cli.operations import OPERATIONS

swa_utils: Any = torch.optim.swa_utils  # its functions are untyped

_DECAY, _MAX_NORM = 0.999, 1.0  # the time of a call does not depend on them
_GRADIENT = 1e-3


class Parameters(nn.Module):
    """As many parameters, or buffers, as a layer has tensors, with the shapes that it gives them."""

    def __init__(self, tensors: list[torch.Tensor], *, buffers: bool) -> None:
        super().__init__()
        for index, tensor in enumerate(tensors):
            if buffers:
                self.register_buffer(f"of{index}", tensor)
            else:
                self.register_parameter(f"of{index}", nn.Parameter(tensor))


def update_call(
    layer: Optimizer, filled: Callable[[tuple[int, ...]], torch.Tensor], device: str
) -> tuple[Callable[[], object], Callable[[], None], bool]:
    """The call of an update on tensors that `filled` makes of a shape, what makes it ready, and whether it repeats.

    An optimizer's step drops the gradients after it, as a training loop does.
    """
    size, rest = divmod(layer.elements, layer.tensors)
    shapes = layer.shapes or tuple((size + (index < rest),) for index in range(layer.tensors))
    held = Parameters([filled(shape) for shape in shapes], buffers=layer.function == "ema-buffers")
    weights = list(held.parameters())

    def give_gradients() -> None:
        # Nobody else may hold the gradients: dropping them returns their memory, which takes its time.
        for weight in weights:
            weight.grad = torch.full_like(weight, _GRADIENT)

    if layer.function in OPERATIONS:
        give_gradients()
        return _CALLS[layer.function](held, device), lambda: None, True
    optimizer = make_optimizer(layer.function, weights)
    if optimizer is None:
        raise Unsupported("no optimizer")

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, give_gradients, False


def _clip_norm(held: Parameters, device: str) -> Callable[[], object]:
    weights = list(held.parameters())
    return lambda: torch.nn.utils.clip_grad_norm_(weights, _MAX_NORM)


def _average(held: Parameters, device: str) -> Callable[[], object]:
    """An average that has begun: the first call only copies."""
    averaged = swa_utils.AveragedModel(held, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(_DECAY))
    averaged.update_parameters(held)
    return lambda: averaged.update_parameters(held)


def _copied_buffers(held: Parameters, device: str) -> Callable[[], object]:
    copies = [buffer.clone() for buffer in held.buffers()]

    def call() -> None:
        for mine, its in zip(copies, held.buffers(), strict=True):
            mine.detach().copy_(its.detach().to(mine.device))

    return call


def _scaler(held: Parameters, device: str) -> Callable[[], object]:
    scaler = torch.amp.GradScaler(device, init_scale=1.0)
    optimizer, loss = torch.optim.SGD(held.parameters()), torch.ones((), device=device)

    def call() -> None:
        scaler.scale(loss)
        scaler.unscale_(optimizer)
        scaler.update()

    return call


def _zero_grad(held: Parameters, device: str) -> Callable[[], object]:
    optimizer = torch.optim.SGD(held.parameters())
    return lambda: optimizer.zero_grad(set_to_none=False)


def _zero_grad_together(held: Parameters, device: str) -> Callable[[], object]:
    optimizer = torch.optim.SGD(held.parameters(), foreach=True)
    return lambda: optimizer.zero_grad(set_to_none=False)


_CALLS: dict[str, Callable[[Parameters, str], Callable[[], object]]] = {
    "clip-norm": _clip_norm,
    "ema": _average,
    "ema-buffers": _copied_buffers,
    "grad-scaler": _scaler,
    "zero-grad": _zero_grad,
    "zero-grad-foreach": _zero_grad_together,
}
