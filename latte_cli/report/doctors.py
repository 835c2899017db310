"""What the doctor found, as table, JSON or CSV."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple

from latte_cli.backends.contract import Finding
from latte_cli.printable import printable
from latte_cli.report import Format, Table, write_csv, write_json, write_table

_COLUMNS = ("subject", "state", "text", "path", "hint", "device")


def write_findings(found: Sequence[Finding], usable: Mapping[str, bool], form: Format) -> None:
    """The findings, and by device whether it can be measured."""
    if form is Format.JSON:
        write_json(
            {"schema": "latte.doctor/1", "usable": dict(usable), "findings": [asdict(finding) for finding in found]}
        )
    elif form is Format.CSV:
        write_csv(_COLUMNS, [astuple(finding) for finding in found])
    else:
        rows = [(finding.subject, finding.state, finding.text) for finding in found]
        write_table(Table(columns=("what", "state", "what there is"), rows=rows))
        # Separate lines are neither folded nor cut: paths and commands are there to be copied.
        _write_lines("where", [(finding.subject, finding.path) for finding in found])
        _write_lines("what to do", [(finding.subject, finding.hint) for finding in found])
        _write_lines("can be measured here", [(name, "yes" if can else "no") for name, can in usable.items()])


def _write_lines(title: str, lines: Sequence[tuple[str, str]]) -> None:
    told = [f"  {printable(f'{subject}: {text}')}\n" for subject, text in lines if text]
    if told:
        sys.stdout.writelines((f"{title}\n", *told))
