"""Views: tensors that lie in others, and what is written through them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from latte_cli.errors import LatteError
from latte_cli.network.torch_program.program import Aten, Lowering, Ref, Rule
from latte_cli.network.torch_program.rules.shapes import permutation
from latte_cli.network.torch_program.rules.writes import written_over

_RESHAPES = frozenset(
    ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze")
)
_PERMUTATIONS = frozenset(
    (
        *("permute", "transpose", "t", "numpy_T", "movedim", "moveaxis", "swapaxes", "swapdims"),
        *("mT", "mH", "adjoint", "matrix_H"),
    )
)
_PARTS = frozenset(("slice", "narrow", "select", "split", "split_with_sizes", "chunk", "tensor_split", "unbind"))
FOLLOWED = _RESHAPES | _PERMUTATIONS | _PARTS | {"alias"}
"""Operators whose results lie in what they read, so that what is written over them can be read."""

_OTHERS = frozenset(("expand", "expand_as", "detach", "diagonal", "unfold", "as_strided"))

FUNCTIONAL = "save it without: `torch.export.save(program.run_decompositions({}), path)`"


@dataclass(frozen=True, kw_only=True)
class _View:
    """What one operator reads of `base`, by the program's names: the result at `place`."""

    op: Aten
    place: int
    base: str


@dataclass(kw_only=True)
class Views:
    """The views in a graph; `names` are those that its tensors have in ONNX, which change as they are written over.

    `lower` adds what an operator is in ONNX.
    """

    low: Lowering
    names: dict[str, str]
    lower: Rule
    made: dict[str, _View] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)

    def note(self, op: Aten) -> None:
        """Remember the views that an operator has made, and what it has written over."""
        if op.kind in FOLLOWED | _OTHERS and op.first:
            views = {name: _View(op=op, place=at, base=op.first) for at, name in enumerate(op.results)}
            self.made |= views
        if op.mutated and op.outputs:
            self.write(op.mutated, op.outputs[0], op)
            self.made |= dict.fromkeys(op.results[:1], _View(op=_alias_of(op), place=0, base=op.mutated))

    def refresh(self, name: str) -> None:
        """Let `name` be what it is now, if what it lies in was written over.

        Raises LatteError where that is not known.
        """
        if name in self.lost:
            raise LatteError(
                f"`{self.lost[name]}` changes a part of `{name}` in place, which is not followed", hint=FUNCTIONAL
            )
        if name not in self.stale:
            return
        view = self.made[name]
        self.refresh(view.base)
        self.stale.discard(name)
        self.names[name] = self._again(view)

    def _again(self, view: _View) -> str:
        """Emit the operator of a view once more."""
        before, now = view.op.tensor("self", "input", "tensor"), Ref(self._name(view.base))
        fresh = tuple(self.low.fresh("view") for _ in view.op.outputs)
        for old, new in zip(view.op.outputs, fresh, strict=True):
            self.low.metas[new] = self.low.meta(old)
        arguments = {name: now if value == Ref(before) else value for name, value in view.op.arguments.items()}
        self.lower(self.low, replace(view.op, arguments=arguments, values=tuple(arguments.values()), outputs=fresh))
        return fresh[view.place]

    def _name(self, name: str) -> str:
        return self.names.get(name, name)

    def write(self, name: str, tensor: str, op: Aten) -> None:
        """Let `name` be `tensor` from now on, and let what it lies in hold that."""
        self.names[name] = tensor
        self.stale.update(self._within(name))
        view = self.made.get(name)
        if view is None:
            return
        whole = self._written(view, tensor)
        if not whole:
            known = {name, *self._within(name)}
            self.lost |= {each: op.name for each in self._around(name) if each not in known}
            return
        self.low.metas.setdefault(whole, self.low.meta(self._name(view.base)))
        self.write(view.base, whole, op)
        self.stale.discard(name)

    def _within(self, name: str) -> Iterator[str]:
        """The views of `name`, and those of them."""
        for own in [own for own, view in self.made.items() if view.base == name]:
            yield own
            yield from self._within(own)

    def _around(self, name: str) -> Iterator[str]:
        """What `name` lies in, with all else that does."""
        while name in self.made:
            name = self.made[name].base
        yield name
        yield from self._within(name)

    def _written(self, view: _View, source: str) -> str:
        """What a view lies in, with `source` in place of the view; "" where that is not known."""
        low, op, base = self.low, view.op, self._name(view.base)
        if op.kind == "alias":
            return source
        if op.kind in _RESHAPES:
            return low.emit("Reshape", [source, low.constant(low.shape_of(base))])
        if op.kind in _PERMUTATIONS:
            order = permutation(low, op)
            return low.emit("Transpose", [source], perm=[order.index(at) for at in range(len(order))])
        return self._part_written(view, base, source) if op.kind in _PARTS else ""

    def _part_written(self, view: _View, base: str, source: str) -> str:
        low, op = self.low, view.op
        axis = low.axis(op.integer("dim", 0), low.rank(base))
        cut = self._cut(view, axis)
        if cut is None:
            return ""
        if op.kind in ("select", "unbind"):
            source = low.emit("Unsqueeze", [source, low.constant([axis])])
        return written_over(low, base, source, axis, cut)

    def _cut(self, view: _View, axis: int) -> slice | None:
        """What a view takes along `axis`; None where that is computed."""
        op, place = view.op, view.place
        if op.kind in ("select", "unbind"):
            index: Any = op.arguments.get("index") if op.kind == "select" else place
            return slice(index, index + 1 or None) if isinstance(index, int) else None
        if op.kind in ("slice", "narrow"):
            start, stop, step = (op.arguments.get(name) for name in ("start", "end", "step"))
            if op.kind == "narrow":
                length = op.arguments.get("length")
                stop = start + length if isinstance(start, int) and isinstance(length, int) else length
            whole = all(each is None or isinstance(each, int) for each in (start, stop, step))
            return slice(start, stop, step) if whole else None
        sizes = [self.low.meta(output).sizes[axis] for output in op.outputs[: place + 1]]
        known = [size for size in sizes if size is not None]
        return slice(sum(known[:-1]), sum(known)) if len(known) == len(sizes) else None


def _alias_of(op: Aten) -> Aten:
    """What works in place returns what it has written to."""
    arguments = {"self": Ref(op.outputs[0])}
    target = "torch.ops.aten.alias.default"
    return replace(op, target=target, kind="alias", arguments=arguments, outputs=op.outputs[:1], mutated="")
