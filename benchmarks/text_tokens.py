"""Useful tokens a second and peak memory of a language model's training: ours, a bare PEFT loop, TRL's SFTTrainer.

    python benchmarks/text_tokens.py --work DIR [--base DIR] [--batch 4] [--steps 6] [--rounds 5] [--lengths mixed]

The same adapter (rank 8, all linear layers of the blocks) on the same tokens, in fp32 with AdamW and clipping, without
checkpointing; the loss is on the second half of every text, as with questions and answers. ``equal``: every text has
128 tokens; ``mixed``: from 16 to 256, evenly on a logarithmic scale. The others pad each batch to its longest text and
are told to pass over the padding; ours lays texts end to end. Each measurement is a process of its own, the ways take
turns, and a process's first step does not count. Without ``--base`` it is SmolLM2-135M-Instruct. TRL is measured where
it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from trainer import config as configs  # noqa: E402
from trainer.config import TrainConfig  # noqa: E402
from trainer.job import TextItem  # noqa: E402

WAYS = ("peft", "trl", "ours")
EQUAL, SHORTEST, LONGEST = 128, 16, 256
WORDS = (
    "the sea is blue and cold while an old town sleeps under white stars near a quiet road with red houses",
    "where people sing bread wine and songs of long days",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the texts and the runs")
    parser.add_argument("--base", type=Path)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps that count, in each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", default="equal,mixed")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.base is None:
        from trainer.languages import smollm

        args.base = smollm.folder(say=print)
    if args.way:
        from trainer.gauge import process_peak

        config = settings(args)
        stamps, batches = {"peft": bare_peft, "trl": trl, "ours": ours}[args.way](config)
        # The first step is a warm-up.
        tokens = sum(sum(map(len, (item.tokens for item in batch))) for batch in batches[1:])
        print(json.dumps({"seconds": stamps[-1] - stamps[1], "tokens": tokens, "peak": process_peak()}))
        return 0

    ways = [way for way in WAYS if way != "trl" or importlib.util.find_spec("trl")]
    for lengths in args.lengths.split(","):
        args.lengths = lengths
        texts(args.work / lengths, lengths, args.batch * (args.steps + 1), args.base)
        call(args, "ours", 0)  # makes the job, whose tokens all of them train on
        measured: dict[str, list[float]] = {way: [] for way in ways}
        memory: dict[str, float] = dict.fromkeys(ways, 0.0)
        for number in range(1, args.rounds + 1):
            for way in ways:
                result = call(args, way, number)
                measured[way].append(result["tokens"] / result["seconds"])
                memory[way] = max(memory[way], result["peak"] / 2**30)
                print(f"{lengths}, round {number} {way}: {measured[way][-1]:.1f} tokens a CPU second", flush=True)
        report(lengths, measured, memory)
    return 0


def report(lengths: str, measured: dict[str, list[float]], memory: dict[str, float]) -> None:
    """Prints the medians, and the time of ours against the quickest of the others."""
    print(f"\n{lengths} lengths")
    for way, values in measured.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{way:>5}: median {statistics.median(values):.1f} tokens a CPU s ({spread}), peak {memory[way]:.2f} GiB")
    others = max(statistics.median(values) for way, values in measured.items() if way != "ours")
    print(f"time of ours / of the quickest other: {others / statistics.median(measured['ours']):.3f}\n", flush=True)


def call(args: argparse.Namespace, way: str, number: int) -> dict[str, float]:
    """Measures one way in a process of its own."""
    command = [sys.executable, __file__, "--work", str(args.work), "--base", str(args.base), "--way", way]
    command += ["--steps", str(args.steps), "--round", str(number), "--batch", str(args.batch)]
    done = subprocess.run([*command, "--lengths", args.lengths], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def settings(args: argparse.Namespace) -> TrainConfig:
    """The same run for all ways."""
    return configs.parse(
        {
            "task_type": configs.TEXT,
            "base_model": args.base.as_posix(),
            "train_data_dir": (args.work / args.lengths).as_posix(),
            "output_dir": (args.work / f"run-{args.lengths}-{args.round}").as_posix(),
            "chat_template": "none",
            "batch_size": args.batch,
            "epochs": 1,
            "mixed_precision": "no",
            "gradient_checkpointing": False,
            "log_interval": 1,
            "sample_every": 0,
            "validation_steps": 0,
            "save_steps": 100_000,
        }
    )


def texts(folder: Path, lengths: str, count: int, base: Path) -> None:
    """Writes questions and answers of so many tokens, with the one that ends them."""
    from trainer import languages

    tokenizer = languages.tokenizer(base)
    # Words of one token each, so that as many words are as many tokens.
    words = " ".join(WORDS).split()
    single = [word for word in words if len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) == 1]
    drawn = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        share = (number + 0.5) / count
        length = EQUAL if lengths == "equal" else round(SHORTEST * (LONGEST / SHORTEST) ** share)
        words = [drawn.choice(single) for _ in range(length - 1)]
        half = length // 2
        lines.append(
            {"prompt": "".join(f" {w}" for w in words[:half]), "completion": "".join(f" {w}" for w in words[half:])}
        )
    drawn.shuffle(lines)
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


Batches = list[list[TextItem]]


def batches_of(config: TrainConfig) -> Batches:
    """What is in each optimizer step of the run."""
    from trainer import job
    from trainer.dataset.sampler import windows

    loaded = job.load(config.output_dir.with_name(f"run-{config.train_data_dir.name}-0"))
    order = windows(loaded.train_items, seed=config.seed, epoch=0, size=config.window)
    return [[shown.item for shown in window] for window in order]


def ours(config: TrainConfig) -> tuple[list[float], Batches]:
    """An ordinary run. What it does between two steps (five checkpoints) is not in the time."""
    import shutil

    from trainer import events, run

    shutil.rmtree(config.output_dir, ignore_errors=True)
    stamps, since, spent = [0.0], 0.0, 0.0

    def sink(event: events.Event) -> None:
        nonlocal since, spent
        now = time.process_time()
        if isinstance(event, events.Step):
            spent += now - since
            stamps.append(spent)
        since = now

    end = run.start(config, [sink])
    assert isinstance(end, events.RunFinished), end
    return stamps, batches_of(config)


def adapted(config: TrainConfig) -> Any:
    """The base model with PEFT's adapter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from trainer import languages

    model: Any = languages.load(config.base_model, torch.float32)
    names = [name for name, module in model.named_modules() if languages.is_target(name, module, "linear")]
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=names, task_type="CAUSAL_LM"))


def bare_peft(config: TrainConfig) -> tuple[list[float], Batches]:
    """The shortest loop of transformers and PEFT."""
    import torch

    model, batches = adapted(config), batches_of(config)
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.01, fused=True)
    stamps = [time.process_time()]
    for batch in batches:
        loss = model(**padded(batch), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stamps.append(time.process_time())
    return stamps, batches


def padded(batch: Sequence[TextItem]) -> dict[str, Any]:
    """A batch as transformers takes it, each text filled up to the longest."""
    import torch

    longest = max(len(item.tokens) for item in batch)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for item in batch:
        rest, counted = longest - len(item.tokens), set(item.counted)
        rows["input_ids"].append([*item.tokens, *[0] * rest])
        rows["labels"].append([t if place in counted else -100 for place, t in enumerate(item.tokens)] + [-100] * rest)
        rows["attention_mask"].append([1] * len(item.tokens) + [0] * rest)
    return {name: torch.tensor(values) for name, values in rows.items()}


def trl(config: TrainConfig) -> tuple[list[float], Batches]:
    """TRL's trainer, as it comes, but for its checkpointing and its order."""
    import datasets
    import torch
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from trainer import languages

    batches = batches_of(config)
    rows = [
        {"input_ids": list(item.tokens), "completion_mask": [int(p in item.counted) for p in range(len(item.tokens))]}
        for batch in batches
        for item in batch
    ]
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not stamps:
                stamps.append(time.process_time())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            stamps.append(time.process_time())

    class InOrder(SFTTrainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    arguments = SFTConfig(
        output_dir=str(config.output_dir), per_device_train_batch_size=config.batch_size, num_train_epochs=1,
        learning_rate=config.learning_rate, gradient_checkpointing=False, bf16=False, report_to="none",
        save_strategy="no", logging_strategy="no", use_cpu=True, max_length=1024, completion_only_loss=True,
    )  # fmt: skip
    InOrder(
        model=adapted(config),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=languages.tokenizer(config.base_model),
        callbacks=[Clock()],
    ).train()
    return stamps, batches


if __name__ == "__main__":
    raise SystemExit(main())
