/* SPDX-License-Identifier: MIT */
/* spool.c - see spool.h. Several processes use the same folders: VMs write, their supervisors read
 * and delete, all of them trim. No locks: a file appears and disappears as a whole, a descriptor
 * that is open outlives its name, and to delete twice is to delete. A folder that somebody removes
 * because it is empty, while somebody else is about to write there, is made again. */
#include "vm/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fail.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "ckpt/home.h"
#include "trickle/work.h"
#include "vm/host.h"
#include "wire/msg.h"

#define FILE_MAGIC "\x93TRKhld\n"
#define FILE_FORMAT 1
#define FILE_HEAD 64
#define RECORD_HEAD 112
#define ENDING ".held"
#define UNDONE ".tmp" /* of a file that is being written */
#define UNDONE_SECONDS 86400 /* nobody writes that long: its writer was killed */
#define PATH_BYTES (HOME_PATH_MAX + 256)
#define WRITE_TRIES 3

/* --- names ------------------------------------------------------------------------------ */

static void job_text(char text[33], const uint8_t job[16])
{
    for (int i = 0; i < 16; i++) {
        snprintf(text + 2 * i, 3, "%02x", job[i]);
    }
}

static void dir_path(char path[PATH_BYTES], const char *home, const uint8_t job[16])
{
    char text[33];
    job_text(text, job);
    snprintf(path, PATH_BYTES, "%s/held/%s", home, text);
}

static void file_path(char path[PATH_BYTES], const char *home, const uint8_t job[16],
                      const char *name, const char *ending)
{
    char text[33];
    job_text(text, job);
    snprintf(path, PATH_BYTES, "%s/held/%s/%s%s", home, text, name, ending);
}

static int make_dirs(const char *home, const uint8_t job[16])
{
    char path[PATH_BYTES];
    snprintf(path, sizeof(path), "%s/held", home);
    int rc = ckpt_private_dir(path);
    if (rc == 0) {
        dir_path(path, home, job);
        rc = ckpt_private_dir(path);
    }
    return rc;
}

static bool has_ending(const char *name, const char *ending)
{
    size_t size = strlen(name), end = strlen(ending);
    return size > end && strcmp(name + size - end, ending) == 0;
}

/* --- writing ---------------------------------------------------------------------------- */

struct spool_writer {
    int fd;
    uint64_t at; /* bytes written */
    char path[PATH_BYTES], final[PATH_BYTES], dir[PATH_BYTES];
    char parent[PATH_BYTES];
};

static int write_failed(const struct spool_writer *w, const char *what)
{
    bool is_full = errno == ENOSPC || errno == EDQUOT || errno == EFBIG;
    return fail(is_full ? TRK_EFULL : TRK_EIO, "cannot %s %s: %s", what, w->final,
                strerror(errno));
}

static int write_all(struct spool_writer *w, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    while (size > 0) {
        ssize_t n = write(w->fd, at, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return write_failed(w, "write");
        }
        at += n;
        size -= (size_t)n;
        w->at += (uint64_t)n;
    }
    return 0;
}

static int sync_dir(const struct spool_writer *w, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? 0 : write_failed(w, "sync the folder of");
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static int open_new(struct spool_writer *w, const char *home, const uint8_t job[16])
{
    int rc = TRK_EIO;
    for (int i = 0; i < WRITE_TRIES; i++) {
        rc = make_dirs(home, job);
        if (rc < 0) {
            return rc;
        }
        unlink(w->path); /* of one that was killed */
        w->fd = open(w->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (w->fd >= 0) {
            w->fd = vm_fd_raise(w->fd);
            return 0;
        }
        rc = write_failed(w, "make");
        if (errno != ENOENT) {
            break;
        }
    }
    return rc;
}

int spool_create(struct spool_writer **out, const char *home, const uint8_t job[16],
                 uint64_t epoch, const char *name)
{
    struct spool_writer *w = mem_zalloc(1, sizeof(*w));
    uint8_t head[FILE_HEAD] = FILE_MAGIC;
    if (w == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    file_path(w->path, home, job, name, UNDONE);
    file_path(w->final, home, job, name, ENDING);
    dir_path(w->dir, home, job);
    snprintf(w->parent, sizeof(w->parent), "%s/held", home);
    int rc = open_new(w, home, job);
    if (rc < 0) {
        mem_free(w);
        return rc;
    }
    le_store_u32(head + 8, FILE_FORMAT);
    memcpy(head + 16, job, 16);
    le_store_u64(head + 32, epoch);
    struct digest digest = hash_digest(head, 48);
    memcpy(head + 48, digest.bytes, 16);
    rc = write_all(w, head, sizeof(head));
    if (rc < 0) {
        spool_abort(w);
        return rc;
    }
    *out = w;
    return 0;
}

int spool_add(struct spool_writer *w, const struct spool_entry *e)
{
    uint8_t head[RECORD_HEAD] = {0};
    struct digest digest = hash_digest(e->payload, e->size);
    le_store_u64(head + 16, e->size);
    head[24] = e->kind;
    head[25] = e->status;
    le_store_u32(head + 28, e->stage);
    le_store_u32(head + 32, e->attempt);
    le_store_u64(head + 40, e->index);
    memcpy(head + 48, e->element, 16);
    memcpy(head + 64, e->fingerprint, 16);
    memcpy(head + 80, digest.bytes, 16);
    le_store_u64(head + 96, w->at);
    digest = hash_digest(head + 16, RECORD_HEAD - 16);
    memcpy(head, digest.bytes, 16);
    int rc = write_all(w, head, sizeof(head));
    return rc < 0 ? rc : write_all(w, e->payload, e->size);
}

int spool_commit(struct spool_writer *w)
{
    int rc = fsync(w->fd) == 0 ? 0 : write_failed(w, "sync");
    if (rc == 0 && rename(w->path, w->final) < 0) {
        rc = write_failed(w, "name");
    }
    rc = rc < 0 ? rc : sync_dir(w, w->dir);
    rc = rc < 0 ? rc : sync_dir(w, w->parent);
    if (rc < 0) {
        spool_abort(w); /* where it has its name already it stays: it may be whole */
        return rc;
    }
    close(w->fd);
    mem_free(w);
    return 0;
}

void spool_abort(struct spool_writer *w)
{
    unlink(w->path);
    rmdir(w->dir);
    close(w->fd);
    mem_free(w);
}

void spool_remove(const char *home, const uint8_t job[16], const char *name)
{
    char path[PATH_BYTES];
    file_path(path, home, job, name, ENDING);
    unlink(path);
    dir_path(path, home, job);
    rmdir(path); /* when it was the last */
}

/* --- bounds ------------------------------------------------------------------------------ */

/* A file of any job. */
struct old {
    char path[33 + SPOOL_NAME_MAX + 32]; /* below held/ */
    uint64_t bytes;
    int64_t seconds; /* last written */
};

struct olds {
    struct old *files;
    size_t count, cap;
    uint64_t bytes;
};

static int olds_add(struct olds *o, const char *job, const char *name, const struct stat *st)
{
    struct old old = {.bytes = (uint64_t)st->st_size, .seconds = st->st_mtime};
    if (snprintf(old.path, sizeof(old.path), "%s/%s", job, name) >= (int)sizeof(old.path)) {
        return 0; /* not ours */
    }
    if (o->count == o->cap) {
        size_t cap = o->cap == 0 ? 64 : 2 * o->cap;
        struct old *files = mem_realloc(o->files, cap * sizeof(*files));
        if (files == NULL) {
            return TRK_ENOMEM;
        }
        o->files = files;
        o->cap = cap;
    }
    o->files[o->count++] = old;
    o->bytes += old.bytes;
    return 0;
}

static int olds_of_job(struct olds *o, int held, const char *job)
{
    int fd = openat(held, job, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    struct stat st;
    int rc = 0;
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return 0;
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        bool is_ours = has_ending(entry->d_name, ENDING) || has_ending(entry->d_name, UNDONE);
        if (is_ours && fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
            rc = olds_add(o, job, entry->d_name, &st);
        }
    }
    closedir(dir);
    return rc;
}

static int older_first(const void *a, const void *b)
{
    const struct old *x = a, *y = b;
    return x->seconds < y->seconds ? -1 : x->seconds > y->seconds;
}

static int collect(struct olds *o, const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    int rc = 0;
    while (rc == 0 && dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strlen(entry->d_name) == 32) {
            rc = olds_of_job(o, dirfd(dir), entry->d_name);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    if (o->count > 1) {
        qsort(o->files, o->count, sizeof(*o->files), older_first);
    }
    return rc;
}

static void drop(const char *held, const struct old *old, const char *why)
{
    char path[PATH_BYTES];
    if (has_ending(old->path, ENDING)) {
        log_warn("vm", "results held for job %.32s (%" PRIu64 " bytes) are deleted: %s; their "
                 "elements run again", old->path, old->bytes, why);
    }
    snprintf(path, sizeof(path), "%s/%s", held, old->path);
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path); /* when it was the last */
}

int spool_trim(const char *home, const struct spool_limits *limits, uint64_t room)
{
    char held[PATH_BYTES];
    struct olds o = {0};
    int64_t now = (int64_t)time(NULL);
    if (room > limits->bytes) {
        return fail(TRK_EFULL, "%" PRIu64 " bytes are more than --hold-bytes allows", room);
    }
    snprintf(held, sizeof(held), "%s/held", home);
    int rc = collect(&o, held);
    for (size_t i = 0; i < o.count; i++) {
        const struct old *old = &o.files[i];
        uint64_t age = now > old->seconds ? (uint64_t)(now - old->seconds) : 0;
        bool is_undone = has_ending(old->path, UNDONE);
        if (age > (is_undone ? UNDONE_SECONDS : limits->seconds)) {
            drop(held, old, "nobody came for them in time (--hold-days)");
        } else if (!is_undone && o.bytes + room > limits->bytes) {
            drop(held, old, "there is too much of it (--hold-bytes)");
        } else {
            continue;
        }
        o.bytes -= old->bytes;
    }
    mem_free(o.files);
    return rc < 0 ? fail(rc, "out of memory") : 0;
}

/* --- reading ----------------------------------------------------------------------------- */

struct item {
    uint64_t offset, size;
    uint32_t stage;
};

struct spool_file {
    int fd; /* -1 but while something is read */
    uint64_t epoch;
    struct item *items;
    uint32_t count, cap;
    char name[SPOOL_NAME_MAX + 1];
    char path[PATH_BYTES], dir[PATH_BYTES];
};

static int read_all(int fd, void *bytes, size_t size, uint64_t offset)
{
    uint8_t *at = bytes;
    while (size > 0) {
        ssize_t n = pread(fd, at, size, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return TRK_EIO;
        }
        if (n == 0) {
            return TRK_ECORRUPT;
        }
        at += n;
        offset += (uint64_t)n;
        size -= (size_t)n;
    }
    return 0;
}

/* The head of the record at offset; *digest: of its payload, which follows. */
static int read_head(int fd, uint64_t offset, uint64_t end, struct spool_entry *e,
                     struct digest *digest)
{
    uint8_t head[RECORD_HEAD];
    if (end - offset < RECORD_HEAD) {
        return TRK_ECORRUPT;
    }
    int rc = read_all(fd, head, sizeof(head), offset);
    if (rc < 0) {
        return rc;
    }
    struct digest found = hash_digest(head + 16, RECORD_HEAD - 16);
    *e = (struct spool_entry){.size = le_load_u64(head + 16), .kind = head[24],
                              .status = head[25], .stage = le_load_u32(head + 28),
                              .attempt = le_load_u32(head + 32), .index = le_load_u64(head + 40)};
    memcpy(e->element, head + 48, 16);
    memcpy(e->fingerprint, head + 64, 16);
    memcpy(digest->bytes, head + 80, 16);
    bool is_good = memcmp(found.bytes, head, 16) == 0 && le_load_u64(head + 96) == offset &&
                   e->size <= TRK_ELEMENT_BYTES_MAX && e->size <= end - offset - RECORD_HEAD &&
                   (e->kind == WIRE_HELD_RESULT || e->kind == WIRE_HELD_STATE) &&
                   e->status <= TRK_STATUS_ERROR && e->index != UINT64_MAX;
    return is_good ? 0 : TRK_ECORRUPT;
}

static int add_item(struct spool_file *f, const struct item *item)
{
    if (f->count == f->cap) {
        uint32_t cap = f->cap == 0 ? 64 : 2 * f->cap;
        struct item *items = mem_realloc(f->items, cap * sizeof(*items));
        if (items == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        f->items = items;
        f->cap = cap;
    }
    f->items[f->count++] = *item;
    return 0;
}

/* Behind a damaged head nothing can be found any more. */
static int index_records(struct spool_file *f, uint64_t end)
{
    struct spool_entry e = {0};
    struct digest digest;
    int rc = 0;
    for (uint64_t at = FILE_HEAD; rc == 0 && at < end; at += RECORD_HEAD + e.size) {
        rc = read_head(f->fd, at, end, &e, &digest);
        if (rc == 0) {
            rc = add_item(f, &(struct item){.offset = at, .size = e.size, .stage = e.stage});
        }
    }
    if (rc == TRK_ECORRUPT) {
        log_warn("vm", "%s is damaged after %u results: what follows is lost", f->path, f->count);
    }
    return rc == TRK_ENOMEM ? rc : 0;
}

static int check_file(struct spool_file *f, const uint8_t job[16])
{
    uint8_t head[FILE_HEAD];
    struct stat st;
    if (fstat(f->fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() ||
        read_all(f->fd, head, sizeof(head), 0) < 0) {
        return fail(TRK_ECORRUPT, "%s cannot be read", f->path);
    }
    struct digest digest = hash_digest(head, 48);
    if (memcmp(head, FILE_MAGIC, 8) != 0 || memcmp(head + 48, digest.bytes, 16) != 0 ||
        memcmp(head + 16, job, 16) != 0) {
        return fail(TRK_ECORRUPT, "%s is damaged", f->path);
    }
    if (le_load_u32(head + 8) != FILE_FORMAT) {
        return fail(TRK_EVERSION, "%s is of another version of Trickle", f->path);
    }
    f->epoch = le_load_u64(head + 32);
    return index_records(f, (uint64_t)st.st_size);
}

/* Not for good: there may be more files than descriptors. */
static int open_file(struct spool_file *f)
{
    f->fd = open(f->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    return f->fd >= 0 ? 0 : fail(errno == ENOENT ? TRK_END : TRK_EIO, "cannot open %s: %s",
                                 f->path, strerror(errno));
}

static void close_file(struct spool_file *f)
{
    close(f->fd);
    f->fd = -1;
}

int spool_open(struct spool_file **out, const char *home, const uint8_t job[16], const char *name)
{
    if (strlen(name) > SPOOL_NAME_MAX) {
        return fail(TRK_EINVAL, "%s is no name of a file of held results", name);
    }
    struct spool_file *f = mem_zalloc(1, sizeof(*f));
    if (f == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    snprintf(f->name, sizeof(f->name), "%s", name);
    file_path(f->path, home, job, name, ENDING);
    dir_path(f->dir, home, job);
    int rc = open_file(f);
    if (rc == 0) {
        rc = check_file(f, job);
        close_file(f);
    }
    if (rc != 0) {
        spool_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void spool_close(struct spool_file *f)
{
    if (f != NULL) {
        mem_free(f->items);
        mem_free(f);
    }
}

const char *spool_name(const struct spool_file *f)
{
    return f->name;
}

uint64_t spool_epoch(const struct spool_file *f)
{
    return f->epoch;
}

uint32_t spool_count(const struct spool_file *f)
{
    return f->count;
}

uint32_t spool_stage(const struct spool_file *f, uint32_t i)
{
    return f->items[i].stage;
}

uint64_t spool_size(const struct spool_file *f, uint32_t i)
{
    return f->items[i].size;
}

static int read_record(struct spool_file *f, uint32_t i, struct spool_entry *entry,
                       struct blob **payload)
{
    const struct item *item = &f->items[i];
    uint64_t end = item->offset + RECORD_HEAD + item->size;
    struct digest wanted, found;
    int rc = read_head(f->fd, item->offset, end, entry, &wanted);
    if (rc < 0) {
        return rc;
    }
    struct blob *bytes = blob_new(item->size);
    if (bytes == NULL) {
        return TRK_ENOMEM;
    }
    bytes->size = item->size;
    rc = read_all(f->fd, bytes->data, bytes->size, item->offset + RECORD_HEAD);
    if (rc == 0) {
        found = hash_digest(bytes->data, bytes->size);
        rc = memcmp(found.bytes, wanted.bytes, 16) == 0 ? 0 : TRK_ECORRUPT;
    }
    if (rc < 0) {
        blob_unref(bytes);
        return rc;
    }
    entry->payload = bytes->data;
    *payload = bytes;
    return 0;
}

int spool_read(struct spool_file *f, uint32_t i, struct spool_entry *entry, struct blob **payload)
{
    int rc = open_file(f);
    if (rc == 0) {
        rc = read_record(f, i, entry, payload);
        close_file(f);
    }
    return rc;
}

void spool_delete(struct spool_file *f)
{
    unlink(f->path);
    rmdir(f->dir); /* when it was the last */
}

void spool_list(const char *home, const uint8_t job[16],
                void (*fn)(void *ctx, const char *name), void *ctx)
{
    char path[PATH_BYTES];
    struct dirent *entry;
    dir_path(path, home, job);
    DIR *dir = opendir(path);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        size_t size = strlen(entry->d_name);
        if (has_ending(entry->d_name, ENDING) && size - strlen(ENDING) <= SPOOL_NAME_MAX) {
            entry->d_name[size - strlen(ENDING)] = '\0';
            fn(ctx, entry->d_name);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
}
