/* SPDX-License-Identifier: MIT */
/* exec_keep.c - the first and the last bytes of a stream of any length.
 *
 *   bytes  [ first keep/2 | a ring of the others ]   once more than keep bytes have come;
 *          [ all of them, in their order         ]   before: the ring has not gone round yet
 */
#include <string.h>

#include "base/mem.h"
#include "rai/exec_impl.h"

#define ROOM_FIRST 1024u

static size_t head_of(const struct exec_keep *k)
{
    return k->keep / 2;
}

static bool grow(struct exec_keep *k, uint64_t need)
{
    size_t room = k->room > 0 ? k->room : ROOM_FIRST;
    need = need < k->keep ? need : k->keep;
    while (room < need) {
        room *= 2;
    }
    room = room < k->keep ? room : k->keep;
    if (room <= k->room) {
        return true;
    }
    uint8_t *bytes = mem_realloc(k->bytes, room);
    if (bytes == NULL) {
        return false;
    }
    k->bytes = bytes;
    k->room = room;
    return true;
}

/* Where the byte number n of the stream goes. */
static size_t place_of(const struct exec_keep *k, uint64_t n)
{
    size_t head = head_of(k);
    return n < head ? (size_t)n : head + (size_t)((n - head) % (k->keep - head));
}

bool exec_keep_add(struct exec_keep *k, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    if (k->keep == 0) {
        k->total += size;
        return true;
    }
    if (!grow(k, k->total + size)) {
        return false;
    }
    while (size > 0) {
        size_t place = place_of(k, k->total);
        size_t n = (k->total < head_of(k) ? head_of(k) : k->keep) - place;
        n = n < size ? n : size;
        memcpy(k->bytes + place, at, n);
        at += n;
        size -= n;
        k->total += n;
    }
    return true;
}

void exec_keep_get(const struct exec_keep *k, struct trk_exec_kept *out)
{
    bool is_all = k->total <= k->keep;
    out->bytes = NULL;
    out->total = k->total;
    out->size = is_all ? (size_t)k->total : k->keep;
    out->head = is_all ? out->size : head_of(k);
}

int exec_keep_write(const struct exec_keep *k, struct trk_rai_reply *reply)
{
    if (k->total <= k->keep) {
        return trk_rai_reply_write(reply, k->total > 0 ? k->bytes : (const void *)"",
                                   (size_t)k->total);
    }
    if (k->keep == 0) {
        return 0;
    }
    size_t oldest = place_of(k, k->total), head = head_of(k);
    int rc = trk_rai_reply_write(reply, k->bytes, head);
    rc = rc < 0 ? rc : trk_rai_reply_write(reply, k->bytes + oldest, k->keep - oldest);
    return rc < 0 ? rc : trk_rai_reply_write(reply, k->bytes + head, oldest - head);
}

void exec_keep_fini(struct exec_keep *k)
{
    mem_free(k->bytes);
    k->bytes = NULL;
    k->room = 0;
    k->total = 0;
}
