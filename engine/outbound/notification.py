"""Send one message through a service of Apprise. Import this module late: it loads the HTTP libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.notification_services import load_service, scheme_of, service_of
from engine.outbound.notification_transport import Exchange
from engine.outbound.plugin_guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from apprise.plugins.base import NotifyBase

    from engine.outbound.sender import Sender


def send_notification(
    sender: Sender,
    url: str,
    message: tuple[str, str],
    seconds: float,
    check_address: Callable[[str, int], None],
) -> None:
    """Send a message. No error contains a part of the URL.

    Raises TemporaryError, PermanentError, RefusedError.

    url: the Apprise URL. message: title and body, plain text. seconds: for all requests together.
    check_address: see ``dial``.
    """
    scheme = scheme_of(url)
    exchange = Exchange(scheme, sender, seconds, check_address)
    title, body = message
    kind = load_service(scheme)
    service = None
    with exchange.active(), guarded() as refused:
        try:
            service = service_of(url, kind)
            sent = service is not None and _notify(service, title, body)
        except (TemporaryError, PermanentError, RefusedError):
            raise
        except Exception as error:  # noqa: BLE001 - code of a service; its errors contain parts of the URL
            if service is not None:
                what = f"{type(error).__name__} in the code of the service"
                raise PermanentError(f"{scheme}: {what}") from None
            sent = False
    if refused:
        raise RefusedError(f"{scheme}: the service must not {refused[0]}")
    if service is None:
        raise PermanentError(f"{scheme}: the secret is not a complete Apprise URL of this service")
    if not sent or exchange.rejected:
        raise exchange.error or PermanentError(f"{scheme}: the service did not accept the message")


def _notify(service: NotifyBase, title: str, body: str) -> bool:
    """Send a message, cut to the limit of the service. Some services send title and body as one text."""
    fits = max(service.body_maxlen - len(title) - 2, 1)
    return service.notify(body=body[:fits], title=title, body_format="text", overflow="truncate")
