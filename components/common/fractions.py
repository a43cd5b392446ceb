"""Fractions, as settings and arguments take them: numbers from 0 to 1, or percentages such as 5%.

A slip must not switch a bound off: 5 where 5 % is meant is refused, and so are true, NaN and infinity.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError


def parse(value: Any) -> float:
    """Reads a fraction.

    Args:
        value: Number from 0 to 1, or text such as "0.05", "5%", "5 %".

    Returns:
        The number.

    Raises:
        ValueError: Anything else; the message says what was probably meant.
    """
    number, percent = value, False
    if isinstance(value, str):
        text = value.strip()
        percent = text.endswith("%")
        try:
            number = float(text.removesuffix("%"))
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError("a fraction between 0 and 1, such as 0.05 or 5%")
    fraction = number / 100 if percent else float(number)
    if 0 <= fraction <= 1:
        return fraction
    if not percent and 1 < number <= 100:
        raise ValueError(f"a fraction between 0 and 1; for {number:g} % write {number / 100:g} or {number:g}%")
    raise ValueError("a fraction between 0 and 1 (0% to 100%)")


def _validate(value: Any) -> float:
    try:
        return parse(value)
    except ValueError as error:
        raise PydanticCustomError("fraction", "{text}", {"text": str(error)}) from None


Fraction = Annotated[float, BeforeValidator(_validate), Field(ge=0, le=1)]


def _validate_bound(value: Any) -> float:
    try:
        fraction = parse(value)
        if fraction < 1:
            return fraction
        text = "a bound of 100 % refuses nothing: for 1 % write 0.01 or 1%"
    except ValueError as error:
        text = str(error)
    raise PydanticCustomError("bound", "{text}", {"text": f"{text}, for no bound null or no entry"})


Bound = Annotated[float, BeforeValidator(_validate_bound), Field(ge=0, lt=1)]
