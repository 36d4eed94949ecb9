"""The errors that the state machine distinguishes; Step Functions matches the class name."""


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
