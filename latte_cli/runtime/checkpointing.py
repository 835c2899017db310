"""Checkpointing: submodules whose forward pass runs again in the backward pass, by `torch.utils.checkpoint`."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from latte_cli.errors import LatteError

_SLICE = re.compile(r"(?P<path>.*)\[(?P<start>\d+):(?P<stop>\d+)\]")
_Slot: TypeAlias = tuple[nn.Module, str]


def set_checkpoints(module: nn.Module, names: Sequence[str]) -> None:
    """Checkpoint these parts of `module` and no others: paths of submodules, and slices of an `nn.Sequential`.

    Results and gradients are those without, with dropout too; buffers that a part writes, such as a norm's running
    statistics, are written once. The module's state, names and types stay. Raises LatteError for a part that is not
    there, and for slices that overlap.
    """
    if isinstance(names, str):
        raise LatteError(f"`{names}` is one name", hint=f"give a list of names, as in `[{names!r}]`")
    wholes: list[nn.Module] = []
    slices: dict[str, tuple[nn.Module, list[tuple[int, int]]]] = {}
    for name in dict.fromkeys(names):
        path, span = _parse(name)
        part = _part(module, path, name)
        if span is None:
            wholes.append(part)
        else:
            slices.setdefault(path, (part, []))[1].append(_check_span(part, span, name))
    for path, (_, spans) in slices.items():
        _check_apart(path, spans)
    for part in module.modules():
        _restore(part)
    for part in wholes:
        part.__dict__["forward"] = CheckpointedForward(part, part.__dict__.get("forward"))
    for part, spans in slices.values():
        part.__dict__["forward"] = SlicedForward(part, tuple(sorted(spans)), part.__dict__.get("forward"))


def _parse(name: str) -> tuple[str, tuple[int, int] | None]:
    found = _SLICE.fullmatch(name)
    return (found["path"], (int(found["start"]), int(found["stop"]))) if found else (name, None)


def _part(module: nn.Module, path: str, name: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError as exc:
        raise LatteError(f"the module has no part `{name}`", hint="it was chosen for another module") from exc


def _check_apart(path: str, spans: Sequence[tuple[int, int]]) -> None:
    for one, other in pairwise(sorted(spans)):
        if other[0] < one[1]:
            names = (f"`{path}[{start}:{stop}]`" for start, stop in (one, other))
            raise LatteError(f"{' and '.join(names)} overlap", hint="checkpoint one of them")


def _check_span(part: nn.Module, span: tuple[int, int], name: str) -> tuple[int, int]:
    plain = isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward
    if not plain or not span[0] < span[1] <= len(part):  # type: ignore[arg-type]
        raise LatteError(f"the module has no part `{name}`", hint="it was chosen for another module")
    return span


def _restore(part: nn.Module) -> None:
    """Let a part run as it did before it was checkpointed."""
    own = part.__dict__.get("forward")
    if isinstance(own, CheckpointedForward | SlicedForward):
        del part.__dict__["forward"]
        if own.before is not None:
            part.__dict__["forward"] = own.before


@dataclass
class CheckpointedForward:
    """Replaces the `forward` of a checkpointed module; `before` is the one that the module itself had, if any."""

    module: nn.Module
    before: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        run = self.before or partial(type(self.module).forward, self.module)
        return _checkpoint([self.module], run, *args, **kwargs)


@dataclass
class SlicedForward:
    """Replaces the `forward` of an `nn.Sequential` whose slices `spans` are checkpointed."""

    module: nn.Module
    spans: tuple[tuple[int, int], ...]
    before: Callable[..., Any] | None = None

    def __call__(self, x: Any) -> Any:
        parts = [*self.module.children()]
        ends = sorted({0, len(parts), *(end for span in self.spans for end in span)})
        for start, stop in pairwise(ends):
            own = parts[start:stop]
            x = _checkpoint(own, partial(_in_turn, own), x) if (start, stop) in self.spans else _in_turn(own, x)
        return x


def _in_turn(parts: Sequence[nn.Module], x: Any) -> Any:
    for part in parts:
        x = part(x)
    return x


def _checkpoint(parts: Sequence[nn.Module], run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return run(*args, **kwargs)
    writes = any(next(part.buffers(), None) is not None for part in parts)
    if torch.compiler.is_compiling() or not writes:  # torch.compile takes no contexts, and they cost a walk each
        return checkpoint(run, *args, use_reentrant=False, **kwargs)
    return checkpoint(run, *args, use_reentrant=False, context_fn=_Written(parts).contexts, **kwargs)


@dataclass
class _Written:
    """The buffers of `parts` that their forward pass writes, which its second run is to leave as they are."""

    parts: Sequence[nn.Module]
    slots: list[_Slot] = field(default_factory=list)

    def contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What the first and the second run of the forward pass are to run in."""
        return self._note_writes(), self._keep_values()

    def _buffers(self) -> Iterator[tuple[_Slot, Tensor]]:
        for module in dict.fromkeys(each for part in self.parts for each in part.modules()):
            for name, buffer in module.named_buffers(recurse=False):
                yield (module, name), buffer

    @contextmanager
    def _note_writes(self) -> Iterator[None]:
        before = {slot: (buffer, buffer._version) for slot, buffer in self._buffers()}
        yield
        for slot, buffer in self._buffers():
            old, version = before.get(slot, (None, -1))
            hidden = buffer.dim() < 2  # torch's norms write their statistics without counting a version
            if hidden or buffer is not old or buffer._version != version:
                self.slots.append(slot)

    @contextmanager
    def _keep_values(self) -> Iterator[None]:
        kept = [(module, name, tensor, tensor.clone()) for module, name, tensor in self._current()]
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, tensor, values in kept:
                    module._buffers[name] = tensor.copy_(values)

    def _current(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        for module, name in self.slots:
            tensor = module._buffers[name]
            if tensor is not None:
                yield module, name, tensor
