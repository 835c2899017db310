"""Fleets: the devices of a federation, by class, and what each of them does in a round."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from latte_cli.errors import LatteError, unknown
from latte_cli.quantities import bandwidth_bit_per_s, duration_s, size_bytes
from latte_cli.schedule import Schedule
from latte_cli.tasks import Layout, Precision

_LARGEST_FILE_BYTES = 1 << 20
_MOST = 10**9


class Objective(StrEnum):
    """What is made as large as it can be.

    `balanced` is Σ log(width / channels) over the groups, which keeps each of them wide enough; `parameters` is the
    number of parameters, which gives the widest layers most.
    """

    BALANCED = "balanced"
    PARAMETERS = "parameters"


class Method(StrEnum):
    """How a device's channels are chosen, where it keeps `width` of a group's.

    `nested`: the first ones (HeteroFL, FjORD). `rolling`: a window whose start moves by a sequence of the group's own
    from device to device and from round to round. `lock-step`: a window that starts one further each round, in all
    groups and for all devices alike (FedRolex). `least-trained`: those with the fewest examples in the frequency table,
    ties drawn. `random`: drawn. `importance`: those with the highest importance.
    """

    NESTED = "nested"
    ROLLING = "rolling"
    LOCK_STEP = "lock-step"
    LEAST_TRAINED = "least-trained"
    RANDOM = "random"
    IMPORTANCE = "importance"


@dataclass(frozen=True, kw_only=True)
class FleetClass:
    """`count` alike devices: the profile they have, the data they train on and the network they are on.

    `samples` are those of one device and epoch; `overhead_s` is what a round takes besides. What is None is left to the
    profile (`memory_bytes`, `threads`) or to who allocates (`strategy`, `optimizer`).
    """

    name: str
    device: str
    count: int = 1
    samples: int
    epochs: int = 1
    batch: int
    up_bit_per_s: float
    down_bit_per_s: float
    overhead_s: float = 0.0
    memory_bytes: int | None = None
    threads: int | None = None
    precision: Precision = Precision.FP32
    layout: Layout = Layout.NCHW
    strategy: str | None = None
    optimizer: str | None = None

    @property
    def schedule(self) -> Schedule:
        """What one device does in a round."""
        return Schedule(
            samples=self.samples, epochs=self.epochs, up_bit_per_s=self.up_bit_per_s, down_bit_per_s=self.down_bit_per_s
        )

    @property
    def steps(self) -> int:
        """Training steps of a round."""
        return self.epochs * -(-self.samples // self.batch)

    def round_s(self, step_s: float, parameters: int) -> float:
        """Seconds of a round: `steps` of `step_s`, the parameters down and up, and what it takes besides."""
        return self.steps * step_s + self.schedule.moving_s(parameters) + self.overhead_s


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The classes of a federation, and the duration of a round where the file says one."""

    classes: tuple[FleetClass, ...]
    round_duration_s: float | None = None


def read_fleet(path: Path | str) -> Fleet:
    """The fleet in the YAML file at `path`; raises LatteError naming file, class and field of what is wrong."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise LatteError(f"cannot read the fleet `{path}`: {reason}", hint="`latte allocate --help` shows one") from exc
    return parse_fleet(content, source=f"`{path}`")


def parse_fleet(content: bytes, *, source: str) -> Fleet:
    """The fleet that `content` (YAML) describes; `source` names it in errors."""
    fields = _Fields(_document(content, source), source)
    fields.known(("classes", "round_duration"))
    entries = fields.required("classes", _list)
    classes: dict[str, FleetClass] = {}
    for number, entry in enumerate(entries, start=1):
        found = _fleet_class(entry, source, number)
        if found.name in classes:
            raise LatteError(f"{source}: two classes are called `{found.name}`", hint="give each a name of its own")
        classes[found.name] = found
    return Fleet(classes=tuple(classes.values()), round_duration_s=fields.optional("round_duration", duration_s))


def _fleet_class(entry: object, source: str, number: int) -> FleetClass:
    if not isinstance(entry, dict):
        raise LatteError(f"{source}: class {number} is not a mapping of fields", hint="begin it with `- class: NAME`")
    name = _Fields(entry, f"{source}, class {number}").required("class", _text)
    fields = _Fields(entry, f"{source}, class `{name}`")
    fields.known(_CLASS_FIELDS)
    bandwidth = _Fields(fields.required("bandwidth", _mapping), f"{fields.where}, `bandwidth`")
    bandwidth.known(("up", "down"))
    return FleetClass(
        name=name,
        device=fields.required("device", _text),
        count=fields.optional("count", _whole) or 1,
        samples=fields.required("samples", _whole),
        epochs=fields.optional("epochs", _whole) or 1,
        batch=fields.required("batch", _whole),
        up_bit_per_s=bandwidth.required("up", bandwidth_bit_per_s),
        down_bit_per_s=bandwidth.required("down", bandwidth_bit_per_s),
        overhead_s=fields.optional("overhead", duration_s) or 0.0,
        memory_bytes=fields.optional("memory", size_bytes),
        threads=fields.optional("threads", _whole),
        precision=fields.optional("precision", _precision) or Precision.FP32,
        layout=fields.optional("layout", _layout) or Layout.NCHW,
        strategy=fields.optional("strategy", _text),
        optimizer=fields.optional("optimizer", _text),
    )


_CLASS_FIELDS = (
    "class",
    "device",
    "count",
    "samples",
    "epochs",
    "batch",
    "bandwidth",
    "overhead",
    "memory",
    "threads",
    "precision",
    "layout",
    "strategy",
    "optimizer",
)


@dataclass(frozen=True)
class _Fields:
    """A mapping of the file and where it stands."""

    values: Mapping[str, Any]
    where: str

    def known(self, names: tuple[str, ...]) -> None:
        for name in self.values:
            if name not in names:
                error = unknown("field", " ".join(name.split())[:40], names)
                raise LatteError(f"{self.where}: {error.message}", hint=error.hint)

    def required(self, name: str, parse: Callable[[Any], Any]) -> Any:
        found = self.optional(name, parse)
        if found is None:
            raise LatteError(f"{self.where}: `{name}` is missing", hint="`latte allocate --help` shows a fleet file")
        return found

    def optional(self, name: str, parse: Callable[[Any], Any]) -> Any:
        value = self.values.get(name)
        if value is None or value in ("", "~", "null"):
            return None
        try:
            if not isinstance(value, str) and parse not in (_list, _mapping):
                raise LatteError("it is not a single value", hint="write it on one line, without dashes or braces")
            return parse(value)
        except LatteError as exc:
            raise LatteError(f"{self.where}: `{name}`: {exc.message}", hint=exc.hint) from exc


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise LatteError("there has to be a list of at least one class", hint="begin each with `- class: NAME`")
    return value


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LatteError("there have to be fields in it", hint="as in `bandwidth: {up: 5Mbit, down: 20Mbit}`")
    return value


def _text(value: str) -> str:
    if not value.isprintable() or len(value) > 100:
        raise LatteError("it is not a name", hint="a name has at most 100 characters, all of them printable")
    return value


def _whole(value: str) -> int:
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= len(str(_MOST)) else 0
    if not 0 < number <= _MOST:
        shown = " ".join(value.split())[:40]
        raise LatteError(f"`{shown}` is not a whole number", hint=f"it is at least 1 and at most {_MOST}")
    return number


def _precision(value: str) -> Precision:
    _check(value, Precision)
    return Precision(value)


def _layout(value: str) -> Layout:
    _check(value, Layout)
    return Layout(value)


def _check(value: str, kind: type[StrEnum]) -> None:
    if value not in tuple(kind):
        raise unknown(kind.__name__.lower(), " ".join(value.split())[:40], kind)


def _document(content: bytes, source: str) -> dict[str, Any]:
    """The mapping in `content` with every scalar as text: YAML's guesses at types (`no`, `1:30`) would mislead."""
    if len(content) > _LARGEST_FILE_BYTES:
        raise LatteError(f"{source}: a fleet file is at most {_LARGEST_FILE_BYTES} bytes", hint="merge alike classes")
    import yaml

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            found = super().construct_mapping(node, deep=deep)
            if len(found) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a field is there twice", node.start_mark)
            return found

    try:
        document = yaml.load(content.decode("utf-8-sig"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise LatteError(f"{source} is not YAML: {_problem(exc)}", hint="`latte allocate --help` shows one") from exc
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise LatteError(f"{source} holds no fleet", hint="its first line is `classes:`")
    return document


def _problem(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8 text"
    problem = " ".join(str(getattr(exc, "problem", None) or getattr(exc, "reason", "")).split())
    return f"{problem} (line {mark.line + 1})" if mark else problem
