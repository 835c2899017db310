"""Gradient buckets: the parameters whose gradients PyTorch's DistributedDataParallel adds up in one message."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from latte_cli.layers import Linear
from latte_cli.network import Network, Node
from latte_cli.network.graph import JOINED

FIRST_BYTES = 2**20  # torch: kDefaultFirstBucketBytes (torch/csrc/distributed/c10d/reducer.hpp)
CAP_BYTES = 25 * 2**20  # torch: `bucket_cap_mb` of DistributedDataParallel, kDefaultBucketBytesCap
"""The bytes at which the first bucket, and each later one, is full."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Parameters in the order in which their gradients come, and the bytes of these gradients."""

    parameters: tuple[str, ...]
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The gradient of the parameter `name`, of so many `numbers`, which is whole once backward has run `node`."""

    name: str
    numbers: int
    node: Node


def gradient_order(network: Network) -> tuple[Gradient, ...]:
    """The gradients of the trained parameters, as backward makes them.

    Autograd goes through the calls of forward from the last to the first. What several nodes use is whole once the
    first of them in forward has run. A linear layer's bias comes before its weight, which it reads transposed, so that
    autograd has one more step to go; of a recurrent layer's two biases the later one comes first. Parameters that get
    no gradient are left out: DDP does not train them.
    """
    return tuple(_gradients(network))


def _gradients(network: Network) -> Iterator[Gradient]:
    trained = network.trained_sizes
    first: dict[str, str] = {}
    for node in network.nodes:
        if node.output in network.trained_activations:
            for name in _parameters_read(network, node):
                first.setdefault(name, node.name)
    for node in reversed(network.nodes):
        names = [name for name in _parameters_read(network, node) if name in trained and first.get(name) == node.name]
        for name in reversed(names) if isinstance(node.layer, Linear) else names:
            joined = name.split(JOINED)  # tensors of one size, end to end
            for part in reversed(joined):
                yield Gradient(name=part, numbers=trained[name] // len(joined), node=node)


def _parameters_read(network: Network, node: Node) -> tuple[str, ...]:
    """The parameters of a node's layer, and the bare ones that it reads beside them."""
    bare = dict(network.bare)
    return (*network.parameter_names(node), *(name for _, name in node.constants if name in bare))


def gradient_buckets(
    network: Network, bytes_each: int, *, first_bytes: int = FIRST_BYTES, cap_bytes: int = CAP_BYTES
) -> tuple[Bucket, ...]:
    """The buckets of a step, in the order in which they are sent; a parameter's number takes `bytes_each` bytes.

    These are the buckets from the second step on: after the first one, torch takes gradients in the order in which they
    came, closes a bucket once it holds `first_bytes`, and each later one once it holds `cap_bytes`
    (`Reducer::rebuild_buckets` and `compute_bucket_assignment_by_size` in torch/csrc/distributed/c10d/reducer.cpp).
    """
    sizes = {each.name: bytes_each * each.numbers for each in gradient_order(network)}
    return tuple(_fill(sizes, first_bytes, cap_bytes))


def bucket_bytes(network: Network, bytes_each: int) -> int:
    """What all buckets of a step hold, in bytes."""
    return sum(bytes_each * each.numbers for each in gradient_order(network))


def _fill(sizes: Mapping[str, int], first_bytes: int, cap_bytes: int) -> Iterator[Bucket]:
    names: list[str] = []
    held_bytes, full_bytes = 0, first_bytes
    for name, size_bytes in sizes.items():
        names.append(name)
        held_bytes += size_bytes
        if held_bytes >= full_bytes:
            yield Bucket(parameters=tuple(names), size_bytes=held_bytes)
            names, held_bytes, full_bytes = [], 0, cap_bytes
    if names:
        yield Bucket(parameters=tuple(names), size_bytes=held_bytes)
