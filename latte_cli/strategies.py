"""Strategies: which algorithm each call of a network would run with; pure functions on timings, rankings and limits.

The rules of other frameworks are those of their GPU libraries, as their sources have them; see each one's docstring.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, FRAMEWORK_DEFAULT, HEURISTIC, LISTED, Algorithm, known
from latte_cli.devices import Kind
from latte_cli.engines import PREFIX, PYTORCH_FALLBACK, XLA_MODES, Heuristic, is_engine
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.layers import Convolution, Phase
from latte_cli.lookup import Pair, Timing, fits, workspace_bytes
from latte_cli.quantities import duration_s, size_bytes
from latte_cli.tasks import Layout, Precision


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes that one call's workspace may take, and that the process may hold at any time (None: any number)."""

    workspace_bytes: int | None = None
    memory_bytes: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class Call:
    """A layer's phase at its place in a step, and the workspace in bytes that it may take there (None: any)."""

    pair: Pair
    limit_bytes: int | None = None


Select: TypeAlias = Callable[[Sequence[Call]], Sequence[Algorithm]]
"""Algorithms for convolutions that were not timed, one each, in order."""

Predict: TypeAlias = Callable[[Sequence[Pair]], Mapping[Pair, Sequence[Timing]]]
"""Predicted timings of the algorithms that ran layers like those that were not timed."""


def framework_default(calls: Sequence[Call]) -> Sequence[Algorithm]:
    """The framework's own choice for each of `calls`."""
    return [FRAMEWORK_DEFAULT] * len(calls)


def nothing(pairs: Sequence[Pair]) -> Mapping[Pair, Sequence[Timing]]:
    """No prediction for any of `pairs`."""
    return {}


EngineLists: TypeAlias = Mapping[str, Sequence[str]]
"""The names of cuDNN's engines, best first, by the mode of the heuristic that listed them."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a strategy decides on: all calls of a network, and the timings known of them in the order of `ranked`.

    `select` and `predict` answer for convolutions without timings; `run_before` tells which algorithms ran layers of a
    pair's sort; `lists` are what cuDNN's heuristics answered where engines were asked for.
    """

    calls: Sequence[Call]
    timings: Mapping[Pair, Sequence[Timing]]
    precision: Precision = Precision.FP32
    select: Select = framework_default
    predict: Predict = nothing
    run_before: Callable[[Pair], Collection[Algorithm]] = lambda pair: ()
    lists: Mapping[Pair, EngineLists] = field(default_factory=dict)


Choices: TypeAlias = list[Algorithm]
Choose: TypeAlias = Callable[[Query], Choices]


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """Who chooses: `choose` answers a query, one algorithm a call; on a GPU the whole model has the layout `layouts`
    says for its precision, NCHW for others.

    `rule_of_gpu` tells that a CPU leaves such a framework no choice, so that the rule is a stand-in there.
    """

    name: str
    choose: Choose
    layouts: Mapping[Precision, Layout]
    rule_of_gpu: bool = False

    def layout(self, precision: Precision, kind: Kind) -> Layout:
        """The memory layout of activations on a device of `kind`."""
        return self.layouts.get(precision, Layout.NCHW) if kind.offers_choice else Layout.NCHW


# What a rule sees of one call


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What there is to choose from for one call: every timing, and the library's own algorithms as it ranks them.

    Where the library's ranking is not known, they are in the order of its numbers; where no library's algorithm was
    timed, all that were timed stand for them, the framework's own first. cuDNN's engines are none of the `candidates`:
    rules that know them ask for `engines`. `operation` is the convolution that the library computes.
    """

    timings: Sequence[Timing]
    candidates: Sequence[Timing]
    limit_bytes: int | None
    depthwise: bool
    precision: Precision
    operation: Phase = Phase.FORWARD
    lists: EngineLists = field(default_factory=dict)

    def engines(self, *modes: Heuristic, also: Iterable[int] = ()) -> list[Timing]:
        """The engines that were timed, in the order of these heuristics' lists and of `also`, each once."""
        listed = (name for mode in modes for name in self.lists.get(mode.name, ()))
        timed = {timing.task.algorithm.name: timing for timing in self.timings if is_engine(timing.task.algorithm)}
        names = dict.fromkeys((*listed, *(f"{PREFIX}{index}" for index in also)))
        return [timed[name] for name in names if name in timed]

    def among(self, engines: Sequence[Timing]) -> "Offer":
        """The offer with `engines` for candidates, as it is where there are none."""
        return replace(self, candidates=engines) if engines else self

    def fitting(self) -> list[Timing]:
        """The candidates, best rank first, whose workspace fits what is free."""
        return [timing for timing in self.candidates if fits(timing, self.limit_bytes)]

    def named(self, algorithm: Algorithm) -> Timing | None:
        """The timing of `algorithm`, if it was timed and fits."""
        return next((t for t in self.timings if t.task.algorithm == algorithm and fits(t, self.limit_bytes)), None)

    def numbered(self, vendor_id: int) -> Timing | None:
        """The candidate to which the library gives the number `vendor_id`."""
        return next((timing for timing in self.candidates if timing.task.algorithm.vendor_id == vendor_id), None)

    def smallest(self) -> Timing:
        """The candidate with the least workspace: what is left where nothing fits."""
        return min(self.candidates, key=workspace_bytes)


Rule: TypeAlias = Callable[[Offer], Timing]


def quickest(timings: Iterable[Timing]) -> Timing | None:
    """The timing with the least time, or None of none."""
    return min(timings, key=lambda timing: timing.device_s, default=None)


def fastest(timings: Sequence[Timing], limit_bytes: int | None = None) -> Timing:
    """The fastest of `timings` whose workspace fits the limit; where none fits, the one with the least workspace."""
    found = quickest(timing for timing in timings if fits(timing, limit_bytes))
    return found or min(timings, key=workspace_bytes)


def deterministic(timing: Timing) -> bool:
    """Whether results repeat bit by bit, as observed or else as known of the algorithm."""
    if timing.deterministic is not None:
        return timing.deterministic
    about = known(timing.task.algorithm)
    return about is None or about.deterministic


_repeats = deterministic

# The rules


def _pytorch(offer: Offer, *, deterministic: bool = False) -> Timing:
    """PyTorch 2.x with its default flags: its own op, as measured; under memory pressure the next of the library's
    ranking that can be allocated (aten/src/ATen/native/cudnn/Conv_v8.cpp, `try_plans`). `deterministic` is torch's flag
    of that name: the first of the listed engines whose results repeat, where engines were timed."""
    repeating = [timing for timing in _tried_by_pytorch(offer) if _repeats(timing) and fits(timing, offer.limit_bytes)]
    if deterministic and repeating:
        return repeating[0]
    if own := offer.named(FRAMEWORK_DEFAULT):
        return own
    default = next((timing for timing in offer.timings if timing.task.algorithm == FRAMEWORK_DEFAULT), None)
    offer = offer.among(_tried_by_pytorch(offer))
    others = (timing for timing in offer.fitting() if timing.task.algorithm.library == HEURISTIC.library)
    return next(others, default or offer.smallest())


def _tried_by_pytorch(offer: Offer) -> list[Timing]:
    return offer.engines(Heuristic.INSTANT, also=PYTORCH_FALLBACK[offer.operation])


def _pytorch_benchmark(offer: Offer, *, benchmark_limit: int = 10) -> Timing:
    """PyTorch 2.x with `cudnn.benchmark`: its own op in that mode where that was measured; else the fastest of the
    first `benchmark_limit` (0: all) of the library's ranking that fit the free memory (Conv_v8.cpp,
    `get_plans_from_find`)."""
    if offer.depthwise:
        return _pytorch(offer)
    measured = offer.named(FRAMEWORK_BENCHMARK)
    if measured and benchmark_limit == 10:
        return measured
    offer = offer.among(_tried_by_pytorch(offer))
    tried = offer.fitting()[: benchmark_limit or None]
    return quickest(tried) or offer.smallest()


def _pytorch_legacy(offer: Offer, *, benchmark: bool = False, deterministic: bool = False) -> Timing:
    """PyTorch before its graph API: the first of `cudnnGet…_v7` that can be allocated; with `benchmark` the fastest of
    `cudnnFind…Ex` that fits the free memory; `deterministic`: algorithm 1, or the fastest that is (Conv_v7.cpp)."""
    if offer.depthwise:
        return _pytorch(offer)
    if deterministic and not benchmark:
        return offer.numbered(1) or _deterministic(offer)
    if benchmark:
        return _deterministic(offer) if deterministic else fastest(offer.candidates, offer.limit_bytes)
    return next(iter(offer.fitting()), offer.smallest())


def _listed_for_xla(offer: Offer) -> list[Timing]:
    return offer.engines(*XLA_MODES)


def _tensorflow(offer: Offer, *, workspace_limit: int = 4096 * 2**20, autotune: bool = True) -> Timing:
    """TensorFlow: every candidate once, the fastest whose scratch is within the limit; where that cannot be allocated,
    the fastest that needs none. Without autotuning the first candidate (core/kernels/conv_ops_gpu.cc,
    `AllocateScratchOrFallback`; TF_CUDNN_WORKSPACE_LIMIT_IN_MB, TF_CUDNN_USE_AUTOTUNE)."""
    offer = offer.among(_listed_for_xla(offer))
    allowed = [timing for timing in offer.candidates if fits(timing, workspace_limit)] or [offer.smallest()]
    chosen = quickest(allowed) if autotune else allowed[0]
    if chosen and fits(chosen, offer.limit_bytes):
        return chosen
    return quickest(timing for timing in allowed if not workspace_bytes(timing)) or offer.smallest()


def _xla(offer: Offer, *, tolerance: float = 4e-6) -> Timing:
    """XLA, and so JAX: of the results within `tolerance` seconds of the fastest the one with the least scratch, among
    those that can be allocated (xla/service/gpu/autotuning/conv_algorithm_picker.cc, at autotune level 4)."""
    offer = offer.among(_listed_for_xla(offer))
    able = offer.fitting() or [offer.smallest()]
    least_s = min(timing.device_s for timing in able)
    close = [timing for timing in able if timing.device_s <= least_s + tolerance]
    return min(close, key=lambda timing: (workspace_bytes(timing), timing.device_s))


def _onednn_default(offer: Offer) -> Timing:
    """oneDNN by itself: the first of its list that fits, with the formats that it likes best
    (`dnnl_primitive_desc_create`); PyTorch's own op where it lists none."""
    listed = (timing for timing in offer.fitting() if timing.task.algorithm.library == LISTED.library)
    return next(listed, None) or _pytorch(offer)


def _mindspore(offer: Offer) -> Timing:
    """MindSpore with `conv_fprop_algo=normal` and its siblings: the first of `cudnnGet…_v7`, whatever workspace it
    takes; in fp16 algorithm 1 (`SelectForwardAlgorithm` and its siblings, of its GPU plugin)."""
    return _half(offer) or offer.candidates[0]


def _mindspore_performance(offer: Offer) -> Timing:
    """MindSpore with `conv_fprop_algo=performance`: the first of `cudnnFind…`, which can try only what it can allocate;
    in fp16 algorithm 1 (`SelectForwardAlgorithm` and its siblings, of its GPU plugin)."""
    return _half(offer) or fastest(offer.candidates, offer.limit_bytes)


def _half(offer: Offer) -> Timing | None:
    return offer.numbered(1) if offer.precision is Precision.FP16 else None


def _exhaustive(offer: Offer) -> Timing:
    """The fastest of everything timed that fits: what a search over all of it would find."""
    return fastest(offer.timings, offer.limit_bytes)


def _deterministic(offer: Offer) -> Timing:
    """The fastest that fits and whose results repeat bit by bit."""
    return fastest([timing for timing in offer.timings if deterministic(timing)] or offer.timings, offer.limit_bytes)


def by_rule(rule: Rule) -> Choose:
    """The choice of `rule` for each convolution, on predicted timings where there are no others."""

    def choose(query: Query) -> Choices:
        missing = [call.pair for call in query.calls if call.pair not in query.timings and _open(call)]
        timings = {**query.predict(list(dict.fromkeys(missing))), **query.timings} if missing else query.timings
        return [
            rule(_offer(call, timings[call.pair], query)).task.algorithm
            if _open(call) and timings.get(call.pair)
            else FRAMEWORK_DEFAULT
            for call in query.calls
        ]

    return choose


def _open(call: Call) -> bool:
    """Whether there is anything to choose."""
    return isinstance(call.pair[0], Convolution)


def _offer(call: Call, timings: Sequence[Timing], query: Query) -> Offer:
    layer, phase = call.pair
    named = [t for t in timings if not is_engine(t.task.algorithm)]
    return Offer(
        timings=timings,
        candidates=[t for t in named if t.task.algorithm.library != FRAMEWORK_DEFAULT.library] or named or timings,
        limit_bytes=call.limit_bytes,
        depthwise=isinstance(layer, Convolution) and layer.depthwise,
        precision=query.precision,
        operation=layer.computed_as(phase) if isinstance(layer, Convolution) else phase,
        lists=query.lists.get(call.pair, {}),
    )


OWN = (FRAMEWORK_DEFAULT, FRAMEWORK_BENCHMARK)
"""What the framework takes by itself."""


def ranked(timings: Sequence[Timing], ranking: Sequence[str] = ()) -> Sequence[Timing]:
    """The timings in the order of the library's own heuristic, `ranking`, which names its algorithms.

    What it does not name follows: the framework's own first, then by the library's numbers.
    """
    places = {name: place for place, name in enumerate(ranking)}

    def place(timing: Timing) -> tuple[int, bool, int, str]:
        algorithm = timing.task.algorithm
        number = len(timings) if algorithm.vendor_id is None else algorithm.vendor_id
        return places.get(algorithm.name, len(places)), algorithm not in OWN, number, algorithm.name

    return sorted(timings, key=place)


def latte(query: Query) -> Choices:
    """The fastest timed algorithm that fits the call's limit; for convolutions without timings what is selected."""
    untimed = [call for call in query.calls if not query.timings.get(call.pair) and _open(call)]
    selected = iter(query.select(untimed)) if untimed else iter(())
    return [
        fastest(timings, call.limit_bytes).task.algorithm
        if (timings := query.timings.get(call.pair))
        else next(selected)
        if _open(call)
        else FRAMEWORK_DEFAULT
        for call in query.calls
    ]


def fixed(name: str) -> Choose:
    """The algorithm `name` wherever it computes the pair, and the framework's default elsewhere."""

    def choose(query: Query) -> Choices:
        choices: Choices = []
        for call in query.calls:
            timings = query.timings.get(call.pair)
            able = [timing.task.algorithm for timing in timings] if timings else query.run_before(call.pair)
            named = (algorithm for algorithm in able if algorithm.name.upper() == name.upper())
            choices.append(next(named, FRAMEWORK_DEFAULT))
        return choices

    return choose


# Strategies by name

_TENSOR_CORES = {Precision.FP16: Layout.CHANNELS_LAST, Precision.TF32: Layout.CHANNELS_LAST}
_HALF = {Precision.FP16: Layout.CHANNELS_LAST}

_RULES: dict[str, tuple[Callable[..., Timing], Mapping[Precision, Layout]]] = {
    "pytorch": (_pytorch, {}),
    "pytorch-benchmark": (_pytorch_benchmark, {}),
    "pytorch-legacy": (_pytorch_legacy, {}),
    "tensorflow": (_tensorflow, _TENSOR_CORES),
    "xla": (_xla, _HALF),
    "mindspore": (_mindspore, {}),
    "mindspore-performance": (_mindspore_performance, {}),
    "onednn-default": (_onednn_default, {}),
    "exhaustive": (_exhaustive, {}),
    "deterministic": (_deterministic, {}),
}
"""Rules by the name of the strategy, with the layouts it takes for a whole model on a GPU."""

_ANYWHERE = ("latte", "pytorch", "onednn-default", "exhaustive", "deterministic")

NAMES = ("latte", *_RULES)
"""The strategies there are; `fixed:NAME` makes one more for each algorithm."""


def usual(kind: Kind) -> tuple[str, ...]:
    """The strategies that are worth comparing on a device of `kind`; a CPU leaves other frameworks no choice."""
    if not kind.offers_choice:
        return ("pytorch", "latte")
    return ("pytorch", "pytorch-benchmark", "tensorflow", "xla", "mindspore", "latte")


_FIXED = "fixed:"


def _switch(text: str, before: str) -> bool:
    if text.lower() not in ("on", "off", "true", "false", "1", "0"):
        raise LatteError(f"`{text}` is neither on nor off", hint=f"as in `{before}off`", exit_code=ExitCode.USAGE)
    return text.lower() in ("on", "true", "1")


def _count(text: str, before: str) -> int:
    if not text.isdecimal():
        raise LatteError(f"`{text}` is not a count", hint=f"as in `{before}20`", exit_code=ExitCode.USAGE)
    return int(text)


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "benchmark_limit": _count,
    "workspace_limit": size_bytes,
    "tolerance": duration_s,
    "benchmark": _switch,
    "deterministic": _switch,
    "autotune": _switch,
}


def by_name(text: str) -> Strategy:
    """The strategy called `text`: a name, and after a colon each of its knobs, as in `xla:tolerance=0.01ms`.

    Raises LatteError (exit code 2) for a name or a knob there is none of, and for a value that cannot be read.
    """
    if text.startswith(_FIXED) and text != _FIXED:
        return Strategy(name=text, choose=fixed(text.removeprefix(_FIXED)), layouts={})
    name, *knobs = text.split(":")
    if name == "latte" and not knobs:
        return Strategy(name=text, choose=latte, layouts={})
    if name not in _RULES:
        raise unknown("strategy", name if knobs and name != "fixed" else text, [*NAMES, _FIXED + "NAME"])
    rule, layouts = _RULES[name]
    given = dict(_knob(name, rule, knob) for knob in knobs)
    return Strategy(
        name=text, choose=by_rule(partial(rule, **given)), layouts=layouts, rule_of_gpu=name not in _ANYWHERE
    )


def _knob(strategy: str, rule: Callable[..., Timing], text: str) -> tuple[str, object]:
    """The name and value of one knob, `benchmark-limit=20`."""
    name, _, value = text.partition("=")
    key = name.strip().replace("-", "_")
    there = [one for one, about in inspect.signature(rule).parameters.items() if about.kind is about.KEYWORD_ONLY]
    if key not in there:
        raise unknown(f"knob of {strategy}", name.strip(), [one.replace("_", "-") for one in there] or ["none"])
    return key, _PARSERS[key](value.strip(), f"{strategy}:{name.strip()}=")


def fixed_name(name: str) -> str | None:
    """The algorithm that the strategy `name` fixes, or None for another strategy."""
    return name.removeprefix(_FIXED) if name.startswith(_FIXED) else None
