"""Runs a command of `kickstand` as a terminal would."""

from typer.testing import CliRunner

from kickstand_cli.main import app


def run(*arguments: object) -> tuple[int, str, str]:
    """Its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr
