/* SPDX-License-Identifier: Apache-2.0 */
/* devices: the greenhouse devices this service owns, in memory, behind one mutex. Both entrances (rest.c and
 * responder.c) change them only through devices_bind() and devices_unbind(), so the rules are written once.
 * Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct devices;

struct device {
    char *id, *model, *firmware, *public_key_pem;
    char *owner; /* NULL: unbound */
    int64_t created_ms, last_seen_ms;
    struct device *older, *next_in_bucket; /* private */
};

enum device_result {
    DEVICE_OK,
    DEVICE_NOT_FOUND,
    DEVICE_ALREADY_BOUND,
    DEVICE_ALREADY_UNBOUND,
    DEVICE_NOT_OWNER,
    DEVICE_EXISTS,
};

/* Returns owned; exits the process when out of memory, as everything here does. */
struct devices *devices_new(void);
void devices_freep(struct devices **devices);

enum device_result devices_add(struct devices *devices, const char *id, const char *model,
                               const char *firmware, const char *public_key_pem);
/* *ret_at_ms: when it happened, only on DEVICE_OK. */
enum device_result devices_bind(struct devices *devices, const char *id, const char *user,
                                int64_t *ret_at_ms);
enum device_result devices_unbind(struct devices *devices, const char *id, const char *user,
                                  int64_t *ret_at_ms);

/* Calls on_device for [offset, offset + limit) of the devices of owner (NULL: all), newest first, under the
 * store's lock. Returns how many there are in all. */
size_t devices_list(struct devices *devices, const char *owner, double offset, double limit,
                    void (*on_device)(const struct device *device, void *arg), void *arg);
size_t devices_count(struct devices *devices);

/* Unix time in ms, and its text as JavaScript writes dates: 2025-09-01T08:15:30.455Z. */
#define TIME_TEXT_SIZE 32
int64_t time_now_ms(void);
const char *time_text(int64_t ms, char text[static TIME_TEXT_SIZE]);
/* An allocation that failed ends the process: an example has no better answer. */
void *or_die(void *allocated);
