"""How a question and a picture become the text of a chat that a model goes on with."""

from __future__ import annotations

from typing import Any

from ..errors import CaptionError, in_a_line


def chat(processor: Any, question: str, system: str = "") -> str:
    """The text of a chat with one picture and one question, by the template of the model's folder.

    Templates take a message as a text, and put the picture's token in front of it themselves (JoyCaption), or as a list
    of parts (Qwen, Llava). Which of them a template does is told by what comes out: a text with one picture's token.

    Args:
        processor: of the model.
        question: what is asked.
        system: what the model is told before; empty for what the template says.

    Raises:
        CaptionError: there is no template, it knows no pictures, or it has the model think before it answers.
    """
    parts: list[Any] = [{"type": "image"}, {"type": "text", "text": question}]
    faults = []
    for told, asked in (([{"type": "text", "text": system}], parts), (system, question)):
        messages = [{"role": "system", "content": told}] if system else []
        messages.append({"role": "user", "content": asked})
        try:
            text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # whatever a template raises
            faults.append(in_a_line(error))
            continue
        if isinstance(asked, list) and repr(asked) in text:
            faults.append("it takes a list of parts for a text")
            continue
        if text.count(processor.image_token) != 1:
            faults.append(f"it puts {processor.image_token} {text.count(processor.image_token)} times into the text")
            continue
        if text.rstrip().endswith("<think>"):
            raise CaptionError(
                "model: it thinks before it answers, and would think in place of a caption",
                "Take the variant that answers at once (Instruct).",
            )
        return text
    raise CaptionError(
        f"model: the template of its chats cannot be used for a picture and a question: {'; '.join(faults)}",
        "Download the model again, whole (chat_template.jinja or chat_template.json too).",
    )
