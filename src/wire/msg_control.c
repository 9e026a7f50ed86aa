/* SPDX-License-Identifier: MIT */
/* msg_control.c - HELLO, WELCOME, JOIN, VMS, OUTPUT, DEATH: one table each.
 *
 * Keys are short because VMS repeats them for each VM, and final: a field that changes its
 * meaning gets a new key, one that goes away leaves its key unused. Numbers that others use to
 * index tables (states, purposes) are checked here, so that nobody else needs to. */
#include <stddef.h>
#include <string.h>

#include "base/mem.h"
#include "pack.h"
#include "wire/msg.h"

#define FIELD(type, key, kind, member) {(key), (kind), offsetof(type, member), 0, 0, NULL}
#define TEXT(type, key, member) \
    {(key), PACK_TEXT, offsetof(type, member), sizeof(((type *)0)->member), 0, NULL}
#define BYTES(type, key, member, size_member) \
    {(key), PACK_BYTES, offsetof(type, member), 0, offsetof(type, size_member), NULL}
#define LAYOUT(type, table) {(table), sizeof(table) / sizeof((table)[0]), sizeof(type)}

static const struct pack_field info_fields[] = {
    FIELD(struct trk_vm_info, "id", PACK_ID, incarnation),
    FIELD(struct trk_vm_info, "sup", PACK_ID, supervisor),
    FIELD(struct trk_vm_info, "ix", PACK_U32, index),
    FIELD(struct trk_vm_info, "st", PACK_U32, state),
    FIELD(struct trk_vm_info, "pid", PACK_U32, pid),
    FIELD(struct trk_vm_info, "cpu", PACK_U32, cores),
    FIELD(struct trk_vm_info, "mem", PACK_U64, memory_bytes),
    FIELD(struct trk_vm_info, "drop", PACK_U64, dropped),
    TEXT(struct trk_vm_info, "host", host),
    TEXT(struct trk_vm_info, "mod", module),
    TEXT(struct trk_vm_info, "ver", version),
    TEXT(struct trk_vm_info, "own", owner),
    TEXT(struct trk_vm_info, "note", note),
    TEXT(struct trk_vm_info, "addr", address),
};
static const struct pack_layout info_layout = LAYOUT(struct trk_vm_info, info_fields);

static const struct pack_field hello_fields[] = {
    FIELD(struct wire_hello, "for", PACK_U32, purpose),
    FIELD(struct wire_hello, "job", PACK_ID, job),
    FIELD(struct wire_hello, "ep", PACK_U64, epoch),
    FIELD(struct wire_hello, "inc", PACK_ID, incarnation),
    FIELD(struct wire_hello, "pid", PACK_U32, pid),
    TEXT(struct wire_hello, "host", host),
    TEXT(struct wire_hello, "prog", program),
};
static const struct pack_layout hello_layout = LAYOUT(struct wire_hello, hello_fields);

static const struct pack_field welcome_fields[] = {
    FIELD(struct wire_welcome, "ok", PACK_BOOL, is_accepted),
    TEXT(struct wire_welcome, "why", reason),
    FIELD(struct wire_welcome, "sup", PACK_ID, supervisor),
    {"vm", PACK_STRUCT, offsetof(struct wire_welcome, vm), 0, 0, &info_layout},
};
static const struct pack_layout welcome_layout = LAYOUT(struct wire_welcome, welcome_fields);

static const struct pack_field join_fields[] = {
    FIELD(struct wire_join, "id", PACK_ID, id),
    FIELD(struct wire_join, "tok", PACK_ID, token),
};
static const struct pack_layout join_layout = LAYOUT(struct wire_join, join_fields);

static const struct pack_field vms_fields[] = {
    FIELD(struct wire_vms, "all", PACK_BOOL, is_all),
    FIELD(struct wire_vms, "sup", PACK_ID, supervisor),
    {"vms", PACK_ARRAY, offsetof(struct wire_vms, infos), 0, offsetof(struct wire_vms, count),
     &info_layout},
};
static const struct pack_layout vms_layout = LAYOUT(struct wire_vms, vms_fields);

static const struct pack_field output_fields[] = {
    FIELD(struct wire_output, "vm", PACK_ID, vm),
    FIELD(struct wire_output, "pid", PACK_U32, pid),
    FIELD(struct wire_output, "ix", PACK_U32, index),
    BYTES(struct wire_output, "text", text, size),
};
static const struct pack_layout output_layout = LAYOUT(struct wire_output, output_fields);

static const struct pack_field death_fields[] = {
    FIELD(struct wire_death, "vm", PACK_ID, vm),
    FIELD(struct wire_death, "pid", PACK_U32, pid),
    FIELD(struct wire_death, "ix", PACK_U32, index),
    FIELD(struct wire_death, "own", PACK_ID, lease),
    FIELD(struct wire_death, "sig", PACK_I32, signal),
    FIELD(struct wire_death, "exit", PACK_I32, exit_status),
    FIELD(struct wire_death, "exp", PACK_BOOL, is_expected),
    FIELD(struct wire_death, "end", PACK_U32, end),
    FIELD(struct wire_death, "rss", PACK_U64, rss_max_bytes),
    FIELD(struct wire_death, "run", PACK_BOOL, has_element),
    FIELD(struct wire_death, "stg", PACK_U32, stage),
    FIELD(struct wire_death, "att", PACK_U32, attempt),
    FIELD(struct wire_death, "el", PACK_U64, index_of_element),
    FIELD(struct wire_death, "ns", PACK_U64, ran_ns),
    BYTES(struct wire_death, "out", output, output_size),
};
static const struct pack_layout death_layout = LAYOUT(struct wire_death, death_fields);

static bool is_state(uint32_t state)
{
    return state <= TRK_VM_FINISHING;
}

struct blob *wire_hello_encode(const struct wire_hello *m)
{
    return pack_encode(&hello_layout, m);
}

int wire_hello_decode(struct wire_hello *m, const struct blob *body)
{
    int rc = pack_decode(&hello_layout, m, body);

    if (rc == 0 && m->purpose != WIRE_PURPOSE_LEASE && m->purpose != WIRE_PURPOSE_WATCH) {
        rc = TRK_ECORRUPT;
    }
    return rc;
}

struct blob *wire_welcome_encode(const struct wire_welcome *m)
{
    return pack_encode(&welcome_layout, m);
}

int wire_welcome_decode(struct wire_welcome *m, const struct blob *body)
{
    int rc = pack_decode(&welcome_layout, m, body);

    return rc == 0 && !is_state(m->vm.state) ? TRK_ECORRUPT : rc;
}

struct blob *wire_join_encode(const struct wire_join *m)
{
    return pack_encode(&join_layout, m);
}

int wire_join_decode(struct wire_join *m, const struct blob *body)
{
    return pack_decode(&join_layout, m, body);
}

struct blob *wire_vms_encode(const struct wire_vms *m)
{
    return pack_encode(&vms_layout, m);
}

int wire_vms_decode(struct wire_vms *m, const struct blob *body)
{
    int rc = pack_decode(&vms_layout, m, body);

    for (size_t i = 0; rc == 0 && i < m->count; i++) {
        if (!is_state(m->infos[i].state)) {
            rc = TRK_ECORRUPT;
        }
    }
    if (rc != 0) {
        mem_free(m->infos);
        memset(m, 0, sizeof(*m));
    }
    return rc;
}

struct blob *wire_output_encode(const struct wire_output *m)
{
    return pack_encode(&output_layout, m);
}

int wire_output_decode(struct wire_output *m, const struct blob *body)
{
    return pack_decode(&output_layout, m, body);
}

struct blob *wire_death_encode(const struct wire_death *m)
{
    return pack_encode(&death_layout, m);
}

int wire_death_decode(struct wire_death *m, const struct blob *body)
{
    int rc = pack_decode(&death_layout, m, body);

    return rc == 0 && m->end >= WIRE_END_COUNT ? TRK_ECORRUPT : rc;
}
