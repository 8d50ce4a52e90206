"""The composition root: a config or a job becomes a run, told in events, ending in exactly one terminal event.

``start`` is the command line's way (dataset and encoders are the trainer's own), ``work`` the worker's (the host has
planned the job and filled the cache). Both end in ``_execute``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from . import advisor, checkpoint, control, export, following, metadata, optim, planning
from . import config as configs
from . import job as jobs
from .attempts import Attempts
from .cache import Cache
from .config import TrainConfig
from .control import Requests
from .errors import CacheError
from .events import Event, Journal, Phase, RunFinished, RunStopped, Sink, Warned
from .failures import failed
from .files import digest, write_json
from .job import Job
from .languages import peft_folder
from .launch import launched
from .lock import locked
from .prepare import StoppedWhilePreparing
from .ranks import Ranks, joined
from .runfolder import check_changes, check_folder, check_length, finished, read_result, total_steps
from .sinks import Log, TensorBoard

OF_THE_MACHINE = (
    "base_model", "tokenizer", "train_data_dir", "metadata_path", "reg_data_dir", "init_lora", "chat_template",
    "output_dir", "cache_dir", "device",
)  # fmt: skip
"""Fields that each machine's own config decides where several train a run; the others are the first process'."""
PEFT = "peft"
"""The folder in a run's with the LoRA of a language model, as PEFT and llama.cpp's converter read it."""


def start(
    config: TrainConfig,
    sinks: Sequence[Sink],
    stop: Callable[[], bool] = lambda: False,
    choices: tuple[tuple[str, str, str], ...] = (),
    place: Callable[[Job], Path] = lambda job: job.config.output_dir,
) -> Event:
    """Trains as a config says, or goes on with, extends or returns the same run in its ``output_dir``.

    Args:
        config: the settings.
        sinks: told every event, beside the run folder's own journal, log and TensorBoard.
        stop: polled between steps and encodings.
        choices: as in a job, of a run that goes on.
        place: the folder of the run, once it is known what run that is.

    Returns:
        The terminal event.

    Raises:
        UserError: config, dataset, base model or run folder cannot be used; nothing was written.
    """
    with joined(config.device) as ranks:
        return _start(config.resolved(), sinks, stop, choices, place, ranks)


def _start(
    config: TrainConfig,
    sinks: Sequence[Sink],
    stop: Callable[[], bool],
    choices: tuple[tuple[str, str, str], ...],
    place: Callable[[Job], Path],
    ranks: Ranks,
) -> Event:
    emit = _Fan(sinks)
    noted: list[Event] = []

    def note(event: Event) -> None:
        noted.append(event)
        emit(event)

    emit(Phase("reading the data set"))
    optim.check(config)
    plan = planning.texts if config.text else planning.images
    planned = plan(config, emit, note, lambda: stop() or ranks.over)
    job = planned.job if planned.job.choices else replace(planned.job, choices=choices)
    folder = place(job)
    check_folder(folder, job)
    check_length(folder, checkpoint.latest(folder) or 0, total_steps(job))
    for event in advisor.before(job):
        note(event)
    with locked(folder):
        check_folder(folder, job)  # again: another process may have had it until now

        def encode(emit: Callable[[Event], None]) -> None:
            job.save(folder)
            _plan_alike(job, ranks)
            ranks.tell("fill")
            try:
                planned.fill(job, emit)
            except StoppedWhilePreparing:
                if not stop():
                    ranks.answers()  # of the one that has broken it off: why
                raise
            if any(said["stopped"] for said in ranks.answers()):
                raise StoppedWhilePreparing

        return _execute(job, folder, sinks, stop, planned.decode, noted, encode, ranks)


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
    job = jobs.load(folder)
    with joined((config or job.config).device) as ranks:
        return _work(job, folder, sinks, stop, config, ranks)


def follow(stop: Callable[[], bool], config: TrainConfig | None, own: Mapping[str, Any], folder: Path | None) -> None:
    """What every process but the first of those that train a run together does: as the first one says.

    Args:
        stop: polled at every step; the first one is told.
        config: of this process. None: as the first one's.
        own: what is other here, such as folders.
        folder: a run folder whose job is the host's; None: of the command line.

    Raises:
        WorkerError: the first one has gone.
        ConfigError: several processes cannot train here.
    """
    device = own.get("device") or (config.device if config is not None else "")
    if config is not None:
        plain = config.resolved().to_plain()
        own = {name: plain[name] for name in OF_THE_MACHINE} | dict(own)

    def plan(settings: dict[str, Any], hosted: bool) -> following.Planned:
        if hosted:
            assert folder is not None
            return following.Planned(replace(jobs.load(folder), config=configs.parse(settings)))
        here = configs.parse({**settings, **own}, source=f"the config of rank {launched().rank}").resolved()
        optim.check(here)
        plan_here = planning.texts if here.text else planning.images
        planned = plan_here(here, _silent, _silent, lambda: stop() or ranks.over)
        return following.Planned(planned.job, lambda job: planned.fill(job, _silent))

    with joined(device) as ranks:
        following.follow(ranks, plan, stop)


def _silent(event: Event) -> None:
    """The first process tells what happens."""


def _plan_alike(job: Job, ranks: Ranks) -> None:
    """Has all processes plan the same run."""
    parts = {name: digest(part) for name, part in job.identity().items()}
    ranks.tell("plan", settings=job.config.to_plain(), hosted=job.origin == "host", parts=parts)
    ranks.answers()


def _work(
    job: Job,
    folder: Path,
    sinks: Sequence[Sink],
    stop: Callable[[], bool],
    config: TrainConfig | None,
    ranks: Ranks,
) -> Event:
    if config is not None:
        old, job = job.config, replace(job, config=config)
        check_folder(folder, job)
        check_changes(folder, old, config)
        check_length(folder, checkpoint.latest(folder) or 0, total_steps(job))
    with locked(folder):
        if config is not None:
            job.save(folder)

        def encode(emit: Callable[[Event], None]) -> None:
            _plan_alike(job, ranks)

        return _execute(job, folder, sinks, stop, None, advisor.before(job), encode, ranks)


def _execute(
    job: Job,
    folder: Path,
    sinks: Sequence[Sink],
    stop: Callable[[], bool],
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    noted: Sequence[Event],
    encode: Callable[[Callable[[Event], None]], None],
    ranks: Ranks,
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
        if finished(folder, total, job.config.early_stopping_patience):
            return emit.last(_finished(read_result(folder)))
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
            end = _train(job, folder, total, emit, stop, decode, ranks)
        except StoppedWhilePreparing:
            end = RunStopped(0, "before the first step")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                ranks.gone()
            end = _failure(error, folder, job)
        with suppress(OSError):  # a full disk is told by the end itself
            for event in advisor.after(job, folder, end):
                emit(event)
        return emit.last(end)


def _train(
    job: Job,
    folder: Path,
    total: int,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    decode: Callable[[torch.Tensor], torch.Tensor] | None,
    ranks: Ranks,
) -> Event:
    poll = control.Poll(folder / "control.json")

    def requests() -> Requests:
        asked = poll()
        return replace(asked, stop=asked.stop or stop() or ranks.stop)

    attempts = Attempts(job, folder, total, emit, requests, decode, ranks)
    cache = Cache(job.cache_dir)
    missing = [key for kind, key in job.cache_entries() if not cache.has(kind, key)]
    if missing:
        raise CacheError(f"{len(missing)} entries of the cache in {cache.folder} are gone", "start the run again")
    # A wish to stop that came while the process started is heard before seconds go into loading the base.
    done = None if stop() else attempts.to_the_end()
    if done is None:
        return RunStopped(checkpoint.latest(folder) or 0, "as asked")
    path = folder / f"{job.name}.safetensors"
    export.write(path, done.lora, metadata.header(job, done.step, done.lora))
    if job.config.text and job.config.lora_method in ("lora", "rslora"):  # PEFT's folder knows no others
        peft_folder.write(folder / PEFT, done.lora, str(job.base.file))
    result = {"total": total, "step": done.step, "path": path.name, "run": job.run_id, "memory": done.memory}
    result |= done.outcome
    write_json(folder / "result.json", result)
    return _finished(result)


def _finished(result: Mapping[str, Any]) -> RunFinished:
    """The event of a ``result.json``."""
    best, stopped = result.get("best", {}), result.get("stopped", {})
    return RunFinished(
        result["step"], result["path"], stopped.get("reason", ""), best.get("step", 0), best.get("reason", "")
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
    # Where memory is out the training itself gives up what it can (``attempts``): this was before or after it.
    end = failed(error, folder, "a lower resolution")
    return replace(end, cure="; ".join(filter(None, (end.cure, resume))))
