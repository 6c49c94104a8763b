"""What may be asked for: every fault of a body is found at once, with its index and field."""

from __future__ import annotations

import random

import msgspec
import pytest

from datahub.carts.model import LONGEST_UID, PIECE, check_uid, read_order
from datahub.errors import InvalidRequest

FILE = {"id": "foo.txt", "path": "1/foo.txt"}


def order(*files, **more):
    return read_order({"fileids": list(files), **more}, lambda name, field: None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "fileids"),
        ({"fileids": []}, "fileids"),
        ({"fileids": {}}, "fileids"),
        ({"fileids": ["x"]}, "fileids[0]"),
        ({"fileids": [FILE, None]}, "fileids[1]"),
        ({"fileids": [{"path": "x"}]}, "fileids[0].id"),
        ({"fileids": [{"id": 1.5, "path": "x"}]}, "fileids[0].id"),
        ({"fileids": [{"id": True, "path": "x"}]}, "fileids[0].id"),
        ({"fileids": [{"id": "", "path": "x"}]}, "fileids[0].id"),
        ({"fileids": [{"id": "a\nb", "path": "x"}]}, "fileids[0].id"),
        ({"fileids": [{"id": "a", "path": 3}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": ""}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "/"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "//etc/passwd"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "a/../../x"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "a/./x"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "a//x"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "a/"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "a\r\nX"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "x" * 4097}]}, "fileids[0].path"),
        ({"fileids": [{"id": "a", "path": "x/" * 255 + "x"}]}, "fileids[0].path"),
        ({"fileids": [{"id": "b", "path": "1!"}, {"id": "b", "path": "1"}, FILE]}, "fileids[1].path"),
        ({"fileids": [FILE, {"id": "b", "path": "1/foo.txt"}]}, "fileids[1].path"),
        ({"fileids": [FILE, {"id": "b", "path": "/1/foo.txt"}]}, "fileids[1].path"),
        ({"fileids": [FILE, {"id": "b", "path": "1"}]}, "fileids[1].path"),
        ({"fileids": [{**FILE, "hashtype": "crc", "hashsum": "00"}]}, "fileids[0].hashtype"),
        ({"fileids": [{**FILE, "hashtype": "md5"}]}, "fileids[0].hashsum"),
        ({"fileids": [{**FILE, "hashsum": "00"}]}, "fileids[0].hashtype"),
        ({"fileids": [{**FILE, "hashtype": "md5", "hashsum": "0"}]}, "fileids[0].hashsum"),
        ({"fileids": [FILE], "partial": "yes"}, "partial"),
    ],
)
def test_a_wrong_body(body, field):
    """Refused, naming the place."""
    with pytest.raises(InvalidRequest) as refused:
        read_order(body, lambda name, field: None)
    assert refused.value.field == field
    assert field in str(refused.value)


def test_what_is_taken():
    """Integers as ids, a single slash in front, hashes in either case, keys nobody knows, an id twice."""
    found = order(
        {"id": 7, "path": "/b", "hashtype": "MD5", "hashsum": "AB" * 16, "more": 1},
        {"id": 7, "path": "a/c"},
        bundle="maybe",
    )
    assert [(each.path, each.name, each.hashtype, each.hashsum) for each in found.wishes] == [
        ("a/c", "7", None, None),
        ("b", "7", "md5", "ab" * 16),
    ]


def test_the_same_is_the_same():
    """In any order, with any spelling that means the same; anything else is another cart."""
    one = order(FILE, {"id": 1, "path": "x"})
    same = order({"id": "1", "path": "/x"}, FILE, bundle=True)
    others = [order(FILE), order(FILE, {"id": 2, "path": "x"}), order(FILE, {"id": 1, "path": "x"}, partial=True)]
    assert one.digest == same.digest
    assert one.digest not in {each.digest for each in others}


@pytest.mark.parametrize(
    "uid", ["", "..", ".", " a", "a ", "a/b", "a\nb", "x" * (LONGEST_UID + 1), "carts", "health", "a\x00b", "\u2028"]
)
def test_a_wrong_uid(uid):
    """Refused, saying why."""
    with pytest.raises(InvalidRequest) as refused:
        check_uid(uid, ("carts", "health"))
    assert refused.value.field == "uid"


def test_the_order_of_a_large_cart():
    """Depth first, each folder's children by name, also where a name has characters before the slash, in any pieces."""
    chance = random.Random(1)
    names = ("a", "a-", "a b", "é", "b!", "\U0001f600")
    paths = {"/".join([*chance.choices(names, k=chance.randint(2, 9)), "f"]) for _ in range(30_000)}
    found = order(*({"id": "x", "path": path} for path in sorted(paths, key=hash)))
    assert [each.path for each in found.wishes] == sorted(paths, key=lambda path: path.split("/"))
    assert len(paths) > 2 * PIECE


def test_files_that_are_decoded_one_by_one():
    """It makes no difference, neither to the cart nor to what is wrong."""
    body = {"fileids": [{**FILE, "path": f"1/{n}"} for n in range(9)]}
    raw = [msgspec.Raw(msgspec.json.encode(each)) for each in body["fileids"]]
    assert order(*raw) == order(*body["fileids"])
    with pytest.raises(InvalidRequest, match=r"fileids\[10\].path '1/3' is there twice"):
        order(*raw, msgspec.Raw(msgspec.json.encode(FILE)), msgspec.Raw(b'{"id": "x", "path": "1/3"}'))


def test_an_order_that_is_done_with():
    """Nothing of it stays."""
    found = order(*({"id": "x", "path": str(n)} for n in range(2 * PIECE + 1)))
    found.forget()
    assert found.wishes == []
