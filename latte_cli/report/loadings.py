"""The rate of a loader, as a table, JSON or CSV."""

from dataclasses import asdict

from latte_cli.loading import LoadingRate
from latte_cli.report import Format, Table, duration, write_csv, write_json, write_table


def write_loading(found: LoadingRate, form: Format) -> None:
    """Samples a second, their spread, and what was timed."""
    values = asdict(found)
    name = values.pop("target")
    if form is Format.JSON:
        write_json({"schema": "latte.loading/1", "loader": name, **values})
    elif form is Format.CSV:
        write_csv(["loader", *values], [(name, *values.values())])
    else:
        rows = [(rate_text(found.rate_per_s), rate_text(found.least_per_s), rate_text(found.most_per_s))]
        first = f"{found.batches} batches in {duration(found.seconds)}; the first took {duration(found.first_batch_s)}"
        columns = (">samples/s", ">least", ">most")
        write_table(Table(title=f"loaded by {name}", columns=columns, rows=rows, footer=[first]))


def rate_text(rate_per_s: float) -> str:
    """Samples a second in three digits, as `--loading-rate` takes them."""
    return f"{float(f'{rate_per_s:.3g}'):g}" if rate_per_s < 1e6 else f"{rate_per_s:.0f}"
