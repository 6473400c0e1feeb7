"""ledger: db01's writer. Commits a numbered row every few milliseconds (as quick as the machine allows; PAUSE_S); after the database has acknowledged a row, tells its number and
checksum to another machine ("N SUM\n" over TCP). It writes only while that machine listens.

What can be checked afterwards: every number that the other machine holds is a row here, with that checksum (acknowledged is a
subset of present), and each row's checksum fits its payload (none torn). The payload is random, so that a number that was
lost and given again shows as another checksum."""
import hashlib
import os
import socket
import sys
import time

import pgwire

PAUSE_S = 0.004  # between two rows, or twice as long as the row took: an emulated machine is not to be kept busy by this alone
SOCKET = "/var/run/postgresql/.s.PGSQL.5432"


def write(database, log):
    number = int(database.query("SELECT coalesce(max(n), 0) FROM ledger")[0][0])
    while True:
        number += 1
        begun = time.monotonic()
        payload = os.urandom(100).hex()
        checksum = hashlib.md5(f"{number} {payload}".encode()).hexdigest()
        database.query(f"INSERT INTO ledger VALUES ({number}, '{payload}', '{checksum}')")
        log.sendall(f"{number} {checksum}\n".encode())
        time.sleep(max(PAUSE_S, 2 * (time.monotonic() - begun)))


def main():
    host, _, port = sys.argv[1].rpartition(":")
    said = None
    while True:
        try:
            with socket.create_connection((host, int(port)), 3) as log, pgwire.Connection(SOCKET, "ledger", "ledger", 30) as database:
                log.settimeout(10)
                write(database, log)
        except OSError as failure:
            if str(failure) != said:
                said = str(failure)
                print(f"waiting: {said}", flush=True)
            time.sleep(0.2)


main()
