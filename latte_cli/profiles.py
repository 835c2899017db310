"""Profiles: which device's rows a name means, and which of them are this machine's."""

import re
from collections.abc import Sequence

from latte_cli.backends import OPENERS, measurable, opener_of
from latte_cli.devices import Device, Spec, spec_named
from latte_cli.errors import LatteError
from latte_cli.store import Store


class NoProfile(LatteError):
    """A device of this machine, `spec`, has no rows in the store."""

    spec: Spec = Spec(kind=None)


_MOST_DEVICES = 16  # of one kind in a machine: as many as the largest servers hold


def resolve_profile(store: Store, device: str | None = None, threads: int | None = None) -> str:
    """The slug of the profile meant by `device`: a slug, its beginning (the fleet name it was made under), words
    that only one slug has (`h200`), or a device of this machine: `cpu`, `cuda:1`, `auto` or None (its first GPU if that
    has a profile, else its CPU).

    Raises LatteError for a name that is not in the store, and NoProfile for a machine without a profile.
    """
    slugs = [found.slug for found in store.devices()]
    spec = Spec(kind=None) if device is None else spec_named(device)
    if spec:
        meant = _of_this_machine(spec, store, threads)
        if not meant:
            raise _no_profile(slugs, threads, spec)
        device = "this machine"  # whose profiles have fleet names
    else:
        assert device is not None
        meant = slugs_like(slugs, device)
    if len(meant) > 1:
        raise LatteError(f"`{device}` may be {len(meant)} profiles", hint=f"`--device` one of: {', '.join(meant)}")
    return meant[0] if meant else store.device(device).slug


def threads_named(slug: str) -> int | None:
    """The number of threads in the slug of a CPU's profile; None for other devices."""
    found = re.search(r"-([0-9]+)t$", slug)
    return int(found[1]) if found else None


def spec_here(device: Device, threads: int | None) -> tuple[Spec, str | None] | None:
    """How the profiled `device` is opened on this machine, and its fleet name; None where it is another machine's."""
    if not measurable(device.kind):
        return None
    opener = opener_of(device.kind)
    for index in range(_MOST_DEVICES if device.kind.indexed else 1):
        slug = opener.slug(index, threads if device.kind.threaded else None)
        if slug and _is(device.slug, slug):
            return Spec(kind=device.kind, index=index), device.slug.removesuffix(slug).rstrip("-") or None
    return None


def slugs_like(slugs: Sequence[str], name: str) -> list[str]:
    """Those of `slugs` that are `name`, else begin with it, else have its words in a row, in upper or lower case."""
    if name in slugs:
        return [name]
    first = [slug for slug in slugs if slug.startswith(name + "-")]
    words = "" if name.isdecimal() else name.lower()  # `0` is no name of a device
    return first or [slug for slug in slugs if words and f"-{words}-" in f"-{slug.lower()}-"]


def _is(slug: str, own: str) -> bool:
    """Whether `slug` is `own`, with a fleet name or without."""
    return slug == own or slug.endswith("-" + own)


def _of_this_machine(spec: Spec, store: Store, threads: int | None) -> list[str]:
    """The profiles in the store itself of a device of this machine: of the best kind that has some."""
    slugs = [found.slug for found in store.devices(own=True)]
    kinds = [opener.kind for opener in OPENERS.values()] if spec.kind is None else [spec.kind]
    for kind in reversed(kinds):
        if spec.kind is None and threads is not None and not kind.threaded:
            continue  # threads that are set ask for a device that has them
        own = opener_of(kind).slug(spec.index, threads) if measurable(kind) else None
        found = _slugs_named(slugs, own, any_threads=kind.threaded and threads is None) if own else []
        if found:
            return found
    return []


def _slugs_named(slugs: Sequence[str], own: str, *, any_threads: bool) -> list[str]:
    """Those of `slugs` that are `own`: the very one, else those with a fleet name, else those with most threads."""
    if own in slugs:
        return [own]
    named = [slug for slug in slugs if _is(slug, own)]
    if named or not any_threads:
        return named
    pattern = re.compile(rf"(?:.*-)?{re.escape(re.sub(r'[0-9]+t$', '', own))}([0-9]+)t")
    others = [(int(match[1]), slug) for slug in slugs if (match := pattern.fullmatch(slug))]
    most = max(others, default=(0, ""))[0]
    return [slug for count, slug in others if count == most]


def _no_profile(slugs: Sequence[str], threads: int | None, spec: Spec) -> LatteError:
    asked = spec.kind is not None and spec.kind.own_memory  # a device other than the host was named
    whose, option = (f"'s {spec.kind.title}", f" --device {spec.kind}") if asked and spec.kind else ("", "")
    if spec.kind and not measurable(spec.kind):
        return LatteError(
            f"there is no profile of this machine{whose}",
            hint="such a device cannot be profiled here: `latte import miopen-finddb FILE` adds what others measured",
        )
    there = f"profiles of other machines: {', '.join(slugs)} (`--device NAME`); " if slugs else ""
    found = NoProfile(
        f"there is no profile of this machine{whose}" + (f" with {threads} threads" if threads else ""),
        hint=f"{there}`latte profile{option} --budget 2m` makes one, `latte estimate MODEL --measure 10s` a rough one",
    )
    found.spec = spec
    return found
