/* SPDX-License-Identifier: MIT */
/* oom.c - see oom.h.
 *
 * A count that has risen says that some process of the cgroup was killed, not which one. So each
 * unit of it explains one death only, and what others of the cgroup suffered before a VM started
 * explains none of its deaths (oom_look). */
#include "vm/oom.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_MAX 8192  /* bytes of one record of the kernel's log */
#define RECORDS_MAX 65536 /* read at once: more than its buffer holds */

/* --- the count ------------------------------------------------------------------------ */

/* False: the file has no such line, or cannot be read. */
static bool read_kills(const char *name, uint64_t *kills)
{
    char line[256];
    unsigned long long n;
    bool is_found = false;
    FILE *file = fopen(name, "re");
    while (file != NULL && !is_found && fgets(line, sizeof(line), file) != NULL) {
        is_found = sscanf(line, "oom_kill %llu", &n) == 1;
    }
    if (file != NULL) {
        fclose(file);
    }
    if (is_found) {
        *kills = n;
    }
    return is_found;
}

/* In a container the path may be one of outside, and the root is the cgroup itself. */
static bool try_events(struct oom *o, const char *root, const char *part, const char *path,
                       const char *file)
{
    const char *const paths[] = {path, ""};
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        int n = snprintf(o->events, sizeof(o->events), "%s%s%s/%s", root, part, paths[i], file);
        if (n > 0 && (size_t)n < sizeof(o->events) && read_kills(o->events, &o->kills)) {
            return true;
        }
    }
    o->events[0] = '\0';
    return false;
}

/* "0::/user.slice/..." or, of the older controllers, "4:memory:/..." */
static bool try_line(struct oom *o, const char *root, char *line)
{
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (path == NULL) {
        return false;
    }
    *path++ = '\0';
    if (strcmp(path, "/") == 0) {
        path = (char *)(uintptr_t)"";
    }
    if (strcmp(line, "0:") == 0) {
        return try_events(o, root, "", path, "memory.events");
    }
    return strcmp(controllers + 1, "memory") == 0 &&
           try_events(o, root, "/memory", path, "memory.oom_control");
}

static void find_events(struct oom *o, const char *cgroups, const char *root)
{
    char line[PATH_MAX];
    bool is_found = false;
    FILE *file = fopen(cgroups, "re");
    o->events[0] = '\0';
    while (file != NULL && !is_found && fgets(line, sizeof(line), file) != NULL) {
        is_found = try_line(o, root, line);
    }
    if (file != NULL) {
        fclose(file);
    }
}

/* By how much the count has risen. */
static uint64_t new_kills(struct oom *o)
{
    uint64_t before = o->kills;
    if (o->events[0] == '\0' || !read_kills(o->events, &o->kills) || o->kills < before) {
        return 0;
    }
    return o->kills - before;
}

/* --- the log -------------------------------------------------------------------------- */

/* "3,1234,567890,-;Out of memory: Killed process 4711 (python3) total-vm:..." The number in front
 * is below 8 for what the kernel itself has said: users' programs may write there, too. */
static void read_record(struct oom *o, const char *record)
{
    const char *text = strchr(record, ';');
    const char *killed = text != NULL ? strstr(text, "Killed process ") : NULL;
    if (killed == NULL || strtoul(record, NULL, 10) >= 8) {
        return;
    }
    long pid = strtol(killed + strlen("Killed process "), NULL, 10);
    o->named[o->named_count++ % OOM_NAMED_MAX] = (pid_t)pid;
}

static void read_log(struct oom *o)
{
    char record[RECORD_MAX];
    for (int i = 0; o->log >= 0 && i < RECORDS_MAX; i++) {
        ssize_t n = read(o->log, record, sizeof(record) - 1);
        if (n < 0 && (errno == EPIPE || errno == EINTR)) {
            continue; /* EPIPE: some were overwritten before we came */
        }
        if (n <= 0) {
            break;
        }
        record[n] = '\0';
        read_record(o, record);
    }
}

/* Each naming explains one death. */
static bool is_named(struct oom *o, pid_t pid)
{
    for (size_t i = 0; i < OOM_NAMED_MAX; i++) {
        if (o->named[i] == pid) {
            o->named[i] = 0;
            return true;
        }
    }
    return false;
}

/* --- both ----------------------------------------------------------------------------- */

void oom_init(struct oom *o, const char *cgroups, const char *root, const char *log)
{
    memset(o, 0, sizeof(*o));
    find_events(o, cgroups, root);
    o->log = open(log, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (o->log >= 0) {
        lseek(o->log, 0, SEEK_END); /* what was before us is of no interest */
    }
}

void oom_fini(struct oom *o)
{
    if (o->log >= 0) {
        close(o->log);
        o->log = -1;
    }
}

void oom_look(struct oom *o)
{
    new_kills(o);
    read_log(o); /* names stay: each says exactly whom it means */
}

bool oom_has_killed(struct oom *o, pid_t pid)
{
    uint32_t named_before = o->named_count;
    uint64_t kills = new_kills(o);
    read_log(o);
    uint64_t named = o->named_count - named_before;
    uint64_t others = kills > named ? kills - named : 0; /* counted, and not known who */
    bool is_killed = is_named(o, pid);
    if (!is_killed && others > 0) {
        is_killed = true;
        others--;
    }
    o->kills -= others; /* for those that died with it */
    return is_killed;
}
