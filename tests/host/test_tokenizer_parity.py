"""Captions become the same tokens as in ComfyUI: both tokenizers run in ComfyUI's own Python."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.conftest import REPO, find_comfy
from tests.host.server import comfy_python

CAPTIONS = [
    "",
    " ",
    "a photo of a cat",
    "name_(series)",
    r"name_\(series\), (red:1.3) [blue] {green|yellow}",
    "((nested)) (unclosed",
    "two  spaces,\ttab\nand line",
    "cat " * 74,
    "cat " * 75,
    "cat " * 76,
    ", ".join(f"tag number {i}" for i in range(40)),
    "supercalifragilisticexpialidocious" * 20,
    "\u521d\u97f3\u672a\u6765\uff0c\u5355\u4eba " * 30,
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 smile",
    "caf\u00e9 cafe\u0301 na\u00efve \u00dcber STRASSE \u00df",
    "don't we'll I'm you're 1girl 2024",
    "a <|endoftext|> within, <lora:name:0.8>",
    "zero\u200bwidth and \u00a0 fixed space",
]

COMFY_SIDE = """
import json, sys
comfy, repo, captions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.argv = [sys.argv[0], "--cpu"]
sys.path.insert(0, comfy)
import comfy.options
comfy.options.enable_args_parsing()
from comfy.sd1_clip import SDTokenizer
theirs = SDTokenizer(disable_weights=True)
sys.path.append(repo)
from trainer.clip_tokens import ClipTokenizer
ours = ClipTokenizer()
print(json.dumps([
    [[[token for token, weight in chunk] for chunk in theirs.tokenize_with_weights(caption)], ours.chunks(caption)]
    for caption in captions
]))
"""


@pytest.mark.host
def test_tokens_are_comfyuis() -> None:
    comfy = find_comfy()
    assert comfy is not None
    command = [comfy_python(comfy), "-c", COMFY_SIDE, str(comfy), str(REPO), json.dumps(CAPTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=comfy)
    assert done.returncode == 0, done.stderr[-3000:]
    pairs = json.loads(done.stdout.splitlines()[-1])
    assert len(pairs) == len(CAPTIONS)
    assert max(len(theirs) for theirs, _ in pairs) >= 3
    for caption, (theirs, ours) in zip(CAPTIONS, pairs, strict=True):
        assert ours == theirs, caption
