"""What others have measured, as rows of the store; the samples are written here in the forms that are published."""

import bz2
import gzip
import json
from functools import partial
from pathlib import Path

import pytest
from running import here

from latte_cli.algorithms import FRAMEWORK_BENCHMARK, HEURISTIC, Algorithm, kernel_family
from latte_cli.devices import CUDA, ROCM
from latte_cli.errors import LatteError
from latte_cli.importers import ImportSource, import_file
from latte_cli.layers import Convolution, Phase
from latte_cli.measure import Evidence
from latte_cli.precisions import Layout, Precision
from latte_cli.store import open_store

LATTE_ROWS = """\
input_n,input_c,input_h,input_w,output_c,kernel_h,kernel_w,padding_height,padding_width,stride_height,stride_width,dilation_h,dilation_w,label
8,3,32,32,16,5,5,2,2,2,2,1,1,1
8,3,32,32,16,5,5,2,2,2,2,1,1,7
8,3,32,30,16,3,3,1,1,1,1,1,1,6
256,3,4096,4096,64,3,3,1,1,1,1,1,1,1
8,3,32,32,16,5,5,2,2,2,2,1,1,12
8,3,32,thirty,16,5,5,2,2,2,2,1,1,1
,,,,,,,,,,,,,
"""
FORWARD = (
    "4-1-14-12-1x3x3-6-1-14-12-8-0x1x1-1x1x1-1x1x1-0-NCDHW-FP32-F="
    "ConvDirectNaiveConvFwd:0.43216,0,miopenConvolutionFwdAlgoDirect;GemmFwdRest:0.25,32768,miopenConvolutionFwdAlgoGEMM"
)
BACKWARD = (
    "6-7-6-3x3-4-14-12-8-1x1-2x2-1x1-0-NHWC-FP16-B_g2="
    "miopenConvolutionBwdDataAlgoWinograd:ConvBinWinogradRxSf2x3g1,0.5,16,miopenConvolutionBwdDataAlgoWinograd,<unused>"
)
MIOPEN = "\n".join(
    [
        FORWARD,
        BACKWARD,
        BACKWARD.replace("-B_g2", "-W_g2").replace("BwdData", "BwdWeights").replace("NHWC", "NHWC-NHWC-NHWC"),
        BACKWARD.replace("NHWC", "NCHW-NHWC-NHWC"),
        BACKWARD.replace("-14-12-", "-1-1-"),
        FORWARD.replace("FP32", "INT8"),
        FORWARD.replace("-6-1-14-12-8", "-6-1-15-12-8"),
        "no key and no times",
        FORWARD.replace("0.43216", "nan"),
        "",
    ]
)
NEUSIGHT = """\
Latency,Device,Torch Version,CUDNN Version,Kernels,B,Input_Channel,Output_Channel,Kernel_Szie,Input_Size,Stride,Padding
0.5,Some GPU 80GB,p2.1.0,8902,;void implicit_convolve_sgemm<float>(int);other,4,3,8,3,10,1,1
0.6,Some GPU 80GB,p2.1.0,8902,;void implicit_convolve_sgemm<float>(int),4,3,8,3,10,1,1
-1,Some GPU 80GB,p2.1.0,8902,;a,4,3,8,3,10,1,1
"""


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"), shipped=False)


def written(path: Path, text: str) -> Path:
    opened = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opened(path, "wt") as stream:
        stream.write(text)
    return path


def rows(store):
    (device,) = store.devices()
    return sorted(store.measurements(device.slug), key=lambda row: (row.sweep_pass, str(row.task)))


def test_winners_become_labels_and_what_cudnn_cannot_describe_is_counted(store, tmp_path):
    device, tally = import_file(written(tmp_path / "truth.csv.gz", LATTE_ROWS), ImportSource.LATTE_CSV, store)
    assert (device.slug, device.kind) == ("latte-dataset", CUDA)
    assert (tally.rows, tally.dropped, tally.unreadable) == (3, {"a tensor of 2^31 elements or more": 1}, 2)
    assert tally.named[0].startswith("line 6: label 12")
    assert tally.named[1].startswith("line 7: ")
    found = rows(store)
    assert {row.evidence for row in found} == {Evidence.LABEL}
    assert all(row.seconds is None and "truth.csv.gz" in row.origin for row in found)
    layer = Convolution(
        batch=8, in_channels=3, out_channels=16, input=(32, 32), kernel=(5, 5), stride=(2, 2), pad_before=(2, 2),
        pad_after=(2, 2),
    )  # fmt: skip
    own = {(row.sweep_pass, row.task.algorithm.name, row.ranking) for row in found if row.task.layer == layer}
    assert own == {
        (0, "IMPLICIT_PRECOMP_GEMM", ("IMPLICIT_PRECOMP_GEMM",)),
        (1, "WINOGRAD_NONFUSED", ("WINOGRAD_NONFUSED",)),
    }


def test_what_the_heuristic_answered_is_its_ranking(store, tmp_path):
    import_file(
        written(tmp_path / "heuristic.csv", LATTE_ROWS), ImportSource.LATTE_CSV, store, name="My GPU", heuristic=True
    )
    assert [device.slug for device in store.devices()] == ["my-gpu"]
    assert {row.task.ranker for row in rows(store)} == {HEURISTIC}
    assert {row.ranking for row in rows(store)} == {
        ("IMPLICIT_PRECOMP_GEMM",),
        ("WINOGRAD_NONFUSED",),
        ("WINOGRAD",),
    }


def test_every_solver_of_a_find_database_is_a_row_with_its_workspace(store, tmp_path):
    path = written(tmp_path / "gfx90878.HIP.fdb.txt.bz2", MIOPEN)
    device, tally = import_file(path, ImportSource.MIOPEN_FINDDB, store)
    assert (device.slug, device.kind, device.multiprocessors) == ("amd-gfx908-120cu", ROCM, 120)
    assert tally.rows == 4
    assert tally.dropped == {
        "of type INT8": 1,
        "of sizes that do not belong together": 2,
        "in layout NCHW-NHWC": 1,
    }
    assert [text.partition(":")[0] for text in tally.named] == ["line 8", "line 9"]
    found = {(row.task.phase, row.task.algorithm): row for row in rows(store)}
    gemm = found[Phase.FORWARD, Algorithm(library="miopen", name="GemmFwdRest", vendor_id=0)]
    assert gemm.seconds == pytest.approx(0.25e-3)
    assert gemm.workspace_bytes == 32768
    assert gemm.task.layer == Convolution(
        batch=8, in_channels=4, out_channels=6, input=(1, 14, 12), kernel=(1, 3, 3), pad_before=(0, 1, 1),
        pad_after=(0, 1, 1),
    )  # fmt: skip
    winograd = Algorithm(library="miopen", name="ConvBinWinogradRxSf2x3g1", vendor_id=3)
    for phase in (Phase.BACKWARD_DATA, Phase.BACKWARD_FILTER):
        row = found[phase, winograd]
        assert (row.task.settings.precision, row.task.settings.layout) == (Precision.FP16, Layout.CHANNELS_LAST)
        layer = row.task.layer
        assert (layer.in_channels, layer.out_channels, layer.groups) == (4, 6, 2)
        assert (layer.input, layer.output) == ((14, 12), (7, 6))


@pytest.mark.parametrize(
    ("file", "slug", "units"),
    [("gfx1030_36.HIP.fdb.txt", "amd-gfx1030-36cu", 36), ("gfx90a68.HIP.3_1_0.ufdb.txt", "amd-gfx90a-104cu", 104)],
)
def test_the_name_of_a_find_database_says_whose_it_is(store, tmp_path, file, slug, units):
    device, _ = import_file(written(tmp_path / file, FORWARD), ImportSource.MIOPEN_FINDDB, store)
    assert (device.slug, device.multiprocessors) == (slug, units)


def test_a_find_database_of_no_known_gpu_needs_a_name(store, tmp_path):
    path = written(tmp_path / "mine.txt", FORWARD)
    with pytest.raises(LatteError, match="does not say which GPU"):
        import_file(path, ImportSource.MIOPEN_FINDDB, store)
    assert import_file(path, ImportSource.MIOPEN_FINDDB, store, name="Mine")[0].slug == "mine"


def test_kernels_of_a_benchmarked_layer_tell_the_family(store, tmp_path):
    device, tally = import_file(written(tmp_path / "a.csv", NEUSIGHT), ImportSource.NEUSIGHT_CSV, store)
    assert (device.slug, tally.rows, tally.unreadable) == ("some-gpu-80gb", 4, 1)
    first, second = (row for row in rows(store) if row.evidence is Evidence.SUMMARY)
    families = [row for row in rows(store) if row.evidence is Evidence.LABEL]
    assert [(row.sweep_pass, row.task.algorithm.name) for row in families] == [
        (0, "implicit_gemm"),
        (1, "implicit_gemm"),
    ]
    assert first.task == second.task
    assert first.task.algorithm == FRAMEWORK_BENCHMARK
    assert (first.sweep_pass, second.sweep_pass) == (0, 1)
    assert dict(first.task.settings.library_versions) == {"cudnn": "8.9.2", "torch": "2.1.0"}
    assert first.seconds == pytest.approx(0.5e-3)
    assert kernel_family(first.kernels) == "implicit_gemm"


def test_a_file_that_is_read_again_adds_nothing(store, tmp_path):
    path = written(tmp_path / "gfx1030_36.HIP.fdb.txt", MIOPEN)
    import_file(path, ImportSource.MIOPEN_FINDDB, store)
    before = rows(store)
    import_file(path, ImportSource.MIOPEN_FINDDB, store)
    assert rows(store) == before


@pytest.mark.parametrize(
    ("source", "file", "text", "message"),
    [
        (ImportSource.LATTE_CSV, "a.csv", "a,b\n1,2\n", "no column `input_n`"),
        (ImportSource.NEUSIGHT_CSV, "a.csv", "Device,b\nX,2\n", "no column `Latency`"),
        (ImportSource.NEUSIGHT_CSV, "a.csv", "a,b\n1,2\n", "does not say which device"),
        (ImportSource.MIOPEN_FINDDB, "gfx1030_36.txt", "nothing\n", "no line of .* makes a row"),
        (ImportSource.MIOPEN_FINDDB, "gfx1030_36.txt", "", "no line of .* makes a row"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(store, tmp_path, source, file, text, message):
    with pytest.raises(LatteError, match=message):
        import_file(written(tmp_path / file, text), source, store)


def test_a_file_that_cannot_be_read_is_one_clear_line(store, tmp_path):
    (tmp_path / "gfx1030_36.txt.bz2").write_bytes(b"no archive")
    for path in (tmp_path / "gfx1030_36.txt.bz2", tmp_path / "gfx1030_36.gone"):
        with pytest.raises(LatteError, match="cannot read"):
            import_file(path, ImportSource.MIOPEN_FINDDB, store)


run = partial(here, "import")


def test_the_command_says_what_became_of_the_lines(tmp_path):
    path = written(tmp_path / "gfx90878.HIP.fdb.txt", MIOPEN)
    done = run("miopen-finddb", path, "--store", tmp_path / "s", "--format", "json")
    (file,) = json.loads(done.stdout)["files"]
    assert file["device"] == "amd-gfx908-120cu"
    assert (file["rows"], file["unreadable"]) == (4, 2)
    assert "line 8: there is no `=`" in done.stderr
    assert "lines of type INT8" in run("miopen-finddb", path, "--store", tmp_path / "s").stdout


def test_a_wrong_file_ends_with_a_hint(tmp_path):
    done = run("latte-csv", written(tmp_path / "a.csv", "a,b\n1,2\n"), "--store", tmp_path / "s", code=1)
    assert "no column `input_n`" in done.stderr
    assert "hint" in done.stderr
