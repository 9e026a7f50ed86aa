/* SPDX-License-Identifier: MIT */
/* bench_ckpt.c - how fast results become durable, against LMDB alone.
 *
 * Puts records of 100-byte results with a bounded number outstanding, as a farm whose VMs wait for
 * acknowledgements does. The bare loop then writes as many records of the same size into as many
 * transactions of the same size with the same flags, appending: all that LMDB needs, and nothing of
 * what makes a store of it (index, digests, counters, thread).
 *
 *   bench_ckpt [results] [per record] [outstanding] [directory]
 *              2,000,000  64          100,000       . */
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

#define RESULT_BYTES 100

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

static void report(const char *name, const struct load *load, const struct outcome *o)
{
    printf("%-6s %9.0f results/s  %6llu transactions of %5.0f records  %6.0f us a commit\n", name,
           (double)load->results / o->seconds, (unsigned long long)o->syncs,
           (double)load->records / (double)o->syncs,
           (double)o->sync_ns / 1e3 / (double)o->syncs);
}

int main(int argc, char **argv)
{
    struct load load = {.results = argc > 1 ? strtoull(argv[1], NULL, 10) : 2000000,
                        .per_record = argc > 2 ? strtoull(argv[2], NULL, 10) : 64,
                        .outstanding = argc > 3 ? strtoull(argv[3], NULL, 10) : 100000};
    struct outcome store, bare;
    struct rusage usage;
    double seconds;

    if (load.results == 0 || load.per_record == 0 || load.per_record > 10000) {
        fprintf(stderr, "usage: bench_ckpt [results] [per record] [outstanding] [directory]\n");
        return 2;
    }
    load.records = (load.results + load.per_record - 1) / load.per_record;
    load.results = load.records * load.per_record;
    snprintf(load.dir, sizeof(load.dir), "%s/bench-ckpt-%ld", argc > 4 ? argv[4] : ".",
             (long)getpid());
    store = run_store(&load);
    getrusage(RUSAGE_SELF, &usage);
    seconds = read_all(&load);
    clear(&load);
    mkdir(load.dir, 0700);
    bare = run_bare(&load, store.syncs);
    clear(&load);
    printf("%llu results of %d bytes, %llu a record\n", (unsigned long long)load.results,
           RESULT_BYTES, (unsigned long long)load.per_record);
    report("store", &load, &store);
    report("bare", &load, &bare);
    printf("ratio  %9.2f\nread   %9.0f results/s\nmemory %9ld MB at most while writing\n",
           bare.seconds / store.seconds, (double)load.results / seconds,
           usage.ru_maxrss >> 10);
    return 0;
}
