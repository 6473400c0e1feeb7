/* session.c: connecting, host keys, logging in. jump.c: a connection through another. run.c: commands and files. */
#pragma once

#include "remote/remote.h"

#include <libssh/libssh.h>

struct jump;

struct remote {
    ssh_session session;
    struct jump *jump;           /* what our socket goes through; NULL: nothing */
    char host_key[REMOTE_HOST_KEY_SIZE];
    char *name;                  /* "user@address:port" for messages */
    bool is_root;                /* the login is */
    enum remote_sudo sudo;
    bool sudo_checked;
    struct secret sudo_password;
    bool (*cancelled)(void *user_data);
    void *user_data;
};

/* Waits until the other end says something (or takes something), a while at most: 0, or -1 after until_us or when cancelled. */
int remote_wait(struct remote *r, int64_t until_us, const char *doing, struct err *e);

/* Opens a forwarded connection over `through` (taken in any case) to address:port; *fd is the near end, for the next session. */
int jump_open(struct remote *through, const char *address, int port, int timeout_ms, struct jump **out, int *fd, struct err *e);
void jump_close(struct jump **j);
/* Whether anything answers there, seen from that machine: as remote_answers. Takes nothing over. */
int jump_answers(struct remote *through, const char *address, int port, int timeout_ms, struct err *why);
