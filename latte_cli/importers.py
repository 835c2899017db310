"""Importers: what others have measured and published, as rows of the store."""

import bz2
import csv
import gzip
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from itertools import count
from math import prod
from pathlib import Path
from typing import IO, Protocol, TypeAlias

from latte_cli import files
from latte_cli.algorithms import FRAMEWORK_BENCHMARK, HEURISTIC, Algorithm, kernel_family
from latte_cli.backends.host import slug
from latte_cli.backends.native.cudnn.convolutions import ALGORITHMS, LARGEST_TENSOR
from latte_cli.backends.native.cudnn.library import version
from latte_cli.devices import CUDA, ROCM, Device
from latte_cli.errors import LatteError
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import Evidence, Measurement
from latte_cli.precisions import Layout, Precision
from latte_cli.store import Store
from latte_cli.tasks import Question, Settings, Task

_NAMED = 5  # chosen: enough to see what sort of row was left out


class ImportSource(StrEnum):
    """The formats that are read."""

    LATTE_CSV = "latte-csv"
    MIOPEN_FINDDB = "miopen-finddb"
    NEUSIGHT_CSV = "neusight-csv"


class Dropped(ValueError):
    """A line that was understood and makes no row; the text says why, the same for all of its sort."""


FileReader: TypeAlias = Callable[[IO[str], Device, "Tally"], Iterator[Measurement]]


@dataclass(kw_only=True)
class Tally:
    """What became of the lines of a file: rows made, lines dropped by reason, and those that could not be read.

    `named` are the first of the latter, with their numbers and what is wrong.
    """

    rows: int = 0
    lines: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    named: list[str] = field(default_factory=list)

    def refuse(self, number: int, error: Exception) -> None:
        """Count a line that makes no row."""
        if isinstance(error, Dropped):
            self.dropped[str(error)] += 1
            return
        self.unreadable += 1
        if len(self.named) < _NAMED:
            self.named.append(f"line {number}: {error}")


class Progress(Protocol):
    """Hears how far an import is."""

    def __call__(self, done: int, label: str, /) -> None:
        """`done` bytes of the file were read."""


def import_file(
    path: Path,
    source: ImportSource,
    store: Store,
    *,
    name: str | None = None,
    heuristic: bool = False,
    progress: Progress = lambda done, label: None,
) -> tuple[Device, Tally]:
    """Read a file into `store`, and say of which device and what became of its lines.

    `name` is the device's, for a format that does not say it; `heuristic` means that the labels of a LATTE file are
    what cuDNN's heuristic answered, not what won. Reading a file again adds nothing. Raises LatteError for a file that
    cannot be read, or none of whose lines can.
    """
    files.check_regular(path, f"a {source} file, plain or .gz or .bz2")
    try:
        with _open(path) as text:
            next(_lines(text, Tally()), None)  # a file of another kind may be too large to be read for its digest
        origin = f"{source} {path.name} sha256:{_digest(path)[:12]}"
        written_at, device, tally = path.stat().st_mtime, _device(path, source, name), Tally()
        with _open(path) as text, store.writer(device) as writer:
            reader: FileReader = {
                ImportSource.LATTE_CSV: _latte_heuristic if heuristic else _latte_winners,
                ImportSource.MIOPEN_FINDDB: _read_miopen,
                ImportSource.NEUSIGHT_CSV: _neusight,
            }[source]
            rows = (replace(row, origin=origin, measured_at=written_at) for row in reader(text, device, tally))
            writer.extend(_count(rows, tally, progress))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        raise LatteError(f"cannot read `{path}`: {reason}", hint=f"a {source} file, plain or .gz or .bz2") from exc
    if not tally.rows:
        first = f" ({tally.named[0]})" if tally.named else ""
        raise LatteError(f"no line of `{path}` makes a row{first}", hint=f"is it a {source} file?")
    return device, tally


def _count(rows: Iterable[Measurement], tally: Tally, progress: Progress) -> Iterator[Measurement]:
    for row in rows:
        tally.rows += 1
        if tally.rows % 10_000 == 0:
            progress(tally.rows, f"line {tally.lines}")
        yield row


def _open(path: Path) -> IO[str]:
    opened = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    text: IO[str] = opened(path, "rt", encoding="utf-8", newline="")
    return text


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check(layer: Convolution) -> Convolution:
    for shape in (*layer.input_shapes, layer.output_shape, *layer.parameter_shapes):
        if prod(shape) > LARGEST_TENSOR:
            raise Dropped("a tensor of 2^31 elements or more")
    return layer


# LATTE's own tables


_LATTE_COLUMNS = (
    *("input_n", "input_c", "input_h", "input_w", "output_c", "kernel_h", "kernel_w", "padding_height"),
    *("padding_width", "stride_height", "stride_width", "dilation_h", "dilation_w", "label"),
)


def _latte_winners(text: IO[str], device: Device, tally: Tally) -> Iterator[Measurement]:
    """Which of cuDNN's forward algorithms won, as `cudnnFind` saw it; a layer that comes again is another pass."""
    for layer, algorithm, again in _latte(text, tally):
        task = Task(layer=layer, phase=Phase.FORWARD, algorithm=algorithm, settings=Settings())
        yield _label(task, algorithm, again, device)


def _latte_heuristic(text: IO[str], device: Device, tally: Tally) -> Iterator[Measurement]:
    """What cuDNN's heuristic answered."""
    for layer, algorithm, again in _latte(text, tally):
        question = Question(layer=layer, phase=Phase.FORWARD, ranker=HEURISTIC, settings=Settings())
        yield _label(question, algorithm, again, device)


def _label(task: Task | Question, algorithm: Algorithm, again: int, device: Device) -> Measurement:
    return Measurement(task=task, device=device, sweep_pass=again, evidence=Evidence.LABEL, ranking=(algorithm.name,))


def _latte(text: IO[str], tally: Tally) -> Iterator[tuple[Convolution, Algorithm, int]]:
    """Layers with the algorithm that their label numbers among cuDNN's forward ones, and how often each came before."""
    algorithms = ALGORITHMS[Phase.FORWARD]
    seen: Counter[Convolution] = Counter()
    for number, row in _csv(text, _LATTE_COLUMNS, tally):
        try:
            values = [int(row[name]) for name in _LATTE_COLUMNS]
            layer = _check(_latte_layer(*values[:-1]))
            algorithm = algorithms[_within(values[-1], len(algorithms))]
        except (ArithmeticError, ValueError, TypeError, LatteError) as exc:
            tally.refuse(number, exc)
            continue
        yield layer, algorithm, seen[layer]
        seen[layer] += 1


def _within(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ValueError(f"label {number} is not in 0 to {count - 1}")
    return number


@lru_cache(maxsize=2**16)
def _latte_layer(n: int, c: int, h: int, w: int, k: int, *sizes: int) -> Convolution:
    pads, strides, dilations = (tuple(sizes[index : index + 2]) for index in (2, 4, 6))
    return Convolution(
        batch=n,
        in_channels=c,
        out_channels=k,
        input=(h, w),
        kernel=(sizes[0], sizes[1]),
        stride=strides,
        dilation=dilations,
        pad_before=pads,
        pad_after=pads,
    )


_RIGHT_FILE = "is it the right file and format?"
_LONGEST_LINE = 1 << 20  # letters; the longest of MIOpen's has some 10,000


_MOST_IN_VAIN = 100_000  # chosen: read in a second; the right file makes a row long before


def _lines(text: IO[str], tally: Tally) -> Iterator[str]:
    """The lines; raises LatteError at one that may fill the memory, and where so many make no row.

    A small compressed file can hold a billion of them.
    """
    for number in count(1):
        line = text.readline(_LONGEST_LINE)
        if not line:
            return
        if not tally.rows and number - tally.dropped.total() > _MOST_IN_VAIN:
            raise LatteError(f"none of the first {_MOST_IN_VAIN:,} lines makes a row", hint=_RIGHT_FILE)
        if len(line) == _LONGEST_LINE:
            raise LatteError(f"a line has more than {_LONGEST_LINE:,} letters", hint=_RIGHT_FILE)
        yield line


def _header(reader: "csv.DictReader[str]") -> Sequence[str]:
    try:
        return reader.fieldnames or ()
    except csv.Error as exc:
        raise LatteError(f"its first line is no header: {exc}", hint=_RIGHT_FILE) from exc


def _csv(text: IO[str], columns: Iterable[str], tally: Tally) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a table that has these columns, with the numbers of their lines."""
    reader = csv.DictReader(_lines(text, tally))
    missing = [name for name in columns if name not in _header(reader)]
    if missing:
        raise LatteError(f"there is no column `{missing[0]}`", hint=_RIGHT_FILE)
    try:
        for row in reader:
            tally.lines = reader.line_num
            if any(value for value in row.values()):
                yield reader.line_num, row
    except csv.Error as exc:
        tally.refuse(reader.line_num, exc)


# MIOpen's Find database


_PRECISIONS = {"FP32": Precision.FP32, "FP16": Precision.FP16, "BF16": Precision.BF16}
_LAYOUTS = {
    "NCHW": Layout.NCHW,
    "NCDHW": Layout.NCHW,
    "NHWC": Layout.CHANNELS_LAST,
    "NDHWC": Layout.CHANNELS_LAST,
}
_PHASES = {"F": Phase.FORWARD, "B": Phase.BACKWARD_DATA, "W": Phase.BACKWARD_FILTER}
_DIRECTION = re.compile(r"([FBW])(?:_g(\d+))?")
_MIOPEN_NUMBERS = {"GEMM": 0, "Direct": 1, "FFT": 2, "Winograd": 3, "ImplicitGEMM": 5}
"""The families as MIOpen numbers them (`miopenConvFwdAlgorithm_t` and its kin)."""

_FAMILY = re.compile(r"miopenConvolution(?:Fwd|BwdData|BwdWeights)Algo(\w+)")


def _read_miopen(text: IO[str], device: Device, tally: Tally) -> Iterator[Measurement]:
    """Every solver of every problem: `key=solver:ms,workspace,family;…`, or `key=family:solver,ms,workspace,…;…`."""
    for number, line in enumerate(_lines(text, tally), start=1):
        tally.lines = number
        if not line.strip():
            continue
        try:
            key, separator, found = line.strip().partition("=")
            if not separator:
                raise ValueError("there is no `=`")
            layer, phase, settings = _problem(key)
            solvers = [_solver(entry) for entry in found.split(";") if entry]
        except (ArithmeticError, ValueError, IndexError, KeyError, LatteError) as exc:
            tally.refuse(number, exc)
            continue
        for algorithm, seconds, workspace_bytes in solvers:
            task = Task(layer=layer, phase=phase, algorithm=algorithm, settings=settings)
            yield Measurement(
                task=task,
                device=device,
                evidence=Evidence.SUMMARY,
                summary_s=seconds,
                workspace_bytes=workspace_bytes,
            )


def _problem(key: str) -> tuple[Convolution, Phase, Settings]:
    """`inC-in…-kernel-outC-out…-N-pad-stride-dilation-bias-layout-type-direction`; "in" is dy in backward phases.

    There may be three layouts: those of the input, the weights and the output.
    """
    *sizes, kind, direction = key.split("-")
    layouts = []
    while sizes and sizes[-1].isalpha():
        layouts.append(sizes.pop())
    layout, bias = "-".join(dict.fromkeys(reversed(layouts))), sizes.pop()
    matched = _DIRECTION.fullmatch(direction)
    if not matched:
        raise ValueError(f"direction `{direction}`")
    if kind not in _PRECISIONS:
        raise Dropped(f"of type {kind}")
    if layout not in _LAYOUTS:
        raise Dropped(f"in layout {layout}")
    rank = (len(sizes) - 7) // 2
    if not 1 <= rank <= 3 or len(sizes) != 7 + 2 * rank:
        raise ValueError(f"{len(sizes)} sizes")
    given, made = _channels_first(sizes[: 1 + rank]), _channels_first(sizes[2 + rank : 3 + 2 * rank])
    kernel, *rest = (_times(sizes[index]) for index in (1 + rank, 4 + 2 * rank, 5 + 2 * rank, 6 + 2 * rank))
    phase, batch = _PHASES[matched[1]], int(sizes[3 + 2 * rank])
    x, y = (given, made) if phase is Phase.FORWARD else (made, given)
    groups = int(matched[2] or 1)
    try:
        layer = Convolution(
            batch=batch,
            in_channels=x[0],
            out_channels=y[0],
            groups=groups,
            input=x[1:],
            kernel=kernel,
            pad_before=rest[0],
            pad_after=rest[0],
            stride=rest[1],
            dilation=rest[2],
            bias=bias != "0",
        )
    except LatteError as exc:
        raise Dropped("of sizes that do not belong together") from exc
    if layer.output != y[1:]:
        raise Dropped("of sizes that do not belong together")
    return _check(layer), phase, _miopen_settings(_PRECISIONS[kind], _LAYOUTS[layout])


@lru_cache
def _miopen_settings(precision: Precision, layout: Layout) -> Settings:
    return Settings(precision=precision, layout=layout)


def _channels_first(sizes: Iterable[str]) -> tuple[int, ...]:
    return tuple(map(int, sizes))


def _times(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def _solver(entry: str) -> tuple[Algorithm, float, int]:
    first, _, rest = entry.partition(":")
    values = rest.split(",")
    solver, time, workspace, family = (first, *values[:3]) if len(values) == 3 else (values[0], *values[1:4])
    milliseconds = float(time)
    if not 0 < milliseconds < float("inf"):
        raise ValueError(f"a time of {time} ms")
    return _miopen_algorithm(solver, family), milliseconds * 1e-3, int(workspace)


@lru_cache(maxsize=4096)
def _miopen_algorithm(solver: str, family: str) -> Algorithm:
    matched = _FAMILY.fullmatch(family)
    number = _MIOPEN_NUMBERS.get(matched[1]) if matched else None
    return Algorithm(library="miopen", name=solver, vendor_id=number)


# NeuSight's tables


_NEUSIGHT_COLUMNS = (
    *("Latency", "Device", "Torch Version", "CUDNN Version", "Kernels", "B", "Input_Channel", "Output_Channel"),
    *("Kernel_Szie", "Input_Size", "Stride", "Padding"),
)


def _neusight(text: IO[str], device: Device, tally: Tally) -> Iterator[Measurement]:
    """Forward passes in torch's benchmark mode, and the family that their kernels show; again is another pass."""
    seen: Counter[Task] = Counter()
    for number, row in _csv(text, _NEUSIGHT_COLUMNS, tally):
        try:
            size, kernel, stride, pad = (
                (int(row[name]),) * 2 for name in ("Input_Size", "Kernel_Szie", "Stride", "Padding")
            )
            layer = Convolution(
                batch=int(row["B"]),
                in_channels=int(row["Input_Channel"]),
                out_channels=int(row["Output_Channel"]),
                input=size,
                kernel=kernel,
                stride=stride,
                pad_before=pad,
                pad_after=pad,
            )
            settings = _neusight_settings(row["CUDNN Version"], row["Torch Version"])
            seconds = float(row["Latency"]) * 1e-3
            if not 0 < seconds < float("inf"):
                raise ValueError(f"a latency of {row['Latency']} ms")
            task = Task(layer=_check(layer), phase=Phase.FORWARD, algorithm=FRAMEWORK_BENCHMARK, settings=settings)
        except (ArithmeticError, ValueError, TypeError, LatteError) as exc:
            tally.refuse(number, exc)
            continue
        kernels = tuple(name.strip() for name in row["Kernels"].split(";") if name.strip())
        yield Measurement(
            task=task,
            device=device,
            sweep_pass=seen[task],
            evidence=Evidence.SUMMARY,
            summary_s=seconds,
            kernels=kernels,
        )
        if family := kernel_family(kernels):
            won = replace(task, algorithm=Algorithm(library="cudnn", name=family))
            yield Measurement(
                task=won, device=device, sweep_pass=seen[task], evidence=Evidence.LABEL, ranking=(family,)
            )
        seen[task] += 1


@lru_cache
def _neusight_settings(cudnn: str, torch: str) -> Settings:
    dotted = ".".join(map(str, version(int(float(cudnn)))))
    return Settings(library_versions=(("cudnn", dotted), ("torch", torch.removeprefix("p"))))


# Whose rows they are


def _device(path: Path, source: ImportSource, name: str | None) -> Device:
    if source is ImportSource.MIOPEN_FINDDB:
        return _miopen_device(path.name, name)
    if source is ImportSource.NEUSIGHT_CSV:
        shown = name or _first_device(path)
        return Device(slug=slug(shown), kind=CUDA, name=shown)
    shown = name or "GPU of LATTE's dataset"
    return Device(slug=slug(name or "latte-dataset"), kind=CUDA, name=shown)


def _miopen_device(file: str, name: str | None) -> Device:
    """`gfx90878.HIP.fdb.txt` is of a gfx908 with 0x78 compute units, `gfx1030_36.HIP…` of a gfx1030 with 36."""
    matched = re.match(r"(gfx[0-9a-f]+)_(\d+)\.", file)
    if matched:
        chip, units = matched[1], int(matched[2])
    elif matched := re.match(r"(gfx[0-9a-f]+)([0-9a-f]{2})\.", file):
        chip, units = matched[1], int(matched[2], 16)
    elif name is None:
        raise LatteError(f"`{file}` does not say which GPU it is of", hint="name it: `--name SLUG`")
    else:
        return Device(slug=slug(name), kind=ROCM, name=name)
    shown = f"AMD {chip}, {units} compute units"
    return Device(slug=slug(name or f"amd-{chip}-{units}cu"), kind=ROCM, name=shown, multiprocessors=units)


def _first_device(path: Path) -> str:
    with _open(path) as text:
        row = next(_csv(text, (), Tally()), (0, {}))[1]
    if not row.get("Device"):
        raise LatteError(f"`{path}` does not say which device it is of", hint="name it: `--name SLUG`")
    return row["Device"]
