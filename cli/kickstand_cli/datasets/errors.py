"""What can go wrong with a dataset."""

from kickstand_cli.terminal import CommandError


class DatasetError(CommandError):
    """The dataset cannot be fetched, read, written, staged or checked; the message says what and which."""
