"""The composition root: a config or a job becomes a run, told in events, ending in exactly one terminal event.

``start`` is the command line's way (dataset and encoders are the trainer's own), ``work`` the worker's (the host has
planned the job and filled the cache). Both end in ``_execute``.
"""

from __future__ import annotations

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import torch

from . import checkpoint, control, export, families, metadata, optim, own
from . import job as jobs
from .averages import Averages
from .cache import Cache, default_folder
from .checkpoint import Position, State
from .config import TrainConfig
from .control import Requests
from .dataset import scan
from .dataset.sampler import windows_per_epoch
from .device import DTYPES, accelerate, precision, resolve
from .errors import CacheError, ConfigError, DarkroomError, RunFolderError, UserError
from .events import (
    Event,
    Journal,
    Phase,
    RunFailed,
    RunFinished,
    RunStarted,
    RunStopped,
    Sink,
    Warned,
)
from .files import ContentHashes, write_json
from .job import Job
from .lock import locked
from .loop import Training, rehearse, train
from .prepare import StoppedWhilePreparing, fill, plan
from .runfolder import check_changes, check_folder, finished, read_result, total_steps
from .sinks import Log, TensorBoard
from .studio import Studio
from .tasks.diffusion import Diffusion
from .trained import Trained, build

BYTES_EACH = 4  # a LoRA file's numbers are fp32
MEMORY_CURE = (
    "set batch_size: 2 (or 1) with gradient_accumulation_steps: 2, mixed_precision: fp16 and "
    "gradient_checkpointing: true; a lower resolution helps too"
)


def start(config: TrainConfig, sinks: Sequence[Sink], stop: Callable[[], bool] = lambda: False) -> Event:
    """Trains as a config says, or goes on with, extends or returns the same run in its ``output_dir``.

    Args:
        config: the settings.
        sinks: told every event, beside the run folder's own journal, log and TensorBoard.
        stop: polled between steps and encodings.

    Returns:
        The terminal event.

    Raises:
        UserError: config, dataset, base model or run folder cannot be used; nothing was written.
    """
    _one_process()
    config = config.resolved()
    emit = _Fan(sinks)
    cache = Cache(config.cache_dir or default_folder())
    noted: list[Event] = []
    emit(Phase("reading the data set"))
    dataset = scan(
        config.train_data_dir,
        metadata_path=config.metadata_path,
        resolution=config.resolution,
        trigger_word=config.trigger_word,
        repeats=config.repeats,
        captions=config.caption_source,
        mask=config.mask,
    )
    noted += [Warned(f"{problem.path}: {problem.message}") for problem in dataset.problems]
    regularisation = None
    if config.reg_data_dir is not None:
        regularisation = scan(config.reg_data_dir, resolution=config.resolution, fallback=config.class_prompt)
        noted += [Warned(f"{problem.path}: {problem.message}") for problem in regularisation.problems]
    for event in noted:
        emit(event)
    device = resolve(config)
    hashes = ContentHashes(cache.folder / "hashes.json")
    base = own.base(config, hashes)
    encoder = own.OwnEncoder(
        families.get(base.family), base, config.clip_skip, device, lambda message: emit(Warned(message))
    )
    optim.check(config)
    folder = config.output_dir
    init = _init(config, folder, hashes)
    job = plan(config, dataset, base, encoder, cache.folder, regularisation=regularisation, init=init)
    check_folder(folder, job)
    _check_length(folder, checkpoint.latest(folder) or 0, total_steps(job))
    with locked(folder):
        check_folder(folder, job)  # again: another process may have had it until now

        def encode(emit: Callable[[Event], None]) -> None:
            job.save(folder)
            fill(job, dataset, encoder, cache, regularisation=regularisation, emit=emit, stop=stop)
            encoder.encoded()

        return _execute(job, folder, sinks, stop, encoder.decode, noted, encode)


def work(
    folder: Path,
    sinks: Sequence[Sink],
    stop: Callable[[], bool] = lambda: False,
    config: TrainConfig | None = None,
) -> Event:
    """Trains the job in a run folder, whose cache the host has filled. Returns the terminal event.

    Args:
        folder: the run folder.
        sinks: told every event, beside the run folder's own.
        stop: polled between steps.
        config: takes the place of the job's own; of the same identity, but longer, for instance.

    Raises:
        RunFolderError: the folder holds no job, another process works on it, or the config is of another run.
    """
    _one_process()
    job = jobs.load(folder)
    if config is not None:
        old, job = job.config, replace(job, config=config)
        check_folder(folder, job)
        check_changes(folder, old, config)
        _check_length(folder, checkpoint.latest(folder) or 0, total_steps(job))
    with locked(folder):
        if config is not None:
            job.save(folder)
        return _execute(job, folder, sinks, stop, None)


def _one_process() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(["several processes are not in this version: start it as one, without accelerate launch"])


def _init(config: TrainConfig, folder: Path, hashes: ContentHashes) -> str:
    """The hash of ``init_lora``, which is read once to see that it can be; a run that has begun needs it no more."""
    if config.init_lora is None:
        return ""
    if not config.init_lora.is_file() and checkpoint.latest(folder) and jobs.exists(folder):
        return jobs.load(folder).init
    export.beginning(config.init_lora, text=config.train_text_encoder)
    return hashes(config.init_lora)


def _execute(
    job: Job,
    folder: Path,
    sinks: Sequence[Sink],
    stop: Callable[[], bool],
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    noted: Sequence[Event] = (),
    encode: Callable[[Callable[[Event], None]], None] = lambda emit: None,
) -> Event:
    """Trains a job; whatever happens ends in one terminal event.

    ``noted`` are events that the sinks know already, but the run folder does not; ``encode`` fills the cache.
    """
    total = total_steps(job)
    with ExitStack() as stack:
        journal, log = Journal(folder / "events.jsonl", job.run_id), Log(folder / "log.txt")
        for file in (journal, log):
            stack.callback(_close, file)
        emit = _Fan([journal, log])
        for event in noted:
            emit(event)
        for sink in sinks:
            emit.add(sink)
        if path := finished(folder, total):
            return emit.last(RunFinished(read_result(folder)["step"], path.name))
        (folder / "control.json").unlink(missing_ok=True)  # requests to a former process
        try:
            board = TensorBoard(folder)
            stack.callback(_close, board)
            emit.add(board)
        except ImportError:
            if job.origin == "command line":  # in ComfyUI it is not expected, and its node would say so at every run
                emit(Warned("tensorboard is not installed: no logs for it are written (pip install tensorboard)"))
        try:
            encode(emit)
            return emit.last(_train(job, folder, total, emit, stop, decode))
        except StoppedWhilePreparing:
            return emit.last(RunStopped(0, "before the first step"))
        except BaseException as error:
            return emit.last(_failure(error, folder, job))


def _train(
    job: Job,
    folder: Path,
    total: int,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
) -> Event:
    config = job.config
    state = checkpoint.retry_older(
        folder, lambda step: checkpoint.load(folder, step), lambda message: emit(Warned(message))
    )
    position = _position(state, total, folder, emit)
    device = resolve(config)
    mixed, why = precision(config, device, state.precision if state is not None else "")
    for line in (why, *_remarks(job, total)):
        if line:
            emit(Warned(line))
    cache = Cache(job.cache_dir)
    missing = [key for kind, key in job.cache_entries() if not cache.has(kind, key)]
    if missing:
        raise CacheError(f"{len(missing)} entries of the cache in {cache.folder} are gone", "start the run again")

    emit(Phase("loading the base model"))
    family = families.get(job.base.family)
    trained = build(family, job.base, config, DTYPES[mixed], begun=state is not None)
    if config.gradient_checkpointing:  # of the denoiser: a text encoder's activations are small beside it
        trained.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
    for model in trained.parts.values():
        model.train()
    accelerator = accelerate(device, mixed)
    trained.to(accelerator.device)
    named = trained.parameters()
    optimizer = optim.make(config, *trained.groups())
    if state is not None:
        trained.load(state.adapter)
    averages = Averages(list(named.values()), optimizer, config.ema_decay)
    if state is not None:
        optim.load_state(optimizer, list(named), state.optimizer, state.numbers)
        averages.load([state.average[name] for name in named if name in state.average], state.averaged)
    optim.start(optimizer)
    prepared, optimizer = accelerator.prepare(trained.denoiser, optimizer)
    if state is not None and accelerator.scaler is not None and state.scaler:
        accelerator.scaler.load_state_dict(state.scaler)

    run = Training(
        config,
        job.train_items,
        Diffusion(job, family, cache, accelerator.device, trained.encoders),
        prepared,
        optimizer,
        list(named.values()),
        accelerator,
        position,
        windows_per_epoch(job.train_items, config.window),
        averages,
    )
    poll = control.Poll(folder / "control.json")

    def requests() -> Requests:
        asked = poll()
        return Requests(asked.stop or stop(), asked.pause, asked.save, asked.sample)

    studio = Studio(job, folder, run, trained, emit, requests, decode)
    with ExitStack() as stack:
        if mixed != "no":
            # fp32 adapters under autocast: PEFT's own casts would keep a second copy of every input.
            from peft.helpers import disable_input_dtype_casting

            for model in trained.parts.values():
                stack.enter_context(disable_input_dtype_casting(model))
        emit(Phase("trying a step"))
        emit(_started(job, run, trained, mixed))
        if not train(run, studio, requests, emit):
            return RunStopped(position.step, "as asked")
    path = folder / f"{job.name}.safetensors"
    lora = studio.lora()
    export.write(path, lora, metadata.header(job, position.step, lora))
    write_json(folder / "result.json", {"total": total, "step": position.step, "path": path.name, "run": job.run_id})
    return RunFinished(position.step, path.name)


def _remarks(job: Job, total: int) -> Iterator[str]:
    """What will be done otherwise than the config says."""
    config = job.config
    if config.max_steps is not None and total < config.max_steps:
        yield f"max_steps: {config.max_steps} is not reached: {config.epochs} epochs are {total} steps; raise epochs"
    if config.validation_images and not config.validation_steps:
        yield (
            f"validation_images: {config.validation_images} images are held out, but with validation_steps: 0 nothing "
            "is measured on them"
        )
    warm = optim.warmup(config, total)
    if config.warmup_steps != "auto" and warm < config.warmup_steps:
        yield (f"warmup_steps: {config.warmup_steps} is more than a tenth of the {total} steps; warming up over {warm}")
    if config.optimizer == "schedulefree" and config.lr_scheduler not in ("constant", "cosine"):
        yield f"lr_scheduler: schedulefree averages instead; {config.lr_scheduler} has no effect"


def _started(job: Job, run: Training, trained: Trained, mixed: str) -> RunStarted:
    """What is known before the first step. The first step's time is tried, not guessed."""
    left = run.position.total - run.position.cursor
    seconds = rehearse(run) * run.config.gradient_accumulation_steps * left if left else 0.0
    buckets = Counter(f"{item.bucket[0]}x{item.bucket[1]}" for item in job.train_items)
    trainable = sum(p.numel() for p in run.parameters)
    return RunStarted(
        job.name,
        run.position.step,
        run.position.total,
        run.config.epochs,
        len(job.train_items),
        run.config.window,
        trainable,
        trained.frozen(),
        str(run.accelerator.device),
        {"no": "fp32"}.get(mixed, mixed),
        dict(buckets.most_common()),
        trainable * BYTES_EACH,
        seconds,
        len(job.items) - len(job.train_items),
        sum(item.regular for item in job.train_items),
    )


def _position(state: State | None, total: int, folder: Path, emit: Callable[[Event], None]) -> Position:
    """Where to begin; a run that is given another length goes on with a schedule for it."""
    if state is None:
        return Position(total=total)
    position = state.position
    _check_length(folder, position.cursor, total)
    if position.total != total:
        emit(Warned(f"the run's length changes from {position.total} to {total} steps; its schedule is recomputed"))
        position.total, position.extended_at = total, position.step
    return position


def _check_length(folder: Path, done: int, total: int) -> None:
    if done > total:
        raise RunFolderError(
            f"{folder} has been trained for {done} steps; epochs (or max_steps) now ask for only {total}",
            "raise epochs, or give another output_dir; its earlier checkpoints are usable as they are",
        )


class _Fan:
    """One emit for many sinks."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def add(self, sink: Sink) -> None:
        self._sinks.append(sink)

    def __call__(self, event: Event) -> None:
        for sink in self._sinks:
            sink(event)

    def last(self, event: Event) -> Event:
        """Tells how the run ended. A sink that cannot take it (a full disk) does not keep it from the others."""
        for sink in self._sinks:
            with suppress(OSError):
                sink(event)
        return event


def _close(sink: Journal | Log | TensorBoard) -> None:
    with suppress(OSError):  # what could not be written was an error when it was told
        sink.close()


def _failure(error: BaseException, folder: Path, job: Job) -> Event:
    """The terminal event of an exception, with how to go on."""
    step = checkpoint.latest(folder)
    hosted = job.origin == "host"
    again = "queue again" if hosted else f'python -m trainer train --resume "{folder}"'
    resume = f"then go on from step {step}: {again}" if step else ""
    if isinstance(error, KeyboardInterrupt):
        return RunStopped(step or 0, "at once; steps after the last checkpoint are lost")
    if isinstance(error, DarkroomError):
        return RunFailed(error.message, _and(error.cure, resume), isinstance(error, UserError))
    details = "".join(traceback.format_exception(error))
    memory = ("out of memory", "allocate memory")  # the second is what torch says on a CPU
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error).lower() for text in memory):
        # Half the batch, twice as often, is the same run, and so is checkpointing: what is saved goes on.
        less = ("batch_size=1", f"gradient_accumulation_steps={job.config.window}", "gradient_checkpointing=true")
        smaller = (
            f" with {', '.join(less)} in LoRA Train Config" if hosted else "".join(f" --set {one}" for one in less)
        )
        cure = f"go on from step {step} in less memory: {again}{smaller}" if step else MEMORY_CURE
        return RunFailed(f"out of memory: {error}", cure, False, details)
    if isinstance(error, OSError) and error.strerror:
        return RunFailed(
            f"{error.filename or folder}: {error.strerror}", _and("check the disk", resume), False, details
        )
    return RunFailed(f"{type(error).__name__}: {error}", _and("see log.txt", resume), False, details)


def _and(cure: str, resume: str) -> str:
    return "; ".join(filter(None, (cure, resume)))
