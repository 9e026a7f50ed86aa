/* SPDX-License-Identifier: MIT */
/* mandelbrot_tile.c - the function that VMs run for mandelbrot.c: a shared object of its own, which
 * links nothing.
 *
 *     cc -shared -fPIC -O2 $(pkg-config --cflags trickle) -o mandelbrot_tile.so \
 *        mandelbrot_tile.c */
#include <string.h>

#include <trickle/native.h>

#include "mandelbrot_tile.h"

TRK_NATIVE(mandelbrot_tile)
{
    uint8_t shades[TILE_SIZE_MAX * TILE_SIZE_MAX];
    struct tile tile;

    if (call->size != sizeof(tile)) {
        return trk_native_fail(call, "an element is one struct tile");
    }
    memcpy(&tile, call->payload, sizeof(tile));
    if (tile.width > TILE_SIZE_MAX || tile.height > TILE_SIZE_MAX) {
        return trk_native_fail(call, "a tile has at most 64 pixels on a side");
    }
    tile_compute(&tile, shades);
    return trk_native_write(call, shades, (size_t)tile.width * tile.height);
}
