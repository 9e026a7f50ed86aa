/* SPDX-License-Identifier: MIT */
#include "trace.h"

#include <stdio.h>

#include "base/mem.h"

static const char *const trace_events[SCHED_EVENT_COUNT] = {
    [SCHED_VM_JOINED] = "join",      [SCHED_VM_LOST] = "lost",
    [SCHED_VM_DRAINING] = "drain",   [SCHED_STAGE_OPENED] = "open",
    [SCHED_STAGE_VM] = "serve",      [SCHED_WORK_ADDED] = "add",
    [SCHED_WORK_CLOSED] = "close",   [SCHED_RESULT] = "result",
    [SCHED_RECORDED] = "recorded",   [SCHED_DELIVERED] = "delivered",
    [SCHED_RECALLED] = "recalled",   [SCHED_CANCEL] = "cancel",
    [SCHED_STAGE_CLOSED] = "forget", [SCHED_TICK] = "tick",
    [SCHED_VM_SUSPECT] = "suspect",  [SCHED_VM_UNBLOCK] = "unblock",
    [SCHED_FAILED] = "failed",
};

/* Verbs that are an event with something special about it. */
static const char *const trace_special[SCHED_EVENT_COUNT] = {
    [SCHED_RESULT] = "handed", [SCHED_FAILED] = "handedbad", [SCHED_RECALLED] = "moved",
};

static const char *const trace_causes[] = {"loss", "own", "expected", "timeout"};

/* The arguments of an event, as the comment above has them. */
static bool trace_arguments(struct sched_event *ev, const char *args)
{
    unsigned long long first = 0, count = 0, bytes = 0, ns = 0;
    char cause[16] = "";
    int n = 0;
    switch (ev->type) {
    case SCHED_VM_JOINED:
    case SCHED_VM_DRAINING:
    case SCHED_VM_SUSPECT:
    case SCHED_VM_UNBLOCK:
        return sscanf(args, "%u", &ev->vm) == 1;
    case SCHED_STAGE_OPENED:
        n = sscanf(args, "%u retries %u backoff %llu", &ev->stage, &ev->retries, &ns);
        ev->backoff_ns = ns * 1000;
        ev->flag = strstr(args, "speculate") != NULL ? SCHED_STAGE_SPECULATE : 0;
        return n > 0;
    case SCHED_WORK_CLOSED:
    case SCHED_CANCEL:
    case SCHED_STAGE_CLOSED:
        return sscanf(args, "%u", &ev->stage) == 1;
    case SCHED_STAGE_VM:
        return sscanf(args, "%u %u", &ev->stage, &ev->vm) == 2;
    case SCHED_WORK_ADDED:
        n = sscanf(args, "%u %llu %llu", &ev->stage, &count, &bytes) >= 2;
        ev->flag = strstr(args, "recorded") != NULL ? SCHED_WORK_RECORDED : 0;
        break;
    case SCHED_RESULT:
    case SCHED_FAILED:
        if (ev->vm == SCHED_NO_VM) {
            n = sscanf(args, "%u try%u %llu+%llu", &ev->stage, &ev->attempt, &first, &count) == 4;
            ns = UINT64_C(1) << 60; /* must not count */
            break;
        }
        n = sscanf(args, "%u %u try%u %llu+%llu %llu", &ev->stage, &ev->vm, &ev->attempt, &first,
                   &count, &ns) == 6;
        break;
    case SCHED_RECORDED:
    case SCHED_DELIVERED:
        n = sscanf(args, "%u %llu+%llu", &ev->stage, &first, &count) == 3;
        break;
    case SCHED_RECALLED:
        n = sscanf(args, "%u %u %llu+%llu", &ev->stage, &ev->vm, &first, &count) == 4;
        break;
    case SCHED_VM_LOST:
        n = sscanf(args, "%u %15s %u %llu", &ev->vm, cause, &ev->stage, &first);
        ev->has_element = n == 4;
        for (int i = 0; i < 4; i++) {
            if (strcmp(cause, trace_causes[i]) == 0) {
                ev->cause = (enum sched_cause)i;
            }
        }
        break;
    case SCHED_TICK:
        return true;
    case SCHED_EVENT_COUNT:
        break;
    }
    ev->first = first;
    ev->count = count;
    ev->bytes = bytes;
    ev->busy_ns = ns;
    return n != 0;
}

static struct sched_event trace_parse(struct trace *t, const char *line)
{
    struct sched_event ev = {.type = SCHED_EVENT_COUNT};
    char verb[16];
    int used = 0;
    double us;
    if (sscanf(line, "@%lf %n", &us, &used) == 1) {
        t->now_ns = (uint64_t)(us * 1000);
        line += used;
    }
    ck_assert_int_eq(sscanf(line, "%15s %n", verb, &used), 1);
    ev.flag = strcmp(verb, "unserve") != 0 && strcmp(verb, "unsuspect") != 0;
    for (int i = 0; i < SCHED_EVENT_COUNT; i++) {
        if (trace_events[i] != NULL && strcmp(verb + (ev.flag ? 0 : 2), trace_events[i]) == 0) {
            ev.type = (enum sched_event_type)i;
            ev.flag = i != SCHED_RECALLED && ev.flag;
        } else if (trace_special[i] != NULL && strcmp(verb, trace_special[i]) == 0) {
            ev.type = (enum sched_event_type)i;
            ev.flag = i == SCHED_RECALLED ? SCHED_RECALLED_STARTED : 0;
            ev.vm = i == SCHED_RECALLED ? 0 : SCHED_NO_VM;
        }
    }
    ck_assert_msg(ev.type != SCHED_EVENT_COUNT && trace_arguments(&ev, line + used),
                  "no such event: %s", line);
    return ev;
}

static int trace_action(char *to, size_t size, const struct sched_action *a)
{
    unsigned long long first = a->first, count = a->count;
    switch (a->type) {
    case SCHED_ASSIGN:
        return snprintf(to, size, "assign %u:%llu+%llu vm%u try%u", a->stage, first, count, a->vm,
                        a->attempt);
    case SCHED_RECALL:
        return snprintf(to, size, "recall %u:%llu+%llu vm%u", a->stage, first, count, a->vm);
    case SCHED_STORE:
        if (a->vm == SCHED_NO_VM) {
            return snprintf(to, size, "store %u:%llu+%llu handed try%u", a->stage, first, count,
                            a->attempt);
        }
        return snprintf(to, size, "store %u:%llu+%llu vm%u try%u", a->stage, first, count, a->vm,
                        a->attempt);
    case SCHED_DELIVER:
        return snprintf(to, size, "deliver %u:%llu+%llu", a->stage, first, count);
    case SCHED_FAIL:
        return snprintf(to, size, "fail %u:%llu %s try%u", a->stage, first,
                        trace_causes[a->cause], a->attempt);
    case SCHED_DROP:
        return snprintf(to, size, "drop %u:%llu+%llu", a->stage, first, count);
    case SCHED_DONE:
        return snprintf(to, size, "done %u", a->stage);
    case SCHED_WAKE_AT:
        return snprintf(to, size, "wake @%g", (double)a->at_ns / 1000);
    case SCHED_BLOCK_VM:
        return snprintf(to, size, "block vm%u", a->vm);
    case SCHED_CANCEL_RUN:
        return snprintf(to, size, "stop %u:%llu+%llu vm%u", a->stage, first, count, a->vm);
    case SCHED_ACTION_COUNT:
        break;
    }
    ck_abort_msg("action %d does not exist", (int)a->type);
}

int trace_step(struct trace *t, const char *line)
{
    struct sched_event ev = trace_parse(t, line);
    struct sched_actions actions;
    size_t used = 0;
    int rc = sched_step(t->s, &ev, t->now_ns, &actions);
    t->text[0] = '\0';
    for (size_t i = 0; i < actions.count; i++) {
        used += (size_t)snprintf(t->text + used, sizeof t->text - used, "%s", i > 0 ? "; " : "");
        used += (size_t)trace_action(t->text + used, sizeof t->text - used, &actions.items[i]);
        ck_assert_uint_lt(used, sizeof t->text - 128);
    }
    sched_check(t->s);
    return rc;
}

void trace_steps(struct trace *t, bool is_quiet, const char *const lines[], size_t count)
{
    for (size_t i = 0; i < count; i++) {
        int rc = trace_step(t, lines[i]);
        ck_assert_msg(rc == 0, "%s: returned %d", lines[i], rc);
        ck_assert_msg(!is_quiet || t->text[0] == '\0', "%s\n  expected: nothing\n  seen:     %s",
                      lines[i], t->text);
    }
}

struct trace begin(const struct sched_options *opt)
{
    struct trace t = {0};
    ck_assert_int_eq(sched_new(&t.s, opt), 0);
    return t;
}

void end(struct trace *t)
{
    sched_free(t->s);
    ck_assert_uint_eq(mem_live(), 0);
}

struct sched_stage_info info(const struct trace *t, uint32_t stage)
{
    struct sched_stage_info i;
    ck_assert_int_eq(sched_stage_get(t->s, stage, &i), 0);
    return i;
}
