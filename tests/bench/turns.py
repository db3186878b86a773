"""Ways of doing the same by turns, and how long each took: on the clock and on the CPU."""

import resource
import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Took:
    """Seconds of one way, a number a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of all threads, and of processes that have ended


def by_turns(ways, rounds, *, warm_up=1):
    """Call each of `ways`, {name: function}, once a round, every second round backwards; return {name: Took}."""
    took = {name: Took() for name in ways}
    for number in range(-warm_up, rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            clock, cpu = time.perf_counter(), cpu_seconds()
            ways[name]()
            if number >= 0:
                took[name].wall.append(time.perf_counter() - clock)
                took[name].cpu.append(cpu_seconds() - cpu)
        last = (f"{name} {own.wall[-1]:.3g} s" for name, own in took.items() if own.wall)
        say(f"round {number + 1} of {rounds}: {', '.join(last)}")
    return took


def cpu_seconds():
    """Return the seconds of the CPU that this process has taken, and processes that it has started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def say(text):
    """Print progress, which is seen at once with `--capture=sys`."""
    print(f"  {text}", file=sys.__stderr__, flush=True)
