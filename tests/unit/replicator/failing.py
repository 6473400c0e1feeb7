#!/usr/bin/python3
"""failing: the replicator's disk fails, and the reason is told: it is not the agent that is away. Prints TAP. Usage: failing SLIPWAY SLIPWAY_AGENT FAIL_SYNC"""
import pathlib
import sys

SLIPWAY, AGENT, FAIL_SYNC = sys.argv[1], sys.argv[2], sys.argv[3]
sys.dont_write_bytecode = True
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2])]

from fake_agent import Agent  # pylint: disable=wrong-import-position
from replicated import World, in_world  # pylint: disable=wrong-import-position
from tap import ok  # pylint: disable=wrong-import-position


def is_named(world, what):
    """Whoever looks at the server is sent to the replicator's disk."""
    def named():
        server = world.server()
        return (server["cause"] or {}).get("kind") == "replicator_trouble" and server["error"]["kind"] == "io" and server["state"] == "STALLED"

    world.wait(f"{what}: the replicator's disk is the cause", named)


def steps(world):
    sick = world.dir / "sick"
    world.certificates()
    world.start_replicator(LD_PRELOAD=FAIL_SYNC, FAIL_SYNC=str(sick))
    world.wait("the replicator listens", lambda: world.ask("status"))
    agent = Agent(world, "web01")
    agent.goes_on()
    world.wait("all is well", lambda: world.server()["state"] == "CONTINUOUS" and not world.server()["cause"])
    sick.touch()
    agent.offer()
    world.wait("a flush fails: the session ends", lambda: not world.server()["connected"])
    is_named(world, "while its agent is on its way back")
    agent = Agent(world, "web01", greet=False)
    ok(agent.expect("REFUSE")["kind"] == "io", "an agent that begins anew is refused, in words")
    is_named(world, "and after it was sent away")
    world.kill("replicator")
    sick.unlink()
    world.start_replicator(LD_PRELOAD=FAIL_SYNC, FAIL_SYNC=str(sick))
    world.wait("the replicator listens again, on a disk that was mended", lambda: world.ask("status"))
    agent = Agent(world, "web01")
    agent.goes_on()
    world.wait("and all is well", lambda: world.server()["state"] == "CONTINUOUS" and not world.server()["cause"])


in_world(lambda: World(SLIPWAY, AGENT), steps)
