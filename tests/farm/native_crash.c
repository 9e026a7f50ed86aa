/* SPDX-License-Identifier: MIT */
/* native_crash.c - a shared object that ends its process while it is loaded. */
#include <stdlib.h>

#include "trickle/native.h"

static void __attribute__((constructor)) begin(void)
{
    abort();
}

TRK_NATIVE(echo)
{
    return trk_native_write(call, call->payload, call->size);
}
