"""The commands, by name. Each is imported on first use, because most command lines need one."""

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

import typer

_T = TypeVar("_T")


class _Imported(Mapping[str, _T]):
    """What the modules of a table hold, by the names there; a module is imported when its name is looked up."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> _T:
        module, _, variable = self._places[name].partition(":")
        found: _T = getattr(import_module(f"latte_cli.cli.{module}"), variable)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


COMMANDS: Mapping[str, Callable[..., Any]] = _Imported(
    {
        "profile": "profile:profile",
        "train-selector": "train_selector:train_selector",
        "train-estimator": "train_estimator:train_estimator",
        "estimate": "estimate:estimate",
        "explain": "explain:explain",
        "compare": "compare:compare",
        "verify": "verify:verify",
        "tune": "tune:tune",
        "report": "report:report",
        "allocate": "allocate:allocate",
        "simulate": "simulate:simulate",
        "devices": "devices:devices",
        "doctor": "doctor:doctor",
    }
)
GROUPS: Mapping[str, typer.Typer] = _Imported(
    {"plan": "plan:app", "import": "import_files:app", "store": "store:app", "zoo": "zoo:app"}
)
