"""Occupancy: the memory that a process takes which trains, with what its allocator and its libraries hold."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf

from latte_cli.backends.host import LARGE_BLOCK_BYTES
from latte_cli.devices import Device
from latte_cli.estimator.blocks import StepBlocks, step_blocks
from latte_cli.estimator.caching_allocator import SEGMENT_ROUNDING_BYTES, CachingAllocator, OutOfRoom
from latte_cli.estimator.heap import GlibcHeap
from latte_cli.estimator.records import Estimate
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Precision

_MIB = 2**20
_STEPS = 2  # from the second on a step finds what the one before it left

_CPU_CONTEXT = (190 * _MIB, 420 * _MIB)
"""Where `latte profile` has not measured it: 251 MiB here (torch 2.13, one thread), 308 with two; less and more of
other versions and threads."""

_GPU_CONTEXT = (274 * _MIB, 1008 * _MIB)
"""Where it was not measured: kernels loaded as they are needed (PyTorch's PR 86509: 287,047,680 bytes) up to all at
once (its issue 28394: 1008 MiB on a Titan V)."""

_OF_HOLES, _OF_HEAP = 0.7, 0.25
"""How much of the holes that are reckoned below a heap's blocks there is, and what there is besides, as a share of the
most that its blocks take: fitted to 11 steps of processes of 0.8 to 2.4 GiB (docs/batch-sizes.md). The objects of
libraries, which are not reckoned, keep holes apart."""

_SPREAD = 0.05
"""How far from what is expected the heap may be, as a share of it: most of those networks are within."""

_BEFORE, _AFTER = (96,), (176, 24)
"""The objects that torch makes for each tensor, in bytes: its storage; then itself, and the counter of its versions."""

_OF_NODE = (184, 768, 472, 64, 8, 16, 16, 16, 16)
"""The objects that autograd keeps of a call until its backward pass, in bytes.

Both were seen in the calls of `malloc` of torch 2.13 while it trained a ResNet-18.
"""


_TEMPORARY = "temporary"


class Verdict(StrEnum):
    """Whether a step fits: `close` where the limit lies within the interval."""

    YES = "yes"
    CLOSE = "close"
    NO = "no"


@dataclass(frozen=True, kw_only=True)
class Occupancy:
    """The memory of a process that trains, in bytes: `live` by its tensors and workspaces, `reserved` by its allocator.

    `context_low` and `context_high` bound what the process takes before it trains and for its libraries; they are equal
    where that was measured.
    """

    live_bytes: int
    reserved_low_bytes: int
    reserved_bytes: int
    reserved_high_bytes: int
    context_low_bytes: int
    context_high_bytes: int

    @property
    def allocator_bytes(self) -> int:
        """What the allocator holds above what is live."""
        return self.reserved_bytes - self.live_bytes

    @property
    def low_bytes(self) -> int:
        """The least that it takes."""
        return self.context_low_bytes + self.reserved_low_bytes

    @property
    def expected_bytes(self) -> int:
        """What it takes."""
        return (self.context_low_bytes + self.context_high_bytes) // 2 + self.reserved_bytes

    @property
    def high_bytes(self) -> int:
        """The most that it takes."""
        return self.context_high_bytes + self.reserved_high_bytes

    def fits(self, limit_bytes: int) -> Verdict:
        """Whether it keeps to a limit."""
        if self.high_bytes <= limit_bytes:
            return Verdict.YES
        return Verdict.CLOSE if self.low_bytes <= limit_bytes else Verdict.NO


def occupancy_of(estimate: Estimate, *, map_from: int | None = None) -> Occupancy:
    """The memory of a process that runs an estimated step again and again.

    `map_from` is the process's MALLOC_MMAP_THRESHOLD_ (mallopt(3)), from which size on a CPU gives each block back to
    the system when it is free; None where it is not set.
    """
    device, precision = estimate.device, Precision(estimate.settings.precision)
    fused = device.kind.queued
    blocks = step_blocks(estimate.network, estimate.step, precision, estimate.memory, fused=fused)
    reserved = _reserved_on_gpu(blocks) if device.kind.own_memory else _reserved_on_cpu(blocks, map_from)
    low, high = _context(device, estimate)
    live = estimate.memory_bytes
    least = _least_on_gpu(blocks, live, reserved) if device.kind.own_memory else min(live, reserved)
    return Occupancy(
        live_bytes=live,
        reserved_low_bytes=least,
        reserved_bytes=reserved,
        reserved_high_bytes=reserved if device.kind.own_memory else int((1 + _SPREAD) * reserved),
        context_low_bytes=low,
        context_high_bytes=high,
    )


def _context(device: Device, estimate: Estimate) -> tuple[int, int]:
    """The least and the most that libraries take."""
    if device.context_bytes is None:
        return _GPU_CONTEXT if device.kind.own_memory else _CPU_CONTEXT
    calls = {(part.layer, part.phase) for part in estimate.parts if isinstance(part.layer, Convolution)}
    whole = device.context_bytes + len(calls) * (device.call_context_bytes or 0)
    return whole, whole


def _reserved_on_gpu(blocks: StepBlocks, limit_bytes: float = inf) -> int:
    """What PyTorch's caching allocator reserves where there is room for so much; raises OutOfRoom."""
    allocator = CachingAllocator(limit_bytes)
    for name, size in blocks.lasting:
        allocator.allocate(name, size)
    for turn in blocks.turns(_STEPS):
        for name in turn.freed:
            allocator.free(name)
        for name, size in turn.made:
            allocator.allocate(name, size)
        if turn.temporary_bytes:
            allocator.allocate(_TEMPORARY, turn.temporary_bytes)
            allocator.free(_TEMPORARY)
    return allocator.peak_bytes


def _least_on_gpu(blocks: StepBlocks, live: int, reserved: int) -> int:
    """The least room that does, to 2 MiB: where it gets short, the allocator gives unused segments back and goes on."""
    low, high = live, reserved
    while high - low > SEGMENT_ROUNDING_BYTES:
        middle = (low + high) // 2
        try:
            _reserved_on_gpu(blocks, middle)
            high = middle
        except OutOfRoom:
            low = middle
    return high


def _reserved_on_cpu(blocks: StepBlocks, map_from: int | None) -> int:
    """What glibc takes from the system: more than the blocks, where holes between them do not fit others."""
    largest = LARGE_BLOCK_BYTES if map_from is None else map_from
    live, in_heap = _live_bytes(blocks, largest)
    return live + int(_OF_HOLES * max(0, _peak_of_heap(blocks, map_from) - live) + _OF_HEAP * in_heap)


def _live_bytes(blocks: StepBlocks, largest: int) -> tuple[int, int]:
    """The most that all blocks take at once, and the most that those do which are not larger than `largest`."""
    held = dict(blocks.lasting)
    live = in_heap = 0
    for turn in blocks.turns(_STEPS):
        for name in turn.freed:
            del held[name]
        held |= dict(turn.made)
        sizes = [*held.values(), *(turn.temporary_bytes // turn.pieces for _ in range(turn.pieces))]
        live = max(live, sum(sizes))
        in_heap = max(in_heap, sum(size for size in sizes if size <= largest))
    return live, in_heap


def _peak_of_heap(blocks: StepBlocks, map_from: int | None) -> int:
    """What a heap takes for these blocks and the objects that torch makes beside them."""
    heap = GlibcHeap(map_from)
    returned_to = {turn.name for turn in blocks.later if turn.phase is not Phase.FORWARD}
    for name, size in blocks.lasting:
        _allocate_tensor(heap, name, size)
    for turn in blocks.turns(_STEPS):
        for name in turn.freed:
            _free_tensor(heap, name)
        for name, size in turn.made:
            _allocate_tensor(heap, name, size)
        temporaries = [f"{_TEMPORARY} {at}" for at in range(turn.pieces if turn.temporary_bytes else 0)]
        for name in temporaries:
            _allocate_tensor(heap, name, turn.temporary_bytes // turn.pieces)
        if turn.phase is Phase.FORWARD and turn.name in returned_to:
            for at, size in enumerate(_OF_NODE):
                heap.allocate_object((turn.name, Phase.BACKWARD, at), size)
        for name in temporaries:
            _free_tensor(heap, name)
        if turn.phase is Phase.BACKWARD:
            for at in range(len(_OF_NODE)):
                heap.free((turn.name, Phase.BACKWARD, at))
    return heap.peak_bytes


def _allocate_tensor(heap: GlibcHeap, name: str, size: int) -> None:
    for at, each in enumerate(_BEFORE):
        heap.allocate_object((name, at), each)
    heap.allocate(name, size)
    for at, each in enumerate(_AFTER, len(_BEFORE)):
        heap.allocate_object((name, at), each)


def _free_tensor(heap: GlibcHeap, name: str) -> None:
    for at in range(len(_BEFORE) + len(_AFTER)):
        heap.free((name, at))
    heap.free(name)
