"""The errors that the state machine tells apart; Step Functions matches the bare class name."""


class InvalidImage(Exception):
    """The object cannot be used as a photo, however often we try: it becomes a rejected record."""


class ModelUnavailable(Exception):
    """The model cannot be loaded or reached at the moment: worth a retry."""


class StoreUnavailable(Exception):
    """S3, DynamoDB or EventBridge throttles or fails at the moment: worth a retry."""


class AlreadyAsked(Exception):
    """Another execution asks about this image: nothing is left to do."""


class AlreadyAnswered(Exception):
    """A person has answered while this execution was not listening: go on to recording the answer."""
