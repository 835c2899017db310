"""`latte` and `python -m latte_cli`: the command line, whose modules are imported within reach of Ctrl-C."""

import gc
import sys

_FEW_COLLECTIONS = (50_000, 20, 20)  # chosen: what lives on is not looked at again and again
_INTERRUPTED = 130  # errors.ExitCode.INTERRUPTED, which may not have been imported yet


def main() -> None:
    """Run the command line; an interrupt before it can report it itself, or after, ends as one during it does."""
    gc.set_threshold(*_FEW_COLLECTIONS)
    try:
        from latte_cli import interrupts

        interrupts.catch_signals()
        from latte_cli.cli import main as run

        run()
    except (KeyboardInterrupt, RuntimeError) as exc:
        # An interrupt while a class is made is the cause of a RuntimeError (before Python 3.12).
        if not isinstance(exc, KeyboardInterrupt) and not isinstance(exc.__cause__, KeyboardInterrupt):
            raise
        sys.stderr.write("error: interrupted\n")
        sys.exit(_INTERRUPTED)
    finally:
        # CPython ends by SIGINT, whatever the exit code, where an interrupt came while it ran a text, as dataclasses
        # do; the next text that it runs makes it forget that.
        exec("")


if __name__ == "__main__":
    main()
