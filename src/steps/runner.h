/* runner: `slipway runner`: enrols, claims tasks over HTTPS, runs each attempt in a process of its own, and tells the factory. Only
 * dials out. Killed at any moment it loses nothing: what had ended is on disk and is told after the next start; what was running is
 * given again by the factory, under a higher fence, when its lease has run out. */
#pragma once

/* argv[0] is "runner". Runs until SIGTERM or SIGINT; returns the exit code. The program that calls it must be startable again as
 * `/proc/self/exe runner --attempt`: that is how attempts run. */
int runner_main(int argc, char **argv);
