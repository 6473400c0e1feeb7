#include "bench.h"

#include <sys/stat.h>
#include <unistd.h>

static void sealed_bytes_open_in_their_place_only(void)
{
    CLEANUP(buf_release) struct buf sealed;
    CLEANUP(buf_release) struct buf again;
    CLEANUP(secret_release) struct secret open = {0};
    struct err e = {0};

    buf_init(&sealed, 0);
    buf_init(&again, 0);
    is_int(identity_seal(bench_identity, "credential/a", "pass\0word", 9, &sealed, &e), 0, "sealed");
    ok(!memmem(sealed.data, sealed.size_bytes, "pass", 4), "the text is not in it");
    identity_seal(bench_identity, "credential/a", "pass\0word", 9, &again, &e);
    ok(memcmp(sealed.data, again.data, sealed.size_bytes) != 0, "twice the same gives two different seals");
    is_int(identity_unseal(bench_identity, "credential/a", sealed.data, sealed.size_bytes, &open, &e), 0, "it opens");
    ok(open.size_bytes == 9 && memcmp(open.bytes, "pass\0word", 9) == 0, "to what it was");
    is_int(identity_unseal(bench_identity, "credential/b", sealed.data, sealed.size_bytes, &open, &e), -1, "not in another place");
    is_int(e.kind, ERR_CORRUPT, "%s", e.message);
    for (size_t n = 0; n < sealed.size_bytes; n++) {
        sealed.data[n] ^= 1;
        if (identity_unseal(bench_identity, "credential/a", sealed.data, sealed.size_bytes, &open, NULL) == 0)
            ok(0, "bit %zu may be flipped", n);
        sealed.data[n] ^= 1;
    }
    is_int(identity_unseal(bench_identity, "credential/a", sealed.data, 10, &open, &e), -1, "not cut short");
}

static void keys_are_found_again_and_guarded(void)
{
    CLEANUP(identity_close) struct identity *again = NULL;
    CLEANUP(free_ptr) char *path = xasprintf("%s/master.key", bench_folder);
    CLEANUP(free_ptr) char *hidden = xasprintf("%s/hidden", bench_folder);
    CLEANUP(free_ptr) char *ca = xasprintf("%s/ca.pem", bench_folder);
    CLEANUP(free_ptr) char *fingerprint = xstrdup(identity_ca_fingerprint(bench_identity));
    CLEANUP(free_ptr) char *ca_key = xasprintf("%s/ca.key", bench_folder);
    CLEANUP(buf_release) struct buf key;
    struct err e = {0};
    struct stat there;

    buf_init(&key, 0);
    ok(stat(path, &there) == 0 && (there.st_mode & 0777) == 0600, "only its owner reads the master key");
    ok(file_read(ca_key, 65536, &key, &e) == 0 && !memmem(key.data, key.size_bytes, "PRIVATE", 7), "the CA's key is sealed");
    is_int(bench_try_open(bench_folder, &again, &e), 0, "a second start: %s", e.message);
    is_str(again ? identity_ca_fingerprint(again) : "", fingerprint, "finds the same CA");
    identity_close(&again);
    MUST(rename(path, hidden) == 0);
    is_int(bench_try_open(bench_folder, &again, &e), -1, "without its master key it does not start");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    ok(!file_exists(path), "and makes no other one");
    file_write(path, "00000000000000000000000000000000000000000000000000000000000000ff\n", 65, 0600, NULL);
    is_int(bench_try_open(bench_folder, &again, &e), -1, "nor with another one");
    is_int(e.kind, ERR_WRONG_STATE, "%s", e.message);
    file_write(path, "rubbish\n", 8, 0600, NULL);
    is_int(bench_try_open(bench_folder, &again, &e), -1, "nor with rubbish");
    is_int(e.kind, ERR_CORRUPT, "%s", e.message);
    MUST(rename(hidden, path) == 0);
    file_write(ca, "rubbish\n", 8, 0600, NULL);
    is_int(bench_try_open(bench_folder, &again, &e), -1, "nor with a damaged CA: %s", e.message);
    file_write(ca, identity_ca_pem(bench_identity), strlen(identity_ca_pem(bench_identity)), 0644, NULL);
    is_int(bench_try_open(bench_folder, &again, &e), 0, "with both back, it does");
}

static void server_certificate_is_kept_while_it_serves(void)
{
    static const char *const names[] = {"factory.example", "192.0.2.1"};
    CLEANUP(free_ptr) char *first = NULL;
    CLEANUP(free_ptr) char *second = NULL;
    CLEANUP(free_ptr) char *third = NULL;
    CLEANUP(free_ptr) char *fourth = NULL;
    CLEANUP(secret_release) struct secret key = {0};
    struct actor actor;
    struct err e = {0};

    is_int(identity_server_certificate(bench_identity, NULL, 0, &first, &key, &e), 0, "a server certificate: %s", e.message);
    ok(key.bytes && strstr(key.bytes, "PRIVATE KEY"), "with its key");
    identity_server_certificate(bench_identity, NULL, 0, &second, &key, &e);
    is_str(second, first, "is kept");
    is_int(identity_server_certificate(bench_identity, names, 2, &third, &key, &e), 0, "for more names");
    ok(strcmp(third, first) != 0, "there is a new one");
    bench_now_us += INT64_C(380) * 86400 * US_PER_S;
    identity_server_certificate(bench_identity, names, 2, &fourth, &key, &e);
    ok(fourth && strcmp(third, fourth) != 0, "and before it ends, too");
    bench_now_us -= INT64_C(380) * 86400 * US_PER_S;
    is_int(identity_server_certificate(bench_identity, (const char *const[]){"a,DNS:b"}, 1, &first, &key, &e), -1, "a name is a name");
    is_int(identity_certificate(bench_identity, third, &actor, &e), -1, "it is nobody's client certificate");
    is_int(e.kind, ERR_UNAUTHENTICATED, "%s", e.message);
}

static json_t *keys_of(const char *replicator, struct err *e)
{
    CLEANUP(store_rollback) struct store_tx *tx = bench_begin(STORE_READ);
    json_t *keys = NULL;

    err_clear(e);
    identity_vault_keys(bench_identity, tx, replicator, &keys, e);
    return keys;
}

static void make_key_of(const char *replicator)
{
    struct store_tx *tx = bench_begin(STORE_WRITE);
    struct err e = {0};

    is_int(identity_vault_key_make(bench_identity, tx, replicator, &e), 0, "a key of %s's vault%s", replicator, e.message);
    store_commit(&tx, NULL);
}

static void keys_of_vaults_are_each_replicators_own(void)
{
    CLEANUP(json_free) json_t *first = NULL, *both = NULL, *other = NULL;
    struct store_tx *tx;
    struct err e = {0};

    first = keys_of("r1", &e);
    is_int((int)json_array_size(first), 0, "none is there before one was made");
    json_free(&first);
    make_key_of("r1");
    first = keys_of("r1", &e);
    make_key_of("r1");
    make_key_of("r2");
    both = keys_of("r1", &e);
    other = keys_of("r2", &e);
    ok(json_array_size(both) == 2 && json_equal(json_array_get(both, 1), json_array_get(first, 0)), "the newest is first, and the one before is kept");
    ok(json_array_size(other) == 1 && !json_equal(json_array_get(both, 0), json_array_get(both, 1)) && !json_equal(json_array_get(both, 0), json_array_get(other, 0)),
       "no two are the same");
    tx = bench_begin(STORE_WRITE);
    store_run(tx, NULL, "UPDATE vault_key SET replicator = 'r3' WHERE replicator = 'r2'", "");
    store_commit(&tx, NULL);
    ok(!keys_of("r3", &e) && e.kind == ERR_CORRUPT, "one that was moved to another's name does not open: %s", e.message);
}

int main(void)
{
    bench_open();
    sealed_bytes_open_in_their_place_only();
    keys_are_found_again_and_guarded();
    server_certificate_is_kept_while_it_serves();
    keys_of_vaults_are_each_replicators_own();
    bench_close();
    return tap_done();
}
