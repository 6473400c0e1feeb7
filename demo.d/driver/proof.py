"""Prints the proof from report.json. It decides nothing: `result` and its reasons are the factory's."""


def mib(count):
    return f"{count / (1 << 20):,.0f} MiB"


def lines(report):
    for server in report["servers"]:
        yield f"{server['name']}:"
        for disk in server["disks"]:
            same = disk["source_sha256"] == disk["target_sha256"]
            yield (f"    disk {disk['id']}: {mib(disk['bytes_compared'])} of {mib(disk['size_bytes'])} compared, "
                   f"{'the same' if same else 'DIFFERENT'}")
            yield f"        source {disk['source_sha256']}"
            yield f"        copy   {disk['target_sha256']}"
        yield (f"    down for {(server['downtime_ms'] or 0) / 1000:.1f} s as seen from outside ({server['probes_failed']} of "
               f"{server['probes_total']} probes failed); {sum(check['passed'] for check in server['boot_checks'])} of "
               f"{len(server['boot_checks'])} boot checks hold; {len(server['mends'])} mends"
               + (f"; way back in {server['way_back_ms'] / 1000:.1f} s" if server.get("way_back_ms") else ""))
    rows = report["rows"]
    yield f"rows: {rows['acknowledged']:,} acknowledged, {rows['present']:,} present, {rows['missing']} missing, {rows['torn']} torn"
    moved = report["replication"]
    age = moved["newest_point_age_ms"]
    yield (f"replication: {mib(moved['bytes_read'])} read, {mib(moved['bytes_sent'])} sent, {mib(moved['bytes_stored'])} stored, "
           f"{mib(moved['rate_bytes_per_s'])}/s; newest point {age['p50'] / 1000:.1f} s old at p50, {age['p99'] / 1000:.1f} s at p99, {age['max'] / 1000:.1f} s at most")
    yield f"refused, as it must be: {len(report['refusals'])} requests"
    yield f"result: {report['result']}" + "".join(f"\n    {reason}" for reason in report.get("reasons", []))
