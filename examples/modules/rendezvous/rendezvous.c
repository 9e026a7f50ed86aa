/* SPDX-License-Identifier: MIT */
/* rendezvous.c - an example of a discovery module: supervisors are found by files in a folder.
 *
 * Whoever starts VMs leaves a file in the folder RENDEZVOUS, which has one line: the address of
 * their supervisor, tcp:HOST:PORT or unix:/PATH. So a batch system can tell of them.
 *
 *   meson setup build && ninja -C build
 *   RENDEZVOUS=/shared/vms trickle run --discovery build/rendezvous.so prog.py
 *
 * A folder on a network disk has no inotify: new files in it are seen when the farm asks again.
 * docs/modules.md explains each part. */
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <trickle/discovery.h>

#define ADDRESS_MAX 128

struct rendezvous {
    struct trk_discovery_sink sink; /* copied: the farm's is gone after open */
    char folder[PATH_MAX];
    int watch; /* inotify, or -1: the system has no more of them */
};

/* A file that is half written, or none, has no whole line: the next look sees it. */
static void look_at_file(struct rendezvous *r, const char *name)
{
    char path[PATH_MAX + NAME_MAX + 2], address[ADDRESS_MAX];
    snprintf(path, sizeof(path), "%s/%s", r->folder, name);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return;
    }
    if (fgets(address, sizeof(address), file) != NULL && strchr(address, '\n') != NULL) {
        address[strcspn(address, "\n")] = '\0';
        r->sink.found(r->sink.ctx, address); /* twice does no harm */
    }
    fclose(file);
}

static int rendezvous_ask(void *state)
{
    struct rendezvous *r = state;
    DIR *folder = opendir(r->folder);
    struct dirent *entry;
    if (folder == NULL) {
        return TRK_EIO;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] != '.') {
            look_at_file(r, entry->d_name);
        }
    }
    closedir(folder);
    return 0;
}

static int rendezvous_open(const struct trk_discovery_config *config,
                           const struct trk_discovery_sink *sink, void **state)
{
    const char *folder = getenv("RENDEZVOUS");
    if (folder == NULL) {
        fprintf(stderr, "rendezvous: set RENDEZVOUS to the folder with the addresses\n");
        return TRK_EIO;
    }
    struct rendezvous *r = calloc(1, sizeof(*r));
    if (r == NULL) {
        return TRK_ENOMEM;
    }
    r->sink = *sink;
    snprintf(r->folder, sizeof(r->folder), "%s", folder);
    r->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (r->watch >= 0 && inotify_add_watch(r->watch, folder, IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
        close(r->watch);
        free(r);
        return TRK_EIO;
    }
    *state = r;
    return 0;
}

static int rendezvous_fd(void *state)
{
    const struct rendezvous *r = state;
    return r->watch;
}

static void rendezvous_process(void *state)
{
    struct rendezvous *r = state;
    char events[4096];
    while (read(r->watch, events, sizeof(events)) > 0) {
    }
    if (rendezvous_ask(r) < 0) {
        return; /* the folder has gone; it may come again */
    }
}

static void rendezvous_close(void *state)
{
    struct rendezvous *r = state;
    if (r->watch >= 0) {
        close(r->watch);
    }
    free(r);
}

const struct trk_discovery_module *trickle_discovery_module(void)
{
    static const struct trk_discovery_module module = {
        .abi = TRK_DISCOVERY_ABI,
        .size = sizeof(module),
        .name = "rendezvous",
        .is_immediate = true, /* ask tells of all that are there */
        .open = rendezvous_open,
        .ask = rendezvous_ask,
        .fd = rendezvous_fd,
        .process = rendezvous_process,
        .close = rendezvous_close,
    };
    return &module;
}
