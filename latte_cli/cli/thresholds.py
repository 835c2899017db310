"""Checking estimates against thresholds and a baseline, for pipelines."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from latte_cli import thresholds
from latte_cli.cli import console
from latte_cli.errors import ExitCode, LatteError
from latte_cli.report.thresholds import Annotate, checks_json, sentence, write_github, write_junit, write_phase_changes

AnnotateOption: TypeAlias = Annotated[
    Annotate | None,
    typer.Option(
        help="Also write the result of each limit: as annotations for GitHub, on stderr, or as JUnit XML instead of "
        "the table."
    ),
]


class EstimateFormat(StrEnum):
    """How `estimate` writes its result."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    TRACE = "trace"
    MARKDOWN = "markdown"


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """The `limits` of estimates, and a growth of at most `most` over the `baseline`."""

    limits: Sequence[thresholds.Threshold]
    baseline: thresholds.Document | None
    most: float | None
    annotate: Annotate | None

    @classmethod
    def of(
        cls,
        limits: Sequence[thresholds.Threshold] | None,
        baseline: Path | None,
        most: float | None,
        annotate: Annotate | None,
        form: EstimateFormat,
        *,
        room: bool = False,
    ) -> "Requirements":
        """The requirements that the options state; `room` says that there is a limit of the process too.

        Reads the baseline, and raises LatteError as that does.
        """
        if most is not None and baseline is None:
            raise LatteError(
                "`--max-regression` needs something to compare with",
                hint="add `--baseline FILE`, which `latte estimate MODEL --format json > FILE` writes",
                exit_code=ExitCode.USAGE,
            )
        if annotate and not limits and most is None and not room:
            raise LatteError(
                "`--annotate` has nothing to say without a limit",
                hint="add `--fail-above 50ms`, `--fits 8GiB`, or `--baseline FILE --max-regression 5%`",
                exit_code=ExitCode.USAGE,
            )
        if annotate is Annotate.JUNIT and form is not EstimateFormat.TABLE:
            raise LatteError(
                f"`--annotate junit` and `--format {form}` both write to stdout",
                hint="run the command twice",
                exit_code=ExitCode.USAGE,
            )
        document = None if baseline is None else thresholds.read_estimates(baseline)
        return cls(limits=tuple(limits or ()), baseline=document, most=most, annotate=annotate)

    @property
    def replaces_the_table(self) -> bool:
        """Whether stdout is for the annotations."""
        return self.annotate is Annotate.JUNIT

    def check(self, document: thresholds.Document) -> "CheckResults":
        """What came of the estimates in `document`; raises LatteError where there is nothing to compare."""
        compared = thresholds.compare_estimates(self.baseline, document) if self.baseline else []
        doubts = thresholds.baseline_doubts(self.baseline, document) if self.baseline else []
        checks = thresholds.check_thresholds(document, self.limits)
        if self.most is not None:
            checks += thresholds.check_regressions(compared, self.most)
        return CheckResults(checks=checks, comparisons=compared, annotate=self.annotate, doubts=doubts)


@dataclass(frozen=True, kw_only=True)
class CheckResults:
    """What came of checking estimates."""

    checks: Sequence[thresholds.ThresholdCheck]
    comparisons: Sequence[thresholds.Comparison]
    annotate: Annotate | None
    doubts: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """What the document of the estimates says of it."""
        return checks_json(self.checks, self.comparisons)

    def write(self, model: str, form: EstimateFormat, fits: Sequence[thresholds.ThresholdCheck] = ()) -> None:
        """Write the comparisons below a table, and the annotations, with those of what `fits`."""
        checks = [*self.checks, *fits]
        if self.annotate is Annotate.JUNIT:
            write_junit(checks, model)
        elif form is EstimateFormat.TABLE:
            for each in self.comparisons:
                write_phase_changes(each)
        if self.annotate is Annotate.GITHUB:
            write_github(checks, model)
        for text in self.doubts:
            console.warn(text)
        for check in checks:
            if check.doubtful:
                console.warn(f"{sentence(check)}; `latte profile MODEL` on the device measures what changed")

    def enforce(self) -> None:
        """Raise LatteError (exit code 3) where something is over its limit."""
        failed = [each for each in self.checks if not each.passed]
        if not failed:
            return
        worst = max(failed, key=lambda each: each.value / each.most if each.most else each.value)
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise LatteError(
            f"{sentence(worst)} (`{worst.strategy}` on `{worst.device}`){more}",
            hint=_REGRESSED if worst.quantity == thresholds.REGRESSION else _TOO_MUCH,
            exit_code=ExitCode.EXCEEDED,
        )


_REGRESSED = "the table lists the layers that moved; if the change is intended, write the baseline again"
_TOO_MUCH = "a smaller `--batch-size` or a sub-model (`latte allocate`) shortens the step"
