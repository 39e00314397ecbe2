"""Downloads against a server of our own: whole, broken off and resumed, wrong, and told in one line."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

from wps_sam import download as module
from wps_sam.cli import run_command
from wps_sam.download import WeightFile, Weights, download, read_table

import pytest

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT under /w.pth, and notes the range of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.knows_ranges = True
        # The connection ends after so many bytes.
        self.breaks_after: int | None = None
        self.code = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.code != 200 or self.path != "/w.pth":
            self.send_error(server.code if server.code != 200 else 404)
            return
        begin = int(asked[len("bytes=") : -1]) if asked and server.knows_ranges else 0
        if begin >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - begin))
        self.end_headers()
        end = len(CONTENT) if server.breaks_after is None else begin + server.breaks_after
        self.wfile.write(CONTENT[begin:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def table(server: Server, agree: str | None = None, **known: object) -> dict[str, Weights]:
    about = {"size": len(CONTENT), "sha256": SHA256, **known}
    file = WeightFile("w.pth", f"{server.url}w.pth", **about)  # type: ignore[arg-type]
    return {"w": Weights("w", "some weights", "MIT", (file,), agree=agree)}


def test_a_whole_download(server: Server, tmp_path: Path) -> None:
    place = download("w", tmp_path / "weights", table=table(server))
    assert place == tmp_path / "weights" / "w.pth" and place.read_bytes() == CONTENT
    assert server.asked == [None] and [p.name for p in place.parent.iterdir()] == ["w.pth"]
    # There and right: nobody is asked again.
    assert download("w", place.parent, table=table(server)) == place and len(server.asked) == 1


def test_a_broken_download_goes_on_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.breaks_after = 3000
    message = rf"w\.pth: broke off after 3000 of {len(CONTENT)} bytes .*; the same command goes on from there"
    with pytest.raises(ValueError, match=message):
        download("w", tmp_path, table=table(server))
    assert not (tmp_path / "w.pth").exists() and (tmp_path / "w.pth.part").read_bytes() == CONTENT[:3000]
    server.breaks_after = None
    assert download("w", tmp_path, table=table(server)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=3000-"] and not (tmp_path / "w.pth.part").exists()


def test_a_server_without_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth.part").write_bytes(b"x" * 3000)
    server.knows_ranges = False
    # Appended to what is there, it would be longer, and its hash another.
    assert download("w", tmp_path, table=table(server)).read_bytes() == CONTENT
    assert server.asked == ["bytes=3000-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_lacked_its_name_alone_gets_it(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    assert download("w", tmp_path, table=table(server, size=size)).read_bytes() == CONTENT
    assert server.asked == ([] if size else [f"bytes={len(CONTENT)}-"])


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_part_that_is_too_long_is_begun_anew(server: Server, tmp_path: Path, size: int | None) -> None:
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"more")
    assert download("w", tmp_path, table=table(server, size=size)).read_bytes() == CONTENT


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_hash_is_told_with_both_and_nothing_stays(server: Server, tmp_path: Path, kind: str) -> None:
    got = hashlib.new(kind, CONTENT).hexdigest()
    wrong = {"sha256": None, "md5": None, kind: "0" * len(got)}
    with pytest.raises(ValueError, match=rf"what came has {kind} {got}, expected 0{{{len(got)}}}; it was removed"):
        download("w", tmp_path, table=table(server, **wrong))
    assert not list(tmp_path.iterdir())
    assert download("w", tmp_path, table=table(server, **{**wrong, kind: got})).is_file()


def test_another_size_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"what came has {len(CONTENT)} bytes, expected 99999"):
        download("w", tmp_path, table=table(server, size=99999))


def test_another_file_in_the_place_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"w\.pth: exists, but has 4 bytes, expected .*; move it away"):
        download("w", tmp_path, table=table(server))
    assert (tmp_path / "w.pth").read_bytes() == b"mine" and not server.asked


def test_answers_of_a_server_are_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other\.pth: the server answers 404 Not Found$"):
        download("w", tmp_path, f"{server.url}other.pth", table=table(server))
    server.code = 401
    with pytest.raises(ValueError, match="the server answers 401 Unauthorized$"):
        download("w", tmp_path, table=table(server))
    message = rf"401 Unauthorized: agree to the licence at https://there, .* put them into {tmp_path}/w\.pth; or"
    with pytest.raises(ValueError, match=message):
        download("w", tmp_path, table=table(server, agree="https://there"))


def test_no_network_is_told(server: Server, tmp_path: Path) -> None:
    known = table(server)
    server.server_close()
    with pytest.raises(ValueError, match=r"w\.pth: can't be reached: .*; is there a network, or a mirror \(--url\)\?"):
        download("w", tmp_path, "http://127.0.0.1:9/w.pth", table=known)


def test_a_full_disk_is_told_before_and_in_the_middle(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=rf"the disk has 100 bytes left, w\.pth needs {len(CONTENT)}"):
        download("w", tmp_path, table=table(server))
    monkeypatch.undo()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_load", full)
    with pytest.raises(ValueError, match=r"w\.pth\.part: the disk is full; what came so far is kept"):
        download("w", tmp_path, table=table(server))


def test_mirrors(server: Server, tmp_path: Path) -> None:
    known = table(server)
    for k, mirror in enumerate((server.url, f"{server.url}w.pth")):
        assert download("w", tmp_path / str(k), mirror, table=known).read_bytes() == CONTENT
    with pytest.raises(ValueError, match="expected an address that begins with https:// or http://"):
        download("w", tmp_path, "file:///w.pth", table=known)
    with pytest.raises(ValueError, match="clip_vit_b_16 has 8 files, expected the address of their folder"):
        download("clip_vit_b_16", tmp_path, f"{server.url}w.pth")


def test_several_files_become_a_folder(server: Server, tmp_path: Path) -> None:
    (file,) = table(server)["w"].files
    known = {"two": Weights("two", "two files", "MIT", (file, WeightFile("v.pth", file.url)))}
    place = download("two", tmp_path, table=known)
    assert place == tmp_path / "two" and sorted(p.name for p in place.iterdir()) == ["v.pth", "w.pth"]


def test_the_shipped_table_is_whole() -> None:
    known = read_table()
    assert {"sam_vit_b", "sam_vit_l", "sam_vit_h", "mobile_sam", "sam2.1_large", "dinov3_base"} <= set(known)
    for weights in known.values():
        assert weights.files and weights.licence and (weights.keys is None or "{path}" in weights.keys)
        for file in weights.files:
            assert file.url.startswith("https://") and file.url.endswith("/" + file.name)
            assert file.size is None or file.size > 0
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.md5 is None or re.fullmatch("[0-9a-f]{32}", file.md5)
    # A hash that was copied from the line above would be that of another file.
    hashes = [file.sha256 for weights in known.values() for file in weights.files if file.sha256]
    assert len(set(hashes)) == len(hashes)


def test_the_subcommand_lists_and_downloads(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("download", []) == 0
    listed = capsys.readouterr().out
    assert (
        "sam_vit_b: SAM ViT-B\n  for      MODEL.SAM.ARCH vit_b MODEL.SAM.WEIGHTS weights/sam_vit_b_01ec64.pth" in listed
    )
    assert "375042383 bytes, sha256 ec2df6273261" in listed and "sha256 not published, md5 c6b8953247bc" in listed
    monkeypatch.setattr(module, "read_table", lambda: table(server))
    assert run_command("download", ["w", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'w.pth'}: this version has no key for it\n"
    assert run_command("download", ["v"]) == 2
    assert capsys.readouterr().err == "error: no weights 'v'; known: w\n"
    assert run_command("download", ["--url", server.url]) == 2
