/* SPDX-License-Identifier: MIT */
/* relay_link.c - see relay_link.h. */
#include "relay_link.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1e6
#define QUEUE_BYTES 256e3
#define REORDER_MS 5

void link_init(struct link *l, uint64_t seed)
{
    *l = (struct link){.random = seed};
    l->set.queue_bytes = QUEUE_BYTES;
    l->set.reorder_ms = REORDER_MS;
}

/* --- settings ---------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t offset;
    bool is_probability;
} settings[] = {
    {"delay_ms", offsetof(struct link_settings, delay_ms), false},
    {"jitter_ms", offsetof(struct link_settings, jitter_ms), false},
    {"loss", offsetof(struct link_settings, loss), true},
    {"duplicate", offsetof(struct link_settings, duplicate), true},
    {"reorder", offsetof(struct link_settings, reorder), true},
    {"reorder_ms", offsetof(struct link_settings, reorder_ms), false},
    {"multicast_loss", offsetof(struct link_settings, multicast_loss), true},
    {"rate_kbit", offsetof(struct link_settings, rate_kbit), false},
    {"queue_bytes", offsetof(struct link_settings, queue_bytes), false},
    {"cut", offsetof(struct link_settings, cut), true},
};

bool link_set(struct link *l, const char *name, const char *value)
{
    char *end;
    double number = strtod(value, &end);
    if (end == value || *end != '\0' || !(number >= 0) || !isfinite(number)) {
        return false;
    }
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (strcmp(name, settings[i].name) == 0) {
            if (settings[i].is_probability && number > 1) {
                return false;
            }
            memcpy((char *)&l->set + settings[i].offset, &number, sizeof(number));
            return true;
        }
    }
    return false;
}

/* --- packets ----------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014); 0 <= the number < 1. */
static double draw(struct link *l)
{
    uint64_t z = l->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* When the last bit of it has been sent; false: the queue is full. */
static bool pass_rate(struct link *l, size_t bytes, uint64_t now_ns, uint64_t *sent_ns)
{
    *sent_ns = now_ns;
    if (l->set.rate_kbit <= 0) {
        return true;
    }
    double ns_per_byte = 8 * NS_PER_MS / l->set.rate_kbit;
    uint64_t begin = l->free_at_ns > now_ns ? l->free_at_ns : now_ns;
    if ((double)(begin - now_ns) / ns_per_byte + (double)bytes > l->set.queue_bytes) {
        return false;
    }
    l->free_at_ns = *sent_ns = begin + (uint64_t)((double)bytes * ns_per_byte);
    return true;
}

/* The time of a packet that keeps its place among the others. */
static uint64_t in_order(struct link *l, uint64_t due)
{
    l->last_due_ns = due > l->last_due_ns ? due : l->last_due_ns;
    return l->last_due_ns;
}

unsigned link_pass(struct link *l, size_t bytes, bool is_multicast, uint64_t now_ns,
                   uint64_t due_ns[LINK_COPIES_MAX])
{
    const struct link_settings *set = &l->set;
    bool is_lost = draw(l) < set->loss;
    bool is_multicast_lost = draw(l) < set->multicast_loss;
    bool is_double = draw(l) < set->duplicate;
    bool is_late = draw(l) < set->reorder;
    double jitter_ms = draw(l) * set->jitter_ms;
    uint64_t sent_ns;
    l->count.packets++;
    l->count.bytes += bytes;
    if (set->cut != 0) {
        l->count.cut++;
        return 0;
    }
    if (is_lost) {
        l->count.lost++;
        return 0;
    }
    if (is_multicast && is_multicast_lost) {
        l->count.multicast_lost++;
        return 0;
    }
    if (!pass_rate(l, bytes, now_ns, &sent_ns)) {
        l->count.overflow++;
        return 0;
    }
    uint64_t due = sent_ns + (uint64_t)((set->delay_ms + jitter_ms) * NS_PER_MS);
    if (is_late) {
        l->count.reordered++;
        due_ns[0] = due + (uint64_t)(set->reorder_ms * NS_PER_MS);
    } else {
        due_ns[0] = in_order(l, due);
    }
    if (!is_double) {
        return 1;
    }
    l->count.duplicated++;
    due_ns[1] = due_ns[0];
    return 2;
}

int link_format(const struct link *l, char *out, size_t size)
{
    const struct link_counters *c = &l->count;
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {
        {"packets", c->packets}, {"bytes", c->bytes}, {"delivered", c->delivered},
        {"lost", c->lost}, {"multicast_lost", c->multicast_lost}, {"cut", c->cut},
        {"duplicated", c->duplicated}, {"reordered", c->reordered}, {"overflow", c->overflow},
        {"refused", c->refused}, {"connections", c->connections}, {"tls", c->tls},
        {"plain", c->plain}, {"resets", c->resets},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        int n = snprintf(at < size ? out + at : NULL, at < size ? size - at : 0,
                         "%s\"%s\":%" PRIu64, i == 0 ? "" : ",", all[i].name, all[i].value);
        at += (size_t)n;
    }
    return (int)at;
}
