/* SPDX-License-Identifier: MIT */
/* native_add.c - the trivial function of bench_native: a number and one more. */
#include <string.h>

#include "trickle/native.h"

TRK_NATIVE(add)
{
    uint64_t x = 0;

    memcpy(&x, call->payload, call->size < sizeof(x) ? call->size : sizeof(x));
    x++;
    return trk_native_write(call, &x, sizeof(x));
}
