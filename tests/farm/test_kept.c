/* SPDX-License-Identifier: MIT */
/* test_kept.c - elements that are kept in the store of a job: read back by whoever resumes it, also
 * of lists that were left open or have changed; what is lost is told, and put again. */
#include "base/fail.h" /* before check.h, which has a macro of that name */

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/env.h"
#include "ckpt/ldb.h"
#include "farm/kept.h"
#include "tests/farm/rig.h"
#include "tests/suite.h"

#define LARGE 40000           /* travels alone */
#define IN_PARTS (5 << 19)    /* two and a half parts of a value */
#define ELEMENT_MAX IN_PARTS

static struct rig rig;
static struct trk_job *job;
static struct trk_farm *farm;
static struct trk_vmlist *list;
static char home[80];
static uint8_t *room;
static bool keeps;

static void open_job(enum trk_on_change on_change)
{
    struct trk_job_options opt = {.size = sizeof(opt), .name = "kept", .home = home,
                                  .on_change = on_change};
    struct trk_job_opened opened;
    int rc = trk_job_open(&job, &opt, &opened);

    ck_assert_msg(rc == 0, "trk_job_open: %d %s", rc, trk_last_error());
}

static void open_all(enum trk_on_change on_change)
{
    struct trk_farm_options options = {.size = sizeof(options), .runtime_dir = rig.dir};
    int rc;

    open_job(on_change);
    options.job = job;
    rc = trk_farm_new(&farm, &options);
    ck_assert_msg(rc == 0, "trk_farm_new: %d %s", rc, trk_last_error());
    rc = rig_connect(farm, 2, true, 5000, &list);
    ck_assert_msg(rc == 0, "connect: %d %s", rc, trk_last_error());
}

static void close_all(void)
{
    trk_vmlist_free(list);
    trk_farm_close(farm, 1000);
    ck_assert_int_eq(trk_job_close(job), 0);
}

static void reopen(enum trk_on_change on_change)
{
    close_all();
    open_all(on_change);
}

static void setup(void)
{
    rig_start(&rig);
    rig_supervisor(&rig, 2);
    snprintf(home, sizeof(home), "%s/home", rig.dir);
    room = malloc(ELEMENT_MAX);
    keeps = true;
    open_all(TRK_CHANGE_REFUSE);
}

static void teardown(void)
{
    char command[128];

    close_all();
    snprintf(command, sizeof(command), "rm -r %s", home);
    ck_assert_int_eq(system(command), 0);
    free(room);
    rig_stop(&rig);
}

/* Element i, in room: mostly a text; now and then empty, or too large for a block. */
static size_t element(uint64_t i)
{
    size_t size = i % 1000 == 77 ? LARGE : i == 1500 ? IN_PARTS : i % 100 == 5 ? 0 : 24;

    if (size > 0) {
        memset(room, (int)i, size);
        snprintf((char *)room, 24, "element %llu", (unsigned long long)i);
    }
    return size;
}

static struct trk_work *work_new(const char *code)
{
    struct trk_work_options opt = {.size = sizeof(opt), .name = "echo", .function = "echo",
                                   .function_size = 4, .list = list, .key = "echo#1",
                                   .keep_elements = keeps};
    struct trk_work *work;
    int rc;

    snprintf((char *)opt.fingerprint, sizeof(opt.fingerprint), "%s", code);
    rc = trk_work_new(farm, &opt, &work);
    ck_assert_msg(rc == 0, "trk_work_new: %d %s", rc, trk_last_error());
    return work;
}

/* What is there until another element has to be made. Returns how many. */
static uint64_t take_some(struct trk_work *work, uint64_t offset)
{
    struct trk_result r;
    uint64_t n = 0;
    int rc;

    while ((rc = trk_work_next(work, 0, &r)) == 0) {
        ck_assert_uint_eq(r.size, element(r.index + offset));
        ck_assert(r.size == 0 || memcmp(r.payload, room, r.size) == 0);
        n++;
    }
    ck_assert_msg(rc > 0, "trk_work_next: %d %s", rc, trk_last_error());
    return n;
}

/* Elements offset .. offset + n as a whole list, or as the beginning of one. */
static struct trk_progress run_as(const char *code, uint64_t n, uint64_t offset, bool leave_open)
{
    struct trk_work *work = work_new(code);
    struct trk_progress progress;
    uint64_t taken = 0;
    int rc;

    for (uint64_t i = 0; i < n;) {
        size_t size = element(i + offset);
        rc = trk_work_add(work, room, size);
        ck_assert_msg(rc == 0 || rc == TRK_FULL, "trk_work_add: %d %s", rc, trk_last_error());
        i += rc == 0;
        taken += rc == 0 ? 0 : take_some(work, offset);
    }
    rc = leave_open ? trk_work_leave_open(work) : trk_work_close(work);
    ck_assert_msg(rc == 0, "closing: %d %s", rc, trk_last_error());
    while (taken < n) {
        taken += take_some(work, offset);
    }
    trk_work_progress(work, &progress);
    trk_work_free(work);
    return progress;
}

static struct trk_progress run(uint64_t n, uint64_t offset)
{
    return run_as("code", n, offset, false);
}

static struct trk_elements *walk_from(uint64_t from)
{
    struct trk_elements *walk;

    ck_assert_int_eq(trk_job_elements(job, "echo#1", from, &walk), 0);
    return walk;
}

/* That the store gives back from .. n of the elements offset ... */
static void expect_kept(uint64_t from, uint64_t n, uint64_t offset)
{
    struct trk_elements *walk = walk_from(from);
    const void *bytes;
    size_t size;

    for (uint64_t i = from; i < n; i++) {
        int rc = trk_elements_next(walk, &bytes, &size);
        ck_assert_msg(rc == 0, "element %llu: %d %s", (unsigned long long)i, rc, trk_last_error());
        ck_assert_uint_eq(size, element(i + offset));
        ck_assert(size == 0 || memcmp(bytes, room, size) == 0);
    }
    ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_END);
    ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_END);
    trk_elements_free(walk);
}

static void expect_stage(uint64_t elements, bool is_closed)
{
    struct trk_job_stage stage;

    ck_assert_int_eq(trk_job_get_stage(job, "echo#1", &stage), 0);
    ck_assert_uint_eq(stage.elements, elements);
    ck_assert_int_eq(stage.is_closed, is_closed);
}

/* Blocks of a stage of the store, by their first elements. Returns how many. */
static size_t blocks_of(uint32_t stage, uint64_t *firsts, size_t room_for)
{
    struct ckpt_read_key key = {.size = KEY_STAGE};
    struct blob *value;
    size_t n = 0;

    key_put_u32(key.bytes, stage);
    while (n < room_for && job_read_next(job, CKPT_WORK, &key, &value) == 0) {
        blob_unref(value);
        if (key_get_u32(key.bytes) != stage) {
            break;
        }
        firsts[n++] = key_get_u64(key.bytes + KEY_STAGE);
    }
    return n;
}

/* As a salvage leaves the store when the page of that block was damaged. */
static void lose(uint32_t stage, uint64_t first)
{
    uint8_t key[KEY_STAGE_NUMBER];
    uint64_t ticket;

    ckpt_key(key, stage, first);
    ck_assert_int_eq(ckpt_store_delete(job->store, CKPT_ELEMENTS, key, sizeof(key), &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
}

static unsigned put_late; /* blocks whose elements were put after their work record */

/* Blocks of elements that were put since the last time that this was asked. Closes and opens. */
static unsigned blocks_put(enum trk_on_change on_change)
{
    static uint64_t seen;
    uint64_t newest = 0;
    unsigned n = 0;
    char dir[120];
    struct ckpt_env env;
    MDB_cursor *cursor;
    MDB_val key, value;
    struct record r, work;
    MDB_txn *txn;

    close_all();
    snprintf(dir, sizeof(dir), "%s/jobs/kept", home);
    ck_assert_int_eq(env_open(&env, dir, ENV_CHECK, 0), 0);
    ck_assert_int_eq(ldb_begin(env.mdb, MDB_RDONLY, &txn), 0);
    ck_assert_int_eq(ldb_cursor(txn, env.tables[CKPT_ELEMENTS], &cursor), 0);
    put_late = 0;
    while (ldb_cursor_get(cursor, &key, &value, MDB_NEXT) == 0) {
        ck_assert_int_eq(record_get(&r, value.mv_data, value.mv_size), 0);
        newest = r.version > newest ? r.version : newest;
        n += r.version > seen;
        ck_assert_int_eq(ldb_get(txn, env.tables[CKPT_WORK], key.mv_data, key.mv_size, &value), 0);
        ck_assert_int_eq(record_get(&work, value.mv_data, value.mv_size), 0);
        put_late += work.version < r.version;
    }
    seen = newest;
    mdb_cursor_close(cursor);
    mdb_txn_abort(txn);
    env_close(&env);
    open_all(on_change);
    return n;
}

/* --- reading back ---------------- */

START_TEST(elements_are_read_back_in_order)
{
    struct trk_job_stage stage;
    struct trk_elements *walk;

    ck_assert_int_eq(trk_job_get_stage(job, "echo#1", &stage), TRK_END);
    ck_assert_int_eq(trk_job_elements(job, "echo#1", 0, &walk), TRK_END);
    run(2000, 0);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_int_eq(trk_job_get_stage(job, "echo#2", &stage), TRK_END);
    expect_stage(2000, true);
    expect_kept(0, 2000, 0);
    expect_kept(1499, 2000, 0);
    expect_kept(1999, 2000, 0);
    expect_kept(2000, 2000, 0);
    expect_kept(UINT64_MAX, 2000, 0);
}
END_TEST

START_TEST(a_job_goes_on_without_whoever_made_its_elements)
{
    struct trk_elements *walk;
    struct trk_progress p;
    struct trk_work *work;
    const void *bytes;
    size_t size;
    uint64_t taken = 0, ticket;
    int rc;

    run(1200, 0);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_int_eq(job_forget(job, 1, &(struct record_run){.first = 100, .count = 300}, &ticket),
                     0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
    walk = walk_from(0);
    work = work_new("code");
    while ((rc = trk_elements_next(walk, &bytes, &size)) == 0) {
        ck_assert_int_eq(trk_work_add(work, bytes, size), 0);
    }
    ck_assert_int_eq(rc, TRK_END);
    trk_elements_free(walk);
    ck_assert_int_eq(trk_work_close(work), 0);
    while (taken < 1200) {
        taken += take_some(work, 0);
    }
    trk_work_progress(work, &p);
    ck_assert_uint_eq(p.restored, 900);
    trk_work_free(work);
}
END_TEST

START_TEST(a_list_that_was_left_open_is_not_closed)
{
    run_as("code", 300, 0, true);
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(300, false);
    expect_kept(0, 300, 0);
    run_as("code", 300, 0, true); /* all it has, and again not the end */
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(300, false);
    run_as("code", 100, 0, true); /* less than was known is no change then */
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(300, false);
    run(500, 0); /* the list, whole */
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(500, true);
    expect_kept(0, 500, 0);
    run_as("code", 500, 0, true); /* its end is known, and stays so */
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(500, true);
}
END_TEST

START_TEST(elements_that_were_not_kept_are_told_and_kept_the_next_time)
{
    struct trk_elements *walk;
    const void *bytes;
    size_t size;

    keeps = false;
    run(1600, 0);
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(1600, true);
    walk = walk_from(0);
    for (int i = 0; i < 2; i++) { /* it stays there */
        ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_ENOTKEPT);
        ck_assert_msg(strstr(trk_last_error(), "element 0 of echo") != NULL &&
                      strstr(trk_last_error(), "list") != NULL, "said: %s", trk_last_error());
    }
    trk_elements_free(walk);
    keeps = true;
    run(1600, 0);
    reopen(TRK_CHANGE_REFUSE);
    expect_kept(0, 1600, 0);
}
END_TEST

/* --- lists and code that change ---------------- */

/* New blocks, blocks of a list that has changed, elements with results of equal ones. */
START_TEST(bytes_are_put_before_what_tells_of_them)
{
    run(1600, 0);
    ck_assert_uint_gt(blocks_put(TRK_CHANGE_KEEP), 3);
    ck_assert_uint_eq(put_late, 0);
    run(1600, 50);
    ck_assert_uint_gt(blocks_put(TRK_CHANGE_KEEP), 3);
    ck_assert_uint_eq(put_late, 0);
    run(1500, 50);
    ck_assert_uint_gt(blocks_put(TRK_CHANGE_REFUSE), 3);
    ck_assert_uint_eq(put_late, 0);
}
END_TEST

START_TEST(a_changed_list_is_kept_as_it_is_now)
{
    run(1700, 0);
    reopen(TRK_CHANGE_KEEP);
    run(1700, 100); /* all else than at the first element */
    expect_stage(1700, true);
    expect_kept(0, 1700, 100);
    reopen(TRK_CHANGE_KEEP);
    run(1650, 100); /* shorter: the last block is cut */
    reopen(TRK_CHANGE_KEEP);
    expect_stage(1650, true);
    expect_kept(0, 1650, 100);
}
END_TEST

START_TEST(a_cut_block_that_was_lacking_is_kept)
{
    keeps = false;
    run(1000, 0);
    reopen(TRK_CHANGE_KEEP);
    keeps = true;
    run(990, 0);
    reopen(TRK_CHANGE_KEEP);
    expect_stage(990, true);
    expect_kept(0, 990, 0);
}
END_TEST

START_TEST(changed_code_that_runs_again_has_elements_of_its_own)
{
    run(300, 0);
    reopen(TRK_CHANGE_REDO);
    run_as("other", 200, 50, false);
    reopen(TRK_CHANGE_REFUSE);
    expect_stage(200, true);
    expect_kept(0, 200, 50);
}
END_TEST

/* --- what is lost ---------------- */

START_TEST(what_is_lost_is_told_and_only_that_is_put_again)
{
    uint64_t firsts[2000];
    struct trk_elements *walk;
    const void *bytes;
    size_t n, size, lost;

    run(2000, 0);
    n = blocks_of(1, firsts, 2000);
    ck_assert_uint_ge(n, 5);
    for (lost = 0; firsts[lost] != 1500; lost++) { /* that of the large element */
    }
    for (int i = 0; i < 2; i++) {
        uint64_t first = firsts[i == 0 ? lost : n - 1];
        ck_assert_uint_eq(blocks_put(TRK_CHANGE_REFUSE), i == 0 ? n : 0);
        lose(1, first);
        walk = walk_from(first > 0 ? first - 1 : 0);
        ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), 0);
        ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_ENOTKEPT);
        trk_elements_free(walk);
        run(2000, 0);
        ck_assert_uint_eq(blocks_put(TRK_CHANGE_REFUSE), 1);
        expect_kept(0, 2000, 0);
        run(2000, 0); /* nothing is lacking */
    }
}
END_TEST

/* What an earlier, cut run or an older page may leave under the key of a block. */
START_TEST(bytes_of_something_else_are_as_good_as_none)
{
    static const uint8_t sizes[2 * 4] = {1, 0, 0, 0, 1};
    struct kept_run other = {.first = 0, .count = 2, .sizes = sizes, .elements = "xy", .size = 2};
    struct trk_elements *walk;
    const void *bytes;
    uint64_t ticket;
    size_t size;

    run(1, 0);
    for (uint32_t count = 1; count <= 2; count++) { /* another element; another count */
        other.count = count;
        other.size = count;
        ck_assert_int_eq(kept_put(job, 1, &other, &ticket), 0);
        ck_assert_int_eq(job_sync(job, ticket), 0);
        walk = walk_from(0);
        ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_ENOTKEPT);
        trk_elements_free(walk);
        reopen(TRK_CHANGE_REFUSE);
        run(1, 0);
        reopen(TRK_CHANGE_REFUSE);
        expect_kept(0, 1, 0);
    }
}
END_TEST

START_TEST(a_lost_work_record_is_a_hole_and_filled_again)
{
    uint64_t firsts[2000], ticket;
    uint8_t key[KEY_STAGE_NUMBER];
    struct trk_elements *walk;
    const void *bytes;
    size_t size;

    run(1700, 0);
    reopen(TRK_CHANGE_REFUSE);
    ck_assert_uint_ge(blocks_of(1, firsts, 2000), 4);
    ckpt_key(key, 1, firsts[1]);
    ck_assert_int_eq(ckpt_store_delete(job->store, CKPT_WORK, key, sizeof(key), &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
    expect_stage(1700, true);
    walk = walk_from(firsts[1]);
    ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_ENOTKEPT);
    trk_elements_free(walk);
    run(1700, 0);
    reopen(TRK_CHANGE_REFUSE);
    expect_kept(0, 1700, 0);
}
END_TEST

/* --- from outside, and with little ---------------- */

START_TEST(a_view_shows_elements)
{
    static const uint64_t asked[] = {0, 5, 1500, 77, 1501, 1999, 3, 3};
    struct trk_view *view;
    const void *bytes;
    size_t size;

    run(2000, 0);
    close_all();
    ck_assert_int_eq(trk_view_open(&view, home, "kept"), 0);
    for (size_t i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
        int rc = trk_view_element(view, 1, asked[i], &bytes, &size);
        ck_assert_msg(rc == 0, "element %llu: %d", (unsigned long long)asked[i], rc);
        ck_assert_uint_eq(size, element(asked[i]));
        ck_assert(size == 0 || memcmp(bytes, room, size) == 0);
    }
    ck_assert_int_eq(trk_view_element(view, 1, 2000, &bytes, &size), TRK_END);
    ck_assert_int_eq(trk_view_element(view, 1, UINT64_MAX, &bytes, &size), TRK_END);
    ck_assert_int_eq(trk_view_element(view, 2, 0, &bytes, &size), TRK_END);
    trk_view_close(view);
    open_all(TRK_CHANGE_REFUSE);
    lose(1, 0);
    close_all();
    ck_assert_int_eq(trk_view_open(&view, home, "kept"), 0);
    ck_assert_int_eq(trk_view_element(view, 1, 0, &bytes, &size), TRK_END);
    trk_view_close(view);
    open_all(TRK_CHANGE_REFUSE);
}
END_TEST

static void setup_alone(void)
{
    snprintf(rig.dir, sizeof(rig.dir), "/tmp/test-kept-XXXXX" "X");
    ck_assert_ptr_nonnull(mkdtemp(rig.dir));
    snprintf(home, sizeof(home), "%s/home", rig.dir);
    room = malloc(ELEMENT_MAX);
    open_job(TRK_CHANGE_REFUSE);
}

static void teardown_alone(void)
{
    char command[128];

    ck_assert_int_eq(trk_job_close(job), 0);
    snprintf(command, sizeof(command), "rm -r %s", rig.dir);
    ck_assert_int_eq(system(command), 0);
    free(room);
}

/* As the farm does: elements first and first + 1 of the stage. */
static void put_block(uint32_t stage, uint64_t first)
{
    uint8_t digests[2][16], sizes[2][4], span[VALUE_WORK_SPAN];
    struct value_work work = {.count = 2, .digests = digests[0], .spans = 1, .delivered = span};
    struct kept_run put = {.first = first, .count = 2, .sizes = sizes[0]};
    struct buf bytes;
    uint64_t ticket;

    buf_init(&bytes);
    for (uint64_t i = 0; i < 2; i++) {
        size_t size = element(first + i);
        struct digest digest = hash_digest(room, size);
        memcpy(digests[i], digest.bytes, sizeof(digest));
        le_store_u32(sizes[i], (uint32_t)size);
        buf_put(&bytes, room, size);
    }
    put.blob = buf_take(&bytes);
    put.elements = put.blob->data;
    put.size = put.blob->size;
    value_work_span_put(span, 2, 0);
    ck_assert_int_eq(kept_put(job, stage, &put, &ticket), 0);
    blob_unref(put.blob);
    ck_assert_int_eq(job_put_work(job, stage, first, &work, &ticket), 0);
    ck_assert_int_eq(job_sync(job, ticket), 0);
}

/* Without a farm, so that nobody else allocates or frees. */
START_TEST(reading_and_putting_survive_any_failed_allocation)
{
    struct digest code = hash_digest("code", 4);
    struct job_stage *stage;
    bool is_new;
    static const uint8_t le_size[4] = {2};
    struct kept_run put = {.count = 1, .sizes = le_size, .elements = "xy", .size = 2};
    uint64_t live, ticket, n = 0;
    int rc;

    ck_assert_int_eq(job_stage_open(job, "echo#1", "echo", &code, &stage, &is_new), 0);
    for (uint64_t first = 1498; first < 1502; first += 2) {
        put_block(stage->number, first);
    }
    live = mem_live();
    do {
        struct trk_elements *walk = NULL;
        const void *bytes;
        size_t size;
        mem_fail_after(++n);
        rc = trk_job_elements(job, "echo#1", 1499, &walk);
        for (int i = 0; rc == 0 && i < 2; i++) {
            rc = trk_elements_next(walk, &bytes, &size);
        }
        mem_fail_after(0);
        ck_assert_msg(rc == 0 || rc == TRK_ENOMEM, "allocation %llu gave %d",
                      (unsigned long long)n, rc);
        if (walk != NULL) {
            ck_assert_int_eq(rc == 0 ? 0 : trk_elements_next(walk, &bytes, &size), 0);
            trk_elements_free(walk);
        }
        ck_assert_uint_eq(mem_live(), live);
    } while (rc != 0);
    ck_assert_uint_ge(n, 5);
    mem_fail_after(1);
    rc = kept_put(job, 9, &put, &ticket);
    mem_fail_after(0);
    ck_assert_int_eq(rc, TRK_ENOMEM);
    mem_fail_after(1);
    rc = kept_copy(job, stage->number, 9, 1498, 1, &ticket);
    mem_fail_after(0);
    ck_assert_int_eq(rc, TRK_ENOMEM);
    ck_assert_uint_eq(mem_live(), live);
}
END_TEST

/* Without memory an element is refused, and the next run gives back what this one did not. */
START_TEST(putting_again_survives_any_failed_allocation)
{
    uint64_t n = 0;
    int rc;

    keeps = false;
    run(60, 0);
    reopen(TRK_CHANGE_REFUSE);
    keeps = true;
    do {
        struct trk_work *work = work_new("code");
        mem_fail_after(++n);
        rc = 0;
        for (uint64_t i = 0; rc == 0 && i < 60; i++) {
            rc = trk_work_add(work, room, element(i));
        }
        mem_fail_after(0);
        ck_assert_msg(rc == 0 || rc == TRK_ENOMEM, "allocation %llu gave %d %s",
                      (unsigned long long)n, rc, trk_last_error());
        trk_work_free(work);
        ck_assert_uint_lt(n, 100);
    } while (rc != 0);
    ck_assert_uint_ge(n, 3);
    reopen(TRK_CHANGE_REFUSE);
    run(60, 0);
    reopen(TRK_CHANGE_REFUSE);
    expect_kept(0, 60, 0);
}
END_TEST

START_TEST(a_walk_outlives_its_job)
{
    struct trk_elements *walk;
    const void *bytes;
    size_t size;

    run(2000, 0);
    walk = walk_from(1499);
    ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), 0);
    close_all();
    ck_assert_int_eq(trk_elements_next(walk, &bytes, &size), TRK_ECLOSED);
    trk_elements_free(walk);
    trk_elements_free(NULL);
    open_all(TRK_CHANGE_REFUSE);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kept");
    TCase *all = tcase_create("all"), *alone = tcase_create("alone");

    tcase_set_timeout(all, 60);
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, elements_are_read_back_in_order);
    tcase_add_test(all, a_job_goes_on_without_whoever_made_its_elements);
    tcase_add_test(all, a_list_that_was_left_open_is_not_closed);
    tcase_add_test(all, elements_that_were_not_kept_are_told_and_kept_the_next_time);
    tcase_add_test(all, bytes_are_put_before_what_tells_of_them);
    tcase_add_test(all, a_changed_list_is_kept_as_it_is_now);
    tcase_add_test(all, a_cut_block_that_was_lacking_is_kept);
    tcase_add_test(all, changed_code_that_runs_again_has_elements_of_its_own);
    tcase_add_test(all, what_is_lost_is_told_and_only_that_is_put_again);
    tcase_add_test(all, bytes_of_something_else_are_as_good_as_none);
    tcase_add_test(all, a_lost_work_record_is_a_hole_and_filled_again);
    tcase_add_test(all, a_view_shows_elements);
    tcase_add_test(all, putting_again_survives_any_failed_allocation);
    tcase_add_test(all, a_walk_outlives_its_job);
    suite_add_tcase(suite, all);
    tcase_add_checked_fixture(alone, setup_alone, teardown_alone);
    tcase_add_test(alone, reading_and_putting_survive_any_failed_allocation);
    suite_add_tcase(suite, alone);
    return run_suite(suite);
}
