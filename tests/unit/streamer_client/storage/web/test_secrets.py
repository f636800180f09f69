"""The secrets of URLs are separated from the URLs."""

from __future__ import annotations

from streamer_client.storage.web.secrets import UrlSecrets, secrets_of


def test_what_stands_in_the_url() -> None:
    found = secrets_of("https://us%40er:p%3Ass@h/a?part=1&X-Amz-Date=1&X-Amz-Signature=hush", {})
    assert found.headers() == {"Authorization": "Basic dXNAZXI6cDpzcw=="}
    assert found.signed("https://h/a?part=1") == (
        "https://h/a?part=1&X-Amz-Date=1&X-Amz-Signature=hush"
    )
    assert found.signed("https://h/b") == "https://h/b?X-Amz-Date=1&X-Amz-Signature=hush"
    assert secrets_of("https://h/a?part=1", found.as_environment()) == found
    assert "hush" not in repr(found)


def test_what_stands_in_the_variables() -> None:
    assert secrets_of("https://h/a", {"STREAMER_HTTP_BEARER": "t"}).headers() == {
        "Authorization": "Bearer t"
    }
    both = secrets_of("https://u:p@h/a", {"STREAMER_HTTP_BEARER": "t"})
    assert both.headers()["Authorization"].startswith("Basic ")
    assert UrlSecrets().headers() == {}
    assert UrlSecrets().as_environment() == {}
    assert UrlSecrets().signed("https://h/a?x") == "https://h/a?x"
