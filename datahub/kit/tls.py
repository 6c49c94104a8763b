"""TLS as a client: who the peer must be, and who we say we are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL.crypto import X509
from OpenSSL.SSL import Error as TlsError
from twisted.internet.ssl import (
    Certificate,
    CertificateOptions,
    optionsForClientTLS,
    platformTrust,
    trustRootFromCertificates,
)
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

__all__ = ["ClientPolicy"]


@implementer(IPolicyForHTTPS)
class ClientPolicy:
    """Trusts the authorities in ``ca`` (a file, or a folder of files), or the machine's own.

    It shows ``certificate``, if there is one, to who asks. All files are PEM, the certificate with its chain.
    Raises `ValueError` naming the file that is wrong.
    """

    def __init__(self, certificate: Path | None = None, key: Path | None = None, ca: Path | None = None) -> None:
        self._trust = platformTrust() if ca is None else _authorities(ca)
        self._own = _own(certificate, key) if certificate and key else {}

    def creatorForNetloc(self, hostname: bytes, port: int) -> Any:  # noqa: N802 - Twisted's name
        """What makes connections to ``hostname``, whose certificate must be its own."""
        return optionsForClientTLS(
            hostname.decode("ascii"), trustRoot=self._trust, extraCertificateOptions=dict(self._own)
        )


def _authorities(path: Path) -> Any:
    if path.is_dir():
        # As grid programs have them: each in a file of its own, some of them two times.
        files = sorted({*path.glob("*.0"), *path.glob("*.pem")})
        found = [each for file in files for each in _loaded(file, x509.load_pem_x509_certificates, "certificates")]
    else:
        found = _loaded(path, x509.load_pem_x509_certificates, "certificates")
    return trustRootFromCertificates([Certificate(X509.from_cryptography(each)) for each in found])


def _own(certificate: Path, key: Path) -> dict[str, Any]:
    first, *further = _loaded(certificate, x509.load_pem_x509_certificates, "certificates")
    secret = _loaded(key, lambda data: load_pem_private_key(data, None), "a private key without password")
    own = {"privateKey": secret, "certificate": first, "extraCertChain": further or None}
    try:
        # Twisted makes it only for the first connection, which would be late to hear that they don't match.
        CertificateOptions(**own).getContext()
    except TlsError as error:
        raise ValueError(f"the key {key} does not belong to {certificate}") from error
    return own


def _loaded(path: Path, load: Any, what: str) -> Any:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} must hold {what} in PEM form: {error}") from error
