/* replicator: the staging end of replication: takes blocks from agents over mutual TLS, keeps the vault, serves recovery points over NBD,
 * takes orders over a local control socket, tells the factory its state. */
#pragma once

/* `slipway replicator`: argv[0] is the command's name; returns the exit code. Runs until SIGTERM or SIGINT. */
int replicator_main(int argc, char **argv);
/* `slipway vault stat|check|scrub`: looks at a vault, itself or through the replicator that has it open. */
int vault_main(int argc, char **argv);
