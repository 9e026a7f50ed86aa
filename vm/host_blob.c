/* SPDX-License-Identifier: MIT */
/* host_blob.c - bytes that work names by content. Compute thread, inside the module.
 *
 *   cache (cache.h) --lacks it--> claim --WANT--> initiator --BLOB--> net thread: wakes us
 *                                                                     -> cache, or memory
 *
 * What is waited for ends with the session: an initiator that has gone takes this process along,
 * or leaves it an element to finish, and then there is no blob. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/sys.h"
#include "vm/cache.h"
#include "vm/host_impl.h"

int host_blob_come(struct host *h, struct blob *body)
{
    struct wire_blob m;
    int rc = wire_blob_decode(&m, body);
    pthread_mutex_lock(&h->lock);
    if (rc == 0 && h->is_wanting && h->wanted_body == NULL &&
        memcmp(m.digest, h->wanted.bytes, sizeof(m.digest)) == 0) {
        h->wanted_body = blob_ref(body);
        sem_post(&h->answer_wake);
    } /* else it came twice */
    pthread_mutex_unlock(&h->lock);
    return rc;
}

/* Asks for it and waits. NULL: the lease has ended. */
static struct blob *fetch(struct host *h, const struct digest *digest)
{
    struct blob *body, *want = wire_want_encode(digest->bytes);
    if (want == NULL) {
        host_out_of_memory();
    }
    pthread_mutex_lock(&h->lock);
    h->wanted = *digest;
    h->is_wanting = true;
    pthread_mutex_unlock(&h->lock);
    host_send(h, WIRE_WANT, 0, want);
    for (;;) {
        pthread_mutex_lock(&h->lock);
        body = h->wanted_body;
        bool is_over = body != NULL || h->session == NULL;
        if (is_over) {
            h->wanted_body = NULL;
            h->is_wanting = false;
        }
        pthread_mutex_unlock(&h->lock);
        if (is_over) {
            return body;
        }
        while (sem_wait(&h->answer_wake) < 0 && errno == EINTR) {
        }
    }
}

/* What has come: into the cache, where we may, else into memory. */
static int keep(const char *dir, const struct digest *digest, int claim, const struct wire_blob *m,
                int *fd)
{
    struct digest sum = hash_digest(m->bytes, m->size);
    int rc = TRK_END;
    if (!m->is_known || memcmp(sum.bytes, digest->bytes, sizeof(sum.bytes)) != 0) {
        rc = m->is_known ? fail(TRK_ECORRUPT, "a blob came damaged") : TRK_END;
        if (claim != TRK_END) {
            cache_drop(dir, digest, claim);
        }
        return rc;
    }
    if (claim != TRK_END) {
        rc = cache_put(dir, digest, claim, m->bytes, m->size, CACHE_BYTES_MAX);
        if (rc < 0) {
            log_info("vm", "%s", fail_text());
        }
    }
    *fd = rc == 0 ? cache_find(dir, digest) : TRK_END;
    if (*fd == TRK_END) {
        *fd = cache_in_memory(m->bytes, m->size);
    }
    return *fd < 0 ? *fd : 0;
}

static int get(struct host *h, const struct digest *digest, int *fd)
{
    char dir[HOME_PATH_MAX];
    bool has_dir = cache_open(dir, sizeof(dir)) == 0;
    int claim = TRK_END;
    struct wire_blob m;
    if (!has_dir) {
        log_info("vm", "blobs are not kept on this machine: %s", fail_text());
    }
    *fd = has_dir ? cache_find(dir, digest) : TRK_END;
    if (*fd == TRK_END && has_dir) {
        claim = cache_claim(dir, digest);
        *fd = cache_find(dir, digest); /* another VM has been quicker */
    }
    struct blob *body = *fd == TRK_END ? fetch(h, digest) : NULL;
    int rc = *fd == TRK_END ? fail(TRK_ECLOSED, "the program has gone that has this blob") : 0;
    if (body != NULL) {
        rc = wire_blob_decode(&m, body);
        rc = rc == 0 ? keep(dir, digest, claim, &m, fd) : rc;
        blob_unref(body);
    } else if (claim != TRK_END) {
        cache_drop(dir, digest, claim);
    }
    return rc;
}

int trk_vm_blob(const uint8_t digest[16], int *fd)
{
    struct host *h = host_serving();
    struct digest wanted;
    if (sys_is_forked()) {
        return fail(TRK_EFORKED, "a blob was asked for after fork");
    }
    if (h == NULL || !pthread_equal(h->compute_thread, pthread_self())) {
        return fail(TRK_EINVAL, "a blob was asked for on another thread than the module's");
    }
    memcpy(wanted.bytes, digest, sizeof(wanted.bytes));
    int rc = get(h, &wanted, fd);
    if (rc == 0) {
        *fd = vm_fd_raise(*fd);
    }
    return rc;
}
