"""Chat templates in the shapes that the common model families use, small ones for single features of the language, and
conversations to render with them. Written for these tests; make_text.py records what transformers makes of them."""

import json

from transformers.utils.chat_template_utils import _compile_jinja_template

TEMPLATES = {
    # The plain ChatML of many small models, with a system prompt of its own.
    "chatml": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    # ChatML with tools: signatures in the system message, results of neighbouring calls in one user turn.
    "chatml_tools": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nFunctions are within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages and messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    # ChatML with thinking: old thoughts are cut off, enable_thinking=false opens and closes an empty block.
    "chatml_thinking": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    # Header tokens, a date, tools as indented JSON in the system or the first user message, one call a turn.
    "headers": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}

{#- The system message is taken out. #}
{%- if messages and messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}

{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}

{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # [INST] with alternation checked and tools before the last user message.
    "inst": """{%- if messages and messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
            {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id|default('none') + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    # Turns, the assistant called model, the system prompt put before the first user message.
    "turns": """{{ bos_token }}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    # Everything in one line, role tokens.
    "roles": (
        "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is "
        "not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>'"
        " + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + (message['content'] or '') + '<|end|>' }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"),
    # Role words without newlines; the thoughts of earlier turns are dropped; the prompt opens the block itself.
    "reasoner": (
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = "
        "namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='') %}{%- for message in messages "
        "%}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
        "{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set "
        "ns.is_tool = false -%}{{'<|User|>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and "
        "message['content'] is none %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls']%}{%- if not "
        "ns.is_first %}{{'<|Assistant|><|calls|>' + tool['type'] + '<|sep|>' + tool['function']['name'] + '\\n'}}{%- set "
        "ns.is_first = true -%}{%- else %}{{'\\n<|call|>' + tool['function']['name']}}{%- endif %}{%- endfor %}{%- endif "
        "%}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = "
        "message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
        "{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt and not "
        "ns.is_tool %}{{'<|Assistant|><think>\\n'}}{% endif %}"),
    # Training markers around the assistant's text, and a default system prompt by thinking mode.
    "generation": """{%- if enable_thinking is not defined -%}
{%- set enable_thinking = true -%}
{%- endif -%}
{%- set mode = "/think" if enable_thinking else "/no_think" -%}
<|im_start|>system
Mode: {{ mode }}
{% if messages and messages[0].role == "system" %}{{ messages[0].content.replace("/no_think", "").rstrip() }}
{% endif %}<|im_end|>
{% for message in messages %}
    {%- set content = message.content if message.content is string else "" -%}
    {%- if message.role == "user" -%}
        {{ "<|im_start|>user\\n" + content + "<|im_end|>\\n" }}
    {%- elif message.role == "assistant" -%}
        {% generation %}
        {{- "<|im_start|>assistant\\n" + content.lstrip("\\n") + "<|im_end|>\\n" -}}
        {%- endgeneration %}
    {%- elif message.role == "tool" -%}
    {{ "<|im_start|>" + "user\\n" + content + "<|im_end|>\\n" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ "<|im_start|>assistant\\n" if mode == "/think" else "<|im_start|>assistant\\n<think>\\n\\n</think>\\n" }}
{%- endif -%}
""",
    # Channels: macros that write tool signatures as types, calls as recipients.
    "channels": """{%- macro type_of(spec) -%}
    {%- if spec.type == "array" -%}
        {%- if spec['items'] -%}{{ type_of(spec['items']) + "[]" }}{%- else -%}any[]{%- endif -%}
    {%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping -%}
        {{- spec.type | join(" | ") -}}
    {%- elif spec.type == "string" -%}
        {%- if spec.enum -%}
            {{- '"' + spec.enum|join('" | "') + '"' -}}
        {%- else -%}string{%- endif -%}
    {%- elif spec.type == "integer" or spec.type == "number" -%}number
    {%- elif spec.type == "object" -%}
        {{- "{\\n" }}
        {%- for name, prop in spec.properties.items() -%}
            {{ name }}{%- if name not in (spec.required or []) %}?{% endif %}: {{ type_of(prop) }}
            {%- if not loop.last %}, {% endif -%}
        {%- endfor -%}
        {{- "}" }}
    {%- else -%}any{%- endif -%}
{%- endmacro -%}
{%- if tools -%}
    {{- "<|start|>developer<|message|># Tools\\n\\nnamespace functions {\\n" }}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "// " + tool.description + "\\n" }}
        {{- "type " + tool.name + " = (_: " }}
        {{- type_of(tool.parameters) }}
        {{- ") => any;\\n" }}
    {%- endfor %}
    {{- "}<|end|>" }}
{%- endif -%}
{%- set last_tool_call = namespace(name=none) %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' -%}
        {%- if message.tool_calls is defined and message.tool_calls %}
            {%- if message.thinking %}
                {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
            {%- endif %}
            {%- set tool_call = message.tool_calls[0].function %}
            {{- "<|start|>assistant to=" }}
            {{- "functions." + tool_call.name + "<|channel|>commentary json<|message|>" }}
            {{- tool_call.arguments|tojson }}
            {{- "<|call|>" }}
            {%- set last_tool_call.name = tool_call.name %}
        {%- else %}
            {{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
            {%- set last_tool_call.name = none %}
        {%- endif %}
    {%- elif message.role == 'tool' -%}
        {%- if last_tool_call.name is none %}
            {{- raise_exception("Message has tool role, but there was no previous assistant message with a tool call!") }}
        {%- endif %}
        {{- "<|start|>functions." + last_tool_call.name }}
        {{- " to=assistant<|channel|>commentary<|message|>" + message.content|tojson + "<|end|>" }}
    {%- else -%}
        {{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant
{%- endif -%}
""",
    # Windows line ends and a last newline.
    "crlf": "{% for m in messages %}\r\n<{{ m.role }}>\r\n  {{ m.content }}\r\n  {% if loop.last %}\r\nlast\r\n{% endif %}\r\n"
            "{% endfor %}\r\nend\r\n",
    # ---- single features
    "numbers": "{{ 1.0 }} {{ 1e20 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.5e-7 }} {{ 1/3 }} {{ 7//2 }} "
               "{{ -7 % 3 }} {{ 2**10 }} {{ 100.0 | string }} {{ 1e300*10 }} {{ 3.0 | tojson }} {{ 10 | float }} "
               "{{ '12' | int }} {{ 3.7 | int }} {{ 2.5 | round }} {{ 0.1 + 0.2 }} {{ -0.0 }} {{ true }} {{ none }} {{ 5 / 1 }}",
    "containers": "{{ [1, 2.0, 'a', \"it's\", none, true, {'k': 'v', 'n': [1.5]}] }} {{ ('x',) }} {{ ('x', 1) }} {{ {} }} {{ [] }} "
                  "{{ {'a': 1, 'b': \"q\\\"'\"} }} {{ ['tab\\t', 'nl\\n', 'back\\\\', 'ü', '\\x01'] }} {{ [[]] | string }} "
                  "{{ messages[0] if messages else '-' }}",
    "json": "{{ messages | tojson }}|{{ messages | tojson(indent=2) }}|{{ messages | tojson(ensure_ascii=true) }}|"
            "{{ {'b': 1, 'a': [1, 2.5, none, true, {}], 'ü<>&\\'': '</x>\\u2028\\x7f\\x00'} | tojson(sort_keys=true) }}|"
            "{{ {'a': [1, {'b': []}]} | tojson(separators=(',', ':')) }}|{{ [] | tojson(indent=4) }}|"
            "{{ {1: 2, true: false, none: 1.5} | tojson }}|{{ [1e20, 1e-9, 1.0] | tojson }}|{{ 'a\\tb\\u00e9😀' | tojson(true) }}",
    "strings": "{{ '  x '.strip() }}|{{ 'xxhixx'.strip('x') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|"
               "{{ 'abc'[1:] }}|{{ 'abc'[-1] }}|{{ 'abc'[::-1] }}|{{ 'hello'.title() }}|{{ 'Hi'.upper() }}|{{ 'a-b'.replace('-', '+') }}|"
               "{{ 'x'.join(['1', '2']) }}|{{ 'abc'.startswith('ab') }}|{{ 'a b c'.split(' ', 1) }}|{{ 'abcabc'.rfind('b') }}|"
               "{{ 'ab' in 'cabd' }}|{{ '{} {}'.format('a', 1) }}|{{ 'prefix-x'.removeprefix('prefix-') }}|"
               "{{ 'a/b/c'.rsplit('/', 1) }}|{{ 'a=b=c'.partition('=')[2] }}|{{ 'line1\nline2'.splitlines() }}|{{ 'abc' | length }}|"
               "{{ 'hello world' | capitalize }}|{{ 'a' ~ 1 ~ none }}|{{ 'x' * 3 }}|{{ '<b>' | e }}|{{ 'abc'.count('b') }}|{{ 'ä'.isalpha() }}",
    "lists": "{{ [3, 1, 2] | sort }}|{{ [1, 2, 3] | sum }}|{{ [1, 2] + [3] }}|{{ range(3) | list }}|{{ [1, 2, 3][1:] }}|"
             "{{ ['a', 'b'] | join(', ') }}|{{ messages | map(attribute='role') | join('/') }}|"
             "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|"
             "{{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | list }}|{{ [1, 1, 2] | unique | list }}|"
             "{{ [1, 2, 3] | first }}|{{ [1, 2, 3] | last }}|{{ {'b': 1, 'a': 2} | dictsort }}|{{ {'b': 1, 'a': 2}.items() | list }}|"
             "{{ {'b': 1}.get('x', 'no') }}|{{ 'b' in {'b': 1} }}|{{ dict(a=1, b='x') }}|{{ [1, 2, 3] | max }}|{{ [[1, 2], [3]] | map('length') | list }}|"
             "{{ ['x', 'y'] | map('upper') | list }}|{{ [0, 1, ''] | select | list }}|{{ {'a': 1}.keys() | list }}|{{ [1, 2, 3] | reverse | list }}",
    "control": """{% for x in [1, 2, 3, 4, 5, 6] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}
  {{ x }}{{ "," if not loop.last }}
{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() recursive %}{{ k }}={{ v }};{{ loop.cycle('o', 'e') }}{% else %}none{% endfor %}
{% for x in [] %}{% else %}empty{% endfor %}
{% set text %}
  inside {{ 1 + 1 }}
{% endset %}[{{ text }}]
{% macro greet(name, end='!') %}Hi {{ name }}{{ end }}{{ caller() if caller }}{% endmacro %}{{ greet('A') }} {{ greet('B', end='?') }}
{% call greet('C') %}(called){% endcall %}
{% filter upper %}shout{% endfilter %}
    {%+ if true %}kept indent{% endif %}
    {% if true +%}
 kept newline{% endif %}
{% raw %}{{ not a tag }}{% endraw %}
{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}
{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}
{% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}.{{ loop.revindex0 }} {% endfor %}{% endfor %}
{%- if x is undefined %} undefined{% endif %}{% if 3 is odd and 4 is divisibleby 2 %} odd{% endif %}
{{- ' eq' if 'a' is eq 'a' }}{{ [1, 2] is iterable }}{{ none is iterable }}{{ 'x' is iterable }}{{ 1 is iterable }}{{ nothing is iterable }}{{ {} is iterable }}{{ 'a' is string }}{{ 1 is number }}{{ {} is mapping }}{{ none is none }}{{ 1.5 is float }}{{ true is boolean }}{{ 'x' is not in ['x'] if false else 'in' }}""",
    "undefined": "[{{ nothing }}][{{ nothing | default('d') }}][{{ '' | default('d', true) }}][{{ messages.foo }}][{{ nothing is defined }}]"
                 "[{{ (messages[0] | default({})).nope }}][{{ 'yes' if nothing else 'no' }}]",
    "broken_use": "{{ nothing.at.all }}",
}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather", "description": "Says what the weather is, \"quoted\" & <tagged>.",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "The city's name"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            "days": {"type": "array", "items": {"type": "integer"}}}, "required": ["city"]},
    },
}
CALL = {"id": "call12345", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": [1, 2], "limit": 1e20, "x": 1.0}}}
USER = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "It is 4."}
SYSTEM = {"role": "system", "content": "You are terse.  "}

CONVERSATIONS = [
    {"messages": [USER]},
    {"messages": [SYSTEM, USER], "tools": None},
    {"messages": [SYSTEM, USER, ANSWER, {"role": "user", "content": "  And <b>3</b> & \"4\" 'five' 你好 😀\n"}]},
    {"messages": [USER, ANSWER], "add_generation_prompt": False},
    {"messages": [USER], "tools": [WEATHER]},
    {"messages": [SYSTEM, {"role": "user", "content": "Weather?"}, {"role": "assistant", "content": "", "tool_calls": [CALL]},
                  {"role": "tool", "content": "{\"temp\": 21.5}", "tool_call_id": "call12345"}], "tools": [WEATHER, WEATHER]},
    {"messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
                  {"role": "tool", "content": "sunny", "tool_call_id": "call12345"},
                  {"role": "tool", "content": "rainy", "tool_call_id": "call12345"}]},
    {"messages": [USER, {"role": "assistant", "content": "<think>\nfour\n</think>\n\nIt is 4."}, USER]},
    {"messages": [USER, {"role": "assistant", "content": "4", "reasoning_content": "two and two", "thinking": "two and two"}]},
    {"messages": [USER], "enable_thinking": False},
    {"messages": [USER], "enable_thinking": True, "reasoning_effort": "high"},
    {"messages": []},
]


def make(out):
    contexts = [{"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, "tools": None, **c}
                for c in CONVERSATIONS]
    renders = {}
    for name, source in TEMPLATES.items():
        template = _compile_jinja_template(source)
        renders[name] = []
        for context in contexts:
            try:
                renders[name].append(template.render(**context))
            except Exception:  # whatever it is, a prompt does not come of it
                renders[name].append(None)
    (out / "templates.json").write_text(
        json.dumps({"templates": TEMPLATES, "contexts": contexts, "renders": renders}, ensure_ascii=False, indent=1) + "\n",
        encoding="utf-8")
