"""TAP for the tests in Python (tests/tap.h is C's): `sys.path` must hold tests/."""

count = failed = 0


def ok(holds, what, seen=""):
    """One check; what was seen is told where it does not hold. Returns holds."""
    global count, failed
    count += 1
    failed += not holds
    print(f"{'ok' if holds else 'not ok'} {count} - {what}".replace("\n", " "), flush=True)
    if not holds and seen != "":
        note(str(seen)[:2000])
    return holds


def intact(holds, what, seen=""):
    """As ok(), of data that must be what it was: where it does not hold no second try makes that good (scripts/count)."""
    if not ok(holds, what, seen):
        note("no second try counts")
    return holds


def note(text):
    print("# " + text.replace("\n", "\n# "), flush=True)


def finish():
    """The plan last: a test that ended early has none, and that is a failure. Returns the exit status."""
    print(f"1..{count}", flush=True)
    return 1 if failed else 0
