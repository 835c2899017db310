"""What a program says of a network in addition to its graph: what is trained, what is a buffer, what was assumed."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import takewhile
from typing import TypeVar

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper

from latte_cli.layers import Norm, Stored
from latte_cli.network.graph import ABSENT, DETACHED, JOINED, STATISTICS, Network, Node
from latte_cli.network.torch_program.checkpointed import Mark, Observed, observed_marks, regions_of
from latte_cli.network.torch_program.program import COUNTING, Lowering
from latte_cli.network.torch_program.signature import BUFFER, FROZEN, PARAMETER, Signature, count
from latte_cli.printable import few_names

T = TypeVar("T")

_PART = re.compile("[/:#][^/:#]*$")
"""What stands behind a node's name in those of the layers that it becomes."""

_LITERAL = "lifted_tensor_"  # how torch.export names a number that `forward` writes as a tensor
_NO_GRADIENT = COUNTING | {"Sign", "Floor", "Ceil", "Round"}
"""Operators that no gradient passes."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program as an ONNX model, with what its signature says; its file may have weights `without_data`.

    `observed` is what a live module was seen to checkpoint; None for a program that did not run here.
    """

    model: ModelProto
    low: Lowering
    signature: Signature
    without_data: tuple[str, ...] = ()
    observed: Observed | None = None

    def described(self, network: Network) -> Network:
        """`network`, read from the model, with what the program says of its parameters and buffers."""
        nodes = tuple(map(self._without_absent, network.nodes))
        held = {name: node for node in nodes for name in node.parameters}
        roles = {name: self._role(name) for node in nodes for name in network.parameter_names(node)}
        bare = self._bare(held)
        reached = self._reached
        unreached = {
            name
            for name, role in (roles | {name: self._role(name) for name, _ in bare}).items()
            if role == PARAMETER and not any(each in reached for each in _origins(name))
        }
        buffers = {name: 0 for name, role in roles.items() if role == BUFFER} | self._buffers(network)
        frozen = {name for name, role in roles.items() if role != PARAMETER} | unreached
        nodes = _with_stored_in(tuple(replace(node, calls=_of(self.low.calls, node.name, ())) for node in nodes))
        regions, unclear = regions_of(self._marks(nodes))
        frozen |= {name for name, _ in bare if self.signature.roles[name] == FROZEN}
        return replace(
            network,
            nodes=nodes,
            checkpoints=regions,
            sequences=frozenset(self.low.sequences),
            bare=tuple(bare),
            bare_shapes=tuple((name, tuple(size or 0 for size in self.low.metas[name].sizes)) for name, _ in bare),
            buffers=tuple(buffers.items()),
            frozen=frozenset(frozen),
            wanted=self.signature.wanted,
            notes=(*network.notes, *self._notes(sorted(unreached), unclear)),
        )

    @property
    def element_types(self) -> Mapping[str, int]:
        """What kind of numbers each of the module's tensors holds, as ONNX counts them."""
        return {name: self.low.metas[name].element for name in self.signature.roles if name in self.low.metas}

    def _marks(self, nodes: Sequence[Node]) -> dict[str, Mark | None]:
        """Which nodes lie in a checkpointed region: by what was seen, else by the lines that made them."""
        if self.observed and not self.observed.others:
            marks = observed_marks(nodes, self.observed.parts)
        else:
            marks = {node.name: _of(self.low.marks, node.name, None) for node in nodes}
            if self.observed:
                marks |= {name: mark for name, mark in observed_marks(nodes, self.observed.parts).items() if mark}
        within = {node.name: _of(self.low.regions, node.name, None) for node in nodes}
        return marks | {name: mark for name, mark in within.items() if mark}

    def _role(self, name: str) -> str:
        """What the module has a parameter of a layer for; what no module has is treated as a buffer."""
        roles = {self.signature.roles.get(each, BUFFER) for each in _origins(name)}
        return next(role for role in (PARAMETER, FROZEN, BUFFER) if role in roles)

    def _without_absent(self, node: Node) -> Node:
        """A norm that has no parameters, which ONNX wants all the same."""
        if isinstance(node.layer, Norm) and node.parameters and all(name.endswith(ABSENT) for name in node.parameters):
            return replace(node, layer=replace(node.layer, affine=False), parameters=())
        return node

    def _bare(self, held: Mapping[str, Node]) -> list[tuple[str, int]]:
        """The parameters that no layer holds, with how many numbers each has."""
        names = {each for name in held for each in _origins(name)}
        own = (name for name, role in self.signature.roles.items() if role in (PARAMETER, FROZEN))
        return [(name, count(self.low.metas[name])) for name in own if name not in names]

    def _buffers(self, network: Network) -> dict[str, int]:
        """The bytes of each buffer, but for the running statistics that batch norms hold anyway.

        A number that `forward` writes as a tensor is no buffer: each step makes it anew.
        """
        norms = [node for node in network.nodes if isinstance(node.layer, Norm)]
        statistics = {name for node in norms for place, name in node.constants if place in STATISTICS}
        counters = {f"{name.rpartition('.')[0]}.num_batches_tracked" for name in statistics}
        own = (name for name, role in self.signature.roles.items() if role == BUFFER)
        own = (name for name in own if not name.rpartition(".")[2].startswith(_LITERAL))
        return {name: self._bytes(name) for name in own if name not in statistics | counters}

    def _bytes(self, name: str) -> int:
        meta = self.low.metas[name]
        return count(meta) * int(helper.tensor_dtype_to_np_dtype(meta.element).itemsize)

    @cached_property
    def _reached(self) -> frozenset[str]:
        """Everything in the graph that a gradient of an output flows back to."""
        graph = self.model.graph
        return frozenset(_flowing(graph.node, {value.name for value in graph.output}))

    def _notes(self, unreached: Sequence[str], unclear: Sequence[str]) -> Iterator[str]:
        if len(self.without_data) > 1:
            yield (
                f"the file has no data for {len(self.without_data)} of its weights: tied ones cannot be told from "
                "others, so that each counts by itself; export the module from the CPU where some are tied"
            )
        if unreached:
            yield f"no gradient reaches {few_names(unreached)}, although it is to be trained"
        if self.low.idle["norm"]:
            yield (
                f"{self.low.idle['norm']} batch norms use their running statistics, as in evaluation mode, and are "
                "priced so: export the module after `module.train()` where training computes them"
            )
        if self.low.idle["dropout"]:
            yield f"{self.low.idle['dropout']} dropouts do nothing: the module was exported in evaluation mode"
        if unclear:
            yield (
                f"{few_names(sorted(unclear))}: called where regions are checkpointed; that those run again in "
                "the backward pass, and hold less until then, is not priced"
            )
        if self.low.functions:
            yield (
                f"{few_names(sorted(self.low.functions))}: autograd functions, whose own backward pass a program does "
                "not show; they are priced as if torch derived it from each operation, which needs more memory"
            )


def _with_stored_in(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes with stored tensors in the innermost call that all of their readers lie in."""
    readers: dict[str, list[tuple[str, ...]]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node.calls)
    return tuple(
        replace(node, calls=_common(readers.get(node.output, ()))) if isinstance(node.layer, Stored) else node
        for node in nodes
    )


def _common(calls: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """The calls from the outermost on that are the same everywhere."""
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*calls, strict=False))
    return tuple(level[0] for level in levels)


def _of(known: Mapping[str, T], name: str, otherwise: T) -> T:
    """What is known of a node, or of the one that it is a part of, whose name its own begins with."""
    while name not in known and (shorter := _PART.sub("", name)) != name:
        name = shorter
    return known.get(name, otherwise)


def _origins(name: str) -> list[str]:
    """The module's tensors that a parameter consists of: several end to end, or a part of one."""
    return [each.partition("[")[0] for each in name.split(JOINED)]


def _flowing(nodes: Sequence[NodeProto], wanted: set[str]) -> set[str]:
    """`wanted` with all that its gradients flow back to."""
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output) or node.op_type in _NO_GRADIENT or _detached(node):
            continue
        wanted.update(node.input)
        for graph in _graphs(node):
            wanted |= _flowing(graph.node, {value.name for value in graph.output})
    return wanted


def _detached(node: NodeProto) -> bool:
    return any(attribute.name == DETACHED for attribute in node.attribute)


def _graphs(node: NodeProto) -> Iterator[GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.type == AttributeProto.GRAPH)
