/* SPDX-License-Identifier: MIT */
/* host_modules.c - the modules of a VM: its own, and the built-in ones (rai/modules.h) beside it.
 *
 * A stage names its module when it is opened; what it opened with is found again by its number.
 * Each module has a state of its own. A built-in one is opened when the first stage asks for it, so
 * that a VM pays only for what it runs.
 *
 * While another module runs the own one is told to wait, as it is while there is nothing to do: the
 * GIL of a Python VM is free while a command runs on it. */
#include <stdio.h>
#include <string.h>

#include "base/fail.h"
#include "base/mem.h"
#include "rai/modules.h"
#include "vm/host_impl.h"

/* The sentence becomes the answer. */
static int say(struct host *h, const char *sentence)
{
    int rc = trk_rai_reply_write(&h->reply, sentence, strlen(sentence));
    (void)rc; /* the reply remembers it */
    return TRK_STATUS_ERROR;
}

/* An older table may have no open; its state is what it is. */
static int open_state(struct host *h, struct host_module *m)
{
    return m->table.open != NULL ? m->table.open(&m->state, &h->reply) : TRK_STATUS_OK;
}

int host_modules_open(struct host *h, const struct trk_rai_module *own, void *state)
{
    int rc = rai_module_copy(&h->own.table, own, own->name != NULL ? own->name : "what serves");
    if (rc < 0) {
        return rc;
    }
    h->own.state = state;
    if (state != NULL) {
        return 0;
    }
    rc = rai_reply_begin(&h->reply, 0);
    int status = rc < 0 ? TRK_STATUS_ERROR : open_state(h, &h->own);
    if (rc < 0 || rai_reply_end(&h->reply, status) == TRK_STATUS_OK) {
        return rc;
    }
    return fail(TRK_EIO, "the RAI module %s cannot start: %.*s", h->own.table.name,
                (int)rai_reply_size(&h->reply), (const char *)rai_reply_bytes(&h->reply));
}

void host_modules_close(struct host *h)
{
    for (struct host_module *m = h->beside; m != NULL; m = m->next) {
        if (m->table.close != NULL) {
            m->table.close(m->state);
        }
    }
    host_modules_enter(h, &h->own);
    if (h->own.table.close != NULL) {
        h->own.table.close(h->own.state);
    }
}

void host_modules_enter(struct host *h, const struct host_module *module)
{
    const struct trk_rai_module *own = &h->own.table;
    bool is_away = module != &h->own;
    if (is_away == h->is_away) {
        return;
    }
    h->is_away = is_away;
    if (is_away && own->wait_begin != NULL) {
        own->wait_begin(h->own.state);
    } else if (!is_away && own->wait_end != NULL) {
        own->wait_end(h->own.state);
    }
}

static struct host_module *open_beside(struct host *h, const struct trk_rai_module *table,
                                       int *status)
{
    struct host_module *m = mem_zalloc(1, sizeof(*m));
    if (m == NULL) {
        host_out_of_memory();
    }
    m->table = *table;
    host_modules_enter(h, m);
    *status = open_state(h, m);
    if (*status != TRK_STATUS_OK) {
        mem_free(m);
        return NULL; /* the next stage tries again */
    }
    m->next = h->beside;
    h->beside = m;
    return m;
}

struct host_module *host_modules_get(struct host *h, const char *name, int *status)
{
    const struct trk_rai_module *table;
    char text[160];
    *status = TRK_STATUS_OK;
    if (name[0] == '\0' || strcmp(name, h->own.table.name) == 0) {
        return &h->own;
    }
    for (struct host_module *m = h->beside; m != NULL; m = m->next) {
        if (strcmp(m->table.name, name) == 0) {
            return m;
        }
    }
    table = rai_built_in_find(name);
    if (table != NULL) {
        return open_beside(h, table, status);
    }
    snprintf(text, sizeof(text), "this VM has no module %s: its own is %s", name,
             h->own.table.name);
    *status = say(h, text);
    return NULL;
}

int host_request(struct host *h, const struct trk_rai_request *request)
{
    char text[160];
    host_modules_enter(h, &h->own);
    if (h->own.table.request != NULL) {
        return h->own.table.request(h->own.state, request, &h->reply);
    }
    snprintf(text, sizeof(text), "a VM of the module %s only runs work: it has no functions to "
             "call and no objects; start VMs that do with: trickle vm", h->own.table.name);
    return say(h, text);
}

struct host_stage *host_stage_find(struct host *h, uint32_t number)
{
    struct host_stage **at = &h->stages;
    while (*at != NULL && (*at)->number != number) {
        at = &(*at)->next;
    }
    struct host_stage *stage = *at;
    if (stage != NULL && at != &h->stages) { /* the next element is probably of the same one */
        *at = stage->next;
        stage->next = h->stages;
        h->stages = stage;
    }
    return stage;
}
