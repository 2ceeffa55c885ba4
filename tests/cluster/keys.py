"""The keys of the test control plane: a CA, the certificate of the API server, and the key that signs tokens."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path

Key = ec.EllipticCurvePrivateKey

LIFE = timedelta(days=7)
AUTHORITY = x509.Name.from_rfc4514_string("CN=tests-ca")
SERVER = x509.Name.from_rfc4514_string("CN=kube-apiserver")
LOOPBACK = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])


def make_keys(folder: Path) -> None:
    """Write ca.crt and ca.key, server.crt and server.key of the API server, and accounts.key for tokens."""
    authority, accounts = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = unsigned(AUTHORITY, authority, authority, is_authority=True)
    write_certificate(folder / "ca.crt", ca, authority)
    for name, key in (("ca.key", authority), ("accounts.key", accounts)):
        (folder / name).write_bytes(pem(key))
    make_server_pair(folder)


def make_server_pair(folder: Path) -> None:
    """Write a new server.crt and server.key, signed by the CA of the folder."""
    authority = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    assert isinstance(authority, Key)
    server = ec.generate_private_key(ec.SECP256R1())
    own = unsigned(SERVER, server, authority, is_authority=False)
    write_certificate(folder / "server.crt", own.add_extension(LOOPBACK, critical=False), authority)
    (folder / "server.key").write_bytes(pem(server))


def write_certificate(file: Path, builder: x509.CertificateBuilder, signer: Key) -> None:
    """Sign and write a certificate."""
    certificate = builder.sign(signer, hashes.SHA256())
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def unsigned(
    subject: x509.Name, key: Key, signer: Key, *, is_authority: bool
) -> x509.CertificateBuilder:
    """Return an unsigned certificate that is valid for a week.

    It has every extension that the strict mode of OpenSSL requires. Python uses this mode from version 3.13.
    """
    began = datetime.now(UTC) - timedelta(hours=1)
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder(AUTHORITY, subject, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(began)
        .not_valid_after(began + LIFE)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(usage(is_authority=is_authority), critical=True)
        .add_extension(key_id, critical=False)
        .add_extension(signer_id, critical=False)
    )


def usage(*, is_authority: bool) -> x509.KeyUsage:
    """Return the key usage: signing certificates, or TLS handshakes."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def pem(key: Key) -> bytes:
    """Return the private key in the traditional PEM format, which all Go programs can read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
