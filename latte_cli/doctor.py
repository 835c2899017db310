"""Doctor: what this machine has of what measuring needs, what is missing, and what to type."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from latte_cli import child
from latte_cli.backends import OPENERS, probes
from latte_cli.backends.contract import Finding, Looks, Opener, State
from latte_cli.backends.finding import module_finding

_PACKAGES = {"pyarrow": True, "xgboost": False}
"""Python packages that are tried, and whether measuring needs them."""

_SHARE_TOGETHER = (
    0.25  # chosen: of a probe's limit, for a group: 15 s are many for all, and few to lose to one that hangs
)


def device_choices() -> tuple[str, ...]:
    """The kinds of device that can be named, the host first."""
    return tuple(OPENERS)


def all_findings(
    device: str = "",
    *,
    root: Path = Path("/"),
    limit_s: float = probes.LIMIT_S,
    advance: Callable[[float, str], None] = lambda done, label: None,
) -> tuple[Finding, ...]:
    """What this machine has for `device`, or for all devices: in order, so that the first that is wanting is the cause.

    Libraries that may crash are tried in child processes, each for at most `limit_s` seconds; `advance` gets how
    many of `looks_for(device)` are done. `root` is the file system that drivers and boards are looked for in.
    """
    return tuple(_findings(device, root, limit_s, advance))


def looks_for(device: str = "") -> Looks:
    """The questions to this machine by name."""
    return tuple(name for group in _groups(device) for name in group)


def _groups(device: str) -> tuple[Looks, ...]:
    """The questions, those together that import the same."""
    return tuple(name for opener in _openers(device) for name in opener.looks()), tuple(_PACKAGES)


def _openers(device: str) -> list[Opener]:
    """Those for `device` and for its host, or all."""
    return [OPENERS[name] for name in (_needed_kinds(device) if device else OPENERS)]


def _needed_kinds(device: str) -> tuple[str, ...]:
    """The kinds whose findings `device` needs: the host's and its own."""
    return tuple(dict.fromkeys((device_choices()[0], device)))


def is_usable(found: Sequence[Finding], device: str) -> bool:
    """Whether `device` can be measured here, by the findings for it."""
    return first_missing(found, device) is None


def first_missing(found: Sequence[Finding], device: str) -> Finding | None:
    """The first finding without which `device` cannot be measured; None where it can."""
    needs = _needed_kinds(device)
    return next((finding for finding in found if finding.device in needs and finding.state is not State.OK), None)


def _findings(device: str, root: Path, limit_s: float, advance: Callable[[float, str], None]) -> Iterator[Finding]:
    answers = _answers(_groups(device), limit_s, advance)
    for opener in _openers(device):
        yield from opener.findings(answers, root, limit_s)
    for name, needed in _PACKAGES.items():
        yield module_finding(name, answers[name], device_choices()[0] if needed else "")


def _answers(groups: Sequence[Looks], limit_s: float, advance: Callable[[float, str], None]) -> dict[str, object]:
    """The answers of the probes by name, two processes at a time: more would only wait for each other's reading.

    A group that does not answer together is asked one by one.
    """
    answers: dict[str, object] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {pool.submit(probes.look_together, names, limit_s * _SHARE_TOGETHER): names for names in groups}
        try:
            while running:
                future = next(as_completed(running))
                names, found = running.pop(future), future.result()
                if found is None:
                    running |= {pool.submit(_look_alone, name, limit_s): (name,) for name in names}
                else:
                    answers |= found
                    advance(len(answers), names[-1])
        except BaseException:  # an interruption: no thread is waited for longer than its child takes to die
            pool.shutdown(wait=False, cancel_futures=True)
            child.end_all()
            raise
    return answers


def _look_alone(name: str, limit_s: float) -> dict[str, object]:
    return {name: probes.look(name, limit_s)}
