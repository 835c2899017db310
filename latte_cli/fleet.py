"""Fleets: the devices of a federation, by class, and what each of them does in a round."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from latte_cli.errors import LatteError, unknown
from latte_cli.files import first_bytes
from latte_cli.precisions import Layout, Precision
from latte_cli.quantities import bandwidth_bit_per_s, duration_or_zero_s, duration_s, size_bytes
from latte_cli.schedule import Schedule

_LARGEST_FILE_BYTES = 1 << 20  # chosen: thousands of classes, and no file given by mistake
_MOST = 10**9  # chosen: more examples or devices than there are


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

    def with_defaults(self, *, strategy: str, optimizer: str) -> "Fleet":
        """The fleet with who chooses the algorithms, and the optimizer, in every class: a plan rests on both."""
        classes = (
            replace(each, strategy=each.strategy or strategy, optimizer=each.optimizer or optimizer)
            for each in self.classes
        )
        return replace(self, classes=tuple(classes))


def read_fleet(path: Path | str) -> Fleet:
    """The fleet in the YAML file at `path`; raises LatteError naming file, class and field of what is wrong."""
    return parse_fleet(file_content(path), source=f"`{path}`")


def file_content(path: Path | str, *, what: str = "fleet", example: str = "`latte allocate --help` shows one") -> bytes:
    """What is in the file at `path`, as far as `parse_yaml` takes it; LatteError where it cannot be read."""
    try:
        return first_bytes(path, _LARGEST_FILE_BYTES)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        raise LatteError(f"cannot read the {what} `{path}`: {reason}", hint=example) from exc


def parse_fleet(content: bytes, *, source: str) -> Fleet:
    """The fleet that `content` (YAML) describes; `source` names it in errors."""
    fields = Fields(parse_yaml(content, source), source)
    fields.check_names(("classes", "round_duration"))
    entries = fields.require("classes", parse_list)
    classes: dict[str, FleetClass] = {}
    for number, entry in enumerate(entries, start=1):
        found = _fleet_class(entry, source, number)
        if found.name in classes:
            raise LatteError(f"{source}: two classes are called `{found.name}`", hint="give each its own name")
        classes[found.name] = found
    return Fleet(classes=tuple(classes.values()), round_duration_s=fields.optional("round_duration", duration_s))


def _fleet_class(entry: object, source: str, number: int) -> FleetClass:
    if not isinstance(entry, dict):
        raise LatteError(f"{source}: class {number} is not a mapping of fields", hint="begin it with `- class: NAME`")
    name = Fields(entry, f"{source}, class {number}").require("class", text)
    fields = Fields(entry, f"{source}, class `{name}`")
    fields.check_names(_CLASS_FIELDS)
    bandwidth = Fields(fields.require("bandwidth", mapping), f"{fields.where}, `bandwidth`")
    bandwidth.check_names(("up", "down"))
    return FleetClass(
        name=name,
        device=fields.require("device", text),
        count=fields.optional("count", whole_number) or 1,
        samples=fields.require("samples", whole_number),
        epochs=fields.optional("epochs", whole_number) or 1,
        batch=fields.require("batch", whole_number),
        up_bit_per_s=bandwidth.require("up", bandwidth_bit_per_s),
        down_bit_per_s=bandwidth.require("down", bandwidth_bit_per_s),
        overhead_s=fields.optional("overhead", duration_or_zero_s) or 0.0,
        memory_bytes=fields.optional("memory", size_bytes),
        threads=fields.optional("threads", whole_number),
        precision=fields.optional("precision", _precision) or Precision.FP32,
        layout=fields.optional("layout", _layout) or Layout.NCHW,
        strategy=fields.optional("strategy", text),
        optimizer=fields.optional("optimizer", text),
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
class Fields:
    """A mapping of a file and where it stands; `example` is where such a file is shown.

    Every scalar in it is text. Its methods raise LatteError naming the place and the field.
    """

    values: Mapping[str, Any]
    where: str
    example: str = "`latte allocate --help` shows a fleet file"

    def check_names(self, names: Collection[str]) -> None:
        """Raise LatteError for a field that is not one of `names`."""
        for name in self.values:
            if name not in names:
                error = unknown("field", " ".join(name.split())[:40], names)
                raise LatteError(f"{self.where}: {error.message}", hint=error.hint)

    def require(self, name: str, parse: Callable[[Any], Any]) -> Any:
        """What `parse` makes of a field that has to be there."""
        found = self.optional(name, parse)
        if found is None:
            raise LatteError(f"{self.where}: `{name}` is missing", hint=self.example)
        return found

    def several(self, name: str, parse: Callable[[Any], Any]) -> tuple[Any, ...]:
        """What `parse` makes of each value of a list in one line or several; nothing where the field is not there."""
        values = self.optional(name, _values, single=False)
        entries = {f"{name}[{at}]": value for at, value in enumerate(values or (), start=1)}
        fields = Fields(entries, self.where, self.example)
        return tuple(fields.require(each, parse) for each in entries)

    def optional(self, name: str, parse: Callable[[Any], Any], *, single: bool = True) -> Any:
        """What `parse` makes of a field, None where it is not there; it is one value, unless `single` is false."""
        value = self.values.get(name)
        if value is None or value in ("", "~", "null"):
            return None
        try:
            if not isinstance(value, str) and single and parse not in (parse_list, mapping):
                raise LatteError("it is not a single value", hint="write it on one line, without dashes or braces")
            return parse(value)
        except LatteError as exc:
            raise LatteError(f"{self.where}: `{name}`: {exc.message}", hint=exc.hint) from exc


def _values(value: Any) -> list[Any]:
    return parse_list(value.split(",") if isinstance(value, str) else value)


def parse_list(value: Any) -> list[Any]:
    """A list that is not empty; like its siblings it raises LatteError for another value."""
    if not isinstance(value, list) or not value:
        raise LatteError("there has to be a list of at least one", hint="begin each with a dash, as in `- class: NAME`")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """A mapping of fields."""
    if not isinstance(value, dict):
        raise LatteError("there have to be fields in it", hint="as in `bandwidth: {up: 5Mbit, down: 20Mbit}`")
    return value


def text(value: str) -> str:
    """A name."""
    if not value.isprintable() or len(value) > 100:
        raise LatteError("it is not a name", hint="a name has at most 100 characters, all of them printable")
    return value


def whole_number(value: str) -> int:
    """A whole number of at least 1."""
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


def parse_yaml(
    content: bytes, source: str, *, what: str = "fleet", example: str = "`latte allocate --help` shows one"
) -> dict[str, Any]:
    """The mapping in `content` with every scalar as text: YAML's guesses at types (`no`, `1:30`) would mislead.

    Raises LatteError, with `example` as its hint, for what is no YAML and no mapping; `what` says what it should be.
    """
    if len(content) > _LARGEST_FILE_BYTES:
        raise LatteError(f"{source}: a {what} file is at most {_LARGEST_FILE_BYTES} bytes", hint="merge alike classes")
    import yaml

    class Loader(yaml.BaseLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            found = super().construct_mapping(node, deep=deep)
            if len(found) < len(node.value):
                raise yaml.constructor.ConstructorError(None, None, "a field is there twice", node.start_mark)
            return found

    try:
        found = yaml.load(content.decode("utf-8-sig"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as exc:
        raise LatteError(f"{source} is not YAML: {_problem(exc)}", hint=example) from exc
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise LatteError(f"{source} holds no {what}", hint=example)
    return found


def _problem(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    if isinstance(exc, RecursionError):
        return "it is nested too deeply"
    if isinstance(exc, UnicodeDecodeError):
        return "it is not UTF-8 text"
    problem = " ".join(str(getattr(exc, "problem", None) or getattr(exc, "reason", "")).split())
    return f"{problem} (line {mark.line + 1})" if mark else problem
