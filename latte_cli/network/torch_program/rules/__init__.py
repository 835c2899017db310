"""What each operator of a `torch.export` program is in ONNX."""

from latte_cli.network.torch_program.program import Rules
from latte_cli.network.torch_program.rules import (
    losses,
    norms,
    pointwise,
    products,
    recurrent,
    reductions,
    shapes,
    sizes,
    windows,
    writes,
)
from latte_cli.network.torch_program.rules.opaque import OPAQUE
from latte_cli.network.torch_program.rules.sizes import ARITHMETIC

__all__ = ["ARITHMETIC", "OPAQUE", "RULES"]

RULES: Rules = {
    **windows.RULES,
    **products.RULES,
    **norms.RULES,
    **pointwise.RULES,
    **reductions.RULES,
    **losses.RULES,
    **shapes.RULES,
    **sizes.RULES,
    **recurrent.RULES,
    **writes.RULES,
}
"""The rules by the operator's name, without its overload and without the `_` of what works in place."""
