#include "vault/internal.h"

static int go_below(const struct walk *w, const struct vault_hash *hash, int level, uint64_t first_chunk, uint64_t chunk_count,
                    struct err *e)
{
    struct tree_node n;
    struct err why = {0};
    uint64_t span = tree_span((unsigned)level);

    if ((w->perhaps ? record_get_perhaps : record_get)(w->v, hash, &n, sizeof n, &why) < 0 || tree_node_parse(&n, sizeof n, &n, &why) < 0)
        return w->visit_bad ? w->visit_bad(hash, level, first_chunk, &why, w->user) : err_set(e, why.kind, "%s", why.message);
    for (unsigned i = 0; i < TREE_FANOUT && first_chunk + i * span < chunk_count; i++) {
        int go;

        if (vault_hash_is_zero(&n.child[i]))
            continue;
        go = w->visit(&n.child[i], level - 1, first_chunk + i * span, w->user, e);
        if (go < 0 || (go && level > 0 && go_below(w, &n.child[i], level - 1, first_chunk + i * span, chunk_count, e) < 0))
            return -1;
    }
    return 0;
}

int walk_tree(const struct walk *w, const struct vault_hash *root, uint64_t chunk_count, struct err *e)
{
    int level = (int)tree_depth(chunk_count) - 1, go;

    if (vault_hash_is_zero(root))
        return 0;
    go = w->visit(root, level, 0, w->user, e);
    return go <= 0 ? go : go_below(w, root, level, 0, chunk_count, e);
}
