"""Drift, live accuracy, and the report on both."""
