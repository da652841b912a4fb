"""Files of the Hugging Face hub: cache first, one question to the server, one message."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from datasets.download import MissingData
from datasets.hub import from_cache_or_hub, hub_answers
from datasets.text.sources import from_hub


class Loader:
    """Loader of a file that lies in the cache or on the server alone; it counts its calls."""

    def __init__(self, cached: bool) -> None:
        self.cached = cached
        self.calls: list[bool] = []

    def __call__(self, name: str, local_files_only: bool = False) -> str:
        self.calls.append(local_files_only)
        if local_files_only and not self.cached:
            raise FileNotFoundError(name)
        return name


@pytest.fixture(autouse=True)
def _asks_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's address be a port where nothing listens."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the hub's address be a server that answers every request by an error."""

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{running.server_port}")
        yield
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("no_server")
def test_a_cached_file_needs_no_server() -> None:
    loader = Loader(cached=True)
    assert from_cache_or_hub(loader, "a") == "a"
    assert loader.calls == [True]


@pytest.mark.usefixtures("no_server")
def test_without_an_answer_the_loader_is_not_asked_again() -> None:
    loader = Loader(cached=False)
    with pytest.raises(ConnectionError, match="which does not answer"):
        from_cache_or_hub(loader, "a")
    assert loader.calls == [True]


@pytest.mark.usefixtures("server")
def test_a_server_that_answers_is_asked() -> None:
    loader = Loader(cached=False)
    assert from_cache_or_hub(loader, "a") == "a"
    assert loader.calls == [True, False]


@pytest.mark.usefixtures("server")
def test_offline_mode_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loader = Loader(cached=False)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        from_cache_or_hub(loader, "a")
    assert loader.calls == [True]


@pytest.mark.usefixtures("no_server")
def test_the_real_loader_ends_in_a_message_that_names_the_file(tmp_path: Path, capfd) -> None:
    with pytest.raises(MissingData, match="does not answer") as error:
        from_hub("Words", "nobody/words-of-no-use", "words.txt", tmp_path, [tmp_path / "words.txt"])
    assert str(tmp_path / "words.txt") in str(error.value)
    assert "Retrying" not in capfd.readouterr().err
