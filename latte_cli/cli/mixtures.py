"""Mixtures: the sizes of open dimensions, several of one in shares of the steps, as in `--shape seq=64:0.7,512:0.3`."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from latte_cli.cli.options import parse_share
from latte_cli.errors import ExitCode, LatteError

MOST_COMBINATIONS = 64  # chosen: the model is read and priced at each
_ROUNDING = 1e-3  # chosen: thirds with three decimals sum to 0.999
_MOST_DIGITS = 18  # of integers with 64 bits


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of a dimension, and its share of the steps; None where none is given."""

    size: int
    share: float | None = None


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A size of every dimension that is given, the `mixed` ones by themselves, and the share of the steps with them."""

    share: float
    shape: tuple[str, ...]
    mixed: tuple[tuple[str, int], ...]


def is_mixed(given: Sequence[str] | None) -> bool:
    """Whether one of the options `--shape` has several sizes, or a share."""
    return any(set(",:") & set(text.rpartition("=")[2]) for text in given or ())


def mixture(given: Sequence[str] | None) -> tuple[Combination, ...]:
    """Every combination of the sizes, with the product of their shares.

    Raises LatteError (exit code 2) for sizes without shares, for shares that do not sum to 1, and for too many.
    """
    dimensions = _dimensions(given)
    shares = {name: _shares(name, sizes) for name, sizes in dimensions.items() if len(sizes) > 1 or sizes[0].share}
    return tuple(
        Combination(
            share=prod(shares[name][at] for name, at, _ in chosen if name in shares),
            shape=tuple(f"{name}={size.size}" for name, _, size in chosen),
            mixed=tuple((name, size.size) for name, _, size in chosen if name in shares),
        )
        for chosen in _combinations(dimensions)
    )


def all_sizes(given: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Every combination of the sizes as `--shape` takes one; raises LatteError (exit code 2) as `mixture` does.

    Shares are left out of account, and need not be given.
    """
    return [tuple(f"{name}={size.size}" for name, _, size in chosen) for chosen in _combinations(_dimensions(given))]


def estimated_shape(given: Sequence[str] | None) -> tuple[str, ...]:
    """What `latte estimate` takes as `--shape` after `latte profile` was `given` these: one size where no share is."""
    try:
        mixture(given)
    except LatteError:
        return all_sizes(given)[0]
    return tuple(given or ())


def sizes_options(combinations: Sequence[Combination]) -> list[str]:
    """The options `--shape` with all sizes of these combinations, as `latte profile` takes them."""
    sizes: dict[str, dict[str, None]] = {}
    for text in (text for each in combinations for text in each.shape):
        name, _, size = text.rpartition("=")
        sizes.setdefault(name, {})[size] = None
    return shape_options([f"{name}={','.join(each)}" for name, each in sizes.items()])


def shape_options(shape: Sequence[str]) -> list[str]:
    """The options `--shape` as a shell takes them."""
    return [f"--shape {shlex.quote(text)}" for text in shape]


def _dimensions(given: Sequence[str] | None) -> dict[str, list[Size]]:
    found: dict[str, list[Size]] = {}
    for text in given or ():
        name, equals, value = (part.strip() for part in text.rpartition("="))
        sizes = [_size(part) for part in value.split(",")]
        if not name or not equals or None in sizes:
            message = f"`{_name_text(text)}` is not a size of a dimension"
            hint = "as in `--shape seq=128`, or `--shape seq=64:0.7,512:0.3`"
            raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
        known = [size for size in sizes if size]
        if found.setdefault(name, known) != known:
            message = f"`{_name_text(name)}` has two sizes"
            hint = f"give it once; `{_name_text(name)}=64:0.7,512:0.3` mixes sizes"
            raise LatteError(message, hint=hint, exit_code=ExitCode.USAGE)
        if len({size.size for size in known}) < len(known):
            message = f"`{_name_text(text)}` names a size twice"
            raise LatteError(message, hint="name each size once, with its whole share", exit_code=ExitCode.USAGE)
    return found


def _size(text: str) -> Size | None:
    number, colon, share = (part.strip() for part in text.partition(":"))
    if not number.isdecimal() or len(number) > _MOST_DIGITS:
        return None
    return Size(size=int(number), share=parse_share(share) if colon else None)


def _combinations(dimensions: dict[str, list[Size]]) -> Iterator[tuple[tuple[str, int, Size], ...]]:
    """Each choice of a size for every dimension: its name, the place of the size in the list, and the size."""
    count = prod(map(len, dimensions.values()))
    if count > MOST_COMBINATIONS:
        message = f"these sizes make {count} combinations, more than {MOST_COMBINATIONS}"
        raise LatteError(message, hint="give fewer sizes of each dimension", exit_code=ExitCode.USAGE)
    lists = ([(name, at, size) for at, size in enumerate(sizes)] for name, sizes in dimensions.items())
    yield from product(*lists)


def _shares(name: str, sizes: Sequence[Size]) -> list[float]:
    """The shares of a dimension's sizes, which sum to 1 to within rounding, so that they do exactly."""
    given = [size.share for size in sizes]
    known = [share for share in given if share is not None]
    if len(known) < len(given):
        message = f"`{_name_text(name)}` has several sizes, and not every one has a share of the steps"
        raise _no_shares(message, name, sizes, [1 / len(sizes)] * len(sizes))
    total = sum(known)
    if abs(total - 1) > _ROUNDING + 1e-9:
        message = f"the shares of the sizes of `{_name_text(name)}` sum to {total:.4g}, not to 1"
        raise _no_shares(message, name, sizes, [share / total for share in known])
    return [share / total for share in known]


def _no_shares(message: str, name: str, sizes: Sequence[Size], shares: Sequence[float]) -> LatteError:
    """The error for shares that are missing or wrong, which shows `shares` that would do."""
    right = ",".join(f"{size.size}:{share:.4g}" for size, share in zip(sizes, shares, strict=True))
    hint = f"as in `--shape {_name_text(name)}={right}`"
    return LatteError(message, hint=hint, exit_code=ExitCode.USAGE)


def _name_text(text: str) -> str:
    return " ".join(text.split())[:40]
