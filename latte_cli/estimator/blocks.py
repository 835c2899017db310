"""Blocks: what each call of a step asks of its allocator, and gives back, block by block."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latte_cli.estimator.buckets import bucket_bytes
from latte_cli.estimator.memory import Memory, memory
from latte_cli.estimator.steps import UPDATE, Step
from latte_cli.layers import Phase, Recurrent
from latte_cli.network import Network
from latte_cli.optimizers import COUNTER_BYTES, update_rule
from latte_cli.precisions import Precision


@dataclass(frozen=True, kw_only=True)
class BlockTurn:
    """One call: blocks `freed` before it, by name, and blocks `made` for it, with their bytes.

    `temporary_bytes` are had beside them while it runs, in so many `pieces`: its workspace and the like.
    """

    name: str
    phase: Phase
    freed: tuple[str, ...]
    made: tuple[tuple[str, int], ...]
    temporary_bytes: int
    pieces: int = 1


@dataclass(frozen=True, kw_only=True)
class StepBlocks:
    """The blocks of steps: those that last from before the first, and the calls of the first and of a later one."""

    lasting: tuple[tuple[str, int], ...]
    first: tuple[BlockTurn, ...]
    later: tuple[BlockTurn, ...]

    def turns(self, steps: int) -> Iterator[BlockTurn]:
        """The calls of so many steps, one after the other."""
        yield from self.first
        for _ in range(1, steps):
            yield from self.later


def step_blocks(network: Network, step: Step, precision: Precision, held: Memory, *, fused: bool) -> StepBlocks:
    """The blocks of a step whose memory, with its workspaces, is `held`; `fused` as `memory` has it."""
    seen: list[Mapping[str, int]] = []
    pieces = {} if fused else _pieces(network)
    memory(network, step, precision, fused=fused, observe=lambda blocks: seen.append(_by_piece(blocks, pieces)))
    weight = precision.arithmetic.weight_bytes
    lasting = {f"parameter {name}": weight * size for name, size in network.parameter_sizes.items()}
    if step.rest.ema:
        lasting |= {f"average of {name}": size for name, size in lasting.items()}
    buckets = [("gradient buckets", bucket_bytes(network, weight))] if step.replicated else []
    rule = update_rule(step.optimizer, on_gpu=fused)
    states = [
        (f"state {at} of {name}", weight * size)
        for name, shape in network.trained_shapes.items()
        for at, size in enumerate(rule.state_sizes(shape))
    ]
    if rule.counts_on_device or not fused:
        states += [
            (f"steps {at} of {name}", COUNTER_BYTES) for name in network.trained_sizes for at in range(rule.counters)
        ]
    return StepBlocks(
        lasting=(*lasting.items(), ("buffers", network.buffer_bytes), *buckets),
        first=tuple(_turns(held, seen, {}, states, pieces)),
        later=tuple(_turns(held, seen, seen[-1], (), pieces)),
    )


def _pieces(network: Network) -> dict[str, int]:
    """In how many blocks a GRU or an RNN keeps what it saves: torch computes them step by step on a CPU."""
    return {
        node.name: node.layer.steps * node.layer.directions
        for node in network.nodes
        if isinstance(node.layer, Recurrent) and node.layer.function != "lstm"
    }


def _by_piece(blocks: Mapping[str, int], pieces: Mapping[str, int]) -> Mapping[str, int]:
    """Blocks with those of many pieces one by one."""
    parts = {
        f"{whole} {at}": -(-blocks[whole] // count)
        for name, count in pieces.items()
        if (whole := f"saved by {name}") in blocks
        for at in range(count)
    }
    return {name: size for name, size in blocks.items() if name.removeprefix("saved by ") not in pieces} | parts


def _turns(
    held: Memory,
    seen: Sequence[Mapping[str, int]],
    before: Mapping[str, int],
    states: Sequence[tuple[str, int]],
    pieces: Mapping[str, int],
) -> Iterator[BlockTurn]:
    """The calls by what is there at each; `before` is what the step before leaves, `states` what its update makes."""
    for moment, blocks in zip(held.timeline, seen, strict=True):
        made = tuple((name, size) for name, size in blocks.items() if size and before.get(name) != size)
        flowing = sum(size for name, size in blocks.items() if name.startswith("gradient at "))
        yield BlockTurn(
            name=moment.name,
            phase=moment.phase,
            freed=tuple(name for name, size in before.items() if size and blocks.get(name) != size),
            made=(*made, *states) if moment.name == UPDATE else made,
            temporary_bytes=max(0, moment.temporary_bytes - flowing),
            pieces=pieces.get(moment.name, 1) if moment.phase is Phase.BACKWARD else 1,
        )
        before = blocks
