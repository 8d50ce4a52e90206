"""What happens between two steps: validation, samples, checkpoints, pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from . import checkpoint, export, metadata, optim
from .checkpoint import Position, State
from .control import Requests
from .events import Checkpoint, Event, Phase, Sample, Validation, Warned
from .files import write_tensors
from .job import Job
from .loop import Training
from .sheet import to_image
from .trained import Trained

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

    def lora(self) -> dict[str, torch.Tensor]:
        """The LoRA as it is now."""
        with self._shown():
            return self._trained.exported()

    def validate(self, position: Position) -> None:
        """Measures the objective on the fixed set."""
        with self._shown(), self._run.accelerator.autocast():
            signal, losses = self._run.task.validate(self._trained.denoiser)
        self._emit(Validation(position.step, signal, sum(losses.values()) / len(losses), losses))

    def sample(self, position: Position) -> None:
        """Draws the samples. One that is no picture is said; it is no reason for the run to fail."""
        config = self._job.config
        for index, prompt in enumerate(self._job.prompts):
            self._emit(Phase("drawing samples", index, len(self._job.prompts)))
            strength = config.sample_strength if prompt.strength is None else prompt.strength
            with self._shown(), self._trained.strength(strength), self._run.accelerator.autocast():
                latents = self._run.task.sample(self._trained.denoiser, index).float().cpu()
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
                self._run.task.check(self._trained.denoiser)
            lora = self._trained.exported()  # in fp32 to the last digit
        header = metadata.header(self._job, position.step, lora)
        path = checkpoint.save(self._folder, self.state(position), lora, header)
        relative = path.relative_to(self._folder).as_posix()
        self._emit(Checkpoint(position.step, relative, export.change_norm(lora)))

    def pause(self) -> None:
        """Gives the device back until it is asked to go on, or to stop."""
        device = self._run.accelerator.device
        self._emit(Phase("paused"))
        self._move("cpu")
        while (asked := self._requests()).pause and not asked.stop:
            time.sleep(0.2)
        self._move(device)
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

    def _move(self, device: torch.device | str) -> None:
        self._trained.to(device)
        self._run.averages.to(device)
        for entries in self._run.optimizer.state.values():
            for key, value in entries.items():
                if isinstance(value, torch.Tensor) and key != "step":
                    entries[key] = value.to(device)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
