"""Texts: a batch of tokens end to end, and a language model's loss on those that are answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .. import adapters, cross_entropy, draws
from ..dataset.sampler import Presentation
from ..device import onto
from ..errors import BaseModelError, RunError
from ..events import DRIFT, HELD_OUT, TRAIN
from ..job import Job, TextItem
from ..packed import Packed, as_it_was, pack, read_rows

TRAIN_TEXTS = 8
"""Texts that are trained on and validated, too."""
TRIED, ALIKE = 32, 0.1
"""Tokens of a text that a model is tried on; how far it may be off for being computed in another order, in 16 bits."""


@dataclass(frozen=True)
class Batch:
    """Texts end to end.

    Args:
        row: their tokens.
        places: [N], int64, in the row: of the tokens that are followed by one that counts.
        labels: [N], int64: what follows there.
        owner: [N], int64: which text that is of.
        texts: how many there are.
    """

    row: Packed
    places: torch.Tensor
    labels: torch.Tensor
    owner: torch.Tensor
    texts: int


class CausalLM:
    """The task of a language model.

    Args:
        job: what is trained.
        device: where the losses are computed.
        answer: (model, ids of a question, tokens at most, seed) -> the model's answer.
        batch: texts that are validated at once; 0: as many as a micro-batch has.
    """

    def __init__(
        self,
        job: Job,
        device: torch.device,
        answer: Callable[[nn.Module, Sequence[int], int, int], str],
        batch: int = 0,
    ) -> None:
        self._job, self._device, self._answer = job, device, answer
        self._batch = batch or job.config.batch_size
        self._before: dict[int, torch.Tensor] = {}  # what the base model says of the texts that drift is measured on

    def batch(self, shown: Sequence[Presentation], epoch: int) -> Batch:
        """The texts of a window, or of a slice of it. There is nothing to draw."""
        return self._stack([one.item for one in shown])

    def size(self, window: Sequence[Presentation]) -> int:
        """The tokens of a window that its loss is on (see transformers#34191)."""
        return sum(len(one.item.counted) for one in window)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The summed cross-entropy of each text, [B], fp32, with its graph."""
        hidden = _hidden(model, batch.row)[0, batch.places]
        each = cross_entropy.losses(hidden, batch.labels, _head(model))
        return torch.zeros(batch.texts, device=each.device).index_add(0, batch.owner, each)

    def check(self, model: nn.Module) -> None:
        """Makes sure that the model still tells words apart.

        Raises:
            RunError: it does not; a LoRA of such a model answers with nonsense.
        """
        batch = self._stack([self._job.train_items[0]])
        with torch.no_grad():
            logits = _head(model)(_hidden(model, batch.row)[0, batch.places[:1]]).float()
        finite = bool(torch.isfinite(logits).all())
        if not finite or logits.std() == 0:
            raise RunError(
                f"with this LoRA the model {'holds all words for equally likely' if finite else 'is not finite'}; "
                "it is not saved",
                "lower learning_rate, or train with mixed_precision: bf16 or no",
            )

    def validate(self, model: nn.Module) -> Iterator[tuple[str, dict[str, float]]]:
        """The loss a token of texts that are held out, if there are any, and of a few that are not; and the drift."""
        seed, texts = self._job.config.seed, self._job.texts
        own = [item for item in texts if not item.held_out]
        chosen = sorted(own, key=lambda item: draws.uniform(seed, "validation", item.id))[:TRAIN_TEXTS]
        for signal, some in ((HELD_OUT, [item for item in texts if item.held_out]), (TRAIN, chosen)):
            if some:
                yield signal, {f"{item.id}@0": value for item, value in self._lost(model, some)}
        if self._job.class_prompts:
            every = enumerate(self._job.class_prompts)
            yield DRIFT, {f"text {n}@0": self._drifted(model, n, prompt.tokens) for n, prompt in every}

    def band(self, pair: str) -> str:
        """Texts have no schedule."""
        return ""

    def probe(self, model: nn.Module) -> None:
        """One evaluation of the longest texts, and the first words of the answer to the longest question.

        Raises:
            BaseModelError: the model does not compute as this task takes it to.
        """
        self._trust(model)
        longest = sorted(self._job.texts, key=lambda item: item.cost, reverse=True)
        with torch.no_grad():
            self.loss(model, self._stack(longest[: self._batch]))
        if self._job.prompts:
            question = max((prompt.tokens for prompt in self._job.prompts), key=len)
            self._answered(model, question, 2, 0)

    def sample(self, model: nn.Module, index: int) -> str:
        """The model's answer to the job's question ``index``: its most probable words."""
        prompt, config = self._job.prompts[index], self._job.config
        return self._answered(model, prompt.tokens, config.sample_max_tokens, config.seed + index)

    def _answered(self, model: nn.Module, question: Sequence[int], most: int, seed: int) -> str:
        with as_it_was(model):
            return self._answer(model, question, most, seed)

    @torch.no_grad()
    def _trust(self, model: Any) -> None:
        """Compares texts end to end with the model's own way to read one."""
        first, *others = (item.tokens[:TRIED] for item in self._job.texts[:3])
        with as_it_was(model):
            own = model(input_ids=torch.tensor([first], device=self._device), use_cache=False).logits[0].float()
        ours = _head(model)(_hidden(model, pack([*others, first], self._device))[0, -len(first) :]).float()
        if not (own - ours).abs().max() <= ALIKE * own.std():
            raise BaseModelError(
                f"a model of the kind {model.config.model_type} reads texts, or weighs words, in a way of its own that "
                "this version does not know",
                "choose a model of the LLaMA, Mistral, Qwen or Gemma kind",
            )

    def _stack(self, items: Sequence[TextItem]) -> Batch:
        places, labels, owner, start = [], [], [], 0
        for number, item in enumerate(items):
            places += [start + place - 1 for place in item.counted]
            labels += [item.tokens[place] for place in item.counted]
            owner += [number] * len(item.counted)
            start += len(item.tokens)
        row = pack([item.tokens for item in items], self._device)
        found = (onto(torch.tensor(one), self._device) for one in (places, labels, owner))
        return Batch(row, *found, texts=len(items))

    @torch.no_grad()
    def _lost(self, model: nn.Module, items: Sequence[TextItem]) -> Iterator[tuple[TextItem, float]]:
        """Each text's loss a token."""
        for start in range(0, len(items), self._batch):
            some = items[start : start + self._batch]
            for item, loss in zip(some, self.loss(model, self._stack(some)).tolist(), strict=True):
                yield item, loss / len(item.counted)

    @torch.no_grad()
    def _drifted(self, model: nn.Module, number: int, tokens: Sequence[int]) -> float:
        """The Kullback-Leibler divergence of what the model expects from what the base model does, a token."""
        row = pack([tokens], self._device)

        def expected() -> torch.Tensor:
            return functional.log_softmax(_head(model)(_hidden(model, row)[0]).float(), -1)

        if number not in self._before:  # the base model says the same every time
            with adapters.disabled(model):
                self._before[number] = expected().cpu()
        before = self._before[number].to(self._device)
        return float(functional.kl_div(expected(), before, reduction="batchmean", log_target=True))


def _hidden(model: Any, row: Packed) -> torch.Tensor:
    """[1, T, D]: what the model's head is given."""
    read_rows(model)
    return model.base_model(
        input_ids=row.ids, position_ids=row.positions, use_cache=False, packed=row.lengths
    ).last_hidden_state


def _head(model: Any) -> cross_entropy.Head:
    """From what ``_hidden`` gives to logits."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        found = scale * head(hidden)  # Cohere multiplies, Granite divides
        return cap * torch.tanh(found / cap) if cap else found

    return logits
