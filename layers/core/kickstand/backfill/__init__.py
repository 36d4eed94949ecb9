"""Decides photos that have no decision yet, or one by an older model, within a capacity of its own."""
