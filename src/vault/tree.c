#include "vault/tree.h"

#include <string.h>

unsigned tree_depth(uint64_t chunk_count)
{
    unsigned depth = 1;

    while (depth < TREE_DEPTH_LIMIT && tree_span(depth) < chunk_count)
        depth++;
    return depth;
}

uint64_t tree_span(unsigned level) { return UINT64_C(1) << (6 * level); }

bool tree_node_is_zero(const struct tree_node *n) { return vault_bytes_are_zero(n, sizeof *n); }

int tree_node_parse(const void *bytes, size_t size, struct tree_node *out, struct err *e)
{
    struct tree_node n;

    if (size != TREE_NODE_SIZE)
        return err_set(e, ERR_CORRUPT, "a map node has %zu bytes instead of %u", size, (unsigned)TREE_NODE_SIZE);
    memcpy(&n, bytes, sizeof n);
    for (size_t i = 0; i < TREE_FANOUT; i++)
        if (vault_hash_is_unknown(&n.child[i]))
            return err_set(e, ERR_CORRUPT, "a map node has an unknown child at %zu", i);
    *out = n;
    return 0;
}
