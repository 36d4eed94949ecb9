"""The `kickstand` command: data sets, training, evaluation, and the whole deployment on a laptop."""
