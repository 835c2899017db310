"""Every implementation of oneDNN's on random layers, against float64: how often each runs and its largest error.

Layers of one to three dimensions, with groups, dilation, bias, uneven padding, transposed ones too; all three phases,
both layouts. Each implementation runs on memory that is filled with NaN first, with guards around what it may write.
A process that dies is a line of the table. Ends with 3 where fp32 is further off than 1e-5 of the largest number.

    python benchmarks/onednn_correctness.py [--layers 500] [--precision fp32] [--seed 0]
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch
from torch import Tensor

from latte_cli import child
from latte_cli.backends.contract import Failed, OutOfMemory, Unsupported
from latte_cli.backends.cpu.onednn_calls import difference
from latte_cli.backends.native import onednn
from latte_cli.backends.native.onednn.geometry import dense_tensor
from latte_cli.backends.torch.layers import FRAMEWORK_CONVOLUTIONS, Operands, activations_type
from latte_cli.errors import ExitCode, LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.precisions import Layout, Precision

TOLERANCES = {Precision.FP32: 1e-5, Precision.BF16: 1e-2}
"""The largest error relative to the largest number of a result: bf16 keeps 8 bits."""

_GUARD_BYTES = 4096
_NAN = 0xFF


class Guarded:
    """Memory full of NaN between two guards."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = torch.full((size + 2 * _GUARD_BYTES,), _NAN, dtype=torch.uint8)
        self.address = self._memory.data_ptr() + _GUARD_BYTES

    @property
    def intact(self) -> bool:
        """Whether nobody wrote past the ends."""
        before, after = self._memory[:_GUARD_BYTES], self._memory[_GUARD_BYTES + self._size :]
        return bool((before == _NAN).all() and (after == _NAN).all())

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype, layout: Layout) -> Tensor:
        """The memory as a tensor of `shape`."""
        numbers = self._memory[_GUARD_BYTES : _GUARD_BYTES + self._size].view(dtype)
        return numbers.as_strided(shape, dense_tensor(shape, layout).strides, numbers.storage_offset())


def random_layer(dice: random.Random) -> Convolution:
    """A layer whose sizes are all drawn, small enough for the slowest implementation."""
    rank = dice.choice([1, 2, 2, 2, 2, 3])
    largest = {1: 200, 2: 24, 3: 10}[rank]
    while True:
        groups = dice.choice([1, 1, 1, 2, 3, 8, 16, 33])
        width = dice.choice([1, 1, 2, 3, 5, 8, 16, 17]) if groups > 1 else dice.choice([1, 3, 8, 16, 20, 32, 48, 64])
        wide = width if dice.random() < 0.6 else dice.randint(1, 40)
        kernel, stride, dilation = (
            tuple(dice.choice(choices) for _ in range(rank))
            for choices in ((1, 1, 3, 3, 5, 7), (1, 1, 2, 3), (1, 1, 1, 2))
        )
        before = tuple(dice.randint(0, size // 2 + 1) for size in kernel)
        after = before if dice.random() < 0.8 else tuple(dice.randint(0, size // 2 + 1) for size in kernel)
        transposed = dice.random() < 0.15
        try:
            return Convolution(
                batch=dice.randint(1, 5),
                in_channels=groups * width,
                out_channels=groups * (1 if dice.random() < 0.2 else wide),
                groups=groups,
                input=tuple(dice.randint(1, largest) for _ in range(rank)),
                kernel=kernel,
                stride=stride,
                dilation=dilation,
                pad_before=before,
                pad_after=before if transposed else after,
                transposed=transposed,
                output_padding=tuple(dice.randrange(step) for step in stride) if transposed else (),
                bias=dice.random() < 0.3,
            )
        except LatteError:  # the kernel does not fit the input
            continue


def random_operands(layer: Convolution, dtype: torch.dtype, seed: int) -> Operands:
    """Normal numbers for all tensors of a layer, in its plain layout."""
    source = torch.Generator().manual_seed(seed)
    shapes = (layer.input_shapes[0], layer.weight_shape, (layer.out_channels,), layer.output_shape)
    x, w, b, gy = (torch.randn(shape, generator=source).to(dtype) for shape in shapes)
    return Operands(x=x, w=w, b=b if layer.bias else None, gy=gy)


def reference(layer: Convolution, phase: Phase, o: Operands) -> Tensor:
    """What a phase gives in float64; a transposed layer's bias is left out, since the library does not add it."""
    b = None if o.b is None or layer.transposed else o.b.double()
    return FRAMEWORK_CONVOLUTIONS[phase](layer, Operands(x=o.x.double(), w=o.w.double(), b=b, gy=o.gy.double()))


def error(described: onednn.Problem, name: str, phase: Phase, layout: Layout, o: Operands, expected: Tensor) -> float:
    """How far an implementation is off; infinite where it leaves a number out or writes where it must not."""
    execution = described.execution(name, torch.get_num_threads())
    tensors = {"x": o.x, "w": o.w, "y": o.gy}
    written = {Phase.FORWARD: "y", Phase.BACKWARD_DATA: "x", Phase.BACKWARD_FILTER: "w"}[phase]
    memory = {key: Guarded(tensor.nbytes) for key, tensor in tensors.items()}
    views = {key: memory[key].tensor(tuple(tensor.shape), tensor.dtype, layout) for key, tensor in tensors.items()}
    for key in tensors.keys() - {written}:
        views[key].copy_(tensors[key])
    memory["workspace"] = Guarded(execution.workspace_bytes)
    memory["packed"] = Guarded(execution.packed_bytes)
    addresses = [memory[key].address for key in ("x", "w", "y")]
    bias = o.b.data_ptr() if o.b is not None else 0
    execution(*addresses, bias, memory["workspace"].address)
    once = views[written].clone()
    if execution.packed_bytes:
        execution.pack(addresses[1], memory["packed"].address, memory["workspace"].address)
        execution(addresses[0], 0, addresses[2], bias, memory["workspace"].address, memory["packed"].address)
    else:
        execution(*addresses, bias, memory["workspace"].address)
    if not all(each.intact for each in memory.values()):
        return float("inf")
    return max(difference(result.double(), expected) for result in (once, views[written]))


def errors(
    library: onednn.Library, layer: Convolution, precision: Precision, seed: int
) -> Iterator[tuple[str, str, float]]:
    """For each phase and implementation of a layer: both, and how far it is off, or -1 where it refuses to run."""
    o = random_operands(layer, activations_type(precision), seed)
    for phase in layer.phases:
        expected = reference(layer, phase, o)
        for layout in Layout:
            with onednn.problem(library, layer, phase, precision, layout) as described:
                for name in described.implementations():
                    try:
                        off = error(described, name, phase, layout, o, expected)
                    except (Unsupported, OutOfMemory, Failed):
                        off = -1.0
                    yield str(phase), name, off


def found(seed: int, precision: Precision) -> list[tuple[str, str, float]]:
    """`errors` of the layer of a seed, in a separate process."""
    torch.set_num_threads(1 + seed % 2)
    return list(errors(onednn.open_library(), random_layer(random.Random(seed)), precision, seed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", type=Precision, choices=list(TOLERANCES), default=Precision.FP32)
    options = parser.parse_args()
    runs, refused, worst, died = Counter[tuple[str, str]](), Counter[tuple[str, str]](), {}, []
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=child.die_with_parent)
    for seed in range(options.seed, options.seed + options.layers):
        try:
            rows = pool.submit(found, seed, options.precision).result()
        except BrokenProcessPool:
            died.append(seed)
            pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=child.die_with_parent)
            continue
        for phase, name, off in rows:
            key = (phase, name)
            refused[key] += off < 0
            runs[key] += off >= 0
            worst[key] = max(worst.get(key, (-1.0, 0)), (off, seed))
    pool.shutdown()
    library = onednn.open_library()
    print(f"oneDNN {library.version_text} ({library.origin}), {options.layers} layers, {options.precision}\n")
    print("| phase | implementation | runs | refused | largest error | seed |\n|---|---|---|---|---|---|")
    for key in sorted(worst):
        print(f"| {key[0]} | {key[1]} | {runs[key]} | {refused[key]} | {worst[key][0]:.1e} | {worst[key][1]} |")
    wrong = [key for key, (off, _) in worst.items() if off > TOLERANCES[options.precision]]
    print(f"\n{sum(runs.values())} runs; wrong: {wrong or 'none'}; died on the layers of seeds: {died or 'none'}")
    sys.exit(ExitCode.EXCEEDED if wrong or died else ExitCode.DONE)


if __name__ == "__main__":
    main()
