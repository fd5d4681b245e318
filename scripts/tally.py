#!/usr/bin/env python3
"""Counts the cases in a JUnit file of ctest or pytest: names those that failed, then prints "passed failed".

A ctest entry is one program; how many cases it ran is what cmocka says in its output. Skipped cases count as neither and
are named: a test that did not run proves nothing. Exit status 1 when there is no case at all.
"""
import re
import sys
import xml.etree.ElementTree as tree


def main():
    passed = failed = 0
    for case in tree.parse(sys.argv[1]).iter("testcase"):
        name = ".".join(part for part in (case.get("classname"), case.get("name")) if part)
        if case.get("classname") == case.get("name"):
            name = case.get("name")
        output = "".join(part.text or "" for part in case.iter("system-out"))
        ok = sum(map(int, re.findall(r"^\[  PASSED  \] (\d+) test", output, re.M)))
        bad = re.findall(r"^\[  FAILED  \] (?!\d+ test)(\S+)$", output, re.M)
        if case.find("skipped") is not None or case.get("status") in ("disabled", "notrun"):
            reason = case.find("skipped")
            text = reason.get("message", "") if reason is not None else ""
            print(f"(not run) {name} {text}".rstrip())
            if case.get("status") == "notrun":  # ctest: the program is not there
                failed += 1
        elif case.find("failure") is not None or case.find("error") is not None or case.get("status") == "fail":
            passed += ok
            failed += max(1, len(set(bad)))
            print(f"{name}: {', '.join(dict.fromkeys(bad)) or 'crashed, timed out or failed; see the log'}")
        else:
            passed += max(1, ok)
    print(passed, failed)
    return 0 if passed + failed else 1


if __name__ == "__main__":
    sys.exit(main())
