/* SPDX-License-Identifier: MIT */
/* mandelbrot_tile.h - one tile of a picture of the Mandelbrot set: what an element of mandelbrot.c
 * is, and what is computed of it, on a VM by mandelbrot_tile.c or by the program itself. */
#ifndef MANDELBROT_TILE_H
#define MANDELBROT_TILE_H

#include <stdint.h>

#define TILE_SIZE_MAX 64 /* pixels on a side */

/* Travels as its bytes: the machines of a farm have one byte order. */
struct tile {
    double re, im;     /* of its upper left pixel */
    double step;       /* from pixel to pixel */
    uint32_t width, height, iterations;
    uint32_t padding;  /* 0: the same bytes in each run of the program */
};

/* A shade for each pixel, row by row: 0 is the set, 1 .. 255 goes round with the iterations. */
static inline void tile_compute(const struct tile *tile, uint8_t *shades)
{
    for (uint32_t y = 0; y < tile->height; y++) {
        for (uint32_t x = 0; x < tile->width; x++) {
            double re = tile->re + x * tile->step, im = tile->im + y * tile->step;
            double a = 0, b = 0;
            uint32_t n = 0;
            while (n < tile->iterations && a * a + b * b <= 4) {
                double next = a * a - b * b + re;
                b = 2 * a * b + im;
                a = next;
                n++;
            }
            *shades++ = n == tile->iterations ? 0 : (uint8_t)(1 + n % 255);
        }
    }
}

#endif
