"""The entry point. It imports nothing at first, so that Ctrl-C never ends in a traceback."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from kickstand_cli.main import app
    except KeyboardInterrupt:
        sys.exit(130)
    app()


if __name__ == "__main__":
    main()
