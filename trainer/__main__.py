"""The command line: ``python -m trainer <command>``.

Exit codes: 0 done; 1 the run failed; 2 the user's mistake; 130 stopped by Ctrl-C, saved.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from . import config as configs
from .errors import ConfigError, DarkroomError, UserError
from .events import Event, RunFailed, RunFinished
from .launch import launched, together

if TYPE_CHECKING:
    from .sinks import Bar, Log

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 130
_SAME = 2.0  # seconds: a launcher passes on a signal that the terminal has sent to its processes already

# Read when torch is loaded. Threads that spin for long while they wait make a step many times slower on a machine that
# also does something else; threads that never spin make small models twice as slow on one that does not.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Torch's way to keep a card's memory from falling to pieces; not on Windows.
if sys.platform != "win32":
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    _utf8()
    arguments = sys.argv[1:] if arguments is None else arguments
    args = _parser(arguments).parse_args(arguments)
    args.line = list(arguments)
    try:
        return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except DarkroomError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        if error.strerror is None:
            raise
        print(f"error: {error.filename or 'the disk'}: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


# Command -> what it does, and the module that has its ``add_arguments`` and ``run``; loaded only for that command.
COMMANDS = {
    "init": ("write a commented config for a family and a card", "setup.command"),
    "lint": ("look at a folder of images, or of text, before training on it", "linting"),
    "caption": ("write captions for a folder of images", "captioning.cli"),
    "train": ("train a LoRA as a YAML file says, or go on with a run", ""),
    "cache": ("encode a data set ahead of its run, or a part of it on each of several machines", ""),
    "advise": ("what was chosen for a run, what to mind about it, and what to change next", "advisor.command"),
    "sweep": ("train the same run with one field varied, and say which value to keep", ""),
    "export": ("copy the LoRA of a checkpoint out of its run", "exporting"),
    "inspect": ("what a LoRA file holds", "loras.inspection"),
    "generate": ("have a language model answer, with a LoRA or without", "languages.command"),
    "resize": ("a LoRA file at a lower rank", "loras.resize"),
    "merge": ("several LoRA files as one", "loras.merge"),
    "import": ("a config of sd-scripts, lora-scripts or OneTrainer as ours", "importers.command"),
    "demo": ("train on drawn pictures with the embedded base, or on forty answers, and look at the result", ""),
}


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Train a LoRA and see what it does.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="command")
    own = {"train": _add_train, "cache": _add_cache, "sweep": _add_sweep, "demo": _add_demo}
    for name, (what, module) in COMMANDS.items():
        command = commands.add_parser(name, help=what, description=what[0].upper() + what[1:] + ".")
        if name in own:
            own[name](command)
        elif arguments and arguments[0] == name:
            loaded = import_module(f".{module}", __package__)
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, metavar="FILE", help="a YAML file; copy configs/lora_default.yaml")
    what.add_argument("--resume", type=Path, metavar="RUN", help="the output_dir of a run to go on with")
    what.add_argument("--job", type=Path, metavar="RUN", help=argparse.SUPPRESS)  # the worker of ComfyUI's nodes
    what.add_argument("--captions", type=Path, metavar="DIR", help=argparse.SUPPRESS)  # the same, of Auto Caption
    _add_set(parser)
    parser.add_argument("--epochs", type=int, metavar="N", help="the same as --set epochs=N")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="let the images and the card decide rank, rate, length, batch and the like, whatever the file says of "
        "them; what --set gives stays",
    )
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="cards of this machine that share each step (default 1)"
    )
    parser.set_defaults(run=_train)


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file, as for train")
    parser.add_argument(
        "--shard", default="1/1", metavar="K/N", help="only the K-th of N parts, where N machines share a cache_dir"
    )
    _add_set(parser)
    parser.set_defaults(run=_cache)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="a YAML file, as for train")
    parser.add_argument(
        "--vary", required=True, metavar="FIELD=VALUE,...", help="the field and its values, such as lora_rank=4,8,16"
    )
    _add_set(parser)
    parser.set_defaults(run=_sweep)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="set a field of the config, such as lora_rank=16 (can be given again)",
    )


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="(default %(default)s)")
    parser.add_argument(
        "--task",
        choices=("image-generation", configs.TEXT),
        default="image-generation",
        help="what is trained: pictures on the embedded base (default), or a language model out of a Python package",
    )
    parser.set_defaults(run=_demo)


def _train(args: argparse.Namespace) -> int:
    changes = dict(_setting(text) for text in args.set)
    if args.epochs is not None:
        changes["epochs"] = args.epochs
    if args.auto and args.resume:
        raise ConfigError(["--auto: what a run began with stays"], "the command line")
    if args.auto:
        changes = configs.all_auto() | changes
    # Imported when needed: a mistake in the config is told at once, without torch and diffusers.
    config = configs.load(args.config, overrides=changes) if args.config else None
    if (count := _devices(args, config)) == 1:
        return _train_here(args, config, changes)
    with together(count, args.line):
        return _train_here(args, config, changes)


def _devices(args: argparse.Namespace, config: configs.TrainConfig | None) -> int:
    """How many processes this one begins; 1 where it is one of several already."""
    if args.devices < 1:
        raise UserError(f"--devices: expected a whole number of at least 1, got {args.devices}")
    if (place := launched()).meeting:
        return 1
    if place.world > 1 and args.devices > 1:
        raise UserError(f"--devices {args.devices}: {place.world} processes were started already", "leave it out")
    count = args.devices
    if args.captions or not (args.job or count > 1):
        return 1
    from . import job as jobs

    if config is None:
        job = jobs.load(args.job or args.resume)
        config, count = job.config, max(count, job.devices if args.job else 1)
    from .device import check_several

    check_several(config.device, count)
    return count


def _train_here(args: argparse.Namespace, config: configs.TrainConfig | None, changes: dict[str, Any]) -> int:
    from . import job as jobs
    from . import run

    place = launched()
    if config is not None:
        config = config.in_processes(place.world)
    with Stop() as stop:
        if place.world > 1 and args.captions:
            raise _only_training()
        if args.job or (place.meeting and place.rank):
            stop.with_stdin()
        if place.rank:
            run.follow(stop, config, *_followed(args, changes))
            return DONE
        if args.captions:
            from .captioning.work import work

            stop.with_stdin()
            return exit_code(work(args.captions, stop))
        if config is not None:
            return exit_code(run.start(config, [screen()], stop))
        if args.job:
            return exit_code(run.work(args.job, [], stop))
        folder = args.resume.absolute()
        job = jobs.load(folder)
        if "output_dir" in changes:
            raise ConfigError(["output_dir: --resume names it already; leave it out"], "the command line")
        changes["output_dir"] = folder.as_posix()
        config = configs.parse(job.config.to_plain(), overrides=changes, source="the command line")
        if args.epochs is not None and config.max_steps is not None and "max_steps" not in changes:
            print(f"note: max_steps: {config.max_steps} may end the run before {args.epochs} epochs; set it too")
        if config.auto:
            raise ConfigError([f"{config.auto[0]}: auto: what a run began with stays"], "the command line")
        if job.origin == "command line":
            return exit_code(run.start(config, [screen()], stop, job.choices))
        # A run of ComfyUI's: its encoders are there, but its cache is here, and that is all that training reads.
        return exit_code(run.work(folder, [screen()], stop, config))


def _followed(args: argparse.Namespace, changes: dict[str, Any]) -> tuple[dict[str, Any], Path | None]:
    """What is other in this process than in the first one, and its run folder if the host has planned the run."""
    from .run import OF_THE_MACHINE

    if args.config:
        return {}, None
    folder = (args.job or args.resume).absolute()
    return {"output_dir": folder.as_posix()} | {n: v for n, v in changes.items() if n in OF_THE_MACHINE}, folder


def _only_training() -> ConfigError:
    return ConfigError(["several processes only train: start this command as one"], "the command line")


def _cache(args: argparse.Namespace) -> int:
    if launched().world > 1:
        raise UserError("cache: start it as one process", "give each machine a --shard")
    config = configs.load(args.config, overrides=dict(_setting(text) for text in args.set))
    from . import caching
    from .prepare import StoppedWhilePreparing

    part = caching.shard(args.shard)
    with Stop() as stop, closing(screen()) as sink:
        try:
            filled = caching.fill(config, sink, stop, part)
        except StoppedWhilePreparing:
            print("stopped; the same command goes on from here")
            return STOPPED
    print(filled)
    return DONE


def _sweep(args: argparse.Namespace) -> int:
    if launched().world > 1:
        raise _only_training()
    config = configs.load(args.config, overrides=dict(_setting(text) for text in args.set))
    from . import sweep

    found = sweep.plan(config, *sweep.read(args.vary))
    with Stop() as stop:
        trials = sweep.start(found, [screen()], stop, print)
    if trials is None:
        print("stopped; the same command goes on from here")
        return STOPPED
    print(f"\n{sweep.write(found, trials)}")
    return FAILED if all(one.failure for one in trials) else DONE


def _demo(args: argparse.Namespace) -> int:
    if launched().world > 1:
        raise _only_training()
    if args.task == configs.TEXT:
        from .demo.text import run_demo
    else:
        from .demo.command import run_demo

    with Stop() as stop:
        return exit_code(run_demo(args.output, screen(), stop))


def screen() -> Bar | Log:
    """Tells events to the person at the terminal: with bars where it is one."""
    from .sinks import Bar, Log

    return Bar() if sys.stderr.isatty() else Log(sys.stdout)


def exit_code(event: Event) -> int:
    """The exit code of a terminal event; a failure is explained on stderr."""
    if isinstance(event, RunFinished):
        return DONE
    if isinstance(event, RunFailed):
        cure = f"\n  -> {event.cure}" if event.cure else ""
        print(f"error: {event.message}{cure}", file=sys.stderr)
        return MISTAKE if event.user else FAILED
    return STOPPED


class Stop:
    """Whether to stop: after Ctrl-C (or a polite kill) the step is ended and saved; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self._asked, self._since = threading.Event(), 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._asked.is_set()

    def with_stdin(self) -> None:
        """Also stops when the pipe on stdin ends: the process that started this one is gone."""

        def wait() -> None:
            # Not through sys.stdin: at exit Python cannot close a stream that a thread waits on, and aborts.
            try:
                while os.read(0, 1):
                    pass
            except OSError:
                pass
            self._asked.set()

        threading.Thread(target=wait, daemon=True, name="stdin").start()

    def __enter__(self) -> Stop:
        """Takes over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, _: object) -> None:
        place = launched()
        if self._asked.is_set():
            if place.world > 1 and time.monotonic() - self._since < _SAME:
                return
            raise KeyboardInterrupt
        self._asked.set()
        self._since = time.monotonic()
        if place.rank == 0:
            print("stopping after this step, and saving; once more to stop at once", file=sys.stderr)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError([f"--set {text}: expected FIELD=VALUE, such as lora_rank=16"], "the command line")
    return name.strip(), configs.parse_value(value)


def _utf8() -> None:
    # On Windows a redirected stream has the code page of the machine, which cannot write every file's name.
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Callable[..., None] | None = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding="utf-8", errors="backslashreplace")


if __name__ == "__main__":
    raise SystemExit(main())
