"""Hostile files: each is read, or refused in one line, within limits, and nothing else is touched.

`python tests/torture/files.py [--count 1000] [--seed 1] [--only KIND,...] [--keep DIR]` tries so many files of all
kinds. Each is decided by its kind, the seed and its number: `--case KIND:NUMBER` tries one again. It prints how many
files of each kind were read and refused, and each fault, and ends with 1 if there is one.
"""

import argparse
import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

LONGEST_LINE = 3000  # letters that a command says on stderr
STUCK_S = 40  # CPU time after which the process is killed
WORKERS = 2
XDG = ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
DEVICE = "reference-amd-epyc-family-26-model-2-2c-2t"


class Kind(NamedTuple):
    """A kind of file: its ending, how a damaged one is made, and how one is tried."""

    name: str
    ending: str
    make: Callable[[random.Random], bytes]
    attempt: Callable[[Path, random.Random], None]
    weight: int = 1


# How files are tried


class Fault(Exception):
    """What should not have happened."""


class Refused(Exception):
    """What should happen to most of these files."""


def check_error(error: Any) -> None:
    """Raise Refused for a LatteError, Fault for one that does not say what to do."""
    if not error.hint:
        raise Fault(f"no hint: {error.message[:200]!r}")
    raise Refused


def command(*words: object) -> None:
    """Run the command line in this process; Fault where what it says or how it ends is not fit for a user."""
    import running

    from latte_cli.errors import ExitCode

    done = running.ended(*words)
    said = done.stdout + done.stderr
    if "Traceback" in said:
        raise Fault(f"a traceback: {said[-300:]!r}")
    if odd := [
        letter for letter in said if (ord(letter) < 32 and letter not in "\n\t") or letter in "\x7f\x9b\u202e\u2066"
    ]:
        raise Fault(f"{odd[0]!r} reaches the terminal")
    if longest := max((len(line) for line in done.stderr.splitlines()), default=0) > LONGEST_LINE:
        raise Fault(f"a line of {longest} letters")
    if done.returncode not in tuple(ExitCode):
        raise Fault(f"ended with {done.returncode}")
    if done.returncode == ExitCode.BAD_INPUT and "hint:" not in done.stderr:
        raise Fault(f"no hint: {done.stderr[-300:]!r}")
    if done.returncode not in (ExitCode.DONE, ExitCode.EXCEEDED):
        raise Refused


@cache
def good_model() -> Path:
    """A small network in a file."""
    from latte_cli.network import zoo

    path = Path(tempfile.mkdtemp()) / "good.onnx"
    path.write_bytes(zoo.export("custom_cnn", image_size=16))
    return path


@cache
def estimator() -> Any:
    """The estimator of the shipped CPU."""
    from latte_cli.estimator import Estimator
    from latte_cli.store import open_store

    return Estimator(open_store(os.devnull + "-none"), DEVICE)


def try_model(path: Path, draw: random.Random) -> None:
    """Read a model, and estimate a step of what was read; now and then by the command."""
    from latte_cli.errors import LatteError
    from latte_cli.network import load

    if draw.random() < 0.02:
        form = draw.choice(("table", "json", "csv", "trace"))
        command("estimate", path, "--device", DEVICE, "--allow-unknown", "--format", form)
        return
    how = {
        "batch_size": draw.choice((None, 2, 3)),
        "allow_unknown": draw.random() < 0.5,
        "compare_weights": draw.random() < 0.2,
    }
    try:
        network = load(path, **how)
        estimator().estimate(network, draw.choice(("sgd", "none", "adam")), allow_unknown=True)
    except LatteError as error:
        check_error(error)


def try_weights(path: Path, draw: random.Random) -> None:
    """Compute what a model computes of its weights."""
    from onnx import ModelProto

    from latte_cli.errors import LatteError
    from latte_cli.network.weights import weights

    try:
        found = weights(path)
        for name in ModelProto.FromString(path.read_bytes()).graph.node[0].output:
            if name:
                found[name]
    except LatteError as error:
        check_error(error)


def try_plan(path: Path, draw: random.Random) -> None:
    """Give a plan to the commands that take one."""
    words = draw.choice((("show", path), ("check", path, good_model()), ("diff", path, path)))
    command("plan", *words, "--format", draw.choice(("table", "json")))


def try_baseline(path: Path, draw: random.Random) -> None:
    """Compare an estimate with a baseline."""
    command("estimate", good_model(), "--device", DEVICE, "--baseline", path, "--max-regression", "5%")


def try_fleet(path: Path, draw: random.Random) -> None:
    """Read a fleet; now and then plan for it."""
    from latte_cli.errors import LatteError
    from latte_cli.fleet import read_fleet

    if draw.random() < 0.05:
        command("allocate", good_model(), "--fleet", path, "--round-duration", "10m", "--widths", "1,0.5")
        return
    try:
        read_fleet(path)
    except LatteError as error:
        check_error(error)


def try_study(path: Path, draw: random.Random) -> None:
    """Read a study."""
    from latte_cli.errors import LatteError
    from latte_cli.federated.study.document import read_study

    try:
        read_study(path)
    except LatteError as error:
        check_error(error)


def try_devices(path: Path, draw: random.Random) -> None:
    """Read a file of devices."""
    from latte_cli.allocator.files import read_devices
    from latte_cli.errors import LatteError
    from latte_cli.fleet import parse_fleet

    fleet = parse_fleet(json.dumps(FLEET).encode(), source="`fleet`")
    try:
        read_devices(path, fleet.classes)
    except LatteError as error:
        check_error(error)


def try_part(path: Path, draw: random.Random) -> None:
    """Read a store with an odd part in every way; now and then by the commands."""
    import store

    from latte_cli.store import open_store

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        beside = store.store_beside(path, Path(folder) / "store")
        if draw.random() < 0.1:
            form = ("--format", draw.choice(("table", "json", "csv")), "--store", beside.uri)
            device = ("--device", store.DEVICE.slug)
            words = draw.choice((("store", "info"), ("store", "check"), ("estimate", good_model(), *device)))
            _timed(lambda: command(*words, *form))
            _timed(lambda: command("store", "export", store.DEVICE.slug, "--skip-damaged", "--store", beside.uri))
        other = open_store(f"{folder}/other", shipped=False, skip=lambda error: None)
        if not store.read_all(beside, other, _timed):
            raise Refused


_calls_s: list[float] = []  # the CPU time of each call, of those that an attempt makes many of


def _timed(call: Callable[[], Any]) -> Any:
    start = time.process_time()
    try:
        return call()
    finally:
        _calls_s.append(time.process_time() - start)


@cache
def convolution() -> Any:
    """A small module that choices are for."""
    import torch

    return torch.nn.Conv2d(3, 4, 3)


@cache
def choices() -> dict[str, Any]:
    """A document of choices for this machine, with an algorithm for each phase of the small module."""
    import torch

    from latte_cli.algorithms import Algorithm
    from latte_cli.layers import Convolution
    from latte_cli.precisions import Layout, Precision
    from latte_cli.runtime.choices import Binding, Choices, choices_document
    from latte_cli.runtime.optimizing import own_key

    layer = Convolution(batch=2, in_channels=3, out_channels=4, input=(8, 8), kernel=(3, 3))
    algorithm = Algorithm(library="torch", name="IM2COL_GEMM")
    bindings = tuple(Binding(layer=layer, phase=each, algorithm=algorithm, gain_s=1e-3) for each in layer.phases)
    key = own_key(torch.device("cpu"), Precision.FP32)
    given = Choices(key=key, strategy="latte", layout=Layout.CHANNELS_LAST, bindings=bindings, default_s=0.1)
    return json.loads(json.dumps(choices_document([given])))  # type: ignore[no-any-return]


def damaged_choices(draw: random.Random) -> bytes:
    """Choices that are no longer what they were."""
    import mutations

    return mutations.json_text(draw, choices())


def try_choices(path: Path, draw: random.Random) -> None:
    """Run a module by choices from a file, and add others to them."""
    import copy

    import torch

    from latte_cli.errors import LatteError
    from latte_cli.runtime import optimize, write_choices
    from latte_cli.runtime.choices import parse_choices

    try:
        module = optimize(copy.deepcopy(convolution()), choices=path)
        module(torch.zeros(2, 3, 8, 8)).sum().backward()
        write_choices(path, parse_choices(choices())[0], force=True)
    except LatteError as error:
        check_error(error)


def damaged_selector(draw: random.Random) -> bytes:
    """A selector, its card and its trees, that is no longer what it was."""
    import learned

    return learned.damaged_selector(draw)


def try_selector(path: Path, draw: random.Random) -> None:
    """Choose by a selector; now and then by the commands."""
    import learned

    from latte_cli.errors import LatteError

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = learned.store_with_selector(path, Path(folder) / "store")
        given = ("--device", DEVICE, "--store", store.uri, "--format", draw.choice(("table", "json", "csv")))
        if draw.random() < 0.1:
            command("estimate", good_model(), "--strategy", "latte", *given)
            command("explain", good_model(), *given)
            return
        try:
            learned.use_selector(store, good_network())
        except LatteError as error:
            check_error(error)


def damaged_times(draw: random.Random) -> bytes:
    """A time model, its card and its trees, that is no longer what it was."""
    import learned

    return learned.damaged_times(draw)


def try_times(path: Path, draw: random.Random) -> None:
    """Predict by a time model; now and then by the command, which fits it again where it cannot be read."""
    import learned

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store, slug = learned.store_with_times(path, Path(folder) / "store")
        if draw.random() < 0.1:
            form = draw.choice(("table", "json", "csv"))
            command("estimate", good_model(), "--device", slug, "--store", store.uri, "--format", form)
        elif not learned.use_times(store, slug, good_network()):
            raise Refused


def damaged_rounds(draw: random.Random) -> bytes:
    """The rounds of a federation that are no longer what they were."""
    import learned

    return learned.damaged_rounds(draw, good_model())


def try_rounds(path: Path, draw: random.Random) -> None:
    """Correct prices by rounds; now and then by the command."""
    import learned

    from latte_cli.errors import LatteError

    if draw.random() < 0.1:
        fleet = path.with_suffix(".yaml")
        fleet.write_text(json.dumps(FLEET))
        how = draw.choice((("--channels", "nested"), ("--format", "json"), ("--channels", "rolling"), ()))
        command("allocate", good_model(), "--fleet", fleet, "--widths", "1,0.5", "--after", path, *how)
        return
    try:
        learned.use_rounds(path, good_model(), json.dumps(FLEET))
    except LatteError as error:
        check_error(error)


@cache
def good_network() -> Any:
    """The small network, as it is read."""
    from latte_cli.network import load

    return load(good_model(), batch_size=8)


def damaged_part(draw: random.Random) -> bytes:
    """A part of a store whose bytes are damaged."""
    import store

    return store.damaged_part(draw)


def generated_part(draw: random.Random) -> bytes:
    """A part of a store with odd columns, values, versions or devices."""
    import store

    return store.generated_part(draw)


def importing(source: str) -> Callable[[Path, random.Random], None]:
    """A trial of what others have measured."""

    def attempt(path: Path, draw: random.Random) -> None:
        from latte_cli.errors import LatteError
        from latte_cli.importers import ImportSource, import_file
        from latte_cli.store import open_store

        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            try:
                import_file(path, ImportSource(source), open_store(folder, shipped=False), name="some-device")
            except LatteError as error:
                check_error(error)

    return attempt


def try_trace(path: Path, draw: random.Random) -> None:
    """Read a trace of the good model, now and then without saying of which device it is."""
    from latte_cli.errors import LatteError
    from latte_cli.network import load
    from latte_cli.store import open_store
    from latte_cli.torch_trace import TraceRequest, import_trace

    request = TraceRequest(device=None if draw.random() < 0.05 else "desk")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        store = open_store(folder, shipped=False)
        try:
            import_trace(path, lambda batch: load(good_model(), batch_size=batch), store, request)
        except LatteError as error:
            check_error(error)


# How files are made

FLEET: dict[str, Any] = {
    "round_duration": "10m",
    "classes": [
        {
            "class": name,
            "device": DEVICE,
            "count": count,
            "samples": 500,
            "epochs": 1,
            "batch": 8,
            "bandwidth": {"up": "5Mbit", "down": "20Mbit"},
            "memory": "2GiB",
            "overhead": "2s",
            "precision": "fp32",
            "layout": "nchw",
            "strategy": "pytorch",
            "optimizer": "momentum",
        }
        for name, count in (("phone", 10), ("board", 3))
    ],
}
DEVICES = "device,class,samples,up_bit_per_s,down_bit_per_s\n" + "".join(
    f"d{at},{'phone' if at % 2 else 'board'},{50 + at},5e6,20000000\n" for at in range(12)
)


@cache
def onnx_cases() -> list[Any]:
    """ONNX's own test of each operator, but for those with large weights."""
    from test_onnx_backend import collected

    return [case.model for case in collected() if case.model.ByteSize() < 200_000]


def damaged_model(draw: random.Random) -> bytes:
    """A file of one of ONNX's own cases, or of a small network, that is no longer what it was."""
    import mutations
    from onnx import ModelProto

    if draw.random() < 0.2:
        return mutations.model_damaged(draw, ModelProto.FromString(good_model().read_bytes()))
    return mutations.model_damaged(draw, draw.choice(onnx_cases()))


def changed_model(draw: random.Random) -> bytes:
    """A model as it was but for one attribute, size, type, order of inputs, or name: most are read."""
    import mutations
    from onnx import ModelProto

    small = ModelProto.FromString(good_model().read_bytes())
    return mutations.model_changed(draw, small if draw.random() < 0.3 else draw.choice(onnx_cases()))


def generated_model(draw: random.Random) -> bytes:
    """A model of one operator with random inputs and attributes; it is seldom valid."""
    import generated

    return generated.model(draw)


def constant_model(draw: random.Random) -> bytes:
    """A model of one operator whose inputs are all stored."""
    import generated

    return generated.constant(draw)


@cache
def programs() -> tuple[bytes, ...]:
    """Two small programs of `torch.export`."""
    import torch
    from torch import nn

    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.one = nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.one(self.table(x)).mean(1)

    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    found = []
    for module, example in ((plain, torch.zeros(2, 3, 8, 8)), (Attending(), torch.zeros(2, 6, dtype=torch.long))):
        file = io.BytesIO()
        torch.export.save(torch.export.export(module, (example,)), file)
        found.append(file.getvalue())
    return tuple(found)


def damaged_program(draw: random.Random) -> bytes:
    """A `.pt2` that is no longer what it was."""
    import mutations

    return mutations.zip_damaged(draw, draw.choice(programs()), lambda name: name.endswith(".json"))


def frozen(name: str) -> Callable[[random.Random], bytes]:
    """Damage to a document that a command wrote once (tests/frozen)."""
    document = cache(lambda: json.loads((HERE.parent / "frozen" / f"{name}.json").read_text("utf-8")))

    def make(draw: random.Random) -> bytes:
        import mutations

        return mutations.json_text(draw, document())

    return make


def damaged_fleet(draw: random.Random) -> bytes:
    """A fleet that is no longer what it was."""
    import mutations

    return mutations.yaml_text(draw, FLEET)


def damaged_study(draw: random.Random) -> bytes:
    """A study that is no longer what it was."""
    import mutations
    import yaml

    document = yaml.safe_load((HERE.parents[1] / "docs" / "study-digits.yaml").read_text("utf-8"))
    return mutations.yaml_text(draw, document)


def damaged_devices(draw: random.Random) -> bytes:
    """A table of devices that is no longer what it was."""
    import mutations

    return mutations.table_damaged(draw, DEVICES)


def damaged_table(draw: random.Random) -> bytes:
    """The same as Parquet, its bytes or its footer's damaged."""
    import mutations
    import pyarrow.csv
    import pyarrow.parquet as pq
    import store

    file = io.BytesIO()
    pq.write_table(pyarrow.csv.read_csv(io.BytesIO(DEVICES.encode())), file)
    content = file.getvalue()
    return store.damaged(draw, content) if draw.random() < 0.8 else mutations.bytes_damaged(draw, content)


def imported(name: str, separator: str) -> Callable[[random.Random], bytes]:
    """Damage to a sample of what others publish, in the forms that it is packed in."""

    def make(draw: random.Random) -> bytes:
        import mutations
        import test_importers

        content = mutations.table_damaged(draw, getattr(test_importers, name), separator)
        way = draw.randrange(20)
        if way == 0:
            return mutations.bytes_damaged(draw, gzip.compress(content))
        if way == 1:
            return mutations.bytes_damaged(draw, bz2.compress(content))
        if way == 2:
            return lzma.compress(content)
        return content

    return make


@cache
def trace() -> Any:
    """A trace of two steps of the good model."""
    import traces

    from latte_cli.network import load
    from latte_cli.network.module import NetworkModule, random_inputs

    network = load(good_model(), batch_size=2)
    (x,) = random_inputs(network)
    path = Path(tempfile.mkdtemp()) / "good.json"
    traces.write_trace(path, traces.training_step_of(NetworkModule(network), x, 10), steps=2)
    return traces.document_of(path)


def damaged_trace(draw: random.Random) -> bytes:
    """A trace that is no longer what it was, on a CPU or a GPU."""
    import mutations
    import traces

    document = trace()
    if draw.random() < 0.3:
        document = traces.on_gpu(document, "Some GPU", launch="cudaLaunchKernel", runtime="cuda_runtime")
    content = mutations.json_text(draw, document)
    return mutations.bytes_damaged(draw, gzip.compress(content)) if draw.random() < 0.1 else content


KINDS: Mapping[str, Kind] = {
    each.name: each
    for each in (
        Kind("onnx", ".onnx", damaged_model, try_model, 6),
        Kind("changed-once", ".onnx", changed_model, try_model, 6),
        Kind("operators", ".onnx", generated_model, try_model, 6),
        Kind("weights", ".onnx", constant_model, try_weights, 2),
        Kind("pt2", ".pt2", damaged_program, try_model, 3),
        Kind("plan", ".json", frozen("plan-show"), try_plan, 1),
        Kind("baseline", ".json", frozen("estimate"), try_baseline, 1),
        Kind("fleet", ".yaml", damaged_fleet, try_fleet, 2),
        Kind("study", ".yaml", damaged_study, try_study, 1),
        Kind("devices", ".csv", damaged_devices, try_devices, 1),
        Kind("devices-parquet", ".parquet", damaged_table, try_devices, 1),
        Kind("choices", ".json", damaged_choices, try_choices, 1),
        Kind("selector", ".zip", damaged_selector, try_selector, 1),
        Kind("times", ".zip", damaged_times, try_times, 1),
        Kind("rounds", ".json", damaged_rounds, try_rounds, 1),
        Kind("damaged-part", ".parquet", damaged_part, try_part, 2),
        Kind("part", ".parquet", generated_part, try_part, 3),
        Kind("latte-csv", ".csv", imported("LATTE_ROWS", ","), importing("latte-csv"), 1),
        Kind("miopen", ".txt", imported("MIOPEN", "-"), importing("miopen-finddb"), 1),
        Kind("torch-trace", ".json", damaged_trace, try_trace, 1),
        Kind("neusight", ".csv", imported("NEUSIGHT", ","), importing("neusight-csv"), 1),
    )
}

# The process that tries them

_opened: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event in (
        "open",
        "os.remove",
        "os.rename",
        "os.mkdir",
        "pickle.find_class",
        "subprocess.Popen",
        "socket.connect",
    ):
        _opened.append(str(arguments[0]))


def _outside(names: Sequence[str], folder: Path) -> list[str]:
    """What was opened that is neither in the folder nor a module or a profile of the project's."""
    own = tuple(
        map(
            str,
            (
                folder,
                good_model().parent,
                sys.prefix,
                sys.base_prefix,
                HERE.parents[1],
                "/proc/self",
                "/proc/cpuinfo",  # what this machine is, which choices are for
                "/proc/device-tree",
                "/usr/share/zoneinfo",
                os.devnull,
            ),
        )
    )
    return [name for name in names if not name.isdigit() and not os.path.abspath(name).startswith(own)]  # noqa: PTH100


def work(folder: Path, seed: str, kinds: Sequence[str]) -> None:
    """Try each case that stdin names; a line of JSON before and after each."""
    import pickle  # noqa: F401 - so that its loading is not taken for a file's

    from reading_bad_models import LIMIT_BYTES, MOST_SAMPLES, times_sample

    from latte_cli.network import zoo

    os.chdir(folder)
    draw = random.Random(0)
    for name in kinds:  # imports what trials need, and makes what is kept
        KINDS[name].make(draw)
    try_model(good_model(), draw)
    command("estimate", good_model(), "--device", DEVICE)
    sample = zoo.export("resnet8")
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    sys.addaudithook(_audit)
    for line in sys.stdin:
        kind, number = line.split()
        print(json.dumps({"begun": line.strip()}), flush=True)
        draw = random.Random(f"{kind}:{seed}:{number}")
        path = folder / f"{kind}-{number}{KINDS[kind].ending}"
        path.write_bytes(KINDS[kind].make(draw))
        _opened.clear()
        _calls_s.clear()
        signal.setitimer(signal.ITIMER_PROF, STUCK_S)
        start = time.process_time()
        ending = _ending(KINDS[kind], path, draw)
        spent_s = max(_calls_s, default=time.process_time() - start)
        signal.setitimer(signal.ITIMER_PROF, 0)
        touched = _outside(_opened, folder)
        if (times := times_sample(spent_s, sample)) > MOST_SAMPLES:
            ending = f"slow: {times:.0f} times a ResNet-8"
        if touched:
            ending = f"touched {touched[:3]}"
        if ending not in ("read", "refused"):
            (folder / "faults").mkdir(exist_ok=True)
            path.rename(folder / "faults" / path.name)
        else:
            path.unlink(missing_ok=True)
        print(json.dumps({"case": line.strip(), "ending": ending}), flush=True)


def _ending(kind: Kind, path: Path, draw: random.Random) -> str:
    try:
        kind.attempt(path, draw)
    except Refused:
        return "refused"
    except Fault as fault:
        return f"fault: {fault}"
    except BaseException as error:
        frames = []
        trace = error.__traceback__
        while trace:
            frames.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
            trace = trace.tb_next
        return f"{type(error).__name__}: {str(error)[:150]} at {' '.join(frames[-4:])}"
    return "read"


# The process that counts


def cases(kinds: Sequence[str], count: int) -> Iterator[str]:
    """`count` cases, more of the kinds with more weight."""
    line = [name for name in kinds for _ in range(KINDS[name].weight)]
    numbers: Counter[str] = Counter()
    for at in range(count):
        kind = line[at % len(line)]
        numbers[kind] += 1
        yield f"{kind} {numbers[kind]}"


def run(wanted: Sequence[str], seed: str, folder: Path, kinds: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each case with how it ended; a process that dies is begun anew."""
    left = list(wanted)
    while left:
        done = subprocess.run(
            [sys.executable, __file__, "--work", str(folder), "--seed", seed, "--only", ",".join(kinds)],
            input="".join(f"{each}\n" for each in left),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "HOME": str(folder),
                "LATTE_STORE": str(folder / "store"),
                **dict.fromkeys(XDG, str(folder)),
            },
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
        ended = [(line["case"], line["ending"]) for line in lines if "case" in line]
        yield from ended
        left = left[len(ended) :]
        if left:
            if not lines:
                raise SystemExit(f"cannot begin: {done.stderr[-2000:]}")
            stuck = done.returncode == -signal.SIGPROF
            yield left[0], "stuck" if stuck else f"died: code {done.returncode}, {done.stderr[-300:]}"
            left = left[1:]


def main() -> int:
    """The exit code: 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", default=hashlib.sha256(os.urandom(8)).hexdigest()[:8])
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--case", help="KIND:NUMBER, to try one again")
    parser.add_argument("--keep", type=Path, help="where the files that show faults are kept")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    kinds = given.only.split(",")
    if given.work:
        work(given.work, given.seed, kinds)
        return 0
    wanted = [given.case.replace(":", " ")] if given.case else list(cases(kinds, given.count))
    kinds = sorted({each.split()[0] for each in wanted})
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(WORKERS) as pool:
        folders = [given.keep or Path(made)] * WORKERS
        folders = [folder.resolve() / str(at) for at, folder in enumerate(folders)]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        shares = [(wanted[at::WORKERS], folder) for at, folder in enumerate(folders)]
        endings = [
            each
            for found in pool.map(lambda share: list(run(share[0], given.seed, share[1], kinds)), shares)
            for each in found
        ]
    faults = [(case, ending) for case, ending in endings if ending not in ("read", "refused")]
    counts = Counter(
        (case.split()[0], ending if ending in ("read", "refused") else "faults") for case, ending in endings
    )
    for name in kinds:
        print(f"{name}: " + ", ".join(f"{counts[name, how]} {how}" for how in ("read", "refused", "faults")))
    for case, ending in faults:
        print(f"{case.replace(' ', ':')}  {ending}")
    print(f"files: {len(endings)}, faults: {len(faults)}, seed {given.seed}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
