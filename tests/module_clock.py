"""A clock that stands still but for the calls of modules, so that what is timed with it is known."""

from contextlib import AbstractContextManager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_hook


class ModuleClock(AbstractContextManager["ModuleClock"]):
    """While it is open, each call of a module takes what `costs_s` says for the module's type, others nothing."""

    def __init__(self, costs_s: dict[type[nn.Module], float]) -> None:
        self._costs_s, self._now_s = costs_s, 0.0
        self._hook = register_module_forward_hook(self._advance)

    def _advance(self, module: nn.Module, *_: Any) -> None:
        self._now_s += self._costs_s.get(type(module), 0.0)

    def __call__(self) -> float:
        return self._now_s

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
