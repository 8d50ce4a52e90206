from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from trainer import cross_entropy
from trainer.frozen import checkpointing
from trainer.packed import ATTENTION, as_it_was, pack, read_rows

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "head_dim": 8,
}  # fmt: skip
TEXTS = [[5, 6, 7, 8, 9, 10, 11, 12], [20, 21, 22], [30, 31, 32], [40] * 13]


def model(kind: str, **more: Any) -> Any:
    import transformers

    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **more})
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


@contextmanager
def counted(layer: Any) -> Iterator[list[int]]:
    """The calls of a layer."""
    calls: list[int] = []
    handle = layer.self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


MODELS = {
    "LLaMA": ("Llama", {}),
    "LLaMA, a head each": ("Llama", {"num_key_value_heads": 4}),
    "Qwen 2": ("Qwen2", {}),
    "Qwen 3": ("Qwen3", {}),
    "Mistral, four tokens back": ("Mistral", {"sliding_window": 4}),
    "Gemma 2, five tokens back, bounded": ("Gemma2", {"sliding_window": 5, "attn_logit_softcapping": 2.0}),
    "Gemma 3, five tokens back": ("Gemma3", {"sliding_window": 5}),
}


@pytest.fixture(params=MODELS, ids=str)
def loaded(request: pytest.FixtureRequest) -> Any:
    kind, more = MODELS[request.param]
    if kind == "Gemma3":
        import transformers

        config = transformers.Gemma3TextConfig(**{**SIZES, **more})
        torch.manual_seed(1)
        return transformers.Gemma3ForCausalLM(config).eval()
    return model(kind, **more)


def test_a_text_in_a_row_is_the_text_alone(loaded: Any) -> None:
    row = pack(TEXTS)
    with torch.no_grad():
        alone = [loaded(input_ids=torch.tensor([text]), use_cache=False).logits for text in TEXTS]
        read_rows(loaded)
        found = loaded(input_ids=row.ids, position_ids=row.positions, use_cache=False, packed=row.lengths).logits
    torch.testing.assert_close(found, torch.cat(alone, 1), rtol=1e-5, atol=1e-5)


def test_a_gradient_in_a_row_is_the_texts_gradients_together(loaded: Any) -> None:
    row = pack(TEXTS)

    def gradients(losses: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(torch.autograd.grad(torch.stack(losses).sum(), list(loaded.parameters()), allow_unused=True))

    every = [loaded(input_ids=torch.tensor([text]), use_cache=False).logits.square().sum() for text in TEXTS]
    apart = gradients(every)
    read_rows(loaded)
    logits = loaded(input_ids=row.ids, position_ids=row.positions, use_cache=False, packed=row.lengths).logits
    for found, alone in zip(gradients([logits.square().sum()]), apart, strict=True):
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


def test_a_model_that_reads_rows_can_still_write() -> None:
    whole = model("Llama")
    ids = torch.tensor([TEXTS[0]])
    before = whole.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)
    read_rows(whole)
    assert whole.config._attn_implementation == ATTENTION
    with as_it_was(whole):
        assert whole.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0).equal(before)
    assert whole.config._attn_implementation == ATTENTION


@pytest.mark.parametrize("in_ram", [False, True])
def test_checkpointing_gives_the_same_gradients(in_ram: bool) -> None:
    row, whole = pack(TEXTS), model("Llama").train()
    read_rows(whole)

    def gradient() -> torch.Tensor:
        logits = whole(input_ids=row.ids, position_ids=row.positions, use_cache=False, packed=row.lengths).logits
        return torch.autograd.grad(logits.square().sum(), whole.model.layers[0].mlp.up_proj.weight)[0]

    plain = gradient()
    checkpointing(whole, in_ram)
    with counted(whole.model.layers[0]) as calls:
        torch.testing.assert_close(gradient(), plain)
    assert len(calls) == 2  # once more in backward


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.nn.Linear]:
    torch.manual_seed(2)
    return torch.randn(11, 16, requires_grad=True), torch.randint(50, (11,)), torch.nn.Linear(16, 50, bias=False)


@pytest.mark.parametrize("numbers", [1, 50, 120, 10_000], ids=lambda n: f"{n} logits at once")
def test_the_loss_and_its_gradient_are_those_of_all_logits_at_once(numbers: int, rows: Any) -> None:
    hidden, labels, head = rows
    weights = torch.rand(len(labels))
    plain = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="none")
    ours = cross_entropy.losses(hidden, labels, head, numbers)
    torch.testing.assert_close(ours, plain)
    expected, found = (torch.autograd.grad((loss * weights).sum(), hidden)[0] for loss in (plain, ours))
    torch.testing.assert_close(found, expected)


def test_no_more_logits_are_held_than_allowed(rows: Any) -> None:
    hidden, labels, head = rows
    seen = []

    def watched(part: torch.Tensor) -> torch.Tensor:
        seen.append(len(part) * head.out_features)
        return head(part)

    cross_entropy.losses(hidden, labels, watched, 150)
    assert max(seen) <= 150
    assert sum(seen) == len(labels) * head.out_features  # none of them twice


def test_without_a_gradient_none_is_computed(rows: Any) -> None:
    hidden, labels, head = rows
    graphs = []

    def watched(part: torch.Tensor) -> torch.Tensor:
        logits = head(part)
        graphs.append(logits.requires_grad)
        return logits

    with torch.no_grad():
        cross_entropy.losses(hidden, labels, watched)
    assert not any(graphs)
