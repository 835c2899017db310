"""`python -m latte_cli` is `latte`."""

from latte_cli.cli import main

if __name__ == "__main__":
    main()
