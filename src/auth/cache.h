/* SPDX-License-Identifier: Apache-2.0 */
/* cache: verified tokens by the SHA-256 of their text, at most `max` of them, the least recently used go
 * first. Private to auth. Thread: loop. */
#pragma once

#include "syncgate/auth.h"

#define CACHE_DIGEST_LEN 32
#define CACHE_LIFE_S     300 /* a token is verified again after this long, whatever its exp */

struct cache_entry;
struct cache {
    uint32_t max;
    uint32_t bucket_mask;
    uint32_t used;               /* entries 1..used have been handed out at least once */
    uint32_t free_entry;         /* list of given back ones through chain_next */
    uint32_t *buckets;           /* owned; entry numbers, 0 = none */
    struct cache_entry *entries; /* owned; entry 0 closes the ring of use: newest -> 0 -> oldest */
};
/* max 0: caches nothing. */
enum err_code cache_init(struct cache *cache, size_t max) SG_NODISCARD;
void cache_fini(struct cache *cache);
void cache_clear(struct cache *cache);
/* Returns borrowed, or NULL: not there, or its time is over. */
struct auth_principal *cache_get(struct cache *cache, const unsigned char digest[CACHE_DIGEST_LEN],
                                 int64_t now_s);
/* Takes a reference of its own. The digest is not in the cache. */
void cache_put(struct cache *cache, const unsigned char digest[CACHE_DIGEST_LEN],
               struct auth_principal *principal, int64_t now_s);
