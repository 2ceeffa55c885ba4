"""The services of ``notify.send``: the modules of Apprise that send by HTTP or mail only.

A module is listed only if its code uses no other channel: no sockets, no programs, no local files for a
message, no desktop, no system log. A test compares the list with the installed version of Apprise.
"""

from __future__ import annotations

import functools
import importlib
import logging
import re
import types
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from engine.model.errors import PermanentError, RefusedError

if TYPE_CHECKING:
    from apprise.plugins.base import NotifyBase

_LIST = """
acs africas_talking:atalk awswhatsapp bale bark:bark,barks betterstack bluesky:bsky,bluesky brevo
bulksms bulkvs burstsms:burstsms,kudosity chanify clickatell clicksend cliq:cliq,zcliq,zohocliq cm
custom_form:form,forms custom_json:json,jsons custom_xml:xml,xmls d7networks:d7sms dapnet dingtalk
discord dot eight00com email:mailto,mailtos emby:emby,embys enigma2:enigma2,enigma2s
evolution:evolution,evolutions exotel feishu firehydrant flock flowtriq:flowtriq,flowtriqs
fortysixelks:46elks,elks freemobile github goalert:goalert,goalerts google_chat:gchat
gorush:gorush,gorushs gotify:gotify,gotifys groupme gupshup home_assistant:hassio,hassios httpsms
humhub:humhub,humhubs ifttt ilert incidentio infobip instagram jellyfin:jellyfin,jellyfins jira join
kakaotalk:kakaotalk,kakao kaleyra:kaleyra,klr kavenegar kodi:kodi,xbmc,kodis,xbmcs kook kumulos
lametric:lametric,lametrics lark lauther lfgalarm:lfg line mailersend mailgun
mastodon:mastodon,toot,mastodons,toots mattermost:mmost,mmosts messagebird:msgbird
misskey:misskey,misskeys mobilemessage:mobilemessage,mobilemsg msg91 nextcloud:ncloud,nclouds
nextcloudtalk:nctalk,nctalks notica:notica,noticas notifiarr notifico:notifico,notificos notifyapp
notifyre ntfy:ntfy,ntfys octopush office365:azure,o365 one_signal:onesignal onebot:onebot,onebots
opsgenie opsimate:opsimate,opsimates pagerduty pagertree parseplatform:parsep,parseps
pinglet:pinglet,pinglets pingram plivo postmark prowl pushbullet:pbul pushdeer:pushdeer,pushdeers
pushed pushjet:pjet,pjets pushme pushover:pover pushplus:pushplus,wecom pushsafer:psafer,psafers
pushward pushy qq reddit resend revolt ringcentral:ringc rocketchat:rocket,rockets ryver sendgrid
sendpulse serverchan:schan serwersms ses seven sfr signal_api:signal,signals signalgrid signl4 sinch
slack smsc smseagle:smseagle,smseagles smsmanager:smsmgr,smsmanager smstunnel smtp2go sns sparkpost
spike splunk:splunk,victorops spugpush squadcast stackfield streamlabs:strmlabs
synology:synology,synologys techuluspush:push telegram:tgram telesign telnyx threema
trigv:trigv,trigvs twilio twist viber voipms vonage:vonage,nexmo webexteams:wxteams,webex wechat
wecombot whapi whatsapp workflows:workflow,workflows wpush wxpusher xmatters youlmk zalo zoom zulip
"""
"""Modules of ``apprise.plugins``, each with the schemes of its URLs if they differ from its name."""
MODULES: dict[str, str] = {
    scheme: module
    for entry in _LIST.split()
    for module, _, schemes in [entry.partition(":")]
    for scheme in (schemes or module).split(",")
}
"""Scheme of an Apprise URL -> module of ``apprise.plugins``."""
_SCHEME = re.compile(r"([a-z0-9]{2,20})://", re.IGNORECASE)
_LOCAL = frozenset(
    {"template", "pgp", "pgppub", "pgpprv", "wkd", "attach", "attachment", "config", "include"}
)
"""Parameters of Apprise URLs that name local files or further URLs to read."""


def scheme_of(url: str) -> str:
    """Return the scheme of an Apprise URL in lower case. Raises PermanentError, RefusedError.

    The messages do not contain the URL, because it is secret.
    """
    found = _SCHEME.match(url)
    if not found:
        raise PermanentError("the secret is not an Apprise URL (SERVICE://…)")
    scheme = found[1].lower()
    if scheme not in MODULES:
        raise RefusedError(
            f"notify.send does not support the service `{scheme}` (docs/notifications.md lists them)"
        )
    given = {
        key.lower(): value
        for key, value in parse_qsl(url.partition("?")[2], keep_blank_values=True)
    }
    local = sorted(given.keys() & _LOCAL)
    if local:
        what = f"the parameter `{local[0]}` of the Apprise URL is not supported"
        raise RefusedError(f"{scheme}: {what}: it reads other files or URLs")
    if given.get("verify", "yes").lower() not in ("yes", "true", "1", "on", "y"):
        what = "certificates are always verified; put the CA into the file that SSL_CERT_FILE names"
        raise RefusedError(f"{scheme}: remove `verify` from the Apprise URL: {what}")
    return scheme


def service_of(url: str, kind: type[NotifyBase]) -> NotifyBase | None:
    """Return the service of a URL, or None if the URL is not complete. The service can raise any error.

    kind: from ``load_service``.
    """
    results = kind.parse_url(url)
    if not results:
        return None
    service: NotifyBase = kind(**{**results, "asset": _asset()})
    service.throttle = lambda *_, **__: None  # type: ignore[method-assign]  # it would sleep; the engine repeats after a 429
    return service


@functools.cache
def load_service(scheme: str) -> type[NotifyBase]:
    """Import the code of a service, and give it our transport in place of ``requests`` and ``smtplib``."""
    from engine.outbound.notification_transport import (  # noqa: PLC0415 - loads the HTTP libraries
        REQUESTS,
        SMTPLIB,
    )

    logging.getLogger("apprise").disabled = True  # it logs URLs and answers
    module = importlib.import_module(f"apprise.plugins.{MODULES[scheme]}")
    for part in _parts(module):
        for name, ours in (("requests", REQUESTS), ("smtplib", SMTPLIB)):
            if isinstance(getattr(part, name, None), types.ModuleType):
                setattr(part, name, ours)
    return _kind(module, scheme)


def _parts(module: types.ModuleType) -> list[types.ModuleType]:
    """Return a module and, if it is a package, its modules."""
    if not hasattr(module, "__path__"):
        return [module]
    inner = [one for one in vars(module).values() if isinstance(one, types.ModuleType)]
    return [module, *(one for one in inner if one.__name__.startswith(f"{module.__name__}."))]


def _kind(module: types.ModuleType, scheme: str) -> type[NotifyBase]:
    """Return the class of a module for a scheme."""
    from apprise.plugins.base import NotifyBase  # noqa: PLC0415 - loads Apprise

    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, NotifyBase):
            schemes = [getattr(value, name, None) for name in ("protocol", "secure_protocol")]
            flat = [s for one in schemes for s in ([one] if isinstance(one, str) else one or ())]
            if scheme in flat:
                return value
    raise PermanentError(f"{scheme}: the installed version of Apprise does not have this service")


@functools.cache
def _asset() -> Any:
    """Return the settings of Apprise: nothing is stored, read, interpreted or sent in parallel."""
    from apprise import AppriseAsset, PersistentStoreMode  # noqa: PLC0415 - loads Apprise

    return AppriseAsset(
        app_id="Tiercel",
        app_desc="Tiercel",
        app_url="",
        async_mode=False,
        interpret_escapes=False,
        http_redirects=False,
        image_path_mask="",
        image_url_mask="",
        image_url_logo="",
        pgp_autogen=False,
        pem_autogen=False,
        secure_logging=True,
        storage_mode=PersistentStoreMode.MEMORY,
        allow_templates=False,
    )
