"""What Kickstand costs, each against an anchor that is measured in the same run; `python -m bench` runs them all."""
