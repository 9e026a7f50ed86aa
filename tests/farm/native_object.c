/* SPDX-License-Identifier: MIT */
/* native_object.c - a shared object with functions for the native module, as somebody else would
 * write it: it includes one header and links nothing of ours. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "trickle/native.h"

TRK_NATIVE(echo)
{
    return trk_native_write(call, call->payload, call->size);
}

/* Index and attempt, and the pid of the VM. */
TRK_NATIVE(who)
{
    uint64_t told[3] = {call->index, call->attempt, (uint64_t)getpid()};

    return trk_native_write(call, told, sizeof(told));
}

TRK_NATIVE(refuse)
{
    int rc = trk_native_write(call, "half of it", 10);

    return rc < 0 ? rc : trk_native_fail(call, "no such tile");
}

/* Tests make others of it by another text of the same length. */
TRK_NATIVE(which)
{
    static const char text[] = "object-000";

    return trk_native_write(call, text, sizeof(text) - 1);
}

TRK_NATIVE(seven)
{
    return 7;
}

TRK_NATIVE(moved_by_itself)
{
    return TRK_EMOVED;
}

/* As many bytes as the element says. */
TRK_NATIVE(big)
{
    static char chunk[65536];
    uint64_t left = 0;
    int rc = 0;

    memcpy(&left, call->payload, sizeof(left));
    memset(chunk, 'b', sizeof(chunk));
    while (left > 0 && rc == 0) {
        uint64_t n = left < sizeof(chunk) ? left : sizeof(chunk);
        rc = trk_native_write(call, chunk, n);
        left -= n;
    }
    return rc;
}

TRK_NATIVE(crash)
{
    if (call->size > 0) {
        abort();
    }
    return 0;
}

/* Says on its output that it runs, until nobody wants it any more. */
TRK_NATIVE(endless)
{
    while (!trk_native_is_cancelled(call)) {
        usleep(1000);
    }
    return trk_native_fail(call, "cancelled");
}

/* What a checkpoint answers, and what there is to restore. */
TRK_NATIVE(state)
{
    int rc = trk_native_checkpoint(call, call->payload, call->size);
    const void *bytes;
    size_t size;

    if (rc != 0) {
        return rc == TRK_END ? trk_native_write(call, "not durable", 11) : rc;
    }
    rc = trk_native_restore(call, &bytes, &size);
    return rc != 0 ? rc : trk_native_write(call, bytes, size);
}
