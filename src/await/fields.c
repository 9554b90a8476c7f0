/* SPDX-License-Identifier: Apache-2.0 */
/* Invariants: `mtx` guards buckets and nodes; it is a leaf lock, nothing is called under it but libc. A node is owned by
 * the request that added it; a finder copies the handle out, so it never holds a pointer to a node. */
#include "syncgate/await.h"

#include <pthread.h>

#define BUCKETS 4096u

struct await_fields_node {
    struct await_fields_node *next, **link;
    uint64_t hash;
    uint64_t handle;
    int64_t since_ms;
    size_t key_len;
    char key[];
};

struct await_fields {
    pthread_mutex_t mtx;
    struct await_fields_node *buckets[BUCKETS];
};

/* FNV-1a: short keys of ids; a chain is compared in full. */
static uint64_t hash_of(struct span key)
{
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < key.len; i++)
        hash = (hash ^ (unsigned char)key.ptr[i]) * 1099511628211u;
    return hash;
}

struct await_fields *await_fields_new(void)
{
    struct await_fields *fields = calloc(1, sizeof(*fields));
    if (fields && pthread_mutex_init(&fields->mtx, NULL) != 0) {
        free(fields);
        return NULL;
    }
    return fields;
}

void await_fields_freep(struct await_fields **fields_ptr)
{
    struct await_fields *fields = *fields_ptr;
    if (!fields)
        return;
    *fields_ptr = NULL;
    pthread_mutex_destroy(&fields->mtx);
    free(fields);
}

struct await_fields_node *await_fields_add(struct await_fields *fields, struct span key, uint64_t handle,
                                           int64_t since_ms)
{
    struct await_fields_node *node = malloc(sizeof(*node) + key.len);
    if (!node)
        return NULL;
    *node = (struct await_fields_node){
        .hash = hash_of(key), .handle = handle, .since_ms = since_ms, .key_len = key.len};
    memcpy(node->key, key.ptr, key.len);
    pthread_mutex_lock(&fields->mtx);
    struct await_fields_node **bucket = &fields->buckets[node->hash % BUCKETS];
    node->next = *bucket;
    node->link = bucket;
    if (node->next)
        node->next->link = &node->next;
    *bucket = node;
    pthread_mutex_unlock(&fields->mtx);
    return node;
}

void await_fields_remove(struct await_fields *fields, struct await_fields_node *node)
{
    if (!node)
        return;
    pthread_mutex_lock(&fields->mtx);
    *node->link = node->next;
    if (node->next)
        node->next->link = node->link;
    pthread_mutex_unlock(&fields->mtx);
    free(node);
}

unsigned await_fields_find(struct await_fields *fields, struct span key, uint64_t *ret_handle,
                           int64_t *ret_since_ms)
{
    uint64_t hash = hash_of(key);
    unsigned found = 0;
    pthread_mutex_lock(&fields->mtx);
    for (struct await_fields_node *node = fields->buckets[hash % BUCKETS]; node; node = node->next) {
        if (node->hash != hash || node->key_len != key.len || memcmp(node->key, key.ptr, key.len) != 0)
            continue;
        found++;
        *ret_handle = node->handle;
        *ret_since_ms = node->since_ms;
    }
    pthread_mutex_unlock(&fields->mtx);
    return found;
}
