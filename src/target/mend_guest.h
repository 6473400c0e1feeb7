/* mend_guest: what mend_run.c and mend_guest.c share. */
#pragma once

#include "target/mend.h"

#include <guestfs.h>

struct guest {
    const struct mend_request *request;
    guestfs_h *handle;
    char *root;                /* the device that holds / */
    struct mend_name *names;   /* each partition of the source, by its name there */
    int name_count;
    bool done;                 /* the watcher may end */
    int broken_off;            /* ERR_CANCELLED or ERR_TIMEOUT: the watcher ends the appliance */
};

void guest_release(struct guest *g);
void guest_free_list(char **list);        /* libguestfs's lists of strings; NULL is fine */
void guest_free_text(char **text);        /* for CLEANUP */
int guest_failed(const struct guest *g, struct err *e, const char *what); /* -1, with libguestfs's last words */

/* Each looks, says in lines what it saw, and mends what must be; -1 where it can't. */
int guest_names(struct guest *g, struct err *e);
int guest_mend_names(struct guest *g, json_t *lines, json_t *mends, struct err *e);      /* fstab, crypttab, boot parameters */
int guest_mend_interfaces(struct guest *g, json_t *lines, json_t *mends, struct err *e);
int guest_mend_drivers(struct guest *g, json_t *lines, json_t *mends, struct err *e);
int guest_mend_loader(struct guest *g, json_t *lines, json_t *mends, struct err *e);     /* UEFI's fallback path */
