"""The Retry-After header of a response."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def retry_after(headers: Mapping[str, str] | None) -> float | None:
    """Return the seconds that a response asks the client to wait; None without a valid Retry-After.

    The header is a number of seconds or a date (RFC 9110, 10.2.3). A date is compared with the Date header of
    the same response, because the clocks of client and server may differ.
    """
    values = {name.lower(): value for name, value in (headers or {}).items()}
    value = values.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        retry_at = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return None
    try:
        sent_at = parsedate_to_datetime(values.get("date", "")).timestamp()
    except (ValueError, OverflowError):
        sent_at = time.time()
    return max(0.0, retry_at - sent_at)
