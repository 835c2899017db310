"""Options that several commands share, declared once."""

from collections.abc import Sequence
from math import inf, nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.optimizers import OPTIMIZERS
from latte_cli.precisions import LAYOUT_WORDS, PRECISION_WORDS, Layout, Precision
from latte_cli.quantities import bandwidth_bit_per_s, duration_s, size_bytes, whole_count
from latte_cli.report import Format

if TYPE_CHECKING:
    from latte_cli.devices import Device

MODEL_HELP = "An ONNX file (.onnx) or a torch.export program (.pt2)."


def parse_precision(text: str) -> str:
    """The name of a precision, from that or from a word that frameworks have for it.

    Other texts stay as they are, for whoever knows which precisions the command takes. Raises LatteError (exit code 2)
    for a word that may mean several.
    """
    word = text.strip().lower().replace("-", "_")
    meant = PRECISION_WORDS.get(word, ())
    if len(meant) > 1:
        names = " or ".join(f"`{each}`" for each in meant)
        message = f"the precision `{word}` may mean {len(meant)}"
        raise LatteError(message, hint=f"did you mean {names}?", exit_code=ExitCode.USAGE)
    return meant[0].value if meant else word if word in tuple(Precision) else text


def parse_layout(text: str) -> str:
    """The name of a layout, from that or from another word for it; other texts stay as they are."""
    word = text.strip().lower().replace("-", "_")
    return LAYOUT_WORDS[word].value if word in LAYOUT_WORDS else word if word in tuple(Layout) else text


def parse_measured_precision(text: str) -> Precision:
    """The precision by name, or by another word for it; raises LatteError (exit code 2) for anything else."""
    name = parse_precision(text)
    if name not in tuple(Precision):
        raise unknown("precision", name, Precision)
    return Precision(name)


def parse_measured_layout(text: str) -> Layout:
    """The layout by name, or by another word for it; raises LatteError (exit code 2) for anything else."""
    name = parse_layout(text)
    if name not in tuple(Layout):
        raise unknown("layout", name, Layout)
    return Layout(name)


StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URI",
        help="Store of measurements: a folder or a URI. [default: $LATTE_STORE, else your data directory]",
    ),
]
FormatOption: TypeAlias = Annotated[Format, typer.Option("--format", help="How to write the result.")]
_DEVICES_HELP = (
    "A name that `latte devices` lists, or a part that no other name has, as in h200; or `cpu` or `cuda:N` for this "
    "machine. Repeatable, or several separated by commas. "
)
DeviceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="NAME", help=f"{_DEVICES_HELP}[default: this machine]"),
]
LearnedDeviceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--device", metavar="NAME", help=f"{_DEVICES_HELP}[default: all that the store has rows of]"),
]
ModelArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
BatchSizeOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Samples of a step. [default: the model's]")
]
BatchAxisOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=0, help="Dimension of the inputs that is the batch, from 0. [default: the one named batch, else 0]"
    ),
]
PrecisionOption: TypeAlias = Annotated[
    str, typer.Option(parser=parse_precision, metavar="NAME", help=f"One of: {', '.join(Precision)}.")
]
LayoutOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        parser=parse_layout,
        metavar="NAME",
        help="Memory layout: nchw, channels_last, or auto for the faster one. [default: the strategy's]",
    ),
]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, help="Threads of the CPU. [default: those of the profile]")
]
_PLAIN = [name for name in OPTIMIZERS if "-" not in name]
OptimizerOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME", help=f"{', '.join(_PLAIN)}; or one of torch's variants, as in adam-fused or adam-foreach."
    ),
]
CudaGraphOption: TypeAlias = Annotated[
    bool, typer.Option("--cuda-graph", help="On a GPU: launch the whole step as one CUDA graph.")
]
CheckpointOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--checkpoint",
        metavar="NAME",
        help="Modules whose activations backward computes again, to save memory: none, auto for the cheapest that keep "
        "to --memory-limit, or names separated by commas.",
    ),
]
CompileOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="The step that torch.compile makes. CPUs only; `latte profile MODEL --compile` measures it.",
    ),
]
EstimatorOption: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where times come from: lookup (measured, else predicted), xgboost, roofline, beta or flops.",
    ),
]
FreezeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Parameters or layers that are not trained, as in 'layer1.*'. Repeatable."),
]
AccumulateOption: TypeAlias = Annotated[
    int, typer.Option(min=1, help="Batches whose gradients are added up before an update.")
]
EpochsOption: TypeAlias = Annotated[int, typer.Option(min=1, help="Epochs of the training.")]
LossOption: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="Loss of the last output: cross-entropy, mse or none.")
]
WorkspaceLimitOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        parser=size_bytes, metavar="SIZE", help="Largest workspace of one call, as in 256MiB. [default: no limit]"
    ),
]
MemoryLimitOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        parser=size_bytes, metavar="SIZE", help="Most memory that the step may hold, as in 2GiB. [default: no limit]"
    ),
]
AllowUnknownOption: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--allow-unknown",
        help="Leave out layers whose time is not known, and name them, instead of ending with an error.",
    ),
]
ShapeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZE",
        help="Size of a dimension that the model leaves open, as in seq=128 or 'x[2]=224'. Repeatable.",
    ),
]
MixedShapeOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZE",
        help="Size of a dimension that the model leaves open, as in seq=128 or 'x[2]=224'; several with "
        "their shares of the steps, as in seq=64:0.7,512:0.3, give the mean step. Repeatable.",
    ),
]
AllShapesOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="NAME=SIZE",
        help="Size of a dimension that the models leave open, as in seq=128 or 'x[2]=224'; several, as in seq=64,512 "
        "or seq=64:0.7,512:0.3, are all measured. Repeatable.",
    ),
]
SamplesOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--samples",
        parser=whole_count,
        metavar="N",
        help="Samples of an epoch, as in 50000 or 1.2M: also print its time.",
    ),
]
PricesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--prices",
        metavar="FILE",
        help="What devices cost, as YAML: `devices: {NAME: {per_hour: 3.5, per_kwh: 0.3, power: 700W}}`.",
    ),
]

_MOST_COUNTS, _MOST_COUNTED, _MOST_DIGITS = 64, 4096, 4  # chosen: far beyond one machine
"""How many counts one option takes, the largest of them, and its digits."""
_MOST_DIGITS_OF_A_SIZE = 18  # of integers with 64 bits

parse_duration = duration_s
"""An option's `parser=` for durations: seconds in `30s`, `2m`, `1h` or `500ms`."""

parse_rate = bandwidth_bit_per_s
"""An option's `parser=` for rates: bits per second in `5Mbit` or `20kbit/s`."""

parse_size = size_bytes
"""An option's `parser=` for sizes: bytes in `2GiB` or `512MiB`."""


def names_among(given: Sequence[str] | None) -> list[str]:
    """The names in an option that is repeatable, and takes several separated by commas; each once."""
    return list(dict.fromkeys(name.strip() for text in given or () for name in text.split(",")))


def parse_widths(text: str, what: str = "widths") -> tuple[float, ...]:
    """The widths (or depths) of sub-models in `1,0.75,0.5`; LatteError (exit code 2) for what is no such list."""
    try:
        widths = tuple(float(part) for part in text.split(","))
    except ValueError:
        widths = ()
    if not widths or not all(0 < width <= 1 for width in widths):
        shown = " ".join(text.split())[:40]
        hint = "numbers over 0 and up to 1, as in `1,0.75,0.5`"
        raise LatteError(f"`{shown}` is not a list of {what}", hint=hint, exit_code=ExitCode.USAGE)
    return widths


def parse_counts(text: str, what: str) -> tuple[int, ...]:
    """The counts in `2,4`, each once; LatteError (exit code 2) for what is no such list of at most 4,096 each."""
    parts = [part.strip() for part in text.split(",")]
    counts = tuple(dict.fromkeys(int(part) for part in parts if part.isdecimal() and len(part) <= _MOST_DIGITS))
    if len(parts) > _MOST_COUNTS or not all(part.isdecimal() and len(part) <= _MOST_DIGITS for part in parts):
        counts = ()
    if not counts or not all(1 <= count <= _MOST_COUNTED for count in counts):
        shown = " ".join(text.split())[:40]
        hint = f"at most {_MOST_COUNTS} whole numbers from 1 to {_MOST_COUNTED:,}, as in `2,4`"
        raise LatteError(f"`{shown}` is not a list of numbers of {what}", hint=hint, exit_code=ExitCode.USAGE)
    return counts


def parse_share(text: str) -> float:
    """A share of 1 in `50%` or `0.5`; raises LatteError (exit code 2) for other text."""
    share = _share(text)
    if not 0 < share <= 1:
        raise _no_share(text)
    return share


def parse_growth(text: str) -> float:
    """A share in `5%` or `0.05` that may be 0 or over 1; raises LatteError (exit code 2) for other text."""
    share = _share(text)
    if not 0 <= share < inf:
        raise _no_share(text)
    return share


def _share(text: str) -> float:
    number = text.strip()
    try:
        return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        return nan


def _no_share(text: str) -> LatteError:
    shown = " ".join(text.split())[:40]
    return LatteError(f"`{shown}` is not a share", hint="as in `50%` or `0.5`", exit_code=ExitCode.USAGE)


def parse_shapes(given: Sequence[str] | None) -> dict[str, int]:
    """The sizes by name in `seq=128`; raises LatteError (exit code 2) for what is no such pair."""
    sizes: dict[str, int] = {}
    for text in given or ():
        name, equals, size = text.rpartition("=")
        number = size.strip()
        if not name.strip() or not equals or not number.isdecimal() or len(number) > _MOST_DIGITS_OF_A_SIZE:
            shown = " ".join(text.split())[:40]
            several = "; several sizes are for `latte estimate` and `latte profile`" if {",", ":"} & {*size} else ""
            raise LatteError(
                f"`{shown}` is not a size of a dimension",
                hint=f"as in `--shape seq=128`{several}",
                exit_code=ExitCode.USAGE,
            )
        if sizes.setdefault(name.strip(), int(size)) != int(size):
            raise LatteError(f"`{name.strip()}` has two sizes", hint="give it once", exit_code=ExitCode.USAGE)
    return sizes


def asked_of(device: "Device", precision: str = Precision.FP32, batch_size: int | None = None) -> str:
    """The options with which `latte estimate` asks the same of `device`."""
    from latte_cli.backends import measurable

    options = [f"--device {device.slug}"]
    options += [] if precision == Precision.FP32 else [f"--precision {precision}"]
    options += [] if batch_size is None else [f"--batch-size {batch_size}"]
    options += [] if measurable(device.kind) else ["--allow-unknown"]  # others measured its convolutions alone
    return " ".join(options)
