/* SPDX-License-Identifier: Apache-2.0 */
/* Entries live in one array and are linked by number: a hit or a store allocates nothing, and the memory is
 * bounded by max. Pages of entries never used stay untouched. The bucket comes from the digest itself: only
 * verified tokens are stored, so a stranger cannot fill one bucket. An entry is in its bucket's chain and in
 * the ring, or on the free list. */
#include "cache.h"

struct cache_entry {
    unsigned char digest[CACHE_DIGEST_LEN];
    struct auth_principal *principal; /* a reference */
    int64_t stored_s, until_s;
    uint32_t chain_next;
    uint32_t newer, older;
};

enum err_code cache_init(struct cache *cache, size_t max)
{
    *cache = (struct cache){.max = (uint32_t)(max < (1U << 24) ? max : (1U << 24))};
    uint32_t buckets = 1;
    while (buckets < cache->max)
        buckets *= 2;
    cache->bucket_mask = buckets - 1;
    cache->buckets = calloc(buckets, sizeof(*cache->buckets));
    cache->entries = calloc((size_t)cache->max + 1, sizeof(*cache->entries));
    if (cache->buckets && cache->entries)
        return ERR_OK;
    cache_fini(cache);
    return ERR_NO_MEMORY;
}

static uint32_t *bucket_of(const struct cache *cache, const unsigned char *digest)
{
    uint32_t number;
    memcpy(&number, digest, sizeof(number));
    return &cache->buckets[number & cache->bucket_mask];
}

static void ring_remove(struct cache *cache, uint32_t at)
{
    struct cache_entry *entry = &cache->entries[at];
    cache->entries[entry->newer].older = entry->older;
    cache->entries[entry->older].newer = entry->newer;
}

static void ring_add_newest(struct cache *cache, uint32_t at)
{
    struct cache_entry *entry = &cache->entries[at], *ring = &cache->entries[0];
    entry->newer = 0;
    entry->older = ring->older;
    cache->entries[ring->older].newer = at;
    ring->older = at;
}

static void entry_remove(struct cache *cache, uint32_t at)
{
    struct cache_entry *entry = &cache->entries[at];
    uint32_t *link = bucket_of(cache, entry->digest);
    while (*link != at)
        link = &cache->entries[*link].chain_next;
    *link = entry->chain_next;
    ring_remove(cache, at);
    auth_principal_unrefp(&entry->principal);
    entry->chain_next = cache->free_entry;
    cache->free_entry = at;
}

void cache_clear(struct cache *cache)
{
    while (cache->entries && cache->entries[0].newer)
        entry_remove(cache, cache->entries[0].newer);
}

void cache_fini(struct cache *cache)
{
    cache_clear(cache);
    free(cache->buckets);
    free(cache->entries);
    *cache = (struct cache){0};
}

struct auth_principal *cache_get(struct cache *cache, const unsigned char digest[CACHE_DIGEST_LEN],
                                 int64_t now_s)
{
    for (uint32_t at = *bucket_of(cache, digest); at; at = cache->entries[at].chain_next) {
        struct cache_entry *entry = &cache->entries[at];
        if (memcmp(entry->digest, digest, CACHE_DIGEST_LEN) != 0)
            continue;
        /* A clock that was set back must not lengthen an entry's life. */
        if (now_s >= entry->until_s || now_s < entry->stored_s) {
            entry_remove(cache, at);
            return NULL;
        }
        ring_remove(cache, at);
        ring_add_newest(cache, at);
        return entry->principal;
    }
    return NULL;
}

static uint32_t entry_take(struct cache *cache)
{
    if (!cache->free_entry && cache->used < cache->max)
        return ++cache->used;
    if (!cache->free_entry)
        entry_remove(cache, cache->entries[0].newer);
    uint32_t at = cache->free_entry;
    cache->free_entry = cache->entries[at].chain_next;
    return at;
}

void cache_put(struct cache *cache, const unsigned char digest[CACHE_DIGEST_LEN],
               struct auth_principal *principal, int64_t now_s)
{
    if (!cache->max)
        return;
    int64_t until_s;
    if (__builtin_add_overflow(now_s, (int64_t)CACHE_LIFE_S, &until_s) || until_s > principal->exp_s)
        until_s = principal->exp_s;
    uint32_t at = entry_take(cache), *bucket = bucket_of(cache, digest);
    struct cache_entry *entry = &cache->entries[at];
    *entry = (struct cache_entry){.principal = auth_principal_ref(principal),
                                  .stored_s = now_s,
                                  .until_s = until_s,
                                  .chain_next = *bucket};
    memcpy(entry->digest, digest, CACHE_DIGEST_LEN);
    *bucket = at;
    ring_add_newest(cache, at);
}
