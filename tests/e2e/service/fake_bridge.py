"""A bridge that does what a test wants of it: FAKE_DO holds words.

    start-slow      is ready only after a second
    die             ends with FAKE_CODE as soon as it is ready
    die-before      ends with FAKE_CODE before that
    ill             answers /health with 500
    silent          never sends WATCHDOG
    lines           prints FAKE_LINES numbered lines to stdout, and as many to stderr, then stays
    trickle         prints a numbered line to stdout every few milliseconds
    requests        says that it has had one more request, many times a second
    deaf            does not end on SIGTERM
"""
import http.server
import os
import signal
import socket
import sys
import threading
import time

do = os.environ.get("FAKE_DO", "").split()
health = 0


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global health
        health += self.path == "/health"
        body = f'{{"pid": {os.getpid()}, "health": {health}}}'.encode()
        self.send_response(500 if "ill" in do else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def notify(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


def ping():
    n = 0
    while True:
        time.sleep(0.05)
        n += 1
        notify(("" if "silent" in do else "WATCHDOG=1\n") + (f"X_REQUESTS={n}\n" if "requests" in do else ""))


def lines(n, pause):
    for i in range(n):
        os.write(1, b"%d a line of the bridge on its standard output, of some length\n" % i)
        if not pause:
            os.write(2, b"%d a line of the bridge on its standard error, of some length\n" % i)
        else:
            time.sleep(pause)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # running answers are waited for

    def server_bind(self):
        pass

    def server_activate(self):
        pass


def main():
    given = socket.socket(fileno=int(sys.argv[sys.argv.index("--listen-fd") + 1]))
    server = None

    def stop(*_):
        if not server:
            os._exit(0)
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in do else stop)
    if "start-slow" in do:
        time.sleep(1)
    if "die-before" in do:
        print("the bridge's last words", file=sys.stderr, flush=True)
        os._exit(int(os.environ["FAKE_CODE"]))
    server = Server(("", 0), Handler)
    server.socket.close()
    server.socket = given
    notify("READY=1\nSTATUS=as well as can be\n")
    if "die" in do:
        os._exit(int(os.environ["FAKE_CODE"]))
    threading.Thread(target=ping, daemon=True).start()
    if "lines" in do:
        threading.Thread(target=lines, args=(int(os.environ["FAKE_LINES"]), 0), daemon=True).start()
    if "trickle" in do:
        threading.Thread(target=lines, args=(10**9, 0.005), daemon=True).start()
    server.serve_forever(0.02)
    server.server_close()
    os._exit(0)


main()
