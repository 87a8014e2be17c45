"""Who may ask: names of this machine, addresses of numbers, and no page of another site."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from sogclr.evaluation.serving.guard import Guard


@pytest.fixture(scope="module")
def client():
    def answer(request):
        return PlainTextResponse("reached")

    app = Starlette(routes=[Route("/", answer, methods=["GET", "POST"])])
    with TestClient(Guard(app, names=["My-Machine"]), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000", "127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8000", "[::1]",
        "192.168.1.7:8000", "my-machine:8000",
    ],
)  # fmt: skip
def test_addresses_of_this_machine_are_answered(client, host):
    assert client.get("/", headers={"Host": host}).text == "reached"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example",
        "", "evil.example@127.0.0.1", "127.0.0.1@evil.example", "my-machine.evil.example:8000",
        "127.0.0.1:8000:evil", "0x7f.1", "[evil]",
    ],
)  # fmt: skip
def test_a_name_that_was_made_to_point_here_is_refused(client, host):
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == 421
    assert "reached" not in answer.text


@pytest.mark.parametrize(
    ("method", "headers", "reached"),
    [
        ("GET", {}, True),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ("GET", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ("GET", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, False),
        ("POST", {}, True),
        ("POST", {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, True),
        ("POST", {"Origin": "http://127.0.0.1:9000", "Sec-Fetch-Site": "same-site"}, False),
        ("POST", {"Origin": "https://evil.example"}, False),
        ("POST", {"Origin": "null"}, False),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ],
)
def test_pages_of_other_sites_may_only_link_here(client, method, headers, reached):
    answer = client.request(method, "/", headers=headers)
    assert answer.status_code == (200 if reached else 403)
    assert (answer.text == "reached") == reached


def test_browsers_are_told_to_run_and_show_nothing_else(client):
    headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
