"""Accounts for every upload: its outcome, or that it is missing."""
