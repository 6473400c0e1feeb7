/* enrol: how a runner and a replicator get their identity: they make a key that never leaves them, send a CSR with a one-time
 * token to POST /v1/enrol, and keep the certificate. Done once; a folder that has an identity is left as it is. */
#pragma once

#include "base/err.h"
#include "base/mem.h"

/* Files in the identity's folder. */
#define ENROL_KEY "key.pem"          /* mode 0600 */
#define ENROL_CERTIFICATE "cert.pem"
#define ENROL_CA "ca.pem"

struct enrol_options {
    const char *folder;         /* made, mode 0700 */
    const char *factory_url;    /* "https://factory:8443" */
    const char *ca_file;        /* PEM of the factory's CA … */
    const char *ca_fingerprint; /* … or its "SHA256:…", where there is no file */
    const char *kind, *name;    /* "runner", "dc1": the certificate's CN becomes runner:dc1, and is checked */
    const char *token;          /* one-time */
};

/* 0: enrolled now; 1: was enrolled before (token and CA are not looked at); -1. */
int enrol(const struct enrol_options *options, struct err *e);
/* A new P-256 key and a CSR for that CN, both PEM; for whoever sends the CSR another way. */
int enrol_csr(const char *common_name, struct secret *key_pem, char **csr_pem, struct err *e);
