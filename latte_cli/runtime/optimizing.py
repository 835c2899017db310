"""Optimizing: a torch module made to run with the layout and the algorithms that were chosen for it."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from latte_cli.algorithms import corrupts_heap
from latte_cli.backends import opener_of
from latte_cli.backends.torch.layers import module_precision
from latte_cli.devices import kind_of_torch
from latte_cli.errors import LatteError, unknown
from latte_cli.estimator import AUTO, NONE, Limits
from latte_cli.network import Network, load
from latte_cli.precisions import Layout, Precision
from latte_cli.profiles import resolve_profile
from latte_cli.runtime.checkpointing import set_checkpoints
from latte_cli.runtime.choices import Choices, Key, matching_choices, read_choices
from latte_cli.runtime.convolution import Bindings, layer_of, tune_module, wrapper_s
from latte_cli.runtime.deciding import Wish, decide
from latte_cli.store import open_store
from latte_cli.strategies import by_name

M = TypeVar("M", bound=nn.Module)

_ATTRIBUTE = "_latte_applied"


@dataclass(kw_only=True)
class Optimization:
    """What `optimize` did to a module: the `choices` for each input it has decided on, and the bindings in force.

    `tuned` are the names of the convolutions that run with a chosen algorithm, `checkpoints` those of the parts that
    run again in the backward pass; `reasons` say why no more was done.
    """

    bindings: Bindings
    choices: list[Choices] = field(default_factory=list)
    layout: Layout | None = None
    tuned: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no more was done, each once."""
        said = [reason for each in self.choices for reason in each.reasons]
        said += [f"{what.name}: {why}" for what, why in self._refusals()]
        return tuple(dict.fromkeys(said))

    def _refusals(self) -> Iterator[tuple[Any, str]]:
        for pair, why in self.bindings.refused.items():
            yield self.bindings.algorithms[pair], why


def optimization_of(module: nn.Module) -> Optimization | None:
    """What `optimize` did to `module`; None for a module that it has not seen."""
    found = getattr(module, _ATTRIBUTE, None)
    return found if isinstance(found, Optimization) else None


def optimize(
    module: M,
    example: Tensor | tuple[Tensor, ...] | None = None,
    *,
    device: str | None = None,
    strategy: str = "latte",
    memory_limit: int | None = None,
    workspace_limit: int | None = None,
    checkpoint: str = NONE,
    optimizer: str = "sgd",
    choices: str | Path | Choices | None = None,
    store: str | None = None,
) -> M:
    """Make `module` run with the layout and the convolution algorithms that are fastest on this device; returns it.

    With `choices`, a file of `latte tune` or what one held, those are applied at once. Otherwise the profile of this
    device (`device` names another than this machine's own) decides for inputs like `example`; without an example for
    each shape that comes, when it comes first. `memory_limit` and `workspace_limit` are bytes that a step and one call
    may take. With `checkpoint="auto"`, where a step of training does not fit `memory_limit` otherwise, parts of the
    module run again in the backward pass instead of keeping their activations: those that cost least, which
    `optimization_of(module).checkpoints` names. The states of the `optimizer` count. Where less would be won than
    LATTE's estimates are sure of, the module stays as it is; `optimization_of(module).reasons` says why.

    A layout of `channels_last` changes the strides of parameters, inputs and activations, and nothing else; the
    module's state, hooks and types of layers stay. Raises LatteError for choices, a profile or a strategy that is not
    there.
    """
    by_name(strategy)
    if checkpoint not in (AUTO, NONE):
        raise unknown("checkpoint", checkpoint, (AUTO, NONE))
    if checkpoint == AUTO and memory_limit is None:
        raise LatteError("without a limit of memory nothing needs to be checkpointed", hint="give a `memory_limit`")
    state = Optimization(bindings=Bindings(precision=_precision(module)))
    object.__setattr__(module, _ATTRIBUTE, state)
    if choices is not None:
        _apply(module, state, _given_choices(choices, module, state.bindings.precision))
        return module
    limits = Limits(workspace_bytes=workspace_limit, memory_bytes=memory_limit)
    wish = Wish(strategy=strategy, limits=limits, optimizer=optimizer, checkpoint=checkpoint == AUTO)
    deciding = _Deciding(store=store, device=device, wish=wish, state=state)
    deciding.check(module)
    if example is not None:
        deciding.decide(module, example if isinstance(example, tuple) else (example,))
    else:
        module.register_forward_pre_hook(deciding)
    return module


def _precision(module: nn.Module) -> Precision:
    """The arithmetic of the module's first parameter of floating-point numbers."""
    types = (parameter.dtype for parameter in module.parameters() if parameter.is_floating_point())
    return module_precision(next(types, torch.float32)) or Precision.FP32


def _place(module: nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def own_key(place: torch.device, precision: Precision) -> Key:
    """The key of what runs on `place` in this process; raises LatteError for a kind that LATTE does not run."""
    opener, threads = opener_of(kind_of_torch(place.type)), _threads(place)
    versions, slug = opener.libraries(), opener.slug(place.index or 0, threads)
    if slug is None:
        raise LatteError(f"`{place}` cannot be named", hint="run `latte doctor`")
    return Key(
        device=slug,
        kind=opener.kind,
        threads=threads or 0,
        library_versions=tuple(sorted(versions)),
        precision=precision,
    )


def _threads(place: torch.device) -> int | None:
    """The threads that compute in this process, where that is part of a device's settings."""
    return torch.get_num_threads() if kind_of_torch(place.type).threaded else None


def _given_choices(choices: str | Path | Choices, module: nn.Module, precision: Precision) -> Choices:
    """The choices for this device, in a file or as they are."""
    if isinstance(choices, Choices):
        return choices
    own = own_key(_place(module), precision)
    entries = read_choices(Path(choices))
    found = matching_choices(entries, own)
    if found is None:
        there = "; ".join(dict.fromkeys(f"{each.key.device} in {each.key.precision}" for each in entries))
        raise LatteError(
            f"`{choices}` has no choices for `{own.device}` in {own.precision} with these libraries",
            hint=f"`latte tune MODEL -o {choices}` adds them; it has some for {there or 'nothing'}",
        )
    return found


@dataclass(kw_only=True)
class _Deciding:
    """A hook that decides for every shape of inputs when it comes first."""

    store: str | None
    device: str | None
    wish: Wish
    state: Optimization
    seen: dict[tuple[Any, ...], tuple[str, ...]] = field(default_factory=dict)
    busy: bool = False

    def __call__(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        if self.busy or torch.compiler.is_compiling():
            return
        key = tuple((tuple(x.shape), x.dtype) for x in given if isinstance(x, Tensor))
        if key not in self.seen:
            self.decide(module, given)
            self.seen[key] = self.state.checkpoints
        _checkpoint(module, self.state, self.seen[key])

    def check(self, module: nn.Module) -> None:
        """Raise LatteError where there is no profile to decide by."""
        self._slug(module)

    def _slug(self, module: nn.Module) -> str:
        place = _place(module)
        name = self.device or (place.type if place.index is None else str(place))
        return resolve_profile(open_store(self.store, skip=_warn), name, _threads(place))

    def decide(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.busy = True
        try:
            found = self._decide(module, given)
        finally:
            self.busy = False
        _apply(module, self.state, found)

    def _decide(self, module: nn.Module, given: tuple[Any, ...]) -> Choices:
        place = _place(module)
        threads = _threads(place)
        first = not self.state.choices
        wish = replace(
            self.wish,
            precision=self.state.bindings.precision,
            threads=threads,
            wrapper_s=wrapper_s(str(place)),
            layout=None if first and not _is_last(module) else self.state.layout or _layout(module),
        )
        _checkpoint(module, self.state, ())  # the network is read as it is by itself
        try:
            with _without_hooks(module):
                network = network_of(module, given)
            return decide(open_store(self.store, skip=_warn), self._slug(module), network, wish)
        except LatteError as exc:
            own = own_key(place, self.state.bindings.precision)
            return Choices(key=own, strategy=wish.strategy, reasons=(exc.message,))


def network_of(module: nn.Module, given: tuple[Any, ...]) -> Network:
    """The network that `module` is for inputs like those `given`; raises LatteError where it cannot be read."""
    if not all(isinstance(x, Tensor) for x in given):
        raise LatteError(
            f"`{type(module).__name__}` is called with more than tensors", hint="give an example of tensors"
        )
    return load(module, tuple(given))


def _is_last(module: nn.Module) -> bool:
    return _layout(module) is Layout.CHANNELS_LAST


def _layout(module: nn.Module) -> Layout:
    """The layout that the module's convolutions have their weights in."""
    weights = [each.weight for each in module.modules() if isinstance(each, nn.Conv2d) and each.weight.numel() > 1]
    last = [
        w.is_contiguous(memory_format=torch.channels_last) and not w.is_contiguous() for w in weights if w.shape[1] > 1
    ]
    return Layout.CHANNELS_LAST if any(last) else Layout.NCHW


@contextmanager
def _without_hooks(module: nn.Module) -> Iterator[None]:
    """Set the hooks of all parts aside: they are for real runs."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    kept: list[tuple[nn.Module, str, Mapping[int, Callable[..., object]]]] = []
    for each in module.modules():
        for kind in kinds:
            hooks = getattr(each, kind)
            if hooks:
                kept.append((each, kind, dict(hooks)))
                hooks.clear()
    try:
        yield
    finally:
        for each, kind, hooks in kept:
            getattr(each, kind).update(hooks)


def _apply(module: nn.Module, state: Optimization, choices: Choices) -> None:
    """Put `choices` into force in addition to those that are; not for a module that would not be safe with them."""
    if choices.layout is Layout.CHANNELS_LAST and (name := _unsafe(module)):
        reason = f"in channels_last PyTorch's own operator would write past its buffers at `{name}`"
        choices = replace(choices, layout=None, bindings=(), reasons=(*choices.reasons, reason))
    state.choices.append(choices)
    _checkpoint(module, state, choices.checkpoints)
    if choices.layout is Layout.CHANNELS_LAST and state.layout is None:
        state.layout = choices.layout
        convert: Callable[..., object] = module.to
        convert(memory_format=torch.channels_last)
        module.register_forward_pre_hook(_in_channels_last)
    if not choices.bindings:
        return
    state.bindings.algorithms |= choices.algorithms()
    layers = [each.layer for each in choices.bindings]
    wanted = {(layer.weight_shape, layer.stride, layer.dilation, layer.groups) for layer in layers}
    names = dict.fromkeys(state.tuned)
    for name, each in module.named_modules():
        key = None
        if type(each) is nn.Conv2d:
            key = (tuple(each.weight.shape), tuple(each.stride), tuple(each.dilation), each.groups)
        if key in wanted and type(each) is nn.Conv2d:
            tune_module(each, state.bindings)
            names[name] = None
        elif hasattr(each, "calls") and hasattr(each, "bindings"):
            each.calls.clear()
    state.tuned = tuple(names)


def _checkpoint(module: nn.Module, state: Optimization, names: tuple[str, ...]) -> None:
    """Checkpoint the parts called so, and no others."""
    if names != state.checkpoints:
        set_checkpoints(module, names)
        state.checkpoints = names


def _unsafe(module: nn.Module) -> str:
    """The name of a convolution that must not run in channels_last on a CPU; nothing where there is none."""
    for name, each in module.named_modules():
        if (
            not isinstance(each, nn.Conv2d)
            or max(each.kernel_size) > 1
            or kind_of_torch(each.weight.device.type).own_memory
        ):
            continue
        if corrupts_heap(layer_of(each, (1, each.in_channels, *each.stride))):
            return str(name)
    return ""


def _in_channels_last(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Images in channels_last; what comes so already is not copied."""
    return tuple(
        x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.dim() == 4 else x for x in given
    )


def _warn(error: LatteError) -> None:
    warnings.warn(f"left out: {error.message}; {error.hint}", stacklevel=3)
