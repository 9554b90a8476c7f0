/* SPDX-License-Identifier: Apache-2.0 */
#include "devices.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BUCKETS (1u << 16)

struct devices {
    pthread_mutex_t mtx;
    struct device *newest; /* all devices, linked by ->older */
    size_t count;
    struct device *buckets[BUCKETS];
};

void *or_die(void *allocated)
{
    if (!allocated) {
        fputs("device-service: out of memory\n", stderr);
        abort();
    }
    return allocated;
}

int64_t time_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

const char *time_text(int64_t ms, char text[static TIME_TEXT_SIZE])
{
    time_t seconds = ms / 1000;
    struct tm utc;
    gmtime_r(&seconds, &utc);
    size_t len = strftime(text, TIME_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &utc);
    snprintf(text + len, TIME_TEXT_SIZE - len, ".%03dZ", (int)(ms % 1000));
    return text;
}

struct devices *devices_new(void)
{
    struct devices *devices = or_die(calloc(1, sizeof(*devices)));
    pthread_mutex_init(&devices->mtx, NULL);
    return devices;
}

void devices_freep(struct devices **devices_ptr)
{
    struct devices *devices = *devices_ptr;
    if (!devices)
        return;
    *devices_ptr = NULL;
    for (struct device *device = devices->newest, *older; device; device = older) {
        older = device->older;
        free(device->id);
        free(device->model);
        free(device->firmware);
        free(device->public_key_pem);
        free(device->owner);
        free(device);
    }
    pthread_mutex_destroy(&devices->mtx);
    free(devices);
}

static struct device **bucket_of(struct devices *devices, const char *id)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *id; id++)
        hash = (hash ^ (unsigned char)*id) * 16777619u;
    return &devices->buckets[hash % BUCKETS];
}

static struct device *find(struct devices *devices, const char *id)
{
    struct device *device = *bucket_of(devices, id);
    while (device && strcmp(device->id, id) != 0)
        device = device->next_in_bucket;
    return device;
}

enum device_result devices_add(struct devices *devices, const char *id, const char *model,
                               const char *firmware, const char *public_key_pem)
{
    enum device_result result = DEVICE_EXISTS;
    pthread_mutex_lock(&devices->mtx);
    if (!find(devices, id)) {
        struct device *device = or_die(calloc(1, sizeof(*device))), **bucket = bucket_of(devices, id);
        device->id = or_die(strdup(id));
        device->model = or_die(strdup(model));
        device->firmware = or_die(strdup(firmware));
        device->public_key_pem = or_die(strdup(public_key_pem));
        device->created_ms = device->last_seen_ms = time_now_ms();
        device->older = devices->newest;
        devices->newest = device;
        device->next_in_bucket = *bucket;
        *bucket = device;
        devices->count++;
        result = DEVICE_OK;
    }
    pthread_mutex_unlock(&devices->mtx);
    return result;
}

enum device_result devices_bind(struct devices *devices, const char *id, const char *user, int64_t *ret_at_ms)
{
    enum device_result result = DEVICE_OK;
    pthread_mutex_lock(&devices->mtx);
    struct device *device = find(devices, id);
    if (!device) {
        result = DEVICE_NOT_FOUND;
    } else if (device->owner) {
        result = DEVICE_ALREADY_BOUND; /* also when it is the caller's already */
    } else {
        device->owner = or_die(strdup(user));
        *ret_at_ms = device->last_seen_ms = time_now_ms();
    }
    pthread_mutex_unlock(&devices->mtx);
    return result;
}

enum device_result devices_unbind(struct devices *devices, const char *id, const char *user,
                                  int64_t *ret_at_ms)
{
    enum device_result result = DEVICE_OK;
    pthread_mutex_lock(&devices->mtx);
    struct device *device = find(devices, id);
    if (!device) {
        result = DEVICE_NOT_FOUND;
    } else if (!device->owner) {
        result = DEVICE_ALREADY_UNBOUND;
    } else if (strcmp(device->owner, user) != 0) {
        result = DEVICE_NOT_OWNER;
    } else {
        free(device->owner);
        device->owner = NULL;
        *ret_at_ms = time_now_ms();
    }
    pthread_mutex_unlock(&devices->mtx);
    return result;
}

size_t devices_list(struct devices *devices, const char *owner, double offset, double limit,
                    void (*on_device)(const struct device *device, void *arg), void *arg)
{
    size_t total = 0;
    double first = offset < 1e15 ? (double)(int64_t)offset : offset, last = offset + limit;
    pthread_mutex_lock(&devices->mtx);
    for (const struct device *device = devices->newest; device; device = device->older) {
        if (owner && (!device->owner || strcmp(device->owner, owner) != 0))
            continue;
        double index = (double)total++;
        if (index >= first && index + 1 <= last)
            on_device(device, arg);
    }
    pthread_mutex_unlock(&devices->mtx);
    return total;
}

size_t devices_count(struct devices *devices)
{
    pthread_mutex_lock(&devices->mtx);
    size_t count = devices->count;
    pthread_mutex_unlock(&devices->mtx);
    return count;
}
