/* SPDX-License-Identifier: MIT */
/* mandelbrot.c - a picture of the Mandelbrot set from 100,000 tiles, by VMs: a durable job in C.
 *
 *     cc -O2 -o mandelbrot mandelbrot.c $(pkg-config --cflags --libs trickle)
 *     trickle-vm --rai native &          (trickle vm does as well)
 *     ./mandelbrot -o picture.ppm
 *
 * Stop it with Ctrl-C, kill -9 it, kill VMs: run again, or by trickle resume mandelbrot, it goes on
 * where it was. The function that VMs run is in mandelbrot_tile.so, beside the program, which is
 * sent to them. docs/c.md goes through this program step by step. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <trickle/trickle.h>

#include "mandelbrot_tile.h"

struct picture {
    uint32_t width, height, size, iterations; /* in pixels; size: of a tile, on a side */
    uint64_t columns, count;                  /* of tiles */
    struct tile tile;                         /* the one that was made last */
    uint8_t *shades;                          /* width * height */
};

/* --- the source and the sink ---------------- */

/* Tile index of the picture. The same whenever it is asked for, so the job can go on. */
static struct tile tile_at(const struct picture *p, uint64_t index)
{
    uint32_t x = (uint32_t)(index % p->columns) * p->size;
    uint32_t y = (uint32_t)(index / p->columns) * p->size;
    double step = 3.2 / p->width;
    struct tile tile = {.step = step, .iterations = p->iterations};

    tile.re = -2.25 + x * step;
    tile.im = (y - p->height / 2.0) * step;
    tile.width = p->width - x < p->size ? p->width - x : p->size;
    tile.height = p->height - y < p->size ? p->height - y : p->size;
    return tile;
}

static int make_tile(void *ctx, uint64_t index, const void **element, size_t *size)
{
    struct picture *p = ctx;

    if (index == p->count) {
        return TRK_END;
    }
    p->tile = tile_at(p, index);
    *element = &p->tile;
    *size = sizeof(p->tile);
    return 0;
}

static void put_tile(struct picture *p, uint64_t index, const uint8_t *shades)
{
    struct tile tile = tile_at(p, index);
    uint8_t *at = p->shades + index / p->columns * p->size * p->width +
                  index % p->columns * p->size;

    for (uint32_t y = 0; y < tile.height; y++) {
        memcpy(at + (size_t)y * p->width, shades + (size_t)y * tile.width, tile.width);
    }
}

static int draw_tile(void *ctx, const struct trk_result *result)
{
    struct picture *p = ctx;
    struct tile tile = tile_at(p, result->index);

    if (result->status != TRK_STATUS_OK || result->size != (size_t)tile.width * tile.height) {
        fprintf(stderr, "mandelbrot: tile %" PRIu64 " failed: %.*s\n", result->index,
                result->status == TRK_STATUS_OK ? 0 : (int)result->size,
                (const char *)result->payload);
        return TRK_ECORRUPT;
    }
    put_tile(p, result->index, result->payload);
    return 0;
}

/* --- the farm ---------------- */

static void show(struct trk_farm *farm, struct trk_work *work, const struct picture *p)
{
    struct trk_progress progress;
    struct trk_notice notice;

    while (trk_farm_notice(farm, 0, &notice) == 0) { /* VMs that were lost, a full disk */
        if (notice.kind == TRK_NOTICE_VM_LOST || notice.kind == TRK_NOTICE_MESSAGE) {
            fprintf(stderr, "mandelbrot: %s\n", notice.text);
        }
        trk_notice_free(&notice);
    }
    trk_work_progress(work, &progress);
    fprintf(stderr, "mandelbrot: %" PRIu64 " of %" PRIu64 " tiles, %u VMs\n", progress.done,
            p->count, progress.vms);
}

static int run(struct trk_farm *farm, struct trk_vmlist *vms, const struct trk_native *function,
               struct picture *p)
{
    struct trk_work_options options = {.size = sizeof(options), .name = "tiles", .key = "tiles",
                                       .module = TRK_NATIVE_MODULE, .list = vms,
                                       .function = function->function,
                                       .function_size = function->function_size, .retries = 2};
    struct trk_run run = {.size = sizeof(run), .source = make_tile, .source_ctx = p,
                          .sink = draw_tile, .sink_ctx = p};
    struct trk_work *work;
    int rc;

    memcpy(options.fingerprint, function->fingerprint, sizeof(options.fingerprint));
    if ((rc = trk_work_new(farm, &options, &work)) < 0) {
        return rc;
    }
    while ((rc = trk_work_run(work, &run, 1000)) == TRK_AGAIN) {
        show(farm, work, p);
    }
    trk_work_free(work);
    return rc;
}

/* mandelbrot_tile.so in the directory of this program. */
static void object_path(char *path, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", path, size - 1);
    char *slash;

    path[n > 0 ? n : 0] = '\0';
    slash = strrchr(path, '/');
    n = slash != NULL ? slash + 1 - path : 0;
    snprintf(path + n, size - (size_t)n, "mandelbrot_tile.so");
}

static int farm_out(struct trk_job *job, struct picture *p)
{
    struct trk_farm_options options = {.size = sizeof(options), .job = job};
    struct trk_native function = {.function = NULL};
    struct trk_vmlist *vms = NULL;
    struct trk_farm *farm;
    char path[4096];
    int rc = trk_farm_new(&farm, &options);

    if (rc < 0) {
        return rc;
    }
    object_path(path, sizeof(path));
    if ((rc = trk_native_send(farm, path, "mandelbrot_tile", &function)) == 0 &&
        (rc = trk_connect_start(farm, 0, false, 5000, &vms)) == 0) {
        while ((rc = trk_connect_wait(vms, 1000)) == TRK_AGAIN) {
            if (trk_signals_caught() != 0) {
                rc = TRK_ECANCELLED;
                break;
            }
        }
        rc = rc == 0 ? run(farm, vms, &function, p) : rc;
    }
    if (rc < 0) {
        fprintf(stderr, "mandelbrot: %s\n",
                trk_last_error()[0] != '\0' ? trk_last_error() : trk_strerror(rc));
    }
    trk_native_free(&function);
    trk_vmlist_free(vms);
    trk_farm_close(farm, 2000);
    return rc;
}

/* --- the picture ---------------- */

static void compute_here(struct picture *p)
{
    uint8_t shades[TILE_SIZE_MAX * TILE_SIZE_MAX];

    for (uint64_t i = 0; i < p->count; i++) {
        struct tile tile = tile_at(p, i);
        tile_compute(&tile, shades);
        put_tile(p, i, shades);
    }
}

/* Under another name first: who sees the file sees all of it. */
static int write_picture(const struct picture *p, const char *path)
{
    size_t count = (size_t)p->width * p->height;
    char beside[4096];
    FILE *file;
    bool is_good;

    if (snprintf(beside, sizeof(beside), "%s.part", path) >= (int)sizeof(beside) ||
        (file = fopen(beside, "wb")) == NULL) {
        fprintf(stderr, "mandelbrot: %s: %s\n", path, strerror(errno));
        return TRK_EIO;
    }
    fprintf(file, "P6\n%u %u\n255\n", p->width, p->height);
    for (size_t i = 0; i < count; i++) {
        uint8_t s = p->shades[i];
        uint8_t rgb[3] = {(uint8_t)(s == 0 ? 0 : 20 + s * 5 % 236), (uint8_t)(s * 7),
                          (uint8_t)(s == 0 ? 0 : 80 + s * 3 % 176)};
        fwrite(rgb, 1, 3, file);
    }
    is_good = fflush(file) == 0 && fsync(fileno(file)) == 0;
    if (fclose(file) != 0 || !is_good || rename(beside, path) < 0) {
        fprintf(stderr, "mandelbrot: %s: %s\n", path, strerror(errno));
        unlink(beside);
        return TRK_EIO;
    }
    return 0;
}

/* --- the program ---------------- */

static uint32_t number(const char *text, uint32_t most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    return *text == '\0' || *end != '\0' || value > most ? 0 : (uint32_t)value;
}

static bool read_words(int argc, char **argv, struct picture *p, const char **output,
                       bool *is_serial)
{
    int c;

    while ((c = getopt(argc, argv, "w:h:t:i:o:s")) != -1) {
        switch (c) {
        case 'w': p->width = number(optarg, 65536); break;
        case 'h': p->height = number(optarg, 65536); break;
        case 't': p->size = number(optarg, TILE_SIZE_MAX); break;
        case 'i': p->iterations = number(optarg, 1000000); break;
        case 'o': *output = optarg; break;
        case 's': *is_serial = true; break;
        default: return false;
        }
    }
    return optind == argc && p->width > 0 && p->height > 0 && p->size > 0 && p->iterations > 0;
}

int main(int argc, char **argv)
{
    struct trk_job_options options = {.size = sizeof(options), .name = "mandelbrot",
                                      .argc = argc, .argv = argv};
    struct picture p = {.width = 4000, .height = 2500, .size = 10, .iterations = 2000};
    const char *output = "mandelbrot.ppm";
    struct trk_job_opened opened;
    struct trk_job *job = NULL;
    bool is_serial = false;
    int rc;

    if (!read_words(argc, argv, &p, &output, &is_serial)) {
        fprintf(stderr, "usage: mandelbrot [-w WIDTH] [-h HEIGHT] [-t TILE] [-i ITERATIONS] "
                "[-o FILE.ppm] [-s]\n-s: here, without VMs\n");
        return 2;
    }
    p.columns = (p.width + p.size - 1) / p.size;
    p.count = p.columns * ((p.height + p.size - 1) / p.size);
    if ((p.shades = calloc(p.width, p.height)) == NULL) {
        fprintf(stderr, "mandelbrot: out of memory\n");
        return 1;
    }
    if (is_serial) {
        compute_here(&p);
        rc = 0;
    } else if ((rc = trk_signals_catch()) < 0 ||
               (rc = trk_job_open(&job, &options, &opened)) < 0) {
        fprintf(stderr, "mandelbrot: %s\n", trk_last_error());
    } else {
        rc = farm_out(job, &p);
    }
    if (rc == 0) {
        rc = write_picture(&p, output);
    }
    free(p.shades);
    rc = trk_job_finish(job, rc);
    if (rc == TRK_EXIT_STOPPED) {
        fprintf(stderr, "mandelbrot: go on with: trickle resume mandelbrot\n");
    }
    return rc;
}
