"""The photos that wait for a person, and people's answers as a dataset."""
