/* SPDX-License-Identifier: MIT */
/* rig.c - see rig.h. */
#include "base/fail.h" /* before check.h, which has a macro of that name */
#include "rig.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/ldb.h"
#include "ckpt/value.h"

static char dir[64];
static uint64_t live_before;
static bool is_in_memory; /* /dev/shm: syncs cost nothing there */

static void make_dir(void)
{
    snprintf(dir, sizeof(dir), "%s/test-ckpt-XXXXX" "X", is_in_memory ? "/dev/shm" : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    live_before = mem_live();
}

void rig_setup(void)
{
    is_in_memory = false;
    make_dir();
}

void rig_setup_in_memory(void)
{
    is_in_memory = access("/dev/shm", W_OK) == 0;
    make_dir();
}

bool rig_is_full(void)
{
    return getenv("TRICKLE_FULL") != NULL;
}

size_t rig_stride(size_t usual)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    usual *= 3;
#endif
    return rig_is_full() ? 1 : usual;
}

void rig_teardown(void)
{
    mem_fail_after(0);
    ldb_fail_at(0);
    rig_remove(rig_job());
    rig_remove(dir);
    ck_assert_uint_eq(mem_live(), live_before);
}

const char *rig_dir(void)
{
    return dir;
}

const char *rig_path(const char *name)
{
    static char paths[4][300];
    static unsigned next;
    char *path = paths[next++ % 4];

    snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

const char *rig_job(void)
{
    static char path[300];

    snprintf(path, sizeof(path), "%s/job", dir);
    return path;
}

void rig_remove(const char *path)
{
    DIR *d = opendir(path);
    struct dirent *entry;

    while (d != NULL && (entry = readdir(d)) != NULL) {
        char inner[600];
        if (entry->d_name[0] != '.') {
            snprintf(inner, sizeof(inner), "%s/%s", path, entry->d_name);
            if (unlink(inner) < 0) {
                rig_remove(inner);
            }
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    remove(path);
}

uint8_t *rig_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    struct stat st;
    uint8_t *bytes;

    ck_assert_msg(file != NULL && fstat(fileno(file), &st) == 0, "cannot open %s", path);
    bytes = malloc((size_t)st.st_size + 1);
    ck_assert_ptr_nonnull(bytes);
    *size = fread(bytes, 1, (size_t)st.st_size, file);
    ck_assert_uint_eq(*size, st.st_size);
    fclose(file);
    return bytes;
}

void rig_write(const char *path, const void *bytes, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, bytes, size), size);
    close(fd);
}

void rig_copy(const char *from, const char *to)
{
    size_t size;
    uint8_t *bytes = rig_read(from, &size);

    rig_write(to, bytes, size);
    free(bytes);
}

struct ckpt_store *rig_open(struct ckpt_opened *opened)
{
    struct ckpt_opened own;
    struct ckpt_store *s = NULL;
    struct ckpt_store_options opt = {.dir = rig_job(), .helper = TRICKLE_FSCK};
    int rc = ckpt_store_open(&s, &opt, opened != NULL ? opened : &own);

    ck_assert_msg(rc == 0, "opening gave %d: %s", rc, fail_text());
    return s;
}

size_t rig_value(char *out, uint32_t stage, uint64_t element, unsigned round)
{
    return (size_t)snprintf(out, 64, "stage %u element %llu round %u\n", stage,
                            (unsigned long long)element, round);
}

uint64_t rig_put(struct ckpt_store *s, uint32_t stage, uint64_t first, uint64_t count,
                 unsigned round)
{
    struct record_run run = {.first = first, .count = count};
    struct blob *blob = blob_new(count * 64);
    struct ckpt_value value = {.blob = blob, .count = 1};
    uint64_t ticket = 0;
    int rc;

    ck_assert_ptr_nonnull(blob);
    for (uint64_t i = 0; i < count; i++) {
        blob->size += rig_value((char *)blob->data + blob->size, stage, first + i, round);
    }
    value.slices[0] = (struct ckpt_slice){blob->data, blob->size};
    rc = ckpt_store_put_result(s, stage, &run, &value, &ticket);
    blob_unref(blob);
    ck_assert_int_eq(rc, 0);
    return ticket;
}

int rig_put_block(struct ckpt_store *s, uint32_t stage, uint64_t first, uint32_t count,
                  uint64_t *ticket)
{
    uint8_t head[VALUE_ELEMENTS_HEAD], key[KEY_STAGE_NUMBER], digests[100][16], sizes[100][4];
    uint8_t span[VALUE_WORK_SPAN];
    struct value_work work = {.count = count, .digests = digests[0], .spans = 1,
                              .delivered = span};
    struct blob *elements = blob_new((size_t)count * 64);
    struct ckpt_value value = {.blob = elements, .slices = {{head, sizeof(head)}}, .count = 3};
    int rc;

    for (uint32_t i = 0; i < count; i++) {
        char *at = (char *)elements->data + elements->size;
        size_t size = rig_value(at, stage, first + i, 0);
        struct digest digest = hash_digest(at, size);
        memcpy(digests[i], digest.bytes, sizeof(digest));
        le_store_u32(sizes[i], (uint32_t)size);
        elements->size += size;
    }
    ckpt_key(key, stage, first);
    value_elements_put(head, count);
    value.slices[1] = (struct ckpt_slice){sizes, (size_t)count * 4};
    value.slices[2] = (struct ckpt_slice){elements->data, elements->size};
    rc = ckpt_store_put_record(s, CKPT_ELEMENTS, key, sizeof(key), &value, ticket);
    blob_unref(elements);
    if (rc == 0) {
        value_work_span_put(span, count, 0);
        value = (struct ckpt_value){.blob = value_work_encode(&work), .count = 1};
        value.slices[0] = (struct ckpt_slice){value.blob->data, value.blob->size};
        rc = ckpt_store_put_record(s, CKPT_WORK, key, sizeof(key), &value, ticket);
        blob_unref(value.blob);
    }
    return rc;
}

static void check_elements(const struct blob *bytes, uint32_t stage, uint64_t first)
{
    struct value_elements v;
    const uint8_t *at;
    char text[64];

    ck_assert_int_eq(value_elements_decode(&v, bytes->data, bytes->size), 0);
    at = v.elements;
    for (uint32_t i = 0; i < v.count; i++) {
        size_t size = rig_value(text, stage, first + i, 0);
        ck_assert_uint_eq(le_load_u32(v.sizes + (size_t)i * 4), size);
        ck_assert_mem_eq(at, text, size);
        at += size;
    }
}

uint64_t rig_check_blocks(struct ckpt_reader *r, uint32_t stage, uint64_t *lacking)
{
    uint64_t first = 0, found = 0;
    uint8_t key[KEY_STAGE_NUMBER];
    struct value_work work;
    struct blob *value;
    int rc;

    *lacking = 0;
    for (; (rc = ckpt_read_numbered(r, CKPT_ELEMENTS, stage, &first, &value)) == 0; first++) {
        check_elements(value, stage, first);
        blob_unref(value);
    }
    ck_assert_int_eq(rc, TRK_END);
    first = 0;
    for (; (rc = ckpt_read_numbered(r, CKPT_WORK, stage, &first, &value)) == 0; first++) {
        uint64_t size;
        ck_assert_int_eq(value_work_decode(&work, value->data, value->size), 0);
        blob_unref(value);
        ckpt_key(key, stage, first);
        rc = ckpt_read_size(r, CKPT_ELEMENTS, key, sizeof(key), &size);
        ck_assert(rc == 0 || rc == TRK_END);
        found += rc == 0 ? work.count : 0;
        *lacking += rc == 0 ? 0 : work.count;
    }
    ck_assert_int_eq(rc, TRK_END);
    return found;
}

void rig_wait(struct ckpt_store *s, uint64_t ticket)
{
    struct ckpt_state state;
    int rc = ckpt_store_wait(s, ticket, 20000);

    ckpt_store_poll(s, &state);
    ck_assert_msg(rc == 0, "not durable: %s", state.text);
}

/* The lines of a record's value: those found must be of their elements. */
static void check_result(const struct ckpt_result *result, uint32_t stage, unsigned round_max)
{
    const char *at = (const char *)result->value->data, *end = at + result->value->size;

    ck_assert_uint_ge(result->found.first, result->run.first);
    ck_assert_uint_le(result->found.first + result->found.count,
                      result->run.first + result->run.count);
    for (uint64_t i = 0; i < result->run.count; i++) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        unsigned line_stage, round;
        unsigned long long element;
        char line[64] = "";
        ck_assert_ptr_nonnull(line_end);
        ck_assert_int_lt(line_end - at, 64);
        memcpy(line, at, (size_t)(line_end - at));
        ck_assert_int_eq(sscanf(line, "stage %u element %llu round %u", &line_stage, &element,
                                &round), 3);
        ck_assert_uint_eq(line_stage, stage);
        ck_assert_uint_eq(element, result->run.first + i);
        ck_assert_uint_le(round, round_max);
        at = line_end + 1;
    }
    ck_assert_ptr_eq(at, end);
}

uint64_t rig_check(struct ckpt_reader *r, uint32_t stage, unsigned round_max)
{
    struct ckpt_position position = {0, 0};
    struct ckpt_result result;
    struct record_count count;
    uint64_t by_element = 0, by_record = 0, at = 0, seq = 0;
    int rc;

    while ((rc = ckpt_read_at(r, stage, at, &result)) == 0) {
        check_result(&result, stage, round_max);
        ck_assert_uint_ge(result.found.first, at);
        by_element += result.found.count;
        at = result.found.first + result.found.count;
        blob_unref(result.value);
    }
    ck_assert_int_eq(rc, TRK_END);
    while ((rc = ckpt_read_recorded(r, stage, &position, &result)) == 0) {
        check_result(&result, stage, round_max);
        ck_assert_uint_ge(result.found.seq, seq);
        seq = result.found.seq;
        by_record += result.found.count;
        blob_unref(result.value);
    }
    ck_assert_int_eq(rc, TRK_END);
    ck_assert_uint_eq(by_element, by_record);
    ck_assert_int_eq(ckpt_read_count(r, stage, &count), 0);
    ck_assert_uint_eq(count.recorded, by_element);
    return by_element;
}

int rig_crash(void (*f)(void *ctx), void *ctx)
{
    pid_t pid = fork();
    int status;

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        f(ctx);
        _exit(0);
    }
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    return status;
}
