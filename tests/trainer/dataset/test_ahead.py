"""Work beside the work: its order, its bound, its errors, its end."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from trainer.dataset import ahead as module
from trainer.dataset.ahead import Behind, ahead, threads


@pytest.fixture(params=[1, 2, 4])
def cores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "threads", lambda: request.param)
    return request.param


def test_the_order_is_kept_whatever_is_done_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "threads", lambda: 2)
    second = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second.wait(60), "the second one is not begun before the first one is done"
        if number == 1:
            second.set()
        return number * number

    assert list(ahead(work, range(5), 2)) == [(n, n * n) for n in range(5)]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_no_more_is_done_ahead_than_was_allowed(cores: int, most: int) -> None:
    begun: list[int] = []
    asked: list[int] = []

    def things():
        for number in range(40):
            asked.append(number)
            yield number

    def work(number: int) -> int:
        begun.append(number)
        return number

    for taken, _ in ahead(work, things(), most):
        assert len(asked) - 1 - taken <= most
        assert max(begun) - taken <= most
    assert sorted(begun) == list(range(40))  # each once


def test_what_fails_fails_at_its_turn_and_what_came_before_is_there(cores: int) -> None:
    def work(number: int) -> int:
        if number == 3:
            raise ValueError("the third")
        return number

    taken: list[int] = []
    with pytest.raises(ValueError, match="the third"):  # noqa: PT012
        for _, result in ahead(work, range(100), 4):
            taken.append(result)
    assert taken == [0, 1, 2]


def test_closed_it_begins_nothing_more_and_leaves_no_thread(cores: int) -> None:
    begun: list[int] = []
    with closing(ahead(begun.append, range(1000), 4)) as each:
        next(each)
    count = len(begun)
    assert count <= 1 + 4
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("darkroom-ahead")]
    assert len(begun) == count


def test_with_one_core_there_is_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "threads", lambda: 1)
    where = {done for _, done in ahead(lambda _: threading.current_thread(), range(5), 4)}
    assert where == {threading.current_thread()}


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads() == 4
    for name, value in {"WORLD_SIZE": "3", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert threads() == 2


def test_what_is_written_behind_is_written_in_order_and_wholly_at_the_end() -> None:
    done: list[tuple[int, threading.Thread]] = []
    with Behind(lambda number: done.append((number, threading.current_thread()))) as write:
        for number in range(20):
            write(number)
            assert len(done) >= number  # at most one waits
    assert [number for number, _ in done] == list(range(20))
    assert threading.current_thread() not in {thread for _, thread in done}


def test_what_writing_raises_comes_out_at_the_latest_at_the_end() -> None:
    def full(number: int) -> None:
        if number == 2:
            raise OSError("no space")

    for count, goes_on in ((3, False), (10, True)):
        written: list[int] = []
        with pytest.raises(OSError, match="no space"), Behind(full) as write:  # noqa: PT012
            for number in range(count):
                write(number)
                written.append(number)
        assert written == [0, 1, 2], goes_on


def test_an_error_of_the_caller_is_not_hidden_and_what_was_given_is_written() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), Behind(done.append) as write:  # noqa: PT012
        write(1)
        raise KeyboardInterrupt
    assert done == [1]
