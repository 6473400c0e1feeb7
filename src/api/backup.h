/* backup: the folder that a backup is. */
#pragma once

#include "base/json.h"

#define BACKUP_DATABASE "slipway.db"
#define BACKUP_MANIFEST "MANIFEST"

/* Every file of it is there with its size and SHA-256. */
int backup_check(const char *folder, json_t **manifest, struct err *e);
