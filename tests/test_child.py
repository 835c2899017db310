"""Child processes: what is heard of them however they end, and that nothing outlives its parent."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from processes import ENDINGS, Marked
from stand_ins import TORCH, write_libraries

from latte_cli import child
from latte_cli.network.zoo import export
from latte_cli.store import open_store

ASKED = """
import ctypes, os, signal, subprocess, sys, time

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"

def echo(request):
    print("a library's banner")
    os.write(1, b'{"not": "the answer"}')
    return request

def user(request):
    import getpass

    return getpass.getuser()

def where(request):
    return [os.getcwd(), sys.argv[0], sys.path]

def hang(request):
    stubborn(request)
    time.sleep(600)

def hold(request):
    stubborn(request)
    ctypes.PyDLL(None).sleep(600)  # holding Python's lock

def stubborn(request):
    started = subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE)
    started.stdout.readline()
    return started.pid

def holding(request):
    pid = os.fork()  # holds all the child's pipes
    if not pid:
        time.sleep(600)
    return pid

def crash(request):
    os.write(2, request["says"].encode())
    if request["signal"] != signal.SIGKILL:
        signal.signal(request["signal"], signal.SIG_DFL)
    os.kill(os.getpid(), request["signal"])
    time.sleep(600)

def leave(request):
    os._exit(request)

def unanswerable(request):
    return object()

def flood(request):
    for _ in range(200):
        os.write(2, b"x" * 99_999 + b"\\n")
    raise MemoryError("the last words")

def chatter():
    os.write(1, b"no JSON " * 100_000)

def nested(request):
    from latte_cli import child
    return child.ask("asked:" + request, None, limit_s=600)

def lone_child():
    from latte_cli import child
    child.ask("asked:nested", sys.argv[1], limit_s=600)
"""


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of functions to call in a child; its folder."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "asked.py").write_text(ASKED)
    monkeypatch.syspath_prepend(folder)
    return folder


def ask(name: str, request: object = None, limit_s: float = 60.0) -> object:
    return child.ask(f"asked:{name}", request, limit_s=limit_s)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_answer_is_what_the_function_returns_and_not_what_is_printed() -> None:
    request = {"text": "ä\n\ud800", "numbers": [1, 2.5, None, float("inf")]}
    assert ask("echo", request) == request


_UNNAMED = ["unshare", "--user", "--map-user=12345"]


@pytest.mark.skipif(subprocess.run([*_UNNAMED, "true"], capture_output=True).returncode != 0, reason="no namespaces")
def test_a_user_without_a_name_as_in_a_container_has_one_for_libraries(asked: Path) -> None:
    program = f"import sys; sys.path.insert(0, {str(asked)!r}); "
    program += "from latte_cli import child; print(child.ask('asked:user', None))"
    variables = {name: value for name, value in os.environ.items() if "USER" not in name and "NAME" not in name}
    command = [*_UNNAMED, sys.executable, "-c", program]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout == "12345\n", done.stderr


def test_large_requests_and_answers_arrive_whole() -> None:
    request = ["0123456789" * 100] * 5_000
    assert ask("echo", request) == request


def test_a_child_imports_what_its_parent_would_and_nothing_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "fcntl", "subprocess", "latte_cli"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('wrong one')\n")
    monkeypatch.chdir(tmp_path)
    assert ask("where") == [str(tmp_path), "latte", sys.path]


@pytest.mark.parametrize("name", ["hang", "hold"])
def test_a_child_that_hangs_is_given_up_and_all_it_started_is_dead(name: str) -> None:
    with Marked([sys.executable, "-c", LIMITED, name], PYTHONPATH=os.pathsep.join(sys.path)) as marked:
        said, errors = marked.process.communicate()
        assert (said, errors) == ("no answer within 1 s\n", "")
        assert marked.left() == {}


LIMITED = """
import sys
from latte_cli import child
try:
    child.ask("asked:" + sys.argv[1], None, limit_s=1)
except child.TimedOut as exc:
    print(exc)
"""


@pytest.mark.parametrize("name", ["stubborn", "holding"])
def test_what_a_child_leaves_behind_is_killed_and_not_waited_for(name: str) -> None:
    pid = ask(name)
    assert isinstance(pid, int)
    end_s = time.monotonic() + 1
    while alive(pid) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert not alive(pid)


@pytest.mark.parametrize("number", [each for each in signal.Signals if each in (4, 6, 7, 8, 9, 11, 15, 24, 31)])
def test_a_signal_that_ends_a_child_is_named_with_its_last_words_or_its_meaning(number: signal.Signals) -> None:
    with pytest.raises(child.Ended) as found:
        ask("crash", {"signal": number, "says": "first\n  cannot  go on \n\n"})
    assert str(found.value) == f"ended by {number.name}: cannot go on"
    assert (found.value.code, found.value.last, found.value.killed) == (-number, "cannot go on", number == 9)
    with pytest.raises(child.Ended) as found:
        ask("crash", {"signal": number, "says": ""})
    assert str(found.value).startswith(f"ended by {number.name}")
    assert str(found.value).endswith(child.meaning(-number))


def test_a_signal_without_a_name_has_its_number() -> None:
    with pytest.raises(child.Ended, match=f"^ended by signal {signal.SIGRTMIN + 3}$"):
        ask("crash", {"signal": signal.SIGRTMIN + 3, "says": ""})


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_that_ends_without_an_answer_has_an_exit_code(code: int) -> None:
    with pytest.raises(child.Ended, match=f"^ended with exit code {code}$"):
        ask("leave", code)


def test_a_child_that_fails_says_why_in_its_last_line() -> None:
    with pytest.raises(child.Ended, match="exit code 1: TypeError: Object of type object is not JSON serializable"):
        ask("unanswerable")
    with pytest.raises(child.Ended, match="exit code 1: AttributeError: module 'asked' has no attribute 'nothing'"):
        ask("nothing")


def test_a_flood_of_errors_is_read_and_its_end_is_kept() -> None:
    with pytest.raises(child.Ended) as found:
        ask("flood")
    assert found.value.last == "MemoryError: the last words"
    assert len(child.run_child("asked:flood").errors) <= 2**16


def test_output_that_is_no_answer_is_heard_whole() -> None:
    done = child.run_child("asked:chatter")
    assert (done.code, done.output, done.errors) == (0, b"no JSON " * 100_000, b"")


def test_a_child_outlives_the_thread_that_started_it() -> None:
    started: list[child.Child] = []
    thread = threading.Thread(target=lambda: started.append(child.Child("time:sleep", stderr=subprocess.PIPE)))
    thread.start()
    thread.join()
    with started[0] as running:  # `sleep` is called without its argument
        assert running.ended_within(60)
        assert running.stderr
        assert b"TypeError" in running.stderr.read()
        assert running.kill() == 1


@pytest.mark.parametrize("number", [*ENDINGS, signal.SIGKILL])
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", ["hang", "hold"])
def test_children_and_theirs_die_with_a_parent_that_is_ended(
    number: signal.Signals, kernel: bool, name: str, asked: Path
) -> None:
    if not kernel:
        if name == "hold":
            pytest.skip("a thread that watches needs Python's lock")
        (asked / "sitecustomize.py").write_text("import fcntl\ndel fcntl.F_SETSIG\n")  # as on other systems
    command = [sys.executable, "-c", "import asked; asked.lone_child()", name]
    with Marked(command, PYTHONPATH=os.pathsep.join(sys.path)) as marked:
        marked.wait_for("SIG_IGN")
        os.killpg(marked.process.pid, number)  # as a terminal does
        assert marked.left() == {}
        assert marked.process.communicate()[1].count("Traceback") == (number == signal.SIGINT)  # the parent's own


@pytest.mark.parametrize("number", ENDINGS)
def test_a_doctor_that_is_interrupted_waits_for_no_library(number: signal.Signals, asked: Path) -> None:
    hanging = "import asked, time; asked.stubborn(None); time.sleep(600)\n"
    write_libraries(asked)
    for name in ("pyarrow", "xgboost"):
        (asked / f"{name}.py").write_text(hanging)
    path = os.pathsep.join(sys.path)
    with Marked([sys.executable, "-m", "latte_cli", "doctor", "--device", "cpu"], PYTHONPATH=path) as marked:
        marked.wait_for("SIG_IGN")
        marked.process.send_signal(number)
        _, errors = marked.process.communicate(timeout=10)  # the libraries would be given up after 15 s
        assert (marked.process.returncode, errors.splitlines()[0]) == (130, "error: interrupted")
        assert marked.left() == {}


@pytest.mark.timeout(900)
def test_no_process_is_left_whenever_and_however_a_profile_is_ended(tmp_path: Path) -> None:
    model, moments = tmp_path / "lenet.onnx", random.Random(11)
    model.write_bytes(export("lenet", batch_size=1))
    command = [sys.executable, "-m", "latte_cli", "profile", model, "--suite", "network"]
    command += ["--phases", "update", "--threads", 1, "--passes", 1]  # soon at the networks that are measured whole
    for number in (signal.SIGKILL, signal.SIGTERM):
        with Marked(command) as marked:
            marked.wait_for("backends.torch.whole", limit_s=300)
            time.sleep(moments.uniform(0, 1))
            marked.process.send_signal(number)
            assert marked.left() == {}, number
            _, errors = marked.process.communicate()
        if number == signal.SIGKILL:
            assert (marked.process.returncode, errors) == (-number, "")
        else:
            assert errors.splitlines() == [
                "error: interrupted",
                "hint: what was finished is kept; the same command resumes",
            ]
            assert marked.process.returncode == 130
            assert open_store(shipped=False).info().journals == ()
    for number in (signal.SIGHUP, signal.SIGKILL):
        with Marked(command) as marked:
            time.sleep(moments.uniform(0, 2))
            marked.process.send_signal(number)
            assert marked.left() == {}, number


def test_a_hangup_that_is_ignored_stays_so(asked: Path, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    waiting = f"import os, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.01)\n"
    write_libraries(asked, waiting + TORCH)
    command = ["nohup", sys.executable, "-m", "latte_cli", "doctor", "--device", "cpu", "--format", "json"]
    with Marked(command, PYTHONPATH=os.pathsep.join(sys.path)) as marked:
        marked.wait_for("latte_cli.child")
        os.killpg(marked.process.pid, signal.SIGHUP)
        go_on.touch()
        told, _ = marked.process.communicate()
        assert json.loads(told)["schema"]
        assert marked.left() == {}
