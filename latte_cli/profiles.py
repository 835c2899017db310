"""Profiles: which device's rows a name means, and which of them are this machine's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from latte_cli.backends import OPENERS, measurable, opener_of
from latte_cli.datasheets import Sheet, find_sheets, sheet_named, sheets, slug_words
from latte_cli.devices import Device, Kind, Spec, spec_named
from latte_cli.errors import ExitCode, LatteError, unknown
from latte_cli.store import Store


class NoProfile(LatteError):
    """A device of this machine, `spec`, has no rows in the store."""

    spec: Spec = Spec(kind=None)


_FEWEST_LETTERS = 5  # chosen: enough for one model of a maker, as in `t4000`
_ALIKE = 0.75  # chosen: one letter too many, too few or wrong in a word of four
_MOST_DEVICES = 16  # of one kind in a machine: as many as the largest servers hold


def resolve_profile(store: Store, device: str | None = None, threads: int | None = None) -> str:
    """The slug of the profile meant by `device`: a slug, its beginning (the fleet name it was made under), words
    that only one slug has (`h200`), or a device of this machine: `cpu`, `cuda:1`, `auto` or None (its first GPU if that
    has a profile, else its CPU). What names no profile may name a data sheet, whose slug it then is.

    Raises LatteError for a name that neither a profile nor a data sheet has, and NoProfile for a machine without a
    profile.
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
        meant = slugs_like(slugs, device) or [sheet.slug for sheet in find_sheets(device)]
    if len(meant) > 1:
        raise LatteError(f"`{device}` may be {len(meant)} devices", hint=f"`--device` one of: {', '.join(meant)}")
    if meant:
        return meant[0]
    raise _unknown_device(store, device, slugs)


def sheet_of(store: Store, slug: str) -> Sheet | None:
    """The data sheet of a device that has no profile; None for one that has, and for an unknown slug."""
    sheet = sheet_named(slug)
    return None if sheet is None or any(found.slug == slug for found in store.devices()) else sheet


def device_of(store: Store, slug: str) -> Device:
    """The device that `slug` names: that of a profile, else of a data sheet; raises LatteError where there is none."""
    sheet = sheet_of(store, slug)
    return sheet.device if sheet else store.device(slug)


def _unknown_device(store: Store, name: str, slugs: Sequence[str]) -> LatteError:
    """The error for a name that no device has; the nearest of profiles and data sheets is its hint."""
    there = f"available profiles: {', '.join(slugs)}" if slugs else f"`{store.uri}` has no profile yet"
    more = f"{there}; `latte devices` lists {len(sheets())} more by their data sheets; "
    hint = more + "`latte profile --budget 2m` makes a profile of this machine"
    known = [*slugs, *(sheet.slug for sheet in sheets())]
    error = unknown("device", name, known, hint=hint, exit_code=ExitCode.BAD_INPUT)
    if error.hint == hint and (near := _nearest_by_words(name, known)):
        error.hint = f"did you mean `{near}`?"
    error.hint = hint if error.hint == hint else f"{error.hint} {hint}"
    return error


def _nearest_by_words(name: str, slugs: Sequence[str]) -> str | None:
    """The first of `slugs` with as many words in a row that are like those of `name`; those that begin so go first."""
    wanted = slug_words(name)
    letters = wanted.replace("-", "")
    if len(letters) >= _FEWEST_LETTERS:
        joined = next((slug for slug in slugs if letters in slug.lower().replace("-", "")), None)
        if joined:
            return joined
    count = wanted.count("-") + 1
    runs: dict[str, str] = {}
    for at in range(max(slug.count("-") for slug in slugs) + 1):
        for slug in slugs:
            words = slug.lower().split("-")[at : at + count]
            if len(words) == count:
                runs.setdefault("-".join(words), slug)
    near = get_close_matches(wanted, runs, n=1, cutoff=_ALIKE)
    return runs[near[0]] if near else None


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


def _what_instead(kind: Kind) -> str:
    """What tells of a device that cannot be profiled."""
    if kind.imported_by:
        return f": `{kind.imported_by}` adds what others measured"
    return ": `latte devices` lists those with a data sheet"


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
            hint=f"such a device cannot be profiled here{_what_instead(spec.kind)}",
        )
    there = f"profiles of other machines: {', '.join(slugs)} (`--device NAME`); " if slugs else ""
    found = NoProfile(
        f"there is no profile of this machine{whose}" + (f" with {threads} threads" if threads else ""),
        hint=f"{there}`latte profile{option} --budget 2m` makes one, `latte estimate MODEL --measure 10s` a rough one",
    )
    found.spec = spec
    return found


@dataclass(frozen=True, kw_only=True)
class KnownDevice:
    """A device that `--device` may name: of a profile with so many `rows`, or known by its data `sheet` alone."""

    device: Device
    rows: int = 0
    shipped: bool = False
    sheet: Sheet | None = None

    @property
    def origin(self) -> str:
        """Where what is known of it comes from: `profile`, `shipped` or `data sheet`."""
        if self.sheet:
            return "data sheet"
        return "shipped" if self.shipped else "profile"


def known_devices(store: Store, name: str | None = None) -> list[KnownDevice]:
    """All devices that can be named, or those with the words of `name`: own profiles, shipped ones, data sheets.

    A device that has a profile by its sheet's name is listed once. Raises LatteError for a name that no device has.
    """
    infos = sorted(store.info().devices, key=lambda info: info.shipped)
    profiled = [KnownDevice(device=info.device, rows=info.rows, shipped=info.shipped) for info in infos]
    slugs = {each.device.slug for each in profiled}
    known = [*profiled, *(KnownDevice(device=each.device, sheet=each) for each in sheets() if each.slug not in slugs)]
    words = slug_words(name) if name else ""
    found = [each for each in known if words in each.device.slug.lower()]
    if not found:
        raise _unknown_device(store, name or "", sorted(slugs))
    return found
