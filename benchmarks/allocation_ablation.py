"""What an allocation is worth by the way it is priced: FLOPs, one coefficient a device, one profile for all, LATTE.

A fleet of this machine in four forms, by threads and memory layout, each with a separate profile. Every form gets the
largest sub-model (one width for all groups) that is thought to end in time, priced in each way; then real steps of
these sub-models, in separate processes, are put on the clock. Says how many devices miss the round duration, how
long the others wait for it, and what they train. What was measured is kept: a second run goes on where the first
stopped. Takes about 40 minutes on two cores; leave the machine alone meanwhile.

    python benchmarks/allocation_ablation.py --store build/allocation [--output docs/allocation-ablation.md]
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from latte_cli import child
from latte_cli.allocator import SubModel, catalogue
from latte_cli.backends.torch.training import RunRequest
from latte_cli.backends.torch.whole import run_apart
from latte_cli.errors import ExitCode
from latte_cli.estimator import Estimator
from latte_cli.network import Network, load, zoo
from latte_cli.network.parts import Cutter
from latte_cli.precisions import Layout
from latte_cli.store import Store, open_store

NETWORKS = ("resnet18", "mobilenet_v2")
SIZE, BATCH = 224, 8
WIDTHS = tuple(at / 8 for at in range(8, 1, -1))  # at 1/8, channels_last corrupts the heap (1x1, stride 2, 8 channels)
MEASURED_WIDTHS = "1,0.75,0.5,0.25"
FRACTIONS = (0.3, 0.5, 0.7)
NAME, STRATEGY = "alloc", "pytorch"


@dataclass(frozen=True, kw_only=True)
class Form:
    """The machine with so many threads and activations laid out so."""

    threads: int
    layout: Layout

    def __str__(self) -> str:
        return f"{self.threads} threads, {self.layout}" if self.threads > 1 else f"1 thread, {self.layout}"


FORMS = tuple(Form(threads=threads, layout=layout) for threads in (2, 1) for layout in Layout)
WAYS = (
    "FLOPs, one rate for all devices",
    "FLOPs, one coefficient a device",
    "coefficients by algorithm (`beta`)",
    "the first device's profile for all",
    "its own profile, if it ran what LATTE selects",
    "its own profile, as PyTorch runs it",
)


def latte(*arguments: str) -> None:
    print("$ latte", *arguments, file=sys.stderr, flush=True)
    code = child.call("latte_cli.cli:main", "--quiet", *arguments, stdout=subprocess.DEVNULL)
    if code != ExitCode.DONE:
        sys.exit(f"latte {arguments[0]} ended with code {code}")


def profile(folder: Path, form: Form) -> None:
    """Measure the networks at some widths, for four minutes at most."""
    done = folder / f"profiled-{form.threads}-{form.layout}"
    if done.exists():
        return
    paths = [str(folder / f"{name}.onnx") for name in NETWORKS]
    sizes = ("--batch-size", str(BATCH), "--widths", MEASURED_WIDTHS, "--passes", "2", "--budget", "4m")
    settings = ("--threads", str(form.threads), "--layout", form.layout, "--name", NAME)
    latte("profile", *paths, *sizes, *settings, "--store", str(folder / "store"))
    done.touch()


def slug(store: Store, form: Form) -> str:
    return next(
        each.slug for each in store.devices() if each.slug.startswith(NAME) and each.slug.endswith(f"-{form.threads}t")
    )


def estimates(
    store: Store, form: Form, estimator: str, networks: Mapping[SubModel, Network], strategy: str = STRATEGY
) -> dict[SubModel, float]:
    """Seconds of a step with each sub-model."""
    made = Estimator(
        store, slug(store, form), threads=form.threads, layout=form.layout, strategy=strategy, estimator=estimator
    )
    return {sub_model: made.estimate(network).step_s for sub_model, network in networks.items()}


def priced(store: Store, networks: Mapping[SubModel, Network]) -> dict[str, dict[Form, dict[SubModel, float]]]:
    """For each way, the seconds of a step with each sub-model on each form of the machine."""
    by_flops = {form: estimates(store, form, "flops", networks) for form in FORMS}
    own = {form: estimates(store, form, "lookup", networks) for form in FORMS}
    pooled = {sub: median(times[sub] for times in by_flops.values()) for sub in networks}
    found = (
        dict.fromkeys(FORMS, pooled),
        by_flops,
        {form: estimates(store, form, "beta", networks) for form in FORMS},
        dict.fromkeys(FORMS, own[FORMS[0]]),
        {form: estimates(store, form, "lookup", networks, "latte") for form in FORMS},
        own,
    )
    return dict(zip(WAYS, found, strict=True))


def measured(folder: Path, name: str, networks: Mapping[SubModel, Network]) -> dict[Form, dict[SubModel, float]]:
    """Seconds of a real step of each sub-model on each form, in separate processes; kept in a file."""
    kept = folder / f"real-{name}.json"
    known = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    whole = load(folder / f"{name}.onnx", batch_size=BATCH)
    cutter = Cutter(folder / f"{name}.onnx", whole)
    found: dict[Form, dict[SubModel, float]] = {form: {} for form in FORMS}
    for sub_model in networks:
        path = folder / f"{name}-{sub_model.id}.onnx"
        path.write_bytes(cutter.part({group: range(width) for group, width in sub_model.widths}).onnx)
        for form in FORMS:
            key = f"{sub_model.id} {form}"
            if key not in known:
                run = RunRequest(
                    model=str(path), batch_size=BATCH, threads=form.threads, layout=form.layout, seconds=2.0, least=10
                )
                known[key] = [run_apart(run).median("step_s") for _ in range(2)]
                print(name, key, known[key], file=sys.stderr, flush=True)
                kept.write_text(json.dumps(known), "utf-8")
            found[form][sub_model] = min(known[key])
    return found


def report(folder: Path, store: Store) -> Iterable[str]:
    yield "# Allocation: what pricing in other ways costs"
    yield ""
    yield "`python benchmarks/allocation_ablation.py` prints this."
    yield ""
    yield f"Device `{slug(store, FORMS[0])}` in {len(FORMS)} forms: " + "; ".join(map(str, FORMS)) + "."
    yield f"Images of {SIZE} pixels, batch {BATCH}; widths of eighths; U in shares of the slowest whole model's step."
    yield "All devices run PyTorch's own algorithms, and real steps are on the clock."
    yield ""
    yield "| network | U | priced by | over 1.05 U | the latest | idle of the others | parameters trained |"
    yield "|---|--:|---|--:|--:|--:|--:|"
    for name in NETWORKS:
        whole = load(folder / f"{name}.onnx", batch_size=BATCH)
        subs = catalogue(whole, WIDTHS)
        networks = {sub_model: sub_model.of(whole) for sub_model in subs}
        ways, real = priced(store, networks), measured(folder, name, networks)
        slowest_s = max(times[subs[0]] for times in real.values())
        for fraction in FRACTIONS:
            duration_s = fraction * slowest_s
            for way, times in ways.items():
                chosen = {
                    form: max(
                        (sub for sub in subs if times[form][sub] <= duration_s),
                        key=lambda sub: sub.parameters,
                        default=subs[-1],
                    )
                    for form in FORMS
                }
                shares = [real[form][sub] / duration_s for form, sub in chosen.items()]
                late = [share for share in shares if share > 1.05]
                waiting = [1 - share for share in shares if share <= 1.05]
                kept = sum(sub.parameters for sub in chosen.values()) / len(FORMS) / subs[0].parameters
                idle = f"{max(0.0, sum(waiting) / len(waiting)):.0%}" if waiting else "-"
                yield (
                    f"| {name} | {fraction:.0%} | {way} | {len(late)} of {len(FORMS)} | {max(shares):.2f} U | {idle} | "
                    f"{kept:.0%} |"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("build/allocation"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    arguments.store.mkdir(parents=True, exist_ok=True)
    for name in NETWORKS:
        (arguments.store / f"{name}.onnx").write_bytes(zoo.export(name, image_size=SIZE, classes=10))
    for form in FORMS:
        profile(arguments.store, form)
    text = "\n".join(report(arguments.store, open_store(str(arguments.store / "store")))) + "\n"
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
