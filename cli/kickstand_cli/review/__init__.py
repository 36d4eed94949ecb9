"""The photos that wait for an answer, and the answers as a dataset."""
