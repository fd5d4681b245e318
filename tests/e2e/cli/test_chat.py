"""A conversation at a real terminal: tmux is the terminal, and its keys are pressed one after the other."""
import os
import shlex
import stat
import subprocess
import time

import pytest
from doctor.standin import Server

from .standin import HOSTILE, events, stand_in
from .test_faults import in_terminal

PATIENCE = 60


class Screen:
    """A tmux of its own, with one window in which a chat runs."""

    def __init__(self, tmux, cli, *arguments, env=None, columns=80, lines=40):
        # A server that is ending still has its socket: each has its own.
        self.base = [tmux, "-S", str(cli.home / f"tmux-{time.monotonic_ns()}"), "-f", "/dev/null"]
        self.status = cli.home / "status"
        self.status.unlink(missing_ok=True)
        kept = {k: v for k, v in cli.env.items() if k in ("HOME", "PATH", "LANG") or k.startswith(("OLLAMA_", "ASAN_", "LSAN_", "UBSAN_"))}
        kept.update({"TERM": "screen-256color", **(env or {})})
        settings = " ".join(shlex.quote(f"{k}={v}") for k, v in kept.items())
        words = " ".join(shlex.quote(str(w)) for w in (cli.program, "chat", *arguments))
        command = f"env -i {settings} {words}; echo $? > {self.status}; sleep 1000"
        subprocess.run([*self.base, "new-session", "-d", "-x", str(columns), "-y", str(lines), command], check=True,
                       env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(cli.home)})

    def tmux(self, *words):
        return subprocess.run([*self.base, *words], check=True, capture_output=True, text=True, timeout=PATIENCE).stdout

    def keys(self, *keys):
        """Names of keys (Enter, C-c) or text."""
        self.tmux("send-keys", *keys)

    def type(self, line):
        self.tmux("send-keys", "-l", line)
        self.keys("Enter")

    def paste(self, text):
        self.tmux("set-buffer", text)
        self.tmux("paste-buffer", "-p")

    def text(self):
        """All that was ever shown, without blanks at the ends of lines; wrapped lines are one."""
        shown = self.tmux("capture-pane", "-p", "-J", "-S", "-10000")
        return "\n".join(line.rstrip() for line in shown.splitlines()).rstrip()

    def until(self, check, what):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            text = self.text()
            if check(text):
                return text
            time.sleep(0.03)
        raise AssertionError(f"never {what}:\n{self.text()}")

    def wait(self, words):
        return self.until(lambda text: words in text, repr(words))

    def ready(self, prompts):
        """Until so many prompts have been shown, and the last waits."""
        return self.until(lambda t: sum(line.startswith(">>>") for line in t.splitlines()) >= prompts and t.endswith(">>>"), f"{prompts} prompts")

    def left(self):
        """The exit status, once it has ended."""
        self.until(lambda _: self.status.exists() and self.status.read_text(), "ended")
        return int(self.status.read_text())

    def close(self):
        subprocess.run([*self.base, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def screen(tmux, cli_at):
    """screen(url, arguments ...) opens a chat and waits for its first prompt."""
    open_ones = []

    def start(url, *arguments, **more):
        open_ones.append(Screen(tmux, cli_at(url), *arguments, **more))
        open_ones[-1].ready(1)
        return open_ones[-1]

    yield start
    for one in open_ones:
        one.close()


def asked(handler, path="/api/chat"):
    return [body for p, body in handler.seen["asked"] if p == path]


def said(handler):
    return [(m["role"], m["content"]) for m in asked(handler)[-1]["messages"]]


def test_a_conversation_goes_on_until_it_is_left(screen, bridge):
    s = screen(bridge.url, "tiny-think", "--verbose")
    s.type("hello")
    text = s.ready(2)
    assert "Thinking...\nhm, well\n...done thinking.\n\nYes.\n" in text
    assert "eval rate:" in text
    s.type("again")
    assert s.ready(3).count("Yes.") == 2
    s.keys("C-d")
    assert s.left() == 0


def test_what_was_said_is_sent_again(screen):
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        s = screen(server.url, "m", "--system", "be brief", "--keepalive", "5m")
        s.type("one")
        s.ready(2)
        s.type("two")
        s.ready(3)
        assert said(handler) == [("system", "be brief"), ("user", "one"), ("assistant", "Fine."), ("user", "two")]
        assert asked(handler)[-1]["keep_alive"] == "5m" and "think" not in asked(handler)[-1]
        s.type("/clear")
        s.wait("Cleared session context")
        s.type("three")
        s.ready(5)
        assert said(handler) == [("system", "be brief"), ("user", "three")]
        s.type("/bye")
        assert s.left() == 0


def test_messages_of_several_lines(screen):
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.type('"""')
        s.type("  one")
        s.type("/bye is no command here")
        s.wait("... /bye is")
        s.type('three"""')
        s.ready(2)
        assert said(handler)[-1] == ("user", "  one\n/bye is no command here\nthree")
        s.paste("four\n/bye\nfive")
        s.wait("... five")
        s.keys("!", "Enter")
        s.ready(3)
        assert said(handler)[-1] == ("user", "four\n/bye\nfive!")
        s.paste("six")
        s.keys("Enter")
        s.ready(4)
        assert said(handler)[-1] == ("user", "six")
        s.type('"""never')
        s.wait("...")
        s.keys("C-c")
        s.type("grün 漢字 🙂")
        s.ready(6)
        assert said(handler)[-1] == ("user", "grün 漢字 🙂")


def test_ctrl_c_stops_the_answer_alone(screen):
    handler = stand_in(generate=events("So it", done=False), after="hang")
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.type("go")
        s.wait("So it more more")
        s.keys("C-c")
        s.ready(2)
        end = time.monotonic() + PATIENCE
        while not handler.seen["left"] and time.monotonic() < end:
            time.sleep(0.03)
        assert handler.seen["left"] == 1
        s.keys("C-c")
        s.wait("Use Ctrl + d or /bye to leave.")
        s.keys("half a line", "C-c")
        s.ready(4)
        s.type("go on")
        s.wait(">>> go on")
        s.until(lambda t: t.count("So it more") >= 2, "answered again")
        assert [m["role"] for m in asked(handler)[-1]["messages"]] == ["user", "assistant", "user"]
        assert asked(handler)[-1]["messages"][1]["content"].startswith("So it more")
        s.keys("C-c")
        s.ready(5)
        s.keys("C-d")
        assert s.left() == 0


def test_ctrl_c_stops_a_load_and_nothing_after_it(screen):
    handler = stand_in(generate=events("Fine."), slow=["heavy"])
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.type("/load heavy")
        s.wait("Loading model 'heavy'")
        s.until(lambda _: asked(handler, "/api/generate")[-1]["model"] == "heavy", "loading")
        s.keys("C-c")
        s.wait("Couldn't load model 'heavy': interrupted")
        s.ready(2)
        s.type("still there?")
        s.ready(3)
        assert asked(handler)[-1]["model"] == "m" and "Fine." in s.text()
        assert handler.seen["left"] == 1


def test_an_error_is_told_and_the_chat_goes_on(screen):
    handler = stand_in(generate=[b'{"error":"the model has crashed"}\n'])
    with Server(handler) as server:
        s = screen(server.url, "m")
        for n in (2, 3):
            s.type("hi")
            s.ready(n)
        assert s.text().count("the model has crashed") == 2
        assert said(handler) == [("user", "hi")]  # what was not answered is not said twice
    s.type("hi")
    assert "start it again" in s.ready(4)


SLASHES = [
    ("/?", "/save NAME      keep this session"), ("/help", "Commands:"), ("/? set", "/set parameter NAME VALUE"), ("/? /set", "/set wordwrap"),
    ("/? show", "/show template"), ("/? parameter", "/set parameter seed N"), ("/? set parameter", "num_ctx N"), ("/? shortcuts", "Ctrl + k"),
    ("/set", "/set system TEXT"), ("/set parameter", "/set parameter stop WORD..."), ("/set parameter seed 7", "Set parameter 'seed' to '7'"),
    ("/set parameter stop a b", "Set parameter 'stop' to 'a, b'"), ("/set parameter sed 7", "did you mean seed?"),
    ("/set parameter seed x", "seed is a whole number"), ("/set system", "/set quiet"), ("/set system be brief", "Set system message."),
    ("/set wordwrap", "Set 'wordwrap' mode."), ("/set nowordwrap", "Set 'nowordwrap' mode."), ("/set verbose", "Set 'verbose' mode."),
    ("/set quiet", "Set 'quiet' mode."), ("/set format", "Invalid or missing format"), ("/set format yaml", "JSON schema"),
    ("/set format json", "Set format to 'json' mode."), ("/set noformat", "Disabled format."),
    ("/set format {\"type\": \"object\"}", "Set format to 'schema' mode."), ("/set think", "is not known to think"),
    ("/set think high", "Set 'think' mode to 'high'."), ("/set think hard", "low, medium, high"), ("/set nothink", "Set 'nothink' mode."),
    ("/set colour", "Unknown command '/set colour'"), ("/show", "/show modelfile"), ("/show info", "architecture"),
    ("/show license", "No license was specified"), ("/show modelfile", "No Modelfile was made"), ("/show parameters", "User defined parameters:"),
    ("/show system", "be brief"), ("/show template", "No prompt template was specified"), ("/show colour", "Unknown command '/show colour'"),
    ("/list", "other:latest"), ("/list ot", "other:latest"), ("/load", "Usage:"), ("/load lost", "Couldn't find model 'lost'"),
    ("/load othr", "did you mean other?"), ("/save", "Usage:"), ("/save kept", "Created new model 'kept'"), ("/load other", "Loading model 'other'"),
    ("/clear", "Cleared session context"), ("/frob", "Unknown command '/frob'"),
]


def test_every_slash_command(screen):
    handler = stand_in(generate=events("Fine."), models=["m:latest", "other:latest"], missing=["lost", "othr"])
    with Server(handler) as server:
        s = screen(server.url, "m", lines=50)
        for line, answer in SLASHES:
            s.keys("C-l")
            s.until(lambda t: s.tmux("clear-history") == "" and t == ">>>", "clear")  # tmux keeps what was cleared
            s.type(line)
            s.until(lambda t, line=line: t.endswith("\n>>>") and f">>> {line}\n" in t, f"through with {line}")
            assert answer in s.text(), line
        s.type("hi")
        s.wait("Fine.")
        got = asked(handler)[-1]
        assert (got["model"], got["options"], got["think"]) == ("other", {"seed": 7, "stop": ["a", "b"]}, False)
        assert got["format"] == {"type": "object"}
        [made] = asked(handler, "/api/create")
        assert (made["model"], made["from"], made["system"]) == ("kept", "m", "be brief")
        assert made["parameters"]["seed"] == 7
        assert asked(handler, "/api/pull") == []
        s.type("/exit")
        assert s.left() == 0


def test_a_system_message_of_several_lines(screen):
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.type('/set system """be')
        s.wait("...")
        s.type('brief"""')
        s.wait("Set system message.")
        s.type("hi")
        s.wait("Fine.")
        assert said(handler) == [("system", "be\nbrief"), ("user", "hi")]


def test_a_session_that_was_saved_is_told_again(screen, own_bridge):
    s = screen(own_bridge.url, "tiny-hello")
    s.type("good morning")
    s.ready(2)
    s.type("/save morning")
    s.wait("Created new model 'morning'")
    s.type("/bye")
    assert s.left() == 0
    s.close()
    again = screen(own_bridge.url, "morning")
    assert ">>> good morning\nHello world! Grün 🙂\n" in again.text()


def test_lines_of_the_last_session_come_back(screen, bridge, tmp_path):
    s = screen(bridge.url, "tiny-hello")
    s.type("first words")
    s.ready(2)
    s.type("/set nohistory")
    s.type("secret words")
    s.ready(4)
    s.keys("C-d")
    assert s.left() == 0
    s.close()
    kept = tmp_path / ".mlx-ollama/history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() == "first words\n/set nohistory\n"
    again = screen(bridge.url, "tiny-hello")
    again.keys("Up", "Up", "Enter")
    assert again.ready(2).count("first words") == 1
    again.close()
    last = screen(bridge.url, "tiny-hello", env={"OLLAMA_NOHISTORY": "1"})
    last.type("unseen words")
    last.ready(2)
    assert "unseen" not in kept.read_text()


def test_keys_edit_the_line(screen):
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.keys("-l", "wörld, hello two")
        s.keys("C-w", "C-a", "M-f", "C-k", "C-a")
        s.keys("-l", "big ")
        s.keys("End")
        s.keys("-l", "s", )
        s.keys("Enter")
        s.ready(2)
        assert said(handler)[-1] == ("user", "big wörlds")
        s.keys("-l", "cut this")
        s.keys("C-u")
        s.keys("-l", "kept")
        s.keys("Enter")
        s.ready(3)
        assert said(handler)[-1] == ("user", "kept")


def test_an_editor_writes_the_message(screen, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed s/draft/final/ "$1" > "$1.new"; echo second line >> "$1.new"; mv "$1.new" "$1"\n')
    editor.chmod(0o755)
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        s = screen(server.url, "m", env={"OLLAMA_EDITOR": str(editor)})
        s.keys("-l", "my draft")
        s.keys("C-g")
        s.wait("... second line")
        s.keys("Enter")
        s.ready(2)
        assert said(handler)[-1] == ("user", "my final\nsecond line")


def test_words_wrap_at_the_width_that_the_terminal_has_now(screen):
    words = "alpha beta gamma delta epsilon " * 8
    with Server(stand_in(generate=events(*words))) as server:
        s = screen(server.url, "m", columns=60)
        s.type("wide")  # tmux joins only lines that it has broken itself: words are broken by us
        s.ready(2)
        wide = [line for line in s.text().split(">>> wide\n")[1].splitlines() if line and not line.startswith(">>>")]
        assert max(len(line) for line in wide) <= 59 and len(wide) == 5
        s.tmux("resize-window", "-x", "30", "-y", "40")
        s.type("narrow")
        s.until(lambda t: t.endswith(">>>") and "narrow" in t, "narrow")
        narrow = [line for line in s.text().split(">>> narrow\n")[1].splitlines() if line and not line.startswith(">>>")]
        assert max(len(line) for line in narrow) <= 29 and all(word in words.split() for line in narrow for word in line.split())


def test_a_model_cannot_drive_the_terminal_of_a_chat(screen):
    with Server(stand_in(generate=events(HOSTILE, " fine"))) as server:
        s = screen(server.url, "m")
        s.type("hi")
        text = s.ready(2)
        assert "]0;owned[2J[31mred2Jend fine" in text and ">>> hi" in text
        assert "owned" not in s.tmux("display-message", "-p", "#{pane_title}")


def test_a_model_that_makes_vectors_does_not_chat(cli):
    done = cli("chat", "tiny-embed")
    assert done.returncode == 2 and "cannot chat" in done.stderr


def test_a_model_that_cannot_be_loaded_is_told(cli_at):
    with Server(stand_in(missing=["m"], pull=(404, {"error": "not found"}))) as server:
        assert cli_at(server.url)("chat", "m").returncode == 4


def test_pictures_in_a_chat(screen, tmp_path):
    (tmp_path / "a b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    handler = stand_in(generate=events("A cat."), capabilities=("completion", "vision"))
    with Server(handler) as server:
        s = screen(server.url, "m")
        s.type(f"{tmp_path}/a\\ b.png what is it?")
        s.wait("A cat.")
        [message] = asked(handler)[-1]["messages"]
        assert message == {"role": "user", "content": "what is it?", "images": ["iVBORw0KGgo="]}


def test_a_dumb_terminal_has_a_prompt_and_no_sequences(cli_at):
    handler = stand_in(generate=events("Fine."))
    with Server(handler) as server:
        status, got = in_terminal(cli_at(server.url), "chat", "m", typed=b"hello\n/bye\n", env={"TERM": "dumb"})
    assert status == 0 and got.count(">>> ") == 2 and "Fine." in got and "\x1b" not in got
    assert said(handler) == [("user", "hello")]
