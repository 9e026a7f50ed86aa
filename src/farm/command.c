/* SPDX-License-Identifier: MIT */
/* command.c - a program whose job trickle resume can go on with: what it takes to run it again, and
 * how it ended.
 *
 * The notes are JSON, as python/trickle/_job.py writes them for Python programs: "run" at the start
 * of each run, "end" when that has ended in order. Strings that are not UTF-8 are written as
 * Python's os.fsdecode has them. TRICKLE_RESUME is, for such a program, words: the enum
 * trk_on_change, "retry" or "-", and the variables that are to be kept (_resume.py). Of variables
 * that are not kept only MACs are noted, so that a resume can name those that differ. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "auth/derive.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/sys.h"
#include "farm/farm_impl.h"
#include "trickle/trickle.h"

#define NOTE_RUN "run"
#define NOTE_END "end"
#define FIRST_STARTED "\"first_started\": "
#define PATH_MAX_BYTES 4096

static const char *const changes[] = {[TRK_CHANGE_REFUSE] = "refuse", [TRK_CHANGE_KEEP] = "keep",
                                      [TRK_CHANGE_REDO] = "redo"};

/* --- what trickle resume asks for ---------------- */

static int not_ours(void)
{
    return fail(TRK_EINVAL, "TRICKLE_RESUME is not what trickle resume makes it");
}

/* Cuts the first word off text; NULL: there is none. */
static char *next_word(char **text)
{
    char *word = *text + strspn(*text, " ");
    char *end = word + strcspn(word, " ");

    *text = *end != '\0' ? end + 1 : end;
    *end = '\0';
    return *word != '\0' ? word : NULL;
}

static int read_resume(struct command *command, struct trk_job_options *opt, const char *asked)
{
    char text[sizeof(command->keep)], *rest = text;
    const char *change, *retry;
    size_t size = strlen(asked);
    unsigned i = 0;

    if (size >= sizeof(text) || command->name[0] == '\0') {
        return not_ours();
    }
    memcpy(text, asked, size + 1);
    change = next_word(&rest);
    retry = next_word(&rest);
    while (i < 3 && (change == NULL || strcmp(change, changes[i]) != 0)) {
        i++;
    }
    if (i == 3 || retry == NULL) {
        return not_ours();
    }
    opt->on_change = (enum trk_on_change)i;
    opt->retry_failed = strcmp(retry, "retry") == 0;
    opt->must_exist = true;
    opt->must_be_new = false;
    snprintf(command->keep, sizeof(command->keep), " %s", rest);
    return 0;
}

int command_read(struct command *command, struct trk_job_options *opt)
{
    const char *name = getenv("TRICKLE_JOB"), *asked = getenv("TRICKLE_RESUME");
    int rc = 0;

    *command = (struct command){.name = ""};
    if (name != NULL && name[0] != '\0') {
        if (strlen(name) >= sizeof(command->name)) {
            return fail(TRK_EINVAL, "TRICKLE_JOB is too long for the name of a job");
        }
        memcpy(command->name, name, strlen(name) + 1);
        opt->name = command->name;
    }
    if (asked != NULL && asked[0] != '\0') {
        rc = read_resume(command, opt, asked);
    }
    unsetenv("TRICKLE_JOB"); /* for this process, not for those that it starts */
    unsetenv("TRICKLE_RESUME");
    return rc;
}

/* --- the environment ---------------- */

/* Is the variable ("NAME=value") one of them? A name that ends in "*" is a beginning. */
static bool is_one_of(const char *variable, const char *const *names)
{
    size_t size = strcspn(variable, "=");

    for (; *names != NULL; names++) {
        size_t n = strlen(*names);
        bool is_start = (*names)[n - 1] == '*';
        n -= is_start;
        if ((is_start ? size >= n : size == n) && strncmp(variable, *names, n) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_named(const struct command *command, const char *variable)
{
    size_t size = strcspn(variable, "=");

    for (const char *at = command->keep; *at != '\0'; at += strcspn(at, " ")) {
        at += strspn(at, " ");
        if (strcspn(at, " ") == size && strncmp(at, variable, size) == 0) {
            return size > 0;
        }
    }
    return false;
}

/* As _job.py has them, and what a program of C is found with. */
static bool is_kept(const struct command *command, const char *variable)
{
    static const char *const kept[] = {"PATH", "VIRTUAL_ENV", "LANG", "TZ", "PYTHON*", "LC_*",
                                       "LD_LIBRARY_PATH", NULL};

    return is_one_of(variable, kept) || is_named(command, variable);
}

static bool is_passing(const char *variable)
{
    static const char *const passing[] = {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES",
                                          "TRICKLE_*", NULL};

    return is_one_of(variable, passing);
}

static void put_name(struct buf *b, const char *variable)
{
    char name[256];

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(variable, "="), variable);
    json_put_text(b, name);
}

static void put_mac(struct buf *b, const char *value)
{
    static const uint8_t key[AUTH_DERIVED_BYTES] = "trickle env";
    uint8_t mac[AUTH_MAC_BYTES];

    if (auth_mac(mac, key, value, strlen(value)) < 0) {
        b->has_failed = true;
        return;
    }
    buf_put_u8(b, '"');
    for (int i = 0; i < 8; i++) {
        json_put(b, "%02x", mac[i]);
    }
    buf_put_u8(b, '"');
}

static void put_environment(struct buf *b, const struct command *command, bool is_of_kept)
{
    const char *comma = "";

    for (char **at = environ; at != NULL && *at != NULL; at++) {
        const char *value = strchr(*at, '=');
        if (value == NULL || is_kept(command, *at) != is_of_kept ||
            (!is_of_kept && is_passing(*at))) {
            continue;
        }
        json_put(b, "%s", comma);
        put_name(b, *at);
        json_put(b, ": ");
        if (is_of_kept) {
            json_put_text(b, value + 1);
        } else {
            put_mac(b, value + 1);
        }
        comma = ", ";
    }
}

/* --- the notes ---------------- */

static void put_now(struct buf *b, const char *name)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    json_put(b, "\"%s\": ", name);
    json_put_seconds(b, (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec);
}

/* When the job's first run began: as the note of the last one has it, where there was one. It is
 * ours, and no string in it has a bare quote. */
static void put_first_started(struct buf *b, struct trk_job *job)
{
    void *bytes;
    size_t size;

    if (trk_job_get(job, TRK_NOTE_JOB, NOTE_RUN, &bytes, &size) == 0) {
        const char *at = memmem(bytes, size, FIRST_STARTED, strlen(FIRST_STARTED));
        char text[32] = "";
        if (at != NULL) {
            at += strlen(FIRST_STARTED);
            size_t left = size - (size_t)(at - (char *)bytes);
            memcpy(text, at, left < sizeof(text) - 1 ? left : sizeof(text) - 1);
            text[strspn(text, "0123456789.")] = '\0';
        }
        trk_free(bytes);
        if (text[0] != '\0') {
            json_put(b, FIRST_STARTED "%s", text);
            return;
        }
    }
    put_now(b, "first_started");
}

static void put_place(struct buf *b, const char *name, const char *path)
{
    json_put(b, ", \"%s\": ", name);
    json_put_text(b, path);
}

static void put_program(struct buf *b)
{
    char path[PATH_MAX_BYTES];
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);

    path[size > 0 ? size : 0] = '\0';
    put_place(b, "program", path);
    put_place(b, "interpreter", path);
    put_place(b, "cwd", getcwd(path, sizeof(path)) != NULL ? path : "/"); /* it was removed */
    sys_host_name(path, sizeof(path));
    put_place(b, "host", path);
}

static void put_words(struct buf *b, const struct command *command)
{
    char text[sizeof(command->keep)], *rest = text, *word;
    const char *comma = "";

    snprintf(text, sizeof(text), "%s", command->keep);
    while ((word = next_word(&rest)) != NULL) {
        json_put(b, "%s", comma);
        json_put_text(b, word);
        comma = ", ";
    }
}

static void put_run(struct buf *b, struct trk_job *job, const struct command *command,
                    const struct trk_job_options *opt)
{
    json_put(b, "{\"kind\": \"program\", \"trickle\": \"%s\", ", TRK_VERSION);
    put_first_started(b, job);
    json_put(b, ", ");
    put_now(b, "started");
    json_put(b, ", \"epoch\": %u, \"pid\": %ld, \"is_interactive\": false, \"hash_seed\": null, "
             "\"local\": null", job->epoch, (long)getpid());
    put_program(b);
    json_put(b, ", \"argv\": [");
    for (int i = 0; i < opt->argc; i++) {
        json_put(b, "%s", i > 0 ? ", " : "");
        json_put_text(b, opt->argv[i]);
    }
    json_put(b, "], \"keep_env\": [");
    put_words(b, command);
    json_put(b, "], \"env\": {");
    put_environment(b, command, true);
    json_put(b, "}, \"others\": {");
    put_environment(b, command, false);
    json_put(b, "}}");
}

static int put_note(struct trk_job *job, const char *name, struct buf *b)
{
    struct blob *blob = buf_take(b);
    int rc;

    if (blob == NULL) {
        buf_fini(b);
        return fail(TRK_ENOMEM, "out of memory");
    }
    rc = trk_job_put(job, TRK_NOTE_JOB, name, blob->data, blob->size, false, 0);
    blob_unref(blob);
    return rc;
}

int command_note(struct trk_job *job, const struct command *command,
                 const struct trk_job_options *opt)
{
    struct buf b;

    buf_init(&b);
    put_run(&b, job, command, opt);
    return put_note(job, NOTE_RUN, &b);
}

int trk_job_finish(struct trk_job *job, int rc)
{
    int status = rc == 0 ? TRK_EXIT_DONE
                         : rc == TRK_ECANCELLED || rc == TRK_AGAIN ? TRK_EXIT_STOPPED
                                                                   : TRK_EXIT_FAILED;
    struct buf b;

    if (job == NULL || sys_is_forked()) {
        return status;
    }
    buf_init(&b);
    json_put(&b, "{\"epoch\": %u, \"status\": %d, ", job->epoch, status);
    put_now(&b, "ended");
    json_put(&b, "}");
    rc = put_note(job, NOTE_END, &b);
    if (trk_job_close(job) < 0 || rc < 0) {
        return TRK_EXIT_FAILED;
    }
    return status;
}
