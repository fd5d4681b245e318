#!/usr/bin/env python3
"""Writes the golden plists beside this file: what launchd must be told, said in Python and not by the program under test.

The program's own path, its configuration and a home are filled in by the test (@PROGRAM@, @CONFIG@, @HOME@).
"""
import plistlib
from pathlib import Path

HERE = Path(__file__).parent


def job(arguments, **more):
    return {
        "Label": "com.mlx.ollama.bridge",
        "ProgramArguments": ["@PROGRAM@", "run", "--give-up-ok", *arguments],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # what it is asked to end with is 0, and it stays ended
        "ThrottleInterval": 10,
        "ProcessType": "Interactive",  # answers are waited for by people
        "ExitTimeOut": 30 + 15,  # the drain, and some
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        **more,
    }


PLISTS = {
    "agent": job([], LimitLoadToSessionType=["Aqua", "Background"]),
    "agent-socket": job(["--config", "@CONFIG@"], LimitLoadToSessionType=["Aqua", "Background"],
                        Sockets={"bridge": {"SockNodeName": "127.0.0.1", "SockServiceName": "11435", "SockType": "stream"}}),
    "daemon": job([], UserName="daemon", EnvironmentVariables={"HOME": "@HOME@"}),
}

if __name__ == "__main__":
    for name, plist in PLISTS.items():
        with open(HERE / f"{name}.plist", "wb") as out:
            plistlib.dump(plist, out)
