"""The lock of a run folder: one process at a time, and gone with its process however that ends."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.errors import RunFolderError
from trainer.lock import held, locked

REPO = Path(__file__).resolve().parents[2]
HOLD = """
import sys
import threading
import time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainer.lock import held, locked
with locked(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "r\u00fcn \u8dd1" / "below"


def holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(REPO), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    return process


def test_the_folder_is_made_and_free_again_afterwards(folder: Path) -> None:
    for _ in range(2):
        with locked(folder):
            assert folder.is_dir()
    with pytest.raises(KeyError), locked(folder):
        raise KeyError
    with locked(folder):
        pass


def test_a_second_one_is_refused_in_words_and_the_first_keeps_it(folder: Path) -> None:
    with locked(folder):
        for _ in range(2):
            with pytest.raises(RunFolderError, match="another process is training in") as error, locked(folder):
                pytest.fail("two hold the same folder")
            assert "give another output_dir" in error.value.cure
        with locked(folder.with_name("other")):
            pass


def test_an_error_within_is_not_taken_for_a_held_lock(folder: Path) -> None:
    with pytest.raises(OSError, match="disk"), locked(folder):
        raise OSError("disk")


def test_it_is_held_across_processes_and_ends_with_a_killed_one(folder: Path) -> None:
    process = holder(folder)
    try:
        with pytest.raises(RunFolderError, match="another process"), locked(folder):
            pytest.fail("two processes hold the same folder")
    finally:
        process.kill()
        process.communicate()
    with locked(folder):
        pass


def test_a_folder_that_cannot_be_made_is_the_user_s_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"output_dir: .* cannot be written: ") as error, locked(tmp_path / "file"):
        pytest.fail("a file is no folder")
    assert error.value.cure == "give another output_dir"


def test_whether_it_is_held_can_be_asked_without_disturbing_it(folder: Path) -> None:
    assert not held(folder)
    with locked(folder):
        assert held(folder)
    assert not held(folder)
    process = holder(folder)
    try:
        assert held(folder)
    finally:
        process.kill()
        process.communicate()
    assert not held(folder)


def test_one_who_only_looks_is_waited_for(folder: Path) -> None:
    looking = threading.Event()

    def look() -> None:
        with locked(folder):
            looking.set()
            time.sleep(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    assert looking.wait(5)
    with locked(folder):
        pass
    thread.join()
