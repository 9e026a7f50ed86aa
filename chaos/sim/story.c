/* SPDX-License-Identifier: MIT */
/* story.c - the trace for people, and all tables when a promise is broken. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

#define LL unsigned long long
#define STUCK_SHOWN 8

static const char *const slot_names[] = {"free", "trying", "held"};

void story_tell(struct sim *s, const char *who, uint32_t number, const char *format, ...)
{
    va_list args;
    printf("%14.6f ms  %-8s", (double)s->clock.now_ns / 1e6, who);
    if (who[0] == 'v' || who[0] == 'm' || who[0] == 'n') { /* there are several */
        printf("%-4u ", number);
    } else {
        printf("     ");
    }
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static void show_stage(struct sim *s, uint32_t stage)
{
    const struct program_stage *st = &s->program.stage[stage];
    const struct stage_record *r = &s->judge.stage[stage];
    struct sched_stage_info info = {0};
    unsigned shown = 0;
    bool is_known = s->farm.is_alive &&
                    sched_stage_get(s->farm.sched, stage + 1, &info) == 0;
    fprintf(stderr, "  stage %u: %s%s%s; %llu of %llu added, %llu recorded, %llu taken\n",
            stage + 1, st->is_finished ? "finished" : st->is_open ? "open" : "not opened",
            st->is_closed ? ", input closed" : "", st->is_full ? ", scheduler is full" : "",
            (LL)st->added, (LL)r->count, (LL)r->recorded, (LL)st->taken);
    if (!is_known) {
        return;
    }
    fprintf(stderr, "    scheduler: %llu pending, %llu delayed, %llu assigned, %llu returned, %llu "
            "recorded, %llu delivered, %u VMs\n", (LL)info.pending, (LL)info.delayed,
            (LL)info.assigned, (LL)info.returned, (LL)info.recorded, (LL)info.delivered, info.vms);
    for (uint64_t i = 0; i < st->added && shown < STUCK_SHOWN; i++) {
        const struct fate *f = &r->fates[i];
        if ((f->bits & FATE_DELIVERED) == 0) {
            fprintf(stderr, "    element %llu: assigned %u times, started %u, %u deaths, %u "
                    "losses%s%s", (LL)i, f->assigned, f->started, f->own_deaths, f->losses,
                    (f->bits & FATE_PUT) != 0 ? ", put" : "",
                    (f->bits & FATE_RECORDED) != 0 ? ", recorded" : "");
            if (f->holder[0] != 0) {
                fprintf(stderr, ", VM %u has it", f->holder[0] - 1);
            }
            fputc('\n', stderr);
            shown++;
        }
    }
}

static void show_vm(const struct sim *s, uint32_t number)
{
    const struct vm *vm = &s->vms.all[number];
    static const struct slot none;
    const struct slot *slot = s->farm.is_alive ? &s->farm.slots[number] : &none;
    fprintf(stderr, "  VM %u: %s%s%s%s%s%s", number, vm->is_up ? "up" : "down",
            vm->is_stopped ? ", stopped" : "", vm->blocks > 0 ? ", not heard" : "",
            vm->is_draining ? ", draining" : "", vm->is_away ? ", away" : "",
            vm->is_orphan ? ", orphan" : "");
    if (vm->is_busy && vm->job.kind == AGENT_ELEMENT) {
        fprintf(stderr, ", runs element %llu of stage %u", (LL)vm->job.index, vm->job.stage);
    }
    if (vm->agent != NULL) {
        fprintf(stderr, ", %zu queued, %zu held", agent_queued(vm->agent),
                agent_held(vm->agent, NULL));
    }
    fprintf(stderr, "; at the farm: %s%s%s%s\n", slot_names[slot->state],
            slot->is_joined ? ", joined" : "", slot->is_down ? ", down" : "",
            slot->is_draining ? ", draining" : "");
}

static void show_all(struct sim *s)
{
    fprintf(stderr, "at %.6f ms, %s:\n", (double)s->clock.now_ns / 1e6,
            s->is_quiet ? "in the quiet phase" : "among the faults");
    for (uint32_t i = 0; i < s->plan.stages; i++) {
        show_stage(s, i);
    }
    for (uint32_t i = 0; i < s->plan.vms && i < 32; i++) {
        show_vm(s, i);
    }
    fprintf(stderr, "  store: %s%s, %zu runs wait\n", s->store.is_syncing ? "syncing" : "idle",
            s->store.disk.is_full ? ", disk full" : "", s->store.next.count);
    fprintf(stderr, "  farm: process %u, epoch %llu%s%s\n", s->farm_processes,
            (LL)s->farm.epoch, s->farm.is_alive ? "" : ", dead",
            s->farm.is_open ? "" : ", not open");
}

void sim_broken(struct sim *s, const char *format, ...)
{
    va_list args;
    fputs("BROKEN: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    show_all(s);
    fflush(NULL);
    _Exit(1);
}
