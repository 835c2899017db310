"""What came of limits and comparisons: a table by layer, JSON, annotations for GitHub, test cases for JUnit readers."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TextIO
from xml.etree import ElementTree

from latte_cli.printable import printable
from latte_cli.report import Table, duration, percent, shorten, size, write_table
from latte_cli.thresholds import FITS, REGRESSION, Comparison, PhaseChange, ThresholdCheck

_MOST_CHANGES = 20  # chosen: fits a screen
_LEAST_CHANGE = 0.002  # chosen: a five-hundredth, which no one would act on


class Annotate(StrEnum):
    """For whom checks are written."""

    GITHUB = "github"
    JUNIT = "junit"


def sentence(check: ThresholdCheck) -> str:
    """What a check found, in words."""
    if check.quantity == REGRESSION:
        than = f"{percent(abs(check.value))} {'longer' if check.value >= 0 else 'shorter'} than in the baseline"
        if check.doubtful:
            return (
                f"the step is {than}, but may be within {percent(check.most)}: {interval_text(check.low, check.high)}"
            )
        return f"the step is {than}, {'within' if check.passed else 'more than'} {percent(check.most)}"
    if check.quantity == FITS:
        limit = f"{'within' if check.passed else 'more than'} {size(check.most)}"
        return f"a process that trains takes at least {size(check.value)}, {limit}"
    shown = size if check.quantity == "memory" else duration
    verb = "is within" if check.passed else "exceeds"
    return f"{check.quantity} {shown(check.value)} {verb} {shown(check.most)}"


def checks_json(checks: Sequence[ThresholdCheck], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """The keys `checks` and `comparisons` of an estimate's document, each only where there are some."""
    found: dict[str, Any] = {}
    if checks:
        found["checks"] = [
            {
                "device": each.device,
                "strategy": each.strategy,
                "quantity": each.quantity,
                "value": each.value,
                "most": each.most,
                "passed": each.passed,
                **({} if each.low is None else {"low_80": each.low, "high_80": each.high}),
            }
            for each in checks
        ]
    if comparisons:
        found["comparisons"] = [
            {
                "device": each.device,
                "strategy": each.strategy,
                "before_step_s": each.before_s,
                "after_step_s": each.after_s,
                "growth": each.growth,
                "growth_low_80": each.growth_80[0],
                "growth_high_80": each.growth_80[1],
                "changes": [_change(change) for change in largest_changes(each)],
            }
            for each in comparisons
        ]
    return found


def _change(change: PhaseChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "phase": change.phase,
        "before_s": change.before_s,
        "after_s": change.after_s,
        "before_algorithm": change.before_algorithm,
        "after_algorithm": change.after_algorithm,
    }


def largest_changes(comparison: Comparison) -> list[PhaseChange]:
    """What differs by a five-hundredth of the step, or in its algorithm; the largest differences first."""
    least_s = _LEAST_CHANGE * comparison.before_s
    found = [
        each
        for each in comparison.changes
        if abs(each.difference_s) > least_s or each.before_algorithm != each.after_algorithm
    ]
    return sorted(found, key=lambda each: -abs(each.difference_s))


def write_phase_changes(
    comparison: Comparison,
    out: TextIO | None = None,
    *,
    title: str = "since the baseline",
    names: tuple[str, str] = ("before", "now"),
) -> None:
    """Write what became of the layers since the baseline, or how the second of two sides differs from the first."""
    changed = largest_changes(comparison)
    footer = [f"and {len(changed) - _MOST_CHANGES} more"] if len(changed) > _MOST_CHANGES else []
    before, after = duration(comparison.before_s), duration(comparison.after_s)
    doubt = f", {interval_text(*comparison.growth_80)}" if changed else ""
    step = f"step {before} {names[0]}, {after} {names[1]}"
    footer.append(f"{step}: {signed_percent(comparison.growth)}{doubt}")
    rows = [
        (shorten(each.name), each.phase.replace("_", " "), *times_text(each), algorithms_text(each))
        for each in changed[:_MOST_CHANGES]
    ]
    heading = f"{title}: {comparison.strategy} on {comparison.device}"
    if not rows:
        (out or sys.stdout).writelines(f"{printable(line)}\n" for line in (heading, "no layer differs", *footer))
        return
    write_table(
        Table(
            title=heading,
            columns=("layer", "phase", f">{names[0]}", f">{names[1]}", ">difference", "algorithm"),
            rows=rows,
            footer=footer,
        ),
        out,
    )


def times_text(change: PhaseChange) -> tuple[str, str, str]:
    """The times before and now, and the difference."""
    sign = "+" if change.difference_s > 0 else "-" if change.difference_s < 0 else ""
    return duration(change.before_s), duration(change.after_s), sign + duration(abs(change.difference_s))


def algorithms_text(change: PhaseChange) -> str:
    """The algorithms before and now where they differ."""
    names = [name for name in (change.before_algorithm, change.after_algorithm) if name]
    return " -> ".join(dict.fromkeys(names)) if len(set(names)) > 1 else ""


def interval_text(low: float | None, high: float | None) -> str:
    """The 80 % interval of a growth, in words."""
    return f"80 % between {signed_percent(low or 0.0)} and {signed_percent(high or 0.0)}"


def signed_percent(share: float) -> str:
    """A growth as per cent, with its sign."""
    return f"{100 * share:+.1f} %"


# For pipelines


def write_github(checks: Sequence[ThresholdCheck], model: str, out: TextIO | None = None) -> None:
    """Write the checks as GitHub's workflow commands, which its runner shows next to the change."""
    out = out or sys.stderr
    for each in checks:
        level = "warning" if each.doubtful else "notice" if each.passed else "error"
        title = _property(printable(f"latte: {model}"))
        out.write(f"::{level} title={title}::{_data(printable(_line(each)))}\n")


def _line(check: ThresholdCheck) -> str:
    return f"{sentence(check)} ({check.strategy} on {check.device})"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_junit(checks: Sequence[ThresholdCheck], model: str, out: TextIO | None = None) -> None:
    """Write the checks as a JUnit test suite in XML, a test case each."""
    out = out or sys.stdout
    failed = sum(not each.passed for each in checks)
    suite = ElementTree.Element(
        "testsuite", name="latte", tests=str(len(checks)), failures=str(failed), errors="0", skipped="0"
    )
    for each in checks:
        name = f"{each.quantity} ({each.strategy} on {each.device})"
        case = ElementTree.SubElement(suite, "testcase", classname=f"latte.{printable(model)}", name=printable(name))
        if each.passed:
            ElementTree.SubElement(case, "system-out").text = printable(_line(each))
        else:
            failure = ElementTree.SubElement(case, "failure", type="exceeded", message=printable(sentence(each)))
            failure.text = printable(_line(each))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    out.write("<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(suites, encoding="unicode") + "\n")
