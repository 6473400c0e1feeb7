#!/usr/bin/python3
"""A CMDB's program as an owner might write it; its one argument says how it behaves."""
import json
import sys

asked = json.load(sys.stdin)
how = sys.argv[1]
if how == "good":
    status = "retired" if asked["verb"] == "retire" else "active"
    if asked["verb"] != "check":
        print(json.dumps({"record": {"id": "7", "name": asked["name"], "status": status}}))
    print(json.dumps({"done": True}))
elif how == "short":
    print(json.dumps({"record": {"id": "7", "name": asked["name"], "status": "active"}}))
elif how == "error":
    print(json.dumps({"error": "the ledger is closed on Sundays", "kind": "unreachable"}))
elif how == "keeps":
    print(json.dumps({"record": {"id": "7", "name": asked["name"], "status": "active"}}))
    print(json.dumps({"done": True}))
else:
    sys.exit(3)
