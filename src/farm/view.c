/* SPDX-License-Identifier: MIT */
/* view.c - see view.h: a job's directory, its holder, its records, through a reader of its store.
 *
 * A view keeps the record that it read last, so that a walk copies each record once. */
#include "trickle/view.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/mem.h"
#include "ckpt/home.h"
#include "ckpt/last.h"
#include "ckpt/lock.h"
#include "ckpt/read.h"
#include "ckpt/store.h"
#include "ckpt/value.h"
#include "ckpt/verify.h"
#include "farm/kept.h"

#define DIR_MAX (HOME_PATH_MAX + HOME_NAME_MAX + 64)

/* The record that was read last, and where in it the last result was. */
struct page {
    uint32_t stage;
    struct ckpt_result result; /* value NULL: none */
    struct value_result decoded;
    uint64_t at;               /* element */
    size_t offset;             /* of its payload */
};

struct trk_view {
    char dir[DIR_MAX];
    struct ckpt_reader *reader; /* NULL: none yet, or damaged */
    bool is_checked;            /* it may be mapped */
    bool is_damaged;
    char text[512];
    struct page page;
    struct kept_page kept;      /* the block of elements that was read last */
};

/* --- places ---------------- */

int trk_job_home(char *path, size_t size, char *notice, size_t notice_size)
{
    return ckpt_home(path, size, notice, notice_size);
}

static int jobs_dir(const char *home, char *path, size_t size)
{
    char own[HOME_PATH_MAX], notice[1024];
    int n, rc;

    if (home == NULL) {
        rc = ckpt_home(own, sizeof(own), notice, sizeof(notice));
        if (rc < 0) {
            return rc;
        }
        home = own;
    }
    n = snprintf(path, size, "%s/jobs", home);
    return n > 0 && (size_t)n + HOME_NAME_MAX + 32 < size
               ? 0 : fail(TRK_EINVAL, "the path of the home of jobs is too long");
}

/* home/jobs/name, which is there. TRK_END: it is not. */
static int find_job(const char *home, const char *name, char *path, size_t size)
{
    struct stat st;
    size_t used;
    int rc;

    if (name[0] == '\0' || name[0] == '.' || strchr(name, '/') != NULL ||
        strlen(name) > HOME_NAME_MAX) {
        return fail(TRK_EINVAL, "'%.110s' is not the name of a job", name);
    }
    rc = jobs_dir(home, path, size);
    if (rc < 0) {
        return rc;
    }
    used = strlen(path);
    snprintf(path + used, size - used, "/%s", name);
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode) ? 0 : TRK_END;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The names in dir, each to be freed. */
static int read_names(DIR *dir, char ***out, size_t *count)
{
    const struct dirent *entry;
    char **names = NULL;
    size_t cap = 0;

    *count = 0;
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.') {
            continue;
        }
        if (*count == cap) {
            char **more = mem_realloc(names, (cap + 64) * sizeof(char *));
            if (more == NULL) {
                break;
            }
            names = more;
            cap += 64;
        }
        names[*count] = mem_strdup(entry->d_name);
        if (names[*count] == NULL) {
            break;
        }
        ++*count;
    }
    *out = names;
    return entry == NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
}

int trk_job_names(const char *home, char **out, size_t *count)
{
    struct buf all;
    char path[DIR_MAX];
    char **names = NULL;
    struct blob *blob;
    DIR *dir;
    int rc = jobs_dir(home, path, sizeof(path));

    *out = NULL;
    *count = 0;
    if (rc < 0) {
        return rc;
    }
    buf_init(&all);
    dir = opendir(path);
    if (dir != NULL) {
        rc = read_names(dir, &names, count);
        closedir(dir);
    } else if (errno != ENOENT) {
        rc = fail(TRK_EIO, "cannot look into %s: %s", path, strerror(errno));
    }
    if (names != NULL) {
        qsort(names, *count, sizeof(char *), compare_names);
    }
    for (size_t i = 0; i < *count; i++) {
        buf_put(&all, names[i], strlen(names[i]) + 1);
        mem_free(names[i]);
    }
    mem_free(names);
    blob = buf_take(&all);
    *out = blob != NULL ? mem_alloc(blob->size + 1) : NULL;
    if (*out != NULL) {
        memcpy(*out, blob->data, blob->size);
    } else if (rc == 0) {
        rc = fail(TRK_ENOMEM, "out of memory");
    }
    blob_unref(blob);
    if (rc < 0) {
        mem_free(*out);
        *out = NULL;
    }
    return rc;
}

/* --- removing ---------------- */

static int remove_dir(const char *path)
{
    char file[DIR_MAX + 300];
    struct dirent *entry;
    DIR *dir = opendir(path);

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
            if (unlink(file) < 0 && errno == EISDIR) {
                (void)!remove_dir(file);
            }
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return rmdir(path) == 0 ? 0 : fail(TRK_EIO, "cannot remove %s: %s", path, strerror(errno));
}

int trk_job_remove(const char *home, const char *name)
{
    char path[DIR_MAX], away[DIR_MAX];
    struct ckpt_lock lock;
    int rc = find_job(home, name, path, sizeof(path));

    if (rc != 0) {
        return rc;
    }
    rc = ckpt_lock_take(&lock, path);
    if (rc < 0) {
        return rc;
    }
    /* Under another name first: who opens the job meanwhile makes a new one. */
    snprintf(away, sizeof(away), "%s", path);
    snprintf(away + (strlen(path) - strlen(name)), HOME_NAME_MAX + 64, ".removed-%s-%ld", name,
             (long)getpid());
    rc = rename(path, away) == 0
             ? 0 : fail(TRK_EIO, "cannot remove the job %s: %s", name, strerror(errno));
    ckpt_lock_give(&lock);
    return rc == 0 ? remove_dir(away) : rc;
}

/* --- who has it, is it whole ---------------- */

static bool has_data(const char *dir)
{
    char path[DIR_MAX + 16];
    struct stat st;

    snprintf(path, sizeof(path), "%s/data.mdb", dir);
    return stat(path, &st) == 0 && st.st_size > 0;
}

/* Nobody holds the job. text: what was found. */
static int check_store(const char *dir, char *text, size_t size)
{
    struct verify_report report;
    int rc = ckpt_check(dir, NULL, &report);

    if (rc == 0) {
        snprintf(text, size, "the store is whole: %llu records, results of %llu elements",
                 (unsigned long long)report.records, (unsigned long long)report.elements);
    } else if (rc == TRK_ECORRUPT) {
        snprintf(text, size, "the store is damaged (%.300s): resuming the job saves what is good",
                 report.why);
    } else if (rc == TRK_EVERSION) {
        snprintf(text, size, "the store was written by a newer Trickle: use that");
    } else {
        snprintf(text, size, "the store could not be checked: %.300s", fail_text());
    }
    return rc;
}

int trk_job_check(const char *home, const char *name, char *text, size_t size)
{
    struct ckpt_holder holder;
    char path[DIR_MAX];
    int rc = find_job(home, name, path, sizeof(path));

    if (rc == 0) {
        rc = ckpt_lock_holder(path, &holder);
    }
    if (rc != 0) {
        return rc;
    }
    if (holder.pid != 0) {
        return fail(TRK_EDENIED, "the job %s is run by process %ld: its store changes", name,
                    (long)holder.pid);
    }
    return has_data(path) ? check_store(path, text, size) : TRK_END;
}

/* May the store be mapped? What was checked once and has not been touched since is not checked
 * again: it is marked as if it had been closed in order. */
static void check_once(struct trk_view *view, const struct ckpt_holder *holder)
{
    struct ckpt_holder now;
    int rc;

    if (holder->pid != 0 || clean_is(view->dir)) {
        view->is_checked = true; /* its writer has checked it, or closed it in order */
        return;
    }
    rc = check_store(view->dir, view->text, sizeof(view->text));
    if (ckpt_lock_holder(view->dir, &now) < 0 || now.pid != 0) {
        view->is_checked = true; /* somebody opened it meanwhile: what was seen says nothing */
    } else if (rc == 0) {
        view->is_checked = true;
        clean_mark(view->dir);
    } else {
        view->is_damaged = true;
        return;
    }
    view->text[0] = '\0';
}

/* 0: view->reader is there; TRK_END: there is no store; TRK_ECORRUPT. */
static int enter(struct trk_view *view)
{
    struct ckpt_holder holder;
    int rc;

    if (view->reader != NULL) {
        return 0;
    }
    if (!has_data(view->dir)) {
        return TRK_END;
    }
    if (!view->is_checked && !view->is_damaged) {
        rc = ckpt_lock_holder(view->dir, &holder);
        if (rc < 0) {
            return fail(rc, "cannot look at the lock in %s", view->dir);
        }
        check_once(view, &holder);
    }
    if (view->is_damaged) {
        return fail(TRK_ECORRUPT, "%s", view->text);
    }
    rc = ckpt_reader_open(&view->reader, view->dir);
    if (rc != 0) {
        view->reader = NULL;
    }
    return rc;
}

/* What a reader's error says to a person. */
static int told(struct trk_view *view, int rc)
{
    if (rc < 0 && rc != TRK_ECORRUPT) {
        return fail(rc, "cannot read the store in %s: %s", view->dir, trk_strerror(rc));
    }
    return rc;
}

int trk_view_open(struct trk_view **out, const char *home, const char *name)
{
    struct ckpt_holder holder;
    char path[DIR_MAX];
    struct trk_view *view;
    int rc = find_job(home, name, path, sizeof(path));

    if (rc != 0) {
        return rc;
    }
    rc = ckpt_lock_holder(path, &holder);
    if (rc < 0) {
        return fail(rc, "cannot look at the lock in %s", path);
    }
    if (holder.pid == getpid()) {
        return fail(TRK_EDENIED, "the job %s is open in this process: ask it instead", name);
    }
    view = mem_zalloc(1, sizeof(*view));
    if (view == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    snprintf(view->dir, sizeof(view->dir), "%s", path);
    *out = view;
    return 0;
}

static void page_drop(struct page *page)
{
    blob_unref(page->result.value);
    memset(page, 0, sizeof(*page));
}

void trk_view_close(struct trk_view *view)
{
    if (view != NULL) {
        page_drop(&view->page);
        kept_drop(&view->kept);
        ckpt_reader_free(view->reader);
        mem_free(view);
    }
}

static uint64_t dir_bytes(const char *path)
{
    char file[DIR_MAX + 300];
    struct dirent *entry;
    uint64_t total = 0;
    struct stat st;
    DIR *dir = opendir(path);

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
        if (lstat(file, &st) == 0 && S_ISREG(st.st_mode)) {
            total += (uint64_t)st.st_blocks * 512;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return total;
}

int trk_view_get_info(struct trk_view *view, struct trk_view_info *out)
{
    struct ckpt_holder holder;
    struct ckpt_info info = {.epoch = 0};
    int rc = ckpt_lock_holder(view->dir, &holder);

    memset(out, 0, sizeof(*out));
    if (rc < 0) {
        return fail(rc, "cannot look at the lock in %s", view->dir);
    }
    snprintf(out->dir, sizeof(out->dir), "%.4000s", view->dir);
    out->bytes = dir_bytes(view->dir);
    out->is_running = holder.pid != 0;
    out->pid = holder.pid;
    snprintf(out->host, sizeof(out->host), "%s", holder.host);
    snprintf(out->since, sizeof(out->since), "%s", holder.since);
    rc = enter(view);
    if (rc == 0) {
        rc = ckpt_read_info(view->reader, &info);
    }
    out->has_store = rc == 0;
    if (rc == 0) {
        memcpy(out->uuid, info.uuid, sizeof(out->uuid));
        out->epoch = info.epoch;
        out->version = info.version;
        out->records = info.records;
    } else if (rc < 0) {
        out->is_damaged = true;
        snprintf(out->text, sizeof(out->text), "%s",
                 view->text[0] != '\0' ? view->text : fail_text());
    }
    return 0;
}

/* --- records ---------------- */

static int read_value(struct trk_view *view, enum ckpt_kind kind, const void *key, size_t key_size,
                      struct blob **value)
{
    int rc = enter(view);

    return rc == 0 ? told(view, ckpt_read_get(view->reader, kind, key, key_size, value)) : rc;
}

int trk_view_note(struct trk_view *view, enum trk_note kind, const char *name, void **bytes,
                  size_t *size)
{
    size_t length = strlen(name);
    struct blob *blob;
    int rc;

    if (length == 0 || length > RECORD_KEY_MAX) {
        return fail(TRK_EINVAL, "a name in a job has 1 to %d bytes", RECORD_KEY_MAX);
    }
    rc = read_value(view, (enum ckpt_kind)kind, name, length, &blob);
    if (rc != 0) {
        return rc;
    }
    *bytes = mem_alloc(blob->size + 1);
    if (*bytes != NULL) {
        memcpy(*bytes, blob->data, blob->size);
        ((char *)*bytes)[blob->size] = '\0';
        *size = blob->size;
    }
    blob_unref(blob);
    return *bytes != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
}

struct stages {
    struct trk_view_stage *items; /* their texts are in blocks of their own */
    size_t count, cap;
};

static void stages_drop(struct stages *all)
{
    for (size_t i = 0; i < all->count; i++) {
        mem_free((char *)all->items[i].key);
    }
    mem_free(all->items);
}

static int add_stage(struct trk_view *view, struct stages *all, uint32_t number,
                     const struct value_stage *v)
{
    struct trk_view_stage *stage;
    struct record_count count;
    char *text;
    int rc = ckpt_read_count(view->reader, number, &count);

    if (rc != 0) {
        return rc;
    }
    if (all->count + 1 >= all->cap) { /* one more stays free: the end */
        size_t cap = all->cap + 64;
        struct trk_view_stage *items = mem_realloc(all->items, cap * sizeof(*items));
        if (items == NULL) {
            return TRK_ENOMEM;
        }
        all->items = items;
        all->cap = cap;
    }
    text = mem_zalloc(1, v->key_size + v->name_size + 2);
    if (text == NULL) {
        return TRK_ENOMEM;
    }
    memcpy(text, v->key, v->key_size);
    memcpy(text + v->key_size + 1, v->name, v->name_size);
    stage = &all->items[all->count++];
    *stage = (struct trk_view_stage){
        .number = number, .key = text, .name = text + v->key_size + 1, .added = v->total,
        .is_closed = v->is_closed, .recorded = count.recorded, .failed = count.failed,
        .bytes = count.bytes, .replaced_by = v->replaced_by, .previous = v->previous};
    return v->is_closed ? 0 : kept_count(view->reader, number, &stage->added);
}

int trk_view_stages(struct trk_view *view, struct trk_view_stage **out, size_t *count)
{
    struct ckpt_read_key key = {.size = 0};
    struct stages all = {.count = 0};
    int rc = enter(view);

    while (rc == 0) {
        struct value_stage stage;
        struct blob *value;
        rc = ckpt_read_next(view->reader, CKPT_STAGE, &key, &value);
        if (rc != 0) {
            break;
        }
        rc = key.size == KEY_STAGE ? value_stage_decode(&stage, value->data, value->size)
                                   : TRK_ECORRUPT;
        if (rc == 0) {
            rc = add_stage(view, &all, key_get_u32(key.bytes), &stage);
        }
        blob_unref(value);
    }
    if (rc < 0) {
        stages_drop(&all);
        return told(view, rc);
    }
    if (all.items == NULL && (all.items = mem_zalloc(1, sizeof(*all.items))) == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    all.items[all.count] = (struct trk_view_stage){.key = NULL};
    *out = all.items;
    *count = all.count;
    return 0;
}

void trk_view_stages_free(struct trk_view_stage *stages)
{
    struct stages all = {.items = stages};

    while (stages != NULL && stages[all.count].key != NULL) {
        all.count++;
    }
    stages_drop(&all);
}

/* --- results ---------------- */

/* Takes what the reader gave. */
static int page_take(struct page *page, uint32_t stage, const struct ckpt_result *result)
{
    int rc;

    page_drop(page);
    page->stage = stage;
    page->result = *result;
    page->at = result->run.first;
    rc = value_result_decode(&page->decoded, result->run.count, result->value->data,
                             result->value->size);
    if (rc < 0) {
        page_drop(page);
    }
    return rc;
}

static bool page_has(const struct page *page, uint32_t stage, uint64_t index)
{
    const struct ckpt_found *found = &page->result.found;

    return page->result.value != NULL && page->stage == stage && index >= found->first &&
           index - found->first < found->count;
}

static void page_get(struct page *page, uint64_t index, struct trk_view_result *out)
{
    uint64_t first = page->result.run.first;
    const struct value_result *v = &page->decoded;

    if (index < page->at) {
        page->at = first;
        page->offset = 0;
    }
    for (; page->at < index; page->at++) {
        page->offset += le_load_u32(v->sizes + (page->at - first) * 4);
    }
    *out = (struct trk_view_result){.index = index, .status = v->statuses[index - first],
                                    .attempt = v->attempt, .payload = v->payloads + page->offset,
                                    .size = le_load_u32(v->sizes + (index - first) * 4)};
}

int trk_view_result(struct trk_view *view, uint32_t stage, uint64_t index,
                    struct trk_view_result *out)
{
    struct ckpt_found found;
    struct ckpt_result result;
    int rc = enter(view);

    if (rc == 0) {
        rc = ckpt_read_find(view->reader, stage, index, &found);
    }
    if (rc == 0 && found.first > index) {
        rc = TRK_END;
    }
    if (rc == 0) {
        rc = ckpt_read_at(view->reader, stage, index, &result);
    }
    if (rc == 0) {
        rc = page_take(&view->page, stage, &result);
    }
    if (rc == 0 && !page_has(&view->page, stage, index)) {
        rc = TRK_END; /* forgotten between the two looks */
    }
    if (rc == 0) {
        page_get(&view->page, index, out);
    }
    return told(view, rc);
}

int trk_view_element(struct trk_view *view, uint32_t stage, uint64_t index,
                     const void **element, size_t *size)
{
    int rc = enter(view);

    if (rc == 0 && !kept_has(&view->kept, stage, index)) {
        rc = kept_read(&view->kept, view->reader, stage, index);
    }
    if (rc == 0) {
        kept_get(&view->kept, index, element, size);
    }
    return rc == TRK_ENOTKEPT ? TRK_END : told(view, rc);
}

/* Reads the next record of the walk; walk->next is then an element in it. */
static int turn_page(struct trk_view *view, struct trk_view_walk *walk)
{
    struct ckpt_position position = {walk->seq, walk->next};
    struct ckpt_result result;
    int rc = enter(view);

    if (rc == 0) {
        rc = walk->in_recorded_order
                 ? ckpt_read_recorded(view->reader, walk->stage, &position, &result)
                 : ckpt_read_at(view->reader, walk->stage, walk->next, &result);
    }
    if (rc == 0) {
        rc = page_take(&view->page, walk->stage, &result);
    }
    if (rc == 0) {
        uint64_t first = result.found.first;
        bool is_same = !walk->in_recorded_order || walk->seq == result.found.seq;
        walk->next = is_same && walk->next > first ? walk->next : first;
        walk->seq = result.found.seq;
    }
    return rc;
}

int trk_view_next(struct trk_view *view, struct trk_view_walk *walk, struct trk_view_result *out)
{
    bool is_here = page_has(&view->page, walk->stage, walk->next) &&
                   (!walk->in_recorded_order || view->page.result.found.seq == walk->seq);

    if (!is_here) {
        int rc = turn_page(view, walk);
        if (rc != 0) {
            return told(view, rc);
        }
    }
    page_get(&view->page, walk->next++, out);
    return 0;
}

/* --- attempts ---------------- */

static int copy_attempts(const struct value_attempt *from, size_t count,
                         struct trk_view_attempt *to)
{
    for (size_t i = 0; i < count; i++) {
        to[i].epoch = from[i].epoch;
        to[i].a = from[i].a;
        to[i].a.output = NULL;
        if (from[i].a.output != NULL) {
            to[i].a.output = mem_alloc(from[i].a.output_size + 1);
            if (to[i].a.output == NULL) {
                return TRK_ENOMEM;
            }
            memcpy(to[i].a.output, from[i].a.output, from[i].a.output_size);
            to[i].a.output[from[i].a.output_size] = '\0';
        }
    }
    return 0;
}

int trk_view_attempts(struct trk_view *view, uint32_t stage, uint64_t index,
                      struct trk_view_attempt **out, size_t *count)
{
    struct value_attempt *decoded = NULL;
    uint8_t key[KEY_STAGE_NUMBER];
    struct blob *value = NULL;
    int rc;

    *count = 0;
    ckpt_key(key, stage, index);
    rc = read_value(view, CKPT_ATTEMPT, key, sizeof(key), &value);
    if (rc == 0) {
        rc = told(view, value_attempts_decode(&decoded, count, value->data, value->size));
    }
    if (rc >= 0) {
        *out = mem_zalloc(*count > 0 ? *count : 1, sizeof(**out));
        rc = *out == NULL ? TRK_ENOMEM : copy_attempts(decoded, *count, *out);
        if (rc < 0) {
            trk_view_attempts_free(*out, *count);
            rc = fail(rc, "out of memory");
        }
    }
    mem_free(decoded);
    blob_unref(value);
    return rc;
}

void trk_view_attempts_free(struct trk_view_attempt *attempts, size_t count)
{
    for (size_t i = 0; attempts != NULL && i < count; i++) {
        mem_free(attempts[i].a.output);
    }
    mem_free(attempts);
}
