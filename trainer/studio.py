"""What happens between two steps: validation, samples, checkpoints, pauses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from . import checkpoint, export, metadata, optim, validation
from .checkpoint import Position, State
from .control import Requests
from .events import DRIFT, Checkpoint, Event, Phase, Sample, Validation, Warned
from .files import write_tensors
from .job import Job
from .runfolder import save_steps
from .sheet import to_image
from .trained import Trained
from .training import Training

MOST = 700.0  # a loss of which the exponential is still a number
FLAT = 1e-4  # standard deviation below which a picture in 0..1 shows nothing


class Studio:
    """What happens between two steps: validation, samples, checkpoints, pauses."""

    def __init__(
        self,
        job: Job,
        folder: Path,
        run: Training,
        trained: Trained,
        emit: Callable[[Event], None],
        requests: Callable[[], Requests],
        decode: Callable[[torch.Tensor], torch.Tensor] | None,
    ) -> None:
        self._job, self._folder, self._run, self._trained = job, folder, run, trained
        self._emit, self._requests, self._decode = emit, requests, decode
        self.stopped = ""
        """Why it is of no use to train on; empty while it is."""
        known = validation.read(folder)
        self._validations = known.until(run.position.step)
        if known != self._validations:  # what was lost with the steps after the last checkpoint
            validation.write(folder, self._validations)

    def lora(self) -> dict[str, torch.Tensor]:
        """The LoRA as it is now."""
        with self._shown():
            return self._trained.exported()

    def validate(self, position: Position) -> bool:
        """Measures the objective on the fixed set, if that is due and not yet done. Returns whether it is of no use to
        train on; ``stopped`` then says why.
        """
        step, config, record = position.step, self._run.config, self._validations
        if step and position.cursor < position.total and not self.validates(step):
            return False
        if step not in record.steps:
            signals, seconds = self._measured()
            if record.cost is None:
                record.cost = seconds / self._run.step_seconds
                self._tell_interval(position.total, save_steps(config, position.total), record.cost)
            record.steps[step] = signals
            validation.write(self._folder, record)
            for signal, values in signals.items():
                mean = fmean(values.values())
                perplexity = math.exp(min(mean, MOST)) if config.text and signal != DRIFT else 0.0
                self._emit(Validation(step, signal, mean, self._by_band(values), perplexity))
        self.stopped = validation.exhausted(record.steps, config.early_stopping_patience, position.extended_at)
        return bool(self.stopped)

    def validates(self, step: int) -> bool:
        """Whether a validation is due at a step between the first and the last."""
        config, total = self._run.config, self._run.position.total
        saving = save_steps(config, total)
        return validation.due(step, validation.interval(config, total, saving, self._validations.cost or 0.0), saving)

    def _measured(self) -> tuple[dict[str, dict[str, float]], float]:
        """The signals, and the seconds that they take once everything is warm and known."""
        signals, began, each = {}, time.perf_counter(), math.inf
        with self._shown(), self._run.accelerator.autocast():
            for signal, values in self._run.task.validate(self._trained.model):
                signals[signal] = values
                ended = time.perf_counter()
                each, began = min(each, (ended - began) / len(values)), ended
        return signals, each * sum(map(len, signals.values()))

    def _by_band(self, values: dict[str, float]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for pair, value in values.items():
            found.setdefault(self._run.task.band(pair), []).append(value)
        return {band: fmean(found[band]) for band in sorted(found, key=lambda band: (len(band), band)) if band}

    def _tell_interval(self, total: int, saving: int, cost: float) -> None:
        config = self._run.config
        every = validation.interval(config, total, saving, cost)
        if every > max(saving, config.validation_steps):
            when = f"every {every} steps" if every < total else "before the first step and after the last"
            self._emit(
                Warned(
                    f"validation_steps: {config.validation_steps}, but a validation takes as long as {cost:.1f} steps; "
                    f"there is one {when}, so that they take {validation.SHARE:.0%} of the time"
                )
            )

    def sample(self, position: Position) -> None:
        """Draws the samples, or has the prompts answered. One that is no picture is said; the run goes on."""
        config = self._job.config
        for index, prompt in enumerate(self._job.prompts):
            self._emit(Phase("drawing samples", index, len(self._job.prompts)))
            strength = config.sample_strength if prompt.strength is None else prompt.strength
            with self._shown(), self._trained.strength(strength), self._run.accelerator.autocast():
                drawn = self._run.task.sample(self._trained.model, index)
            if isinstance(drawn, str):
                self._emit(Sample(position.step, index, prompt.text, answer=drawn))
                continue
            latents = drawn.float().cpu()
            if not torch.isfinite(latents).all():
                self._doubt(position, "is not finite", prompt.text)
                latents = torch.nan_to_num(latents, 0.0, 0.0, 0.0)
            stem = f"samples/step-{position.step:06d}-{index}"
            write_tensors(self._folder / f"{stem}.safetensors", {"latents": latents})
            image = ""
            if self._decode is not None:
                with self._run.gauge.apart():
                    pixels = self._decode(latents)
                if pixels.std() < FLAT:
                    self._doubt(position, "is of one colour", prompt.text)
                image = f"{stem}.png"
                to_image(pixels[0]).save(self._folder / image)
            self._emit(Sample(position.step, index, prompt.text, f"{stem}.safetensors", image))

    def save(self, position: Position) -> None:
        """Writes a checkpoint of a model that still denoises; before the first step there is nothing to save.

        Raises:
            RunError: the model predicts nothing usable any more.
            CheckpointError: the checkpoint cannot be written.
        """
        if position.step == 0:
            return
        with self._shown():
            with self._run.accelerator.autocast():
                self._run.task.check(self._trained.model)
            lora = self._trained.exported()  # in fp32 to the last digit
        header = metadata.header(self._job, position.step, lora)
        path = checkpoint.save(self._folder, self.state(position), lora, header)
        relative = path.relative_to(self._folder).as_posix()
        self._emit(Checkpoint(position.step, relative, export.change_norm(lora)))

    def outcome(self, position: Position) -> dict[str, Any]:
        """What ``result.json`` says at the end of the checkpoint to keep, and of a stop before the time."""
        told: dict[str, Any] = {}
        if self.stopped:
            told["stopped"] = {"reason": self.stopped, "patience": self._run.config.early_stopping_patience}
        found = validation.best(self._validations.steps, checkpoint.complete(self._folder))
        if found is not None and self._validations.steps:
            path = checkpoint.lora(self._folder, found.step).relative_to(self._folder).as_posix()
            told["best"] = {
                **asdict(found),
                "path": f"{self._job.name}.safetensors" if found.step == position.step else path,
            }
        return told

    def pause(self) -> None:
        """Gives the device back until it is asked to go on, or to stop."""
        device = self._run.accelerator.device
        move(self._run, self._trained, "cpu")
        self._emit(Phase("paused"))  # now: whoever waits for the device goes by this
        while self._requests().rests:
            self._run.ranks.tell("pause")  # again and again: the others know by it that this process lives
            time.sleep(0.2)
        move(self._run, self._trained, device)
        self._emit(Phase("training"))

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Within it the model is the one that is shown and saved: averaged where that is wished, without dropout."""
        with self._run.averages.shown(), self._trained.evaluated():
            yield

    def state(self, position: Position) -> State:
        """All that the run goes on from, on the CPU."""
        run, names = self._run, list(self._trained.parameters())
        tensors, numbers = optim.state(run.optimizer, names)
        average, averaged = run.averages.state()
        return State(
            position,
            {name: parameter.detach().cpu() for name, parameter in zip(names, run.parameters, strict=True)},
            {name: tensor.cpu() for name, tensor in tensors.items()},
            numbers,
            dict(zip(names, average, strict=False)),
            averaged,
            run.accelerator.scaler.state_dict() if run.accelerator.scaler is not None else {},
            run.accelerator.mixed_precision,
        )

    def _doubt(self, position: Position, what: str, prompt: str) -> None:
        cure = "if that stays so, lower learning_rate, or train with mixed_precision: bf16 or no"
        self._emit(Warned(f"the sample at step {position.step} {what} ({prompt!r}); {cure}"))


def move(run: Training, trained: Trained, device: torch.device | str) -> None:
    """Moves all that a run holds, to give a device back for a while."""
    if run.recorder is not None:
        run.recorder.forget()
    trained.to(device)
    run.averages.to(device)
    for entries in run.optimizer.state.values():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor) and key != "step":
                entries[key] = value.to(device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
