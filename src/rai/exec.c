/* SPDX-License-Identifier: MIT */
/* exec.c - the module "exec": commands as elements.
 *
 *   stage_open   the spec is read, the environment put together
 *   run          fields -> outputs' names -> temporary directories -> words -> the command, once;
 *                then each output: there? good (check)? into place; and what happened is the result
 *   interrupt    (net thread) the running command gets SIGTERM
 *
 * A process is one VM and runs one element at a time, so there is one of everything here. What a
 * run needs is kept for the next one. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "rai/exec_stage.h"
#include "rai/modules.h"
#include "trickle/trickle.h"

#define MS_NS 1000000u
#define WHY_MAX 1024
#define PATH_ROOM 4096

static struct {
    struct exec_stage *stages;
    struct exec_wake wake;
    uint64_t run;     /* number of the run, in the mark of what it starts */
    struct buf words; /* of a command */
    struct buf head;  /* of a result */
    char **argv;
    size_t argv_room; /* pointers */
} the_exec = {.wake = {.lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1}};

/* One run of one element. */
struct run {
    struct exec_stage *stage;
    const struct trk_rai_element *element;
    struct exec_values values;
    struct trk_exec_bytes *fields; /* owned */
    struct exec_output *outputs;   /* owned */
    struct trk_exec_bytes *files;  /* owned: their temporary names */
    size_t outputs_count;          /* that exec_output_begin was called for */
    int cwd_fd, input_fd;          /* -1: none */
    uint64_t start_ns, due_ns;
    struct exec_tree tree;
    struct exec_keep out, err;
    struct exec_end end;
    struct trk_exec_result result;
    char why[WHY_MAX];
};

/* --- how it ended ------------------------------------------------------------------------ */

/* The sentence of fail() is why. */
static int failed(struct run *r, enum trk_exec_outcome outcome)
{
    r->result.outcome = outcome;
    snprintf(r->why, sizeof(r->why), "%s", fail_text());
    return 1;
}

/* A template that this element cannot fill is the element's failure; the VM's troubles are not. */
static int word_failed(struct run *r, int rc)
{
    return rc == TRK_EINVAL ? failed(r, TRK_EXEC_NOT_STARTED) : rc;
}

static bool is_there(int cwd_fd, const char *path)
{
    return faccessat(cwd_fd >= 0 ? cwd_fd : AT_FDCWD, path, F_OK, 0) == 0;
}

static const char *not_started_because(const struct run *r, const char *path)
{
    switch (r->end.error) {
    case ENOENT:
        return is_there(r->cwd_fd, path) ? "the interpreter that its first line names is missing"
                                         : "there is no such program on the VM's machine";
    case EACCES:
        return "it is no program that may be run: no execute permission";
    case ENOEXEC:
        return "it is no program that this machine can run; a script begins with #!, as "
               "#!/bin/sh";
    case E2BIG:
        return "its arguments and environment are too long for this system; give it long lists by "
               "a file or on its stdin";
    default:
        return strerror(r->end.error);
    }
}

static int describe_end(struct run *r, const char *what, const char *name, const char *path)
{
    const struct exec_end *e = &r->end;
    r->result.outcome = e->outcome;
    switch (e->outcome) {
    case TRK_EXEC_NOT_STARTED:
        snprintf(r->why, sizeof(r->why), "cannot start %s%.300s: %s", what, name,
                 not_started_because(r, path));
        break;
    case TRK_EXEC_EXIT:
        snprintf(r->why, sizeof(r->why), "%s%.300s exited with status %d", what, name,
                 e->exit_status);
        break;
    case TRK_EXEC_SIGNAL:
        snprintf(r->why, sizeof(r->why), "%s%.300s was ended by signal %d (%s)", what, name,
                 e->signal, strsignal(e->signal));
        break;
    case TRK_EXEC_TIMEOUT:
        snprintf(r->why, sizeof(r->why), "%s%.300s used up its time of %g s", what, name,
                 r->stage->spec->timeout_ms / 1e3);
        break;
    case TRK_EXEC_INTERRUPTED:
        snprintf(r->why, sizeof(r->why), "%s%.300s was cancelled", what, name);
        break;
    case TRK_EXEC_UNKNOWN:
        snprintf(r->why, sizeof(r->why), "how %s%.300s ended is unknown: other code in this VM "
                 "took its exit status (it ignores SIGCHLD, or waits for any child)", what, name);
        break;
    case TRK_EXEC_OK:
    case TRK_EXEC_BAD_OUTPUT:
        return 0;
    }
    return 1;
}

/* --- a command --------------------------------------------------------------------------- */

static int make_argv(struct run *r, const struct trk_exec_word *words, size_t count)
{
    struct buf *b = &the_exec.words;
    if (count + 1 > the_exec.argv_room) {
        char **argv = mem_realloc(the_exec.argv, (count + 1) * sizeof(*argv));
        if (argv == NULL) {
            return fail(TRK_ENOMEM, "out of memory");
        }
        the_exec.argv = argv;
        the_exec.argv_room = count + 1;
    }
    exec_buf_empty(b);
    for (size_t i = 0; i < count; i++) {
        size_t start = buf_size(b);
        int rc = exec_word(b, &words[i], &r->values, false);
        if (rc < 0) {
            return word_failed(r, rc);
        }
        the_exec.argv[i] = (char *)(uintptr_t)start; /* until the bytes move no more */
    }
    for (size_t i = 0; i < count; i++) {
        the_exec.argv[i] = (char *)b->blob->data + (uintptr_t)the_exec.argv[i];
    }
    the_exec.argv[count] = NULL;
    return 0;
}

/* Runs a command to its end. 0: it has exited with 0; 1: it has not, and that is the result. */
static int run_command(struct run *r, const struct trk_exec_word *words, size_t count,
                       const char *what)
{
    char path[PATH_ROOM];
    int rc = make_argv(r, words, count);
    if (rc != 0) {
        return rc;
    }
    const char *name = the_exec.argv[0];
    struct exec_command c = {.path = path,
                             .argv = the_exec.argv,
                             .env = r->stage->env,
                             .cwd_fd = r->cwd_fd,
                             .input_fd = r->input_fd,
                             .due_ns = r->due_ns,
                             .kill_after_ms = r->stage->kill_after_ms};
    r->end = (struct exec_end){.outcome = TRK_EXEC_NOT_STARTED, .exit_status = -1};
    r->end.error = exec_stage_find(r->stage, name, r->cwd_fd, path, sizeof(path));
    rc = r->end.error != 0 ? 0
                           : exec_child_run(&c, &r->tree, &the_exec.wake, &r->out, &r->err,
                                            &r->end);
    if (rc < 0) {
        return rc;
    }
    if (r->end.error == ENOENT) {
        exec_stage_forget(r->stage); /* a program that was moved is looked for again */
    }
    const struct rusage *u = &r->end.usage;
    uint64_t cpu_us = (uint64_t)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000 +
                      (uint64_t)(u->ru_utime.tv_usec + u->ru_stime.tv_usec);
    uint64_t rss = (uint64_t)u->ru_maxrss * 1024;
    r->result.cpu_ns += cpu_us * 1000;
    r->result.rss_max_bytes = rss > r->result.rss_max_bytes ? rss : r->result.rss_max_bytes;
    r->result.exit_status = r->end.exit_status;
    r->result.signal = r->end.signal;
    return describe_end(r, what, name, path);
}

/* --- its surroundings -------------------------------------------------------------------- */

/* A word of its own, which stays where it is until the next element. */
static int make_name(struct run *r, const struct trk_exec_word *word, bool may_have_nul,
                     char **out, size_t *size)
{
    struct buf b;
    buf_init(&b);
    int rc = exec_word(&b, word, &r->values, may_have_nul);
    if (rc == 0) {
        *size = buf_size(&b) - 1;
        *out = mem_alloc(*size + 1);
        rc = *out != NULL ? 0 : fail(TRK_ENOMEM, "out of memory");
    }
    if (rc == 0) {
        memcpy(*out, b.blob->data, *size + 1);
    }
    buf_fini(&b);
    return rc < 0 ? word_failed(r, rc) : rc;
}

static int open_cwd(struct run *r)
{
    char *name;
    size_t size;
    if (r->stage->spec->cwd.count == 0) {
        return 0;
    }
    int rc = make_name(r, &r->stage->spec->cwd, false, &name, &size);
    if (rc != 0) {
        return rc;
    }
    r->cwd_fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r->cwd_fd < 0) {
        fail(TRK_EIO, "cannot start the command in the directory \"%.300s\": %s", name,
             strerror(errno));
        rc = failed(r, TRK_EXEC_NOT_STARTED);
    }
    mem_free(name);
    return rc;
}

static int write_all(int fd, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);
        if (n < 0 && errno != EINTR) {
            return -1;
        }
        bytes += n > 0 ? n : 0;
        size -= n > 0 ? (size_t)n : 0;
    }
    return lseek(fd, 0, SEEK_SET) < 0 ? -1 : 0;
}

/* A file in memory: nobody has to feed it while the command runs. */
static int make_input(struct run *r)
{
    char *bytes;
    size_t size;
    if (!r->stage->spec->has_input) {
        return 0;
    }
    int rc = make_name(r, &r->stage->spec->input, true, &bytes, &size);
    if (rc != 0) {
        return rc;
    }
    r->input_fd = memfd_create("stdin", MFD_CLOEXEC);
    if (r->input_fd >= 0 && r->input_fd < 3) {
        int raised = fcntl(r->input_fd, F_DUPFD_CLOEXEC, 3);
        close(r->input_fd);
        r->input_fd = raised;
    }
    if (r->input_fd < 0 || write_all(r->input_fd, bytes, size) < 0) {
        rc = fail(TRK_EIO, "cannot make the stdin of a command: %s", strerror(errno));
    }
    mem_free(bytes);
    return rc;
}

static int make_outputs(struct run *r)
{
    const struct trk_exec_spec *spec = r->stage->spec;
    size_t count = spec->outputs_count;
    if (count == 0) {
        return 0;
    }
    r->outputs = mem_zalloc(count, sizeof(*r->outputs));
    r->files = mem_zalloc(count, sizeof(*r->files));
    if (r->outputs == NULL || r->files == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < count; i++) {
        char *target;
        size_t size;
        int rc = make_name(r, &spec->outputs[i], false, &target, &size);
        if (rc != 0) {
            return rc;
        }
        rc = exec_output_begin(&r->outputs[i], r->cwd_fd >= 0 ? r->cwd_fd : AT_FDCWD, target);
        r->outputs_count = i + 1;
        if (rc < 0) {
            return failed(r, TRK_EXEC_BAD_OUTPUT);
        }
        for (size_t k = 0; k < i; k++) {
            if (strcmp(r->outputs[k].target, target) == 0) {
                fail(TRK_EINVAL, "two outputs have the same name, %.300s", target);
                return failed(r, TRK_EXEC_BAD_OUTPUT);
            }
        }
        r->files[i] = (struct trk_exec_bytes){r->outputs[i].file, strlen(r->outputs[i].file)};
    }
    r->values.outputs = r->files;
    return 0;
}

/* All are looked at before the first is put into place. */
static int finish_outputs(struct run *r)
{
    const struct trk_exec_spec *spec = r->stage->spec;
    for (size_t i = 0; i < r->outputs_count; i++) {
        if (exec_output_check(&r->outputs[i]) < 0) {
            return failed(r, TRK_EXEC_BAD_OUTPUT);
        }
        r->values.file = &r->files[i];
        int rc = spec->check_count > 0
                     ? run_command(r, spec->check, spec->check_count, "the check ") : 0;
        if (rc == 1 && r->result.outcome == TRK_EXEC_EXIT) {
            r->result.outcome = TRK_EXEC_BAD_OUTPUT;
            snprintf(r->why, sizeof(r->why), "the output %.300s did not pass its check (exit "
                     "status %d)", r->outputs[i].target, r->end.exit_status);
        }
        if (rc != 0) {
            return rc;
        }
    }
    for (size_t i = 0; i < r->outputs_count; i++) {
        if (exec_output_place(&r->outputs[i]) < 0) {
            return failed(r, TRK_EXEC_BAD_OUTPUT);
        }
    }
    return 0;
}

/* --- an element -------------------------------------------------------------------------- */

static void end_run(struct run *r)
{
    for (size_t i = 0; i < r->outputs_count; i++) {
        const char *target = r->outputs[i].target;
        exec_output_end(&r->outputs[i]);
        mem_free((void *)(uintptr_t)target);
    }
    mem_free(r->outputs);
    mem_free(r->files);
    mem_free(r->fields);
    if (r->cwd_fd >= 0) {
        close(r->cwd_fd);
    }
    if (r->input_fd >= 0) {
        close(r->input_fd);
    }
    exec_keep_fini(&r->out);
    exec_keep_fini(&r->err);
}

/* 0: it has succeeded; 1: it has failed, and the result says how; TRK_E*: the VM has. */
static int run_parts(struct run *r)
{
    const struct trk_exec_spec *spec = r->stage->spec;
    int rc = open_cwd(r);
    rc = rc != 0 ? rc : make_outputs(r);
    rc = rc != 0 ? rc : make_input(r);
    if (rc != 0) {
        return rc;
    }
    rc = exec_tree_begin(&r->tree, r->stage->mark);
    if (rc < 0) {
        return rc;
    }
    rc = run_command(r, spec->argv, spec->argc, "");
    if (r->input_fd >= 0) {
        close(r->input_fd); /* the check has none */
        r->input_fd = -1;
    }
    rc = rc != 0 ? rc : finish_outputs(r);
    r->result.left = r->tree.left;
    exec_tree_end(&r->tree);
    return rc;
}

static int write_result(struct run *r, struct trk_rai_reply *reply)
{
    struct buf *b = &the_exec.head;
    r->result.why = (struct trk_exec_bytes){r->why, strlen(r->why)};
    r->result.duration_ns = sys_now_ns() - r->start_ns;
    exec_keep_get(&r->out, &r->result.out);
    exec_keep_get(&r->err, &r->result.err);
    exec_buf_empty(b);
    exec_put_result_head(b, &r->result);
    buf_put(b, r->why, r->result.why.size);
    if (b->has_failed) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    int rc = trk_rai_reply_write(reply, b->blob->data, buf_size(b));
    rc = rc < 0 ? rc : exec_keep_write(&r->out, reply);
    return rc < 0 ? rc : exec_keep_write(&r->err, reply);
}

static uint64_t wall_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / MS_NS;
}

static int error_status(struct trk_rai_reply *reply)
{
    const char *why = fail_text();
    int rc = trk_rai_reply_write(reply, why, strlen(why));
    (void)rc; /* the reply remembers it */
    return TRK_STATUS_ERROR;
}

static int run_element(void *state, const struct trk_rai_element *element,
                       struct trk_rai_reply *reply)
{
    struct run r = {.element = element, .cwd_fd = -1, .input_fd = -1};
    r.stage = exec_stage_of(the_exec.stages, element->stage);
    assert(r.stage != NULL); /* the host opens a stage before it runs its elements */
    const struct trk_exec_spec *spec = r.stage->spec;
    r.start_ns = sys_now_ns();
    r.due_ns = spec->timeout_ms != 0 ? r.start_ns + spec->timeout_ms * (uint64_t)MS_NS
                                     : UINT64_MAX;
    r.out.keep = r.stage->stdout_keep;
    r.err.keep = r.stage->stderr_keep;
    r.result.started_ms = wall_ms();
    r.result.exit_status = -1;
    r.values.index = element->index;
    exec_stage_number(r.stage, element->index, element->attempt, ++the_exec.run);
    int rc = trk_exec_element_decode(element->payload, element->size, &r.fields,
                                     &r.values.fields_count);
    r.values.fields = r.fields;
    rc = rc < 0 ? rc : run_parts(&r);
    int status = rc == 0 ? TRK_STATUS_OK : TRK_STATUS_EXCEPTION;
    if (rc >= 0) {
        rc = write_result(&r, reply);
    }
    end_run(&r);
    return rc < 0 ? error_status(reply) : status;
}

/* --- the module -------------------------------------------------------------------------- */

static int open_stage(void *state, uint32_t number, const void *function, size_t size,
                      struct trk_rai_reply *reply)
{
    struct exec_stage *stage = exec_stage_new(number, function, size);
    if (stage == NULL) {
        return error_status(reply);
    }
    stage->next = the_exec.stages;
    the_exec.stages = stage;
    return TRK_STATUS_OK;
}

static void close_stage(void *state, uint32_t number)
{
    struct exec_stage **at = &the_exec.stages;
    while (*at != NULL && (*at)->number != number) {
        at = &(*at)->next;
    }
    if (*at != NULL) {
        struct exec_stage *stage = *at;
        *at = stage->next;
        exec_stage_free(stage);
    }
    if (the_exec.stages == NULL) {
        buf_fini(&the_exec.words);
        buf_fini(&the_exec.head);
        mem_free(the_exec.argv);
        the_exec.argv = NULL;
        the_exec.argv_room = 0;
    }
}

static void interrupt(void *state)
{
    exec_wake_interrupt(&the_exec.wake);
}

const struct trk_rai_module rai_exec = {
    .abi = TRK_RAI_ABI,
    .size = sizeof(struct trk_rai_module),
    .name = TRK_EXEC_MODULE,
    .version = TRK_VERSION,
    .stage_open = open_stage,
    .run = run_element,
    .stage_close = close_stage,
    .interrupt = interrupt,
};
