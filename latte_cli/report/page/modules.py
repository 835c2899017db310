"""Where the time of a step goes by module, as boxes within boxes."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from latte_cli.estimator import BESIDE, Estimate

_LEAST = 0.004  # chosen: of the step; narrower boxes are a pixel or two on a phone
_MOST_PIECES = 32  # chosen: of a path; no module of a real model lies deeper
_DEEPEST = 8  # chosen: levels; deeper ones hold little that the table of calls does not have
_SEPARATORS = re.compile(r"[./]")


@dataclass(frozen=True, kw_only=True)
class Box:
    """A module, with its `share` of its parent's time and of the whole step's, and the modules within it.

    `others` counts the modules that are too small for a box each.
    """

    name: str
    path: str
    time_s: float
    share: float
    of_parent: float
    calls: int
    boxes: tuple["Box", ...] = ()
    others: int = 0

    @property
    def own(self) -> float:
        """The share of its time that no box within it has."""
        return max(0.0, 1.0 - sum(box.of_parent for box in self.boxes)) if self.boxes else 0.0

    def all_boxes(self) -> Iterator["Box"]:
        """It and all boxes within it, as a reader meets them."""
        yield self
        for box in self.boxes:
            yield from box.all_boxes()


@dataclass
class _Module:
    time_s: float = 0.0
    calls: int = 0
    parts: dict[str, "_Module"] = field(default_factory=dict)


def module_boxes(estimate: Estimate) -> Box:
    """The step of `estimate` as a box of its modules' boxes, by the paths in the names of its layers."""
    root = _Module()
    for part in estimate.parts:
        path = [part.name] if part.name in BESIDE or part.name.startswith("(") else _path(part.name)
        time_s = part.count * part.device_s
        for module in _modules(root, path):
            module.time_s += time_s
            module.calls += bool(time_s)
    return _box("the step", "", root, root.time_s or 1.0, root.time_s or 1.0, 0)


def _path(name: str) -> list[str]:
    return [piece for piece in _SEPARATORS.split(name, _MOST_PIECES) if piece] or [name]


def _modules(root: _Module, path: list[str]) -> Iterator[_Module]:
    """The modules along a path, from the outermost on; those that are not there are made."""
    yield root
    for piece in path:
        root = root.parts.setdefault(piece, _Module())
        yield root


def _box(name: str, path: str, module: _Module, total_s: float, parent_s: float, depth: int) -> Box:
    """A module's box; one whose only part takes all of its time bears that part's name too."""
    while path and len(module.parts) == 1:
        [(inner, only)] = module.parts.items()
        if only.time_s < module.time_s:
            break
        name, path, module = f"{name}.{inner}", f"{path}.{inner}", only
    return Box(
        name=name,
        path=path,
        time_s=module.time_s,
        share=module.time_s / total_s,
        of_parent=module.time_s / parent_s if parent_s else 0.0,
        calls=module.calls,
        boxes=tuple(_boxes(path, module.parts, module.time_s, total_s, depth)) if depth < _DEEPEST else (),
    )


def _boxes(path: str, parts: Mapping[str, _Module], parent_s: float, total_s: float, depth: int) -> Iterator[Box]:
    """The boxes of a module's parts, and one for all that are small."""
    large = {name: part for name, part in parts.items() if part.time_s >= _LEAST * total_s}
    small = [part for name, part in parts.items() if name not in large and part.time_s]
    for name, part in large.items():
        yield _box(name, f"{path}.{name}" if path else name, part, total_s, parent_s, depth + 1)
    if small:
        time_s, calls = sum(part.time_s for part in small), sum(part.calls for part in small)
        if time_s >= _LEAST * total_s:
            yield Box(
                name=f"{len(small)} more",
                path=f"{path}: {len(small)} more" if path else f"{len(small)} more",
                time_s=time_s,
                share=time_s / total_s,
                of_parent=time_s / parent_s,
                calls=calls,
                others=len(small),
            )
