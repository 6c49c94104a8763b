"""An FTS3 server as its REST interface shows it (fts-rest-flask 3.13): delegation with real signatures, and jobs.

Nothing is copied: what is at a destination is an entry of `FakeFts.copied`. How jobs get on the test says, by `run` and
`finish`, or by ``manner`` "works", in which a job gets on each time somebody asks about it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4, uuid5
from zlib import adler32

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from klein import Klein
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.ssl import Certificate, CertificateOptions, KeyPair, trustRootFromCertificates
from twisted.web.server import Site

__all__ = ["FakeFts", "listen"]

BASE = UUID("01874efb-4735-4595-bc9c-591aef8240c9")
PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
ALLOW_PROXIES = 0x40  # X509_V_FLAG_ALLOW_PROXY_CERTS
FINAL = ("FINISHED", "FAILED", "FINISHEDDIRTY", "CANCELED")
FINAL_FILES = ("FINISHED", "FAILED", "CANCELED", "NOT_USED")
EXISTS = "DESTINATION [17] Destination file exists and overwrite is not enabled"
HOUR = 3600
FORMAT = "%Y-%m-%dT%H:%M:%S"


@dataclass
class Delegated:
    """A delegation: the key of the request under way, and until when the last credential is good."""

    key: rsa.RSAPrivateKey | None = None
    until: float = 0.0
    count: int = 0


@dataclass
class FakeFts:
    """The server; ``now`` is its time, ``manner`` how it treats the next requests."""

    now: Callable[[], float] = time.time
    manner: str = "waits"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    archive: dict[str, dict[str, Any]] = field(default_factory=dict)
    delegations: dict[str, Delegated] = field(default_factory=dict)
    copied: dict[str, list[str]] = field(default_factory=dict)
    there: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    submissions: list[dict[str, Any]] = field(default_factory=list)

    app = Klein()

    def _time(self, at: float | None = None) -> str:
        return dt.datetime.fromtimestamp(self.now() if at is None else at, dt.UTC).strftime(FORMAT)

    def run(self, job_id: str) -> None:
        """Begin to copy all files of a job."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["file_state"] == "SUBMITTED":
                file.update(file_state="ACTIVE", start_time=self._time())
        self._sum_up(job)

    def finish(self, job_id: str, *states: str, reason: str = "") -> None:
        """End files of a job, all alike or one by one; what is FINISHED has been copied, if nothing was in the way."""
        job = self.jobs[job_id]
        for number, file in enumerate(job["files"]):
            if file["file_state"] not in FINAL_FILES:
                self._end(job, file, states[min(number, len(states) - 1)] if states else "FINISHED", reason)
        self._sum_up(job)

    def _end(self, job: dict[str, Any], file: dict[str, Any], state: str, reason: str) -> None:
        target = file["dest_surl"]
        if state == "FINISHED" and target in self.there and not job["overwrite_flag"]:
            state, reason = "FAILED", EXISTS
            if job["dst_file_report"]:
                size, checksum = self.there[target]
                report = {"file_size": size, "checksum_type": "ADLER32", "checksum_value": checksum}
                file["file_metadata"] = {**(file["file_metadata"] or {}), "dst_file": {**report, "file_on_tape": False}}
        elif state == "FINISHED":
            self.copied.setdefault(target, []).append(job["job_id"])
            size = file["user_filesize"] or 1000
            value = file["checksum"].partition(":")[2] or _adler(file["source_surl"])
            self.there[target] = (size, value)
            file.update(filesize=size, checksum=f"ADLER32:{value}")
        file.update(file_state=state, reason=reason or None, finish_time=self._time())

    def _sum_up(self, job: dict[str, Any]) -> None:
        states = {file["file_state"] for file in job["files"]}
        if job["job_state"] == "CANCELED":
            return
        if states <= set(FINAL_FILES):
            if states == {"FINISHED"}:
                state = "FINISHED"
            elif "FAILED" in states:
                state = "FINISHEDDIRTY" if "FINISHED" in states else "FAILED"
            else:
                state = "CANCELED"
            job.update(job_state=state, job_finished=self._time())
            job["reason"] = next((file["reason"] for file in job["files"] if file["reason"]), None)
        elif "ACTIVE" in states:
            job["job_state"] = "ACTIVE"

    def purge(self, job_id: str, *, backup: bool = True) -> None:
        """Forget a job, as the server does after some days."""
        job = self.jobs.pop(job_id)
        if backup:
            self.archive[job_id] = job

    def _who(self, request: Any) -> tuple[str, x509.Certificate]:
        """The caller, whose proxies count as himself."""
        peer = request.transport.getPeerCertificate().to_cryptography()
        chain = [peer, *(each.to_cryptography() for each in request.transport.getHandle().get_peer_cert_chain())]
        owner = next(each for each in chain if not _is_proxy(each))
        return "/" + "/".join(each.rfc4514_string() for each in owner.subject.rdns), peer

    def _delegation(self, request: Any) -> str:
        return hashlib.sha1(self._who(request)[0].encode()).hexdigest()[:16]

    def _json(self, request: Any, what: Any, code: int = 200) -> bytes:
        request.setResponseCode(code)
        request.setHeader("Content-Type", "application/json")
        return json.dumps(what).encode()

    def _error(self, request: Any, code: int, text: str) -> bytes:
        return self._json(request, {"status": f"{code} Error", "message": text}, code)

    async def _mannered(self, request: Any) -> bytes | None:
        """Misbehave, if that is the manner; None to go on."""
        self.asked.append((request.method.decode(), request.path.decode()))
        answer = MANNERS.get(self.manner)
        return await answer(request) if answer else None

    @app.route("/", methods=["GET"])
    def index(self, request: Any) -> bytes:
        """Tell the version."""
        version = {"major": 3, "minor": 13, "patch": 4}
        return self._json(request, {"api": version, "core": version, "delegation": version, "schema": version})

    @app.route("/whoami", methods=["GET"])
    async def whoami(self, request: Any) -> bytes:
        """Tell who calls."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        name, number = self._who(request)[0], self._delegation(request)
        me = {"delegation_id": number, "user_dn": name, "dn": [name], "vos": [number], "vos_id": [number]}
        more = {"voms_cred": [], "roles": [], "level": {"transfer": "vo"}, "base_id": str(BASE), "is_root": False}
        return self._json(request, {**me, **more, "method": "certificate"})

    @app.route("/delegation/<number>", methods=["GET"])
    async def delegation(self, request: Any, number: str) -> bytes:
        """Tell until when a proxy is there."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        if number != self._delegation(request):
            return self._error(request, 403, "not yours")
        found = self.delegations.get(number)
        if not found or not found.until:
            return self._json(request, None)
        return self._json(request, {"termination_time": self._time(found.until), "voms_attrs": []})

    @app.route("/delegation/<number>/request", methods=["GET"])
    def request(self, request: Any, number: str) -> bytes:
        """Give a request to be signed; its key is made anew."""
        if number != self._delegation(request):
            return self._error(request, 403, "not yours")
        found = self.delegations.setdefault(number, Delegated())
        found.key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "FTS3")])
        wanted = x509.CertificateSigningRequestBuilder().subject_name(name).sign(found.key, hashes.SHA256())
        request.setHeader("Content-Type", "text/plain")
        request.setHeader("X-Delegation-ID", number)
        return wanted.public_bytes(serialization.Encoding.PEM)

    @app.route("/delegation/<number>/credential", methods=["PUT", "POST"])
    def credential(self, request: Any, number: str) -> bytes:
        """Take a proxy that the caller has signed."""
        found = self.delegations.get(number)
        if number != self._delegation(request) or found is None or found.key is None:
            return self._error(request, 403, "not yours")
        try:
            found.until = _checked(request.content.read(), found.key, self._who(request)[1], self.now())
        except (ValueError, InvalidSignature) as error:
            return self._error(request, 400, f"Could not process the proxy: {error!r}")
        found.count += 1
        request.setResponseCode(201)
        return b""

    @app.route("/delegation/<number>", methods=["DELETE"])
    def undelegate(self, request: Any, number: str) -> bytes:
        """Forget a proxy."""
        self.delegations.pop(number, None)
        request.setResponseCode(204)
        return b""

    @app.route("/jobs", methods=["POST", "PUT"])
    async def submit(self, request: Any) -> bytes:
        """Take a job."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        number = self._delegation(request)
        found = self.delegations.get(number)
        if not found or found.until - self.now() < HOUR:
            return self._error(request, 419, "The delegated credentials expire in less than an hour")
        try:
            job = self._new_job(json.loads(request.content.read()), number)
        except (KeyError, ValueError, TypeError) as error:
            return self._error(request, 400, f"Invalid job: {error!r}")
        if job["job_id"] in self.jobs:
            return self._error(request, 409, "The sid provided by the user is duplicated")
        self.jobs[job["job_id"]] = job
        if self.manner == "loses":
            # The answer, not the job.
            request.transport.abortConnection()
            return await Deferred()
        return self._json(request, {"job_id": job["job_id"]})

    def _new_job(self, asked: dict[str, Any], vo: str) -> dict[str, Any]:
        self.submissions.append(asked)
        params, number = asked["params"], str(uuid4())
        if params.get("id_generator") == "deterministic":
            number = str(uuid5(uuid5(BASE, vo), params["sid"]))
        files = [self._new_file(index, each) for index, each in enumerate(asked["files"])]
        if not files:
            raise ValueError("no files")
        known = {"job_id": number, "job_state": "SUBMITTED", "job_type": "N", "reason": None, "vo_name": vo}
        more = {"submit_time": self._time(), "job_finished": None, "job_metadata": params.get("job_metadata")}
        flags = {
            "overwrite_flag": bool(params.get("overwrite")),
            "dst_file_report": bool(params.get("dst_file_report")),
        }
        return {**known, **more, **flags, "priority": params.get("priority", 3), "files": files}

    def _new_file(self, index: int, asked: dict[str, Any]) -> dict[str, Any]:
        (source,), (target,) = asked["sources"], asked["destinations"]
        for url in (source, target):
            if url.startswith("file:") or "://" not in url or not url.partition("://")[2].partition("/")[0]:
                raise ValueError(url)
        times = dict.fromkeys(["start_time", "finish_time", "staging_start", "staging_finished"])
        known = {"file_id": len(self.submissions) * 1000 + index, "file_index": index, "file_state": "SUBMITTED"}
        urls = {"source_surl": source, "dest_surl": target, "checksum": asked.get("checksum") or "ADLER32"}
        sizes = {"filesize": None, "user_filesize": asked.get("filesize")}
        return {**known, **urls, **sizes, **times, "reason": None, "file_metadata": asked.get("metadata")}

    @app.route("/jobs/<numbers>", methods=["GET"])
    async def status(self, request: Any, numbers: str) -> bytes:
        """Tell of one job, or of many."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        wanted = numbers.split(",")
        if self.manner == "works":
            for number in wanted:
                self._get_on(number)
        fields = request.args.get(b"files")
        answers = [self._told(number, fields and fields[0].decode().split(",")) for number in wanted]
        if len(wanted) == 1:
            found = answers[0]
            return self._json(request, found, 404 if found.get("http_status", "").startswith("404") else 200)
        mixed = any(not each["http_status"].startswith("200") for each in answers)
        return self._json(request, answers, 207 if mixed else 200)

    def _get_on(self, number: str) -> None:
        job = self.jobs.get(number)
        if job and job["job_state"] == "ACTIVE":
            self.finish(number)
        elif job and job["job_state"] == "SUBMITTED":
            self.run(number)

    def _told(self, number: str, fields: list[str] | None) -> dict[str, Any]:
        job = self.jobs.get(number)
        if job is None:
            return {"job_id": number, "http_status": "404 Not Found", "http_message": "No job with that id"}
        told = {name: value for name, value in job.items() if name not in ("files", "dst_file_report")}
        if fields:
            told["files"] = [{name: each[name] for name in fields} for each in job["files"]]
        return {**told, "http_status": "200 Ok"}

    @app.route("/jobs/<number>/files", methods=["GET"])
    def files(self, request: Any, number: str) -> bytes:
        """Tell of a job's files."""
        if number not in self.jobs:
            return self._error(request, 404, "No job with that id")
        return self._json(request, self.jobs[number]["files"])

    @app.route("/jobs/<number>/dm", methods=["GET"])
    def deletions(self, request: Any, number: str) -> bytes:
        """Tell of what older versions could do, too."""
        return self._json(request, [])

    @app.route("/archive/<number>", methods=["GET"])
    async def archived(self, request: Any, number: str) -> bytes:
        """Tell of a job that was purged."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        if number not in self.archive:
            return self._error(request, 404, "No job with that id in the archive")
        return self._json(request, self.archive[number])

    @app.route("/jobs/<numbers>", methods=["DELETE"])
    async def cancel(self, request: Any, numbers: str) -> bytes:
        """Cancel: at once by name, while what runs has yet to be stopped."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        answers = []
        for number in numbers.split(","):
            job = self.jobs.get(number)
            if job is None:
                answers.append({"job_id": number, "http_status": "404 Not Found", "http_message": "No such job"})
                continue
            told: dict[str, Any] = {"http_status": "200 Ok", "http_message": None}
            if job["job_state"] in FINAL:
                told = {
                    "http_status": "304 Not Modified",
                    "http_message": "The job is in a terminal state",
                }
            else:
                self._cancel(job)
            answers.append({**self._told(number, None), **told})
        if len(answers) == 1:
            return self._json(request, answers[0], 404 if answers[0]["http_status"].startswith("404") else 200)
        mixed = any(not each["http_status"].startswith("200") for each in answers)
        return self._json(request, answers, 207 if mixed else 200)

    def _cancel(self, job: dict[str, Any]) -> None:
        job.update(job_state="CANCELED", reason="Job canceled by the user", job_finished=self._time())
        for file in job["files"]:
            if file["file_state"] not in FINAL_FILES:
                running = file["file_state"] == "ACTIVE"
                file.update(file_state="CANCELED", reason="Job canceled by the user")
                file["finish_time"] = None if running else self._time()

    def stop_copies(self, job_id: str, state: str = "CANCELED") -> None:
        """What was cancelled while it ran stops, or ends by itself before."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["finish_time"] is None:
                if state == "FINISHED":
                    file["reason"] = None
                    self._end(job, file, state, "")
                file.update(finish_time=self._time())

    @app.route("/fake/<what>", methods=["GET", "PUT"])
    def control(self, request: Any, what: str) -> bytes:
        """Be told by a test of another process how to behave, and tell what was done."""
        if what == "count":
            return self._json(request, {"asked": len(self.asked), "jobs": len(self.jobs)})
        if what == "finish":
            for number in list(self.jobs):
                self.finish(number)
            return self._json(request, {})
        if request.method == b"PUT":
            self.manner = what
        if what == "purge":
            self.manner = "works"
            for number in list(self.jobs):
                self.finish(number)
                self.purge(number, backup=False)
        return self._json(request, {"copied": self.copied, "submissions": self.submissions, "jobs": self.jobs})


def _adler(url: str) -> str:
    """The checksum of a source: if its path is one of this host, that of the file, else that of no bytes."""
    path = Path(unquote(urlsplit(url).path))
    return f"{adler32(path.read_bytes() if path.is_file() else b''):08x}"


def _is_proxy(certificate: x509.Certificate) -> bool:
    return any(each.oid == PROXY_INFO for each in certificate.extensions)


def _checked(pem: bytes, key: rsa.RSAPrivateKey, peer: x509.Certificate, now: float) -> float:
    """The end of a proxy that is for ``key`` and signed by the key of ``peer``; raises `ValueError`."""
    proxy, *chain = x509.load_pem_x509_certificates(pem)
    if proxy.public_key() != key.public_key():
        raise ValueError("it is for another key")
    if not chain or chain[0] != peer or proxy.issuer != peer.subject:
        raise ValueError("it was issued by somebody else")
    if proxy.subject.rdns[:-1] != peer.subject.rdns or not _is_proxy(proxy):
        raise ValueError("it is no proxy")
    if not proxy.extensions.get_extension_for_oid(PROXY_INFO).critical:
        raise ValueError("its proxyCertInfo is not critical")
    signer: Any = peer.public_key()
    signer.verify(proxy.signature, proxy.tbs_certificate_bytes, padding.PKCS1v15(), proxy.signature_hash_algorithm)
    if proxy.not_valid_before_utc.timestamp() > now:
        raise ValueError("it is not valid yet")
    return min(each.not_valid_after_utc for each in (proxy, *chain)).timestamp()


async def hang(request: Any) -> bytes:
    """Never answer."""
    return bytes(await Deferred())


async def reset(request: Any) -> bytes:
    """Cut the connection."""
    request.transport.abortConnection()
    return bytes(await Deferred())


async def half(request: Any) -> bytes:
    """Begin an answer, and never end it."""
    request.setHeader("Content-Length", "1000")
    request.write(b'{"job')
    return bytes(await Deferred())


async def broken(request: Any) -> bytes:
    """Be in trouble, in a page for people."""
    request.setResponseCode(503)
    return b"<html><body><h1>Service Unavailable</h1></body></html>"


async def banned(request: Any) -> bytes:
    """Not let anybody in."""
    request.setResponseCode(403)
    return b"<html><body>The user has been banned</body></html>"


async def lies(request: Any) -> bytes:
    """Answer with what is no answer."""
    return b'{"job_state": 7, "files": "many"}'


MANNERS: dict[str, Callable[[Any], Any]] = {each.__name__: each for each in (hang, reset, half, broken, banned, lies)}


def listen(fake: FakeFts, certificate: Path, key: Path, ca: Path, reactor: Any, port: int = 0) -> Any:
    """Serve on loopback to callers with a certificate of ``ca``; the listening port."""
    pair = KeyPair.load(key.read_bytes(), 1).original
    trust = trustRootFromCertificates([Certificate.loadPEM(ca.read_bytes())])
    own = Certificate.loadPEM(certificate.read_bytes()).original
    options = CertificateOptions(privateKey=pair, certificate=own, trustRoot=trust)
    context = options.getContext()
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(ALLOW_PROXIES)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    site: Any = Site(fake.app.resource(), reactor=reactor)
    return reactor.listenSSL(port, site, options, interface="127.0.0.1")


def main(port: str, certificate: str, key: str, ca: str) -> None:
    """Serve until killed."""
    from twisted.internet import reactor

    here: Any = reactor
    listen(FakeFts(manner="works"), Path(certificate), Path(key), Path(ca), here, int(port))
    here.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
