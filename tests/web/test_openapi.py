"""The description says what is served, no more and no less."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from datahub.web.app import Answer, App, Call
from datahub.web.openapi import describe


class Order(msgspec.Struct):
    """What is wanted."""

    product_id: str
    priority: int = 3


class Receipt(msgspec.Struct):
    order: Order


class Shop:
    """Operations of all kinds."""

    app = App()

    @app.operation("POST", "/orders", scope="shop:write", takes=Order, gives={202: Receipt}, refuses=lambda *_: {})
    async def submit(self, call: Call, order: Order) -> Receipt:
        """Take an order.

        Further words are for those who read the code.
        """
        return Receipt(order)

    @app.operation(("GET", "POST"), "/orders/<int:number>/parts/<path:part>", scope="", takes=Order)
    async def part(self, call: Call, number: int, part: str, order: Order) -> dict[str, Any]:
        """Show a part."""
        return {}

    @app.operation("DELETE", "/orders/<number>", scope="shop:write", gives={204: None})
    async def remove(self, call: Call, number: str) -> Answer:
        """Remove an order."""
        return Answer(204)


class Office:
    """A second app."""

    app = App()

    @app.operation("GET", "/office", scope="")
    async def show(self, call: Call) -> dict[str, Any]:
        """Show the office."""
        return {}


APPS = [Shop().app, Office.app]
DESCRIPTION = describe(APPS, "1.2.3")


def test_it_describes_exactly_what_is_served():
    """Each route of the apps with each of its methods is there once; HEAD comes with GET by HTTP itself."""
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for app in APPS
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
    }
    described = {(path, method) for path, methods in DESCRIPTION["paths"].items() for method in methods}
    assert described == {pair for pair in served if pair[1] != "head"}
    assert (DESCRIPTION["openapi"], DESCRIPTION["info"]["version"]) == ("3.1.0", "1.2.3")


def test_an_operation_that_takes_a_body():
    """Summary, scope, body and answer come from the declaration."""
    submit = DESCRIPTION["paths"]["/orders"]["post"]
    assert submit["summary"] == "Take an order."
    assert submit["security"] == [{"token": ["shop:write"]}]
    content = submit["requestBody"]["content"]
    assert set(content) == {"application/json", "application/x-www-form-urlencoded", "multipart/form-data"}
    assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/Order"}
    answer = submit["responses"]["202"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Receipt"}
    assert set(DESCRIPTION["components"]["schemas"]) == {"Order", "Receipt", "Problem"}


def test_an_operation_with_arguments():
    """Path arguments are parameters, and so are the fields of what a GET takes."""
    part = DESCRIPTION["paths"]["/orders/{number}/parts/{part}"]["get"]
    parameters = [(each["name"], each["in"], each["required"]) for each in part["parameters"]]
    assert parameters == [
        ("number", "path", True),
        ("part", "path", True),
        ("product_id", "query", True),
        ("priority", "query", False),
    ]
    assert "requestBody" not in part
    assert part["security"] == []
    assert DESCRIPTION["paths"]["/orders/{number}"]["delete"]["responses"]["204"] == {"description": "No Content"}


def test_errors_are_described():
    """An operation's errors are problems, unless it shapes them itself."""
    assert "application/problem+json" in DESCRIPTION["paths"]["/office"]["get"]["responses"]["default"]["content"]
    assert "application/json" in DESCRIPTION["paths"]["/orders"]["post"]["responses"]["default"]["content"]


def test_names_are_unique_and_it_is_json():
    """Each operation has an id of its own, and the whole can be written as JSON."""
    ids = [each["operationId"] for methods in DESCRIPTION["paths"].values() for each in methods.values()]
    assert len(ids) == len(set(ids)) == 5
    assert msgspec.json.decode(msgspec.json.encode(DESCRIPTION)) == DESCRIPTION
