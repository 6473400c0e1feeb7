/* rule: what a field may hold, as data: name, type and rule of each server column, server attribute and wave setting. The API, the
 * CSV import and the lists of what is known all read these tables; adding an attribute is adding a row. */
#pragma once

#include "base/json.h"

enum rule_type {
    RULE_TEXT,    /* a line of UTF-8, min to max bytes */
    RULE_NAME,    /* [A-Za-z0-9][A-Za-z0-9._-]*, at most max bytes */
    RULE_NAMES,   /* names, separated by commas */
    RULE_INT,     /* min to max */
    RULE_ADDRESS, /* an IPv4 or IPv6 address, or a host name */
    RULE_CIDR,    /* 192.0.2.7/24 */
    RULE_CHOICE,  /* one of choices */
    RULE_FORM,    /* what `fits` takes */
    RULE_READ,    /* what `reads` takes; it says itself what is wrong */
};

struct rule {
    const char *name, *title;
    enum rule_type type;
    bool required;
    int64_t min, max;
    const char *hint;           /* how it must look, for people; needed for RULE_FORM */
    const char *const *choices; /* ends with NULL */
    bool (*fits)(const char *text);
    int (*reads)(const char *text, struct err *e);
    const char *otherwise;      /* what holds where nobody says anything, for people; NULL: it is not said here */
};

/* Each table ends with name NULL. */
extern const struct rule server_columns[];    /* name wave application owner address port */
extern const struct rule server_attributes[];
extern const struct rule wave_settings[];
extern const struct rule replication_settings[]; /* the factory's `replication`; servers and waves have rows of these names, too */

bool is_fingerprint(const char *text); /* "SHA256:" and 43 characters of base64, as OpenSSH prints it */

#define RULE_REASON_SIZE 640
const struct rule *rule_find(const struct rule *table, const char *name); /* NULL: none */
char *rule_names(const struct rule *table);                              /* "cpu, door, …"; the caller frees */
/* Whether text may stand there; else false and why. An empty text is only refused where it is required. */
bool rule_check(const struct rule *r, const char *text, char reason[static RULE_REASON_SIZE]);
/* A value from JSON (text, or integer for RULE_INT) as it is stored: 0, or -1 and why. *out is a new reference; NULL for null and "". */
int rule_take(const struct rule *r, const json_t *value, json_t **out, char reason[static RULE_REASON_SIZE]);
/* The same from a text. */
int rule_take_text(const struct rule *r, const char *text, json_t **out, char reason[static RULE_REASON_SIZE]);
