"""Normalisations."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from latte_cli.errors import LatteError
from latte_cli.layers import Norm
from latte_cli.network.module.layers.function import Attributes, Builders, named


def _of_rank(layer: Norm, *kinds: type[nn.Module]) -> type[nn.Module]:
    rank = max(1, len(layer.shape) - 2)
    if len(layer.shape) < 2 or rank > len(kinds):
        raise LatteError(f"a {layer.function} norm of {layer.shape} cannot be run")
    return kinds[rank - 1]


def _batch_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    kind = _of_rank(layer, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    # ONNX's momentum weighs the running mean, torch's the new one
    module = kind(layer.shape[1], affine=layer.affine, momentum=1 - attributes.get("momentum", 0.9), **common)
    return _Fixed(module) if layer.fixed else module


class _Fixed(nn.Module):
    """A norm that stays in evaluation mode."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        self.norm.eval()
        normed: Tensor = self.norm(x)
        return normed


def _instance_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    kind = _of_rank(layer, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
    return kind(layer.shape[1], affine=layer.affine, **common)


def _layer_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.LayerNorm(layer.shape[-layer.span :], elementwise_affine=layer.affine, **common)


def _rms_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.RMSNorm(layer.shape[-layer.span :], elementwise_affine=layer.affine, **common)


def _group_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    return nn.GroupNorm(layer.span, layer.shape[1], affine=layer.affine, **common)


def _local_response_norm(layer: Norm, common: dict[str, Any], attributes: Attributes) -> nn.Module:
    values = {"alpha": "alpha", "beta": "beta", "bias": "k"}
    return nn.LocalResponseNorm(
        layer.span, **{to: attributes[name] for name, to in values.items() if name in attributes}
    )


_NORMS: dict[str, Callable[[Norm, dict[str, Any], Attributes], nn.Module]] = {
    "batch": _batch_norm,
    "layer": _layer_norm,
    "group": _group_norm,
    "instance": _instance_norm,
    "rms": _rms_norm,
    "lrn": _local_response_norm,
}


def _norm(layer: Norm, attributes: Attributes) -> nn.Module:
    common = {"eps": attributes["epsilon"]} if "epsilon" in attributes else {}
    module: nn.Module = named("norm", layer.function, _NORMS)(layer, common, attributes)
    return module


BUILDERS: Builders = {Norm: _norm}
