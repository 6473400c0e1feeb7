/* tree: a disk's map as a tree of nodes with 64 children, stored content-addressed. Level 0 nodes hold chunk names, level n nodes
 * the names of level n-1 nodes. A child of zero bits stands for zeros only. The root is one name; a disk of one leaf has depth 1. */
#pragma once

#include "vault/hash.h"

#define TREE_FANOUT 64u
#define TREE_NODE_SIZE (TREE_FANOUT * VAULT_HASH_SIZE)
#define TREE_DEPTH_LIMIT 8u

struct tree_node {
    struct vault_hash child[TREE_FANOUT];
};

unsigned tree_depth(uint64_t chunk_count);             /* at least 1 */
uint64_t tree_span(unsigned level);                    /* chunks below one child of a node of that level */
bool tree_node_is_zero(const struct tree_node *n);
/* A node read from a record: right size and no child that a stored map can't have (unknown). */
int tree_node_parse(const void *bytes, size_t size, struct tree_node *out, struct err *e);
