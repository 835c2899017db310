"""Layers that combine their inputs with constants of a model file."""

from collections.abc import Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Activation, Attention, Copy, Elementwise, Layer, Other, Stored
from latte_cli.network.module.layers.copies import joining
from latte_cli.network.module.layers.function import Attributes, Compute, Function, named
from latte_cli.network.module.layers.others import other
from latte_cli.network.module.layers.pointwise import CONSTANT, ELEMENTWISE
from latte_cli.network.module.layers.sequences import attention
from latte_cli.network.module.layers.stored import StoredTensor


class _Beside(nn.Module):
    """A layer with constants among what it combines; those that are parameters are trained."""

    def __init__(self, compute: Compute, constants: Mapping[int, Tensor], inputs: int) -> None:
        super().__init__()
        self.compute, self.order = compute, []
        given = iter(range(inputs))
        for place in range(inputs + len(constants)):
            self.order.append(next(given) if place not in constants else -1 - place)
        for place, constant in constants.items():
            if isinstance(constant, nn.Parameter):
                self.register_parameter(f"constant{place}", constant)
            else:
                self.register_buffer(f"constant{place}", constant)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.compute(*[inputs[at] if at >= 0 else getattr(self, f"constant{-1 - at}") for at in self.order])


def with_constants(
    layer: Layer, attributes: Attributes, constants: Mapping[int, Tensor], inputs: int
) -> nn.Module | None:
    """The layer's module where it combines its inputs with constants; None where they matter in another way."""
    match layer:
        case Activation(function=function) if function.endswith(CONSTANT) and "value" not in attributes:
            return _Beside(_combining(function.removesuffix(CONSTANT), inputs + len(constants)), constants, inputs)
        case Elementwise(operation=operation):
            return _Beside(_combining(operation, inputs + len(constants)), constants, inputs)
        case Activation(function="clip") if any(
            place in constants and name not in attributes for place, name in ((1, "min"), (2, "max"))
        ):
            least, most = constants.get(1), constants.get(2)
            return Function(lambda x: torch.clamp(x, least, most))
        case Activation(function="prelu"):
            return _Beside(lambda x, slope: torch.where(x > 0, x, x * slope), constants, inputs)
        case Other():
            return other(layer, attributes, constants)
        case Stored():
            return StoredTensor(layer, constants.get(0))
        case Attention():
            plain = attention(layer, attributes).compute
            return _Beside(lambda q, k, v, mask: plain(q, k, v, mask), {3: constants[3]}, 3) if 3 in constants else None
        case Copy(operation="concat_constants") if "filled" not in attributes and _all_known(attributes, constants):
            fixed = [constants[place] for place in sorted(constants)]
            return _Beside(joining(attributes), dict(enumerate(fixed, start=1)), 1)
        case Copy(operation="gather") if 1 in constants:
            axis, rows = attributes["axis"], constants[1].reshape(-1)
            rows = torch.where(rows < 0, rows + layer.shape[axis], rows)
            return Function(lambda x: x.index_select(axis, rows.to(x.device)))
    return None


def _all_known(attributes: Attributes, constants: Mapping[int, Tensor]) -> bool:
    return len(constants) == len(attributes["sizes"]) - len(attributes["varying"])


def _combining(operation: str, operands: int) -> Compute:
    """An element-wise operation of any number of operands; a choice has its condition, and then both sides."""
    if operation == "where":
        if operands != _SIDES:
            raise LatteError("a choice between constants that the file does not hold cannot be run", hint=_FILE)
        return lambda condition, yes, no: torch.where(condition.bool(), yes, no)
    compute = named("element-wise operation", operation, ELEMENTWISE)
    return compute if operands == 2 else lambda *all: reduce(compute, all)


_SIDES = 3
_FILE = "export the model again with fixed sizes: what follows from its inputs' sizes is not computed"
