"""counter: writes web01's page again every half second: the host's name and a counter that grows. The page is always whole
(written beside, synced, renamed), and the counter goes on from the page after a restart."""
import os
import re
import socket
import time

PAGE = "/srv/www/index.html"


def main():
    try:
        with open(PAGE, encoding="utf-8") as page:
            count = int(re.search(r"counter (\d+)", page.read()).group(1))
    except (OSError, AttributeError):
        count = 0
    while True:
        count += 1
        host = socket.gethostname()
        with open(PAGE + ".new", "w", encoding="utf-8") as page:
            page.write(f"<!doctype html>\n<title>{host}</title>\n<h1>{host}</h1>\n<p>counter {count}</p>\n")
            page.flush()
            os.fsync(page.fileno())
        os.replace(PAGE + ".new", PAGE)
        time.sleep(0.5)


main()
