/* SPDX-License-Identifier: MIT */
/* bench_ckpt.c - how fast results become durable, against LMDB alone.
 *
 * Puts records of 1, 64 and 1000 results of 100 bytes with a bounded number outstanding, as a farm
 * whose VMs wait for acknowledgements does. The bare loop then writes as many records of the same
 * size into as many transactions of the same size with the same flags, appending: all that LMDB
 * needs, and nothing of what makes a store of it (index, digests, counters, thread). The two take
 * turns; of the rounds the median and the range are told. Then lists of as many elements of 100
 * bytes in blocks, as works hand them over: their digests, and with them the elements.
 *
 *   bench_ckpt [results] [rounds] [outstanding] [directory]
 *              1,000,000   5       100,000       . */
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "ckpt/read.h"
#include "ckpt/store.h"
#include "ckpt/value.h"

#define RESULT_BYTES 100
#define ROUNDS_MAX 100
#define SYNCS 50

struct load {
    uint64_t results, per_record, outstanding;
    uint64_t records;
    char dir[4000];
};

struct outcome {
    double seconds;
    uint64_t syncs, sync_ns;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, fail_text());
    exit(1);
}

static struct ckpt_store *open_store(const struct load *load)
{
    struct ckpt_store_options opt = {.dir = load->dir, .is_trusted = true};
    struct ckpt_opened opened;
    struct ckpt_store *s;

    if (ckpt_store_open(&s, &opt, &opened) < 0) {
        die("open");
    }
    return s;
}

static struct outcome run_store(const struct load *load)
{
    struct ckpt_store *s = open_store(load);
    size_t size = load->per_record * RESULT_BYTES;
    uint64_t window = load->outstanding / load->per_record + 1, ticket = 0;
    struct ckpt_state before, after;
    double begin = now();

    ckpt_store_poll(s, &before);
    for (uint64_t i = 0; i < load->records; i++) {
        struct record_run run = {.first = i * load->per_record, .count = load->per_record};
        struct blob *blob = blob_new(size);
        struct ckpt_value value = {.blob = blob, .slices = {{NULL, size}}, .count = 1};
        if (blob == NULL) {
            die("memory");
        }
        memset(blob->data, (int)i, size);
        value.slices[0].bytes = blob->data;
        if (ckpt_store_put_result(s, 1, &run, &value, &ticket) < 0) {
            die("put");
        }
        blob_unref(blob);
        if (ticket > window && ckpt_store_durable(s) < ticket - window &&
            ckpt_store_wait(s, ticket - window, -1) != 0) {
            die("wait");
        }
    }
    if (ckpt_store_wait(s, ticket, -1) != 0) {
        die("wait");
    }
    begin = now() - begin;
    ckpt_store_poll(s, &after);
    if (ckpt_store_close(s) < 0) {
        die("close");
    }
    return (struct outcome){begin, after.syncs - before.syncs, after.sync_ns - before.sync_ns};
}

static void check_lmdb(int rc)
{
    if (rc != 0) {
        fprintf(stderr, "lmdb: %s\n", mdb_strerror(rc));
        exit(1);
    }
}

static struct outcome run_bare(const struct load *load, uint64_t txns)
{
    size_t size = load->per_record * RESULT_BYTES + RECORD_HEAD + KEY_STAGE_NUMBER +
                  RECORD_RUN_BYTES;
    uint64_t per_txn = load->records / txns + 1;
    uint8_t key[KEY_STAGE_NUMBER], *bytes = malloc(size);
    struct outcome out = {0};
    double begin = now();
    MDB_txn *txn = NULL;
    MDB_env *env;
    MDB_dbi dbi;

    check_lmdb(mdb_env_create(&env));
    check_lmdb(mdb_env_set_mapsize(env, (size_t)1 << 40));
    check_lmdb(mdb_env_open(env, load->dir, 0, 0600));
    for (uint64_t i = 0; i < load->records; i++) {
        MDB_val k = {sizeof(key), key}, v = {size, bytes};
        if (txn == NULL) {
            check_lmdb(mdb_txn_begin(env, NULL, 0, &txn));
            check_lmdb(mdb_dbi_open(txn, NULL, 0, &dbi));
        }
        key_put_u32(key, 1);
        key_put_u64(key + 4, i);
        memset(bytes, (int)i, size);
        check_lmdb(mdb_put(txn, dbi, &k, &v, MDB_APPEND));
        if ((i + 1) % per_txn == 0 || i + 1 == load->records) {
            double sync = now();
            check_lmdb(mdb_txn_commit(txn));
            out.sync_ns += (uint64_t)((now() - sync) * 1e9);
            out.syncs++;
            txn = NULL;
        }
    }
    out.seconds = now() - begin;
    mdb_env_close(env);
    free(bytes);
    return out;
}

/* All results in the order of their elements, as a resumed program gets them. */
static double read_all(const struct load *load)
{
    struct ckpt_result result;
    struct ckpt_reader *r;
    uint64_t at = 0;
    double begin = now();

    if (ckpt_reader_open(&r, load->dir) != 0) {
        die("reader");
    }
    while (ckpt_read_at(r, 1, at, &result) == 0) {
        at = result.found.first + result.found.count;
        blob_unref(result.value);
    }
    ckpt_reader_free(r);
    if (at != load->records * load->per_record) {
        die("results are missing");
    }
    return now() - begin;
}

static void clear(const struct load *load)
{
    static const char *const names[] = {"data.mdb", "lock.mdb", "job.lock", "last", "clean"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char path[4200];
        snprintf(path, sizeof(path), "%s/%s", load->dir, names[i]);
        unlink(path);
    }
    rmdir(load->dir);
}

/* --- lists ---------------- */

#define BLOCK_ELEMENTS 655 /* of 100 bytes: what fits into a block of a work */

static uint64_t file_bytes(const struct load *load)
{
    char path[4200];
    struct stat st;

    snprintf(path, sizeof(path), "%s/data.mdb", load->dir);
    return stat(path, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static void put_list_record(struct ckpt_store *s, enum ckpt_kind kind, uint64_t first,
                            const struct ckpt_value *value, uint64_t *ticket)
{
    uint8_t key[KEY_STAGE_NUMBER];

    ckpt_key(key, 1, first);
    if (value->blob == NULL ||
        ckpt_store_put_record(s, kind, key, sizeof(key), value, ticket) < 0) {
        die("put");
    }
    blob_unref(value->blob);
}

/* One block, as src/farm puts it. */
static void put_block(struct ckpt_store *s, uint64_t first, bool keeps, uint64_t *ticket)
{
    static struct digest digests[BLOCK_ELEMENTS];
    uint8_t head[VALUE_ELEMENTS_HEAD], span[VALUE_WORK_SPAN];
    uint32_t sizes[BLOCK_ELEMENTS];
    struct value_work work = {.count = BLOCK_ELEMENTS, .digests = digests[0].bytes, .spans = 1,
                              .delivered = span};
    struct ckpt_value value = {.blob = blob_new(BLOCK_ELEMENTS * RESULT_BYTES), .count = 3};
    uint8_t *at = value.blob != NULL ? value.blob->data : NULL;

    for (unsigned i = 0; at != NULL && i < BLOCK_ELEMENTS; i++, at += RESULT_BYTES) {
        memset(at, (int)i, RESULT_BYTES);
        memcpy(at, &first, sizeof(first));
        digests[i] = hash_digest(at, RESULT_BYTES);
        sizes[i] = RESULT_BYTES;
    }
    if (keeps && at != NULL) {
        value_elements_put(head, BLOCK_ELEMENTS);
        value.blob->size = value.blob->cap;
        value.slices[0] = (struct ckpt_slice){head, sizeof(head)};
        value.slices[1] = (struct ckpt_slice){sizes, sizeof(sizes)};
        value.slices[2] = (struct ckpt_slice){value.blob->data, value.blob->size};
        put_list_record(s, CKPT_ELEMENTS, first, &value, ticket);
    } else {
        blob_unref(value.blob);
    }
    value_work_span_put(span, BLOCK_ELEMENTS, 0);
    value = (struct ckpt_value){.blob = value_work_encode(&work), .count = 1};
    if (value.blob != NULL) {
        value.slices[0] = (struct ckpt_slice){value.blob->data, value.blob->size};
    }
    put_list_record(s, CKPT_WORK, first, &value, ticket);
}

static double run_list(const struct load *load, bool keeps)
{
    struct ckpt_store *s = open_store(load);
    uint64_t ticket = 0;
    double begin = now();

    for (uint64_t first = 0; first < load->results; first += BLOCK_ELEMENTS) {
        put_block(s, first, keeps, &ticket);
        if (ckpt_store_is_full(s) && ckpt_store_wait(s, ticket, -1) != 0) {
            die("wait");
        }
    }
    if (ckpt_store_wait(s, ticket, -1) != 0) {
        die("wait");
    }
    begin = now() - begin;
    if (ckpt_store_close(s) < 0) {
        die("close");
    }
    return begin;
}

static double read_elements(const struct load *load)
{
    struct ckpt_reader *r;
    struct blob *value;
    uint64_t at = 0;
    double begin = now();

    if (ckpt_reader_open(&r, load->dir) != 0) {
        die("reader");
    }
    for (; ckpt_read_numbered(r, CKPT_ELEMENTS, 1, &at, &value) == 0; at++) {
        blob_unref(value);
    }
    ckpt_reader_free(r);
    return now() - begin;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts values and prints their median and range. */
static void print_range(const char *name, double *values, unsigned count, const char *format)
{
    qsort(values, count, sizeof(*values), compare);
    printf("  %-30s", name);
    printf(format, values[count / 2]);
    printf("  (");
    printf(format, values[0]);
    printf(" .. ");
    printf(format, values[count - 1]);
    printf(")\n");
}

/* What the disk takes for the least there is to make durable: one page. */
static void time_syncs(const struct load *load)
{
    static uint8_t page[4096];
    double us[SYNCS];
    char path[4200];
    int fd;

    mkdir(load->dir, 0700);
    snprintf(path, sizeof(path), "%s/data.mdb", load->dir);
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < SYNCS; i++) {
        double begin = now();
        memset(page, (int)i, sizeof(page));
        if (fd < 0 || pwrite(fd, page, sizeof(page), 0) != sizeof(page) || fdatasync(fd) != 0) {
            perror(path);
            exit(1);
        }
        us[i] = (now() - begin) * 1e6;
    }
    close(fd);
    clear(load);
    print_range("one page and its sync, us", us, SYNCS, "%.0f");
}

static void run(const struct load *load, unsigned rounds)
{
    static double store[ROUNDS_MAX], bare[ROUNDS_MAX], ratio[ROUNDS_MAX], syncs[ROUNDS_MAX],
        store_us[ROUNDS_MAX], bare_us[ROUNDS_MAX], reading[ROUNDS_MAX];

    for (unsigned i = 0; i < rounds; i++) {
        struct outcome o = run_store(load);
        store[i] = (double)load->results / o.seconds;
        syncs[i] = (double)o.syncs;
        store_us[i] = (double)o.sync_ns / 1e3 / (double)o.syncs;
        reading[i] = (double)load->results / read_all(load);
        clear(load);
        mkdir(load->dir, 0700);
        o = run_bare(load, o.syncs);
        clear(load);
        bare[i] = (double)load->results / o.seconds;
        bare_us[i] = (double)o.sync_ns / 1e3 / (double)o.syncs;
        ratio[i] = store[i] / bare[i];
    }
    printf("records of %llu\n", (unsigned long long)load->per_record);
    print_range("durable results/s", store, rounds, "%.0f");
    print_range("bare LMDB's", bare, rounds, "%.0f");
    print_range("ratio", ratio, rounds, "%.2f");
    print_range("transactions, each synced", syncs, rounds, "%.0f");
    print_range("one commit, us", store_us, rounds, "%.0f");
    print_range("bare LMDB's commit, us", bare_us, rounds, "%.0f");
    print_range("results read/s, in order", reading, rounds, "%.0f");
}

static void run_lists(const struct load *load, unsigned rounds)
{
    static double digests[ROUNDS_MAX], kept[ROUNDS_MAX], ratio[ROUNDS_MAX], reading[ROUNDS_MAX],
        digests_bytes[ROUNDS_MAX], kept_bytes[ROUNDS_MAX];

    for (unsigned i = 0; i < rounds; i++) {
        digests[i] = (double)load->results / run_list(load, false);
        digests_bytes[i] = (double)file_bytes(load) / (double)load->results;
        clear(load);
        kept[i] = (double)load->results / run_list(load, true);
        kept_bytes[i] = (double)file_bytes(load) / (double)load->results;
        reading[i] = (double)load->results / read_elements(load);
        clear(load);
        ratio[i] = kept[i] / digests[i];
    }
    printf("lists\n");
    print_range("durable digests/s", digests, rounds, "%.0f");
    print_range("the same with elements", kept, rounds, "%.0f");
    print_range("ratio", ratio, rounds, "%.2f");
    print_range("bytes of file an element", digests_bytes, rounds, "%.0f");
    print_range("the same with elements", kept_bytes, rounds, "%.0f");
    print_range("elements read/s, in order", reading, rounds, "%.0f");
}

int main(int argc, char **argv)
{
    static const uint64_t per_record[] = {1, 64, 1000};
    uint64_t results = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;
    unsigned rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 5;
    struct load load = {.outstanding = argc > 3 ? strtoull(argv[3], NULL, 10) : 100000};
    struct rusage usage;

    if (results == 0 || rounds == 0 || rounds > ROUNDS_MAX) {
        fprintf(stderr, "usage: bench_ckpt [results] [rounds] [outstanding] [directory]\n");
        return 2;
    }
    snprintf(load.dir, sizeof(load.dir), "%s/bench-ckpt-%ld", argc > 4 ? argv[4] : ".",
             (long)getpid());
    printf("%llu results of %d bytes, %llu outstanding, %u rounds: median (range)\n",
           (unsigned long long)results, RESULT_BYTES, (unsigned long long)load.outstanding, rounds);
    time_syncs(&load);
    for (size_t i = 0; i < sizeof(per_record) / sizeof(per_record[0]); i++) {
        load.per_record = per_record[i];
        load.records = (results + load.per_record - 1) / load.per_record;
        load.results = load.records * load.per_record;
        run(&load, rounds);
    }
    run_lists(&load, rounds);
    getrusage(RUSAGE_SELF, &usage);
    printf("memory at most %ld MB\n", usage.ru_maxrss >> 10);
    return 0;
}
