/* SPDX-License-Identifier: MIT */
/* finder.h - for tests of discovery: a sink that notes what it is told, and waiting for it. */
#ifndef TESTS_DISCOVERY_FINDER_H
#define TESTS_DISCOVERY_FINDER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/sys.h"
#include "discovery/discovery_impl.h"

#define FINDER_MAX 64

struct finder {
    const struct trk_discovery_module *module;
    void *state;
    struct trk_discovery_sink sink;
    char found[FINDER_MAX][128], gone[FINDER_MAX][128];
    int found_count, gone_count;
};

static inline void finder_found(void *ctx, const char *address)
{
    struct finder *f = ctx;
    if (f->found_count < FINDER_MAX) {
        snprintf(f->found[f->found_count++], sizeof(f->found[0]), "%s", address);
    }
}

static inline void finder_gone(void *ctx, const char *address)
{
    struct finder *f = ctx;
    if (f->gone_count < FINDER_MAX) {
        snprintf(f->gone[f->gone_count++], sizeof(f->gone[0]), "%s", address);
    }
}

static inline int finder_open(struct finder *f, const struct trk_discovery_module *module,
                              const struct trk_discovery_config *config)
{
    memset(f, 0, sizeof(*f));
    f->module = module;
    f->sink = (struct trk_discovery_sink){.ctx = f, .found = finder_found, .gone = finder_gone};
    return module->open(config, &f->sink, &f->state);
}

static inline bool finder_has(const struct finder *f, const char *address)
{
    for (int i = 0; i < f->found_count; i++) {
        if (strcmp(f->found[i], address) == 0) {
            return true;
        }
    }
    return false;
}

/* Polls fd for up to ms and says whether it became readable. */
static inline bool is_readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, ms) == 1;
}

/* Processes what comes until found_count is count; false when that takes over five seconds. */
static inline bool finder_wait(struct finder *f, int count)
{
    uint64_t end = sys_now_ns() + 5000000000u;
    while (f->found_count < count && sys_now_ns() < end) {
        if (is_readable(f->module->fd(f->state), 100)) {
            f->module->process(f->state);
        }
    }
    return f->found_count >= count;
}

#endif
