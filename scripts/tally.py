#!/usr/bin/env python3
"""tally.py FILE [--again AGAIN] [--list]: counts the cases in a JUnit file of ctest or pytest.

Names those that failed, each with what it said, then prints "passed failed". A ctest entry is one program; how many cases it ran is what
cmocka says in its output. Skipped cases count as neither and are named: a test that did not run proves nothing. Exit status 1 when there is
no case at all.

--list prints instead what may be run once more, as pytest's node ids: what failed without a word of a sanitizer. AGAIN is the JUnit file of
that second run: what passed there counts as passed, and is named as unstable.
"""
import argparse
import re
import sys
import xml.etree.ElementTree as tree

REPORTS = re.compile(r"Sanitizer|runtime error:|LeakSan|panicked|SIGSEGV|SIGABRT")
LINES = 12  # of what a failed test said


def name_of(case):
    if case.get("classname") == case.get("name"):
        return case.get("name")
    return ".".join(part for part in (case.get("classname"), case.get("name")) if part)


def failure_of(case):
    """The element that says so, or None."""
    found = [case.find("failure"), case.find("error")]
    return next((element for element in found if element is not None), None)


def has_failed(case):
    return failure_of(case) is not None or case.get("status") == "fail"


def words_of(case):
    """Everything that is known of a failure."""
    failure = failure_of(case)
    texts = [] if failure is None else [failure.get("message") or "", failure.text or ""]
    return "\n".join(texts + [part.text or "" for part in case if part.tag in ("system-out", "system-err")])


def summary_of(case):
    """pytest marks what went wrong with E; its message stands for it when there is no such line."""
    failure = failure_of(case)
    if failure is None:
        return []
    lines = [line for line in (failure.text or "").splitlines() if line.startswith("E  ")]
    return [line[:300] for line in (lines or (failure.get("message") or "").splitlines())[:LINES]]


def may_run_again(case):
    return has_failed(case) and not REPORTS.search(words_of(case))


def node_id(case):
    return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"


def cases_of(path):
    return list(tree.parse(path).iter("testcase"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--again")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    cases = cases_of(args.file)
    if args.list:
        print("\n".join(dict.fromkeys(node_id(case) for case in cases if may_run_again(case))))
        return 0

    second = {}
    for case in cases_of(args.again) if args.again else []:  # one that failed on its way down stands there twice
        second[name_of(case)] = second.get(name_of(case), True) and not has_failed(case) and case.find("skipped") is None
    passed = failed = 0
    for case in cases:
        name = name_of(case)
        output = "".join(part.text or "" for part in case.iter("system-out"))
        ok = sum(map(int, re.findall(r"^\[  PASSED  \] (\d+) test", output, re.M)))
        bad = re.findall(r"^\[  FAILED  \] (?!\d+ test)(\S+)$", output, re.M)
        skipped = case.find("skipped")
        if skipped is not None or case.get("status") in ("disabled", "notrun"):
            print(f"(not run) {name} {skipped.get('message', '') if skipped is not None else ''}".rstrip())
            if case.get("status") == "notrun":  # ctest: the program is not there
                failed += 1
        elif has_failed(case):
            unstable = may_run_again(case) and second.get(name, False)
            passed += ok + unstable
            failed += 0 if unstable else max(1, len(set(bad)))
            how = "passed when it ran once more, alone" if unstable else ", ".join(dict.fromkeys(bad)) or "crashed, timed out or failed"
            print(f"{'(unstable) ' if unstable else ''}{name}: {how}")
            print("".join(f"    {line}\n" for line in summary_of(case)), end="")
        else:
            passed += max(1, ok)
    print(passed, failed)
    return 0 if passed + failed else 1


if __name__ == "__main__":
    sys.exit(main())
