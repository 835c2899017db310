"""The sizes of a model's inputs: those of the file, those that the user gives, and the batch."""

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from latte_cli.errors import LatteError, unknown
from latte_cli.layers import Shape
from latte_cli.network.onnx.batches import plain
from latte_cli.network.onnx.graph import Graph, Input
from latte_cli.network.onnx.operation import checked_shape
from latte_cli.network.onnx.unified import BATCH, Sizes


@dataclass(kw_only=True)
class Dimensions(Mapping[str, int]):
    """The sizes of dimensions by name at one batch size, which remember what was `asked` for.

    Raises LatteError where an input's dimension is open that the user does not give, and where one has two sizes.
    """

    graph: Graph
    batch: int
    sizes: Mapping[str, int]
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        open_ = [name for each in self.graph.inputs for name in self._open(each)]
        missing = list(dict.fromkeys(name for name in open_ if self.size_of(name) is None))
        if missing:
            wanted = "give it: " + " ".join(f"--shape {_quoted(name)}=SIZE" for name in missing)
            strange = ", ".join(f"`{name}`" for name in self.sizes if name not in self.asked)
            raise LatteError(
                f"the model leaves the size of {', '.join(f'`{name}`' for name in missing)} open",
                hint=f"{wanted} (its inputs have no {strange})" if strange else wanted,
            )
        for symbol in self._symbols:
            self._check_alike(symbol)

    def __getitem__(self, name: str) -> int:
        found = self.size_of(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def _is_batch(self, axis: int, size: int | str | None) -> bool:
        own = self.graph.batch
        if isinstance(size, str):
            return size == own
        return axis == self.graph.batch_axis and (not size or size == own)

    def sizes_of(self, each: Input) -> Sizes:
        """The sizes of an input, with the batch where it is."""
        own = plain(self.shape_of(each))
        return tuple(
            BATCH if self._is_batch(axis, size) and f"{each.name}[{axis}]" not in self.sizes else known
            for axis, (size, known) in enumerate(zip(each.sizes, own, strict=True))
        )

    @property
    def _symbols(self) -> set[str]:
        return {size for each in self.graph.inputs for size in each.sizes if isinstance(size, str)}

    def _check_alike(self, symbol: str) -> None:
        """Raise LatteError where a symbol, and the places that it stands at, are given several sizes.

        Some exporters call every open dimension alike, so in a file of theirs only a symbol that is given counts.
        """
        given = {name: self.sizes[name] for name in (symbol, *self.graph.places_of(symbol)) if name in self.sizes}
        same = self.graph.roles_known or symbol in given
        if same and len(set(given.values())) > 1:
            sizes = " and ".join(f"`{name}` {size}" for name, size in given.items())
            raise LatteError(f"one dimension cannot be {sizes}", hint="they are the same dimension; give one of them")

    def _open(self, each: Input) -> list[str]:
        """The names of an input's dimensions that are neither known nor the batch."""
        return [
            size or f"{each.name}[{axis}]"
            for axis, size in enumerate(each.sizes)
            if not isinstance(size, int) and not self._is_batch(axis, size) and self._placed(each, axis) is None
        ]

    def _placed(self, each: Input, axis: int) -> int | None:
        """The size of an input's dimension that is given by its place, where the file leaves it open."""
        place = f"{each.name}[{axis}]"
        if isinstance(each.sizes[axis], int):
            return None
        self.asked.add(place)
        return self.sizes.get(place)

    def size_of(self, name: str) -> int | None:
        """What the user says that a dimension called `name` is; expressions follow from what they are made of."""
        self.asked.add(name)
        found = self.sizes.get(name)
        return found if found is not None else self._computed_size(name)

    def _computed_size(self, name: str) -> int | None:
        """The value of a symbol such as `2*seq + 1`, where its parts are known."""
        if not re.fullmatch(r"[\w\s+*/()-]{1,80}", name) or not re.search(r"[+*/-]", name):
            return None
        own = {self.graph.batch: self.batch} if isinstance(self.graph.batch, str) else {}
        known = {**own, **self.sizes}
        self.asked.update(known.keys() & set(re.findall(r"\w+", name)))
        return evaluated(name, known)

    def check(self) -> None:
        """Raise LatteError for a size that the user gives and that nothing in the model asks for."""
        known = self.asked | self._symbols
        for name in self.sizes:
            if name not in known:
                raise unknown("dimension", name, sorted(known))

    def shape_of(self, each: Input) -> Shape:
        """The shape of an input."""
        sizes: list[int] = []
        for axis, size in enumerate(each.sizes):
            placed = self._placed(each, axis)
            if placed is not None:
                sizes.append(placed)
            elif self._is_batch(axis, size):
                sizes.append(self.batch)
            elif isinstance(size, int):
                sizes.append(size)
            else:
                sizes.append(self.size_of(size or f"{each.name}[{axis}]") or 0)
        return checked_shape(tuple(sizes), f"input `{each.name}`")


def evaluated(text: str, known: Mapping[str, int]) -> int | None:
    """The value of a sum or product of names and numbers (+ - * //); None where it is another, or a name not known."""
    try:
        tree = ast.parse(text.replace("//", "/").replace("/", "//"), mode="eval")
        return _term(tree.body, known)
    except (SyntaxError, ValueError, KeyError, ArithmeticError, RecursionError):
        return None


def _term(node: ast.expr, known: Mapping[str, int]) -> int:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.Name(id=name):
            return known[name]
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            return _ARITHMETIC[type(operator)](_term(left, known), _term(right, known))
    raise ValueError("no simple expression")


_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
}


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f"'{name}'"
