"""Events: what a file of torch.profiler says, read as a stream and kept slim."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Any, TypeAlias

from latte_cli.errors import LatteError

Dims: TypeAlias = tuple[tuple[int, ...], ...]
"""The shapes of an operator's inputs in their order; () for what is no tensor."""

_CHUNK = 1 << 20  # letters read at once
_LONGEST_EVENT = 1 << 20  # letters; an event of torch 2.13 has some hundreds, with stacks some thousands
_LONGEST_FACT = 1 << 24  # letters; what stands beside the events, of some kilobytes
_MOST_LETTERS = 1 << 32  # chosen: 4 GiB take minutes to read; a step of a large network has some 30 MB
_MOST_EVENTS = 1_000_000  # chosen: they take some 400 MB; a step of ResNet-50 has some 5,000
_LONGEST_NAME = 300  # letters; names of kernels with templates are longer, and are told apart by their beginning
_MOST_SIZES = 4096  # numbers in the shapes of one call; torch writes lists of tensors too

_TRUNCATED = "stop the profiler before `export_chrome_trace`, and copy the whole file"
_FEWER = "trace fewer steps: `schedule(wait=1, warmup=1, active=3)`"


class Category(StrEnum):
    """What kind of thing an event is."""

    OPERATOR = "cpu_op"
    ANNOTATION = "user_annotation"
    KERNEL = "kernel"
    LAUNCH = "runtime"


_CATEGORIES = {
    "cpu_op": Category.OPERATOR,
    "operator": Category.OPERATOR,  # before torch 1.12
    "user_annotation": Category.ANNOTATION,
    "kernel": Category.KERNEL,
    "gpu_memcpy": Category.KERNEL,
    "memcpy": Category.KERNEL,
    "gpu_memset": Category.KERNEL,
    "memset": Category.KERNEL,
    "cuda_runtime": Category.LAUNCH,
    "cuda_driver": Category.LAUNCH,
    "hip_runtime": Category.LAUNCH,
    "xpu_runtime": Category.LAUNCH,
    "runtime": Category.LAUNCH,
}
"""What torch.profiler calls its categories, in small letters."""


@dataclass(slots=True)
class Event:
    """Something that lasted, in seconds since the trace's own zero.

    `sequence` is that of the autograd node which an operator makes or which is evaluated, `forward_thread` that of its
    operator (0 where it is not one of backward). `correlation` links a kernel with its launch. -1 is unknown. `dims`,
    `types` and `values` are those of an operator's inputs, `strides` too where it is a convolution.
    """

    category: Category
    name: str
    thread: str
    start_s: float
    end_s: float
    sequence: int = -1
    forward_thread: int = 0
    correlation: int = -1
    dims: Dims | None = None
    types: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    strides: Dims | None = None

    @property
    def lasting_s(self) -> float:
        """How long it lasted."""
        return self.end_s - self.start_s


@dataclass(kw_only=True)
class ProfilerTrace:
    """A trace: its events in the order of their starts, its devices as the file describes them, and other facts.

    `unreadable` events had no valid form. `stacks` says that Python's own calls were traced too, which takes time.
    """

    events: list[Event] = field(default_factory=list)
    devices: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    unreadable: int = 0
    stacks: bool = False


class _Stream:
    """JSON's tokens from a text that is never held as a whole."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._buffer, self._at, self._read = text, "", 0, 0
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next letter that is no space; empty at the end."""
        while True:
            while self._at < len(self._buffer):
                if not self._buffer[self._at].isspace():
                    return self._buffer[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self, letters: str) -> str:
        """The next letter, which has to be one of these."""
        found = self.peek()
        if not found:
            raise LatteError("the trace is cut off", hint=_TRUNCATED)
        if found not in letters:
            raise LatteError(f"the trace is no JSON: `{found}` in place of `{letters[0]}`", hint=_TRUNCATED)
        self._at += 1
        return found

    def value(self, longest: int) -> Any:
        """The next value, of at most so many letters."""
        self.peek()
        while True:
            try:
                found, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError) as exc:
                if len(self._buffer) - self._at > longest:
                    raise LatteError(f"the trace is no JSON: {exc}", hint=_TRUNCATED) from exc
                if not self._more():
                    raise LatteError("the trace is cut off", hint=_TRUNCATED) from exc
                continue
            if end == len(self._buffer) and self._more():
                continue  # a number may go on
            self._at = end
            return found

    def _more(self) -> bool:
        chunk = self._text.read(_CHUNK)
        self._read += len(chunk)
        if self._read > _MOST_LETTERS:
            raise LatteError(f"the trace has more than {_MOST_LETTERS:,} letters", hint=_FEWER)
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return bool(chunk)


def read_trace(text: IO[str]) -> ProfilerTrace:
    """What a trace says; raises LatteError where it is cut off, too large, or no trace."""
    stream, keeper = _Stream(text), _Keeper()
    facts: dict[str, Any] = {}
    found = False
    if stream.peek() == "[":
        found = True
        _read_events(stream, keeper)
    else:
        for key in _keys(stream):
            if key == "traceEvents":
                found = True
                _read_events(stream, keeper)
            else:
                facts[key] = stream.value(_LONGEST_FACT)
    if not found:
        raise LatteError("there are no `traceEvents`", hint="it reads what `prof.export_chrome_trace` writes")
    keeper.trace.events.sort(key=lambda event: (event.start_s, -event.end_s))
    devices = facts.get("deviceProperties")
    keeper.trace.devices = [each for each in devices if isinstance(each, dict)] if isinstance(devices, list) else []
    keeper.trace.facts = facts
    return keeper.trace


def _keys(stream: _Stream) -> Iterator[str]:
    """The keys of an object, whose values the caller reads."""
    stream.take("{")
    if stream.peek() == "}":
        return
    while True:
        if stream.peek() != '"':
            stream.take('"')
        key = str(stream.value(_LONGEST_EVENT))
        stream.take(":")
        yield key
        if stream.take(",}") == "}":
            return


def _read_events(stream: _Stream, keeper: "_Keeper") -> None:
    stream.take("[")
    if stream.peek() == "]":
        stream.take("]")
        return
    while True:
        keeper.keep(stream.value(_LONGEST_EVENT))
        if stream.take(",]") == "]":
            return


class _Keeper:
    """Keeps what is read of the events, equal parts once."""

    def __init__(self) -> None:
        self.trace = ProfilerTrace()
        self._same: dict[Any, Any] = {}

    def keep(self, body: object) -> None:
        """Keep an event if it is of use."""
        if not isinstance(body, dict) or body.get("ph") != "X":
            return
        category = str(body.get("cat", "")).lower()
        self.trace.stacks |= category == "python_function"
        known = _CATEGORIES.get(category)
        if known is None:
            return
        if len(self.trace.events) >= _MOST_EVENTS:
            raise LatteError(f"the trace has more than {_MOST_EVENTS:,} events", hint=_FEWER)
        try:
            self.trace.events.append(self._event(known, body))
        except (KeyError, ValueError, TypeError, OverflowError):
            self.trace.unreadable += 1

    def _event(self, category: Category, body: Mapping[str, Any]) -> Event:
        start_s, lasting_s = float(body["ts"]) * 1e-6, float(body.get("dur", 0.0)) * 1e-6
        if not (math.isfinite(start_s) and math.isfinite(lasting_s) and lasting_s >= 0):
            raise ValueError("no time")
        facts = body.get("args")
        facts = {str(key).lower(): value for key, value in facts.items()} if isinstance(facts, dict) else {}
        event = Event(
            category,
            self._once(str(body["name"])[:_LONGEST_NAME]),
            self._once(f"{body.get('pid')} {body.get('tid')}"[:_LONGEST_NAME]),
            start_s,
            start_s + lasting_s,
            _whole(facts.get("sequence number")),
            max(0, _whole(facts.get("fwd thread id"))),
            _whole(facts.get("correlation")),
        )
        if category is Category.OPERATOR:
            event.dims = self._once(_dims(facts.get("input dims")))
            event.types = self._once(_texts(facts.get("input type")))
            if "conv" in event.name:
                event.strides = self._once(_dims(facts.get("input strides")))
            event.values = self._once(_texts(facts.get("concrete inputs")))
        return event

    def _once(self, value: Any) -> Any:
        return self._same.setdefault(value, value)


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else -1


def _dims(value: object) -> Dims | None:
    """The shapes as torch writes them; of a list of tensors one after the other."""
    if not isinstance(value, list) or len(value) > _MOST_SIZES:
        return None
    found: list[tuple[int, ...]] = []
    for each in value:
        if isinstance(each, list) and each and isinstance(each[0], list):
            found += [_shape(one) for one in each[:_MOST_SIZES]]
        else:
            found.append(_shape(each))
    return tuple(found) if sum(map(len, found)) <= _MOST_SIZES else None


def _shape(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        return ()
    if not all(isinstance(size, int) and 0 <= size < 2**63 for size in value):
        raise ValueError("no shape")
    return tuple(value)


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST_SIZES:
        return ()
    return tuple(str(each)[:_LONGEST_NAME] if isinstance(each, str) else "" for each in value)
