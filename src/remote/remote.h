/* remote: commands and files on another machine over SSH. Host keys are pinned: nothing is sent, no password and no key's signature,
 * before the other end's key was compared. Every call has a time limit, every output a bound. Secrets go over stdin only, never onto
 * a command line of the other machine. One connection is for one thread at a time.
 *
 * It does not keep known hosts or secrets (the caller does), and knows nothing of what the commands mean. WinRM has no place here yet. */
#pragma once

#include "base/mem.h"

struct remote; /* an open, authenticated connection */

#define REMOTE_HOST_KEY_SIZE 64  /* "SHA256:" and base64 of 32 bytes */

enum remote_sudo {
    REMOTE_SUDO_NONE,     /* the login is root, or root is not needed */
    REMOTE_SUDO_NOPASSWD,
    REMOTE_SUDO_PASSWORD  /* sudo_password, or the login's password where it is NULL */
};

struct remote_options {
    const char *address;
    int port;                        /* 0: 22 */
    int fd;                          /* a connected socket to use, taken over in any case (closed on failure); 0 or -1: dial the address */
    const char *user;
    const char *private_key;         /* its text (OpenSSH or PEM), without a passphrase; NULL: none */
    const char *password;            /* for "password" and "keyboard-interactive"; NULL: none */
    enum remote_sudo sudo;
    const char *sudo_password;
    const char *host_key;            /* pinned: "SHA256:…"; NULL: not known yet */
    bool accept_unknown;             /* a key that is not known yet is taken; the caller pins remote_host_key() */
    int timeout_ms;                  /* of connecting and logging in, each; 0: 20,000 */
    const struct remote_options *jump; /* a host to go through (its host key is held to the same rules); NULL: none */
    bool (*cancelled)(void *user_data); /* asked several times a second while waiting; NULL: never */
    void *user_data;
};

/* ERR_UNREACHABLE, ERR_TIMEOUT: no answer. ERR_DENIED: the host key is not the pinned one, or not known (the message has the
 * fingerprints and what to do). ERR_UNAUTHENTICATED: key or password refused. ERR_INVALID: the private key can't be read. */
int remote_open(const struct remote_options *options, struct remote **out, struct err *e);
void remote_close(struct remote **r);                  /* for CLEANUP; NULL inside is fine */
const char *remote_host_key(const struct remote *r);   /* "SHA256:…" of the machine at the end; borrowed */
/* Only asks for the key of the machine, logs in nowhere (but at the jump host). */
int remote_scan(const struct remote_options *options, char host_key[static REMOTE_HOST_KEY_SIZE], struct err *e);

/* Whether there is a machine at options' address whose network lives, seen from where remote_open would go: 1: it answers, if only to refuse the
 * connection; 0: nothing came back, *why says how; -1: that could not be asked (the jump host is away, or lets nobody through). Logs in at the
 * jump host only. */
int remote_answers(const struct remote_options *options, struct err *why);

/* Runs a command line with the login's shell. out and err may be NULL (dropped); each is bounded by its limit_bytes (0:
 * LIMIT_COMMAND_OUTPUT_BYTES): over it, out is ERR_LIMIT and err is cut. exit_status: 0-255, or 128 and a signal's number.
 * A command that ran and failed is no error here. out is whole: where its end does not come for half a minute after the exit status (what
 * the command left behind holds it open), that is ERR_TIMEOUT. After an error of time or limit the connection can still be used. */
int remote_run(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, struct buf *err,
               int *exit_status, int timeout_ms, struct err *e);
/* The same as root: directly where the login is root, else through sudo as the options say. ERR_DENIED where sudo refuses. */
int remote_run_root(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, struct buf *err,
                    int *exit_status, int timeout_ms, struct err *e);
/* Each of them, where anything but exit status 0 is ERR_IO with the end of what it said. out may be NULL. */
int remote_must(struct remote *r, const char *command, struct buf *out, int timeout_ms, struct err *e);
int remote_must_root(struct remote *r, const char *command, const void *input, size_t input_bytes, struct buf *out, int timeout_ms,
                     struct err *e);

/* Writes a file as root: beside it first, its SHA-256 compared there, then renamed; mode like 0755. The folder must exist. */
int remote_put_root(struct remote *r, const char *path, const void *bytes, size_t size, unsigned mode, int timeout_ms, struct err *e);

/* One word of a POSIX shell, quoted; the caller frees. */
char *remote_quote(const char *text);
