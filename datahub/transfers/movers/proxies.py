"""Proxy certificates (RFC 3820): signed for a service that is to act for the hub, looked at before they are used."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import NameOID

__all__ = ["Credentials", "Papers", "expired", "expiry", "load", "outdated", "sign"]

_PROXY_CERT_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
# ProxyCertInfo { ProxyPolicy { id-ppl-inheritAll } }: the proxy may do all that its issuer may.
_INHERIT_ALL = bytes.fromhex("300c300a06082b06010505071501")
# A clock behind ours must not find a proxy that begins only in the future.
WEAK = 1024
"""RSA keys of less bits are broken."""
_BACKDATED = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate, what it was issued by, and its key; the first may itself be a proxy."""

    chain: tuple[x509.Certificate, ...]
    key: CertificateIssuerPrivateKeyTypes

    @property
    def until(self) -> dt.datetime:
        """When the first of them expires."""
        return expiry(self.chain)


@dataclass(frozen=True, slots=True)
class Papers:
    """The files by which the hub identifies itself at grid servers; None: as the daemon's environment says.

    A proxy goes before certificate and key.
    """

    certificate: Path | None = None
    key: Path | None = None
    proxy: Path | None = None
    ca: Path | None = None
    token_file: Path | None = None

    @property
    def shown(self) -> Path | None:
        """The file by which the hub is known."""
        return self.proxy or self.certificate

    def trouble(self, now: float) -> str:
        """Why they can't be used at ``now`` (seconds since 1970); "" if they can."""
        return expired(self.shown, now) or _lacking(self.token_file)

    def load(self) -> Credentials:
        """Read the proxy, or certificate and key; raises `ValueError` naming the file that is wrong, or lacking."""
        key = self.proxy or self.key
        if self.shown is None or key is None:
            raise ValueError("there is neither a proxy, nor a certificate with its key")
        return load(self.shown, key)

    def stamp(self) -> object:
        """What is another when they have been renewed.

        Of a folder of authorities: when a file came, went or was replaced, not when one was written in its place.
        """
        return tuple(_stamp(each) for each in (self.certificate, self.key, self.proxy, self.ca, self.token_file))

    def environment(self, given: Mapping[str, str], token: str | None) -> dict[str, str]:
        """The variables in which grid programs look for them, and the others of ``given``.

        A token in a file goes before ``token``; its name is told, for it lives an hour and is written anew by others.
        """
        said = {
            "X509_USER_CERT": self.proxy or self.certificate,
            "X509_USER_KEY": self.proxy or self.key,
            "X509_USER_PROXY": self.proxy,
            "X509_CERT_DIR": self.ca,
            "BEARER_TOKEN_FILE": self.token_file,
        }
        known = dict(given)
        if self.certificate or self.proxy:
            # One that is inherited would go before the certificate.
            known.pop("X509_USER_PROXY", None)
        if self.token_file is not None:
            known.pop("BEARER_TOKEN", None)
        known |= {name: str(path) for name, path in said.items() if path is not None}
        return known if token is None or self.token_file else {**known, "BEARER_TOKEN": token}


def _stamp(path: Path | None) -> object:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return found and (found.st_ino, found.st_mtime_ns)


def load(certificate: Path, key: Path) -> Credentials:
    """Read PEM files, which may be one and the same; raises `ValueError` naming the one that is wrong."""
    path = certificate
    try:
        chain = tuple(x509.load_pem_x509_certificates(path.read_bytes()))
        path = key
        secret = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not in PEM form, or has a password: {error}") from error
    return Credentials(chain, secret)  # type: ignore[arg-type]  # a key that can't sign would have no certificate


def expiry(chain: tuple[x509.Certificate, ...]) -> dt.datetime:
    """When the first certificate of a chain expires."""
    return min(each.not_valid_after_utc for each in chain)


def expired(path: Path | None, now: float) -> str:
    """Why the credentials in the file at ``path`` can't be used at ``now`` (seconds since 1970); "" if they can."""
    if path is None:
        return ""
    try:
        until = expiry(tuple(x509.load_pem_x509_certificates(path.read_bytes())))
    except OSError as error:
        return f"the credentials {path} can't be read: {error.strerror}"
    except ValueError as error:
        return f"the credentials {path} are no certificates in PEM form: {error}"
    if until.timestamp() > now:
        return ""
    return _told(path, until)


def _lacking(token: Path | None) -> str:
    try:
        return "" if token is None or token.read_text("ascii").strip() else f"there is no token in the file {token}"
    except OSError as error:
        return f"the token {token} can't be read: {error.strerror}"
    except ValueError:
        return f"the token {token} is not ASCII"


def outdated(path: Path | None, own: Credentials) -> str:
    """What is said of credentials, read from ``path``, that have expired."""
    return _told(path, own.until)


def _told(path: Path | None, until: dt.datetime) -> str:
    return f"the credentials {path} have expired at {until:%Y-%m-%dT%H:%M:%SZ}: renew them"


def sign(request: bytes, own: Credentials, now: float, lifetime: float) -> bytes:
    """A proxy of ``own`` for who made the PEM ``request``, with its chain in PEM; both times in seconds.

    It expires with what it stands on, if that is sooner. Raises `ValueError` for a request that is none.
    """
    wanted = x509.load_pem_x509_csr(request)
    if not wanted.is_signature_valid:
        raise ValueError("the request is not signed by the key in it")
    key = wanted.public_key()
    if isinstance(key, RSAPublicKey) and key.key_size < WEAK:
        # FTS makes it as long as the hub's own, and miscounts one on a curve.
        raise ValueError(f"it is to be for an RSA key of {key.key_size} bits only: give the hub a certificate for RSA")
    issuer, begin = own.chain[0], dt.datetime.fromtimestamp(now, dt.UTC)
    serial = int(now * 1000)
    common = x509.NameAttribute(NameOID.COMMON_NAME, str(int(now)))
    proxy = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([*issuer.subject.rdns, x509.RelativeDistinguishedName([common])]))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(max(begin - _BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(begin + dt.timedelta(seconds=lifetime), own.until))
        .add_extension(x509.UnrecognizedExtension(_PROXY_CERT_INFO, _INHERIT_ALL), critical=True)
        .add_extension(_usage(), critical=True)
        .sign(own.key, hashes.SHA256())
    )
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in (proxy, *own.chain))


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=True,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
