"""Operations that no other kind of layer describes, as torch computes them: choices by places, sorts, sums along axes.

What a file names is looked up in the two tables here; nothing else is called.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Other
from latte_cli.network.module.layers.function import DTYPES, Attributes, Builders

Operands = Mapping[int, Tensor]


def _places(places: Tensor, size: int) -> Tensor:
    whole = places.long()
    return torch.where(whole < 0, whole + size, whole)


def _gather(operands: Operands, given: Attributes) -> Tensor:
    x, places = operands[0], operands[1]
    axis = int(given.get("axis", 0)) % x.dim()
    taken = x.index_select(axis, _places(places, x.shape[axis]).reshape(-1))
    return taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _gather_elements(operands: Operands, given: Attributes) -> Tensor:
    x, axis = operands[0], int(given.get("axis", 0))
    return x.gather(axis, _places(operands[1], x.shape[axis]))


def _scatter_elements(operands: Operands, given: Attributes) -> Tensor:
    x, axis, ways = operands[0], int(given.get("axis", 0)), {"mul": "prod", "max": "amax", "min": "amin", "add": "sum"}
    places, source = _places(operands[1], x.shape[axis]), operands[2].to(x.dtype)
    if (way := str(given.get("reduction", "none"))) in ways:
        return x.scatter_reduce(axis, places, source, ways[way])
    return x.scatter(axis, places, source)


def _top(operands: Operands, given: Attributes) -> tuple[Tensor, ...]:
    count, largest = int(operands[1].item()), bool(given.get("largest", 1))
    found = torch.topk(operands[0], count, int(given.get("axis", -1)), largest)
    return found.values, found.indices


def _summed_along(operands: Operands, given: Attributes) -> Tensor:
    if given.get("exclusive") or given.get("reverse"):
        raise LatteError("a sum along an axis that is exclusive or reversed cannot be run", hint="a plain one can")
    return operands[0].cumsum(int(operands[1].item()))


def _joined(operands: Operands, given: Attributes) -> Tensor:
    """Parts end to end, of which one holds nothing."""
    return torch.cat([operands[place] for place in sorted(operands)], int(given.get("axis", 0)))


_ONNX: Mapping[str, Callable[[Operands, Attributes], Any]] = {
    "gather": _gather,
    "gather_elements": _gather_elements,
    "scatter_elements": _scatter_elements,
    "top_k": _top,
    "cum_sum": _summed_along,
    "concat": _joined,
}
"""Operations by their names in ONNX, of operands by their places."""

_ATEN = frozenset(
    (
        *(
            "sort",
            "argsort",
            "msort",
            "median",
            "kthvalue",
            "searchsorted",
            "bucketize",
            "isin",
            "count_nonzero",
            "histc",
        ),
        *("cumprod", "cummax", "cummin", "logcumsumexp", "trapezoid", "cumulative_trapezoid"),
        *("index", "index_put", "index_add", "index_copy", "index_fill", "scatter_reduce", "take", "put"),
        *("diagonal", "diagonal_scatter", "diag_embed", "unfold", "im2col", "col2im", "rot90", "trace", "one_hot"),
        *("grid_sampler", "grid_sampler_2d", "grid_sampler_3d", "affine_grid_generator", "cdist", "renorm", "dist"),
        *("atan2", "hypot", "copysign", "logaddexp", "logaddexp2", "xlogy", "heaviside", "ldexp", "gcd", "lcm"),
        *("bitwise_left_shift", "bitwise_right_shift", "erfinv", "lgamma", "digamma", "special_i0", "i0", "frac"),
        *("signbit", "threshold", "logit", "sinc", "special_entr", "linalg_cross", "linalg_inv", "linalg_det"),
    )
)
"""Operations by their names in ATen whose results depend on no weights, and their shapes on no values."""


def _aten(operation: str, operands: Operands, given: Attributes) -> Any:
    """Call an operation of torch with the arguments that a program gave it."""
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        kind, _, name = key.partition(".")
        match kind:
            case "argument":
                arguments[name] = list(value) if isinstance(value, tuple) else value
            case "flag":
                arguments[name] = bool(value)
            case "tensor":
                arguments[name] = operands[int(value)]
            case "tensors":
                arguments[name] = [operands[int(place)] if place >= 0 else None for place in value]
    if operation in ("index", "index_put"):
        arguments["indices"] = [_whole(each) for each in arguments["indices"]]
    return getattr(torch.ops.aten, operation)(**arguments)


def _whole(places: Tensor | None) -> Tensor | None:
    return places.long() if places is not None and places.is_floating_point() else places


def other(layer: Other, attributes: Attributes, constants: Operands | None = None) -> nn.Module:
    """The module of an operation that is known; `constants` are what it reads in addition to its inputs, by place.

    Constants of unknown numbers are zeros. Raises LatteError for other operations, and when it is called where the
    result has not the layer's shape.
    """
    name = layer.operation
    if "places" not in attributes or (name not in _ONNX and name not in _ATEN):
        raise unknown("operation to run", name, (*_ONNX, *_ATEN))
    if any(key.startswith("computed.") for key in attributes):
        raise LatteError(f"`{name}` of a size that is computed cannot be run", hint="export it with fixed sizes")
    return _Chosen(layer, attributes, {**_fixed(attributes), **(constants or {})})


class _Chosen(nn.Module):
    def __init__(self, layer: Other, attributes: Attributes, constants: Operands) -> None:
        super().__init__()
        self.layer, self.attributes = layer, attributes
        for place, constant in constants.items():
            self.register_buffer(f"constant{place}", constant)
        self.places = tuple(constants)

    def forward(self, *inputs: Tensor) -> Tensor:
        operands = {place: self.get_buffer(f"constant{place}") for place in self.places}
        operands |= {int(place): one for place, one in zip(self.attributes["places"], inputs, strict=False)}
        name, at = self.layer.operation, int(self.attributes.get("result", 0))
        known = _ONNX.get(name)
        result = known(operands, self.attributes) if known else _aten(name, operands, self.attributes)
        chosen: Tensor = result if isinstance(result, Tensor) else result[at]
        if tuple(chosen.shape) != self.layer.output_shape:
            raise LatteError(f"`{name}` makes {tuple(chosen.shape)} where {self.layer.output_shape} is said")
        return chosen


def _fixed(attributes: Attributes) -> dict[int, Tensor]:
    """The constants that the node itself says, zeros where it says their shape alone."""
    found = {}
    for key, shape in attributes.items():
        kind, _, place = key.partition(".")
        if kind == "constant_shape":
            dtype = DTYPES.get(int(attributes[f"constant_element.{place}"]), torch.float32)
            values = attributes.get(f"constant.{place}")
            plain = torch.zeros(tuple(shape), dtype=dtype)
            found[int(place)] = plain if values is None else torch.tensor(values, dtype=dtype).reshape(plain.shape)
    return found


BUILDERS: Builders = {Other: other}
