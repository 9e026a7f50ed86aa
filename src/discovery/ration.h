/* SPDX-License-Identifier: MIT */
/* ration.h - so many datagrams a second, and as many at once after a quiet second. */
#ifndef DISCOVERY_RATION_H
#define DISCOVERY_RATION_H

#include <stdbool.h>
#include <stdint.h>

struct discovery_ration {
    uint64_t per_s;       /* at most 1000000000 */
    uint64_t left;        /* may go out now */
    uint64_t refilled_ns; /* when left last grew */
};

static inline struct discovery_ration discovery_ration_full(uint64_t per_s, uint64_t now_ns)
{
    return (struct discovery_ration){.per_s = per_s, .left = per_s, .refilled_ns = now_ns};
}

/* May one more go out? */
static inline bool discovery_ration_take(struct discovery_ration *r, uint64_t now_ns)
{
    uint64_t more = (now_ns - r->refilled_ns) / (1000000000 / r->per_s);
    if (more > 0) {
        r->left = r->left + more < r->per_s ? r->left + more : r->per_s;
        r->refilled_ns = now_ns;
    }
    if (r->left == 0) {
        return false;
    }
    r->left--;
    return true;
}

#endif
