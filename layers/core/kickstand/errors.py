"""The errors that the state machine distinguishes; Step Functions matches the class name."""

from pydantic import ValidationError


class InvalidImage(Exception):
    """The object is not a usable photo, so a retry does not help: it becomes a rejected record."""


class ModelUnavailable(Exception):
    """The model cannot be loaded or reached at the moment: worth a retry."""


class StoreUnavailable(Exception):
    """S3, DynamoDB or EventBridge throttles or fails at the moment: worth a retry."""


class AlreadyAsked(Exception):
    """Another execution asks about this photo: nothing is left to do."""


class AlreadyAnswered(Exception):
    """A person answered while this execution was not waiting: continue with recording the answer."""


def first_complaint(error: ValueError) -> str:
    """pydantic's first complaint with its field, and how many more there are, in one line; never the value."""
    if isinstance(error, ValidationError):
        first, *others = error.errors(include_url=False, include_input=False)
        more = f", and {len(others)} more" if others else ""
        place, what = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        return ": ".join(filter(None, (place, what))) + more
    return str(error).replace("\n", " ")[:200]
