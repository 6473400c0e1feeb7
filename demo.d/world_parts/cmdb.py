"""A small CMDB that speaks NetBox's REST dialect, so that Slipway's cmdb room talks to it as it would to the real one.

Served: /api/status/, devices, virtual machines (list with ?name=, ?limit=, ?offset=; one; PATCH) and journal entries (list; POST). Answers carry
count/next/previous/results; a change without a valid token is 403. The state is one JSON file."""
import http.server
import json
import re
import threading
import urllib.parse

from .common import read_json, timestamp, write_json

STATUSES = {"virtualization/virtual-machines": ("offline", "active", "planned", "staged", "failed", "decommissioning"),
            "dcim/devices": ("offline", "active", "planned", "staged", "failed", "inventory", "decommissioning")}
TYPES = {"virtualization/virtual-machines": "virtualization.virtualmachine", "dcim/devices": "dcim.device"}
JOURNAL = "extras/journal-entries"
KINDS = ("info", "success", "warning", "danger")
BODY_LIMIT = 1 << 20
WRITABLE = ("name", "status", "comments", "custom_fields", "tags", "description")


def choice(value):
    return {"value": value, "label": value.capitalize()}


def first_state(servers):
    """servers: {name: address}. Both are virtual machines; there is a device beside them that nobody is to touch."""
    machines = []
    for number, (name, address) in enumerate(sorted(servers.items()), 101):
        machines.append({"id": number, "name": name, "status": choice("active"), "primary_ip4": {"address": f"{address}/24"},
                         "description": "", "comments": "", "tags": [], "custom_fields": {}, "created": timestamp(), "last_updated": timestamp()})
    device = {"id": 7, "name": "dc-router", "status": choice("active"), "primary_ip4": {"address": "192.0.2.1/24"}, "description": "",
              "comments": "", "tags": [], "custom_fields": {}, "created": timestamp(), "last_updated": timestamp()}
    return {"virtualization/virtual-machines": machines, "dcim/devices": [device], JOURNAL: []}


class Refused(Exception):
    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


class Store:
    """The records, and the file that they live in."""

    def __init__(self, path):
        self.path, self.lock = path, threading.Lock()
        self.tables = read_json(path)

    def find(self, table, number):
        for record in self.tables[table]:
            if record["id"] == number:
                return record
        raise Refused(404, {"detail": "Not found."})

    def change(self, table, number, wanted):
        with self.lock:
            record = dict(self.find(table, number))
            faults = {name: ["This field is not writable here."] for name in wanted if name not in WRITABLE}
            if "status" in wanted:
                if wanted["status"] not in STATUSES.get(table, ()):
                    faults["status"] = [f"\"{wanted['status']}\" is not a valid choice."]
                record["status"] = choice(str(wanted["status"]))
            if not isinstance(wanted.get("custom_fields", {}), dict):
                faults["custom_fields"] = ["A JSON object is required."]
            if faults:
                raise Refused(400, faults)
            record |= {name: value for name, value in wanted.items() if name not in ("status", "custom_fields")}
            record["custom_fields"] = record["custom_fields"] | wanted.get("custom_fields", {})
            record["last_updated"] = timestamp()
            self.tables[table] = [record if held["id"] == number else held for held in self.tables[table]]
            write_json(self.path, self.tables)
            return record

    def journal(self, wanted):
        with self.lock:
            faults = {name: ["This field is required."] for name in ("assigned_object_type", "assigned_object_id", "comments")
                      if not wanted.get(name)}
            kind = wanted.get("kind", "info")
            if kind not in KINDS:
                faults["kind"] = [f"\"{kind}\" is not a valid choice."]
            tables = [table for table, name in TYPES.items() if name == wanted.get("assigned_object_type")]
            if "assigned_object_type" not in faults and not tables:
                faults["assigned_object_type"] = ["Invalid object type."]
            if faults:
                raise Refused(400, faults)
            self.find(tables[0], wanted["assigned_object_id"])
            entry = {"id": len(self.tables[JOURNAL]) + 1, "assigned_object_type": wanted["assigned_object_type"],
                     "assigned_object_id": wanted["assigned_object_id"], "kind": choice(kind), "comments": wanted["comments"],
                     "created": timestamp()}
            self.tables[JOURNAL].append(entry)
            write_json(self.path, self.tables)
            return entry


def matches(record, query):
    """NetBox's filters, as far as they go here: equality of plain fields, any of several values."""
    for name, values in query.items():
        held = record.get(name)
        if name in ("limit", "offset", "brief", "ordering"):
            continue
        if str(held["value"] if isinstance(held, dict) and "value" in held else held) not in values:
            return False
    return True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store = token = None

    def do_GET(self):
        self.answer(self.get)

    def do_PATCH(self):
        self.answer(self.patch)

    def do_POST(self):
        self.answer(self.post)

    def answer(self, verb):
        body = self.rfile.read(min(int(self.headers.get("Content-Length") or 0), BODY_LIMIT))
        address = urllib.parse.urlsplit(self.path)
        try:
            if self.headers.get("Authorization") != f"Token {self.token}":
                raise Refused(403, {"detail": "Invalid token" if self.headers.get("Authorization") else
                                    "Authentication credentials were not provided."})
            found = re.fullmatch(r"/api/(?:(status)|([a-z-]+/[a-z-]+)(?:/(\d+))?)/", address.path)
            if not found or not found.group(1) and found.group(2) not in self.store.tables:
                raise Refused(404, {"detail": "Not found."})
            try:
                wanted = json.loads(body) if body else {}
            except ValueError as fault:
                raise Refused(400, {"detail": f"JSON parse error - {fault}"}) from None
            if not isinstance(wanted, dict):
                raise Refused(400, {"detail": "A JSON object is required."})
            status, value = verb(found.group(2), int(found.group(3)) if found.group(3) else None, urllib.parse.parse_qs(address.query), wanted)
        except Refused as refused:
            status, value = refused.status, refused.body
        text = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def get(self, table, number, query, _):
        if table is None:
            return 200, {"netbox-version": "3.7.0", "plugins": {}}
        if number is not None:
            return 200, self.with_url(table, self.store.find(table, number))
        found = [record for record in self.store.tables[table] if matches(record, query)]
        try:
            limit, offset = int(query.get("limit", ["50"])[0]) or 1000, int(query.get("offset", ["0"])[0])
        except ValueError:
            raise Refused(400, {"detail": "limit and offset are numbers"}) from None
        following = offset + limit
        again = urllib.parse.urlencode({**{name: values[0] for name, values in query.items()}, "limit": limit, "offset": following})
        return 200, {"count": len(found), "previous": None, "next": f"{self.base(table)}?{again}" if following < len(found) else None,
                     "results": [self.with_url(table, record) for record in found[offset:following]]}

    def patch(self, table, number, _, wanted):
        if table not in STATUSES or number is None:
            raise Refused(405, {"detail": 'Method "PATCH" not allowed.'})
        return 200, self.with_url(table, self.store.change(table, number, wanted))

    def post(self, table, number, _, wanted):
        if table != JOURNAL or number is not None:
            raise Refused(405, {"detail": 'Method "POST" not allowed.'})
        return 201, self.with_url(table, self.store.journal(wanted))

    def base(self, table):
        return f"http://{self.headers.get('Host', 'localhost')}/api/{table}/"

    def with_url(self, table, record):
        return {"url": f"{self.base(table)}{record['id']}/", **record}


def serve(address, port, path, token):
    Handler.store, Handler.token = Store(path), token
    http.server.ThreadingHTTPServer((address, int(port)), Handler).serve_forever()
