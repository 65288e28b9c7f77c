"""Canonical JSON (RFC 8785), with numbers and the order of keys as JavaScript has them: equal values have equal hashes."""

import json
import math
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


def code_units(text: str) -> bytes:
    """Sorts strings as JavaScript compares them: by UTF-16 code unit."""
    return text.encode("utf-16-be", "surrogatepass")


def canonical_json(value: Json) -> str:
    """
    Raises ValueError for a number that is not finite.
    """
    if isinstance(value, dict):
        parts = (f"{_text(key)}:{canonical_json(value[key])}" for key in sorted(value, key=code_units))
        return "{" + ",".join(parts) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical_json(item) for item in value) + "]"
    if isinstance(value, float):
        return _number(value)
    return _text(value)


def _text(value: str | int | bool | None) -> str:
    return json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    """As ECMAScript's Number::toString: the shortest digits that give the number back, an exponent from 1e21 and 1e-7 on."""
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written as JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, exponent = f"{abs(value)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # The number is 0.digits times 10^point.
    leading = len(whole + fraction) - len(digits)
    point = len(whole) + int(exponent) - leading
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        if len(digits) <= point:
            return sign + digits.ljust(point, "0")
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{rest}e{'+' if point > 0 else '-'}{abs(point - 1)}"
