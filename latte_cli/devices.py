"""Devices: what a profile says of one, and what each kind of device is, as values that the rest of the code reads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from latte_cli.errors import LatteError, unknown


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How many samples to take after `warm_ups` calls: at least `least`, then more until `enough_s` of them or `most`.

    Sampling also ends once the 95 % interval of the mean is within ± `confidence` of it: n = (1.96 cv / confidence)².
    A first call slower than `cut` times the best algorithm so far is kept as the only sample. Relative spread above
    `noisy` is marked, as is a reference kernel that is off by more than `drifted`.
    """

    warm_ups: int = 1
    least: int = 3
    most: int = 6
    enough_s: float = 0.05
    confidence: float = 0.0
    cut: float = 8.0
    noisy: float = 0.15
    drifted: float = 0.15


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of device; two of one name are the same.

    - `name`: the word for it in rows and on the command line; `title`: the word for people.
    - `torch_type`: what torch calls a device of this kind.
    - `queued`: the host launches calls ahead, and the device has its own clock.
    - `own_memory`: its memory is not the host's, so that data is transferred to it.
    - `captures_graphs`: it runs a whole step as one graph that was captured before.
    - `offers_choice`: its library leaves frameworks a choice among named algorithms.
    - `threaded`: how many threads compute is part of its settings; `indexed`: a machine may have several, by number.
    - `sampling` and `rounds`: how a sweep samples one task, and in how many rounds.
    - `preparing_s`: what a row of a sweep takes, in seconds, in addition to its calls.
    - `call_limit_s`: the longest call that a drawn suite asks for, by the device's peak.
    - `compiled_steps`: what `torch.compile` makes of a model is measured and estimated.
    - `imported_by`: the command that adds what others measured on such devices; empty where there is none.
    - `calibration`: the networks that a profile runs whole: names in the zoo, pixels, batch sizes.
    """

    name: str
    title: str = field(compare=False)
    torch_type: str = field(compare=False)
    queued: bool = field(compare=False)
    own_memory: bool = field(compare=False)
    captures_graphs: bool = field(compare=False)
    offers_choice: bool = field(compare=False)
    threaded: bool = field(compare=False)
    indexed: bool = field(compare=False)
    sampling: Sampling = field(compare=False)
    rounds: int = field(compare=False)
    preparing_s: float = field(compare=False)
    call_limit_s: float = field(compare=False)
    calibration: Sequence[tuple[str, int, int]] = field(compare=False, default=())
    compiled_steps: bool = field(compare=False, default=False)
    imported_by: str = field(compare=False, default="")

    def __str__(self) -> str:
        return self.name


CPU = Kind(
    name="cpu",
    title="CPU",
    torch_type="cpu",
    queued=False,
    own_memory=False,
    captures_graphs=False,
    offers_choice=False,
    threaded=True,
    indexed=False,
    sampling=Sampling(),
    rounds=1,
    preparing_s=0.055,  # fitted to 4,880 rows of the reference profile
    call_limit_s=0.1,
    calibration=(("resnet8", 32, 32), ("mobilenet_v1", 96, 4), ("resnet20", 32, 16), ("vgg11", 64, 4)),
    compiled_steps=True,
)

CUDA = Kind(
    name="cuda",
    title="GPU",
    torch_type="cuda",
    queued=True,
    own_memory=True,
    captures_graphs=True,
    offers_choice=True,
    threaded=False,
    indexed=True,
    # Three rounds of a sweep together: 2 % from 9 to 100 samples or 0.4 s of them.
    sampling=Sampling(warm_ups=2, least=3, most=34, enough_s=0.13, confidence=0.035, cut=5.0),
    rounds=3,
    preparing_s=0.017,  # mean of 12,032 rows of the shipped profile of an H200
    call_limit_s=0.002,
    # A GPU's two clocks show at different sizes.
    calibration=(
        ("mobilenet_v1", 224, 8),
        ("mobilenet_v1", 224, 128),
        ("vgg11", 224, 2),
        ("vgg11", 224, 64),
        ("resnet8", 32, 32),
        ("resnet20", 32, 1024),
    ),
)

ROCM = Kind(
    name="rocm",
    title="GPU",
    torch_type="cuda",  # torch for ROCm calls its devices so
    queued=True,
    own_memory=True,
    captures_graphs=False,
    offers_choice=True,
    threaded=False,
    indexed=True,
    sampling=CUDA.sampling,
    rounds=CUDA.rounds,
    preparing_s=CUDA.preparing_s,
    call_limit_s=CUDA.call_limit_s,
    imported_by="latte import miopen-finddb FILE",
)

MPS = Kind(
    name="mps",
    title="GPU",
    torch_type="mps",
    queued=True,
    own_memory=False,  # Apple's GPUs use the host's
    captures_graphs=False,
    offers_choice=False,
    threaded=False,
    indexed=False,
    sampling=CUDA.sampling,
    rounds=CUDA.rounds,
    preparing_s=CUDA.preparing_s,
    call_limit_s=CUDA.call_limit_s,
)

XPU = Kind(
    name="xpu",
    title="GPU",
    torch_type="xpu",
    queued=True,
    own_memory=True,
    captures_graphs=False,
    offers_choice=False,
    threaded=False,
    indexed=True,
    sampling=CUDA.sampling,
    rounds=CUDA.rounds,
    preparing_s=CUDA.preparing_s,
    call_limit_s=CUDA.call_limit_s,
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (CPU, CUDA, ROCM, MPS, XPU)}
"""The kinds that rows, or a data sheet, may be of, by name; `backends.OPENERS` has those that can be measured."""


def kind_named(name: str) -> Kind:
    """The kind of device called `name`; raises LatteError for a kind that this version does not know."""
    if name not in KINDS:
        raise LatteError(f"unknown kind of device `{name}`", hint="update LATTE: a newer version may have written it")
    return KINDS[name]


def kind_of_torch(type_: str) -> Kind:
    """The kind that torch means by a device of `type_`; raises LatteError where LATTE knows none."""
    for kind in KINDS.values():
        if kind.torch_type == type_:
            return kind
    raise unknown("device of torch", type_, [kind.torch_type for kind in KINDS.values()])


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A device of this machine as a user names it: a kind, or the best one (None), and which of several."""

    kind: Kind | None
    index: int = 0

    def __str__(self) -> str:
        if self.kind is None:
            return AUTO
        return f"{self.kind}:{self.index}" if self.kind.indexed else self.kind.name


AUTO = "auto"
"""The name for the best device of this machine."""


def spec_named(text: str) -> Spec | None:
    """The device of this machine that `text` names: `auto`, `cpu`, `cuda` or `cuda:1`; None for any other word.

    Raises LatteError for an index that a kind of device cannot have.
    """
    name, colon, index = text.partition(":")
    if text == AUTO:
        return Spec(kind=None)
    kind = KINDS.get(name)
    if kind is None:
        return None
    if not colon:
        return Spec(kind=kind)
    if not kind.indexed:
        raise LatteError(f"unknown device `{text}`", hint=f"the {kind.title} is one device: `{kind}`")
    if not index.isdecimal():
        raise LatteError(f"unknown device `{text}`", hint=f"the first {kind.title} is `{kind}:0`")
    return Spec(kind=kind, index=int(index))


@dataclass(frozen=True, kw_only=True)
class Device:
    """A device as a profile names it; `slug` is its name in the store, and None means that a value is not known.

    `bandwidth_bytes_per_s` (a copy, bytes read and written) and `peaks_flop_per_s` (a large matrix product in each
    precision; `peak_flop_per_s` is that of fp32) are measured; clocks, `rated_bandwidth_bytes_per_s` and sizes are what
    the driver states. `shared_memory` says that the device uses the host's memory, as a Jetson's GPU does. A process
    that trains takes `context_bytes` of its memory after a first small step, and `call_context_bytes` more for each
    further phase of a convolution.
    """

    slug: str
    kind: Kind
    name: str
    memory_bytes: int | None = None
    bandwidth_bytes_per_s: float | None = None
    peak_flop_per_s: float | None = None
    driver: str = ""
    libraries: tuple[tuple[str, str], ...] = ()
    compute_capability: str = ""
    multiprocessors: int | None = None
    cache_bytes: int | None = None
    sm_clock_hz: float | None = None
    memory_clock_hz: float | None = None
    rated_bandwidth_bytes_per_s: float | None = None
    peaks_flop_per_s: tuple[tuple[str, float], ...] = ()
    shared_memory: bool = False
    context_bytes: int | None = None
    call_context_bytes: int | None = None

    def peak_in(self, precision: str) -> float | None:
        """The measured peak in `precision`, or in fp32 where that was not measured."""
        return dict(self.peaks_flop_per_s).get(precision, self.peak_flop_per_s)
