"""The links of `latte profile --links`: how fast the GPUs of this machine add up what each holds."""

from latte_cli.cli import console
from latte_cli.errors import LatteError
from latte_cli.report import Format

_ON_A_CPU = 2  # chosen: a CPU's processes share its cores; two are there to try it


def profile_links(device: str, form: Format) -> None:
    """Measure all-reduces among 2, 4, ... of this machine's devices and all of them, and print their links.

    Nothing is filed. Raises LatteError where there is a single GPU, and where a process fails.
    """
    from latte_cli import child
    from latte_cli.backends.torch.exchange import gpus_here, measure_exchanges
    from latte_cli.devices import KINDS, spec_named
    from latte_cli.estimator.links import fit_link
    from latte_cli.report.links import MeasuredLink, write_links

    spec = spec_named(device)
    if spec is None:
        raise LatteError(f"unknown device `{device}`", hint="`auto`, `cpu` or `cuda`")
    try:
        gpus = gpus_here()
        kind = spec.kind or next(kind for kind in KINDS.values() if kind.indexed == bool(gpus))
        there = gpus if kind.indexed else _ON_A_CPU
        if there < 2:
            raise LatteError(
                f"this machine has {'one GPU' if gpus else 'no GPU'}: there is no link to measure",
                hint="`--device cpu` tries it with two processes",
            )
        counts = sorted({*(2**power for power in range(1, there.bit_length()) if 2**power <= there), there})
        found = []
        with console.progress(f"measuring links of {kind}", len(counts)) as bar:
            for count in counts:
                exchanges = measure_exchanges(kind, count)
                found.append(MeasuredLink(processes=count, link=fit_link(exchanges, count), exchanges=exchanges))
                bar.advance(1)
    except (child.Ended, child.TimedOut) as exc:
        raise LatteError(f"a process that exchanges data {exc}", hint="`latte doctor` says what works here") from exc
    except ValueError as exc:
        raise LatteError(f"the link is not known: {exc}", hint="measure again while nothing else runs") from exc
    write_links(kind, found, form)
