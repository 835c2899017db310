"""The networks that a profile runs whole, to hold the sums of their layers against."""

from functools import lru_cache

from latte_cli.layers import Whole
from latte_cli.network import Network, zoo

CALIBRATION: dict[str, tuple[tuple[str, int, int], ...]] = {
    "cpu": (("resnet8", 32, 32), ("mobilenet_v1", 96, 4), ("resnet20", 32, 16), ("vgg11", 64, 4)),
    "cuda": (
        ("mobilenet_v1", 224, 8),
        ("mobilenet_v1", 224, 128),
        ("vgg11", 224, 2),
        ("vgg11", 224, 64),
        ("resnet8", 32, 32),
        ("resnet20", 32, 1024),
    ),
}
"""Names in the zoo, pixels, batch sizes, by the kind of device: a GPU's clocks show at different sizes."""


@lru_cache
def calibration_networks(kind: str) -> tuple[tuple[Whole, Network], ...]:
    """The networks for a kind of device, each with the layer that stands for it as a whole; none for other kinds."""
    found = []
    for name, size, batch in CALIBRATION.get(kind, ()):
        network = zoo.network(name, batch_size=batch, image_size=size)
        found.append((Whole(name=name, batch=batch, size=size), network))
    return tuple(found)
