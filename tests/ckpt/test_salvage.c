/* SPDX-License-Identifier: MIT */
/* test_salvage.c - damaged stores: whatever is done to the file, opening it works, no value is a
 * wrong one, what is lost is told, and this process lives.
 *
 * With TRICKLE_FULL every byte is flipped, which takes a quarter of an hour; otherwise every 67th
 * of the meta pages and every 1999th of the others: some of each page, here and there in it. */
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "base/log.h"
#include "ckpt/ldb.h"
#include "ckpt/pages.h"
#include "ckpt/salvage.h"
#include "ckpt/verify.h"
#include "tests/suite.h"
#include "rig.h"

#define PAGE 4096

static atomic_int syncs_left; /* 0: any number */
static atomic_bool is_held;   /* syncs wait */
static atomic_int syncs_begun; /* that had to wait */

/* The power goes off here: what was written is not committed. */
__attribute__((visibility("default"))) int fdatasync(int fd)
{
    if (atomic_load(&is_held)) {
        atomic_fetch_add(&syncs_begun, 1);
    }
    while (atomic_load(&is_held)) {
        sched_yield();
    }
    if (atomic_load(&syncs_left) > 0 && atomic_fetch_sub(&syncs_left, 1) == 1) {
        _exit(0);
    }
    return (int)syscall(SYS_fdatasync, fd);
}

static uint8_t *sound, *older; /* the store's file, and what it was some transactions before */
static size_t sound_size, older_size;
static uint64_t elements[3]; /* by stage, in the sound store */
static uint64_t kept, kept_now; /* elements of stage 1 whose bytes are in it; in the last opened */

static const char *data(void)
{
    static char path[300];

    snprintf(path, sizeof(path), "%s/data.mdb", rig_job());
    return path;
}

static void put_text(struct ckpt_store *s, const char *key, const char *text)
{
    struct ckpt_value value = {.slices = {{text, strlen(text)}}, .count = 1};
    uint64_t ticket;

    ck_assert_int_eq(ckpt_store_put_record(s, CKPT_JOB, key, strlen(key), &value, &ticket), 0);
    rig_wait(s, ticket);
}

static void fill(struct ckpt_store *s, uint64_t from)
{
    uint64_t ticket;

    for (uint64_t i = from; i < from + 6; i++) {
        ck_assert_int_eq(rig_put_block(s, 1, i * 5, 5, &ticket), 0);
        rig_put(s, 1, i * 5, 5, 0);
        rig_put(s, 2, i, 1, 0);
        kept += 5;
        elements[1] += 5;
        elements[2] += 1;
        if (i % 3 == 0) {
            ck_assert_int_eq(rig_put_block(s, 1, 100000 + i * 100, 100, &ticket), 0);
            rig_wait(s, rig_put(s, 1, 100000 + i * 100, 100, 0)); /* on overflow pages */
            kept += 100;
            elements[1] += 100;
        }
    }
    put_text(s, "argv", from == 0 ? "old" : "new");
    rig_wait(s, rig_put(s, 2, 1000 + from, 1, 0));
    elements[2]++;
}

static void setup(void)
{
    struct ckpt_store *s;

    log_set_level("error");
    rig_setup_in_memory();
    memset(elements, 0, sizeof(elements));
    kept = 0;
    s = rig_open(NULL);
    fill(s, 0);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    older = rig_read(data(), &older_size);
    s = rig_open(NULL);
    fill(s, 6);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    sound = rig_read(data(), &sound_size);
}

static void teardown(void)
{
    free(sound);
    free(older);
    rig_teardown();
}

/* Puts bytes in the store's place, opens it and checks all that can be read. Returns how many
 * elements are there. */
static uint64_t open_damaged(const uint8_t *bytes, size_t size, struct ckpt_opened *opened)
{
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
    struct verify_report report;
    struct ckpt_reader *r;
    struct ckpt_store *s;
    struct blob *blob;
    uint64_t found;
    uint64_t lacking;
    char old[400];
    int rc;

    rig_write(data(), bytes, size);
    rc = ckpt_store_open(&s, &opt, opened);
    ck_assert_msg(rc == 0, "opening gave %d: %s", rc, fail_text());
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    found = rig_check(r, 1, 0) + rig_check(r, 2, 0);
    kept_now = rig_check_blocks(r, 1, &lacking);
    ck_assert(opened->is_salvaged || opened->is_new || (kept_now == kept && lacking == 0));
    rc = ckpt_read_get(r, CKPT_JOB, "argv", 4, &blob);
    if (rc == 0) {
        /* Where the newest is damaged, an older one of the name may still be found. */
        ck_assert(memcmp(blob->data, "new", 3) == 0 || opened->is_salvaged);
        blob_unref(blob);
    } else {
        ck_assert(opened->is_salvaged || opened->is_new);
    }
    if (opened->is_salvaged) {
        ck_assert_str_ne(opened->text, "");
        ck_assert_uint_eq(opened->lost.elements, found);
        snprintf(old, sizeof(old), "%s/%s", rig_job(), opened->lost.kept_as);
        ck_assert_int_eq(unlink(old), 0);
    } else if (!opened->is_new) {
        ck_assert_uint_eq(found, elements[1] + elements[2]);
    }
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
    rc = verify_store(rig_job(), &report, NULL);
    ck_assert_msg(rc == 0, "afterwards: %s", report.why);
    return found;
}

/* Puts the note of the sound store back: damage does not come with an honest one. */
static void keep_note(bool restores)
{
    char note[400];

    snprintf(note, sizeof(note), "%s/last", rig_job());
    if (restores) {
        rig_copy(rig_path("note"), note);
    } else {
        rig_copy(note, rig_path("note"));
    }
}

/* --- damage ---------------- */

START_TEST(a_sound_store_is_taken_as_it_is)
{
    struct ckpt_opened opened;

    ck_assert_uint_eq(open_damaged(sound, sound_size, &opened), elements[1] + elements[2]);
    ck_assert(!opened.is_salvaged);
    ck_assert_str_eq(opened.text, "");
}
END_TEST

#define FLIP_SHARES 4 /* tests among which the flips are dealt out in turn */

static size_t next_flip(size_t at)
{
    return at + rig_stride(at < 2 * PAGE ? 67 : 1999);
}

START_TEST(any_flipped_byte_is_survived)
{
    uint64_t all = elements[1] + elements[2];
    uint8_t *bytes = malloc(sound_size);

    memcpy(bytes, sound, sound_size);
    keep_note(false);
    for (size_t at = 0, n = 0; at < sound_size; at = next_flip(at), n++) {
        struct ckpt_opened opened;
        uint64_t found;
        if (n % FLIP_SHARES != (size_t)_i) {
            continue;
        }
        bytes[at] ^= (uint8_t)(1u << at % 8);
        keep_note(true);
        found = open_damaged(bytes, sound_size, &opened);
        /* At most the one record that the byte was in. */
        ck_assert_msg(found + 100 >= all && kept_now + 100 >= kept,
                      "byte %zu: %llu results of %llu, bytes of %llu elements of %llu", at,
                      (unsigned long long)found, (unsigned long long)all,
                      (unsigned long long)kept_now, (unsigned long long)kept);
        bytes[at] ^= (uint8_t)(1u << at % 8);
    }
    free(bytes);
}
END_TEST

/* The offset in the sound file of LMDB's newest list of free pages, which is one page. */
static size_t free_list(void)
{
    uint64_t txn[2], root;

    for (size_t i = 0; i < 2; i++) {
        memcpy(&txn[i], sound + i * PAGE + 16 + 128, sizeof(txn[i]));
    }
    memcpy(&root, sound + (txn[1] > txn[0]) * PAGE + 16 + 24 + 40, sizeof(root));
    ck_assert_uint_lt(root, sound_size / PAGE);
    return (size_t)root * PAGE;
}

/* LMDB would believe it, and later move one entry over another. */
START_TEST(an_entry_that_lies_about_its_size_is_noticed)
{
    static const int lies[] = {1, -1, 2, 8, -8, 16, 256};
    uint8_t *page = sound + free_list();
    uint16_t lower, at, size;
    char why[200];

    memcpy(&lower, page + 12, sizeof(lower));
    ck_assert_uint_gt(lower, 16 + 2); /* there are neighbours */
    rig_write(data(), sound, sound_size);
    ck_assert_int_eq(pages_check(data(), why, sizeof(why)), 0);
    for (unsigned i = 16; i < lower; i += 2) {
        memcpy(&at, page + i, sizeof(at));
        memcpy(&size, page + at, sizeof(size));
        for (size_t k = 0; k < sizeof(lies) / sizeof(lies[0]); k++) {
            uint16_t lie = (uint16_t)(size + lies[k]);
            memcpy(page + at, &lie, sizeof(lie));
            rig_write(data(), sound, sound_size);
            ck_assert_msg(pages_check(data(), why, sizeof(why)) == TRK_ECORRUPT,
                          "%u bytes instead of %u", lie, size);
        }
        memcpy(page + at, &size, sizeof(size));
    }
}
END_TEST

/* LMDB would believe these, too, and end the process when it next writes. */
START_TEST(a_list_of_free_pages_with_wrong_flags_is_noticed)
{
    const uint16_t as_opened = 0x4000; /* MDB_NOSUBDIR: of no meaning in a file */
    char why[200];

    for (unsigned bit = 1; bit <= 0x8000; bit <<= 1) {
        for (size_t i = 0; i < 2; i++) {
            sound[i * PAGE + 16 + 24 + 4] ^= (uint8_t)bit;
            sound[i * PAGE + 16 + 24 + 5] ^= (uint8_t)(bit >> 8);
        }
        rig_write(data(), sound, sound_size);
        ck_assert_msg(pages_check(data(), why, sizeof(why)) ==
                      (bit == as_opened ? 0 : TRK_ECORRUPT), "flag %#x", bit);
        for (size_t i = 0; i < 2; i++) {
            sound[i * PAGE + 16 + 24 + 4] ^= (uint8_t)bit;
            sound[i * PAGE + 16 + 24 + 5] ^= (uint8_t)(bit >> 8);
        }
    }
}
END_TEST

/* Transactions begin at 1, and LMDB takes a last one of 0 for none: it would read that entry again
 * and again, hand out its pages twice and end the process. */
START_TEST(free_pages_of_a_transaction_that_never_was_are_noticed)
{
    uint8_t *page = sound + free_list();
    uint16_t first, last, lower;
    uint64_t newest[2], never;
    char why[200];

    memcpy(&lower, page + 12, sizeof(lower));
    memcpy(&first, page + 16, sizeof(first));
    memcpy(&last, page + lower - 2, sizeof(last));
    for (size_t i = 0; i < 2; i++) {
        memcpy(&newest[i], sound + i * PAGE + 16 + 128, sizeof(newest[i]));
    }
    never = (newest[0] > newest[1] ? newest[0] : newest[1]) + 1;
    memcpy(page + last + 8, &never, sizeof(never));
    rig_write(data(), sound, sound_size);
    ck_assert_int_eq(pages_check(data(), why, sizeof(why)), TRK_ECORRUPT);
    never--; /* the newest one's own are there, or at least may be */
    memcpy(page + last + 8, &never, sizeof(never));
    rig_write(data(), sound, sound_size);
    ck_assert_msg(pages_check(data(), why, sizeof(why)) == 0, "%s", why);
    memset(page + first + 8, 0, sizeof(never));
    rig_write(data(), sound, sound_size);
    ck_assert_int_eq(pages_check(data(), why, sizeof(why)), TRK_ECORRUPT);
}
END_TEST

enum damage { ZEROED, TORN, OLDER, OLDER_HALF, GARBAGE, DAMAGE_COUNT };

START_TEST(any_damaged_page_is_survived)
{
    uint64_t all = elements[1] + elements[2];
    uint8_t *bytes = malloc(sound_size);

    keep_note(false);
    for (size_t at = 0; at < sound_size; at += PAGE * rig_stride(1)) {
        size_t half = _i == TORN || _i == OLDER_HALF ? PAGE / 2 : 0;
        struct ckpt_opened opened;
        uint64_t found;
        memcpy(bytes, sound, sound_size);
        if (_i == ZEROED || _i == TORN) {
            memset(bytes + at + half, 0, PAGE - half);
        } else if (_i == GARBAGE) {
            memset(bytes + at, 0x5a, PAGE);
        } else if (at + PAGE <= older_size) {
            memcpy(bytes + at + half, older + at + half, PAGE - half);
        }
        keep_note(true);
        found = open_damaged(bytes, sound_size, &opened);
        if (!opened.is_salvaged) {
            ck_assert_uint_eq(found, all);
        } else {
            ck_assert_msg(opened.lost.elements_expected >= found, "page %zu", at / PAGE);
            ck_assert_uint_ge(found + 300, all); /* a page's worth, or a record's pages */
            ck_assert_uint_ge(kept_now + 300, kept);
        }
    }
    free(bytes);
}
END_TEST

START_TEST(a_file_cut_at_any_page_is_survived)
{
    keep_note(false);
    for (size_t size = 0; size < sound_size; size += PAGE / 2 * rig_stride(1)) {
        struct ckpt_opened opened;
        uint64_t found;
        keep_note(true);
        found = open_damaged(sound, size, &opened);
        ck_assert(opened.is_salvaged || opened.is_new || found == elements[1] + elements[2]);
        ck_assert(!opened.is_new || opened.text[0] != '\0');
    }
}
END_TEST

START_TEST(a_whole_older_store_is_noticed_by_its_note)
{
    struct ckpt_opened opened;
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
    struct ckpt_store *s;

    rig_write(data(), older, older_size);
    ck_assert_int_eq(ckpt_store_open(&s, &opt, &opened), 0);
    ck_assert(opened.is_salvaged);
    ck_assert_msg(strstr(opened.text, "newest transactions") != NULL, "said: %s", opened.text);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(without_its_meta_pages_all_is_saved)
{
    struct ckpt_opened opened;

    memset(sound, 0, 2 * PAGE);
    ck_assert_uint_eq(open_damaged(sound, sound_size, &opened), elements[1] + elements[2]);
    ck_assert(opened.is_salvaged);
    ck_assert_uint_eq(opened.lost.elements_expected, elements[1] + elements[2]);
}
END_TEST

START_TEST(a_file_of_something_else_is_kept_and_begun_anew)
{
    struct ckpt_opened opened;

    memset(sound, 'x', sound_size);
    ck_assert_uint_eq(open_damaged(sound, sound_size, &opened), 0);
    ck_assert(opened.is_salvaged);
}
END_TEST

/* --- what counts ---------------- */

/* Damages the meta pages, so that the next opening salvages. */
static void destroy_trees(void)
{
    uint8_t zeros[2 * PAGE] = {0};
    int fd = open(data(), O_WRONLY);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, zeros, sizeof(zeros), 0), sizeof(zeros));
    close(fd);
}

/* A program of its own: neither may Check's asserts be used here, nor a fork of one that has had
 * a store open. */
static int crash_in_a_sync(const char *job)
{
    struct ckpt_store_options opt = {.dir = job, .helper = TRICKLE_FSCK};
    struct record_run run = {.count = 3};
    struct ckpt_opened opened;
    struct ckpt_store *s;
    char lines[3 * 64];

    if (ckpt_store_open(&s, &opt, &opened) != 0) {
        return 1;
    }
    /* One record's sync waits until all others are there: they are the next transaction. */
    atomic_store(&syncs_left, 2);
    atomic_store(&is_held, true);
    if (ckpt_store_put_record(s, CKPT_ONCE, "x", 1, &(struct ckpt_value){.count = 0}, NULL) != 0) {
        return 1;
    }
    while (atomic_load(&syncs_begun) == 0) {
        sched_yield();
    }
    for (run.first = 5000; run.first < 6500; run.first += 3) {
        struct ckpt_value value = {.slices = {{lines, 0}}, .count = 1};
        for (uint64_t i = 0; i < 3; i++) {
            value.slices[0].size += rig_value(lines + value.slices[0].size, 2, run.first + i, 9);
        }
        if (ckpt_store_put_result(s, 2, &run, &value, NULL) != 0) {
            return 1;
        }
    }
    atomic_store(&is_held, false);
    for (;;) {
        pause();
    }
}

START_TEST(results_that_were_never_committed_do_not_come_back)
{
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s;
    size_t size;
    uint8_t *bytes;
    char command[500];

    /* Another program, not a fork: that could not use the store. */
    snprintf(command, sizeof(command), "TEST_CRASH=%s exec /proc/%ld/exe", rig_job(),
             (long)getpid());
    ck_assert_int_eq(system(command), 0);
    s = rig_open(&opened);
    ck_assert(!opened.is_salvaged);
    rig_wait(s, rig_put(s, 2, 5000, 3, 0)); /* now it runs again, with another result */
    ck_assert_int_eq(ckpt_store_close(s), 0);
    bytes = rig_read(data(), &size); /* the test tests something: they are still in the file */
    ck_assert_ptr_nonnull(memmem(bytes, size, "round 9", 7));
    free(bytes);
    destroy_trees();
    s = rig_open(&opened);
    ck_assert(opened.is_salvaged);
    ck_assert_uint_gt(opened.lost.void_records, 0);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 2, 0), elements[2] + 3);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(the_newest_of_a_name_and_what_was_forgotten_hold)
{
    struct record_run run = {.first = 0, .count = 7};
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s = rig_open(NULL);
    struct blob *blob;
    char text[20];

    for (int i = 0; i < 60; i++) {
        snprintf(text, sizeof(text), "value %d", i);
        put_text(s, "often", text);
    }
    ck_assert_int_eq(ckpt_store_forget(s, 1, &run, NULL), 0);
    rig_wait(s, rig_put(s, 1, 2, 1, 1));
    ck_assert_int_eq(ckpt_store_close(s), 0);
    destroy_trees();
    s = rig_open(&opened);
    ck_assert(opened.is_salvaged);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_get(r, CKPT_JOB, "often", 5, &blob), 0);
    ck_assert_mem_eq(blob->data, "value 59", 8);
    blob_unref(blob);
    ck_assert_uint_eq(rig_check(r, 1, 1), elements[1] - 7 + 1);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

START_TEST(values_in_parts_are_saved_whole_or_not_at_all)
{
    struct blob *blob = blob_new((size_t)5 << 20);
    struct ckpt_value value = {.blob = blob, .slices = {{blob->data, blob->cap}}, .count = 1};
    struct ckpt_store *s = rig_open(NULL);
    struct ckpt_opened opened;
    struct ckpt_result result;
    struct ckpt_found none;
    struct ckpt_reader *r;
    uint64_t ticket = 0;
    size_t size;
    uint8_t *bytes, *hit;

    for (uint64_t i = 0; i < 2; i++) {
        struct record_run run = {.first = i, .count = 1};
        memset(blob->data, 'a' + (int)i, blob->cap);
        memcpy(blob->data + blob->cap / 2, i == 0 ? "middle-0" : "middle-1", 8);
        ck_assert_int_eq(ckpt_store_put_result(s, 7, &run, &value, &ticket), 0);
        rig_wait(s, ticket);
    }
    ck_assert_int_eq(ckpt_store_close(s), 0);
    bytes = rig_read(data(), &size);
    hit = memmem(bytes, size, "middle-1", 8);
    ck_assert_ptr_nonnull(hit);
    *hit ^= 1;
    rig_write(data(), bytes, size);
    free(bytes);
    s = rig_open(&opened);
    ck_assert(opened.is_salvaged);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_int_eq(ckpt_read_at(r, 7, 0, &result), 0);
    ck_assert_uint_eq(result.value->size, blob->cap);
    ck_assert_mem_eq(result.value->data + blob->cap / 2, "middle-0", 8);
    blob_unref(result.value);
    ck_assert_int_eq(ckpt_read_find(r, 7, 1, &none), TRK_END);
    ckpt_reader_free(r);
    blob_unref(blob);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* --- the child ---------------- */

START_TEST(a_child_that_dies_or_lies_means_damage)
{
    static const char *const helpers[] = {"/bin/false", "/bin/true", "/nowhere/trickle-fsck",
                                          "/bin/echo"};
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = helpers[_i]};
    struct ckpt_opened opened;
    struct ckpt_reader *r;
    struct ckpt_store *s;

    rig_write(data(), sound, sound_size);
    ck_assert_int_eq(ckpt_store_open(&s, &opt, &opened), 0);
    ck_assert(opened.is_salvaged);
    ck_assert_int_eq(ckpt_reader_of(&r, s), 0);
    ck_assert_uint_eq(rig_check(r, 1, 0), elements[1]);
    ckpt_reader_free(r);
    ck_assert_int_eq(ckpt_store_close(s), 0);
}
END_TEST

/* Ctrl-C goes to all of a terminal's process group: the child would die, and that be damage. */
START_TEST(a_child_is_not_of_our_process_group)
{
    static const char script[] = "#!/bin/sh\nread -r _ _ _ _ group _ < /proc/$$/stat\n"
                                 "echo bad -4 its group is $group, it is $$\n";
    char helper[512];
    struct verify_report report;
    unsigned group, pid;

    snprintf(helper, sizeof(helper), "%s/helper", rig_job());
    rig_write(helper, (const uint8_t *)script, sizeof(script) - 1);
    ck_assert_int_eq(chmod(helper, 0700), 0);
    ck_assert_int_eq(ckpt_check(rig_job(), helper, &report), TRK_ECORRUPT);
    ck_assert_int_eq(sscanf(report.why, "its group is %u, it is %u", &group, &pid), 2);
    ck_assert_msg(group == pid, "expected a group of its own, %s", report.why);
}
END_TEST

/* A salvage that fails leaves the damaged file as it was, to be tried again. */
START_TEST(a_failed_salvage_changes_nothing)
{
    struct ckpt_salvaged report;
    uint64_t n;
    int rc = -1;

    memset(sound, 0, 2 * PAGE);
    for (n = 1; rc != 0; n++) {
        rig_write(data(), sound, sound_size);
        ldb_fail_at(n);
        rc = salvage_store(rig_job(), &report);
        ldb_fail_at(0);
        if (rc != 0) {
            size_t size;
            uint8_t *bytes = rig_read(data(), &size);
            ck_assert_uint_eq(size, sound_size);
            ck_assert(memcmp(bytes, sound, size) == 0);
            free(bytes);
        }
        n += n / 16;
    }
    ck_assert_uint_gt(n, 50);
    ck_assert_uint_eq(report.elements, elements[1] + elements[2]);
}
END_TEST

int main(void)
{
    Suite *suite;
    TCase *tc;

    if (getenv("TEST_CRASH") != NULL) {
        return crash_in_a_sync(getenv("TEST_CRASH"));
    }
    suite = suite_create("salvage");
    tc = tcase_create("salvage");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, rig_is_full() ? 7200 : 240);
    tcase_add_test(tc, a_sound_store_is_taken_as_it_is);
    tcase_add_loop_test(tc, any_flipped_byte_is_survived, 0, FLIP_SHARES);
    tcase_add_test(tc, an_entry_that_lies_about_its_size_is_noticed);
    tcase_add_test(tc, a_list_of_free_pages_with_wrong_flags_is_noticed);
    tcase_add_test(tc, free_pages_of_a_transaction_that_never_was_are_noticed);
    tcase_add_loop_test(tc, any_damaged_page_is_survived, 0, DAMAGE_COUNT);
    tcase_add_test(tc, a_file_cut_at_any_page_is_survived);
    tcase_add_test(tc, a_whole_older_store_is_noticed_by_its_note);
    tcase_add_test(tc, without_its_meta_pages_all_is_saved);
    tcase_add_test(tc, a_file_of_something_else_is_kept_and_begun_anew);
    tcase_add_test(tc, results_that_were_never_committed_do_not_come_back);
    tcase_add_test(tc, the_newest_of_a_name_and_what_was_forgotten_hold);
    tcase_add_test(tc, values_in_parts_are_saved_whole_or_not_at_all);
    tcase_add_loop_test(tc, a_child_that_dies_or_lies_means_damage, 0, 4);
    tcase_add_test(tc, a_child_is_not_of_our_process_group);
    tcase_add_test(tc, a_failed_salvage_changes_nothing);
    suite_add_tcase(suite, tc);
    return run_suite(suite);
}
