"""The one exception that files raise when they are not what they should be."""


class WeightsError(ValueError):
    """A weights file or folder that cannot be used; the message says what was expected, found, and what to do."""
