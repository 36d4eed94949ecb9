"""Settings of a function, read from its environment at import: a bad deployment fails at once, naming the variable."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of each function's settings: a field reads the variable of its name in capitals, which must not be empty."""

    # Otherwise the message would show the whole environment, with AWS's credentials.
    model_config = ConfigDict(frozen=True, alias_generator=str.upper, str_min_length=1, hide_input_in_errors=True)
