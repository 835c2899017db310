"""Strategies by name, with their knobs."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from latte_cli.devices import Kind
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.lookup import Timing
from latte_cli.precisions import Layout, Precision
from latte_cli.quantities import duration_s, size_bytes
from latte_cli.strategies import rules
from latte_cli.strategies.strategy import Need, Strategy, by_rule, choose_fixed, latte

_TENSOR_CORES = {Precision.FP16: Layout.CHANNELS_LAST, Precision.TF32: Layout.CHANNELS_LAST}
_HALF = {Precision.FP16: Layout.CHANNELS_LAST}

_RULES: dict[str, tuple[Callable[..., Timing], Mapping[Precision, Layout]]] = {
    "pytorch": (rules.pytorch, {}),
    "pytorch-benchmark": (rules.pytorch_benchmark, {}),
    "pytorch-legacy": (rules.pytorch_legacy, {}),
    "tensorflow": (rules.tensorflow, _TENSOR_CORES),
    "xla": (rules.xla, _HALF),
    "onnxruntime": (rules.onnxruntime, {}),
    "mindspore": (rules.mindspore, {}),
    "mindspore-performance": (rules.mindspore_performance, {}),
    "onednn-default": (rules.onednn_default, {}),
    "exhaustive": (rules.exhaustive, {}),
    "deterministic": (rules.deterministic_only, {}),
}
"""Rules by the name of the strategy, with the layouts it takes for a whole model on a GPU."""

_SEARCHES: dict[str, Callable[..., Sequence[Timing]]] = {"pytorch-benchmark": rules.benchmark_candidates}
"""What strategies run of a shape that they have not met, to choose among it; with the knobs of the rule."""

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


def _ort_search(text: str, before: str) -> str:
    if text.lower() not in rules.ORT_SEARCHES:
        raise unknown("search of ONNX Runtime", text, rules.ORT_SEARCHES)
    return text.lower()


_PARSERS: dict[str, Callable[[str, str], object]] = {
    "benchmark_limit": _count,
    "workspace_limit": size_bytes,
    "tolerance": duration_s,
    "benchmark": _switch,
    "deterministic": _switch,
    "autotune": _switch,
    "search": _ort_search,
    "max_workspace": _switch,
    "frontend": _switch,
}


def by_name(text: str) -> Strategy:
    """The strategy called `text`: a name, and after a colon each of its knobs, as in `xla:tolerance=0.01ms`.

    Raises LatteError (exit code 2) for an unknown name or knob, and for a value that cannot be read.
    """
    if text.startswith(_FIXED) and text != _FIXED:
        return Strategy(name=text, choose=choose_fixed(text.removeprefix(_FIXED)), need=Need.ALGORITHMS)
    name, *knobs = text.split(":")
    if name == "latte" and not knobs:
        return Strategy(name=text, choose=latte, need=Need.SELECTION)
    if name not in _RULES:
        raise unknown("strategy", name if knobs and name != "fixed" else text, [*NAMES, _FIXED + "NAME"])
    rule, layouts = _RULES[name]
    given = dict(_knob(name, rule, knob) for knob in knobs)
    return Strategy(
        name=text,
        choose=by_rule(partial(rule, **given)),
        search=partial(_SEARCHES[name], **given) if name in _SEARCHES else None,
        need=Need.TIMINGS,
        layouts=layouts,
        rule_of_gpu=name not in _ANYWHERE,
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
