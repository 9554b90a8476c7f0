/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/await.h"

#include <sys/random.h>

#include "id.h"

/* Byte positions, see docs/architecture.md. Byte 6 holds the version, byte 8 the variant. */
enum { ID_INSTANCE = 0, ID_LOOP = 4, ID_VERSION = 6, ID_VARIANT = 8, ID_SLOT = 9, ID_GENERATION = 12 };

static uint32_t read_be(const uint8_t *p, int bytes)
{
    uint32_t value = 0;
    for (int i = 0; i < bytes; i++)
        value = value << 8 | p[i];
    return value;
}

static void write_be(uint8_t *p, int bytes, uint32_t value)
{
    while (bytes-- > 0) {
        p[bytes] = (uint8_t)value;
        value >>= 8;
    }
}

void await_id_make(struct await_id *id, const uint8_t random[AWAIT_ID_RANDOM], uint32_t instance,
                   unsigned loop_number, uint32_t slot, uint32_t generation)
{
    write_be(id->bytes + ID_INSTANCE, 4, instance);
    id->bytes[ID_LOOP] = (uint8_t)loop_number;
    id->bytes[5] = random[0];
    id->bytes[ID_VERSION] = 0x40 | (random[1] & 0x0f);
    id->bytes[7] = random[2];
    id->bytes[ID_VARIANT] = 0x80 | (random[3] & 0x3f);
    write_be(id->bytes + ID_SLOT, 3, slot);
    write_be(id->bytes + ID_GENERATION, 4, generation);
}

uint32_t await_id_slot(const struct await_id *id)
{
    return read_be(id->bytes + ID_SLOT, 3);
}

uint32_t await_id_generation(const struct await_id *id)
{
    return read_be(id->bytes + ID_GENERATION, 4);
}

bool await_id_is_ours(const struct await_id *id, uint32_t instance)
{
    return read_be(id->bytes + ID_INSTANCE, 4) == instance;
}

unsigned await_id_loop(const struct await_id *id)
{
    return id->bytes[ID_LOOP];
}

uint64_t await_id_handle(const struct await_id *id)
{
    return (uint64_t)id->bytes[ID_LOOP] << 56 | (uint64_t)await_id_slot(id) << 32 | await_id_generation(id);
}

unsigned await_handle_loop(uint64_t handle)
{
    return (unsigned)(handle >> 56);
}

enum err_code await_instance_new(uint32_t *ret_instance)
{
    return getrandom(ret_instance, sizeof(*ret_instance), 0) == (ssize_t)sizeof(*ret_instance) ? ERR_OK
                                                                                               : ERR_INTERNAL;
}

void await_id_format(const struct await_id *id, char out[AWAIT_ID_TEXT_LEN + 1])
{
    static const char hex[] = "0123456789abcdef";
    char *p = out;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *p++ = '-';
        *p++ = hex[id->bytes[i] >> 4];
        *p++ = hex[id->bytes[i] & 15];
    }
    *p = '\0';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool await_id_parse(struct span text, struct await_id *ret_id)
{
    if (text.len != AWAIT_ID_TEXT_LEN)
        return false;
    const char *p = text.ptr;
    for (int i = 0; i < 16; i++, p += 2) {
        if ((i == 4 || i == 6 || i == 8 || i == 10) && *p++ != '-')
            return false;
        int high = hex_digit(p[0]), low = hex_digit(p[1]);
        if (high < 0 || low < 0)
            return false;
        ret_id->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}
