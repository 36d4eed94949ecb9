"""Hostile input: photos, keys, events and artefacts that nobody means well by, and what becomes of them."""
