"""One layer as a torch module, computed as an ordinary PyTorch model would."""

from collections.abc import Mapping

from torch import Tensor, nn

from latte_cli.errors import unknown
from latte_cli.layers import Layer
from latte_cli.network.module.layers import copies, norms, others, pointwise, products, sequences, stored, windows
from latte_cli.network.module.layers.beside import with_constants
from latte_cli.network.module.layers.function import Attributes, Builders, Compute, Function

__all__ = ["Compute", "Function", "layer_module"]

_BUILDERS: Builders = {
    **windows.BUILDERS,
    **products.BUILDERS,
    **norms.BUILDERS,
    **pointwise.BUILDERS,
    **copies.BUILDERS,
    **sequences.BUILDERS,
    **stored.BUILDERS,
    **others.BUILDERS,
}
"""Every layer kind that can be run, with what makes its module."""


def layer_module(
    layer: Layer,
    attributes: Attributes | None = None,
    constants: Mapping[int, Tensor] | None = None,
    *,
    inputs: int = 1,
) -> nn.Module:
    """A module in training mode that computes `layer`: from its `input_shapes` to its `output_shape`.

    `attributes` are those of a network's node (a norm's `epsilon`, an activation's `alpha`), `constants` what it reads
    besides its `inputs`, by place; torch's defaults stand in for what is not given. Raises LatteError for a layer or a
    function that cannot be run.
    """
    builder = _BUILDERS.get(type(layer))
    if builder is None:
        raise unknown("layer kind to run", layer.kind, (kind.kind for kind in _BUILDERS))
    if constants and (found := with_constants(layer, attributes or {}, constants, inputs)):
        return found
    return builder(layer, attributes or {})
