"""What every family of layers is built with: a layer that trains nothing, names that are looked up, pads."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from latte_cli.errors import unknown
from latte_cli.layers import Layer

Attributes: TypeAlias = Mapping[str, Any]
Compute: TypeAlias = Callable[..., Tensor]
Builder: TypeAlias = Callable[[Any, Attributes], nn.Module]
Builders: TypeAlias = Mapping[type[Layer], Builder]


DTYPES = {
    **{1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool},
    **{10: torch.float16, 11: torch.float64, 16: torch.bfloat16},
}
"""torch's types by ONNX's numbers for them."""


class Function(nn.Module):
    """A layer that trains nothing: `compute` applied to its inputs."""

    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.compute(*inputs)


def named(what: str, name: str, known: Mapping[str, Any]) -> Any:
    """The entry `name` of `known`; raises LatteError where there is none."""
    if name not in known:
        raise unknown(what, name, known)
    return known[name]


def pads(before: Iterable[int], after: Iterable[int]) -> list[int]:
    """The argument of F.pad, which counts from the last dimension."""
    pairs = list(zip(before, after, strict=True))
    return [size for pair in reversed(pairs) for size in pair]
