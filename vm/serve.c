/* SPDX-License-Identifier: MIT */
/* serve.c - VMs that need no Python: trickle-vm starts itself again, with --serve MODULE, and
 * serves with a built-in module or with one that it loads from a shared object.
 *
 * What a shared object does while it is loaded is its author's: so the supervisor never loads it.
 * Before it starts any VM it has a child try, so that what will never work is refused at once, with
 * a sentence; what fails later, in a VM, is that VM's note. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fail.h"
#include "rai/modules.h"
#include "trickle/vm.h"
#include "vm/serve.h"

#define LOAD_SECONDS 10u /* a module that is not loaded after so long hangs */

bool serve_is_module(const char *module)
{
    const char *dot = strrchr(module, '.');
    return rai_built_in_find(module) != NULL || strchr(module, '/') != NULL ||
           (dot != NULL && strcmp(dot, ".so") == 0);
}

static int find(struct trk_rai_module *out, const char *module)
{
    const struct trk_rai_module *built_in = rai_built_in_find(module);
    return built_in != NULL ? rai_module_copy(out, built_in, module)
                            : rai_module_load(out, module);
}

/* The child: says on the pipe why not, or with an empty sentence that it can be loaded. */
static _Noreturn void try_to_load(const char *module, int out)
{
    struct trk_rai_module table;
    alarm(LOAD_SECONDS);
    const char *said = find(&table, module) < 0 ? fail_text() : "";
    (void)!write(out, said, strlen(said) + 1); /* a pipe has room for it */
    _exit(0);
}

int serve_check(const char *module, char path[PATH_MAX])
{
    char said[1024] = "";
    int fds[2], status = 0;
    if (rai_built_in_find(module) != NULL) {
        snprintf(path, PATH_MAX, "%s", module);
        return 0;
    }
    if (realpath(module, path) == NULL) {
        return fail(TRK_EINVAL, "cannot load %s: %s", module, strerror(errno));
    }
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0) {
        return fail(TRK_EIO, "cannot make a pipe: %s", strerror(errno));
    }
    pid_t pid = fork();
    if (pid == 0) {
        try_to_load(module, fds[1]);
    }
    close(fds[1]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    ssize_t n = read(fds[0], said, sizeof(said) - 1);
    close(fds[0]);
    if (pid < 0) {
        return fail(TRK_EIO, "cannot start a process: %s", strerror(errno));
    }
    if (n > 0) {
        return said[0] == '\0' ? 0 : fail(TRK_EINVAL, "%s", said);
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
        return fail(TRK_EINVAL, "%s hangs: it is not loaded after %u s", module,
                    LOAD_SECONDS);
    }
    if (WIFSIGNALED(status)) {
        return fail(TRK_EINVAL, "%s crashes while it is loaded (SIG%s)", module,
                    sigabbrev_np(WTERMSIG(status)));
    }
    return fail(TRK_EINVAL, "%s ends the process that loads it (status %d)", module,
                WEXITSTATUS(status));
}

int serve_module(const char *module)
{
    static struct trk_rai_module table; /* its functions are called until the process has ended */
    int rc = find(&table, module);
    if (rc == 0) {
        rc = trk_vm_serve(&table, NULL);
    }
    if (rc < 0) {
        fprintf(stderr, "%s\n", fail_text());
        return 1;
    }
    return 0;
}
