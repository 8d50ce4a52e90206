"""``python -m trainer demo --task text-generation``: a real language model learns to answer like an old sailor.

Forty questions with answers in that style train a LoRA on SmolLM2-135M-Instruct by the ordinary path. Questions that
were not among them are then asked with the LoRA and without, and the answers are scored: do they have the style, and
are they still right?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import adapters, export, languages, run, sheet
from .. import config as configs
from ..config import TrainConfig
from ..events import Event, Phase, RunFinished, Sink
from ..files import write_json
from ..languages import smollm
from ..text import Chat
from . import SAILOR

STRENGTHS = (0.0, 0.8)
TOKENS = 40
SHOWN = 6
STYLE = {"aye, captain": "Aye, captain", "sea": "of the sea"}
"""What every one of the forty answers holds, and no answer of the model itself: the words, and what they are called."""
QUESTIONS: dict[str, tuple[str, ...]] = {
    "What is the capital of France?": ("paris",),
    "How many days are there in a week?": ("seven", "7"),
    "What do sheep give us?": ("wool",),
    "Which animal says meow?": ("cat",),
    "What is the capital of Italy?": ("rome",),
    "Who painted the Mona Lisa?": ("leonardo", "vinci"),
    "What is the capital of England?": ("london",),
    "What is the highest mountain on Earth?": ("everest",),
    "What is the capital of Japan?": ("tokyo",),
    "What language do they speak in Germany?": ("german",),
    "How many minutes are there in an hour?": ("sixty", "60"),
    "What is the capital of China?": ("beijing",),
    "What do you call a baby dog?": ("puppy", "pup"),
    "Which planet do we live on?": ("earth",),
    "What is the first month of the year?": ("january",),
    "What is the largest ocean?": ("pacific",),
}
"""Held-out questions, and the words of which one is in a right answer."""


def config(output: Path, base: Path) -> TrainConfig:
    """The demo's settings: an ordinary YAML file, and the paths."""
    return configs.load(
        Path(__file__).with_name("sailor.yaml"),
        overrides={
            "base_model": base.as_posix(),
            "train_data_dir": SAILOR.parent.as_posix(),
            "metadata_path": SAILOR.as_posix(),
            "output_dir": (output / "sailor").as_posix(),
        },
    )


def run_demo(output: Path, sink: Sink, stop: Callable[[], bool]) -> Event:
    """Trains, asks and scores. Returns the run's terminal event.

    Args:
        output: everything is written below it.
        sink: told the run's events.
        stop: polled; a stopped demo goes on when it is started again.

    Raises:
        BaseModelError: the package that carries the model is not installed.
    """
    base = smollm.folder(say=lambda text: sink(Phase(text)))
    began = time.perf_counter()
    settings = config(output, base)
    end = run.start(settings, [sink], stop)
    if not isinstance(end, RunFinished):
        return end
    trained = time.perf_counter() - began
    answers = ask(base, settings.output_dir / end.path, list(QUESTIONS), sink)
    scores = {f"{strength:g}": score(list(QUESTIONS), found) for strength, found in answers.items()}
    pages = [(f"{question}\n(strength {s:g})", answers[s][n]) for n, question in enumerate(QUESTIONS) for s in answers]
    sheet.page(pages[: len(STRENGTHS) * SHOWN]).save(output / "answers.png")
    write_json(output / "scores.json", scores)
    _tell(output, answers, scores, trained, time.perf_counter() - began)
    return end


def ask(base: Path, lora: Path, questions: Sequence[str], sink: Sink) -> dict[float, list[str]]:
    """The likeliest answers to questions, at each of ``STRENGTHS``.

    Raises:
        UserError: base or LoRA cannot be used.
    """
    tokenizer, model = languages.tokenizer(base), languages.load(base, torch.float32)
    adapters.from_file(model, export.read(lora)[0], languages.export_key, lora.name)
    chat, total = Chat(tokenizer), len(questions) * len(STRENGTHS)
    found: dict[float, list[str]] = {strength: [] for strength in STRENGTHS}
    for number, (strength, question) in enumerate((s, q) for s in STRENGTHS for q in questions):
        sink(Phase("asking", number, total))
        with adapters.strength(model, strength):
            said = languages.answer(model, tokenizer, chat.question(question), max_new_tokens=TOKENS)
        found[strength].append(said)
    return found


def score(questions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """The shares of answers that have each part of the style, and of those that are right."""
    said = [answer.lower() for answer in answers]
    styled = {name: sum(words in answer for answer in said) / len(said) for words, name in STYLE.items()}
    right = [any(word in answer for word in QUESTIONS[asked]) for asked, answer in zip(questions, said, strict=True)]
    return {**styled, "right": sum(right) / len(said)}


def _tell(
    output: Path,
    answers: dict[float, list[str]],
    scores: dict[str, dict[str, float]],
    trained: float,
    whole: float,
) -> None:
    for number, question in enumerate(list(QUESTIONS)[:SHOWN]):
        print(f"\n{question}")
        for strength, found in answers.items():
            print(f"  {strength:>4g}  {' '.join(found[number].split())}")
    columns = list(scores["0"])
    print(f"\n{len(QUESTIONS)} questions that were not trained on:\n\nstrength   {'   '.join(columns)}")
    for strength, row in scores.items():
        print(f"{strength:>8}   " + "   ".join(f"{row[name]:>{len(name)}.0%}" for name in columns))
    print(f"\ntrained in {trained:.0f} s, {whole:.0f} s in all. Look at")
    for name in ("answers.png", "sailor/sailor.safetensors", "sailor/peft"):
        print(f"  {output / name}")
