"""Convolutions: a layer described to oneDNN, the implementations that compute it, and one of them made ready to run."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from latte_cli.algorithms import corrupts_heap
from latte_cli.backends.contract import Unsupported
from latte_cli.backends.native.closeable import SelfClosing
from latte_cli.backends.native.onednn.descriptors import (
    DATA_TYPES,
    Description,
    Formats,
    equal,
    implementation_name,
    implementations,
    open_format,
    strided_format,
    wanted_format,
)
from latte_cli.backends.native.onednn.execution import B, Execution, Operand, W, X, Y
from latte_cli.backends.native.onednn.geometry import geometry
from latte_cli.backends.native.onednn.library import Library
from latte_cli.backends.native.onednn.signatures import Argument
from latte_cli.errors import unknown
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

REORDERING = "+reorder"
"""The end of the name of an implementation whose activations are copied into the format that it likes best."""

_REFERENCE, _ONE_BY_ONE, _BF16, _AMX = "ref", "jit_1x1", "jit_bf16:", "jit:avx512_core_amx"

_ARGUMENTS: dict[Phase, dict[str, Argument]] = {
    Phase.FORWARD: {
        "src": Argument.SRC,
        "weights": Argument.WEIGHTS,
        "bias": Argument.BIAS,
        "dst": Argument.DST,
    },
    Phase.BACKWARD_DATA: {
        "dst": Argument.DIFF_DST,
        "weights": Argument.WEIGHTS,
        "src": Argument.DIFF_SRC,
    },
    Phase.BACKWARD_FILTER: {
        "src": Argument.SRC,
        "dst": Argument.DIFF_DST,
        "weights": Argument.DIFF_WEIGHTS,
    },
}
"""The tensors of each operation and what oneDNN calls them; the last one is written, the others are read."""


class Problem(SelfClosing):
    """A layer's phase described to oneDNN, made by `problem`; `close` lets its formats go, and executions go on."""

    def __init__(
        self, library: Library, layer: Convolution, phase: Phase, precision: Precision, layout: Layout
    ) -> None:
        self.library, self._layer = library, layer
        self.operation = layer.computed_as(phase)
        self._geometry = geometry(layer, phase, layout)
        self._arguments = _ARGUMENTS[self.operation]
        self._addresses = {"src": X, "weights": W, "dst": Y, "bias": B}
        if layer.transposed:
            self._addresses |= {"src": Y, "dst": X}
        with ExitStack() as stack:
            shape, data_type = self._geometry, DATA_TYPES[precision]
            bias = stack.enter_context(strided_format(library, shape.bias, data_type)) if shape.bias else None
            self._torchs = Formats(
                src=stack.enter_context(strided_format(library, shape.src, data_type)),
                weights=stack.enter_context(strided_format(library, shape.weights, data_type)),
                dst=stack.enter_context(strided_format(library, shape.dst, data_type)),
                bias=bias,
            )
            self._free = Formats(
                src=stack.enter_context(open_format(library, shape.src, data_type)),
                weights=stack.enter_context(open_format(library, shape.weights, data_type)),
                dst=stack.enter_context(open_format(library, shape.dst, data_type)),
                bias=bias,
            )
            super().__init__(stack.pop_all())

    def implementations(self) -> tuple[str, ...]:
        """The names of the phase's implementations: on torch's own formats in oneDNN's order, then with reorders.

        A name is what oneDNN calls one way to compute, such as `brgconv:avx512_core`. Names end in `+reorder` where
        input and output are first copied into a format of the implementation's own; without that they are read and
        written where torch has them, and at most the weights are copied. Where oneDNN lists one name more than once
        for a layer, `#2` and so on follow, in its order. A name is the same for the same layer, phase, precision and
        layout wherever this version of oneDNN finds the same instructions.
        """
        return tuple(name for name, _ in self._each())

    def ranking(self) -> tuple[str, ...]:
        """The names of `implementations` in the order in which oneDNN takes them if formats are left to it.

        Those that it does not list then follow.
        """
        there = [each for each, _ in self._each()]
        preferred = [each for each, _ in self._named_implementations(self._free) if each in there]
        return tuple(dict.fromkeys((*preferred, *there)))

    def execution(self, name: str, threads: int = 1) -> Execution:
        """The implementation `name`, made ready to run on `threads` threads, which torch must have in its own pool.

        Raises LatteError for a name that the layer does not have, Unsupported, OutOfMemory or Failed where oneDNN
        cannot make it.
        """
        self.library.use_threads(threads)
        names = []
        for found, each in self._each():
            if found == name:
                return Execution(self.library, each, self._operands(), threads)
            names.append(found)
        raise unknown("implementation of oneDNN's", name, names)

    def _each(self) -> Iterator[tuple[str, Description]]:
        """The implementations with their names, each valid for its turn."""
        yield from self._named_implementations(replace(self._torchs, weights=self._free.weights))
        # Those that leave the activations where torch has them are among the first.
        yield from ((text, each) for text, each in self._named_implementations(self._free) if REORDERING in text)

    def _named_implementations(self, formats: Formats) -> Iterator[tuple[str, Description]]:
        """The implementations on `formats` with their names, each valid for its turn.

        Left out are those that are wrong, and oneDNN's reference code, which it lists last, where there is another: it
        is slow, and sums one number after another, which in fp32 is off by more than 1e-5 of a gradient.
        """
        counts = Counter[str]()
        for each in implementations(self.library, self.operation, self._geometry, formats):
            text = implementation_name(self.library, each) + (REORDERING if self._reorders(each) else "")
            if (text.startswith(_REFERENCE) and counts) or self._wrong(text):
                continue
            counts[text] += 1
            yield text if counts[text] == 1 else f"{text}#{counts[text]}", each

    def _wrong(self, text: str) -> bool:
        """Whether an implementation of the gradient of weights is known to be wrong.

        In bf16 those of AMX, of version 3.2, and others where the activations lie in torch's formats read what was
        never written. Those of strided 1x1 kernels with few channels write where they must not.
        """
        if self.operation is not Phase.BACKWARD_FILTER:
            return False
        if text.startswith(_AMX):
            return True
        if REORDERING in text:
            return False
        return text.startswith(_BF16) or (text.startswith(_ONE_BY_ONE) and corrupts_heap(self._layer))

    def _reorders(self, implementation: Description) -> bool:
        """Whether an implementation wants its input or output elsewhere than torch has them."""
        pairs = ((self._arguments["src"], self._torchs.src), (self._arguments["dst"], self._torchs.dst))
        return any(not equal(self.library, wanted_format(self.library, implementation, a), form) for a, form in pairs)

    def _operands(self) -> dict[Argument, Operand]:
        forms, written = self._torchs, list(self._arguments)[-1]
        found = {}
        for tensor, argument in self._arguments.items():
            form = getattr(forms, tensor)
            if form is not None:
                found[argument] = Operand(address=self._addresses[tensor], form=form, written=tensor == written)
        return found


_BF16_SINCE = 3


def problem(library: Library, layer: Convolution, phase: Phase, precision: Precision, layout: Layout) -> Problem:
    """`phase` of `layer` described to oneDNN; to be closed, or used as a context manager.

    A bias is added by the forward pass of a layer that is not transposed; other biases, and their gradients, are the
    caller's. Raises Unsupported for what oneDNN is not given: a tensor of 2**31 or more elements, another precision,
    and bf16 before version 3, whose backward filter reads memory that it has not written.
    """
    if precision not in DATA_TYPES:
        raise Unsupported(f"no {precision} with oneDNN on a CPU; it has {', '.join(DATA_TYPES)}")
    if precision is not Precision.FP32 and library.major < _BF16_SINCE:
        raise Unsupported(f"no {precision} with oneDNN {library.version_text}; it needs version {_BF16_SINCE}")
    return Problem(library, layer, phase, precision, layout)
