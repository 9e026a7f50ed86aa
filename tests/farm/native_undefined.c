/* SPDX-License-Identifier: MIT */
/* native_undefined.c - a shared object that needs what nobody defines. */
#include "trickle/native.h"

int trickle_nobody_defines_this(void);

TRK_NATIVE(echo)
{
    return trickle_nobody_defines_this();
}
