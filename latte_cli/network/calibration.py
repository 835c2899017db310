"""The networks that a profile runs whole, to hold the sums of their layers against."""

from functools import lru_cache

from latte_cli.devices import Kind
from latte_cli.layers import Whole
from latte_cli.network import zoo
from latte_cli.network.graph import Network


@lru_cache
def calibration_networks(kind: Kind) -> tuple[tuple[Whole, Network], ...]:
    """The networks for a kind of device, each with the layer that represents it as a whole."""
    found = []
    for name, size, batch in kind.calibration:
        network = zoo.network(name, batch_size=batch, image_size=size)
        found.append((Whole(name=name, batch=batch, size=size), network))
    return tuple(found)
