"""Where a captioner's model is found; a download is asked for, its size told first, and no pickle fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.conftest import REPO
from tests.trainer.captioning.slow import Slow
from trainer.captioning import all_captioners
from trainer.captioning.models import find, is_whole, wanted
from trainer.errors import CaptionError

COMMIT = "0123456789" * 4
FILES = {
    "config.json": b'{"model_type": "slow"}',
    "slow.json": b"{}",
    "model.safetensors": b"\0" * 2_000_000,
    "pytorch_model.bin": b"a pickle" * 500_000,
    "model.onnx": b"the same once more" * 100_000,
    "model.pt": b"another",
    "modeling_slow.py": b"raise SystemExit('code of a model was run')",
    "selected_tags.csv": b"tag_id,name\n",
}
WANTED = {"config.json", "slow.json", "model.safetensors", "selected_tags.csv"}


def test_of_weights_in_several_kinds_only_those_that_are_read_are_fetched() -> None:
    for name, captioner in all_captioners().items():
        kinds = {"*.onnx", "*.safetensors", "*.bin"} & set(wanted(captioner))
        assert kinds == ({"*.onnx"} if name == "wd14" else {"*.safetensors"})


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path / "said", models=("darkroom-tests/slow",))


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Folders for models; the first is not there."""
    (tmp_path / "mod\u00e8les \u7eff").mkdir()
    return [tmp_path / "gone", tmp_path / "mod\u00e8les \u7eff"]


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "slow.json").touch()
    return folder


def test_the_first_model_that_fits_is_taken_where_none_is_named(slow: Slow, folders: list[Path]) -> None:
    (folders[1] / "another kind").mkdir()
    (folders[1] / "a file").touch()
    second, first = model(folders[1] / "my slow 2"), model(folders[1] / "my slow 1")
    assert find(slow, "", folders) == first
    assert find(slow, "my slow 2", folders) == second


def test_a_model_by_path(slow: Slow, folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = model(tmp_path / "else" / "where")
    assert find(slow, str(elsewhere), folders) == elsewhere
    assert find(slow, f" {elsewhere} ", []) == elsewhere
    monkeypatch.chdir(tmp_path)
    assert find(slow, "else/where") == elsewhere
    assert find(slow, "./else/where") == elsewhere


def test_a_name_on_the_hub_is_also_a_folder_of_its_last_part(slow: Slow, folders: list[Path]) -> None:
    here = model(folders[1] / "slow-large")
    assert find(slow, "darkroom-tests/slow-large", folders) == here


@pytest.mark.parametrize("name", ["/not/there", "./not-there", "~/not-there", "a/b/c", "C:\\not\\there"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(slow: Slow, name: str) -> None:
    with pytest.raises(CaptionError) as caught:
        find(slow, name, download=True)
    assert caught.value.message == f"model: {name} does not exist"


OFFLINE = """
import sys
from pathlib import Path
from tests.trainer.captioning.slow import Slow
from trainer.captioning.models import find
from trainer.errors import CaptionError
slow = Slow(Path("said"), models=("darkroom-tests/slow",))
try:
    print(find(slow, sys.argv[1], [Path(sys.argv[2])], download=sys.argv[3] == "download"))
except CaptionError as error:
    print(error)
    sys.exit(2)
"""


def asked(
    name: str, folder: Path, cache: Path, endpoint: str = "", *, download: bool = False
) -> subprocess.CompletedProcess[str]:
    """``find`` in a process of its own: the hub's library reads where things are when it is imported."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    env |= {"HF_ENDPOINT": endpoint} if endpoint else {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", OFFLINE, name, str(folder), "download" if download else "no"],
        cwd=REPO, env=env, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_offline_without_the_model_it_says_what_to_put_where(tmp_path: Path) -> None:
    done = asked("", tmp_path / "captioners", tmp_path / "cache")
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines() == [
        "slow: the model darkroom-tests/slow is not on this machine",
        f"  -> Download darkroom-tests/slow from the Hugging Face hub and put its folder into "
        f"{tmp_path / 'captioners'}; or allow the download (--download, or the node's switch).",
    ]


def test_offline_a_download_that_was_asked_for_is_an_error_too(tmp_path: Path) -> None:
    done = asked("", tmp_path / "captioners", tmp_path / "cache", download=True)
    assert done.returncode == 2, done.stderr
    assert "darkroom-tests/slow cannot be downloaded" in done.stdout
    assert "Check its name and the network." in done.stdout


class Hub(ThreadingHTTPServer):
    """What of the hub's interface its library needs, for one model."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        assert isinstance(self.server, Hub)
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        headers = {"X-Repo-Commit": COMMIT}
        if path.startswith("/api/models/darkroom-tests/slow/tree/"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": sha256(data).hexdigest()[:40]}
                for name, data in FILES.items()
            ]
            data = json.dumps(tree).encode()
            headers["Content-Type"] = "application/json"
        elif path.startswith("/api/models/darkroom-tests/slow"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            data = json.dumps({"id": "darkroom-tests/slow", "sha": COMMIT, "siblings": siblings}).encode()
            headers["Content-Type"] = "application/json"
        elif path.rpartition("/")[0] in (f"/darkroom-tests/slow/resolve/{it}" for it in ("main", COMMIT)):
            data = FILES[path.rpartition("/")[2]]
            headers["ETag"] = f'"{sha256(data).hexdigest()}"'
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_address[1]}"


def test_a_download_says_its_size_and_fetches_no_pickle_and_no_code(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = asked("", tmp_path, cache, url(hub), download=True)
    assert done.returncode == 0, done.stderr
    first, path = done.stdout.splitlines()
    assert first == "downloading darkroom-tests/slow: 2.0 MB"
    assert {one.name for one in Path(path).iterdir()} == WANTED
    fetched = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert fetched == WANTED
    # What was fetched once is found without the network.
    again = asked("", tmp_path, cache)
    assert again.stdout.strip() == path


def test_a_download_that_was_broken_off_is_gone_on_with(hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = Path(asked("", tmp_path, cache, url(hub), download=True).stdout.splitlines()[-1])
    weights = path / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    assert "is not on this machine" in asked("", tmp_path, cache).stdout
    done = asked("", tmp_path, cache, url(hub), download=True)
    assert done.returncode == 0, done.stderr
    assert weights.read_bytes() == FILES["model.safetensors"]


def test_a_model_in_parts_is_whole_when_all_of_them_are_there(tmp_path: Path) -> None:
    assert not is_whole(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert not is_whole(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").touch()
    assert is_whole(tmp_path)


def test_nothing_is_fetched_that_was_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    done = asked("", tmp_path, tmp_path / "cache", url(hub))
    assert done.returncode == 2
    assert "is not on this machine" in done.stdout
    assert hub.asked == []


def test_a_name_that_the_hub_does_not_know(hub: Hub, tmp_path: Path) -> None:
    done = asked("darkroom-tests/unknown", tmp_path, tmp_path / "cache", url(hub), download=True)
    assert done.returncode == 2, done.stderr
    assert "model: darkroom-tests/unknown cannot be downloaded" in done.stdout
