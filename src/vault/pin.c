/* pin: who wants which recovery points kept, and why: what nobody may drop, and the ladder does not expire. They are rows of the index, and lie in a file beside it
 * (pin_file.c). */
#include "vault/internal.h"

#include <stdlib.h>
#include <string.h>

int pin_key(const char *point, const char *reason, char key[static VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE], MDB_val *out, struct err *e)
{
    size_t size = strlen(point) + 1;

    if (size > VAULT_POINT_ID_SIZE || size == 1 || strlen(reason) >= VAULT_PIN_REASON_SIZE)
        return err_set(e, ERR_INVALID, "a point's id or the reason to pin it is too long");
    memcpy(key, point, size);
    memcpy(key + size, reason, strlen(reason));
    *out = index_val(key, size + strlen(reason));
    return 0;
}

struct pinning {
    const char *point;
    MDB_val key;
};

static int pin_row(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    struct pinning *p = user;
    MDB_val value;
    int found = index_get(&v->index, txn, INDEX_POINT, index_val(p->point, strlen(p->point)), &value, e);

    if (found != 1)
        return found < 0 ? -1 : err_set(e, ERR_NOT_FOUND, "there is no recovery point %s", p->point);
    return index_put(&v->index, txn, INDEX_PIN, p->key, index_val("", 0), e);
}

static int unpin_row(struct vault *v, MDB_txn *txn, void *user, struct err *e)
{
    return index_del(&v->index, txn, INDEX_PIN, ((struct pinning *)user)->key, e);
}

/* Before it is written to the file; it stays there until the row is: points go under commit_lock. */
static int need_point(struct vault *v, const char *point, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    MDB_val value;
    int found = index_begin(&v->index, false, &txn, e) < 0 ? -1 : index_get(&v->index, txn, INDEX_POINT, index_val(point, strlen(point)), &value, e);

    return found == 0 ? err_set(e, ERR_NOT_FOUND, "there is no recovery point %s", point) : found < 0 ? -1 : 0;
}

int vault_point_pin(struct vault *v, const char *point, const char *reason, struct err *e)
{
    struct pinning p = {.point = point};
    char key[VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE];
    int r;

    if (pin_key(point, reason, key, &p.key, e) < 0)
        return -1;
    pthread_mutex_lock(&v->commit_lock);
    r = need_point(v, point, e) < 0 || pins_write(v, &p.key, e) < 0 || vault_flush(v, pin_row, &p, e) < 0 ? -1 : 0;
    pthread_mutex_unlock(&v->commit_lock);
    return r;
}

int vault_point_unpin(struct vault *v, const char *point, const char *reason, struct err *e)
{
    struct pinning p = {.point = point};
    char key[VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE];
    int r;

    if (pin_key(point, reason, key, &p.key, e) < 0)
        return -1;
    pthread_mutex_lock(&v->commit_lock);
    r = vault_flush(v, unpin_row, &p, e);
    if (r == 0 && pins_write(v, NULL, e) < 0)
        r = err_wrap(e, "the pin has ended, but an index that is made anew would bring it back");
    pthread_mutex_unlock(&v->commit_lock);
    return r;
}

/* ---- lent ---- */

/* loan_lock held; loan_count: it is not lent. */
static size_t loan_at(const struct vault *v, const char *point)
{
    size_t at = 0;

    while (at < v->loan_count && strcmp(v->loans[at].point, point) != 0)
        at++;
    return at;
}

static bool is_lent(struct vault *v, const char *point)
{
    bool lent;

    pthread_mutex_lock(&v->loan_lock);
    lent = loan_at(v, point) < v->loan_count;
    pthread_mutex_unlock(&v->loan_lock);
    return lent;
}

static void add_loan(struct vault *v, const char *point)
{
    size_t at;

    pthread_mutex_lock(&v->loan_lock);
    at = loan_at(v, point);
    if (at == v->loan_count) {
        v->loans = xrealloc(v->loans, ++v->loan_count * sizeof *v->loans);
        v->loans[at].count = 0;
        snprintf(v->loans[at].point, sizeof v->loans[at].point, "%s", point);
    }
    v->loans[at].count++;
    pthread_mutex_unlock(&v->loan_lock);
}

int vault_point_lend(struct vault *v, const char *point, struct err *e)
{
    int r;

    pthread_mutex_lock(&v->commit_lock); /* nobody drops it meanwhile */
    r = need_point(v, point, e);
    if (r == 0)
        add_loan(v, point);
    pthread_mutex_unlock(&v->commit_lock);
    return r;
}

int vault_point_return(struct vault *v, const char *point, struct err *e)
{
    int left = -1;
    size_t at;

    pthread_mutex_lock(&v->loan_lock);
    at = loan_at(v, point);
    if (at < v->loan_count)
        left = --v->loans[at].count;
    if (left == 0)
        v->loans[at] = v->loans[--v->loan_count];
    pthread_mutex_unlock(&v->loan_lock);
    return left < 0 ? err_set(e, ERR_NOT_FOUND, "recovery point %s is not lent", point) : left;
}

void vault_loans_end(struct vault *v)
{
    pthread_mutex_lock(&v->loan_lock);
    v->loan_count = 0;
    pthread_mutex_unlock(&v->loan_lock);
}

/* ---- looking ---- */

static int found_one(MDB_val key, MDB_val value, void *user, struct err *e)
{
    (void)key;
    (void)value;
    (void)e;
    *(bool *)user = true;
    return 1;
}

int point_pinned(struct vault *v, MDB_txn *txn, const char *point, struct err *e)
{
    bool found = is_lent(v, point);

    if (!found && index_each(&v->index, txn, INDEX_PIN, index_val(point, strlen(point) + 1), found_one, &found, e) < 0)
        return -1;
    return found;
}

int vault_point_pinned(struct vault *v, const char *point, const char *reason, struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    char key[VAULT_POINT_ID_SIZE + VAULT_PIN_REASON_SIZE];
    MDB_val row, value;

    if (pin_key(point, reason ? reason : "", key, &row, e) < 0 || index_begin(&v->index, false, &txn, e) < 0)
        return -1;
    if (!reason)
        return point_pinned(v, txn, point, e);
    return strcmp(reason, VAULT_LENT_PIN) == 0 && is_lent(v, point) ? 1 : index_get(&v->index, txn, INDEX_PIN, row, &value, e);
}

struct pins {
    const char *reason;
    char (*ids)[VAULT_POINT_ID_SIZE];
    int count;
};

static int collect_pin(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct pins *p = user;
    const char *point = key.mv_data;
    size_t id_size = strnlen(point, key.mv_size), reason_size = strlen(p->reason);

    (void)value;
    if (id_size + 1 + reason_size != key.mv_size || memcmp(point + id_size + 1, p->reason, reason_size) != 0)
        return 0;
    if (id_size >= VAULT_POINT_ID_SIZE)
        return err_set(e, ERR_CORRUPT, "the vault's index has a pin of %zu bytes", key.mv_size);
    p->ids = xrealloc(p->ids, (size_t)(p->count + 1) * sizeof *p->ids);
    memcpy(p->ids[p->count], point, id_size);
    p->ids[p->count++][id_size] = '\0';
    return 0;
}

static void collect_lent(struct vault *v, struct pins *p)
{
    pthread_mutex_lock(&v->loan_lock);
    p->ids = xrealloc(p->ids, ((size_t)p->count + v->loan_count + 1) * sizeof *p->ids);
    for (size_t i = 0; i < v->loan_count; i++)
        memcpy(p->ids[p->count++], v->loans[i].point, sizeof v->loans[i].point);
    pthread_mutex_unlock(&v->loan_lock);
}

int vault_pin_list(struct vault *v, const char *reason, char (**ids)[VAULT_POINT_ID_SIZE], struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct pins p = {.reason = reason};

    if (index_begin(&v->index, false, &txn, e) < 0 || index_each(&v->index, txn, INDEX_PIN, index_val("", 0), collect_pin, &p, e) < 0) {
        free(p.ids);
        return -1;
    }
    if (strcmp(reason, VAULT_LENT_PIN) == 0)
        collect_lent(v, &p);
    *ids = p.ids;
    return p.count;
}

struct reasons {
    char (*list)[VAULT_PIN_REASON_SIZE];
    int count;
};

static void add_reason(struct reasons *r, const char *reason, size_t size)
{
    r->list = xrealloc(r->list, (size_t)(r->count + 1) * sizeof *r->list);
    memset(r->list[r->count], 0, sizeof r->list[0]);
    memcpy(r->list[r->count++], reason, size);
}

static int collect_reason(MDB_val key, MDB_val value, void *user, struct err *e)
{
    struct reasons *r = user;
    size_t at = strnlen(key.mv_data, key.mv_size) + 1, size = key.mv_size - at;

    (void)value;
    if (at > key.mv_size || size >= VAULT_PIN_REASON_SIZE)
        return err_set(e, ERR_CORRUPT, "the vault's index has a pin of %zu bytes", key.mv_size);
    add_reason(r, (const char *)key.mv_data + at, size);
    return 0;
}

int vault_point_pins(struct vault *v, const char *point, char (**reasons)[VAULT_PIN_REASON_SIZE], struct err *e)
{
    CLEANUP(index_abort) MDB_txn *txn = NULL;
    struct reasons r = {0};

    if (index_begin(&v->index, false, &txn, e) < 0 ||
        index_each(&v->index, txn, INDEX_PIN, index_val(point, strlen(point) + 1), collect_reason, &r, e) < 0) {
        free(r.list);
        return -1;
    }
    if (is_lent(v, point))
        add_reason(&r, VAULT_LENT_PIN, strlen(VAULT_LENT_PIN));
    *reasons = r.list;
    return r.count;
}
