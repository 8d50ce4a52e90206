"""A language model's loss: that of transformers, token by token, whatever texts share a row or a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from trainer import adapters
from trainer.config import parse
from trainer.dataset.sampler import Presentation, micro_batches
from trainer.errors import BaseModelError, RunError
from trainer.events import DRIFT, HELD_OUT, TRAIN
from trainer.job import Base, ClassPrompt, Job, Prompt, TextItem
from trainer.packed import as_it_was
from trainer.tasks.causal_lm import CausalLM

CPU = torch.device("cpu")
# Answers of different lengths at the end, in the middle, twice, and everywhere; the last is held out.
ITEMS = (
    TextItem("a", "data.jsonl:1", (3, 4, 5, 6, 7, 8), ((4, 6),)),
    TextItem("b", "data.jsonl:2", (9, 10, 11, 12, 13, 14, 15, 16, 17), ((2, 4), (6, 9))),
    TextItem("c", "data.jsonl:3", (18, 19, 20), ((0, 3),)),
    TextItem("d", "data.jsonl:4", (3, 9, 18, 30, 31, 32, 33), ((1, 7),), repeats=2),
    TextItem("e", "data.jsonl:5", (40, 41, 42, 43), ((2, 4),), held_out=True),
)


def job(**config: Any) -> Job:
    settings = {"task_type": "text-generation", "batch_size": 4, "sample_max_tokens": 5, "seed": 7, **config}
    return Job(
        parse(settings),
        Base(Path("/m\u00f6del"), "llama", "c0ffee"),
        (),
        (Prompt("ab?", tokens=(3, 4)), Prompt("longer?", tokens=(5, 6, 7))),
        "",
        Path("/c\u00e4che"),
        class_prompts=(ClassPrompt("", "far", tokens=(50, 51, 52, 53)),),
        texts=ITEMS,
    )


class Answers:
    def __init__(self) -> None:
        self.asked: list[tuple[tuple[int, ...], int, int]] = []

    def __call__(self, model: nn.Module, question: Sequence[int], most: int, seed: int) -> str:
        self.asked.append((tuple(question), most, seed))
        return "an answer"


@pytest.fixture
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config).requires_grad_(False).eval()


@pytest.fixture
def adapted(model: Any) -> Any:
    adapters.inject(model, lambda name, module: isinstance(module, nn.Linear) and "lm_head" not in name,
                    rank=4, alpha=4, seed=5)  # fmt: skip
    for number, parameter in enumerate(adapters.parameters(model).values()):
        parameter.data = 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return model


def shown(items: Sequence[TextItem] = ITEMS) -> list[Presentation]:
    return [Presentation(item, 0) for item in items]


def plain(model: Any, item: TextItem) -> torch.Tensor:
    """What transformers makes of it: the mean over the tokens that are not -100."""
    counts = {place for start, end in item.answers for place in range(start, end)}
    labels = [token if place in counts else -100 for place, token in enumerate(item.tokens)]
    with as_it_was(model):
        return model(input_ids=torch.tensor([item.tokens]), labels=torch.tensor([labels]), use_cache=False).loss


def test_the_loss_of_a_text_is_transformers_times_its_tokens(adapted: Any) -> None:
    task = CausalLM(job(), CPU, Answers())
    found = task.loss(adapted, task.batch(shown(), 0))
    expected = torch.stack([plain(adapted, item) * task.size(shown([item])) for item in ITEMS])
    torch.testing.assert_close(found, expected)


def test_the_first_token_of_a_text_follows_nothing_and_does_not_count() -> None:
    assert ITEMS[2].counted == (1, 2)
    assert CausalLM(job(), CPU, Answers()).size(shown()) == 2 + 5 + 2 + 6 + 2


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_window_has_one_gradient_however_it_is_cut(size: int, adapted: Any) -> None:
    task, window = CausalLM(job(), CPU, Answers()), tuple(shown(ITEMS[:4]))
    weights = list(adapters.parameters(adapted).values())

    def gradient(slices: Sequence[Sequence[Presentation]]) -> list[torch.Tensor]:
        losses = [task.loss(adapted, task.batch(part, 0)).sum() / task.size(window) for part in slices]
        return list(torch.autograd.grad(torch.stack(losses).sum(), weights))

    whole, cut = gradient([window]), gradient(micro_batches(window, size))
    for found, expected in zip(cut, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_gradients_are_those_of_transformers_with_one_padded_batch(adapted: Any) -> None:
    task, window = CausalLM(job(), CPU, Answers()), tuple(shown(ITEMS[:4]))
    weights = list(adapters.parameters(adapted).values())
    ours = torch.autograd.grad(task.loss(adapted, task.batch(window, 0)).sum() / task.size(window), weights)

    longest = max(len(item.tokens) for item in ITEMS[:4])
    ids, labels, seen = [], [], []
    for item in ITEMS[:4]:
        rest = longest - len(item.tokens)
        ids.append([*item.tokens, *[2] * rest])
        labels.append([t if p in item.counted else -100 for p, t in enumerate(item.tokens)] + [-100] * rest)
        seen.append([1] * len(item.tokens) + [0] * rest)
    padded = {"input_ids": ids, "labels": labels, "attention_mask": seen}
    with as_it_was(adapted):
        loss = adapted(**{name: torch.tensor(value) for name, value in padded.items()}, use_cache=False).loss
    for found, expected in zip(ours, torch.autograd.grad(loss, weights), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_a_validation_is_the_loss_a_token_and_the_same_every_time(adapted: Any) -> None:
    task = CausalLM(job(), CPU, Answers())
    found = dict(task.validate(adapted))
    assert list(found) == [HELD_OUT, TRAIN, DRIFT]
    assert found[HELD_OUT] == pytest.approx({"e@0": plain(adapted, ITEMS[4]).item()}, rel=1e-5)
    assert found[TRAIN] == pytest.approx({f"{i.id}@0": plain(adapted, i).item() for i in ITEMS[:4]}, rel=1e-5)
    assert dict(task.validate(adapted)) == found


def test_drift_is_how_far_expectations_have_moved_from_the_base_models(adapted: Any) -> None:
    ids = torch.tensor([[50, 51, 52, 53]])
    with torch.no_grad():
        now = adapted(input_ids=ids).logits.log_softmax(-1)[0]
        with adapters.disabled(adapted):
            before = adapted(input_ids=ids).logits.log_softmax(-1)[0]
    expected = float((before.exp() * (before - now)).sum(-1).mean())
    found = dict(CausalLM(job(), CPU, Answers()).validate(adapted))[DRIFT]
    assert found == pytest.approx({"text 0@0": expected}, rel=1e-4)
    for parameter in adapters.parameters(adapted).values():
        parameter.data.zero_()
    assert dict(CausalLM(job(), CPU, Answers()).validate(adapted))[DRIFT]["text 0@0"] == pytest.approx(0, abs=1e-6)


def test_a_question_is_answered_with_the_runs_own_seed(model: Any) -> None:
    answers = Answers()
    assert CausalLM(job(), CPU, answers).sample(model, 1) == "an answer"
    assert answers.asked == [((5, 6, 7), 5, 8)]


def test_the_memory_of_the_longest_is_tried(model: Any) -> None:
    answers = Answers()
    CausalLM(job(), CPU, answers, batch=2).probe(model)
    assert answers.asked == [((5, 6, 7), 2, 0)]


def test_a_model_that_reads_texts_otherwise_is_refused(model: Any) -> None:
    class Mixed(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, **more: Any) -> Any:
            found = super().forward(input_ids=input_ids, **more)
            found.logits = found.logits.cumsum(1)
            return found

    model.__class__ = Mixed
    with pytest.raises(BaseModelError, match="a model of the kind llama reads texts, or weighs words, in a way"):
        CausalLM(job(), CPU, Answers()).probe(model)


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "is not finite"), (0.0, "holds all words for equally likely")]
)
def test_a_model_that_tells_no_words_apart_is_not_saved(value: float, said: str, model: Any) -> None:
    task = CausalLM(job(), CPU, Answers())
    task.check(model)
    model.lm_head.weight.data.fill_(value)
    with pytest.raises(RunError, match=said):
        task.check(model)


@pytest.mark.parametrize("kind", ["Gemma2", "Cohere", "Granite"])
def test_a_head_of_another_kind_is_that_of_transformers(kind: str) -> None:
    import transformers

    more = {"Gemma2": {"head_dim": 8, "final_logit_softcapping": 3.0}, "Cohere": {"logit_scale": 0.25},
            "Granite": {"logits_scaling": 4.0}}[kind]  # fmt: skip
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=60, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    task = CausalLM(job(), CPU, Answers())
    with torch.no_grad():
        found = task.loss(model, task.batch(shown(), 0))
        expected = torch.stack([plain(model, item) * len(item.counted) for item in ITEMS])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_job_of_texts_is_written_and_read_back(tmp_path: Path) -> None:
    from trainer import job as jobs

    written = job()
    written.save(tmp_path)
    assert jobs.load(tmp_path) == written
    assert jobs.load(tmp_path).run_id == written.run_id
    assert list(written.cache_entries()) == []


@pytest.mark.parametrize(
    "change",
    [{"tokens": (3, 4, 5, 6, 7, 9)}, {"answers": ((3, 6),)}, {"repeats": 2}, {"held_out": True}, {"id": "z"}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_trained_makes_the_run(change: dict[str, Any]) -> None:
    other = replace(job(), texts=(replace(ITEMS[0], **change), *ITEMS[1:]))
    assert other.run_id != job().run_id


def test_where_a_text_came_from_and_their_order_make_no_other_run() -> None:
    moved = replace(job(), texts=tuple(replace(item, path="elsewhere:1") for item in reversed(ITEMS)))
    assert moved.run_id == job().run_id
