"""`latte train-estimator`: learn the times of layers that were not measured, from the rows of the store."""

from pathlib import Path
from typing import Annotated

import typer

from latte_cli.cli import console
from latte_cli.cli.options import FormatOption, LearnedDeviceOption, StoreOption, asked_of
from latte_cli.cli.training import learned_from, models_folder
from latte_cli.errors import LatteError
from latte_cli.precisions import Layout, Precision
from latte_cli.report import Format


def train_estimator(
    device: LearnedDeviceOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the estimators. [default: in the store]")
    ] = None,
    form: FormatOption = Format.TABLE,
    store: StoreOption = None,
) -> None:
    """Learn the times of layers that were not measured.

    Each device gets one estimator. It starts from a roofline for each kind and phase, or from the shipped estimator of
    a similar device if that is closer (not with --output). Boosted trees correct it. The table shows the errors on
    layers that the trees have not seen. `latte estimate` trains one itself when it has to predict a layer.
    """
    from latte_cli.lookup import Lookup
    from latte_cli.report.time_models import write_errors
    from latte_cli.store import open_store
    from latte_cli.time_model import fit_time_model, folder_name, prior_of, save_time_model

    opened = open_store(store, skip=console.left_out)
    slugs = learned_from(opened, device)
    folder = models_folder(opened, output)
    models = []
    with console.progress("fitting", len(slugs)) as bar:
        for done, slug in enumerate(slugs, start=1):
            timings = Lookup(opened, slug, precision=Precision.FP32, layout=Layout.NCHW).everything()
            rows = [timing for timing in timings if not timing.task.layer.free]
            if not rows:
                raise LatteError(f"`{slug}` has no times to learn from", hint="`latte profile --budget 2m` makes some")
            prior = None if output else prior_of(opened, slug, console.note)  # a file for others needs none
            models.append(fit_time_model(rows, opened.device(slug), opened.fingerprint(slug), prior=prior))
            bar.advance(done, slug)
    write_errors([model.card for model in models], form)
    for model in models:
        place = folder / folder_name(model.card.device)
        save_time_model(model, place)
        console.note(f"estimator in `{place}`")
    if output is None:
        console.note(f"next: `latte estimate MODEL.onnx {asked_of(opened.device(slugs[0]))}`")
