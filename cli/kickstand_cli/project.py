"""Where the checkout's files lie."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
TEMPLATE = PROJECT / "template.yaml"
MODEL = PROJECT / "layers" / "model" / "model"
