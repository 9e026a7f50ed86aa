/* SPDX-License-Identifier: MIT */
/* blobs.c - bytes that work names by their content: registered by the program, asked for by VMs.
 *
 * A VM whose machine lacks one asks (WANT) when a stage needs it, and gets it once (BLOB). So it
 * does not matter when a VM joins, and what a machine has kept from the last run is not sent
 * again. What was registered stays until the farm is closed: a VM that starts again may ask again,
 * where its machine keeps nothing. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/log.h"
#include "base/mem.h"
#include "farm/farm_impl.h"

struct farm_blob {
    struct list node;     /* farm->blobs */
    struct digest digest; /* of the bytes */
    struct blob *body;    /* BLOB, ready to be sent */
};

/* Under the mutex; NULL: it was not registered. */
static struct farm_blob *find(struct trk_farm *farm, const uint8_t digest[16])
{
    struct list *pos;

    list_for_each(pos, &farm->blobs) {
        struct farm_blob *b = container_of(pos, struct farm_blob, node);
        if (memcmp(b->digest.bytes, digest, 16) == 0) {
            return b;
        }
    }
    return NULL;
}

/* Takes body, whose bytes stand behind room for the head. */
static int put(struct trk_farm *farm, struct blob *body, uint8_t digest[16])
{
    struct farm_blob *b = mem_zalloc(1, sizeof(*b));

    if (b == NULL) {
        blob_unref(body);
        return fail(TRK_ENOMEM, "out of memory");
    }
    b->digest = hash_digest(body->data + WIRE_BLOB_HEAD, body->size - WIRE_BLOB_HEAD);
    b->body = body;
    memcpy(digest, b->digest.bytes, 16);
    wire_blob_head(body->data, digest, true);
    pthread_mutex_lock(&farm->mutex);
    if (find(farm, digest) == NULL) {
        list_push_back(&farm->blobs, &b->node);
        b = NULL;
    }
    pthread_mutex_unlock(&farm->mutex);
    if (b != NULL) {
        blob_unref(b->body);
        mem_free(b);
    }
    return 0;
}

int trk_farm_blob(struct trk_farm *farm, const void *bytes, size_t size, uint8_t digest[16])
{
    struct blob *body;
    int rc = farm_usable(farm);

    if (rc < 0) {
        return rc;
    }
    if (size > TRK_ELEMENT_BYTES_MAX) {
        return fail(TRK_ETOOBIG, "a blob of %zu bytes is %s", size, trk_strerror(TRK_ETOOBIG));
    }
    body = wire_blob_encode(&(struct wire_blob){.bytes = bytes, .size = size});
    return body != NULL ? put(farm, body, digest) : fail(TRK_ENOMEM, "out of memory");
}

/* All of an open file; NULL: it could not be read, errno says why (0: it has changed). */
static struct blob *read_body(int fd, size_t size)
{
    struct blob *body = blob_new(WIRE_BLOB_HEAD + size);

    errno = ENOMEM;
    for (size_t at = 0; body != NULL && at < size;) {
        ssize_t n = read(fd, body->data + WIRE_BLOB_HEAD + at, size - at);
        if (n <= 0 && !(n < 0 && errno == EINTR)) {
            errno = n == 0 ? 0 : errno;
            blob_unref(body);
            return NULL;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    if (body != NULL) {
        body->size = WIRE_BLOB_HEAD + size;
    }
    return body;
}

int blobs_put_object(struct trk_farm *farm, const char *path, uint8_t digest[16])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc;
    struct blob *body;
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0) {
        rc = fail(TRK_EIO, "cannot open %s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        rc = fail(TRK_EINVAL, "%s is not a file", path);
    } else if ((uint64_t)st.st_size > TRK_ELEMENT_BYTES_MAX) {
        rc = fail(TRK_ETOOBIG, "%s is %s", path, trk_strerror(TRK_ETOOBIG));
    } else if ((body = read_body(fd, (size_t)st.st_size)) == NULL) {
        rc = fail(errno == ENOMEM ? TRK_ENOMEM : TRK_EIO, "cannot read %s: %s", path,
                  errno != 0 ? strerror(errno) : "it has just become shorter");
    } else if (body->size < WIRE_BLOB_HEAD + SELFMAG ||
               memcmp(body->data + WIRE_BLOB_HEAD, ELFMAG, SELFMAG) != 0) {
        blob_unref(body);
        rc = fail(TRK_EINVAL, "%s is no shared object; make one with: cc -shared -fPIC", path);
    } else {
        rc = put(farm, body, digest);
    }
    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

int blobs_on_want(struct trk_vm *vm, const struct blob *body)
{
    struct farm_blob *b;
    struct blob *answer;
    uint8_t digest[16];
    int rc = wire_want_decode(digest, body);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&vm->farm->mutex);
    b = find(vm->farm, digest);
    answer = b != NULL ? blob_ref(b->body) : NULL;
    pthread_mutex_unlock(&vm->farm->mutex);
    if (answer == NULL) {
        struct wire_blob none = {.is_known = false};
        memcpy(none.digest, digest, 16);
        answer = wire_blob_encode(&none);
    }
    log_debug("farm", "VM %u asks for a blob: %s", vm->slot->info.index,
              b != NULL ? "sent" : "unknown");
    return answer != NULL ? net_session_send(vm->session, WIRE_BLOB, 0, answer) : TRK_ENOMEM;
}

void blobs_free(struct trk_farm *farm)
{
    struct list *node;

    while ((node = list_pop_front(&farm->blobs)) != NULL) {
        struct farm_blob *b = container_of(node, struct farm_blob, node);
        blob_unref(b->body);
        mem_free(b);
    }
}
