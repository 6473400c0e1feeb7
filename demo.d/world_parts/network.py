"""The demo's networks, all in namespaces named after the run:

  slipway-dc-RUN       the source data centre: bridge br0 192.0.2.1/24 with the guests' TAPs; routes out to the factory, masqueraded
  slipway-client-RUN   a machine of the data centre's users, 192.0.2.200 on that bridge: the probe, the log of acknowledged rows
  slipway-factory-RUN  the factory, 198.51.100.2/30: reaches 198.51.100.1 (the runner's way in, the CMDB) and has no route to 192.0.2.0/24
"""
import os

from .common import end_process, run

DC_GATEWAY = "192.0.2.1"
CLIENT = "192.0.2.200"
DC_OUTSIDE = "198.51.100.1"
FACTORY = "198.51.100.2"
BRIDGE = "br0"

NAT = """
table ip slipway_demo {
    chain postrouting {
        type nat hook postrouting priority srcnat;
        oifname "outside" masquerade
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "outside" ct state established,related accept
        iifname "outside" drop
    }
}
"""


class Network:
    def __init__(self, run_name):
        self.run = run_name
        self.dc, self.client, self.factory = (f"slipway-{part}-{run_name}" for part in ("dc", "client", "factory"))

    def namespaces(self):
        """Those of this run that exist, the instances' of the target included (they carry the run's name, too)."""
        try:
            return sorted(name for name in os.listdir("/run/netns") if name.startswith("slipway-") and self.run in name)
        except FileNotFoundError:
            return []

    def up(self, taps):
        self.down()
        for namespace in (self.dc, self.client, self.factory):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        batch = [f"link add {BRIDGE} type bridge forward_delay 0", f"link set {BRIDGE} up", f"addr add {DC_GATEWAY}/24 dev {BRIDGE}"]
        for tap in taps:
            batch += [f"tuntap add dev {tap} mode tap", f"link set {tap} master {BRIDGE} up"]
        batch += [f"link add client master {BRIDGE} up type veth peer name lan netns {self.client}",
                  f"link add outside type veth peer name uplink netns {self.factory}",
                  f"addr add {DC_OUTSIDE}/30 dev outside", "link set outside up"]
        self._batch(self.dc, batch)
        self._batch(self.client, [f"addr add {CLIENT}/24 dev lan", "link set lan up", f"route add default via {DC_GATEWAY}"])
        self._batch(self.factory, [f"addr add {FACTORY}/30 dev uplink", "link set uplink up"])
        run("ip", "netns", "exec", self.dc, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        run("ip", "netns", "exec", self.dc, "nft", "-f", "-", input=NAT)

    @staticmethod
    def _batch(namespace, lines):
        run("ip", "-n", namespace, "-batch", "-", input="\n".join(lines) + "\n")

    def down(self):
        """Ends what still runs in the namespaces (they are ours by name) and removes them."""
        for namespace in self.namespaces():
            for pid in run("ip", "netns", "pids", namespace, check=False).split():
                end_process(int(pid), 2)
            run("ip", "netns", "del", namespace, check=False)


def within(namespace, *command):
    return ("ip", "netns", "exec", namespace, *command)
