/* A store in memory, a folder for keys and a clock that the test turns. */
#pragma once

#include "base/file.h"
#include "base/mem.h"
#include "identity/identity.h"
#include "store/event.h"
#include "tap.h"

static int64_t bench_now_us = INT64_C(1800000000) * US_PER_S;
static char bench_folder[] = "/tmp/slipway-test-identity-XXXXXX";
static struct store *bench_store;
static struct identity *bench_identity;

static int64_t bench_read_clock(void *user)
{
    (void)user;
    return bench_now_us;
}

static const struct clock bench_clock = {.now_us = bench_read_clock};

static int bench_try_open(const char *folder, struct identity **out, struct err *e)
{
    struct identity_settings settings = {.store = bench_store, .clock = &bench_clock, .folder = folder};

    return identity_open(&settings, out, e);
}

__attribute__((unused)) static void bench_open(void)
{
    struct err e = {0};

    MUST(mkdtemp(bench_folder));
    if (store_open("sqlite::memory:", &bench_store, &e) < 0 || store_migrate(bench_store, &e) < 0
        || bench_try_open(bench_folder, &bench_identity, &e) < 0) {
        printf("Bail out! %s\n", e.message);
        exit(1);
    }
}

__attribute__((unused)) static void bench_close(void)
{
    CLEANUP(free_ptr) char *tidy = xasprintf("rm -rf %s", bench_folder);

    identity_close(&bench_identity);
    store_close(&bench_store);
    ok(system(tidy) == 0, "tidy");
}

__attribute__((unused)) static struct store_tx *bench_begin(enum store_mode mode)
{
    struct store_tx *tx = NULL;

    MUST(store_begin(bench_store, mode, &tx, NULL) == 0);
    return tx;
}

/* All that the event rows say, to look for what must not be there. */
static int bench_note_event(void *user, const struct event *what)
{
    buf_printf(user, "%s %s %s %s %s\n", what->actor, what->kind, what->entity, what->entity_id, what->data);
    return 0;
}

__attribute__((unused)) static void bench_events(struct buf *out)
{
    CLEANUP(store_rollback) struct store_tx *tx = bench_begin(STORE_READ);

    event_read(tx, 0, NULL, 100000, bench_note_event, out, NULL);
}
