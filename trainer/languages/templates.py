"""Chat templates of tokenizers that come without one, because a single file has no room for it."""

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
