"""Chat templates: of tokenizers that come without one, out of single files; and of what a program has built in."""

from __future__ import annotations

import json

# What <start_of_turn> is followed by is the role, and the assistant is called model; a system prompt has no role of its
# own and goes before the first question, as in the template that Gemma 3 was published with.
GEMMA = """{{ bos_token }}{% set ns = namespace(first='') %}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.first = message['content'] + '\\n\\n' -%}
{%- else -%}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' -}}
{{- (ns.first if message['role'] == 'user' else '') + (message['content'] | trim) + '<end_of_turn>\\n' -}}
{%- if message['role'] == 'user' -%}{%- set ns.first = '' -%}{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}"""

MISTRAL = """{{ bos_token }}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{ '[SYSTEM_PROMPT]' + message['content'] + '[/SYSTEM_PROMPT]' }}
{%- elif message['role'] == 'user' -%}{{ '[INST]' + message['content'] + '[/INST]' }}
{%- else -%}{{ message['content'] + eos_token }}
{%- endif -%}
{%- endfor -%}"""

CHATML = """{% for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


_ENDS = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>")


def around(before: str, after: str, end: str) -> str:
    """The chat template of a program that writes each question between two texts, and then the answer.

    Args:
        before: what it writes in front of the question, special tokens included.
        after: what it writes behind it.
        end: the token that ends an answer, where ``after`` does not show how a turn ends.

    Returns:
        a template in Jinja; ``none`` where nothing is written around the question. A system prompt goes before the
        question that follows.
    """
    if not before and not after:
        return "none"
    end = next((mark for mark in _ENDS if mark in after), end)
    return f"""{{%- set ns = namespace(first='') -%}}
{{%- for message in messages -%}}
{{%- if message['role'] == 'system' -%}}{{%- set ns.first = message['content'] + '\\n\\n' -%}}
{{%- elif message['role'] == 'user' -%}}
{{{{- {json.dumps(before)} + ns.first + message['content'] + {json.dumps(after)} -}}}}
{{%- set ns.first = '' -%}}
{{%- else -%}}{{{{- message['content'] + {json.dumps(end)} -}}}}
{{%- endif -%}}
{{%- endfor -%}}"""
