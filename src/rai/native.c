/* SPDX-License-Identifier: MIT */
/* native.c - the RAI module "native": functions of shared objects (trickle/native.h).
 *
 * stage_open gets the shared object: the blob, which the VM fetches when its machine lacks it. The
 * first element loads it: code that crashes or hangs while it is loaded is then that element's
 * doing, to be named and to be given up after three VMs, and not the end of one VM after another.
 *
 * A library is opened by a descriptor, so it does not matter whether it is a file that another VM
 * removes from the cache at this moment, or memory. The dynamic linker knows libraries by the name
 * they were opened by, so each gets a spelling of its own; none is ever closed: what it has
 * started, or registered, may still run. */
#include <assert.h>
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "rai/modules.h"
#include "rai/native_spec.h"
#include "rai/rai.h"
#include "trickle/vm.h"

#define PATH_BYTES 160 /* of the name that a library is opened by */

/* A shared object that was sent, and is loaded. */
struct library {
    struct library *next;
    struct digest digest;
    void *handle; /* of dlopen */
};

/* A function, under the number of its stage. */
struct stage {
    struct stage *next;
    uint32_t number;
    trk_native_fn *fn; /* NULL until the first element */
    int fd;            /* SENT, not loaded yet: the shared object; else -1 */
    enum native_kind kind;
    struct digest digest;
    char library[TRK_NATIVE_SYMBOL_MAX + 1]; /* what it is called, or where it is */
    char symbol[TRK_NATIVE_SYMBOL_MAX + 1];
};

struct native {
    struct stage *stages;      /* the one used last is first */
    struct library *libraries;
    unsigned opened;           /* how many times a library was opened */
    atomic_bool is_cancelled;  /* the running element; set by the net thread */
};

/* What a function is called with, and what its host functions need beside. */
struct running {
    struct trk_native_call call; /* first: a pointer to it is one to this */
    struct native *native;
    struct trk_rai_reply *reply;
    bool has_moved; /* the last checkpoint has said TRK_EMOVED */
};

static struct running *running_of(const struct trk_native_call *call)
{
    return (struct running *)(uintptr_t)call;
}

/* --- what functions may ask for ---------------------------------------------------------- */

static int host_write(const struct trk_native_call *call, const void *bytes, size_t size)
{
    return trk_rai_reply_write(running_of(call)->reply, bytes, size);
}

static int host_give_up(const struct trk_native_call *call, const char *sentence)
{
    struct trk_rai_reply *reply = running_of(call)->reply;
    int rc;

    rai_reply_clear(reply);
    rc = trk_rai_reply_write(reply, sentence, strlen(sentence));
    return rc < 0 ? rc : TRK_EINVAL;
}

static int host_checkpoint(const struct trk_native_call *call, const void *bytes, size_t size)
{
    int rc = trk_vm_checkpoint(bytes, size);

    while (rc == TRK_AGAIN) {
        rc = trk_vm_checkpoint_wait();
    }
    running_of(call)->has_moved = rc == TRK_EMOVED;
    return rc;
}

static int host_restore(const struct trk_native_call *call, const void **bytes, size_t *size)
{
    return trk_vm_restore(bytes, size);
}

static int host_is_cancelled(const struct trk_native_call *call)
{
    return atomic_load_explicit(&running_of(call)->native->is_cancelled, memory_order_relaxed);
}

static const struct trk_native_host host_table = {.abi = TRK_NATIVE_ABI,
                                                  .size = sizeof(host_table),
                                                  .write = host_write,
                                                  .give_up = host_give_up,
                                                  .checkpoint = host_checkpoint,
                                                  .restore = host_restore,
                                                  .is_cancelled = host_is_cancelled};

/* --- loading ------------------------------------------------------------------------------ */

static int answer(struct trk_rai_reply *reply, int status, const char *sentence)
{
    int rc = trk_rai_reply_write(reply, sentence, strlen(sentence));
    (void)rc; /* the reply remembers it */
    return status;
}

static const char *machine_name(unsigned machine, char *text, size_t size)
{
    static const struct {
        unsigned machine;
        const char *name;
    } names[] = {{EM_386, "x86 (32 bits)"}, {EM_X86_64, "x86-64"}, {EM_ARM, "ARM (32 bits)"},
                 {EM_AARCH64, "ARM64"}, {EM_RISCV, "RISC-V"}, {EM_PPC64, "POWER"},
                 {EM_S390, "S/390"}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].machine == machine) {
            return names[i].name;
        }
    }
    snprintf(text, size, "machine %u", machine);
    return text;
}

/* The dynamic linker says of one for another processor that there is no such file. */
static int check_object(int fd, const char *library)
{
    extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden"))); /* our own */
    char here[32], there[32];
    ElfW(Ehdr) head;

    if (pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head) ||
        memcmp(head.e_ident, ELFMAG, SELFMAG) != 0) {
        return fail(TRK_EINVAL, "%s is no shared object", library);
    }
    if (head.e_machine != __ehdr_start.e_machine ||
        memcmp(head.e_ident, __ehdr_start.e_ident, EI_VERSION) != 0) {
        return fail(TRK_EVERSION, "%s is for %s, and this VM is on %s: send one that is built for "
                    "it, or use only VMs of one kind", library,
                    machine_name(head.e_machine, there, sizeof(there)),
                    machine_name(__ehdr_start.e_machine, here, sizeof(here)));
    }
    if (head.e_type != ET_DYN) {
        return fail(TRK_EINVAL, "%s is no shared object: build it with -shared -fPIC", library);
    }
    return 0;
}

static struct library *find_library(struct native *n, const struct digest *digest)
{
    struct library *l = n->libraries;

    while (l != NULL && memcmp(&l->digest, digest, sizeof(*digest)) != 0) {
        l = l->next;
    }
    return l;
}

/* The dynamic linker's sentence, without the name that we made up. */
static int cannot_load(const struct stage *s, const char *path)
{
    const char *why = dlerror();
    size_t size = strlen(path);

    why = why != NULL ? why : "the dynamic linker does not say why";
    why += strncmp(why, path, size) == 0 && strncmp(why + size, ": ", 2) == 0 ? size + 2 : 0;
    return fail(TRK_EINVAL, "cannot load %s: %s; what it needs has to be linked into it, or on the "
                "VM's machine", s->library, why);
}

/* A name of the descriptor that no other library of this process was opened by: each bit of its
 * number is a way to write a slash. */
static void spell(char path[PATH_BYTES], unsigned number, int fd)
{
    int n = snprintf(path, PATH_BYTES, "/proc/self/fd/");

    for (unsigned bits = number; bits != 0; bits >>= 1) {
        n += snprintf(path + n, PATH_BYTES - (size_t)n, (bits & 1) != 0 ? ".//" : "./");
    }
    snprintf(path + n, PATH_BYTES - (size_t)n, "%d", fd);
}

/* By its descriptor, which is taken. */
static int load_sent(struct native *n, struct stage *s, void **handle)
{
    struct library *l = mem_zalloc(1, sizeof(*l));
    char path[PATH_BYTES];

    if (l == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    spell(path, n->opened, s->fd);
    *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (*handle == NULL) {
        mem_free(l);
        return cannot_load(s, path);
    }
    n->opened++;
    close(s->fd);
    s->fd = -1;
    l->digest = s->digest;
    l->handle = *handle;
    l->next = n->libraries;
    n->libraries = l;
    return 0;
}

static int load(struct native *n, struct stage *s)
{
    struct library *l = s->kind == NATIVE_SENT ? find_library(n, &s->digest) : NULL;
    void *handle = l != NULL ? l->handle : NULL, *symbol;
    int rc = 0;

    if (s->kind == NATIVE_FOUND) {
        handle = dlopen(s->library, RTLD_NOW | RTLD_LOCAL);
        rc = handle == NULL ? cannot_load(s, s->library) : 0;
    } else if (handle == NULL) {
        rc = load_sent(n, s, &handle);
    }
    if (rc < 0) {
        return rc;
    }
    symbol = dlsym(handle, s->symbol);
    if (symbol == NULL) {
        return fail(TRK_EINVAL, "%s has no function %s: is it static, hidden, or of C++ and not "
                    "extern \"C\"? (TRK_NATIVE(%s) in trickle/native.h declares it well)",
                    s->library, s->symbol, s->symbol);
    }
    memcpy(&s->fn, &symbol, sizeof(s->fn));
    return 0;
}

/* --- the module --------------------------------------------------------------------------- */

static int native_open(void **state, struct trk_rai_reply *why)
{
    *state = mem_zalloc(1, sizeof(struct native));
    return *state != NULL ? TRK_STATUS_OK : answer(why, TRK_STATUS_ERROR, "out of memory");
}

static void stage_free(struct stage *s)
{
    if (s->fd >= 0) {
        close(s->fd);
    }
    mem_free(s);
}

static void native_close(void *state)
{
    struct native *n = state;

    while (n->stages != NULL) {
        struct stage *s = n->stages;
        n->stages = s->next;
        stage_free(s);
    }
    while (n->libraries != NULL) {
        struct library *l = n->libraries;
        n->libraries = l->next;
        mem_free(l);
    }
    mem_free(n);
}

static int fetch(struct native *n, struct stage *s)
{
    int rc;

    if (s->kind == NATIVE_FOUND || find_library(n, &s->digest) != NULL) {
        return 0;
    }
    rc = trk_vm_blob(s->digest.bytes, &s->fd);
    if (rc == TRK_END) {
        rc = fail(TRK_EINVAL, "the program does not have %s any more: a program that is resumed "
                  "has to name its functions again (trk_native_send)", s->library);
    }
    return rc < 0 ? rc : check_object(s->fd, s->library);
}

static int native_stage_open(void *state, uint32_t number, const void *function, size_t size,
                             struct trk_rai_reply *reply)
{
    struct native *n = state;
    struct native_spec spec;
    struct stage *s;

    if (native_spec_decode(&spec, function, size) < 0) {
        return answer(reply, TRK_STATUS_ERROR, "this names no native function: the program makes "
                      "one with trk_native_send or trk_native_find, of the same version as this "
                      "VM");
    }
    s = mem_zalloc(1, sizeof(*s));
    if (s == NULL) {
        return answer(reply, TRK_STATUS_ERROR, "out of memory");
    }
    s->number = number;
    s->fd = -1;
    s->kind = spec.kind;
    s->digest = spec.digest;
    memcpy(s->library, spec.library, spec.library_size);
    memcpy(s->symbol, spec.symbol, spec.symbol_size);
    if (fetch(n, s) < 0) {
        stage_free(s);
        return answer(reply, TRK_STATUS_ERROR, fail_text());
    }
    s->next = n->stages;
    n->stages = s;
    return TRK_STATUS_OK;
}

/* Where the stage is linked; it goes to the front: the next element is probably of the same. */
static struct stage *find_stage(struct native *n, uint32_t number)
{
    struct stage **at = &n->stages, *s;

    while (*at != NULL && (*at)->number != number) {
        at = &(*at)->next;
    }
    assert(*at != NULL); /* the host names only stages that it has opened */
    s = *at;
    *at = s->next;
    s->next = n->stages;
    n->stages = s;
    return s;
}

static int native_run(void *state, const struct trk_rai_element *e, struct trk_rai_reply *reply)
{
    struct native *n = state;
    struct stage *s = find_stage(n, e->stage);
    struct running running = {.call = {.host = &host_table, .payload = e->payload,
                                       .size = e->size, .index = e->index,
                                       .attempt = e->attempt, .stage = e->stage},
                              .native = n, .reply = reply};
    char text[TRK_NATIVE_SYMBOL_MAX + 64];
    int rc;

    atomic_store_explicit(&n->is_cancelled, false, memory_order_relaxed);
    if (s->fn == NULL && load(n, s) < 0) {
        return answer(reply, TRK_STATUS_ERROR, fail_text());
    }
    rc = s->fn(&running.call);
    if (rc == 0) {
        return TRK_STATUS_OK;
    }
    if (rc == TRK_EMOVED && running.has_moved) {
        return TRK_RAI_MOVED;
    }
    if (rai_reply_size(reply) == 0) {
        snprintf(text, sizeof(text), "%s returned %d", s->symbol, rc);
        return answer(reply, TRK_STATUS_EXCEPTION, text);
    }
    return TRK_STATUS_EXCEPTION;
}

static void native_stage_close(void *state, uint32_t number)
{
    struct native *n = state;
    struct stage *s = find_stage(n, number);

    n->stages = s->next;
    stage_free(s);
}

static void native_interrupt(void *state)
{
    struct native *n = state;

    atomic_store(&n->is_cancelled, true);
}

const struct trk_rai_module rai_native = {.abi = TRK_RAI_ABI,
                                          .size = sizeof(rai_native),
                                          .name = TRK_NATIVE_MODULE,
                                          .version = "1",
                                          .stage_open = native_stage_open,
                                          .run = native_run,
                                          .stage_close = native_stage_close,
                                          .interrupt = native_interrupt,
                                          .open = native_open,
                                          .close = native_close};
