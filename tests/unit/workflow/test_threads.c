/* Runners, the tick and people at once, as the API's threads call: the wave comes to its end, and nothing is done twice. */
#include "world.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#define RUNNERS 3

static struct world world;
static atomic_int finished, stop;

static void *runner(void *user)
{
    const char *name = user;

    while (!stop) {
        CLEANUP(json_free) json_t *document = world_claim(&world, name);

        if (!document) {
            usleep(500);
            continue;
        }
        if (world_finish(&world, document, name, "succeeded", NULL,
                         world_result_of(json_get_string(json_object_get(document, "task"), "step", ""))) == ERR_NONE)
            finished++;
    }
    return NULL;
}

static void *ticker(void *user)
{
    struct err e = {0};

    (void)user;
    while (!stop) {
        if (workflow_tick(world.w, &e) < 0)
            printf("# tick: %s\n", e.message);
        usleep(2000);
    }
    return NULL;
}

/* Two people who decide whatever waits; each task is decided by one of them. */
static void *person(void *user)
{
    while (!stop) {
        CLEANUP(store_rollback) struct store_tx *tx = NULL;
        CLEANUP(json_free) json_t *run = NULL;
        struct err e = {0};
        json_t *task;
        size_t i;

        world_need(store_begin(world.store, STORE_READ, &tx, &e), &e);
        world_need(workflow_run_json(tx, world.run, true, &run, &e), &e);
        store_rollback(&tx);
        json_array_foreach(json_object_get(run, "tasks"), i, task)
            if (strcmp(json_get_string(json_object_get(task, "waits_for"), "kind", ""), "person") == 0)
                workflow_decide(world.w, json_get_string(task, "id", ""), true, NULL, user, &e);
        if (strcmp(json_get_string(run, "state", ""), "RUNNING") != 0)
            stop = 1;
        usleep(1000);
    }
    return NULL;
}

int main(void)
{
    static char names[RUNNERS][2] = {"a", "b", "c"}, anna[] = "user:anna", bob[] = "user:bob";
    CLEANUP(store_rollback) struct store_tx *tx = NULL;
    int64_t decisions = 0, succeeded = 0;
    pthread_t threads[RUNNERS + 3];
    struct err e = {0};

    world_open(&world);
    workflow_close(&world.w); /* with the real clocks, which threads may read */
    world_need(workflow_open(&(struct workflow_settings){.store = world.store}, &world.w, &e), &e);
    world_wave(&world, "w1", "{\"hold_s\":0,\"right_size_after_s\":0}");
    for (int i = 0; i < 4; i++) {
        CLEANUP(free_ptr) char *name = xasprintf("s%d", i);

        world_server(&world, "w1", name, i == 3 ? "{\"after\":\"s0\",\"door\":\"ask\"}" : "{}");
    }
    world_window(&world, "w1", clock_now_us() - US_PER_S, clock_now_us() + 3600 * US_PER_S);
    world_need(workflow_start_wave(world.w, "w1", "user:anna", world.run, &e), &e);
    for (int i = 0; i < RUNNERS; i++)
        pthread_create(&threads[i], NULL, runner, names[i]);
    pthread_create(&threads[RUNNERS], NULL, ticker, NULL);
    pthread_create(&threads[RUNNERS + 1], NULL, person, anna);
    pthread_create(&threads[RUNNERS + 2], NULL, person, bob);
    for (int i = 0; i < RUNNERS + 3; i++)
        pthread_join(threads[i], NULL);
    world_need(store_begin(world.store, STORE_READ, &tx, &e), &e);
    world_need(store_one_int(tx, &decisions, &e, "SELECT COUNT(*) FROM decision", ""), &e);
    world_need(store_one_int(tx, &succeeded, &e, "SELECT COUNT(*) FROM attempt WHERE state = 'SUCCEEDED'", ""), &e);
    is_int(decisions, 4 * 3 + 1 + 1, "each decision was taken once: sign-off, acceptance and finalize, go, one door");
    is_int(succeeded, 4 * 19 + 1, "each step was done once");
    is_int(finished, succeeded, "and every finish counted");
    store_rollback(&tx);
    world_close(&world);
    return tap_done();
}
