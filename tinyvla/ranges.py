"""Ranges of settings, checked by the dataclass that has them."""

from typing import Any

# Of a network: a file or a typing error cannot ask for more memory than there is.
MAX_WIDTH, MAX_LAYERS = 16_384, 256
MAX_STEPS = 10_000  # of diffusion or flow

_FINITE = 1e300  # whole numbers from 1e309 are finite, and too large for a float


class RangeError(ValueError):
    """A setting outside of its range. `field` is its name, `fault` the rest of the sentence."""

    def __init__(self, field: str, value: Any, fault: str):
        super().__init__(f"{field} is {value}; {fault}")
        self.field, self.value, self.fault = field, value, fault


def check_range(
    settings: Any, *names: str, low: float | None = None, high: float | None = None, above: float | None = None
) -> None:
    """Raise RangeError for the first of the fields `names` of a dataclass that is not a number of a range.

    Fields that are None or text, such as "auto", are skipped.

    Args:
        settings: the dataclass.
        names: of its fields.
        low, high: the smallest and the largest value; None: any finite number.
        above: instead of `low`, a bound that is not a value itself.
    """
    for name in names:
        value = getattr(settings, name)
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RangeError(name, value, f"use {_range_text(low, high, above)}")
        is_low = (low is not None and value < low) or (above is not None and value <= above)
        if not abs(value) < _FINITE or is_low or (high is not None and value > high):
            raise RangeError(name, value, f"use {_range_text(low, high, above)}")


def _range_text(low: float | None, high: float | None, above: float | None) -> str:
    if above is not None:
        return f"a number above {above:g}" + ("" if high is None else f", at most {high:g}")
    if low is None:
        return "a finite number" if high is None else f"{high:g} or less"
    return f"{low:g} or more" if high is None else f"a number from {low:g} to {high:g}"
