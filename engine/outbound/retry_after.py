"""Retry-After."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Seconds that an answer asks us to wait: its Retry-After, a number or a date (RFC 9110, 10.2.3); or None.

    A date is counted from the answer's own, since the other side's clock may be another than ours.
    """
    told = {name.lower(): value for name, value in (headers or {}).items()}
    value = told.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        sent = parsedate_to_datetime(told.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        sent = time.time()
    return max(0.0, until - sent)
