"""Where the template, the functions, the model and the samples are: in the wheel, or in the checkout."""

from pathlib import Path

SHIPPED = Path(__file__).resolve().parent / "shipped"  # pyproject.toml says what the wheel puts there
IS_CHECKOUT = not SHIPPED.is_dir()
PROJECT = Path(__file__).resolve().parents[2] if IS_CHECKOUT else SHIPPED
TEMPLATE = PROJECT / "template.yaml"
MODEL = PROJECT / "layers" / "model" / "model"
