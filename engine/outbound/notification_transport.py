"""The transport of ``notify.send``. It replaces ``requests`` and ``smtplib`` in the services of Apprise.

All requests and mails of one message share one ``Exchange``: a deadline, a limit on the number of requests, and
the reason if the message is not accepted. HTTP requests go through ``Sender``: no redirects, at most 64 KiB of
a response, checked addresses, the proxies of the environment. Mail goes through ``BoundedSmtp``. Import this
module late: it loads the HTTP libraries.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import smtplib
import socket
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
import requests
import urllib3
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

from engine.model.errors import PermanentError, RefusedError, TemporaryError
from engine.outbound.connections import (
    CONNECT_TIMEOUT,
    DeadlineReader,
    OversizedResponseError,
    dial,
    seconds_left,
)
from engine.outbound.destination import parse_url
from engine.outbound.plugin_guard import sockets_allowed
from engine.outbound.retry_after import retry_after

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from engine.outbound.sender import Response, Sender

MAX_REQUESTS = 50
"""Requests or mails for one message."""
_MAX_REPLY = 64 << 10
"""Bytes that a mail server may send in one connection, before and after STARTTLS each."""
_FAILED = frozenset({"error", "fail", "failed", "failure", "invalid event"})
"""Values of ``status`` in an answer that mean an error. "invalid event" is from the Events API of PagerDuty."""
_TEAMS_ERROR = b"endpoint returned HTTP error"
"""The text with which an incoming webhook of Teams answers 200 to a message that it did not post."""
_current: contextvars.ContextVar[Exchange] = contextvars.ContextVar("notification_exchange")


class Exchange:
    """The requests of one message.

    service: the name for error messages. seconds: for all requests together. check_address: see ``dial``.
    error: why the last request that failed did so, or None. rejected: whether an answer with a status of
    success says that the message was not accepted.
    """

    def __init__(
        self,
        service: str,
        sender: Sender,
        seconds: float,
        check_address: Callable[[str, int], None],
    ) -> None:
        self.service = service
        self.sender = sender
        self.check_address = check_address
        self.deadline = time.monotonic() + seconds
        self.error: TemporaryError | PermanentError | RefusedError | None = None
        self.rejected = False
        self._count = 0

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make this the exchange of the requests that the services send in this context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def count(self) -> None:
        """Count a request. Raises PermanentError if there are too many."""
        self._count += 1
        if self._count > MAX_REQUESTS:
            raise PermanentError(
                f"{self.service}: one message takes more than {MAX_REQUESTS} requests"
            )

    def no_response(self, error: Exception) -> None:
        """Record that a request got no response."""
        self.error = TemporaryError(f"{self.service}: {type(error).__name__}")

    def answered(self, status: int, after: float | None = None, *, temporary: bool) -> None:
        """Record that a server refused a request. after: seconds that it asks to wait."""
        what = f"{self.service}: answered {status}"
        if 300 <= status < 400:  # noqa: PLR2004 - HTTP
            what += ", and redirects are not followed"
        if status in (429, 503):
            self.error = TemporaryError(what, after=after)
        else:
            self.error = TemporaryError(what, answered=True) if temporary else PermanentError(what)

    def check_body(self, status: int, body: bytes) -> None:
        """Record an error in the body of an answer with a status of success. The body is not shown."""
        fault = _fault_in(body)
        if fault:
            self.rejected = True
            what = f"answered {status} with an error in the body ({fault})"
            self.error = PermanentError(f"{self.service}: {what}")

    def refused(self, error: RefusedError) -> None:
        """Record that a request was not sent, because its address is not allowed."""
        self.error = RefusedError(f"{self.service}: {error}")


def send_request(method: str, url: str, **options: Any) -> requests.Response:
    """Send a request as ``requests.request`` does, in the current exchange.

    Redirects are not followed and certificates are verified, whatever the options say. The user's ``.netrc`` is
    not read. Raises requests.ConnectionError, and PermanentError after too many requests.
    """
    exchange = _current.get()
    exchange.count()
    known = ("headers", "files", "data", "params", "auth", "cookies", "json")
    given = {key: options[key] for key in known if options.get(key) is not None}
    prepared = requests.Request(method.upper(), url, **given).prepare()
    try:
        with sockets_allowed():
            response = _send(exchange, prepared)
    except RefusedError as error:
        exchange.refused(error)
        raise requests.ConnectionError("refused") from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        exchange.no_response(error)
        raise requests.ConnectionError(type(error).__name__) from None
    if response.status >= 300:  # noqa: PLR2004 - HTTP
        exchange.answered(
            response.status,
            retry_after(response.headers),
            temporary=response.status >= 500,  # noqa: PLR2004 - HTTP
        )
    elif prepared.method != "GET":  # a search without a result is not a refused message
        exchange.check_body(response.status, response.body)
    return _as_requests(response, prepared)


def _fault_in(body: bytes) -> str:
    """Return what in the body of an answer means that the message was not accepted, or "".

    Many services answer 200 and say so in the body only. The keys are those that no service uses otherwise.
    """
    if _TEAMS_ERROR in body:
        return _TEAMS_ERROR.decode()
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):  # text, or more than the bytes that are read
        return ""
    if not isinstance(answer, dict):
        return ""
    for key in ("ok", "success"):
        if answer.get(key) is False:
            return f"{key}: false"
    code, status = answer.get("errcode"), answer.get("status")
    if isinstance(code, int) and code:
        return f"errcode: {code}"
    if isinstance(status, str) and status.lower() in _FAILED:
        return f"status: {status.lower()}"
    return ""


def _send(exchange: Exchange, prepared: requests.PreparedRequest) -> Response:
    """Send a prepared request. The address of a host that is an address is checked also with a proxy."""
    url = str(prepared.url)
    scheme, slashes, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    destination = parse_url(f"{scheme}{slashes}{authority.rpartition('@')[2]}{slash}{path}")
    with contextlib.suppress(ValueError):  # a name
        exchange.check_address(destination.host, destination.port)
    body = prepared.body
    content = body.encode() if isinstance(body, str) else body
    if content is not None and not isinstance(content, bytes):
        raise ValueError("a body of another type")
    skipped = ("content-length", "host")
    headers = {k: _text(v) for k, v in prepared.headers.items() if k.lower() not in skipped}
    seconds = seconds_left(exchange.deadline)
    return exchange.sender.send(destination, str(prepared.method), headers, content, seconds)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _as_requests(response: Response, prepared: requests.PreparedRequest) -> requests.Response:
    """Return a response as the services expect it."""
    found = requests.Response()
    found.status_code = response.status
    found.headers = CaseInsensitiveDict(response.headers)
    found.encoding = get_encoding_from_headers(found.headers)
    found.url = str(prepared.url)
    found.request = prepared
    found.reason = ""
    found._content = response.body  # noqa: SLF001 - the only way to build a Response that is complete
    return found


def _method(name: str) -> Callable[..., requests.Response]:
    def send(url: str, data: Any = None, **options: Any) -> requests.Response:
        return send_request(name, url, data=data, **options)

    return send


def _get(url: str, params: Any = None, **options: Any) -> requests.Response:
    return send_request("GET", url, params=params, **options)


class BoundedSmtp(smtplib.SMTP):
    """An SMTP connection within the current exchange.

    The options ``timeout`` and ``local_hostname`` are ignored: smtplib would look up the name of this machine
    without a timeout.
    """

    def __init__(
        self, host: str = "", port: int = 0, local_hostname: str | None = None, **_: Any
    ) -> None:
        del local_hostname
        self.exchange = _current.get()
        self.exchange.count()
        name = socket.gethostname()
        own = name if "." in name else "[127.0.0.1]"  # as smtplib, RFC 5321 section 4.1.3
        with self._recorded():
            super().__init__(host, port, own, timeout=seconds_left(self.exchange.deadline))

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        """Connect, called by smtplib."""
        seconds = min(CONNECT_TIMEOUT, timeout)
        with sockets_allowed():
            return dial((host, port), seconds, check=self.exchange.check_address)

    def send(self, s: Any) -> None:
        """Send bytes before the deadline."""
        if self.sock is not None:
            self.sock.settimeout(seconds_left(self.exchange.deadline))
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply before the deadline, and record an error."""
        if self.file is None and self.sock is not None:
            raw = self.sock.makefile("rb", buffering=0)
            reader = DeadlineReader(raw, self.sock, self.exchange.deadline, _MAX_REPLY)
            self.file = io.BufferedReader(reader)
        try:
            code, text = super().getreply()
        except OversizedResponseError as error:
            self.close()
            self.exchange.no_response(error)
            raise smtplib.SMTPServerDisconnected("the reply exceeds its limit") from None
        except smtplib.SMTPException as error:
            if self.exchange.error is None:
                self.exchange.no_response(error)
            raise
        if code >= 400:  # noqa: PLR2004 - RFC 5321
            self.exchange.answered(code, temporary=code < 500)  # noqa: PLR2004 - RFC 5321
        return code, text

    def starttls(  # type: ignore[override]  # the other options are deprecated
        self, *, context: ssl.SSLContext | None = None
    ) -> tuple[int, bytes]:
        """Begin TLS, and record an error."""
        with self._recorded():
            return super().starttls(context=context)

    def login(
        self, user: str, password: str, *, initial_response_ok: bool = True
    ) -> tuple[int, bytes]:
        """Log in, and record an error."""
        with self._recorded():
            return super().login(user, password, initial_response_ok=initial_response_ok)

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Record an error that is not the answer of the server."""
        try:
            yield
        except RefusedError as error:
            self.exchange.refused(error)
            raise OSError("refused") from None
        except smtplib.SMTPNotSupportedError:
            what = "the mail server does not offer what the URL asks for (STARTTLS or a login)"
            self.exchange.error = PermanentError(f"{self.exchange.service}: {what}")
            raise
        except smtplib.SMTPResponseException:
            raise  # getreply has recorded the answer
        except (OSError, smtplib.SMTPException) as error:
            if self.exchange.error is None:
                self.exchange.no_response(error)
            raise


class BoundedSmtpSsl(BoundedSmtp):
    """An SMTP connection that begins with TLS."""

    default_port = smtplib.SMTP_SSL_PORT

    def __init__(
        self, host: str = "", port: int = 0, *args: Any, context: ssl.SSLContext, **_: Any
    ) -> None:
        del args
        self._context = context
        super().__init__(host, port)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connection = super()._get_socket(host, port, timeout)
        return self._context.wrap_socket(connection, server_hostname=host)


REQUESTS = SimpleNamespace(
    codes=requests.codes,
    auth=requests.auth,
    exceptions=requests.exceptions,
    RequestException=requests.RequestException,
    ConnectionError=requests.ConnectionError,
    Timeout=requests.Timeout,
    TooManyRedirects=requests.TooManyRedirects,
    Response=requests.Response,
    request=send_request,
    get=_get,
    **{name: _method(name) for name in ("post", "put", "patch", "delete", "head", "options")},
)
"""What the services use of ``requests``."""
SMTPLIB = SimpleNamespace(
    **{name: getattr(smtplib, name) for name in smtplib.__all__ if name.startswith("SMTP")}
    | {"SMTP": BoundedSmtp, "SMTP_SSL": BoundedSmtpSsl}
)
"""What the services use of ``smtplib``."""
