"""What a data set looks like: in words, and images as a contact sheet. For the node, and for the page before Run."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..trainer.dataset import Dataset, fingerprint
from ..trainer.dataset.crops import gallery
from ..trainer.dataset.findings import Finding
from ..trainer.dataset.lint import lint
from ..trainer.files import write_bytes
from ..trainer.text import TextDataset
from ..trainer.text import fingerprint as text_fingerprint
from ..trainer.text.lint import lint as lint_text
from .host import demo_pictures, places
from .payloads import DatasetRef

MOST_FINDINGS, MOST_COMPARED = 8, 1000
_PASSING = {"few-images", "small", "few-samples"}  # said of the demo's they would only alarm
_told: dict[str, str] = {}


def overview(ref: DatasetRef, on_progress: Callable[[int, int], None] | None = None) -> dict[str, list[Any]]:
    """A data set as a node shows it; what did not change is neither read nor drawn again.

    Returns:
        ``text``: lines for people; ``sheet``: the picture, as ComfyUI's ``/view`` takes it, or nothing, of text.

    Raises:
        DatasetError: it cannot be trained on.
    """
    if ref.text:
        key = _key(text_fingerprint(ref.folder), ref)
        if key not in _told:
            _told[key] = words_of_text(ref.texts(), ref)
        return {"text": [_told[key]], "sheet": []}
    key = _key(fingerprint(ref.folder, index=places.index()), ref)
    file = places.temp() / f"darkroom_dataset_{key}.jpg"
    if key not in _told or not file.is_file():
        dataset = ref.scan(on_progress=on_progress, index=places.index())
        data = io.BytesIO()
        gallery(dataset).save(data, "JPEG", quality=88)
        write_bytes(file, data.getvalue())
        _told[key] = words(dataset)
    return {"text": [_told[key]], "sheet": [{"filename": file.name, "subfolder": "", "type": "temp"}]}


def _key(content: str, ref: DatasetRef) -> str:
    described = (content, str(ref.folder), ref.trigger_word, str(ref.repeats), ref.captions, *ref.exclude)
    return hashlib.sha256("\0".join(described).encode(errors="surrogatepass")).hexdigest()[:32]


def words(dataset: Dataset) -> str:
    """What is in a data set, and what might be better about it, as lines for people."""
    report = lint(dataset, alike=len(dataset.items) <= MOST_COMPARED)
    findings = _alarming(dataset.root, report.findings)
    return "\n".join([counted(dataset), places.shown(dataset.root), *_told_of(findings)])


def words_of_text(dataset: TextDataset, ref: DatasetRef) -> str:
    """What is in a text data set, its first samples, and what might be better about it."""
    report = lint_text(dataset)
    given = {"trigger_word": ref.trigger_word, "captions": ref.captions != "auto", "excluded": ref.exclude}
    unused = [name for name, used in given.items() if used]
    lines = [report.summary, places.shown(ref.folder), *report.first]
    if unused:
        lines.append(f"- not used: {', '.join(unused)}, which are for images")
    return "\n".join([*lines, *_told_of(_alarming(dataset.root, report.findings))])


def _alarming(root: Path, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    demo = root.name in (demo_pictures.NAME, demo_pictures.BARE, *demo_pictures.TEXTS)
    return tuple(finding for finding in findings if not (demo and finding.kind in _PASSING))


def _told_of(findings: Sequence[Finding]) -> list[str]:
    lines = [str(finding) for finding in findings[:MOST_FINDINGS]]
    more = len(findings) - MOST_FINDINGS
    return [*lines, f"- and {more} kinds more"] if more > 0 else lines


def counted(dataset: Dataset) -> str:
    """How many images at which sizes, how many of them with captions: one line."""
    buckets = Counter(item.bucket for item in dataset.items)
    sizes = ", ".join(f"{count} at {width}x{height}" for (width, height), count in buckets.most_common(4))
    captioned = sum(1 for item in dataset.items if item.captions != ("",))
    images = "1 image" if len(dataset.items) == 1 else f"{len(dataset.items)} images"
    left_out = f", {len(dataset.excluded)} left out" if dataset.excluded else ""
    return f"{images} ({sizes}), {captioned} with captions{left_out}"
