"""What can go wrong with a dataset."""


class DatasetError(Exception):
    """The dataset cannot be fetched, read, written, staged or checked; the message says what and which."""
