"""What Train LoRA will do with texts, told before Run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ..trainer import advisor, estimate, text_planning
from ..trainer.config import TEXT, TrainConfig
from ..trainer.device import card_name
from ..trainer.files import ContentHashes
from ..trainer.job import TextItem
from ..trainer.languages import smollm
from ..trainer.text import fingerprint
from . import language
from .host import clip_language, memory, places
from .payloads import DatasetRef

_texts: dict[tuple[object, ...], tuple[TextItem, ...]] = {}
MOST = 4


def answer(config: TrainConfig, ref: DatasetRef, kind: str, name: str, path: str) -> tuple[dict[str, Any], list[Any]]:
    """The fields of an estimate, and what is to be said of the job.

    Args:
        config: of the node.
        ref: the data set.
        kind: ``language`` (of Load Language Model) or ``text_encoder`` (of Load CLIP).
        name: in the list of these.
        path: typed; wins over the name.

    Returns:
        Nothing where the model is yet to be made.

    Raises:
        UserError: an input cannot be used.
    """
    if kind == "language" and name in ("", language.DEMO) and not path.strip() and not smollm.made():
        return {}, []
    file = places.text_encoder(name) if kind == "text_encoder" else language.folder(name or language.DEMO, path)
    tokenizer = clip_language.tokenizer_of(file) if kind == "text_encoder" else None
    config = config.but(task_type=TEXT, train_data_dir=ref.folder.as_posix(), repeats=ref.repeats)
    config = config.but(base_model=file.as_posix(), tokenizer=tokenizer and tokenizer.as_posix()).resolved()
    key = (fingerprint(ref.folder), file, config.tokenizer, config.chat_template, config.max_length, ref.repeats)
    hashes = ContentHashes(places.cache() / "hashes.json")
    job = text_planning.job(config, ref.texts(), hashes, memory.room, "", "host", _texts.get(key, ()))
    _texts[key] = job.texts
    while len(_texts) > MOST:
        _texts.pop(next(iter(_texts)))
    device = torch.device(memory.device())
    base = advisor.language_model(job.base.file, job.base.family)
    found = estimate.estimate_texts(job, base, str(device), card_name(device), places.runs())
    return {**asdict(found), "text": True}, advisor.before(job)
