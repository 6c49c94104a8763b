"""An FTS3 server as its REST interface shows it (fts-rest-flask 3.13): delegation with real signatures, and jobs.

Nothing is copied: what is at a destination is an entry of `FakeFts.copied`. How jobs get on the test says, by `run` and
`finish`, or by ``manner`` "works", in which a job gets on each time somebody asks about it.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4, uuid5
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

from tests.fakes.fts3_jobs import BASE, EXISTS, FINAL, FINAL_FILES, Rejected, error, expire, new_job, stamp, sum_up
from tests.fakes.fts3_manners import MANNERS, flood

__all__ = ["FakeFts", "listen"]

PROXY_INFO = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14")
ALLOW_PROXIES = 0x40  # X509_V_FLAG_ALLOW_PROXY_CERTS
HELD = ("ON_HOLD", "ON_HOLD_STAGING")
HOUR = 3600
NOT_YOURS = "The requested ID and the credentials ID do not match"
DUPLICATE = """(MySQLdb.IntegrityError) (1062, "Duplicate entry '834b5cc2' for key 'dest_surl_uuid'")
[SQL: INSERT INTO t_file (hashed_id, file_index, job_id) VALUES (%s, %s, %s)]"""
PID = 4711
TIMED_OUT = "TRANSFER [110] Connection timed out"


@dataclass
class Delegated:
    """A delegation: the key of the request under way, and until when the last credential is good."""

    key: rsa.RSAPrivateKey | None = None
    until: float = 0.0
    count: int = 0


@dataclass
class FakeFts:
    """The server; ``now`` is its time, ``manner`` how it treats the next requests.

    It ``reports`` what is in the way of a copy if the storage tells of tape and disk: GridFTP and WebDAV do not.
    ``peers`` are the connections over which something was asked, ``most`` how much was asked at once.
    """

    now: Callable[[], float] = time.time
    manner: str = "waits"
    sent: int = 0
    reports: bool = False
    checks_duplicates: bool = False
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    archive: dict[str, dict[str, Any]] = field(default_factory=dict)
    delegations: dict[str, Delegated] = field(default_factory=dict)
    copied: dict[str, list[str]] = field(default_factory=dict)
    there: dict[str, tuple[int, str]] = field(default_factory=dict)
    banned: set[str] = field(default_factory=set)
    asked: list[tuple[str, str]] = field(default_factory=list)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    peers: set[int] = field(default_factory=set)
    under_way: int = 0
    most: int = 0

    app = Klein()

    def _time(self, at: float | None = None) -> str:
        return stamp(self.now() if at is None else at)

    def stage(self, job_id: str) -> None:
        """Have the files of a job asked for from tape (STARTED), and the next time got from there."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["file_state"] == "STAGING":
                file.update(file_state="STARTED", staging_start=self._time())
            elif file["file_state"] == "STARTED":
                file.update(file_state="SUBMITTED", staging_finished=self._time())
        sum_up(job, self.now())

    def schedule(self, job_id: str) -> None:
        """Have it READY to be copied."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["file_state"] == "SUBMITTED":
                file["file_state"] = "READY"
        sum_up(job, self.now())

    def run(self, job_id: str) -> None:
        """Begin to copy all files of a job."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["file_state"] in ("SUBMITTED", "READY"):
                file.update(file_state="ACTIVE", start_time=self._time(), pid=PID, reason="", filesize=0)
        sum_up(job, self.now())

    def finish(self, job_id: str, *states: str, reason: str = "") -> None:
        """End files of a job, all alike or one by one; what is FINISHED has been copied, if nothing was in the way.

        Of a job that waits for tape it is ARCHIVING then, and FINISHED the next time; of one with hops the next begins.
        """
        job = self.jobs[job_id]
        for number, file in enumerate(job["files"]):
            if file["file_state"] not in FINAL_FILES:
                self._end(job, file, states[min(number, len(states) - 1)] if states else "FINISHED", reason)
        sum_up(job, self.now())

    def _end(self, job: dict[str, Any], file: dict[str, Any], state: str, reason: str) -> None:
        target = file["dest_surl"]
        size = file["user_filesize"] or 1000
        if state == "FINISHED" and target in self.there and not job["overwrite_flag"]:
            state, reason = "FAILED", EXISTS
            if job["dst_file_report"] and self.reports:
                known, checksum = self.there[target]
                report = {"file_size": known, "checksum_type": "ADLER32", "checksum_value": checksum}
                places = {"file_on_tape": False, "file_on_disk": True}
                file["file_metadata"] = {**(file["file_metadata"] or {}), "dst_file": {**report, **places}}
        elif state == "FINISHED" and job["archive_timeout"] > 0 and file["file_state"] != "ARCHIVING":
            file.update(file_state="ARCHIVING", archive_start_time=self._time(), filesize=size)
            self.copied.setdefault(target, []).append(job["job_id"])
            return
        elif state == "FINISHED" and file["file_state"] != "ARCHIVING":
            self.copied.setdefault(target, []).append(job["job_id"])
            self.there[target] = (size, file["checksum"].partition(":")[2] or _adler(file["source_surl"]))
        # What its checksum turned out to be it keeps to itself.
        file.update(file_state=state, reason=reason, finish_time=self._time(), filesize=size, pid=PID)

    def expire(self, job_id: str) -> None:
        """Give up what has waited for too long."""
        expire(self.jobs[job_id], self.now())

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
        return self._json(request, error(code, text), code)

    async def _mannered(self, request: Any) -> bytes | None:
        """Misbehave, if that is the manner; None to go on."""
        self.asked.append((request.method.decode(), request.path.decode()))
        self.peers.add(getattr(request.getClientAddress(), "port", 0))
        answer = MANNERS.get(self.manner)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.manner in ("endless", "huge"):
                return await flood(self, request)
            return await answer(request) if answer else None
        finally:
            self.under_way -= 1

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
        me: dict[str, Any] = {"delegation_id": number, "user_dn": name, "dn": [name], "vos": [number]}
        more = {"voms_cred": [], "roles": [], "level": {"transfer": "vo", "datamanagement": "all"}, "is_root": False}
        more |= {"base_id": str(BASE), "vos_id": [str(uuid5(BASE, number))]}
        if self.manner == "strangers":
            me |= {"delegation_id": None, "user_dn": "anon", "dn": ["anon"], "vos": []}
        return self._json(request, {**me, **more, "method": "certificate"})

    @app.route("/delegation/<number>", methods=["GET"])
    async def delegation(self, request: Any, number: str) -> bytes:
        """Tell until when a proxy is there."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        if number != self._delegation(request):
            return self._error(request, 403, NOT_YOURS)
        found = self.delegations.get(number)
        if not found or not found.until:
            return self._json(request, None)
        return self._json(request, {"termination_time": self._time(found.until), "voms_attrs": [""]})

    @app.route("/delegation/<number>/request", methods=["GET"])
    def request(self, request: Any, number: str) -> bytes:
        """Give a request to be signed; the key of the first one is kept."""
        if number != self._delegation(request):
            return self._error(request, 403, NOT_YOURS)
        found = self.delegations.setdefault(number, Delegated())
        found.key = found.key or rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Dummy")])
        wanted = x509.CertificateSigningRequestBuilder().subject_name(name).sign(found.key, hashes.SHA256())
        request.setHeader("Content-Type", "text/plain")
        request.setHeader("X-Delegation-ID", number)
        return wanted.public_bytes(serialization.Encoding.PEM)

    @app.route("/delegation/<number>/credential", methods=["PUT", "POST"])
    def credential(self, request: Any, number: str) -> bytes:
        """Take a proxy that the caller has signed."""
        found = self.delegations.get(number)
        if number != self._delegation(request):
            return self._error(request, 403, NOT_YOURS)
        if found is None or found.key is None:
            return self._error(request, 400, "No credential cache found")
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
        if number != self._delegation(request):
            return self._error(request, 403, NOT_YOURS)
        if self.delegations.pop(number, None) is None:
            return self._error(request, 404, "Delegated credentials not found")
        request.setResponseCode(204)
        return b""

    @app.route("/jobs", methods=["POST", "PUT"])
    async def submit(self, request: Any) -> bytes:
        """Take a job."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        try:
            job = self._taken(request)
        except Rejected as rejected:
            return self._error(request, rejected.code, str(rejected))
        self.jobs[job["job_id"]] = job
        if self.manner == "loses":
            # The answer, not the job.
            request.transport.abortConnection()
            return await Deferred()
        return self._json(request, {"job_id": job["job_id"]})

    def _taken(self, request: Any) -> dict[str, Any]:
        """The job of a submission, which is refused if that must be."""
        name, number = self._who(request)[0], self._delegation(request)
        found = self.delegations.get(number)
        if not found or not found.until:
            raise Rejected(419, f'No delegation found for "{name}"')
        if found.until - self.now() < HOUR:
            raise Rejected(419, f"The delegated credentials has less than one hour left ({number})")
        try:
            asked = json.loads(request.content.read())
        except ValueError:
            raise Rejected(400, "Badly formatted JSON request") from None
        self.submissions.append(asked)
        job = new_job(asked, (name, number), self.now(), str(uuid4()))
        if banned := self.banned & {each[what] for each in job["files"] for what in ("source_se", "dest_se")}:
            raise Rejected(403, f"{banned.pop()} is banned")
        if job["job_id"] in self.jobs:
            raise Rejected(409, "The sid provided by the user is duplicated")
        active = [each for other in self.jobs.values() for each in other["files"]]
        taken = {each["dest_surl"] for each in active if each["file_state"] not in FINAL_FILES}
        if self.checks_duplicates and taken & {each["dest_surl"] for each in job["files"]}:
            raise Rejected(409, f"The submission is duplicated {DUPLICATE}")
        return job

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
        asked = fields[0].decode().split(",") if fields else []
        answers = [self._told(request, number, asked) for number in wanted]
        if len(wanted) == 1:
            return self._json(request, answers[0], int(answers[0]["http_status"][:3]))
        mixed = any(not each["http_status"].startswith("200") for each in answers)
        return self._json(request, answers, 207 if mixed else 200)

    def _get_on(self, number: str) -> None:
        job = self.jobs.get(number)
        if job and job["job_state"] == "ACTIVE":
            self.finish(number)
        elif job and job["job_state"] == "SUBMITTED":
            self.run(number)

    def _told(self, request: Any, number: str, fields: list[str]) -> dict[str, Any]:
        job = self.jobs.get(number)
        told: dict[str, Any] = {"job_id": number}
        if job is None:
            return {**told, **_status(404), "http_message": f'No job with the id "{number}" has been found'}
        if job["vo_name"] != self._delegation(request):
            return {**told, **_status(403), "http_message": f'Not enough permissions to check the job "{number}"'}
        told = {name: value for name, value in job.items() if name != "files"}
        if fields:
            told["files"] = [{name: each[name] for name in fields if name in each} for each in job["files"]]
        return {**told, "http_status": "200 Ok"}

    @app.route("/jobs/<number>/files", methods=["GET"])
    def files(self, request: Any, number: str) -> bytes:
        """Tell of a job's files."""
        if number not in self.jobs:
            return self._error(request, 404, f'No job with the id "{number}" has been found')
        if self.jobs[number]["vo_name"] != self._delegation(request):
            return self._error(request, 403, f'Not enough permissions to check the job "{number}"')
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
            return self._error(request, 404, f'No job with the id "{number}" has been found in the archive')
        if self.archive[number]["vo_name"] != self._delegation(request):
            return self._error(request, 403, f'Not enough permissions to check the job "{number}"')
        return self._json(request, self.archive[number])

    @app.route("/jobs/<numbers>", methods=["DELETE"])
    async def cancel(self, request: Any, numbers: str) -> bytes:
        """Cancel: at once by name, while what runs has yet to be stopped."""
        if (bad := await self._mannered(request)) is not None:
            return bad
        answers = [self._ended(request, number) for number in numbers.split(",")]
        if len(answers) == 1:
            code = int(answers[0]["http_status"][:3])
            return self._json(request, answers[0], 200 if code == 304 else code)
        mixed = any(not each["http_status"].startswith("200") for each in answers)
        return self._json(request, answers, 207 if mixed else 200)

    def _ended(self, request: Any, number: str) -> dict[str, Any]:
        told = self._told(request, number, [])
        if not told["http_status"].startswith("200"):
            return told
        job = self.jobs[number]
        if self.manner == "deaf":
            return told
        if job["job_state"] in FINAL:
            return {**told, **_status(304), "http_message": "The job is in a terminal state"}
        self._cancel(job)
        return {**self._told(request, number, []), "http_message": None}

    def _cancel(self, job: dict[str, Any]) -> None:
        told = "Job canceled by the user"
        job.update(job_state="CANCELED", reason=told, job_finished=self._time(), cancel_job=True)
        for file in job["files"]:
            if file["file_state"] not in (*FINAL_FILES, *HELD):
                # Who has a process is signalled before it has an end.
                file.update(file_state="CANCELED", reason=told, finish_time=None if file["pid"] else self._time())

    def stop_copies(self, job_id: str, state: str = "CANCELED") -> None:
        """What was cancelled while it ran stops, or ends by itself before."""
        job = self.jobs[job_id]
        for file in job["files"]:
            if file["file_state"] == "CANCELED" and file["finish_time"] is None:
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
            states = [each.decode() for each in request.args.get(b"state", [])]
            for number in [each.decode() for each in request.args.get(b"job", [])] or list(self.jobs):
                self.finish(number, *states, reason=TIMED_OUT if "FAILED" in states else "")
            return self._json(request, {})
        if what == "archive":
            for number in request.args[b"job"]:
                self.purge(number.decode())
            return self._json(request, {})
        if request.method == b"PUT":
            self.manner = what
        if what == "purge":
            self.manner = "works"
            for number in list(self.jobs):
                self.finish(number)
                self.purge(number, backup=False)
        return self._json(request, {"copied": self.copied, "submissions": self.submissions, "jobs": self.jobs})


def _status(code: int) -> dict[str, str]:
    return {"http_status": f"{code} {HTTPStatus(code).phrase}"}


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
    listen(FakeFts(manner="works", reports=True), Path(certificate), Path(key), Path(ca), here, int(port))
    here.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
