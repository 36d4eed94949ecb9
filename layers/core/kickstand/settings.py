"""What a function reads from its environment, once, at import: a bad deployment fails at once, naming the variable."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of each function's settings: a field holds the variable of the same name in capitals, never an empty one."""

    # The message would otherwise hold the whole environment, and that holds AWS's credentials.
    model_config = ConfigDict(frozen=True, alias_generator=str.upper, str_min_length=1, hide_input_in_errors=True)
