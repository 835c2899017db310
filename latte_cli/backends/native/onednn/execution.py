"""Executions: one implementation of a convolution with the reorders around it, ready to run on addresses."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from ctypes import Array, byref, c_void_p
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from weakref import finalize

from latte_cli.backends.native.onednn.descriptors import (
    Description,
    MemoryFormat,
    equal,
    format_size_bytes,
    wanted_format,
)
from latte_cli.backends.native.onednn.library import Library
from latte_cli.backends.native.onednn.signatures import Argument, ExecArg

ALIGNMENT_BYTES = 64
"""What the addresses of a workspace and of packed weights should be multiples of."""

X, W, Y, B, _WORKSPACE, _PACKED = range(6)
_NAMES = ("x", "w", "y", "b")


@dataclass(frozen=True, kw_only=True)
class Operand:
    """A tensor of a convolution: the caller's address it is at (X, W, Y or B), its format there, if it is written."""

    address: int
    form: MemoryFormat
    written: bool = False


@dataclass(frozen=True, kw_only=True)
class _Memory:
    """Memory as oneDNN knows it: an offset in bytes from one of the addresses of a call."""

    handle: int
    address: int
    offset: int = 0


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A primitive with its arguments, and the addresses that it needs."""

    primitive: int
    count: int
    arguments: Array[ExecArg]
    addresses: frozenset[int]


class _Program:
    """Steps that run one after the other."""

    def __init__(self, steps: Iterable[_Step]) -> None:
        self.steps = tuple(steps)
        self.needed = frozenset().union(*(step.addresses for step in self.steps))


class Execution:
    """One implementation, with the reorders that its formats need; made by `Problem.execution`.

    A call wants a workspace of `workspace_bytes`: scratch memory, and the reordered copies of tensors. Of these the
    weights take `packed_bytes` (0 where they are read as they lie): whoever runs the same weights again may reorder
    them once, with `pack`, into separate memory. `threads` is how many it was made for.
    Calls from several threads wait for each other.
    """

    def __init__(
        self, library: Library, implementation: Description, operands: Mapping[Argument, Operand], threads: int
    ) -> None:
        self.library, self.threads, self._lock = library, threads, Lock()
        parts = _Parts(library)
        finalize(self, parts.stack.close).atexit = False
        copies, end = _copies(parts, implementation, operands)
        parts.scratch_offset = end
        self._packing = _Program(each.step(parts) for each in copies.values() if each.packable)
        before = [each.step(parts) for each in copies.values() if not each.packable and not each.operand.written]
        places = {argument: parts.memory(operand.form, operand.address) for argument, operand in operands.items()}
        places |= {argument: each.own for argument, each in copies.items()}
        after = [each.step(parts) for each in copies.values() if each.operand.written]
        self._unpacked = _Program([*before, parts.step(implementation, places), *after])
        self._whole = _Program([*self._packing.steps, *self._unpacked.steps])
        self.packed_bytes = sum(each.size for each in copies.values() if each.packable)
        self.workspace_bytes = end + parts.scratch_bytes
        self._memories, self._placed = parts.memories, [0] * len(parts.memories)

    def __call__(self, x: int, w: int, y: int, b: int = 0, workspace: int = 0, packed: int = 0) -> None:
        """Compute on the layer's own tensors, or their gradients, at these addresses; the phase writes one of them.

        With `packed`, the address of weights that `pack` has reordered, those are read and `w` is not. Raises
        ValueError where an address is missing, and Failed, OutOfMemory or Unsupported, as oneDNN says.
        """
        self._run(self._unpacked if packed else self._whole, (x, w, y, b, workspace, packed or workspace))

    def pack(self, w: int, packed: int, workspace: int = 0) -> None:
        """Reorder the weights at `w` into `packed_bytes` of memory at `packed`."""
        self._run(self._packing, (0, w, 0, 0, workspace, packed))

    def _run(self, program: _Program, addresses: tuple[int, ...]) -> None:
        for number in program.needed:
            if not addresses[number]:
                raise self._missing_error(number)
        library = self.library
        execute = library.function("dnnl_primitive_execute")
        with self._lock:
            library.use_threads(self.threads)
            self._place(addresses)
            stream = library.stream
            for step in program.steps:
                status = execute(step.primitive, stream, step.count, step.arguments)
                if status:
                    library.check("dnnl_primitive_execute", status)

    def _place(self, addresses: tuple[int, ...]) -> None:
        for number, memory in enumerate(self._memories):
            base = addresses[memory.address]
            address = base + memory.offset
            if base and address != self._placed[number]:
                self.library.call("dnnl_memory_set_data_handle", memory.handle, address)
                self._placed[number] = address

    def _missing_error(self, number: int) -> ValueError:
        if number < len(_NAMES):
            return ValueError(f"no address is given for {_NAMES[number]}")
        return ValueError(f"a workspace of {self.workspace_bytes} bytes is needed")


@dataclass
class _Parts:
    """What an execution is made of, destroyed with `stack`; scratch memory is shared by steps, which run one by one."""

    library: Library
    stack: ExitStack = field(default_factory=ExitStack)
    memories: list[_Memory] = field(default_factory=list)
    scratch_offset: int = 0
    scratch_bytes: int = 0

    def memory(self, form: MemoryFormat, address: int, offset: int = 0) -> _Memory:
        handle = self._make("dnnl_memory_create", "dnnl_memory_destroy", form, self.library.engine, None)
        self.memories.append(_Memory(handle=handle, address=address, offset=offset))
        return self.memories[-1]

    def step(self, described: Description, memories: Mapping[Argument, _Memory]) -> _Step:
        form = wanted_format(self.library, described, Argument.SCRATCHPAD)
        size, used = format_size_bytes(self.library, form), dict(memories)
        if size:
            self.scratch_bytes = max(self.scratch_bytes, size)
            used[Argument.SCRATCHPAD] = self.memory(form, _WORKSPACE, self.scratch_offset)
        return _Step(
            primitive=self._make("dnnl_primitive_create", "dnnl_primitive_destroy", described),
            count=len(used),
            arguments=(ExecArg * len(used))(*(ExecArg(argument, memory.handle) for argument, memory in used.items())),
            addresses=frozenset(memory.address for memory in used.values()),
        )

    def reorder(self, source: tuple[MemoryFormat, _Memory], target: tuple[MemoryFormat, _Memory]) -> _Step:
        library, made = self.library, c_void_p()
        pairs = (source[0], library.engine, target[0], library.engine)
        library.call("dnnl_reorder_primitive_desc_create", byref(made), *pairs, library.attributes)
        try:
            return self.step(made.value or 0, {Argument.SRC: source[1], Argument.DST: target[1]})
        finally:
            library.call("dnnl_primitive_desc_destroy", made)

    def _make(self, create: str, destroy: str, *arguments: object) -> int:
        made = c_void_p()
        self.library.call(create, byref(made), *arguments)
        self.stack.callback(partial(self.library.call, destroy, made))
        return made.value or 0


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """An operand that an implementation wants in its own format, and the memory it has there."""

    operand: Operand
    form: MemoryFormat
    own: _Memory
    size: int

    @property
    def packable(self) -> bool:
        return self.own.address == _PACKED

    def step(self, parts: _Parts) -> _Step:
        theirs = (self.operand.form, parts.memory(self.operand.form, self.operand.address))
        own = (self.form, self.own)
        return parts.reorder(own, theirs) if self.operand.written else parts.reorder(theirs, own)


def _copies(
    parts: _Parts, implementation: Description, operands: Mapping[Argument, Operand]
) -> tuple[dict[Argument, _Copy], int]:
    """The operands that are reordered, and where their part of the workspace ends.

    Weights come first: a call without packed ones takes the start of the workspace for them.
    """
    copies, end = {}, 0
    for argument, operand in sorted(operands.items(), key=lambda item: item[1].address != W):
        form = wanted_format(parts.library, implementation, argument)
        if not equal(parts.library, form, operand.form):
            size = -(-format_size_bytes(parts.library, form) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
            packable = operand.address == W and not operand.written
            own = parts.memory(form, _PACKED) if packable else parts.memory(form, _WORKSPACE, end)
            copies[argument] = _Copy(operand=operand, form=form, own=own, size=size)
            end += size
    return copies, end
