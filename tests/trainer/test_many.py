"""Several processes that train one run, on this machine's CPU by gloo: what they come to is what one process comes to.

Each of the two has a folder and a cache of its own, as on two machines. They are started once for all tests.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainer import checkpoint, device, events, families, launch, planning, ranks, run
from trainer import config as configs
from trainer.__main__ import FAILED, MISTAKE, STOPPED, main
from trainer.config import TrainConfig
from trainer.errors import ConfigError, UserError
from trainer.events import Checkpoint, RunFailed, RunFinished, RunStarted, RunStopped, Step, Warned
from trainer.languages import toys

REPO = Path(__file__).parents[2]
SIZES = [(128, 128)] * 5 + [(256, 64)] * 3  # with batches of 4: a window of one sample, and one of three
WITHIN = 30  # seconds: until all know that one has gone


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(rank: int, what: list[str], port: int = 0) -> subprocess.Popen[str]:
    """A process of two. Both believe to be alone on their machine."""
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
    env = {**os.environ, **{name: str(value) for name, value in place.items()}}
    env |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-m", *what],
        cwd=REPO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@dataclass
class Pair:
    """Commands that two processes do one after the other."""

    folder: Path
    commands: tuple[list[dict[str, Any]], list[dict[str, Any]]] = field(default_factory=lambda: ([], []))

    def config(self, name: str, rank: int, settings: dict[str, Any]) -> TrainConfig:
        return configs.parse(
            {
                **settings,
                "output_dir": (self.folder / f"machine {rank}" / name).as_posix(),
                "cache_dir": (self.folder / f"c\u00e4che {rank}").as_posix(),
            }
        )

    def add(
        self, name: str, settings: dict[str, Any], second: dict[str, Any] | None = None, **fault: Any
    ) -> TrainConfig:
        """Has the two train that; returns the first one's config. ``second`` is what the other's has in its place."""
        port = free_port()
        made = [self.config(name, rank, settings) for rank in range(2)]
        made[1] = made[1].but(**(second or {}))
        for rank, own in enumerate(made):
            path = self.folder / f"{name} {rank}.yaml"
            path.write_text(own.to_yaml(), encoding="utf-8")
            self.commands[rank].append({"port": port, "train": ["--config", str(path)], **fault})
        return made[0]

    def resume(self, config: TrainConfig) -> None:
        """Has the two go on with a run that the first one has."""
        port = free_port()
        for rank in range(2):
            folder = str(config.output_dir).replace("machine 0", f"machine {rank}")
            cache = (self.folder / f"c\u00e4che {rank}").as_posix()
            command = ["--resume", folder, "--set", f"cache_dir={cache}"]
            self.commands[rank].append({"port": port, "train": command})

    def begin(self) -> list[subprocess.Popen[str]]:
        return [start(rank, ["tests.trainer.together", json.dumps(self.commands[rank])]) for rank in range(2)]


def images(folder: Path, picture_folder: Callable[..., Path]) -> dict[str, Any]:
    """Two buckets with a rest each, accumulation, draws of captions, a prior."""
    return {
        "base_model": families.get("sd15").tiny(folder / "tiny.safetensors", 0).as_posix(),
        "train_data_dir": picture_folder(folder / "d\u00e4ta", sizes=SIZES).as_posix(),
        "resolution": 128, "batch_size": 1, "gradient_accumulation_steps": 2, "epochs": 3, "learning_rate": 1e-3,
        "lr_scheduler": "cosine", "warmup_steps": 2, "mixed_precision": "no", "validation_steps": 0,
        "sample_every": 0, "log_interval": 1, "caption_dropout": 0.3, "class_prompt": "a thing",
        "prior_preservation": 0.5, "device": "cpu",
    }  # fmt: skip


def texts(folder: Path) -> dict[str, Any]:
    """Answers of several lengths, of which the two have unequal shares."""
    data = folder / "texts"
    data.mkdir()
    lines = [
        {"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}" + ", my captain" * (n % 3) + "."}
        for n in range(7)
    ]
    (data / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return {
        "task_type": "text-generation", "base_model": toys.write_tiny(folder / "llama", "llama").as_posix(),
        "train_data_dir": data.as_posix(), "batch_size": 2, "epochs": 4, "learning_rate": 1e-2,
        "mixed_precision": "no", "gradient_checkpointing": False, "validation_steps": 2,
        "validation_images": 1, "early_stopping_patience": 50, "sample_every": 0, "log_interval": 1, "device": "cpu",
    }  # fmt: skip


@dataclass
class Story:
    """What two processes have done."""

    pair: Pair
    configs: dict[str, TrainConfig]
    codes: list[list[int]]
    said: list[str]

    def events(self, name: str) -> list[events.Event]:
        return events.read(self.configs[name].output_dir / "events.jsonl")[0]

    def losses(self, name: str) -> list[float]:
        return [event.loss for event in self.events(name) if isinstance(event, Step)]

    def lora(self, name: str) -> dict[str, torch.Tensor]:
        config = self.configs[name]
        return load_file(config.output_dir / f"{config.name}.safetensors")

    def code(self, name: str) -> list[int]:
        """The exit codes of the two."""
        return [codes[list(self.configs).index(name)] for codes in self.codes]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    from .conftest import picture_folder as make

    folder = tmp_path_factory.mktemp("d\u00e4ta")
    found = images(folder, make.__wrapped__())  # type: ignore[attr-defined]
    return {"images": found, "texts": texts(folder)}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, dict[str, Any]]) -> Story:
    """All that two processes do in one go."""
    pair, found = Pair(tmp_path_factory.mktemp("p\u00e4ir")), {}
    pictures, words = settings["images"], settings["texts"]
    found["images"] = pair.add("images", pictures)
    found["texts"] = pair.add("texts", words)
    found["memory"] = pair.add("memory", {**words, "epochs": 2}, fault="memory", at=3)
    found["nan"] = pair.add("nan", {**words, "epochs": 2}, fault="nan", at=3)
    found["error"] = pair.add("error", {**words, "epochs": 2}, fault="error", at=3)
    other = Path(words["train_data_dir"]).with_name("other texts")
    other.mkdir()
    (other / "lines.txt").write_text("".join(f"Fair winds {n}.\n" for n in range(9)), encoding="utf-8")
    found["other"] = pair.add("other", words, second={"train_data_dir": other.as_posix()})
    found["stopped"] = pair.add("stopped", pictures, fault="stop", at=4)
    found["resumed"] = pair.config("resumed", 0, {**pictures, "batch_size": 4, "gradient_accumulation_steps": 1})
    first: list[Any] = []
    stop = lambda: sum(isinstance(event, Step) for event in first) >= 4  # noqa: E731
    assert isinstance(run.start(found["resumed"], [first.append], stop), RunStopped)
    pair.resume(found["resumed"])
    processes = pair.begin()
    told = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    codes = [json.loads(out.splitlines()[-1]) for out, _ in told]
    return Story(pair, found, codes, [f"{out}\n{err}" for out, err in told])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, dict[str, Any]]) -> Any:
    """The same runs in one process, with the batch of both."""
    folder = tmp_path_factory.mktemp("alone")
    done: dict[str, tuple[list[float], dict[str, torch.Tensor]]] = {}

    def train(name: str, **changes: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
        key = f"{name} {changes}"
        if key not in done:
            here = {"output_dir": (folder / str(len(done)) / name).as_posix(), "cache_dir": (folder / "c").as_posix()}
            config = configs.parse({**settings[name], **here, **changes})
            config = config.but(batch_size=2 * config.window, gradient_accumulation_steps=1)
            seen: list[Any] = []
            assert isinstance(run.start(config, [seen.append]), RunFinished)
            lora = load_file(config.output_dir / f"{config.name}.safetensors")
            done[key] = [event.loss for event in seen if isinstance(event, Step)], lora
        return done[key]

    return train


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["images", "texts"])
def test_two_processes_come_to_what_one_does_with_both_batches(story: Story, alone: Any, name: str) -> None:
    losses, lora = alone(name)
    assert story.code(name) == [0, 0]
    assert story.losses(name) == pytest.approx(losses, rel=1e-5)
    assert_near(story.lora(name), lora)
    started = next(event for event in story.events(name) if isinstance(event, RunStarted))
    assert (started.processes, started.effective_batch) == (2, 4)


def test_only_the_first_process_writes_and_speaks(story: Story) -> None:
    for name, config in story.configs.items():
        assert sum(event.terminal for event in story.events(name)) == (2 if name == "resumed" else 1)
        assert not Path(str(config.output_dir).replace("machine 0", "machine 1")).exists()
    assert "step 1/" in story.said[0]
    assert "step " not in story.said[1].replace("training step", "")


def test_each_machine_fills_its_own_cache(story: Story) -> None:
    entries = [
        {path.relative_to(cache).as_posix() for path in cache.glob("*/??/*.safetensors")}
        for cache in (story.pair.folder / f"c\u00e4che {rank}" for rank in range(2))
    ]
    assert entries[0] == entries[1] != set()


def test_a_stop_that_another_process_hears_ends_all_and_saves_once(story: Story) -> None:
    seen = story.events("stopped")
    assert story.code("stopped") == [STOPPED, 0]
    end = seen[-1]
    assert isinstance(end, RunStopped)
    assert [event.step for event in seen if isinstance(event, Checkpoint)] == [1, 2, 3, 4]
    assert end.step == 4


def test_what_two_began_one_goes_on_with(story: Story, alone: Any) -> None:
    config = story.configs["stopped"]
    assert main(["train", "--resume", str(config.output_dir)]) == 0
    losses, lora = alone("images")
    assert story.losses("stopped") == pytest.approx(losses, rel=1e-5)
    assert_near(story.lora("stopped"), lora)


def test_what_one_began_two_go_on_with(story: Story, alone: Any) -> None:
    assert story.code("resumed") == [0, 0]
    losses, lora = alone("images")
    assert story.losses("resumed") == pytest.approx(losses, rel=1e-5)
    assert_near(story.lora("resumed"), lora)


def test_where_memory_is_out_in_one_process_both_give_up_the_same(story: Story, alone: Any) -> None:
    losses, lora = alone("texts", epochs=2)
    warned = [event.message for event in story.events("memory") if isinstance(event, Warned)]
    assert any("out of memory while training step 3: going on with 1 at a time" in message for message in warned)
    assert story.losses("memory") == pytest.approx(losses, rel=1e-5)
    assert_near(story.lora("memory"), lora)


def test_a_loss_that_is_not_finite_in_one_process_is_passed_over_by_both(story: Story) -> None:
    seen = story.events("nan")
    assert [e.message for e in seen if isinstance(e, Warned) and "not finite" in e.message] == [
        "step 3 was not finite (loss nan) and is skipped"
    ]
    end = seen[-1]
    assert isinstance(end, RunFinished)
    assert end.step == 3  # of four windows


def test_an_error_in_one_process_ends_the_run_and_names_it(story: Story) -> None:
    end = story.events("error")[-1]
    assert isinstance(end, RunFailed)
    assert end.message.startswith("rank 1 (process ")
    assert end.message.endswith("KeyError: 'no such thing'")
    assert story.code("error") == [FAILED, 0]
    assert "Traceback" in story.said[1]


def test_a_machine_with_another_data_set_is_refused_in_words(story: Story) -> None:
    end = story.events("other")[-1]
    assert isinstance(end, RunFailed)
    assert "rank 1 (process " in end.message
    assert "would train another run than rank 0: train_data_dir: other texts" in end.message
    assert story.code("other") == [MISTAKE, 0]


@pytest.mark.parametrize("dies", [1, pytest.param(0, marks=pytest.mark.long)])
def test_where_one_process_is_killed_the_other_ends_and_the_run_goes_on(
    dies: int, tmp_path: Path, settings: dict[str, dict[str, Any]], alone: Any
) -> None:
    pair = Pair(tmp_path)
    config = pair.add("run", settings["texts"], fault="kill", at=5, rank=dies)
    processes = pair.begin()
    processes[dies].communicate(timeout=240)
    since = time.monotonic()
    out, err = processes[1 - dies].communicate(timeout=240)
    assert time.monotonic() - since < WITHIN
    assert json.loads(out.splitlines()[-1]) == [FAILED]
    assert f"rank {dies}" in err
    seen = events.read(config.output_dir / "events.jsonl")[0]
    if dies == 1:
        end = seen[-1]
        assert isinstance(end, RunFailed)
        assert "rank 1" in end.message
    assert checkpoint.latest(config.output_dir) == 4
    assert main(["train", "--resume", str(config.output_dir)]) == 0
    losses, lora = alone("texts")
    again = [event for event in events.read(config.output_dir / "events.jsonl")[0] if isinstance(event, Step)]
    assert {event.step: event.loss for event in again} == pytest.approx(dict(enumerate(losses, 1)), rel=1e-5)
    assert_near(load_file(config.output_dir / "run.safetensors"), lora)


@pytest.mark.parametrize("launcher", ["own", pytest.param("torchrun", marks=pytest.mark.long)])
def test_a_command_starts_them(launcher: str, tmp_path: Path, settings: dict[str, dict[str, Any]], alone: Any) -> None:
    config = Pair(tmp_path).config("run", 0, {**settings["texts"], "epochs": 2})
    path = tmp_path / "run.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    command = ["-m", "trainer", "train", "--config", str(path)]
    if launcher == "own":
        command += ["--devices", "2"]
    else:
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=REPO, env=env, text=True, capture_output=True, timeout=240,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    started = next(e for e in events.read(config.output_dir / "events.jsonl")[0] if isinstance(e, RunStarted))
    assert started.processes == 2
    assert_near(load_file(config.output_dir / "run.safetensors"), alone("texts", epochs=2)[1])


# --- without other processes


def test_what_one_has_broken_off_the_others_see(tmp_path: Path) -> None:
    one, other = (ranks.Ranks(board=torch.distributed.FileStore(str(tmp_path / "board"), 2)) for _ in range(2))
    assert not one.over
    assert not other.over
    other.break_off()
    assert one.over


def test_a_loss_keeps_no_gradients_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept until it is logged, perhaps for a hundred steps."""
    several, weight = ranks.Ranks(), torch.nn.Parameter(torch.ones(1000))
    several.world = 2
    monkeypatch.setattr(several, "_summing", nullcontext)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda own, group: own.mul_(2))
    (weight.sum() * 3).backward()
    loss = several.add_up([weight], several.own([weight], torch.tensor(0.5)))
    assert loss == 1
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.full((1000,), 6.0))
    assert loss.untyped_storage().nbytes() == 4


def test_of_several_processes_on_a_machine_each_has_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.named("auto") == device.named("cuda") == torch.device("cuda", 1)
    assert device.named("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="cuda:0 is one card, and there are 2 processes"):
        device.named("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="cuda:1 is not there"):
        device.named("auto")


def test_more_devices_than_a_machine_has_are_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    device.check_several("cpu", 2)
    with pytest.raises(UserError, match="3 were asked for, and this machine has 2 CPU cores") as told:
        device.check_several("cpu", 3)
    assert told.value.cure == "set devices to at most 2"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="4 were asked for, and this machine has 1 NVIDIA card ") as told:
        device.check_several("cuda:0", 4)
    assert told.value.cure == "set devices to 1"
    device.check_several("mps", 1)  # asks nothing
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="not possible on Windows"):
        device.check_several("cuda", 2)


@pytest.mark.parametrize(
    "place", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "0", "WORLD_SIZE": "0"}]
)
def test_an_environment_that_makes_no_sense_is_told(place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RANK="):
        launch.launched()


def test_several_processes_are_refused_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="not possible on Windows"), ranks.joined("cpu"):
        pass


@pytest.mark.parametrize("command", [["sweep", "--config", "x.yaml", "--vary", "lora_rank=1,2"], ["demo"]])
def test_other_commands_refuse_several_processes(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(command) == MISTAKE
    assert "several processes only train" in capsys.readouterr().err


def test_the_processes_of_a_machine_share_out_what_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert planning.launched().share == slice(0, None, 1)
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "3")
        shares.append(list(range(7))[launch.launched().share])
    assert sorted(chain(*shares)) == list(range(7))
