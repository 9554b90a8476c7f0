/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of addresses. Everything is compared as 16 bytes; an IPv4 peer matches only IPv4 blocks (prefix >=
 * 96), however it arrived, so that ::/0 does not trust the whole of IPv4 by accident. */
#include "options.h"

#include <arpa/inet.h>

#define CIDR_MAX 1024

static const uint8_t mapped_head[12] = {[10] = 0xff, [11] = 0xff};

static void map_v4(const struct in_addr *v4, uint8_t out[16])
{
    memcpy(out, mapped_head, sizeof(mapped_head));
    memcpy(out + sizeof(mapped_head), v4, 4);
}

static bool equal_bits(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    if (memcmp(a, b, bits / 8) != 0)
        return false;
    return bits % 8 == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - bits % 8)) == 0;
}

static bool has_bits_after(const uint8_t addr[16], unsigned prefix)
{
    for (unsigned bit = prefix; bit < 128; bit++) {
        if (addr[bit / 8] & (0x80 >> bit % 8))
            return true;
    }
    return false;
}

static bool parse_one(struct span item, struct config_cidr *ret_cidr, const char **ret_hint)
{
    char text[INET6_ADDRSTRLEN + 1];
    const char *slash = memchr(item.ptr, '/', item.len);
    size_t len = slash ? (size_t)(slash - item.ptr) : item.len;
    if (len >= sizeof(text))
        return false;
    memcpy(text, item.ptr, len);
    text[len] = '\0';

    struct in_addr v4;
    unsigned bits = 128;
    if (inet_pton(AF_INET, text, &v4) == 1) {
        map_v4(&v4, ret_cidr->addr);
        bits = 32;
    } else if (inet_pton(AF_INET6, text, ret_cidr->addr) != 1) {
        return false;
    }
    uint64_t prefix = bits;
    if (slash && (!base_parse_u64((struct span){slash + 1, item.len - len - 1}, &prefix) || prefix > bits)) {
        *ret_hint = bits == 32 ? "a prefix goes from 0 to 32" : "a prefix goes from 0 to 128";
        return false;
    }
    ret_cidr->prefix = (uint8_t)(prefix + (128 - bits));
    if (has_bits_after(ret_cidr->addr, ret_cidr->prefix)) {
        *ret_hint = "an address has bits set behind its prefix";
        return false;
    }
    return true;
}

enum err_code cidr_parse_list(const char *text, struct config *config, const char **ret_hint)
{
    size_t count = 1;
    for (const char *at = text; (at = strchr(at, ',')); at++)
        count++;
    if (count > CIDR_MAX) {
        *ret_hint = "at most 1024 of them";
        return ERR_CONFIG;
    }
    struct config_cidr *cidrs = calloc(count, sizeof(*cidrs));
    if (!cidrs)
        return ERR_NO_MEMORY;
    const char *at = text;
    for (size_t i = 0; i < count; i++) {
        struct span item = {at, strcspn(at, ",")};
        at += item.len + 1;
        while (item.len > 0 && *item.ptr == ' ') { /* "a, b" is how people write lists */
            item.ptr++;
            item.len--;
        }
        if (!parse_one(item, &cidrs[i], ret_hint)) {
            free(cidrs);
            return ERR_CONFIG;
        }
    }
    free(config->trusted_proxies);
    config->trusted_proxies = cidrs;
    config->trusted_proxy_count = count;
    return ERR_OK;
}

bool config_trusts(const struct config *config, const struct sockaddr *peer)
{
    uint8_t addr[16];
    if (peer->sa_family == AF_INET)
        map_v4(&((const struct sockaddr_in *)(const void *)peer)->sin_addr, addr);
    else if (peer->sa_family == AF_INET6)
        memcpy(addr, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, sizeof(addr));
    else
        return false;
    bool is_v4 = memcmp(addr, mapped_head, sizeof(mapped_head)) == 0;
    for (size_t i = 0; i < config->trusted_proxy_count; i++) {
        const struct config_cidr *cidr = &config->trusted_proxies[i];
        if (is_v4 && cidr->prefix < 96)
            continue;
        if (equal_bits(cidr->addr, addr, cidr->prefix))
            return true;
    }
    return false;
}
