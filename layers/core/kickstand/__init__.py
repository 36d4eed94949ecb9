"""Kickstand's functional core: the same rules in every Lambda function, in training and on a laptop."""

__version__ = "0.2.0"
