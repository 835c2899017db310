"""Submodules: the parts of a network that a user can give to `torch.utils.checkpoint`, one by one or some together."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import isqrt

from latte_cli.layers import Stored
from latte_cli.network.graph import Network
from latte_cli.network.regions import Region


def regions(network: Network) -> tuple[Region, ...]:
    """What may be checkpointed of a network, none of which overlaps with what its module checkpoints itself.

    Of a module, the submodules that are called once and the slices of an `nn.Sequential`; of a file that says nothing
    of modules, runs of nodes between places at which few activations cross. Of several with the same nodes, the first.
    """
    taken = {name for region in network.checkpoints for name in region.nodes}
    own = _of_modules(network) if any(node.calls for node in network.nodes) else _runs(network)
    found: dict[tuple[str, ...], Region] = {}
    for region in own:
        if taken.isdisjoint(region.nodes):
            found.setdefault(region.nodes, region)
    return tuple(found.values())


def _of_modules(network: Network) -> Iterator[Region]:
    """Submodules that are called once and the slices of each `nn.Sequential`, outer ones first."""
    spans = _spans(network)
    calls = [path for path, places in spans.items() if "@" not in path and f"{path}@1" not in spans and places]
    for path in sorted(calls, key=lambda path: path.count(".")):
        yield _region(network, path, *spans[path])
    for path in ("", *calls):
        if path in network.sequences:
            yield from _slices(network, path, spans, frozenset(calls))


def _spans(network: Network) -> dict[str, tuple[int, int] | tuple[()]]:
    """The first and the last place of each call of a part; nothing where other nodes lie between."""
    places: dict[str, list[int]] = {}
    for place, node in enumerate(network.nodes):
        for path in node.calls:
            places.setdefault(path, []).append(place)
    return {path: (own[0], own[-1]) if own[-1] - own[0] < len(own) else () for path, own in places.items()}


def _region(network: Network, name: str, first: int, last: int) -> Region:
    return Region(name=name, nodes=tuple(node.name for node in network.nodes[first : last + 1]))


def _slices(
    network: Network, path: str, spans: dict[str, tuple[int, int] | tuple[()]], called: frozenset[str]
) -> Iterator[Region]:
    """The slices of an `nn.Sequential`, but for single entries and the whole of it."""
    within = (node.calls for node in network.nodes if not path or path in node.calls)
    inner = (calls[calls.index(path) + 1 :] if path else calls for calls in within)
    entries = dict.fromkeys(calls[0] if calls else "" for calls in inner)
    names = {name: name.removeprefix(f"{path}." if path else "") for name in entries}
    if not entries.keys() <= called or not all(name.isdigit() for name in names.values()):
        return
    ends = sorted((int(name), spans[path]) for path, name in names.items())
    for (start, first), (stop, last) in combinations(ends, 2):
        whole = (start, stop) == (ends[0][0], ends[-1][0])
        if first and last and first[1] < last[0] and not whole:
            yield _region(network, f"{path}[{start}:{stop + 1}]", first[0], last[1])


def _runs(network: Network) -> Iterator[Region]:
    """Runs of nodes between the places at which fewest activations cross, so that there are at least √n of them."""
    nodes = network.nodes
    crossing = _crossing_counts(network)
    whole = [place for place in range(1, len(nodes)) if not nodes[place].layer.free]
    least = sorted(crossing[place] for place in whole)[: isqrt(len(nodes))]
    cuts = [0, *(place for place in whole if crossing[place] <= max(least, default=0)), len(nodes)]
    for first, last in combinations(cuts, 2):
        if last - first < len(nodes):
            yield _region(network, f"{nodes[first].name}..{nodes[last - 1].name}", first, last - 1)


def _crossing_counts(network: Network) -> Sequence[int]:
    """How many activations are written before each place and read at it or behind it."""
    nodes = network.nodes
    written = {node.output: place for place, node in enumerate(nodes) if not isinstance(node.layer, Stored)}
    last = {name: len(nodes) for name in network.outputs}
    for place, node in enumerate(nodes):
        for name in node.inputs:
            last[name] = max(place, last.get(name, 0))
    counts = [0] * (len(nodes) + 1)
    for name, start in written.items():
        for place in range(start + 1, last.get(name, start) + 1):
            counts[place] += 1
    return counts
