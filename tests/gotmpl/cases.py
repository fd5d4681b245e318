"""What is asked of both: sources over data, and chats as Ollama renders them."""

DATA = {
    "a": ["x", 1.5, None, True], "s": "hi <b>&'\"", "n": None, "m": {"k": 1, "j": {"z": "y"}}, "e": [], "em": {},
    "t": True, "f": False, "i": 3, "big": 1234567.0, "huge": 1e21, "tiny": 1e-7, "neg": -2.5, "zero": 0,
    "u": "h\u00e9llo \U0001f642 \u2028", "l": [[1, 2], [3]], "empty": "", "nl": "a\nb\tc",
}

SOURCES = r"""
{{ .s }}|{{- " x " -}}|{{ "a\tb\x41\u00e9\101" }}|{{ `raw \n` }}
a  {{- .i }}  {{ .i -}}  b{{/* comment */}}c {{- /* other */ -}}  d
{{ .a }} {{ .m }} {{ .l }} {{ .n }} {{ .missing }} {{ .em }} {{ .e }} {{ .m.j.z }} {{ .m.nothing }}
{{ .big }} {{ .huge }} {{ .tiny }} {{ .neg }} {{ .zero }} {{ .i }} {{ 1.0 }} {{ 1e3 }} {{ 0x1F }} {{ 'a' }} {{ 1_000 }} {{ 0b11 }} {{ 0o17 }} {{ 017 }} {{ .5 }} {{ -3 }} {{ +4 }}
{{ if .t }}yes{{ else }}no{{ end }}{{ if .f }}a{{ else if .i }}b{{ else }}c{{ end }}{{ if .empty }}1{{ end }}{{ if .e }}2{{ end }}{{ if .em }}3{{ end }}{{ if .zero }}4{{ end }}{{ if .n }}5{{ end }}{{ if .missing }}6{{ end }}{{ if .m }}7{{ end }}
{{ range .a }}[{{ . }}]{{ else }}none{{ end }}{{ range .e }}x{{ else }}none{{ end }}
{{ range $i, $v := .a }}{{ $i }}={{ $v }};{{ end }}{{ range $v := .l }}{{ len $v }}{{ end }}
{{ range $k, $v := .m }}{{ $k }}:{{ $v }} {{ end }}{{ range .m }}{{ . }}{{ end }}
{{ range 3 }}{{ . }}{{ end }}{{ range $i := 2 }}{{ $i }}{{ end }}{{ range 0 }}x{{ else }}zero{{ end }}
{{ range $i, $v := 3 }}{{ end }}
{{ range .i }}{{ . }}{{ end }}
{{ range .s }}{{ end }}
{{ range .a }}{{ if eq . "x" }}{{ continue }}{{ end }}{{ . }}{{ break }}{{ end }}
{{ range .l }}{{ range . }}{{ if eq . 2.0 }}{{ break }}{{ end }}{{ . }}{{ end }};{{ end }}
{{ with .m }}{{ .k }}{{ else }}no{{ end }}{{ with .n }}x{{ else with .s }}{{ . }}{{ else }}y{{ end }}{{ with $x := .i }}{{ $x }}{{ end }}
{{ $x := 1 }}{{ range .a }}{{ $x = 2 }}{{ $y := 3 }}{{ $y }}{{ end }}{{ $x }}
{{ $x := 1 }}{{ if .t }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}
{{ $x = 1 }}
{{ $.s }}{{ range .a }}{{ $.i }}{{ end }}{{ $ }}
{{ define "t" }}<{{ . }}>{{ end }}{{ template "t" .s }}{{ template "t" .i }}{{ block "b" .m }}{{ .k }}{{ end }}
{{ define "r" }}{{ if . }}{{ len . }}{{ template "r" (slice . 1) }}{{ end }}{{ end }}{{ template "r" .s }}
{{ template "none" . }}
{{ define "a" }}1{{ end }}{{ define "a" }}2{{ end }}
{{ define "a" }} {{ end }}{{ define "a" }}2{{ end }}{{ template "a" . }}
{{ and .t .i }}{{ and .f .i }}{{ or .f .i }}{{ or .f .n }}{{ not .t }}{{ and .t }}{{ .i | and .t }}{{ .i | or .f }}{{ or .missing "d" }}
{{ eq .s "x" }}{{ eq .i 3.0 }}{{ eq 1 2 1 }}{{ ne .t .f }}{{ lt 1 2 }}{{ le 2 2 }}{{ gt "b" "a" }}{{ ge 1.5 2.5 }}{{ eq .n nil }}{{ eq .missing nil }}{{ eq nil .t }}
{{ eq .i 3 }}
{{ eq .a .a }}
{{ eq .a .m }}
{{ lt .t .f }}
{{ lt .n 1 }}
{{ lt "a" 1 }}
{{ eq 1 }}
{{ eq }}
{{ len .s }}{{ len .a }}{{ len .m }}{{ len .empty }}
{{ len .i }}
{{ len .n }}
{{ len nil }}
{{ len 3 }}
{{ index .a 1 }}{{ index .m "k" }}{{ index .m "j" "z" }}{{ index .s 0 }}{{ index .m "none" }}{{ index .l 0 1 }}{{ index .a }}
{{ index .a 4 }}
{{ index .a 5 }}
{{ index .a -1 }}
{{ index .s 99 }}
{{ index .a "k" }}
{{ index .m 1 }}
{{ index .m nil }}
{{ index .n 1 }}
{{ index nil }}
{{ index 3 1 }}
{{ slice .s 1 2 }}{{ slice .a 1 }}{{ slice .a 1 2 }}{{ slice .s }}{{ slice .a 0 1 2 }}
{{ slice .s 3 2 }}
{{ slice .s 0 1 2 }}
{{ slice .i 1 }}
{{ slice .n }}
{{ printf "%d %5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%q|%U" 42 42 42 42 42 42 42 42 5 65 65 65 }}
{{ printf "%s|%10s|%-10s|%.1s|%q|%x|%v|%T" .s "r" "l" "\u00e9a" .u "hi" .nl .s }}
{{ printf "%f|%.2f|%8.3f|%e|%g|%G|%v|%6.1f|%+.1f|%08.2f" 1.5 2.345 3.14159 123456.0 1e-7 1e21 0.1 2.25 1.0 -1.5 }}
{{ printf "%v %v %v %v %v" .a .m .n .t nil }}{{ printf "%T %T %T %T %T" .a .m .n .i 1 }}
{{ printf "%d" .s }}{{ printf "%s" 1 }}{{ printf "%z" 1 }}{{ printf "%d" }}{{ printf "x" 1 "a" }}{{ printf "%" }}{{ printf "%!" }}{{ printf "100%%" }}
{{ printf "%[2]s %[1]s" "a" "b" }}{{ printf "%[3]d" 1 }}{{ printf "%*d|%-*d|%.*f" 5 1 4 2 1 3.14159 }}
{{ printf "%t %v %5t" true false true }}{{ printf "%s" .a }}{{ printf "%q" .a }}{{ printf "%x" .a }}{{ printf "%6.2v|" .big }}{{ printf "%+v" .m }}
{{ printf .i }}
{{ printf }}
{{ print "a" 1 2 "b" "c" 3 4.5 nil .t .f }}{{ println "a" "b" 1 }}{{ print }}{{ print .a .m }}{{ print 1 2 }}
{{ html .s }}{{ js .s }}{{ urlquery .s }}{{ html .a 1 }}{{ js .u }}{{ urlquery .u }}{{ .s | html }}{{ html .n }}
{{ json .m }}{{ json .a }}{{ json .s }}{{ json .n }}{{ json .u }}{{ json .big }}{{ json .huge }}{{ json .tiny }}{{ json .nl }}{{ json .e }}{{ json 1 }}{{ json . }}
{{ json }}
{{ .s | printf "%s-%s" "a" | len }}{{ "x" | printf "%s" }}{{ (printf "%d" 3) | len }}{{ (index .m "j").z }}{{ (index .l 0) }}
{{ toTypeScriptType .s }}{{ currentDate | len }}{{ yesterdayDate "x" | len }}
{{ .s.x }}
{{ .n.x }}
{{ .missing.x }}
{{ .m.none.x }}
{{ .i.x }}
{{ .t "arg" }}
{{ .m.k 1 }}
{{ 1 2 }}
{{ "a" | .s }}
{{ (1) 2 }}
{{ nil }}
{{ 3 | 4 }}
{{ len 1 2 }}
{{ not }}
{{ currentDate 1 }}
{{ call .s }}
{{ call nil }}
{{ .x | call }}
{{ if }}x{{ end }}
{{ range }}x{{ end }}
{{ if .x }}
{{ end }}
{{ else }}
{{ if .x }}{{ else }}{{ else }}{{ end }}
{{ if .x }}{{ else with .y }}{{ end }}{{ end }}
{{ break }}
{{ continue }}
{{ range .a }}{{ define "x" }}{{ end }}{{ end }}
{{ define }}{{ end }}
{{ define "x" }}
{{ define "x" 1 }}{{ end }}
{{ template }}
{{ template "x" }}
{{ template 1 }}
{{ block "x" }}{{ end }}
{{ foo }}
{{ .a.b
{{ "abc
{{ `abc
{{ 'ab' }}
{{ 'a
{{ (1 }}
{{ 1) }}
{{ .s | }}
{{ | .s }}
{{ }}
{{ . }} {{ .. }}
{{ $x }}
{{ $x := }}
{{ $x, $y := 1 }}
{{ range $i, $v, $w := .a }}{{ end }}
{{ range $i, 3 := .a }}{{ end }}
{{ 12abc }}
{{ 1__0 }}
{{ 09 }}
{{ 99999999999999999999 }}
{{ 18446744073709551615 }}
{{ 9223372036854775807 }}
{{ 1e }}
{{ "\z" }}
{{ "\ud800" }}
{{ 'a'.b }}
{{ "a".b }}
{{ nil.x }}
{{ (nil).x }}
{{ true.x }}
{{ .s # }}
{{ & }}
{{ .s! }}
{{ “x” }}
{{ .s:x }}
{{ /* open
{{ /* c */ x }}
{{/* c */x}}
{{/* c */}}x{{- /* d */ -}} y
{{-3}}
{{- 3 -}} x {{ 3-}} y
{{ .s}}{{.s -}}
  {{- .i -}}  
{{ range $x := .a }}{{ end }}{{ $x }}
{{ with $y := .s }}{{ end }}{{ $y }}
{{ true }}{{ false }}{{ .t }}
{{ .a.x }}
{{ index .a 0 | printf "%s" }}{{ printf "%s" (index .a 0) }}
{{ printf (index .a 0) }}
{{ printf (index .a 1) }}
{{ printf .missing }}
{{ .m.j }}{{ .m.j.z | len | eq 1 }}
{{ (.m).k }}{{ (.m.j).z }}{{ ($).s }}
{{ not 0 }}{{ not "" }}{{ not .a }}{{ not nil }}
{{ and }}
{{ break | 3 }}
x{{ if .t }}  
  y  {{- end }} z
{{ range .a -}} {{ . }} {{- end }}
{{"{{"}} }} { {x} {{ "}}" }}
{{ print .l }}{{ print (slice .l 0 1) }}{{ slice .u 0 1 }}
""".strip("\n").split("\n")

MULTILINE = [
    "line one\n{{ .s }}\n  {{ .i.x }}\n", "a\n\n{{ if .t\n}}x{{ end }}{{ foo }}", "{{ if .t }}\n\n{{ .x", "\n\n{{\n.s\n|\nlen\n}}",
    "{{ .s\n!}}", "{{ range .a }}\n{{- . }}\n{{ end -}}\n end", "\r\n{{- .s }}\r\n", "{{ if .t }}\n{{ else }}\n{{ else }}{{ end }}",
    "", " ", "\n", "{{/* only */}}", "{{ define \"x\" }}\n{{ .y.z }}{{ end }}\n{{ template \"x\" .s }}",
    "{{ \"" + "long" * 20 + "\" }}", "{{ " + "(" * 20 + "1" + ")" * 20 + " }}", "{{ .averyveryverylongname! }}", "{{ averyverylongfunctionname }}",
    "{{ if .t }}" * 30 + "x" + "{{ end }}" * 30, "{{ printf \"%s\" `a\r\nb` }}",
]

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "The <weather> & more", "parameters": {
    "type": "object", "required": ["city"], "properties": {
        "unit": {"type": "string", "enum": ["C", "F"], "description": "The unit"},
        "city": {"type": ["string", "null"], "description": "The city"},
        "days": {"type": "integer"}, "where": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}]},
        "deep": {"type": "object", "properties": {"z": {"type": "boolean"}, "a": {"type": "string"}}}}}}}
BARE = {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}}
NONE = {"type": "function", "function": {"name": "nothing"}}
CALL = {"id": "c1", "function": {"index": 0, "name": "get_weather", "arguments": {"unit": "C", "city": "Bonn", "n": 1.5, "l": [1, {"b": 1, "a": 2}]}}}


def m(role, content="", **more):
    return {"role": role, "content": content, **more}


CHATS = [
    {"messages": [m("user", "Hello")]},
    {"messages": [m("system", "Be brief."), m("user", "Hello")]},
    {"messages": [m("user", "Hi"), m("assistant", "Hello!"), m("user", "More")]},
    {"messages": [m("system", "A"), m("system", "B"), m("user", "1"), m("user", "2"), m("assistant", "3"), m("user", "4")]},
    {"messages": [m("user", "1"), m("system", "late"), m("user", "2")]},
    {"messages": [m("user", "1"), m("assistant", "2"), m("system", "late"), m("user", "3"), m("assistant", "4")]},
    {"messages": [m("assistant", "only")]},
    {"messages": []},
    {"messages": [m("user", "<tag> & \u00e9 \U0001f642\n\n"), m("assistant", "  sp ")]},
    {"messages": [m("user", "weather?")], "tools": [WEATHER, BARE, NONE]},
    {"messages": [m("system", "S"), m("user", "weather?"), m("assistant", "", tool_calls=[CALL]),
                  m("tool", "11 degrees", tool_name="get_weather", tool_call_id="c1")], "tools": [WEATHER]},
    {"messages": [m("user", "w"), m("assistant", "text", tool_calls=[CALL, CALL]), m("tool", "1"), m("tool", "2"), m("assistant", "ok"), m("user", "?")], "tools": [BARE]},
    {"messages": [m("user", "w"), m("assistant", "", tool_calls=[{"function": {"name": "now", "arguments": {}}}])]},
    {"messages": [m("user", "Think"), m("assistant", "A", thinking="hm"), m("user", "again")], "thinking": 1},
    {"messages": [m("user", "Think")], "thinking": 0},
    {"messages": [m("user", "Think")], "thinking": 1, "level": "high"},
    {"messages": [m("system", ""), m("user", "")]},
    {"messages": [m("user", "a"), m("odd", "b"), m("user", "c")]},
    {"prompt": "def f(", "suffix": "return x"},
    {"tags": True},
]

# Templates of our own that reach what the published ones do not.
TEMPLATES = [
    "{{ .Prompt }}", "{{ .System }}|{{ .Prompt }}|", "{{ if .System }}S:{{ .System }}\n{{ end }}U:{{ .Prompt }}\nA:{{ .Response }}<end>\n",
    "{{ if .Prompt }}{{ .Prompt }}{{ end }}{{ if .Response }}<a>{{ .Response }}</a>{{ end }}<x>",
    "a{{ .Response | printf \"%s\" }}b", "a{{ printf \"%s\" .Response .Prompt }}b", "a{{ (printf \"%s\" .Response) }}b{{ .Prompt }}",
    "{{ .Prompt }}{{ .Response }}{{ json .Prompt }}{{ .Missing.x }}", "{{ json .Prompt }}", "{{ .Missing.x }}{{ .Prompt }}", "{{ .Missing }}",
    "{{ define \"x\" }}{{ . }}{{ end }}{{ template \"x\" .Prompt }}", "{{ range .Messages }}{{ . }}\n{{ end }}", "{{ range .Messages }}{{ json . }}\n{{ end }}",
    "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }} {{ .Function.Arguments }} {{ json .Function.Arguments }} {{ .ID }} {{ .Function.Index }} {{ . }} {{ json . }}{{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }};{{ end }}{{ end }}{{ end }}",
    "{{ .Tools }}{{ json .Tools }}{{ range .Tools }}{{ . }}|{{ json . }}|{{ .Function }}|{{ json .Function.Parameters }}|{{ .Function.Parameters.Required }}|{{ .Function.Parameters.Properties }}{{ end }}{{ .Messages | len }}",
    "{{ range .Tools }}{{ range $k, $p := .Function.Parameters.Properties }}{{ $k }}:{{ $p.Type }}:{{ toTypeScriptType $p }}:{{ $p.ToTypeScriptType }}:{{ $p.Enum }}:{{ $p.Description }}:{{ json $p }}:{{ $p.Type.String }}:{{ len $p.Type }}{{ if $p.Enum }}{{ range $p.Enum }}<{{ . }}>{{ end }}{{ end }}\n{{ end }}{{ end }}{{ .Messages | len }}",
    "{{ range .Tools }}{{ index .Function.Parameters.Properties \"none\" | json }}{{ .Function.Parameters.Properties.String }}{{ end }}{{ .Tools.String }}{{ .Messages | len }}",
    "{{ range .Messages }}{{ .Nope }}{{ end }}", "{{ (index .Messages 0).Content }}{{ .Messages | len }}", "{{ .Messages.Content }}", "{{ range .Messages }}{{ .Role.x }}{{ end }}",
    "{{ range .Messages }}{{ .Content 1 }}{{ end }}", "{{ .Think }} {{ .ThinkLevel }} {{ .IsThinkSet }} {{ .System }} {{ .Response }} {{ .Prompt }} {{ .Suffix }}{{ len .Messages }}",
    "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else }}{{ .Prompt }}{{ end }}", "{{ if .Suffix }}<PRE>{{ .Prompt }}<SUF>{{ .Suffix }}<MID>{{ else if .Messages }}{{ range .Messages }}{{ .Content }}{{ end }}{{ end }}",
    "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}{{ .Role }}{{ if .Thinking }}<think>\n{{ .Thinking }}\n</think>{{ end }}{{ .Content }}{{ if $last }}!{{ end }}{{ end }}",
    "{{ range .Messages }}{{ if and .Thinking (eq .Role \"assistant\") }}[THINK]{{ .Thinking }}[/THINK]{{ end }}{{ end }}", "{{ with .Messages }}{{ range . }}<t>{{ .Thinking }}</t>{{ end }}{{ end }}",
    "{{ range .Messages }}{{ eq . . }}{{ .Images }}{{ len .Images }}{{ if .ToolCalls }}T{{ end }}{{ printf \"%v %s\" .Role .Content }}{{ end }}", "{{ range .Tools }}{{ eq .Function .Function }}{{ end }}{{ .Messages | len }}",
    "{{ template \"x\" }}{{ define \"x\" }}{{ end }}", "{{ range .Messages }}{{ $.Tools }}{{ end }}", "{{ if .Response }}{{ .Response }}<e>{{ else }}x{{ end }}y",
    "{{ len .Tools }}{{ .Messages | len }}{{ index .Tools 0 }}", "{{ printf \"%v|%s\" .Tools .Tools }}{{ .Messages | len }}", "{{ html .Tools }}{{ .Messages | len }}",
]
