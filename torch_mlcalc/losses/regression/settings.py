"""The check of the settings of these losses."""

from numbers import Real


def check_number(name: str, value: object) -> None:
    """Refuse a setting that is no real number.

    Args:
        name: Name of the setting.
        value: The caller's choice.

    Raises:
        TypeError: If it is no number.
    """
    # Real alone is an abstract class, which takes five times as long to ask.
    if not isinstance(value, (float, Real)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
