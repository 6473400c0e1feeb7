#!/usr/bin/python3
"""netbox_server.py FOLDER: the demo's CMDB on a free port of loopback, for the tests of cmdb/. Prints the port. Names that begin with
"broken-" get a 500, "twins" is there twice."""
import http.server
import pathlib
import sys
import threading

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "demo.d"))
from world_parts import cmdb  # noqa: E402
from world_parts.common import write_json  # noqa: E402

folder = pathlib.Path(sys.argv[1])
state = cmdb.first_state({"web01": "192.0.2.11", "db01": "192.0.2.12"})
machines = state["virtualization/virtual-machines"]
machines += [{**machines[0], "id": 200 + number, "name": "twins"} for number in range(2)]
write_json(folder / "cmdb.json", state)


class Handler(cmdb.Handler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if "broken-" in self.path:
            self.send_error(500)
        else:
            super().do_GET()


Handler.store, Handler.token = cmdb.Store(folder / "cmdb.json"), "sesame"
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()  # ends with its starter
