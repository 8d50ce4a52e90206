"""The command line as a person uses it: real processes, exit codes, signals, kills."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer import checkpoint, events
from trainer import job as jobs
from trainer.__main__ import main
from trainer.config import AUTO_FIELDS, TrainConfig
from trainer.events import RunFailed, RunFinished, RunStopped, Step

REPO = Path(__file__).resolve().parents[2]
TRAIN = [sys.executable, str(REPO / "train.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"}


def call(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def begin(arguments: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, cwd=folder, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8",
    )  # fmt: skip


@pytest.fixture
def yaml_file(config: TrainConfig, tmp_path: Path) -> Path:
    path = tmp_path / "my c\u00f6nfig \u914d\u7f6e.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    return path


def wait_for_step(config: TrainConfig, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        told, _ = events.read(config.output_dir / "events.jsonl")
        if any(isinstance(e, Step) and e.step >= step for e in told):
            return
        time.sleep(0.05)
    pytest.fail(f"step {step} was never reached; the process says {process.communicate(timeout=10)}")


def final(config: TrainConfig) -> bytes:
    return (config.output_dir / f"{config.name}.safetensors").read_bytes()


def test_the_guide_s_command_trains_with_relative_paths(config: TrainConfig, tmp_path: Path, yaml_file: Path) -> None:
    relative = config.but(output_dir="./output/my_style_lora", train_data_dir=f"./{config.train_data_dir.name}")
    yaml_file.write_text(relative.to_yaml(), encoding="utf-8")
    done = call([*TRAIN, "--config", yaml_file.name, "--set", "lora_rank=4", "--epochs", "1"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "finished after 4 steps: my_style_lora.safetensors" in done.stdout
    assert (tmp_path / "output" / "my_style_lora" / "my_style_lora.safetensors").is_file()

    again = call([sys.executable, "-m", "trainer", "train", "--resume", str(tmp_path / "output/my_style_lora")], REPO)
    assert again.returncode == 0, again.stderr
    assert "step 1/" not in again.stdout
    longer = call([*TRAIN, "--resume", str(tmp_path / "output/my_style_lora"), "--epochs", "2"], REPO)
    assert longer.returncode == 0, longer.stderr
    assert "finished after 8 steps" in longer.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config", "gone.yaml"],
            "gone.yaml has 1 fault:\n  - the file does not exist; copy configs/lora_default.yaml",
        ),
        (["--config", "bad.yaml"], "lora_rnk: unknown field; did you mean lora_rank?"),
        (["--config", "ok.yaml", "--set", "lora_rank"], "--set lora_rank: expected FIELD=VALUE"),
        (["--config", "ok.yaml", "--set", "lora_rank=many"], "lora_rank: expected a whole number, got 'many'"),
        (["--resume", "nowhere"], "nowhere holds no run (there is no job.yaml in it)"),
        (["--config", "ok.yaml", "--set", "device=cuda:9"], "device: cuda:9 is not there"),
        (["--config", "ok.yaml", "--set", "base_model=gone.safetensors"], "gone.safetensors"),
        (["--config", "ok.yaml", "--set", "train_data_dir=gone"], "gone"),
    ],
)
def test_a_mistake_ends_with_2_and_a_message(
    arguments: list[str],
    message: str,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("lora_rnk: 8")
    Path("ok.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert main(["train", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not config.output_dir.exists()


def test_auto_wins_over_the_file_and_set_over_auto_and_a_run_keeps_what_was_chosen(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ok.yaml").write_text(config.but(max_steps=2).to_yaml(), encoding="utf-8")
    assert main(["train", "--config", "ok.yaml", "--auto", "--set", "lora_rank=3"]) == 0
    out = capsys.readouterr().out
    chosen = {line.split()[1] for line in out.splitlines() if line.startswith("auto: ")}
    assert chosen == set(AUTO_FIELDS) - {"lora_rank"}
    assert out.index("auto: learning_rate") < out.index("images      5")  # on the first screen
    kept = jobs.load(config.output_dir)
    assert (kept.config.lora_rank, kept.config.auto, kept.config.warmup_steps) == (3, (), "auto")
    # A run that goes on has chosen already.
    assert main(["train", "--resume", str(config.output_dir), "--set", "max_steps=3"]) == 0
    assert jobs.load(config.output_dir).choices == kept.choices
    for arguments, told in (
        (["--auto"], "--auto: what a run began with stays"),
        (["--set", "lora_rank=auto"], "stays"),
    ):
        assert main(["train", "--resume", str(config.output_dir), *arguments]) == 2
        assert told in capsys.readouterr().err


def test_a_mistake_shows_no_traceback(tmp_path: Path) -> None:
    done = call([*TRAIN, "--config", "gone.yaml"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: gone.yaml has 1 fault:")
    assert "Traceback" not in done.stderr


def test_a_failing_run_ends_with_1_the_reason_and_how_to_resume(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "ok.yaml").write_text(config.to_yaml(), encoding="utf-8")
    done = call([*TRAIN, "--config", "ok.yaml", "--set", "learning_rate=10", "--set", "lora_alpha=4096",
                 "--set", "max_grad_norm=0", "--set", "warmup_steps=0", "--set", "epochs=50"], tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "steps in a row were not finite" in done.stderr
    assert "lower learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    told, _ = events.read(config.output_dir / "events.jsonl")
    assert isinstance(told[-1], RunFailed)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_saves_and_ends_with_130(config: TrainConfig, tmp_path: Path, yaml_file: Path) -> None:
    unbroken = config.but(output_dir=(tmp_path / "unbroken" / config.name).as_posix(), save_steps=1000)
    (tmp_path / "u.yaml").write_text(unbroken.to_yaml(), encoding="utf-8")
    assert call([*TRAIN, "--config", str(tmp_path / "u.yaml")], tmp_path).returncode == 0

    process = begin([*TRAIN, "--config", str(yaml_file), "--set", "save_steps=1000"], tmp_path)
    wait_for_step(config, 3, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step, and saving" in err
    assert "all of them are saved" in out
    told, _ = events.read(config.output_dir / "events.jsonl")
    assert isinstance(told[-1], RunStopped)
    assert checkpoint.latest(config.output_dir) == told[-1].step
    done = call([*TRAIN, "--config", str(yaml_file), "--set", "save_steps=1000"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"going on from step {told[-1].step}" in done.stdout
    assert final(config) == final(unbroken)


def test_the_worker_ends_and_saves_when_its_pipe_ends(config: TrainConfig, tmp_path: Path, yaml_file: Path) -> None:
    done = call([*TRAIN, "--config", str(yaml_file), "--set", "max_steps=1"], tmp_path)
    assert done.returncode == 0, done.stderr
    # The same run as a worker's: its folder holds the job, its cache is full.
    from trainer import job as jobs

    loaded = jobs.load(config.output_dir)
    longer = config.resolved().but(epochs=500)
    jobs.Job(longer, loaded.base, loaded.items, loaded.prompts, loaded.empty, loaded.cache_dir, "host").save(
        config.output_dir
    )
    process = begin([*TRAIN, "--job", str(config.output_dir)], tmp_path)
    assert process.stdin is not None
    wait_for_step(config, 4, process)
    process.stdin.close()
    process.stdin = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    told, _ = events.read(config.output_dir / "events.jsonl")
    assert isinstance(told[-1], RunStopped)
    assert checkpoint.latest(config.output_dir) == told[-1].step


@pytest.mark.long  # of a worker in ComfyUI it is shown in tests/host/test_accidents.py
def test_killed_at_random_the_run_goes_on_and_ends_as_if_unbroken(
    config: TrainConfig, tmp_path: Path, yaml_file: Path
) -> None:
    """DARKROOM_KILLS=30 is the long form."""
    kills = int(os.environ.get("DARKROOM_KILLS", "2"))
    unbroken = config.but(output_dir=(tmp_path / "unbroken" / config.name).as_posix())
    (tmp_path / "u.yaml").write_text(unbroken.to_yaml(), encoding="utf-8")
    assert call([*TRAIN, "--config", str(tmp_path / "u.yaml"), "--epochs", str(5 + kills)], tmp_path).returncode == 0
    rng = random.Random(0)
    command = [*TRAIN, "--config", str(yaml_file), "--epochs", str(5 + kills)]
    for _ in range(kills):
        process = begin(command, tmp_path)
        saved = checkpoint.latest(config.output_dir) or 0
        wait_for_step(config, saved + rng.randint(1, 6), process)
        time.sleep(rng.random() * 0.2)
        process.kill()
        process.communicate(timeout=60)
        assert (checkpoint.latest(config.output_dir) or 0) >= saved
    done = call(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert final(config) == final(unbroken)
    told, _ = events.read(config.output_dir / "events.jsonl")
    assert isinstance(told[-1], RunFinished)


def test_what_cannot_be_set_on_a_resume_is_told_in_words(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer import run

    run.start(config.but(max_steps=1), [])
    resume = ["train", "--resume", str(config.output_dir)]
    for setting, said in (
        (f"output_dir={tmp_path / 'x'}", "output_dir: --resume names it already; leave it out"),
        ("self=1", "self: unknown field"),
    ):
        assert main([*resume, "--set", setting]) == 2
        assert said in capsys.readouterr().err
    assert main([*resume, "--set", "use_fp16=true"]) == 2  # another run, told by its field and not as a contradiction
    assert "mixed_precision: 'no' there, 'fp16' now" in capsys.readouterr().err


def test_epochs_that_max_steps_ends_are_noted(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    from trainer import run

    run.start(config.but(max_steps=1), [])
    assert main(["train", "--resume", str(config.output_dir), "--epochs", "9"]) == 0
    assert "max_steps: 1 may end the run before 9 epochs" in capsys.readouterr().out
