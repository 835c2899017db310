"""Traces: which channels of a network's activations are the same."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latte_cli.layers import Shape, Stored, wide
from latte_cli.network.channels.dimensions import Owned, channels_of_parameters, first_along
from latte_cli.network.channels.rules import Rules
from latte_cli.network.channels.ties import FIXED, Ids, Ties
from latte_cli.network.graph import Network, Node

FULL_WIDTH = "use `--widths 1`: sub-models of such networks are not known yet"


@dataclass(frozen=True)
class Along:
    """The numbers that identify the channels along the dimension `axis` of an activation."""

    axis: int
    roots: Ids


class Trace:
    """Gives each channel that a node makes a number, follows them through the network and ties those that must agree.

    Tying more than needed is safe: it leaves channels that cannot be cut apart. What cannot be followed keeps its
    width; `kept_by` says at which nodes, with the kind of the layer.
    """

    def __init__(self, network: Network) -> None:
        self.ties = Ties()
        self.read: dict[str, list[Ids]] = {}
        self.written: dict[str, Ids] = {}
        self._rules = Rules(self.ties)
        self._nodes = network.nodes
        self._owners: dict[str, tuple[Shape, tuple[Ids | None, ...]]] = {}
        known: dict[str, Ids] = {name: fixed_numbers(shape) for name, shape in network.inputs}
        for node in network.nodes:
            before = zip(node.read, node.layer.input_shapes, strict=True)
            ins = [known[name] if name in known else fixed_numbers(shape) for name, shape in before]
            given = [known.get(name, fixed_numbers(())) for name in node.given]
            for name in () if given else node.inputs[len(node.read) :]:
                self.ties.fix(known.get(name, fixed_numbers(())))
            known[node.output] = self._rules.numbers_of_output(node, ins, given)
            self.read[node.name], self.written[node.name] = ins, known[node.output]
            self._share(node)
        for name in network.outputs:
            self.ties.fix(known.get(name, fixed_numbers(())))
        self._settle()

    @property
    def kept_by(self) -> dict[str, str]:
        """The nodes that channels could not be followed through, with the kinds of their layers."""
        making = {node.name for node in self._nodes if not isinstance(node.layer, Stored)}
        makers = [ids.ravel() for name, ids in self._rules.made.items() if name in making]
        numbers = np.concatenate([*makers, np.zeros(0, dtype=np.int64)])
        lost = self._rules.lost.items()
        return {name: kind for name, (kind, grids) in lost if any(np.isin(ids, numbers).any() for ids in grids)}

    @property
    def made(self) -> dict[str, Ids]:
        """For each node that makes channels the numbers that identify them."""
        grids = ((name, self.along(ids)) for name, ids in self._rules.made.items())
        return {name: along.roots for name, along in grids if along}

    @property
    def multiples(self) -> list[tuple[Node, Ids, int]]:
        """The nodes that channels are split evenly by, with the numbers of these and how many parts there are."""
        return self._rules.multiples

    def memberships(self) -> dict[int, tuple[int, ...]]:
        """For each number in a part that is split off, the places of these parts among all."""
        found: dict[int, list[int]] = {}
        for at, ids in enumerate(self._rules.parts):
            for root in np.unique(self.ties.roots(ids)).tolist():
                found.setdefault(root, []).append(at)
        return {root: tuple(places) for root, places in found.items()}

    def along(self, ids: Ids) -> Along | None:
        """The one dimension that channels lie along, with the numbers that identify them; None without any."""
        roots = self.ties.roots(ids)
        for axis in range(roots.ndim):
            along = first_along(roots, axis)
            if along is not None and (along != along[0]).any():
                return Along(axis, along)
        return None

    def parameters(self, node: Node) -> Iterator[Owned]:
        """Each parameter of a node with the channels of its dimensions."""
        return channels_of_parameters(node, self.read[node.name], self.written[node.name])

    def lose(self, node: Node, grids: Sequence[Ids] = ()) -> None:
        """Let these channels keep their width because of a node, by default all that it reads and writes."""
        self._rules.lose(node, grids or (*self.read[node.name], self.written[node.name]))

    def _settle(self) -> None:
        """Leave each activation at most one dimension along which channels can be cut: the longest that has some.

        The groups of a channel shuffle, of which there are few, then keep the same channels each.
        """
        for _, ids, axis in self._rules.whole:
            if set(self._axes_with_channels(ids)) - {axis}:  # a table: its entries have the same channels
                self.ties.stiffen(ids, (axis,))
        grids = list({id(ids): ids for ids in self._grids() if wide(ids.shape) > 1}.values())
        again = True
        while again:
            again = False
            for ids in grids:
                varying = self._axes_with_channels(ids)
                if len(varying) > 1:
                    longest = max(varying, key=lambda axis: ids.shape[axis])
                    self.ties.stiffen(ids, tuple(axis for axis in varying if axis != longest))
                    again = True
            for node, ids, axis in self._rules.whole:
                if axis in self._axes_with_channels(ids):
                    self.lose(node)
                    again = True

    def _grids(self) -> Iterator[Ids]:
        for node in self._nodes:
            yield from (*self.read[node.name], self.written[node.name])

    def _axes_with_channels(self, ids: Ids) -> tuple[int, ...]:
        roots = self.ties.roots(ids)
        return tuple(
            axis for axis, size in enumerate(roots.shape) if size > 1 and (roots != roots.take([0], axis)).any()
        )

    def _share(self, node: Node) -> None:
        """Tie the channels on both sides of nodes that train the same tensor."""
        for name, shape, owners in self.parameters(node):
            first_shape, first = self._owners.setdefault(name, (shape, owners))
            if first is owners:
                continue
            if shape != first_shape:
                first, owners = (*owners, *first), (None,) * (len(owners) + len(first))
            for mine, other in zip(owners, first, strict=True):
                if mine is not None and other is not None:
                    self.ties.tie(mine, other)
                elif mine is not other:
                    self.ties.fix(mine if other is None else other)  # type: ignore[arg-type]


def fixed_numbers(shape: Shape) -> Ids:
    """The value for an activation without channels that can be cut."""
    return np.full((1,) * len(shape), FIXED, dtype=np.int64)
