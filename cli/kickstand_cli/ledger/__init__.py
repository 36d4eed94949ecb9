"""Where every upload ended, and why."""
