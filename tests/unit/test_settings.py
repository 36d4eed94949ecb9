"""A function's settings name the variable that is missing, and never show the environment."""

import pytest
from pydantic import ValidationError

from kickstand.settings import Settings


class DrawSettings(Settings):
    records_table: str
    days: float


def test_a_field_is_the_variable_of_its_name_in_capitals() -> None:
    read = DrawSettings.model_validate({"RECORDS_TABLE": "records", "DAYS": "1.5", "OTHER": "ignored"})
    assert (read.records_table, read.days) == ("records", 1.5)


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"DAYS": "1"}, "RECORDS_TABLE"),
        ({"DAYS": "1", "RECORDS_TABLE": ""}, "RECORDS_TABLE"),
        ({"DAYS": "a week", "RECORDS_TABLE": "records"}, "DAYS"),
    ],
)
def test_a_variable_that_is_missing_empty_or_wrong_is_named(environment: dict[str, str], variable: str) -> None:
    with pytest.raises(ValidationError, match=f"1 validation error for DrawSettings\n{variable}\n"):
        DrawSettings.model_validate(environment)


def test_no_value_of_the_environment_is_in_the_message() -> None:
    with pytest.raises(ValidationError) as raised:
        DrawSettings.model_validate({"AWS_SECRET_ACCESS_KEY": "secret"})
    assert "secret" not in str(raised.value)
