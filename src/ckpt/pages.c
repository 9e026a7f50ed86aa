/* SPDX-License-Identifier: MIT */
/* pages.c - see pages.h. Every number read is held against a bound before it is used. */
#include "ckpt/pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

#define MAGIC 0xBEEFC0DEu
#define DATA_VERSION 1
#define HEADER 16     /* u64 page, u16 pad, u16 flags, u16 lower, u16 upper (u32 pages) */
#define NODE 8        /* u16 low, u16 high, u16 flags, u16 key size */
#define DEPTH_MAX 32
#define KEY_MAX 511
#define NO_PAGE UINT64_MAX
#define SUBDB_BYTES 48
#define META_BYTES 136

enum { PAGE_BRANCH = 0x01, PAGE_LEAF = 0x02, PAGE_OVERFLOW = 0x04, PAGE_META = 0x08 };
enum { FLAG_NUMBERS = 0x08, FLAG_FILE = 0x4000 }; /* of a tree */
enum { NODE_BIG = 0x01, NODE_SUBDB = 0x02, NODE_DUP = 0x04 };

struct tree { /* as LMDB keeps it: MDB_db */
    uint32_t pad;
    uint16_t flags, depth;
    uint64_t branch_pages, leaf_pages, overflow_pages, entries, root;
};

struct meta {
    uint32_t magic, version;
    uint64_t address, map_size;
    struct tree free, main;
    uint64_t last_page, txn;
};

struct walk {
    int fd;
    uint32_t page_size;
    uint64_t pages;        /* in the file, as the meta page has it */
    uint64_t txn;
    uint8_t *seen;         /* a bit per page */
    uint64_t seen_count;
    struct tree counted;   /* of the tree being walked */
    bool is_free_list, is_main;
    struct tree subs[64];  /* trees found in the main tree */
    unsigned subs_count;
    uint8_t last_key[KEY_MAX];
    size_t last_size;
    bool has_last;
    bool may_equal;        /* the last key is a branch's: a leaf's may be the same */
    uint8_t starts[65536 / 16]; /* a bit per two bytes of a page: where its entries begin */
    char *why;
    size_t why_size;
};

TRK_PRINTF(2, 3)
static int bad(struct walk *w, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(w->why, w->why_size, format, args);
    va_end(args);
    return TRK_ECORRUPT;
}

static uint16_t u16_at(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t u32_at(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t u64_at(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof(v));
    return v;
}

static int read_at(struct walk *w, void *bytes, size_t size, uint64_t offset)
{
    uint8_t *at = bytes;

    while (size > 0) {
        ssize_t got = pread(w->fd, at, size, (off_t)offset);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got <= 0) {
            bad(w, "cannot be read at %llu: %s", (unsigned long long)offset,
                got < 0 ? strerror(errno) : "it is too short");
            return got < 0 ? TRK_EIO : TRK_ECORRUPT;
        }
        at += got;
        size -= (size_t)got;
        offset += (uint64_t)got;
    }
    return 0;
}

/* --- meta pages ---------------- */

static void get_tree(struct tree *t, const uint8_t *p)
{
    *t = (struct tree){.pad = u32_at(p), .flags = u16_at(p + 4), .depth = u16_at(p + 6),
                       .branch_pages = u64_at(p + 8), .leaf_pages = u64_at(p + 16),
                       .overflow_pages = u64_at(p + 24), .entries = u64_at(p + 32),
                       .root = u64_at(p + 40)};
}

static int get_meta(struct walk *w, struct meta *m, uint64_t offset, uint64_t number)
{
    uint8_t page[HEADER + META_BYTES];
    int rc = read_at(w, page, sizeof(page), offset);
    const uint8_t *p = page + HEADER;

    if (rc < 0) {
        return rc;
    }
    *m = (struct meta){.magic = u32_at(p), .version = u32_at(p + 4), .address = u64_at(p + 8),
                       .map_size = u64_at(p + 16), .last_page = u64_at(p + 120),
                       .txn = u64_at(p + 128)};
    get_tree(&m->free, p + 24);
    get_tree(&m->main, p + 72);
    if (u64_at(page) != number || u16_at(page + 10) != PAGE_META || m->magic != MAGIC ||
        m->version != DATA_VERSION || m->address != 0) {
        return bad(w, "meta page %llu is damaged", (unsigned long long)number);
    }
    if (m->free.pad < 512 || m->free.pad > 65536 || (m->free.pad & (m->free.pad - 1)) != 0) {
        return bad(w, "meta page %llu has pages of %u bytes", (unsigned long long)number,
                   m->free.pad);
    }
    return 0;
}

/* The two alternate: transaction n is in page n & 1, and the other holds n - 1. */
static int choose_meta(struct walk *w, struct meta *out)
{
    struct meta m[2];
    struct stat st;
    unsigned newer;
    int rc = get_meta(w, &m[0], 0, 0);

    if (rc == 0) {
        rc = get_meta(w, &m[1], m[0].free.pad, 1);
    }
    if (rc < 0) {
        return rc;
    }
    newer = m[1].txn > m[0].txn;
    if (m[0].free.pad != m[1].free.pad ||
        (m[newer].txn != 0 && (m[newer].txn != m[!newer].txn + 1 || (m[newer].txn & 1) != newer))) {
        return bad(w, "the meta pages (transactions %llu and %llu) do not belong together",
                   (unsigned long long)m[0].txn, (unsigned long long)m[1].txn);
    }
    *out = m[newer];
    if (fstat(w->fd, &st) < 0) {
        return TRK_EIO;
    }
    w->page_size = out->free.pad;
    w->txn = out->txn;
    /* Pages at the end that were taken and given back in one transaction were never written: a
     * few may be missing from the file. */
    if (out->last_page > (uint64_t)st.st_size / w->page_size + ((uint64_t)1 << 20) ||
        out->last_page == 0) {
        return bad(w, "it has %llu bytes, its meta page says %llu pages",
                   (unsigned long long)st.st_size, (unsigned long long)out->last_page + 1);
    }
    w->pages = out->last_page + 1;
    if (out->map_size % w->page_size != 0 || out->map_size / w->page_size < w->pages) {
        return bad(w, "its meta page says a map of %llu bytes", (unsigned long long)out->map_size);
    }
    return 0;
}

/* --- trees ---------------- */

static int claim(struct walk *w, uint64_t first, uint64_t count)
{
    if (first < 2 || first >= w->pages || count > w->pages - first) {
        return bad(w, "page %llu does not exist", (unsigned long long)first);
    }
    for (uint64_t p = first; p < first + count; p++) {
        if (w->seen[p / 8] & (1u << p % 8)) {
            return bad(w, "page %llu is used twice", (unsigned long long)p);
        }
        w->seen[p / 8] |= (uint8_t)(1u << p % 8);
    }
    w->seen_count += count;
    return 0;
}

static int compare(const struct walk *w, const uint8_t *key, size_t size)
{
    size_t n = size < w->last_size ? size : w->last_size;
    int c;

    if (w->is_free_list) {
        uint64_t a = u64_at(key), b = u64_at(w->last_key);
        return a < b ? -1 : a > b;
    }
    c = memcmp(key, w->last_key, n);
    return c != 0 ? c : (size > w->last_size) - (size < w->last_size);
}

static int next_key(struct walk *w, const uint8_t *key, size_t size, bool is_branch)
{
    if (size == 0 || size > KEY_MAX || (w->is_free_list && size != 8)) {
        return bad(w, "a key has %zu bytes", size);
    }
    if (w->has_last) {
        int c = compare(w, key, size);
        if (c < 0 || (c == 0 && (is_branch || !w->may_equal))) {
            return bad(w, "keys are not in order");
        }
    }
    memcpy(w->last_key, key, size);
    w->last_size = size;
    w->has_last = true;
    w->may_equal = is_branch;
    return 0;
}

/* Data of a free list's entry: u64 count, then so many page numbers, descending. Its key is the
 * transaction that freed them: from 1 to the newest. LMDB takes a last one of 0 for none and would
 * read that entry twice, and give each of its pages to two. */
static int free_entry(struct walk *w, const uint8_t *key, const uint8_t *data, size_t size)
{
    uint64_t count, txn = u64_at(key);
    int rc = 0;

    if (size < 8 || size % 8 != 0 || (count = u64_at(data)) > size / 8 - 1 ||
        txn == 0 || txn > w->txn) {
        return bad(w, "an entry of the free list is damaged");
    }
    for (uint64_t i = 0; rc == 0 && i < count; i++) {
        uint64_t page = u64_at(data + 8 + i * 8);
        if (i > 0 && page >= u64_at(data + i * 8)) {
            return bad(w, "the free list is not in order");
        }
        rc = claim(w, page, 1);
    }
    return rc;
}

static int big_entry(struct walk *w, const uint8_t *key, uint64_t page, uint64_t size)
{
    uint64_t count = (HEADER - 1 + size) / w->page_size + 1;
    uint8_t head[HEADER];
    int rc = claim(w, page, count);

    if (rc == 0) {
        rc = read_at(w, head, sizeof(head), page * w->page_size);
    }
    if (rc < 0) {
        return rc;
    }
    if (u64_at(head) != page || u16_at(head + 10) != PAGE_OVERFLOW || u32_at(head + 12) != count) {
        return bad(w, "overflow page %llu is damaged", (unsigned long long)page);
    }
    w->counted.overflow_pages += count;
    if (w->is_free_list) {
        uint8_t *data = mem_alloc(size);
        if (data == NULL) {
            return TRK_ENOMEM;
        }
        rc = read_at(w, data, size, page * w->page_size + HEADER);
        rc = rc == 0 ? free_entry(w, key, data, size) : rc;
        mem_free(data);
    }
    return rc;
}

/* Bytes that a node takes of its page. */
static size_t node_size(const uint8_t *node, bool is_leaf)
{
    size_t size = NODE + u16_at(node + 6);

    if (is_leaf) {
        size += u16_at(node + 4) & NODE_BIG ? 8
                                            : u16_at(node) | (size_t)u16_at(node + 2) << 16;
    }
    return (size + 1) & ~(size_t)1;
}

/* A page's nodes fill it from upper to its end, one behind the other: one that claims a byte more
 * than it has would be moved over its neighbour. So the sizes must lead from each to the next. */
static int check_layout(struct walk *w, const uint8_t *page, bool is_leaf)
{
    unsigned lower = u16_at(page + 12), upper = u16_at(page + 14);
    unsigned count = (lower - HEADER) / 2, found = 0;
    size_t at;

    memset(w->starts, 0, w->page_size / 16);
    for (unsigned i = 0; i < count; i++) {
        at = u16_at(page + HEADER + i * 2);
        if (at < upper || at > w->page_size - NODE || (at & 1) != 0 ||
            (w->starts[at / 16] & (1u << at / 2 % 8)) != 0) {
            return bad(w, "an entry is outside its page");
        }
        w->starts[at / 16] |= (uint8_t)(1u << at / 2 % 8);
    }
    for (at = upper; at < w->page_size; at += node_size(page + at, is_leaf)) {
        if (at > w->page_size - NODE || (at & 1) != 0 ||
            (w->starts[at / 16] & (1u << at / 2 % 8)) == 0) {
            return bad(w, "an entry is not as long as it says");
        }
        found++;
    }
    return at == w->page_size && found == count
               ? 0
               : bad(w, "an entry is longer than its page");
}

static int leaf_node(struct walk *w, const uint8_t *page, size_t at)
{
    const uint8_t *node = page + at, *key = node + NODE;
    uint32_t size = u16_at(node) | (uint32_t)u16_at(node + 2) << 16;
    uint16_t flags = u16_at(node + 4), key_size = u16_at(node + 6);
    bool is_sub = w->is_main && flags == NODE_SUBDB;
    int rc;

    /* Only the main tree has entries other than plain ones, and it has no others. */
    if (w->is_main ? !is_sub || size != SUBDB_BYTES : (flags & ~NODE_BIG) != 0) {
        return bad(w, "an entry has the flags %#x", flags);
    }
    rc = next_key(w, key, key_size, false);
    w->counted.entries++;
    if (rc < 0) {
        return rc;
    }
    if (flags & NODE_BIG) {
        return big_entry(w, key, u64_at(key + key_size), size);
    }
    if (is_sub) {
        if (w->subs_count == sizeof(w->subs) / sizeof(w->subs[0])) {
            return bad(w, "it has too many tables");
        }
        get_tree(&w->subs[w->subs_count++], key + key_size);
        return 0;
    }
    return w->is_free_list ? free_entry(w, key, key + key_size, size) : 0;
}

static int walk_page(struct walk *w, uint64_t number, unsigned depth, unsigned depth_left);

static int walk_nodes(struct walk *w, const uint8_t *page, unsigned depth, unsigned depth_left)
{
    unsigned count = (u16_at(page + 12) - HEADER) / 2u;
    bool is_leaf = u16_at(page + 10) == PAGE_LEAF;
    int rc = check_layout(w, page, is_leaf);

    for (unsigned i = 0; rc == 0 && i < count; i++) {
        size_t at = u16_at(page + HEADER + i * 2);
        const uint8_t *node = page + at;
        if (is_leaf) {
            rc = leaf_node(w, page, at);
            continue;
        }
        if (i > 0) { /* the first key of a branch means: all below */
            rc = next_key(w, node + NODE, u16_at(node + 6), true);
        }
        if (rc == 0) {
            uint64_t child = u16_at(node) | (uint64_t)u16_at(node + 2) << 16 |
                             (uint64_t)u16_at(node + 4) << 32;
            rc = walk_page(w, child, depth + 1, depth_left - 1);
        }
    }
    return rc;
}

/* depth_left: how many levels there are from here on, this one included. */
static int walk_page(struct walk *w, uint64_t number, unsigned depth, unsigned depth_left)
{
    uint16_t wanted = depth_left > 1 ? PAGE_BRANCH : PAGE_LEAF;
    unsigned lower, upper;
    uint8_t *page;
    int rc = claim(w, number, 1);

    if (rc < 0) {
        return rc;
    }
    page = mem_alloc(w->page_size);
    if (page == NULL) {
        return TRK_ENOMEM;
    }
    rc = read_at(w, page, w->page_size, number * w->page_size);
    if (rc == 0) {
        lower = u16_at(page + 12);
        upper = u16_at(page + 14);
        if (u64_at(page) != number || u16_at(page + 10) != wanted || lower < HEADER ||
            (lower & 1) != 0 || lower > upper || upper > w->page_size ||
            (lower - HEADER) / 2 < (wanted == PAGE_BRANCH ? 2u : 1u)) {
            rc = bad(w, "page %llu is damaged", (unsigned long long)number);
        } else {
            w->counted.branch_pages += wanted == PAGE_BRANCH;
            w->counted.leaf_pages += wanted == PAGE_LEAF;
            rc = walk_nodes(w, page, depth, depth_left);
        }
    }
    mem_free(page);
    return rc;
}

static int walk_tree(struct walk *w, const struct tree *t)
{
    int rc = 0;

    memset(&w->counted, 0, sizeof(w->counted));
    w->has_last = false;
    w->may_equal = false;
    if (t->depth > DEPTH_MAX || (t->depth == 0) != (t->root == NO_PAGE)) {
        return bad(w, "a table has %u levels", t->depth);
    }
    /* The free list's keys are numbers; tables have plain keys without duplicates. Of other flags
     * LMDB keeps there one says how the environment was opened, and is never read. */
    if (w->is_free_list ? (t->flags & ~FLAG_FILE) != FLAG_NUMBERS : t->flags != 0) {
        return bad(w, "a table has the flags %#x", t->flags);
    }
    if (t->depth > 0) {
        rc = walk_page(w, t->root, 0, t->depth);
    }
    if (rc == 0 && (w->counted.branch_pages != t->branch_pages ||
                    w->counted.leaf_pages != t->leaf_pages ||
                    w->counted.overflow_pages != t->overflow_pages ||
                    w->counted.entries != t->entries)) {
        rc = bad(w, "a table has %llu entries where %llu are said",
                 (unsigned long long)w->counted.entries, (unsigned long long)t->entries);
    }
    return rc;
}

static int walk_all(struct walk *w)
{
    struct meta meta;
    int rc = choose_meta(w, &meta);

    if (rc < 0) {
        return rc;
    }
    w->seen = mem_zalloc(1, (size_t)(w->pages / 8 + 1));
    if (w->seen == NULL) {
        return TRK_ENOMEM;
    }
    w->is_free_list = true;
    rc = walk_tree(w, &meta.free);
    w->is_free_list = false;
    w->is_main = true;
    rc = rc == 0 ? walk_tree(w, &meta.main) : rc;
    w->is_main = false;
    for (unsigned i = 0; rc == 0 && i < w->subs_count; i++) {
        struct tree sub = w->subs[i];
        rc = walk_tree(w, &sub);
    }
    if (rc == 0 && w->seen_count + 2 != w->pages) {
        rc = bad(w, "%llu pages belong to nothing",
                 (unsigned long long)(w->pages - 2 - w->seen_count));
    }
    return rc;
}

int pages_check(const char *path, char *why, size_t why_size)
{
    struct walk *w = mem_zalloc(1, sizeof(*w));
    int rc;

    why[0] = '\0';
    if (w == NULL) {
        return TRK_ENOMEM;
    }
    w->why = why;
    w->why_size = why_size;
    w->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (w->fd < 0) {
        snprintf(why, why_size, "cannot be opened: %s", strerror(errno));
        rc = TRK_EIO;
    } else {
        rc = walk_all(w);
        close(w->fd);
    }
    mem_free(w->seen);
    mem_free(w);
    return rc;
}
