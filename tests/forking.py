"""Run `latte` many times with standard streams of several kinds, each time in a fork of this one process.

Reads cases as JSON from each line of stdin, `[{"arguments": [...], "out": KIND, "err": KIND}]`, and writes a line with
what became of them. A kind is `kept`, `ascii` or `cp1252` (kept, with such an encoding), `full`, `closed`, or `gone` (a
pipe closed after a line).
"""

import base64
import json
import os
import sys
import tempfile
from typing import Any


def main() -> None:
    import onnx  # noqa: F401 - imported once for all cases
    import pyarrow.compute
    import pyarrow.parquet  # noqa: F401

    import latte_cli.allocator
    import latte_cli.cli
    import latte_cli.estimator
    import latte_cli.network
    import latte_cli.report.estimates  # noqa: F401

    with os.fdopen(os.dup(1), "w") as out:
        for line in sys.stdin:
            print(json.dumps([_ran(**case) for case in json.loads(line)]), file=out, flush=True)


def _ran(arguments: list[str], out: str, err: str) -> dict[str, Any]:
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as told:
        child = os.fork()
        if not child:
            _run(arguments, (out, 1, said.fileno()), (err, 2, told.fileno()))
        _, status = os.waitpid(child, 0)
        texts = [base64.b64encode(_content(file)).decode() for file in (said, told)]
        return {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1]}


def _content(file: Any) -> bytes:
    file.seek(0)
    return bytes(file.read())


def _run(arguments: list[str], *streams: tuple[str, int, int]) -> None:
    from latte_cli.cli import main as latte

    for kind, number, kept in streams:
        _open(kind, number, kept)
        if kind in ("ascii", "cp1252"):
            (sys.stdout if number == 1 else sys.stderr).reconfigure(encoding=kind)  # type: ignore[union-attr]
    sys.argv = ["latte", *arguments]
    code = 70
    try:
        latte()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()  # as the interpreter does at its end
            sys.stderr.flush()
        except BaseException:
            code = 120
        os._exit(code)


def _open(kind: str, number: int, kept: int) -> None:
    if kind == "closed":
        os.close(number)
    elif kind == "full":
        os.dup2(os.open("/dev/full", os.O_WRONLY), number)
    elif kind == "gone":
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(writing)
        if os.fork():
            os.close(reading)
        else:
            os.close(number)
            while os.read(reading, 1) not in (b"\n", b""):  # as `head -1`
                pass
            os._exit(0)
    else:
        os.dup2(kept, number)


if __name__ == "__main__":
    main()
