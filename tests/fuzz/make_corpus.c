/* SPDX-License-Identifier: MIT */
/* make_corpus.c - writes the seed corpus into FOLDER/{frame,msg,beacon,record,value}: valid
 * inputs, always the same, for a fuzzer to start from. Run it again when a format changes:
 *   build/tests/fuzz/make_corpus tests/fuzz/corpus */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "../wire/samples.h"
#include "base/buf.h"
#include "ckpt/record.h"
#include "ckpt/value.h"
#include "wire/beacon.h"
#include "wire/frame.h"

static const char *root;
static bool has_failed;

/* Writes b into a file and empties it. */
static void save(const char *target, const char *name, struct buf *b)
{
    struct blob *bytes = buf_take(b);
    char path[4096];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof(path), "%s/%s/%s", root, target, name);
    file = fopen(path, "wb");
    if (bytes == NULL || file == NULL ||
        fwrite(bytes->data, 1, bytes->size, file) != bytes->size) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        has_failed = true;
    }
    if (file != NULL && fclose(file) != 0) {
        has_failed = true;
    }
    blob_unref(bytes);
}

static void save_messages(void)
{
    for (int kind = 0; kind < SAMPLE_KIND_COUNT; kind++) {
        struct blob *body = sample_body((enum sample_kind)kind);
        struct buf b;

        buf_init(&b);
        buf_put_u8(&b, (uint8_t)kind);
        buf_put(&b, body->data, body->size);
        save("msg", sample_name((enum sample_kind)kind), &b);
        blob_unref(body);
    }
}

static void save_beacons(void)
{
    static const char *const names[] = {"ask", "answer", "here"};

    for (uint8_t i = 0; i < 6; i++) {
        struct wire_beacon beacon = {.kind = WIRE_BEACON_ASK + i / 2, .is_sealed = i % 2 == 1,
                                     .port = 8407, .address = {[10] = 0xff, 0xff, 10, 1, 2, 3}};
        uint8_t bytes[WIRE_BEACON_BYTES];
        char name[32];
        struct buf b;

        memset(beacon.nonce, 'n', beacon.kind != WIRE_BEACON_HERE ? sizeof(beacon.nonce) : 0);
        memset(beacon.supervisor, 's', beacon.kind != WIRE_BEACON_ASK ? 16 : 0);
        memset(beacon.key_id, 'k', beacon.is_sealed ? sizeof(beacon.key_id) : 0);
        memset(beacon.mac, 'm', beacon.is_sealed ? sizeof(beacon.mac) : 0);
        wire_beacon_put(bytes, &beacon);
        buf_init(&b);
        buf_put(&b, bytes, sizeof(bytes));
        snprintf(name, sizeof(name), "%s%s", names[i / 2], beacon.is_sealed ? "_sealed" : "");
        save("beacon", name, &b);
    }
}

/* What fuzz_frame takes first. */
static void start_stream(struct buf *b, uint8_t options)
{
    buf_init(b);
    buf_put_u8(b, options);
    buf_put_u8(b, 7);
}

static void put_frame(struct buf *b, struct wire_header h, uint64_t total, const char *text)
{
    uint8_t head[WIRE_HEADER_BYTES];

    h.length = (uint32_t)(strlen(text) + (total > 0 ? 8 : 0));
    wire_header_put(head, &h);
    buf_put(b, head, sizeof(head));
    if (total > 0) {
        buf_put_u64(b, total);
    }
    buf_put(b, text, strlen(text));
}

static void put_sample(struct buf *b, uint8_t type, enum sample_kind kind)
{
    struct blob *body = sample_body(kind);
    struct wire_header h = {type, 0, 1, (uint32_t)body->size};
    uint8_t head[WIRE_HEADER_BYTES];

    wire_header_put(head, &h);
    buf_put(b, head, sizeof(head));
    buf_put(b, body->data, body->size);
    blob_unref(body);
}

static void save_streams(void)
{
    const struct wire_header first = {WIRE_RUN, WIRE_FIRST | WIRE_MORE, 7, 0};
    const struct wire_header more = {WIRE_RUN, WIRE_MORE, 7, 0};
    const struct wire_header last = {WIRE_RUN, 0, 7, 0};
    const struct wire_header ping = {WIRE_PING, 0, 0, 0};
    struct buf b;

    start_stream(&b, 2);
    put_sample(&b, WIRE_HELLO, SAMPLE_HELLO);
    put_sample(&b, WIRE_REQUEST, SAMPLE_REQUEST);
    put_sample(&b, WIRE_RUN, SAMPLE_RUN);
    save("frame", "greeting_then_work", &b);

    start_stream(&b, 1);
    put_frame(&b, first, 12, "abcd");
    put_frame(&b, ping, 0, "");
    put_frame(&b, more, 0, "efg");
    put_frame(&b, last, 0, "hijkl");
    put_frame(&b, ping, 0, "");
    save("frame", "fragments", &b);

    start_stream(&b, 1);
    put_frame(&b, first, WIRE_MESSAGE_MAX, "abcd");
    save("frame", "largest_total", &b);

    start_stream(&b, 0);
    put_sample(&b, WIRE_WELCOME, SAMPLE_WELCOME);
    put_frame(&b, ping, 0, "");
    save("frame", "stranger", &b);

    start_stream(&b, 1);
    put_sample(&b, WIRE_VMS, SAMPLE_VMS);
    put_sample(&b, WIRE_OUTPUT, SAMPLE_OUTPUT);
    put_sample(&b, WIRE_DEATH, SAMPLE_DEATH);
    put_sample(&b, WIRE_HELD, SAMPLE_HELD);
    save("frame", "supervisor", &b);
}

static void save_record(const char *name, enum ckpt_kind kind, uint32_t flags, size_t key_size,
                        const uint8_t *body, size_t size)
{
    static const uint8_t uuid[RECORD_UUID] = "a store's uuid.";
    static const uint8_t key[KEY_STAGE_NUMBER] = "a key 12345";
    struct record r = {.kind = kind, .flags = flags, .epoch = 2, .version = 70, .base = 60,
                       .uuid = uuid, .key = key, .key_size = key_size, .body_size = size};
    uint8_t bytes[1024];
    struct buf b;

    memcpy(bytes + RECORD_HEAD + key_size, body, size);
    record_seal(bytes, &r);
    buf_init(&b);
    buf_put_u8(&b, 1);
    buf_put(&b, bytes, record_size(key_size, size));
    save("record", name, &b);
}

static void save_records(void)
{
    uint8_t body[RECORD_RUN_BYTES + RECORD_PARTS_BYTES] = {0};

    record_run_put(body, &(struct record_run){.first = 10, .count = 5, .failed = 1});
    save_record("result", CKPT_RESULT, 0, KEY_STAGE_NUMBER, body, sizeof(body));
    save_record("forget", CKPT_FORGET, 0, KEY_STAGE_NUMBER, body, RECORD_RUN_BYTES);
    record_parts_put(body + RECORD_RUN_BYTES, &(struct record_parts){.body = 9, .size = 1u << 21,
                                                                     .count = 2});
    save_record("result_in_parts", CKPT_RESULT, RECORD_IN_PARTS, KEY_STAGE_NUMBER, body,
                sizeof(body));
    save_record("work", CKPT_WORK, 0, KEY_STAGE_NUMBER, body, 20);
    record_count_put(body, &(struct record_count){.recorded = 5, .runs = 1, .bytes = 500});
    save_record("count", CKPT_COUNT, 0, KEY_STAGE, body, RECORD_COUNT_BYTES);
    record_tail_put(body, &(struct record_tail){.version = 70, .records = 60});
    save_record("tail", CKPT_TAIL, 0, 4, body, RECORD_TAIL_BYTES);
}

static void save_value(const char *name, uint8_t which, struct blob *value)
{
    struct buf b;

    buf_init(&b);
    buf_put_u8(&b, which);
    if (value == NULL) {
        has_failed = true;
    } else {
        buf_put(&b, value->data, value->size);
    }
    save("value", name, &b);
    blob_unref(value);
}

static void save_values(void)
{
    static const uint8_t digests[2 * 16] = "two digests", le_sizes[2 * 4] = {3, 0, 0, 0, 2};
    static const uint8_t result[] = {1, 0, 0, 0, 0, 2, 1, 0, 0, 0, 2, 0, 0, 0, 'a', 'b', 'b'};
    static char output[] = "last words";
    struct value_attempt attempts[2] = {
        {.epoch = 1, .a = {.attempt = 1, .outcome = TRK_OUTCOME_DIED, .vm_host = "host",
                           .signal = 9, .output = output, .output_size = sizeof(output) - 1}},
        {.epoch = 2, .a = {.attempt = 2}},
    };
    uint8_t spans[2][VALUE_WORK_SPAN];
    struct value_work work = {.count = 2, .digests = digests, .spans = 2, .delivered = spans[0]};

    save_value("stage", 0, value_stage_encode(&(struct value_stage){
        .total = 5, .is_closed = true, .previous = 1, .key = "key#2", .key_size = 5,
        .name = "name", .name_size = 4}));
    value_work_span_put(spans[0], 1, 0);
    value_work_span_put(spans[1], 1, 7);
    save_value("work", 1, value_work_encode(&work));
    work.sizes = le_sizes;
    work.elements = (const uint8_t *)"aaabb";
    work.elements_size = 5;
    save_value("work_with_elements", 1, value_work_encode(&work));
    save_value("attempts", 2, value_attempts_encode(attempts, 2));
    save_value("state", 3, value_state_encode(&(struct value_state){
        .epoch = 2, .attempt = 1, .element = {"an element's sum"}, .bytes = "half", .size = 4}));
    save_value("result", 4 + 2, blob_dup(result, sizeof(result)));
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_corpus FOLDER\n");
        return 2;
    }
    root = argv[1];
    mkdir(root, 0777);
    save_messages();
    save_beacons();
    save_streams();
    save_records();
    save_values();
    return has_failed ? 1 : 0;
}
