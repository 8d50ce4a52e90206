"""Hostile requests: none reads or writes outside, none is answered with a fault of ours, none takes the server down."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.graphs import demo_loader, training
from tests.host.measure import run_id
from tests.host.routes import table
from tests.host.server import ComfyServer

pytestmark = pytest.mark.host
SECRET = "a secret that no answer may hold"
JSON = {"Content-Type": "application/json"}
CLIMBS = (  # as a part of a path, as it is sent
    "..", "../..", "..%2f..", "..%5c..", "%2e%2e", "%2e%2e%2f%2e%2e%2fsecret.txt", "....//....//secret.txt",
    "..%252f..%252fsecret.txt", "%c0%ae%c0%ae%c0%af", "..%00", "%00", "secret.txt%00.webp", "/etc/passwd",
    "%2fetc%2fpasswd", "C:%5cWindows%5cwin.ini", "%5c%5chost%5cshare", "file:%2f%2f%2fetc%2fpasswd", "~", "~root",
    "$HOME", ".", "%20", "nul", "CON", "a" * 3000,
    "%F0%9F%92%A9", "%ff%fe", "%E6%BC%AB", "latest%0d%0aX-Evil:%201", "*", "?run=latest", "%3Cscript%3E",
)  # fmt: skip

HARMLESS = (".", "..", "../..", "%2e%2e", "%20", "?run=latest")  # they lead to other routes, or mean the latest run


def ask(
    comfy: ComfyServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a request that is sent as it is: no client mends its path."""
    connection = http.client.HTTPConnection("127.0.0.1", comfy.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"Host": f"127.0.0.1:{comfy.port}", "Origin": comfy.url, **(headers or {})}
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        if body is not None and "Transfer-Encoding" not in sent:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def post(comfy: ComfyServer, path: str, data: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of a POST."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    status, answer, _ = ask(comfy, "POST", path, body, {**JSON, **headers})
    return status, json.loads(answer) if answer.startswith(b"{") else {}


@pytest.fixture(scope="module", autouse=True)
def untouched(comfy: ComfyServer) -> Iterator[Path]:
    """A run, and secrets around it: as they were when all is over, and the server still answers."""
    comfy.run({**demo_loader(), **training(training_seed=77, epochs=1, save_steps=1)})
    secrets = [comfy.base / "secret.txt", comfy.base / "user" / "secret.txt", comfy.base / "input" / "secret.txt"]
    for secret in secrets:
        secret.write_text(SECRET, "utf-8")
    before = _everything(comfy)
    errors = comfy.log().count("Traceback")
    yield comfy.base
    assert comfy.get("/darkroom/runs")["runs"]
    after = _everything(comfy)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()
    assert comfy.log().count("Traceback") == errors, "a request was answered with a fault of ours"
    for secret in secrets:
        secret.unlink()


def _everything(comfy: ComfyServer) -> dict[str, str]:
    """All files of the server but for what ComfyUI itself writes while it runs."""
    places = [comfy.base / name for name in ("input", "models", "user", "output")]
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    kept = (file for file in files if file.suffix not in (".db", ".log", ".lock") and "comfyui" not in file.name)
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def test_every_route_that_is_asked_something_has_a_schema():
    assert [route for route in table() if not route.schema and (route.method == "POST" or "{" in route.path)] == []


def paths() -> list[tuple[str, str]]:
    """Every route of the table with a part in its path: its method, and what is before and behind the part."""
    return [(route.method, route.path) for route in table() if "{" in route.path]


@pytest.mark.parametrize("climb", CLIMBS)
def test_no_part_of_a_path_leads_outside(comfy: ComfyServer, climb: str):
    for method, path in paths():
        while "{" in path:
            begin, _, rest = path.partition("{")
            path = begin + climb + rest.partition("}")[2]
        status, answer, headers = ask(comfy, method, f"/darkroom{path}", b"{}" if method == "POST" else None, JSON)
        elsewhere = method == "GET" and climb in HARMLESS
        assert 400 <= status < 500 or elsewhere, (method, path, answer[:300])
        assert SECRET.encode() not in answer
        assert b"root:" not in answer
        assert "x-evil" not in headers


@pytest.mark.parametrize("headers", [
    {"Origin": ""}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1"},
    {"Origin": "file://"}, {"Origin": "http://127.0.0.1:1"}, {"Origin": "http://user@evil.example"},
    {"Origin": "http://evil.example", "Host": "127.0.0.1"}, {"Origin": "http://evil.example#127.0.0.1"},
    {"Origin": "javascript:alert(1)"}, {"Content-Type": "text/plain"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "multipart/form-data; boundary=a"}, {"Content-Type": ""}, {"Content-Type": "application/jsonp"},
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
])  # fmt: skip
def test_a_post_of_another_page_is_not_answered(comfy: ComfyServer, headers: dict[str, str]):
    for route in table():
        if route.method == "POST":
            path = route.path.replace("{run}", "latest").replace("{name}", "x")
            sent = {"Content-Type": "application/json", **headers}
            status, answer, _ = ask(comfy, "POST", f"/darkroom{path}", b"{}", sent)
            assert status in (400, 403), (route.path, answer)
            if status == 400:  # by aiohttp, before our own code
                assert b"cure" not in answer, (route.path, answer)


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a text": b'"run"',
    "null": b"null",
    "no number": b'{"folder": NaN}',
    "deep": b'{"folder": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "no UTF-8": b'{"folder": "\xff\xfe"}',
    "half a character": b'{"folder": "\\ud800"}',
    "unknown": b'{"__proto__": {}, "constructor": 1}',
    "huge": b'{"folder": "' + b"a" * (3 * 2**20) + b'"}',
    "a long number": b'{"repeats": ' + b"9" * 5000 + b"}",
    "a zero byte": b'{"folder": "\\u0000", "path": "\\u0000"}',
    "other types": b'{"folder": {"a": [1, true]}, "path": [[]], "name": false, "run": 1, "dataset": 3}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=list(BODIES))
def test_a_bad_body_is_refused(comfy: ComfyServer, body: bytes):
    for route in table():
        if route.method == "POST" and route.path != "/dataset/open":
            path = route.path.replace("{run}", "no such run").replace(" ", "%20").replace("{name}", "x")
            status, answer = post(comfy, f"/darkroom{path}", body)
            assert status in (400, 413), (route.path, status, answer)
            assert answer["error"]


def test_a_body_that_never_ends_is_cut_off(comfy: ComfyServer):
    with socket.create_connection(("127.0.0.1", comfy.port), timeout=60) as line:
        head = f"POST /darkroom/dataset HTTP/1.1\r\nHost: 127.0.0.1:{comfy.port}\r\nOrigin: {comfy.url}\r\n"
        line.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        part = b"10000\r\n" + b" " * 65536 + b"\r\n"
        sent = 0
        try:
            while sent < 2000:
                line.sendall(part)
                sent += 1
        except OSError:
            pass
        assert sent < 2000 or b"413" in line.recv(64)


@pytest.mark.parametrize("path", [
    "../../user/secret.txt", "/etc", "\\\\host\\share", "C:\\Windows", "file:///etc", "~", "\0", "[datasets] ../..",
    "[datasets] /etc",    "[datasets] ..\\..", "..", "a/../../..", "con", "x" * 4096, "\u202etxt.exe",
])  # fmt: skip
def test_a_client_elsewhere_reads_no_folder_outside(comfy: ComfyServer, path: str):
    away = {"X-Forwarded-For": "192.0.2.7"}
    for asked in ({"folder": path}, {"folder": "", "path": path}):
        status, answer = post(comfy, "/darkroom/dataset", asked, **away)
        assert status == 400, answer
        assert SECRET not in json.dumps(answer)
    status, answer = post(comfy, "/darkroom/dataset/discard", {"folder": path})
    assert status == 400 or answer == {"folder": path}, "nothing of that name was made by us"


UPLOADS = [
    ("../user/__lora_darkroom/runs", "input"), ("../../user/__lora_darkroom", "output"), ("..%2f..%2fuser", "temp"),
    ("/etc", "input"), ("__lora_darkroom", "input"), ("..\\..\\user\\__lora_darkroom\\runs", "input"),
]  # fmt: skip


@pytest.mark.parametrize(("folder", "kind"), UPLOADS)
def test_comfyuis_upload_does_not_reach_our_folders(comfy: ComfyServer, folder: str, kind: str):
    private = next(comfy.base.glob("user/*lora_darkroom"))
    before = sorted(private.rglob("*"))
    edge = "----edge"
    fields = {"subfolder": folder, "type": kind, "overwrite": "true"}
    parts = [f'--{edge}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()]
    file = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="queue.json"\r\n\r\n{{}}\r\n'
    body = ("".join(parts) + file + f"--{edge}--\r\n").encode()
    ask(comfy, "POST", "/upload/image", body, {"Content-Type": f"multipart/form-data; boundary={edge}"})
    assert sorted(private.rglob("*")) == before
    for made in list((comfy.base / "input").rglob("queue.json")):  # where ComfyUI put it, below its input
        made.unlink()
        if made.parent != comfy.base / "input":
            made.parent.rmdir()


def test_comfyuis_own_routes_show_nothing_of_ours(comfy: ComfyServer):
    (run,) = {one["id"] for one in comfy.get("/darkroom/runs")["runs"]} & {_run(comfy)}
    for name in (f"../user/__lora_darkroom/runs/{run}/job.yaml", f"../../__lora_darkroom/runs/{run}/job.yaml"):
        for kind in ("input", "output", "temp"):
            folder, _, file = name.rpartition("/")
            status, answer, _ = ask(comfy, "GET", f"/view?filename={file}&subfolder={folder}&type={kind}")
            assert status != 200, answer
    for path in (
        "/userdata/__lora_darkroom%2Fruns",
        "/userdata/..%2F__lora_darkroom%2Fqueue.json",
        "/v2/userdata?path=..%2F__lora_darkroom",
    ):
        status, answer, _ = ask(comfy, "GET", path)
        assert status != 200, (path, answer)


def _run(comfy: ComfyServer) -> str:
    return run_id(comfy.run({**demo_loader(), **training(training_seed=77, epochs=1, save_steps=1)}))


def test_many_at_once_make_folders_of_their_own(comfy: ComfyServer):
    found: list[tuple[int, dict[str, Any]]] = []
    work = [
        threading.Thread(target=lambda: found.append(post(comfy, "/darkroom/dataset/new", {"name": "a race"})))
        for _ in range(16)
    ]
    for one in work:
        one.start()
    for one in work:
        one.join()
    names = [answer["folder"] for status, answer in found if status == 200]
    for name in names:
        assert post(comfy, "/darkroom/dataset/discard", {"folder": name}) == (200, {"folder": ""})
    assert len(set(names)) == len(found) == 16
