"""Shards that are downloaded, from a server that fails in many ways."""

import errno
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from shard_files import cut, make, opened

from rsquant.data import download as downloading
from rsquant.errors import DataError, RsquantError


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("shards"))


class Server(SimpleHTTPRequestHandler):
    """Serves a folder; what it did and how it fails are of the server object."""

    def do_GET(self):
        self.server.asked.append(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "busy":
            self.send_error(503)
        elif fault == "login":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!DOCTYPE html>\n<title>Log in</title>" + bytes(2000))
        elif fault == "short":
            self.send_response(200)
            self.send_header("Content-Length", "10240")
            self.end_headers()
            self.wfile.write(bytes(100))
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(shards, monkeypatch):
    """(address, server)"""
    monkeypatch.setattr(downloading, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(shards))) as made:
        made.asked, made.faults = [], []
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}", made
        made.shutdown()
        thread.join()


def test_shards_of_the_web_are_downloaded_once(shards, server, tmp_path):
    address, made = server
    made.faults = ["busy", "short"]  # another attempt gets it
    pattern = address + "/{train-{000..002},val-000}.tar?key={1}"
    source = opened(pattern, tmp_path)
    assert source.fingerprint == opened(shards, tmp_path).fingerprint
    assert len(made.asked) == 6 and source.place == pattern
    assert source.train.name(0) == address + "/train-000.tar?key={1}/set/00000.png"
    source.train.image(0)
    # Another signature: the same files.
    assert opened(pattern.replace("{1}", "2"), tmp_path).fingerprint == source.fingerprint
    assert len(made.asked) == 6
    assert not list((tmp_path / "cache").glob(".*"))


def test_a_shard_that_the_web_does_not_have_is_named(server, tmp_path):
    address, made = server
    with pytest.raises(DataError, match=r"train-007.tar cannot be downloaded: .* 404 "):
        opened(address + "/{train-{007..300},val-000}.tar", tmp_path)
    assert len(made.asked) == 3  # more than 1 % is clear after three of 294


def test_a_server_that_fails_every_time_is_told(server, tmp_path):
    address, made = server
    made.faults = ["short"] * 3
    with pytest.raises(DataError, match=r"100 of 10,240 bytes arrived \(3 attempts\)"):
        opened(address + "/{train-{000..002},val-000}.tar", tmp_path)
    assert not list((tmp_path / "cache").glob("*train-000*"))


def test_a_page_to_log_in_is_no_shard_and_is_not_kept(server, tmp_path):
    address, made = server
    made.faults = ["login"]
    pattern = address + "/{train-{000..002},val-000}.tar"
    with pytest.raises(
        DataError, match=r"train-000.tar cannot be downloaded: .* begins with '<!DOCTYPE html>"
    ) as error:
        opened(pattern, tmp_path)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").glob("*train-000*"))
    opened(pattern, tmp_path)


def test_a_damaged_shard_of_the_web_is_named_with_its_place(server, tmp_path):
    pattern = server[0] + "/{train-{000..002},val-000}.tar"
    opened(pattern, tmp_path)
    (kept,) = (tmp_path / "cache").glob("*train-000.tar")
    cut(kept, 5000)
    with pytest.raises(DataError, match=rf"{re.escape(str(kept))}; delete it to have it"):
        opened(pattern, tmp_path)


def test_a_full_disk_is_told_and_leaves_nothing(server, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloading.shutil, "copyfileobj", full)
    with pytest.raises(RsquantError, match="the disk is full; free some space"):
        opened(server[0] + "/{train-{000..002},val-000}.tar", tmp_path)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
