"""Carts over HTTP: Cartd's words and codes, and our own grammar."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.web.client import ResponseFailed

from datahub.carts.model import Status
from datahub.kit.aio import start
from tests.carts.yard import Yard

FILES = {"1/2/3/foo.txt": b"foo\n", "1/2/3/bar.csv": b"bar,csv\n", "2/3/4/baz.ini": bytes(range(256)) * 1000}


def members(body: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        files = ((each.name, tar.extractfile(each)) for each in tar)
        return {name: file.read() for name, file in files if file is not None}


async def head(yard: Yard, uid: str):
    reply = await yard.client.ask("HEAD", f"/{uid}")
    return reply.status, reply.headers.get("x-pacifica-status"), reply.headers.get("x-pacifica-message")


async def test_a_cart_from_beginning_to_end(yard):
    """As the README tells it: made, looked at, got, deleted."""
    for path, data in FILES.items():
        yard.put(path, data)
    reply = await yard.post("abc", {path: path for path in FILES})
    assert (reply.status, reply.json) == (201, {"message": "Cart Processing has begun"})
    assert await head(yard, "abc") == (204, "waiting", "")
    waiting = await yard.client.ask("GET", "/abc?filename=x.tar")
    assert (waiting.status, waiting.body) == (202, b"The cart is not ready for download.")
    assert waiting.headers["retry-after"]
    yard.work()
    assert await head(yard, "abc") == (204, "ready", "")
    reply = await yard.client.ask("GET", "/abc?filename=my_cart.tar")
    assert reply.status == 200
    assert reply.headers["content-disposition"] == "attachment; filename=my_cart.tar"
    assert members(reply.body) == {f"my_cart/{path}": data for path, data in FILES.items()}
    reply = await yard.client.ask("DELETE", "/abc")
    assert (reply.status, reply.json) == (200, {"message": "Cart Deleted Successfully"})
    assert await head(yard, "abc") == (404, "error", "No cart with uid abc found")
    reply = await yard.client.ask("DELETE", "/abc")
    assert (reply.status, reply.json["message"], reply.json["traceback"]) == (404, "Not Found", "")
    reply = await yard.client.ask("GET", "/abc")
    assert reply.status == 404
    assert reply.headers["x-datahub-reason"].startswith("deleted 2026-03-01T09:30Z deleted by")
    record = await yard.client.ask("GET", "/carts/abc")
    assert (record.status, record.json["status"]) == (410, "deleted")


async def test_a_name_that_stays(yard):
    """Without a filename the tar is called after the time it became ready, in every request."""
    await yard.make("abc", FILES)
    yard.clock.advance(100_000)
    reply = await yard.client.ask("GET", "/abc")
    assert reply.headers["content-disposition"] == "attachment; filename=data_2026_03_01_09_30_00.tar"
    assert all(name.startswith("data_2026_03_01_09_30_00/") for name in members(reply.body))


async def test_head_of_what_failed_has_no_length(yard):
    """`curl -X HEAD` would wait for as many bytes; the text is one clean line that names the file and the reason."""
    await yard.post("bad", {"a/b": "missing"})
    yard.work()
    reply = await yard.client.ask("HEAD", "/bad")
    assert reply.status == 500
    assert reply.headers["x-pacifica-message"] == "a/b: product 'missing' is not in the archive"
    assert "content-length" not in reply.headers
    assert (await yard.client.ask("GET", "/bad")).status == 409
    unknown = await yard.client.ask("HEAD", "/unknown")
    assert "content-length" not in unknown.headers


async def test_old_clients(tmp_path):
    """pacifica-downloader gives up at any word but staging."""
    yard = Yard(tmp_path, old_clients=True)
    await yard.post("abc", {"a": "a"})
    assert (await head(yard, "abc"))[1] == "staging"
    yard.end()


async def test_who_is_here(yard):
    """GET / in Cartd's words; what has no uid is refused in its words, too."""
    reply = await yard.client.ask("GET", "/")
    assert reply.json["message"] == "Pacifica Cartd Interface Up and Running"
    reply = await yard.client.ask("POST", "/", data=b"{}")
    assert (reply.status, reply.json["message"]) == (404, "Missing parameters: uid")
    assert (await yard.client.ask("GET", "/a/b")).status == 404
    assert (await yard.client.ask("PUT", "/a")).status == 405


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"fileids": []}', b'{"fileids": [{"id": 1}]}'])
async def test_a_wrong_body(yard, body):
    """400 with a text, whatever it is; nothing is written."""
    reply = await yard.client.ask("POST", "/abc", data=body, headers={"Content-Type": "text/plain"})
    assert reply.status == 400
    assert reply.json["message"]
    assert yard.cart("abc") is None


@pytest.mark.parametrize("uid", ["carts", "health", "..%2Fx", "a%00b", "a%0d%0ab", "x" * 191, "%2e%2e"])
async def test_a_wrong_uid(yard, uid):
    """Refused with a reason, by POST to either path."""
    for path in (f"/{uid}", f"/carts/{uid}"):
        reply = await yard.client.ask("POST", path, data=b'{"fileids": [{"id": "a", "path": "a"}]}')
        assert reply.status in (400, 404, 405), path
    assert yard.store.names == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../b", "", "a//b", "a\0b", "link", "fifo", "d"])
async def test_nothing_outside_is_read(yard, name):
    """An id leads nowhere but to a file of the archive: refused at once, or the cart ends in an error."""
    (yard.folder / "secret").write_text("secret")
    (yard.archive / "link").symlink_to(yard.folder / "secret")
    (yard.archive / "d").mkdir()
    os.mkfifo(yard.archive / "fifo")
    reply = await yard.post("abc", {"x": name})
    yard.work()
    assert reply.status == 400 or (await head(yard, "abc"))[0] == 500


async def test_the_same_again(yard):
    """The same body is the same cart, another one is a conflict; what was deleted is made anew."""
    await yard.make("abc", FILES)
    first = yard.cart("abc").id
    assert (await yard.post("abc", {path: path for path in FILES})).status == 201
    assert yard.cart("abc").id == first
    reply = await yard.post("abc", {"x": "1/2/3/foo.txt"})
    assert (reply.status, reply.headers["x-datahub-error"]) == (409, "cart.exists")
    await yard.client.ask("DELETE", "/abc")
    assert (await yard.post("abc", {"x": "1/2/3/foo.txt"})).status == 201
    yard.work()
    assert await head(yard, "abc") == (204, "ready", "")


async def test_what_failed_is_staged_again(yard):
    """By the same body, or by retry; not what is ready."""
    await yard.post("abc", {"a": "late"})
    yard.work()
    assert (await head(yard, "abc"))[0] == 500
    yard.put("late", b"now")
    assert (await yard.post("abc", {"a": "late"})).status == 201
    yard.work()
    assert await head(yard, "abc") == (204, "ready", "")
    assert (await yard.client.ask("POST", "/carts/abc/retry")).status == 409
    await yard.post("two", {"a": "later"})
    yard.work()
    yard.put("later", b"now")
    assert (await yard.client.ask("POST", "/carts/two/retry")).status == 202
    yard.work()
    assert (await head(yard, "two"))[1] == "ready"


@pytest.mark.parametrize("kind", ["md5", "sha1", "sha256", "sha512"])
async def test_hashes_that_are_given(yard, kind):
    """What is there must have them, in either case."""
    digest = hashlib.new(kind, b"foo").hexdigest()
    yard.put("foo", b"foo")
    await yard.post("good", [{"id": "foo", "path": "a", "hashtype": kind, "hashsum": digest.upper()}])
    await yard.post("bad", [{"id": "foo", "path": "a", "hashtype": kind, "hashsum": "0" * len(digest)}])
    yard.work()
    assert (await head(yard, "good"))[1] == "ready"
    status, _, message = await head(yard, "bad")
    assert status == 500
    given = "0" * len(digest)
    assert message == f"a: File hash does not match provided hash: its {kind} is {digest}, and {given} was given"


async def test_the_tars_own_url(yard):
    """HEAD tells length and tag; conditions and ranges are honoured; the folder is the name."""
    await yard.make("abc", FILES)
    told = await yard.client.ask("HEAD", "/carts/abc/my.tar")
    whole = await yard.client.ask("GET", "/carts/abc/my.tar")
    tag = told.headers["etag"]
    assert (told.status, int(told.headers["content-length"])) == (200, len(whole.body))
    assert whole.headers["etag"] == tag
    assert members(whole.body) == {f"my/{path}": data for path, data in FILES.items()}

    async def ask(**headers):
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await yard.client.ask("GET", "/carts/abc/my.tar", headers=names)

    part = await ask(Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, whole.body[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(whole.body)}"
    assert (await ask(Range="bytes=-10240")).body == whole.body[-10240:]
    assert (await ask(Range="bytes=5-", If_Range=tag)).body == whole.body[5:]
    for unmatched in ('"other"', f"W/{tag}", "Sun, 22 Nov 2026 16:00:00 GMT"):
        assert (await ask(Range="bytes=5-", If_Range=unmatched)).status == 200
    assert (await ask(Range="bytes=1-2,5-6")).status == 200
    behind = await ask(Range=f"bytes={len(whole.body)}-")
    assert (behind.status, behind.headers["content-range"]) == (416, f"bytes */{len(whole.body)}")
    assert (await ask(If_Match='"other"')).status == 412
    assert (await ask(If_Match=f'"other", {tag}')).status == 200
    assert (await ask(If_None_Match=tag)).status == 304
    other = await yard.client.ask("HEAD", "/carts/abc/another.tar")
    assert other.headers["etag"] != tag


@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_set_of_ranges_is_the_whole(tmp_path, data):
    """Cut anywhere and put together: byte for byte the same tar."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        yard = Yard(Path(folder))
        sizes = data.draw(
            st.lists(st.sampled_from([0, 1, 511, 512, 513, 5000, 70_000, 1_200_000]), min_size=1, max_size=6)
        )
        files = {f"{'d/' * (n % 3)}{'ü' * (n * 40 % 90)}f{n}": bytes([n]) * size for n, size in enumerate(sizes)}
        done: list[object] = []

        async def all_of_it():
            await yard.make("abc", files)
            whole = (await yard.client.ask("GET", "/carts/abc/t.tar")).body
            cuts = data.draw(st.lists(st.integers(1, len(whole) - 1), max_size=8, unique=True).map(sorted))
            parts = []
            for first, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                wanted = {"Range": f"bytes={first}-{end - 1}"}
                parts.append((await yard.client.ask("GET", "/carts/abc/t.tar", headers=wanted)).body)
            assert b"".join(parts) == whole
            assert members(whole) == {f"t/{path}": content for path, content in files.items()}

        start(all_of_it()).addBoth(done.append)
        yard.end()
        assert done == [None], done


async def test_waiting_for_the_tar(yard):
    """503 with Retry-After while the cart is not ready, never 202: curl would keep the text as the tar."""
    yard.put("a", b"1")
    await yard.post("abc", {"a": "a"})
    reply = await yard.client.ask("GET", "/carts/abc/abc.tar")
    assert (reply.status, reply.headers["x-datahub-error"]) == (503, "cart.not_ready")
    assert reply.headers["retry-after"]
    asking = yard.client.treq.request("GET", "http://hub/carts/abc/abc.tar?wait=10m")
    yard.client.treq.flush()
    yard.work()
    yard.clock.advance(16)
    yard.client.treq.flush()
    assert (await asking).code == 200


async def test_members_manifest_and_index(yard):
    """Each file by itself, with ranges; digests in sha256sum's form; where each lies in the tar."""
    await yard.make("abc", FILES)
    tar = (await yard.client.ask("GET", "/carts/abc/abc.tar")).body
    index = (await yard.client.ask("GET", "/carts/abc/index")).json
    assert (index["top"], index["size"]) == ("abc", len(tar))
    for each in index["items"]:
        data = FILES[each["path"]]
        assert tar[each["offset"] : each["offset"] + each["size"]] == data
        assert each["sha256"] == hashlib.sha256(data).hexdigest()
        reply = await yard.client.ask("GET", f"/carts/abc/files/{each['path']}")
        assert reply.body == data
        part = await yard.client.ask("GET", f"/carts/abc/files/{each['path']}", headers={"Range": "bytes=1-2"})
        assert (part.status, part.body) == (206, data[1:3])
    manifest = (await yard.client.ask("GET", "/carts/abc/manifest")).body.decode()
    told = dict(reversed(line.split("  ")) for line in manifest.splitlines())
    assert told == {f"abc/{path}": hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    assert (await yard.client.ask("GET", "/carts/abc/files/nope")).status == 404


async def test_digests_that_are_not_there_yet(yard):
    """What needs them says when to come again."""
    yard.put("a", b"1")
    await yard.post("abc", {"a": "a"})
    yard.look("carts.stage")
    reply = await yard.client.ask("GET", "/carts/abc/manifest")
    assert (reply.status, reply.headers["x-datahub-error"]) == (503, "cart.no_digests")
    assert reply.headers["retry-after"]
    yard.work()
    assert (await yard.client.ask("GET", "/carts/abc/manifest")).status == 200


async def test_a_digest_that_can_not_be_had(yard):
    """The manifest names the file rather than giving a line that nobody checks."""
    yard.put("a", b"1")
    yard.put("b", b"1")
    await yard.post("abc", {"a": "a", "b": "b"})
    yard.look("carts.stage")
    yard.put("b", b"22")
    yard.work()
    reply = await yard.client.ask("GET", "/carts/abc/manifest")
    assert (reply.status, reply.headers["x-datahub-error"]) == (409, "cart.changed")
    assert "'b'" in reply.json["detail"]


async def test_a_cart_that_names_a_folder(yard):
    """It is told that a cart takes files, and how to name them."""
    yard.put("guide/a", b"1")
    await yard.post("abc", {"g": "guide"})
    yard.work()
    assert yard.cart("abc").error == "g: 'guide' is a folder, and a cart takes files: name each, as 'guide/a.txt'"


@pytest.mark.parametrize("how", ["content", "mtime put back", "replaced", "gone", "a link", "shorter"])
async def test_a_source_that_changes(yard, how):
    """It is noticed as it is opened, even if its time was put back: by then nothing is sent, or what is breaks off."""
    await yard.make("abc", {"a": b"1" * 100_000, "b": b"2" * 100_000} | {f"A/{n}": b"0" * 100_000 for n in range(60)})
    path = yard.archive / "b"
    before = path.stat()
    if how == "content":
        path.write_bytes(b"3" * 100_000)
    elif how == "mtime put back":
        path.write_bytes(b"3" * 100_000)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif how == "replaced":
        (yard.archive / "new").write_bytes(b"3" * 100_000)
        (yard.archive / "new").rename(path)
    elif how == "gone":
        path.unlink()
    elif how == "a link":
        path.rename(yard.folder / "away")
        path.symlink_to(yard.folder / "away")
    else:
        os.truncate(path, 10)
    with pytest.raises(ResponseFailed):
        await yard.client.ask("GET", "/carts/abc/abc.tar")
    reply = await yard.client.ask("GET", "/carts/abc/abc.tar", headers={"Range": "bytes=-20480"})
    assert (reply.status, reply.headers["x-datahub-error"]) == (409, "cart.changed")
    assert (await yard.client.ask("GET", "/carts/abc/files/a")).status == 200


async def test_a_partial_cart(yard):
    """It is ready without what could not be had, and says so: in the record, a header, and a file inside."""
    yard.put("a", b"1")
    await yard.post("abc", {"MISSING.txt": "a", "x/y": "none"}, partial=True)
    yard.work()
    reply = await yard.client.ask("GET", "/abc?filename=t.tar")
    assert reply.headers["x-datahub-missing"] == "1"
    found = members(reply.body)
    assert found["t/MISSING.txt"] == b"1"
    assert b"x/y: product 'none' is not in the archive" in found["t/MISSING-1.txt"]
    record = (await yard.client.ask("GET", "/carts/abc")).json
    assert [each["status"] for each in record["files"]] == ["staged", "error"]
    await yard.client.ask("DELETE", "/abc")
    yard.pass_time(90)
    await yard.post("abc", {"MISSING.txt": "a", "x/y": "none"}, partial=True)
    yard.work()
    again = await yard.client.ask("GET", "/abc?filename=t.tar")
    assert (again.headers["etag"], again.body) == (reply.headers["etag"], reply.body), "one tag, the same bytes"
    await yard.post("none", {"x/y": "none"}, partial=True)
    yard.work()
    assert (await head(yard, "none"))[0] == 500


async def test_the_notice_is_a_member(yard):
    """What tells which files are missing is in the index, the manifest and below files/, as all else in the tar."""
    yard.put("a", b"1")
    await yard.post("abc", {"a": "a", "x/y": "none"}, partial=True)
    yard.work()
    tar = (await yard.client.ask("GET", "/carts/abc/t.tar")).body
    found = members(tar)
    assert set(found) == {"t/a", "t/MISSING.txt"}
    index = (await yard.client.ask("GET", "/carts/abc/index?top=t")).json
    assert {f"t/{each['path']}": tar[each["offset"] :][: each["size"]] for each in index["items"]} == found
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}
    assert {f"t/{each['path']}": each["sha256"] for each in index["items"]} == digests
    manifest = (await yard.client.ask("GET", "/carts/abc/manifest?top=t")).body.decode()
    assert manifest == "".join(f"{digests[name]}  {name}\n" for name in ("t/a", "t/MISSING.txt"))
    whole = await yard.client.ask("GET", "/carts/abc/files/MISSING.txt")
    assert (whole.status, whole.body) == (200, found["t/MISSING.txt"])
    tag = {"If-Range": whole.headers["etag"], "Range": "bytes=5-9"}
    part = await yard.client.ask("GET", "/carts/abc/files/MISSING.txt", headers=tag)
    assert (part.status, part.body) == (206, whole.body[5:10])
    assert part.headers["content-range"] == f"bytes 5-9/{len(whole.body)}"
    unchanged = {"If-None-Match": whole.headers["etag"]}
    assert (await yard.client.ask("GET", "/carts/abc/files/MISSING.txt", headers=unchanged)).status == 304
    asked = await yard.client.ask("HEAD", "/carts/abc/files/MISSING.txt")
    assert (asked.status, asked.headers["content-length"], asked.body) == (200, str(len(whole.body)), b"")


async def test_a_missing_file_of_the_notices_name(yard):
    """It is told of as any other, and nothing else is given in its place."""
    yard.put("a", b"1")
    await yard.post("abc", {"a": "a", "MISSING.txt": "none", "MISSING-1.txt/b": "none"}, partial=True)
    yard.work()
    assert set(members((await yard.client.ask("GET", "/carts/abc/t.tar")).body)) == {"t/a", "t/MISSING-2.txt"}
    refused = await yard.client.ask("GET", "/carts/abc/files/MISSING.txt")
    assert (refused.status, refused.headers["x-datahub-error"]) == (404, "cart.no_file")
    assert (await yard.client.ask("GET", "/carts/abc/files/MISSING-2.txt")).status == 200


async def test_lists_and_timelines(yard):
    """In pages, by status; and what happened to one."""
    for number in range(5):
        await yard.make(f"c{number}", {"a": b"1"})
        yard.clock.advance(1)
    page = (await yard.client.ask("GET", "/carts?limit=2")).json
    assert [each["uid"] for each in page["items"]] == ["c4", "c3"]
    page = (await yard.client.ask("GET", f"/carts?limit=9&after={page['next']}")).json
    assert [each["uid"] for each in page["items"]] == ["c2", "c1", "c0"]
    await yard.client.ask("DELETE", "/c2")
    listed = (await yard.client.ask("GET", "/carts?status=deleted,error")).json["items"]
    assert [each["uid"] for each in listed] == ["c2"]
    assert (await yard.client.ask("GET", "/carts?status=nonsense")).status == 400
    told = (await yard.client.ask("GET", "/carts/c2/events")).json["items"]
    assert [each["type"] for each in told] == [
        f"cart.{each}" for each in ("waiting", "staging", "bundling", "ready", "deleted")
    ]


async def test_whose_carts_they_are(yard):
    """One's own; anonymous ones may be read by all, and touched by nobody else."""
    client, alice, bob = (
        yard.at(anonymous=()),
        *({"Authorization": f"Bearer {name}-token"} for name in ("alice", "bob")),
    )
    root = {"Authorization": "Bearer root-token"}
    yard.put("a", b"1")
    body = json.dumps({"fileids": [{"id": "a", "path": "a"}]}).encode()
    assert (await client.ask("POST", "/abc", data=body)).status == 401
    assert (await client.ask("POST", "/abc", data=body, headers=bob)).status == 403
    assert (await client.ask("POST", "/abc", data=body, headers=alice)).status == 201
    yard.work()
    for method, path in [("GET", "/abc"), ("GET", "/carts/abc"), ("GET", "/carts/abc/abc.tar")]:
        assert (await client.ask(method, path, headers=bob)).status == 403
        assert (await client.ask(method, path, headers=root)).status == 200
    assert (await client.ask("GET", "/carts?submitter=alice", headers=bob)).status == 403


async def test_the_disk_at_its_reserve(yard):
    """507 with a time to come again; what is there is served."""
    await yard.make("abc", {"a": b"1"})
    yard.full = "no room"
    reply = await yard.post("two", {"a": "a"})
    assert (reply.status, reply.headers["retry-after"]) == (507, "77")
    assert (await yard.client.ask("GET", "/abc")).status == 200


async def test_hostile_file_names(yard):
    """No filename leads out of the folder or into a header."""
    await yard.make("abc", {"a": b"1"})
    for name in ("../../x.tar", "a%0d%0aSet-Cookie:%20x", "%22;%20x=%22.tar", "..", "%2fetc%2fpasswd", "x" * 3000):
        reply = await yard.client.ask("GET", f"/abc?filename={name}")
        assert reply.status == 200
        assert "set-cookie" not in reply.headers
        (member,) = members(reply.body)
        assert not member.startswith(("/", ".."))
        assert member.count("/") == 1


async def test_unused_carts_go_in_the_end(tmp_path):
    """A cart that nobody uses goes, its rows go, and its record when that is old; each use puts that off."""
    yard = Yard(tmp_path, expire=100.0, keep=1000.0)
    await yard.make("abc", {"a": b"1"})
    yard.clock.advance(90)
    await yard.client.ask("GET", "/abc")
    yard.clock.advance(90)
    yard.chore("unused carts")
    assert yard.cart("abc").status is Status.READY
    yard.clock.advance(100)
    yard.chore("unused carts")
    assert yard.cart("abc").status is Status.EVICTED
    assert (await yard.client.ask("GET", "/abc")).headers["x-datahub-reason"].startswith("evicted 2026-03-01T09:3")
    yard.chore("carts that are gone")
    assert yard.files("abc") == []
    yard.clock.advance(1001)
    yard.chore("old carts")
    assert yard.cart("abc") is None
    yard.end()


async def test_a_hundred_files_by_their_windows(yard):
    """More files than are read at once: all are there, in the order of their folders."""
    files = {f"{n % 7}/{n:04}": f"{n}".encode() for n in range(1203)}
    await yard.make("abc", files)
    found = members((await yard.client.ask("GET", "/carts/abc/t.tar")).body)
    assert found == {f"t/{path}": data for path, data in files.items()}
    assert list(found) == sorted(found)
    record = (await yard.client.ask("GET", "/carts/abc?limit=100&after=50")).json
    assert (len(record["files"]), record["next_file"]) == (100, 150)
    assert (await yard.client.ask("GET", "/carts/abc/files/3/0801")).body == b"801"


async def test_the_archive_away(yard):
    """It is tried again, and says so; when it is back the cart becomes ready."""
    yard.put("a", b"1")
    away = yard.folder / "away"
    yard.archive.rename(away)
    await yard.post("abc", {"a": "a"})
    yard.work()
    record = (await yard.client.ask("GET", "/carts/abc")).json
    assert (record["status"], record["waiting_on"]["what"]) == ("staging", "retry")
    away.rename(yard.archive)
    yard.pass_time(5)
    assert (await head(yard, "abc"))[1] == "ready"
