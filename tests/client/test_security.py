"""TLS and bearer tokens, over both protocols, with certificates made here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bantam import TLS, AsyncClassifier, Classifier
from bantam.errors import ClientError, UnavailableError, UserError
from tests.client.fake_kserve import Certified, Fake, Script
from tests.plugins.certificates import openssl

pytestmark = pytest.mark.openssl


@pytest.fixture(params=["grpc", "http"])
def secure(request: pytest.FixtureRequest, pem: Path) -> Iterator[Fake]:
    """A server with a certificate."""
    server = Fake(request.param, Script(), tls=Certified(pem / "server.pem", pem / "server.key"))
    yield server
    server.stop()


@pytest.fixture(params=["grpc", "http"])
def mutual(request: pytest.FixtureRequest, pem: Path) -> Iterator[Fake]:
    """A server that asks clients for a certificate as well."""
    tls = Certified(pem / "server.pem", pem / "server.key", clients_ca=pem / "ca.pem")
    server = Fake(request.param, Script(), tls=tls)
    yield server
    server.stop()


def ask(fake: Fake, twin: str, **options: Any) -> list[str]:
    if twin == "sync":
        with fake.client(**options) as classify:
            return classify("12345").labels

    async def run() -> list[str]:
        async with fake.async_client(**options) as classify:
            return (await classify("12345")).labels

    return asyncio.run(run())


both = pytest.mark.parametrize("twin", ["sync", "async"])


@both
def test_a_server_certified_by_the_given_authority_is_asked(secure: Fake, pem: Path, twin: str) -> None:
    assert ask(secure, twin, tls=TLS(ca=pem / "ca.pem")) == ["short", "long"]


@both
@pytest.mark.parametrize("ca", ["stranger.pem", None])
def test_a_server_of_another_authority_is_not_trusted(secure: Fake, pem: Path, twin: str, ca: str | None) -> None:
    tls = TLS(ca=pem / ca) if ca else True
    with pytest.raises(UnavailableError, match=r"unavailable.*over TLS, that both sides know the authority"):
        ask(secure, twin, tls=tls, retries=0)
    assert secure.script.configs == 0


@both
def test_without_tls_a_server_that_speaks_it_is_not_understood(secure: Fake, twin: str) -> None:
    with pytest.raises(ClientError, match="port speaks this protocol"):
        ask(secure, twin, retries=0, timeout=5.0)


@both
def test_a_server_that_asks_for_a_certificate_gets_it(mutual: Fake, pem: Path, twin: str) -> None:
    tls = TLS(ca=pem / "ca.pem", cert=str(pem / "client.pem"), key=pem / "client.key")
    assert ask(mutual, twin, tls=tls) == ["short", "long"]


@both
def test_a_client_without_its_certificate_is_refused(mutual: Fake, pem: Path, twin: str) -> None:
    with pytest.raises(UnavailableError, match="over TLS"):
        ask(mutual, twin, tls=TLS(ca=pem / "ca.pem"), retries=0)
    assert mutual.script.configs == 0


@both
def test_the_token_comes_with_each_request(secure: Fake, pem: Path, twin: str) -> None:
    ask(secure, twin, tls=TLS(ca=pem / "ca.pem"), token="abc.DEF-1~2+/==")
    assert secure.script.authorizations == ["Bearer abc.DEF-1~2+/=="]


def test_a_token_may_change_between_requests(secure: Fake, pem: Path) -> None:
    tokens = iter(["config", "first", "second"])
    with secure.client(tls=TLS(ca=pem / "ca.pem"), token=lambda: next(tokens)) as classify:
        classify("a")
        classify("b")
    assert secure.script.authorizations == ["Bearer first", "Bearer second"]


@both
def test_who_is_denied_is_told_what_to_check(twin: str) -> None:
    for protocol in ("grpc", "http"):
        fake = Fake(protocol, Script())
        fake.script.faults = ["denied"]
        with pytest.raises(ClientError, match=r"denies access: told to be denied\. Check `token`"):
            ask(fake, twin, token="wrong")
        assert fake.script.authorizations == ["Bearer wrong"], (
            "this machine may be told without TLS, and once is enough"
        )
        fake.stop()


@pytest.mark.parametrize("address", ["triton.example.com:8001", "10.0.0.7:8001", "localhost.example.com:8001"])
def test_a_token_is_not_sent_to_others_in_the_open(address: str) -> None:
    for make in (Classifier, AsyncClassifier):
        with pytest.raises(UserError, match=r"Got a token for \S+ without TLS.*tls=True") as caught:
            make(address, "m", token="secret")
        assert "secret" not in str(caught.value)
        make(address, "m", token="secret", tls=True)
    for mine in ("localhost:1", "127.8.8.8:1", "[::1]:1"):
        assert Classifier(mine, "m", token="secret").describe is not None


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ключ", lambda: "two words", lambda: 7])
def test_what_is_no_token_is_refused_without_repeating_it(token: Any) -> None:
    with pytest.raises(UserError, match="bearer token's characters") as caught:
        Classifier("localhost:1", "m", token=token)("a")
    assert "two words" not in str(caught.value)


def test_files_that_cannot_be_used_are_named(pem: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pem.*Expected PEM files"):
        TLS(ca=tmp_path / "nowhere.pem")
    with pytest.raises(UserError, match="cert and key without the other"):
        TLS(cert=pem / "client.pem")
    with pytest.raises(UserError, match=r"client\.pem, .*server\.key.*key that belongs to the certificate"):
        TLS(cert=pem / "client.pem", key=pem / "server.key")
    openssl(pem, "ec", "-aes128", "-passout", "pass:x", "-in", "client.key", "-out", "locked.key")
    with pytest.raises(UserError, match=r"locked\.key.*passphrase"):
        TLS(cert=pem / "client.pem", key=pem / "locked.key")
