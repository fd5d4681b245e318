#!/usr/bin/env python3
"""Asks a running server, streams the answer to the terminal, prints how fast it came.

  ask.py URL --model MODEL --prompt PROMPT [--pid PID] [--chat] [--words N]
  ask.py URL --version        what the server says it is; fails when none answers
  ask.py URL --has MODEL      succeeds when the server has the model

--chat goes on with a conversation, one line at a time, until an empty line. --pid adds that process's memory.
"""
import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request


def stream(url, body):
    """The JSON lines of a streamed answer."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            for line in answer:
                event = json.loads(line)
                if "error" in event:
                    sys.exit(f"error: {event['error']}")
                yield event
    except urllib.error.HTTPError as problem:
        sys.exit(f"error: {problem.code} {problem.read().decode(errors='replace').strip()}")


def memory_mib(pid):
    out = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    if not out.strip():  # a small system without ps
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            out = next(line.split()[1] for line in status if line.startswith("VmRSS:"))
    return int(out) / 1024


def show(events, started):
    """Prints the text as it comes; returns it, the seconds to the first piece, and the last event."""
    text, first, last = "", None, {}
    for event in events:
        piece = event.get("response") or event.get("message", {}).get("content", "")
        if piece:
            first = first if first is not None else time.monotonic() - started
            print(piece, end="", flush=True)
            text += piece
        last = event
    print(flush=True)
    if not last.get("done") or first is None:
        sys.exit("error: the answer ended before it was complete; look at the server's log")
    return text, first, last


def statistics(first, last, pid):
    n, seconds = last.get("eval_count", 0), last.get("eval_duration", 0) / 1e9
    parts = [f"time to first token {first:.2f} s (loading {last.get('load_duration', 0) / 1e9:.2f} s)"]
    if seconds > 0:
        parts.append(f"{n / seconds:.1f} tokens/s")
    if pid:
        parts.append(f"memory {memory_mib(pid):.0f} MiB")
    return ", ".join(parts)


def chat(url, model):
    messages = []
    print("\nGo on, one line at a time; an empty line ends.")
    while True:
        try:
            line = input(">>> ").strip()
        except (EOFError, KeyboardInterrupt):
            line = ""
        if not line:
            return
        messages.append({"role": "user", "content": line})
        text, _, _ = show(stream(f"{url}/api/chat", {"model": model, "messages": messages}), time.monotonic())
        messages.append({"role": "assistant", "content": text})


def probe(args):
    """0 when the server is there and, with --has, holds the model."""
    path, body = ("/api/show", json.dumps({"model": args.has}).encode()) if args.has else ("/api/version", None)
    try:
        with urllib.request.urlopen(args.url + path, body, timeout=10) as answer:
            print("" if args.has else json.load(answer)["version"], end="")
        return 0
    except (OSError, ValueError, KeyError):
        return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("--has", metavar="MODEL")
    parser.add_argument("--model")
    parser.add_argument("--prompt")
    parser.add_argument("--pid", type=int)
    parser.add_argument("--words", type=int, default=128, help="tokens at most (128)")
    parser.add_argument("--chat", action="store_true")
    args = parser.parse_args()
    if args.version or args.has:
        sys.exit(probe(args))
    if not args.model or not args.prompt:
        parser.error("--model and --prompt are needed")

    print(f">>> {args.prompt}")
    body = {"model": args.model, "prompt": args.prompt, "options": {"num_predict": args.words}}
    _, first, last = show(stream(f"{args.url}/api/generate", body), time.monotonic())
    print(f"\n{statistics(first, last, args.pid)}")
    if args.chat:
        chat(args.url, args.model)


if __name__ == "__main__":
    main()
