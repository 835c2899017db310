"""Inner products: the matrix product that a call makes many times, of layers that are no single product."""

from latte_cli.layers import Attention, Layer, Recurrent


def inner_product(layer: Layer) -> tuple[int, int, int]:
    """Rows, columns and depth: a step of a recurrent layer, or a head of attention; all ones for other layers."""
    if isinstance(layer, Recurrent):
        return layer.batch, layer.gates * layer.hidden, layer.inputs + layer.hidden
    if isinstance(layer, Attention):
        return layer.queries, layer.keys, layer.width
    return 1, 1, 1
