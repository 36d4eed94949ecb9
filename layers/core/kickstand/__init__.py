"""Kickstand's functional core: the same rules in every Lambda function, in training and on a laptop."""
