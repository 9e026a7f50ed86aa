/* SPDX-License-Identifier: MIT */
/* loop.c - a libuv loop and its one door for other threads.
 *
 * Posts wait in a linked list under a mutex; only the post that finds the list empty wakes the
 * loop, so that a burst costs one wake-up. The loop takes the whole list at once: what is posted
 * while posts run waits for the next turn, and sockets get theirs in between.
 *
 * A post that was taken in (0 was returned) runs, always: stopping closes the door and empties the
 * room in one step, and net_loop_free does the same for a loop that was never run. Whoever posts
 * memory of its own can therefore count on fn to free it.
 *
 * Sessions and listeners that are still open in net_loop_free are closed by it, on the calling
 * thread, which is the loop thread from then on. */
#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/fail.h"
#include "base/mem.h"
#include "base/sys.h"
#include "net/loop_impl.h"

struct net_loop {
    uv_loop_t uv;
    uv_async_t wake;        /* there are posts, or it is time to stop */
    _Atomic pthread_t here; /* the loop thread; before it runs, who made it */
    pthread_t thread;       /* of net_loop_start_thread */
    bool has_thread;        /* thread is to be joined */
    bool is_joined;         /* net_loop_join has run */
    char name[16];          /* of the thread, for people */
    uint8_t *scratch;       /* NET_SCRATCH_BYTES */
    struct list closers;    /* struct net_closer; loop thread */
    struct net_strangers strangers; /* for sessions; loop thread */

    pthread_mutex_t mutex;   /* guards what follows */
    struct net_task *first;  /* posts, oldest first */
    struct net_task **last;  /* where the next one goes */
    bool is_stopping;        /* net_loop_stop was called */
    bool is_stopped;         /* no more posts are taken */
};

/* Takes the posts in and runs them. Returns true when the loop is to stop. */
static bool run_posts(struct net_loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    struct net_task *task = loop->first;
    loop->first = NULL;
    loop->last = &loop->first;
    bool is_stopping = loop->is_stopping;
    loop->is_stopped = is_stopping;
    pthread_mutex_unlock(&loop->mutex);
    while (task != NULL) {
        /* All is read before fn runs: it may post the task again. */
        struct net_task *next = task->next;
        void (*fn)(void *arg) = task->fn;
        void *arg = task->arg;
        if (task->is_owned) {
            mem_free(task);
        }
        fn(arg);
        task = next;
    }
    return is_stopping;
}

static void on_wake(uv_async_t *wake)
{
    struct net_loop *loop = wake->data;
    if (run_posts(loop)) {
        uv_stop(&loop->uv);
    }
}

/* Every descriptor that libuv holds for a loop: a forked child must close them too. */
static void each_fd(struct net_loop *loop, void (*fn)(int fd))
{
    const int fds[] = {uv_backend_fd(&loop->uv), loop->uv.async_io_watcher.fd,
                       loop->uv.async_wfd, loop->uv.signal_pipefd[0],
                       loop->uv.signal_pipefd[1]};
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
        if (fds[i] >= 0) {
            fn(fds[i]);
        }
    }
}

static void add_fd(int fd)
{
    /* Full table: the child then merely keeps a descriptor that it does not know of. */
    (void)!sys_fd_add(fd);
}

int net_loop_new(struct net_loop **out)
{
    struct net_loop *loop = mem_zalloc(1, sizeof(*loop));
    if (loop == NULL) {
        return fail(TRK_ENOMEM, "out of memory");
    }
    loop->scratch = mem_alloc(NET_SCRATCH_BYTES);
    if (loop->scratch == NULL) {
        mem_free(loop);
        return fail(TRK_ENOMEM, "out of memory");
    }
    int rc = uv_loop_init(&loop->uv);
    if (rc != 0) {
        mem_free(loop->scratch);
        mem_free(loop);
        return fail(TRK_EIO, "cannot make an event loop: %s", uv_strerror(rc));
    }
    rc = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (rc != 0) {
        uv_loop_close(&loop->uv);
        mem_free(loop->scratch);
        mem_free(loop);
        return fail(TRK_EIO, "cannot make an event loop: %s", uv_strerror(rc));
    }
    loop->wake.data = loop;
    pthread_mutex_init(&loop->mutex, NULL);
    loop->last = &loop->first;
    list_init(&loop->closers);
    list_init(&loop->strangers.list);
    atomic_init(&loop->here, pthread_self());
    each_fd(loop, add_fd);
    *out = loop;
    return 0;
}

void net_loop_run(struct net_loop *loop)
{
    atomic_store(&loop->here, pthread_self());
    uv_run(&loop->uv, UV_RUN_DEFAULT);
}

static void *thread_main(void *arg)
{
    struct net_loop *loop = arg;
    pthread_setname_np(pthread_self(), loop->name);
    net_loop_run(loop);
    return NULL;
}

int net_loop_start_thread(struct net_loop *loop, const char *name)
{
    assert(!loop->has_thread);
    for (size_t i = 0; i + 1 < sizeof(loop->name) && name[i] != '\0'; i++) {
        loop->name[i] = name[i];
    }
    sigset_t old;
    int rc = sys_block_signals(&old);
    if (rc != 0) {
        return rc;
    }
    int error = pthread_create(&loop->thread, NULL, thread_main, loop);
    sys_restore_signals(&old);
    if (error != 0) {
        return fail(TRK_EIO, "cannot start a thread: %s", uv_strerror(-error));
    }
    loop->has_thread = true;
    /* From here on the caller is a stranger, also while the thread has yet to run. */
    atomic_store(&loop->here, loop->thread);
    return 0;
}

void net_loop_stop(struct net_loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    loop->is_stopping = true;
    if (!loop->is_stopped) { /* else it may have been joined, and wake is closed */
        uv_async_send(&loop->wake); /* under the mutex, as in net_loop_post_task */
    }
    pthread_mutex_unlock(&loop->mutex);
}

static void close_leftover(uv_handle_t *handle, void *arg)
{
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

void net_loop_join(struct net_loop *loop)
{
    if (loop->is_joined) {
        return;
    }
    net_loop_stop(loop);
    if (loop->has_thread) {
        assert(!net_loop_is_here(loop));
        pthread_join(loop->thread, NULL);
    }
    atomic_store(&loop->here, pthread_self());
    run_posts(loop);
    while (!list_is_empty(&loop->closers)) {
        struct net_closer *c = container_of(loop->closers.next, struct net_closer, node);
        c->close(c);
        assert(list_is_empty(&c->node));
    }
    each_fd(loop, sys_fd_remove);
    uv_walk(&loop->uv, close_leftover, NULL);
    while (uv_run(&loop->uv, UV_RUN_DEFAULT) != 0) {
        /* A stop that was still due ends a run early. */
    }
    int rc = uv_loop_close(&loop->uv);
    assert(rc == 0);
    (void)rc;
    pthread_mutex_lock(&loop->mutex);
    loop->is_stopped = true;
    assert(loop->first == NULL);
    pthread_mutex_unlock(&loop->mutex);
    loop->is_joined = true;
}

void net_loop_free(struct net_loop *loop)
{
    if (loop == NULL) {
        return;
    }
    net_loop_join(loop);
    pthread_mutex_destroy(&loop->mutex);
    mem_free(loop->scratch);
    mem_free(loop);
}

uv_loop_t *net_loop_uv(struct net_loop *loop) { return &loop->uv; }

uint64_t net_loop_now_ms(struct net_loop *loop) { return uv_now(&loop->uv); }

bool net_loop_is_here(struct net_loop *loop)
{
    return pthread_equal(atomic_load(&loop->here), pthread_self()) != 0;
}

int net_loop_post_task(struct net_loop *loop, struct net_task *task)
{
    pthread_mutex_lock(&loop->mutex);
    if (loop->is_stopped) {
        pthread_mutex_unlock(&loop->mutex);
        return TRK_ECLOSED;
    }
    bool was_empty = loop->first == NULL;
    task->next = NULL;
    *loop->last = task;
    loop->last = &task->next;
    if (was_empty) {
        /* Under the mutex: after the last post has run the loop may be freed at any time. */
        uv_async_send(&loop->wake);
    }
    pthread_mutex_unlock(&loop->mutex);
    return 0;
}

int net_loop_post(struct net_loop *loop, void (*fn)(void *arg), void *arg)
{
    struct net_task *task = mem_alloc(sizeof(*task));
    if (task == NULL) {
        return TRK_ENOMEM;
    }
    *task = (struct net_task){.fn = fn, .arg = arg, .is_owned = true};
    int rc = net_loop_post_task(loop, task);
    if (rc != 0) {
        mem_free(task);
    }
    return rc;
}

void net_loop_add_closer(struct net_loop *loop, struct net_closer *closer)
{
    list_push_back(&loop->closers, &closer->node);
}

void net_loop_remove_closer(struct net_closer *closer) { list_remove(&closer->node); }

struct list *net_loop_closers(struct net_loop *loop) { return &loop->closers; }

struct net_strangers *net_loop_strangers(struct net_loop *loop) { return &loop->strangers; }

uint8_t *net_loop_scratch(struct net_loop *loop) { return loop->scratch; }
