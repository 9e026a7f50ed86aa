/* SPDX-License-Identifier: MIT */
/* samples.c - see samples.h. Encoding and decoding for each kind is generated from its name. */
#include "samples.h"

#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/mem.h"

uint64_t sample_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void fill_id(uint8_t id[16], unsigned seed)
{
    for (unsigned i = 0; i < 16; i++) {
        id[i] = (uint8_t)(seed * 31 + i * 7);
    }
}

void sample_info(struct trk_vm_info *info, unsigned seed)
{
    memset(info, 0, sizeof(*info));
    fill_id(info->incarnation, seed);
    fill_id(info->supervisor, seed + 1);
    info->index = seed;
    info->state = seed % (TRK_VM_FINISHING + 1);
    info->pid = 4000 + seed;
    info->cores = 8;
    info->memory_bytes = UINT64_C(16) << 30;
    info->dropped = seed;
    snprintf(info->host, sizeof(info->host), "node%u", seed);
    snprintf(info->module, sizeof(info->module), "python");
    snprintf(info->version, sizeof(info->version), "3.11.%u", seed);
    snprintf(info->owner, sizeof(info->owner), "wfreq.py (pid %u, \xff\xfe)", seed);
    snprintf(info->address, sizeof(info->address), "unix:/tmp/trickle-0/v-1-abcd-%u.sock", seed);
}

static struct blob *body_hello(void)
{
    struct wire_hello m = {.purpose = WIRE_PURPOSE_LEASE, .epoch = 3, .pid = 77,
                           .host = "alpha", .program = "wfreq.py"};

    fill_id(m.job, 1);
    fill_id(m.incarnation, 2);
    return wire_hello_encode(&m);
}

static struct blob *body_welcome(void)
{
    struct wire_welcome m = {.is_accepted = true, .reason = "leased by nobody"};

    fill_id(m.supervisor, 3);
    sample_info(&m.vm, 4);
    return wire_welcome_encode(&m);
}

static struct blob *body_vms(void)
{
    struct trk_vm_info infos[2];
    struct wire_vms m = {.is_all = true, .infos = infos, .count = 2};

    fill_id(m.supervisor, 5);
    sample_info(&infos[0], 6);
    sample_info(&infos[1], 7);
    return wire_vms_encode(&m);
}

static struct blob *body_output(void)
{
    struct wire_output m = {.pid = 5, .index = 1, .text = "hello\nworld\n", .size = 12};

    fill_id(m.vm, 8);
    return wire_output_encode(&m);
}

static struct blob *body_death(void)
{
    struct wire_death m = {.pid = 6, .index = 2, .signal = 11, .exit_status = -1,
                           .end = WIRE_END_TIMEOUT,
                           .rss_max_bytes = 1 << 20, .has_element = true, .stage = 1,
                           .attempt = 2, .index_of_element = 123456789012, .ran_ns = 1000000,
                           .output = "boom\n", .output_size = 5};

    fill_id(m.vm, 9);
    fill_id(m.lease, 10);
    return wire_death_encode(&m);
}

static struct blob *body_request(void)
{
    struct wire_request m = {.op = TRK_OP_CALL, .object = 42, .name = "count", .name_size = 5,
                             .payload = "args", .size = 4};

    return wire_request_encode(&m);
}

static struct blob *body_reply(void)
{
    struct wire_reply m = {.status = TRK_STATUS_EXCEPTION, .payload = "value", .size = 5};

    return wire_reply_encode(&m);
}

static struct blob *body_stage(void)
{
    struct wire_stage m = {.stage = 9, .timeout_ms = 1500, .flags = WIRE_STAGE_DURABLE,
                           .function = "lambda x: x", .size = 11};

    fill_id(m.fingerprint, 11);
    return wire_stage_encode(&m);
}

static struct blob *body_run(void)
{
    static const struct wire_part parts[] = {{"one", 3}, {"", 0}, {"three", 5}};

    return wire_run_encode(9, 1, 1000, parts, 3);
}

static struct blob *body_result(void)
{
    static const uint8_t statuses[] = {TRK_STATUS_OK, TRK_STATUS_EXCEPTION, TRK_STATUS_ERROR};
    static const uint32_t sizes[] = {1, 0, 4};
    struct wire_result m = {.stage = 9, .attempt = 1, .count = 3, .first = 1000, .seq = 17,
                            .busy_ns = 123456};

    return wire_result_encode(&m, statuses, sizes, "abcde", 5);
}

static struct blob *body_note(void)
{
    struct wire_note m = {.stage = 9, .count = 3, .flag = 1, .first = 1000, .seq = 17};

    return wire_note_encode(&m);
}

static struct blob *body_held(void)
{
    struct wire_held m = {.token = 5, .stage = 9, .attempt = 2, .index = 1000, .epoch = 3,
                          .kind = WIRE_HELD_RESULT, .status = TRK_STATUS_EXCEPTION,
                          .payload = "value", .size = 5};

    fill_id(m.element, 12);
    fill_id(m.fingerprint, 13);
    return wire_held_encode(&m);
}

static struct blob *body_state(void)
{
    struct wire_state m = {.stage = 9, .attempt = 2, .index = 1000, .seq = 4, .bytes = "half",
                           .size = 4};

    fill_id(m.element, 14);
    return wire_state_encode(&m);
}

static struct blob *body_join(void)
{
    struct wire_join m;

    fill_id(m.id, 21);
    fill_id(m.token, 22);
    return wire_join_encode(&m);
}

#define AGAIN(kind)                                                        \
    static int again_##kind(const struct blob *body, struct blob **again) \
    {                                                                      \
        struct wire_##kind m;                                              \
        int rc = wire_##kind##_decode(&m, body);                           \
        if (rc == 0 && again != NULL) {                                    \
            *again = wire_##kind##_encode(&m);                             \
            rc = *again != NULL ? 0 : TRK_ENOMEM;                          \
        }                                                                  \
        return rc;                                                         \
    }
AGAIN(hello)
AGAIN(welcome)
AGAIN(output)
AGAIN(death)
AGAIN(request)
AGAIN(reply)
AGAIN(stage)
AGAIN(note)
AGAIN(held)
AGAIN(state)
AGAIN(join)

static int again_vms(const struct blob *body, struct blob **again)
{
    struct wire_vms m;
    int rc = wire_vms_decode(&m, body);

    if (rc == 0 && again != NULL) {
        *again = wire_vms_encode(&m);
        rc = *again != NULL ? 0 : TRK_ENOMEM;
    }
    mem_free(m.infos);
    return rc;
}

static int again_run(const struct blob *body, struct blob **again)
{
    struct wire_run m;
    struct wire_part *parts;
    const uint8_t *at;
    int rc = wire_run_decode(&m, body);

    if (rc != 0 || again == NULL) {
        return rc;
    }
    parts = mem_zalloc(m.count, sizeof(*parts));
    if (parts == NULL) {
        return TRK_ENOMEM;
    }
    at = m.payloads;
    for (uint32_t i = 0; i < m.count; i++) {
        parts[i] = (struct wire_part){at, le_load_u32(m.sizes + (size_t)i * 4)};
        at += parts[i].size;
    }
    *again = wire_run_encode(m.stage, m.attempt, m.first, parts, m.count);
    mem_free(parts);
    return *again != NULL ? 0 : TRK_ENOMEM;
}

static int again_result(const struct blob *body, struct blob **again)
{
    struct wire_result m;
    uint32_t *sizes;
    size_t sum = 0;
    int rc = wire_result_decode(&m, body);

    if (rc != 0 || again == NULL) {
        return rc;
    }
    sizes = mem_zalloc(m.count, sizeof(*sizes));
    if (sizes == NULL) {
        return TRK_ENOMEM;
    }
    for (uint32_t i = 0; i < m.count; i++) {
        sizes[i] = le_load_u32(m.sizes + (size_t)i * 4);
        sum += sizes[i];
    }
    *again = wire_result_encode(&m, m.statuses, sizes, m.payloads, sum);
    mem_free(sizes);
    return *again != NULL ? 0 : TRK_ENOMEM;
}

static const struct {
    const char *name;
    struct blob *(*body)(void);
    int (*again)(const struct blob *body, struct blob **again);
    bool is_open_ended, is_flat;
} samples[SAMPLE_KIND_COUNT] = {
    [SAMPLE_HELLO] = {"hello", body_hello, again_hello, false, false},
    [SAMPLE_WELCOME] = {"welcome", body_welcome, again_welcome, false, false},
    [SAMPLE_VMS] = {"vms", body_vms, again_vms, false, false},
    [SAMPLE_OUTPUT] = {"output", body_output, again_output, false, false},
    [SAMPLE_DEATH] = {"death", body_death, again_death, false, false},
    [SAMPLE_REQUEST] = {"request", body_request, again_request, true, true},
    [SAMPLE_REPLY] = {"reply", body_reply, again_reply, true, true},
    [SAMPLE_STAGE] = {"stage", body_stage, again_stage, true, true},
    [SAMPLE_RUN] = {"run", body_run, again_run, false, true},
    [SAMPLE_RESULT] = {"result", body_result, again_result, false, true},
    [SAMPLE_NOTE] = {"note", body_note, again_note, false, true},
    [SAMPLE_HELD] = {"held", body_held, again_held, true, true},
    [SAMPLE_STATE] = {"state", body_state, again_state, true, true},
    [SAMPLE_JOIN] = {"join", body_join, again_join, false, false},
};

const char *sample_name(enum sample_kind kind)
{
    return samples[kind].name;
}

struct blob *sample_body(enum sample_kind kind)
{
    return samples[kind].body();
}

int sample_again(enum sample_kind kind, const struct blob *body, struct blob **again)
{
    return samples[kind].again(body, again);
}

bool sample_is_open_ended(enum sample_kind kind)
{
    return samples[kind].is_open_ended;
}

bool sample_is_flat(enum sample_kind kind)
{
    return samples[kind].is_flat;
}
