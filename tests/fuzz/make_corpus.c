/* SPDX-License-Identifier: MIT */
/* make_corpus.c - writes the seed corpus into FOLDER/TARGET/NAME: valid inputs, always the same,
 * for a fuzzer to start from. Run it again when a format changes:
 *   build/tests/fuzz/make_corpus tests/fuzz/corpus */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <lmdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../wire/samples.h"
#include "base/buf.h"
#include "base/mem.h"
#include "ckpt/record.h"
#include "ckpt/value.h"
#include "discovery/seal.h"
#include "keys.h"
#include "rai/native_spec.h"
#include "tls_rig.h"
#include "trickle/exec.h"
#include "vm/spool.h"
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

/* Sealed by the farm's second key, bare, and one that fuzz_seal seals itself. */
static void save_seal(const char *name, struct wire_beacon *beacon)
{
    struct discovery_seals seals;
    struct auth_keys keys;
    uint8_t bytes[WIRE_BEACON_BYTES];
    struct buf b;
    int rc;

    fuzz_keys(&keys);
    rc = discovery_seals_init(&seals, beacon->is_sealed ? &keys : NULL);
    assert(rc == 0);
    rc = discovery_seals_put(&seals, beacon->is_sealed ? 1 : 0, beacon, bytes);
    assert(rc == 0);
    buf_init(&b);
    buf_put_u8(&b, beacon->is_sealed ? 0 : 2);
    buf_put(&b, bytes, sizeof(bytes));
    save("seal", name, &b);
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
        save_seal(name, &beacon);
    }
}

/* options: what the target takes first, or -1. */
static void save_text(const char *target, const char *name, int options, const char *text)
{
    struct buf b;

    buf_init(&b);
    if (options >= 0) {
        buf_put_u8(&b, (uint8_t)options);
    }
    buf_put(&b, text, strlen(text));
    save(target, name, &b);
}

static void save_texts(void)
{
    static const char keys[] = FUZZ_KEYS;
    const char *second = strchr(keys, '\n') + 1;

    save_text("key", "two", -1, keys);
    save_text("key", "one", -1, second);
    save_text("key", "three", -1, FUZZ_KEYS FUZZ_KEYS);
    save_text("key", "other_version", -1, "trickle-key-2 81d214bb 6f6c64\n");
    save_text("key", "wrong_id", -1, "trickle-key-1 00000000 "
              "6f6c64206f6c64206f6c64206f6c64206f6c64206f6c64206f6c64206f6c6421\n");
    save_text("address", "ipv4", -1, "tcp:10.1.2.3:8407");
    save_text("address", "ipv6", -1, "tcp:[fd00::1:2]:65535");
    save_text("address", "ipv6_of_ipv4", -1, "tcp:[::ffff:10.1.2.3]:0");
    save_text("address", "ipv6_scope", -1, "tcp:[fe80::1%lo]:1");
    save_text("address", "unix", -1, "unix:/run/user/1000/trickle/s-1.sock");
    save_text("hosts", "list", 0, "10.0.0.5:4711, [fd00::5]:80 ,127.0.0.1:65535,");
    save_text("hosts", "names", 0, "render-1.example.org:8407,[fe80::1%lo]:1,under_score:1");
    save_text("hosts", "file", 1, "# ours\n10.0.0.5:4711 render1:8407\r\n\t[fd00::5]:80, # v6\n");
    save_text("hosts", "groups", 2, "239.192.84.107:8407,[ff12::5472:6b6c]:8407,[ff15::1]:8407");
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
    buf_put_u8(&b, 3);
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
    save_record("elements", CKPT_ELEMENTS, 0, KEY_STAGE_NUMBER, body, 20);
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
    static const uint8_t digests[2 * 16] = "two digests";
    static const uint8_t elements[] = {1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0,
                                       'a', 'a', 'a', 'b', 'b'};
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
    save_value("elements", UINT8_MAX, blob_dup(elements, sizeof(elements)));
    save_value("attempts", 2, value_attempts_encode(attempts, 2));
    save_value("state", 3, value_state_encode(&(struct value_state){
        .epoch = 2, .attempt = 1, .element = {"an element's sum"}, .bytes = "half", .size = 4}));
    save_value("result", 4 + 2, blob_dup(result, sizeof(result)));
}

static void save_native(const char *name, const struct native_spec *spec)
{
    struct blob *bytes = native_spec_encode(spec);
    struct buf b;

    buf_init(&b);
    buf_put(&b, bytes->data, bytes->size);
    save("native", name, &b);
    blob_unref(bytes);
}

static void save_natives(void)
{
    save_native("sent", &(struct native_spec){
        .kind = NATIVE_SENT, .digest = {"of a shared obj"}, .symbol = "tile", .symbol_size = 4,
        .library = "tiles.so", .library_size = 8});
    save_native("found", &(struct native_spec){
        .kind = NATIVE_FOUND, .symbol = "cos", .symbol_size = 3, .library = "libm.so.6",
        .library_size = 9});
}

/* --- commands ----------------------------------------------------------------------------- */

static void save_exec(const char *name, int rc, void *bytes, size_t size)
{
    struct buf b;

    assert(rc == 0);
    buf_init(&b);
    buf_put(&b, bytes, size);
    save("exec", name, &b);
    mem_free(bytes);
}

static void save_execs(void)
{
    static const struct trk_exec_piece pieces[] = {
        {.text = {"convert ", 8}},
        {.kind = TRK_EXEC_FIELD, .transform = TRK_EXEC_NO_ENDING, .index = 1, .is_quoted = true},
        {.kind = TRK_EXEC_OUTPUT},
        {.kind = TRK_EXEC_NUMBER},
        {.kind = TRK_EXEC_FILE, .is_quoted = true}};
    const struct trk_exec_word command = {pieces, 3}, output = {pieces + 3, 1}, cwd = {pieces, 1},
                               check = {pieces + 4, 1};
    static const struct trk_exec_bytes set[] = {{"A=1", 3}}, unset[] = {{"B", 1}};
    static const struct trk_exec_bytes fields[] = {{"a\0b", 3}, {"", 0}};
    const struct trk_exec_spec spec = {
        .size = sizeof(spec), .argv = &command, .argc = 1, .is_shell = true, .cwd = cwd,
        .input = command, .has_input = true, .env = set, .env_count = 1, .unset = unset,
        .unset_count = 1, .outputs = &output, .outputs_count = 1, .check = &check,
        .check_count = 1, .timeout_ms = 1000};
    const struct trk_exec_result result = {
        .outcome = TRK_EXEC_EXIT, .exit_status = 3, .why = {"it exited", 9},
        .out = {"headtail", 8, 4, 100}, .err = {"e", 1, 1, 1}};
    void *bytes = NULL;
    size_t size = 0;
    int rc = trk_exec_spec_encode(&spec, &bytes, &size);
    save_exec("command", rc, bytes, size);
    rc = trk_exec_element_encode(fields, 2, &bytes, &size);
    save_exec("element", rc, bytes, size);
    rc = trk_exec_result_encode(&result, &bytes, &size);
    save_exec("result", rc, bytes, size);
}

/* --- held results ------------------------------------------------------------------------- */

/* What fuzz_spool takes: byte 0, then the file at path. */
static void save_spool(const char *name, const char *path)
{
    uint8_t bytes[4096];
    FILE *file = fopen(path, "rb");
    struct buf b;

    assert(file != NULL);
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    buf_init(&b);
    buf_put_u8(&b, 1);
    buf_put(&b, bytes, size);
    save("spool", name, &b);
}

static void save_spools(void)
{
    static const uint8_t job[16] = "jjjjjjjjjjjjjjjj";
    const struct spool_entry entries[] = {
        {.kind = WIRE_HELD_RESULT, .stage = 7, .attempt = 2, .index = 1000, .element = "element",
         .fingerprint = "code", .payload = "result", .size = 6},
        {.kind = WIRE_HELD_RESULT, .status = TRK_STATUS_EXCEPTION, .stage = 7, .index = 1001},
        {.kind = WIRE_HELD_STATE, .stage = 8, .attempt = 1, .index = 5, .payload = "half",
         .size = 4}};
    char home[] = "/tmp/make-corpus-XXXXX" "X", path[128];
    struct spool_writer *w;
    int rc = mkdtemp(home) != NULL ? spool_create(&w, home, job, 3, "it") : TRK_EIO;

    for (size_t i = 0; i < 3 && rc == 0; i++) {
        rc = spool_add(w, &entries[i]);
    }
    rc = rc == 0 ? spool_commit(w) : rc;
    assert(rc == 0);
    snprintf(path, sizeof(path), "%s/held/6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a6a/it.held", home);
    save_spool("three", path);
    rc = truncate(path, 64);
    assert(rc == 0);
    save_spool("none", path);
    spool_remove(home, job, "it"); /* and its directory, being the last */
    snprintf(path, sizeof(path), "%s/held", home);
    rmdir(path);
    rmdir(home);
}

/* --- pages of a store --------------------------------------------------------------------- */

/* The file without its zeros, as fuzz_pages takes it. */
static void save_pages(const char *name, const char *path)
{
    static uint8_t bytes[4u << 20];
    FILE *file = fopen(path, "rb");
    struct buf b;

    assert(file != NULL);
    size_t size = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    buf_init(&b);
    buf_put_u16(&b, (uint16_t)(size / 4096));
    for (size_t at = 0; at < size;) {
        size_t end = at, zeros = 0;
        while (end < size && zeros < 8 && end - at < UINT16_MAX) {
            zeros = bytes[end++] == 0 ? zeros + 1 : 0;
        }
        if (end - at > zeros) {
            buf_put_u32(&b, (uint32_t)at);
            buf_put_u16(&b, (uint16_t)(end - at - zeros));
            buf_put(&b, bytes + at, end - at - zeros);
        }
        at = end;
    }
    save("pages", name, &b);
}

struct turn {
    const char *table;
    unsigned count; /* of keys, put or deleted */
    size_t size;    /* of their values */
    bool deletes;
};

/* Tables of several kinds: of one page, of many, with values that have pages of their own; and,
 * since some of it is deleted again, lists of free pages, of which one has pages of its own. */
static const struct turn turns[] = {
    {"small", 10, 8, false}, {"tree", 80, 500, false}, {"large", 3, 10000, false},
    {"small", 5, 0, true},   {"tree", 40, 0, true},    {"large", 2, 0, true},
    {"many", 90, 10000, false}, {"many", 90, 0, true},
};

static void take_turn(MDB_env *env, const struct turn *t)
{
    static uint8_t value_bytes[10000];
    char key_text[16];
    MDB_txn *txn;
    MDB_dbi dbi;
    int rc = mdb_txn_begin(env, NULL, 0, &txn);

    rc = rc == 0 ? mdb_dbi_open(txn, t->table, MDB_CREATE, &dbi) : rc;
    assert(rc == 0);
    for (unsigned i = 0; i < t->count; i++) {
        MDB_val key = {(size_t)snprintf(key_text, sizeof(key_text), "key%05u", i), key_text};
        MDB_val value = {t->size, value_bytes};
        rc = t->deletes ? mdb_del(txn, dbi, &key, NULL) : mdb_put(txn, dbi, &key, &value, 0);
        assert(rc == 0);
    }
    rc = mdb_txn_commit(txn);
    assert(rc == 0);
}

static void save_stores(void)
{
    char folder[] = "/tmp/make-corpus-XXXXX" "X", path[64];
    MDB_env *env;
    int rc = mkdtemp(folder) != NULL ? mdb_env_create(&env) : errno;

    assert(rc == 0);
    snprintf(path, sizeof(path), "%s/data.mdb", folder);
    mdb_env_set_maxdbs(env, 8);
    mdb_env_set_mapsize(env, 16u << 20);
    rc = mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0600);
    assert(rc == 0);
    save_pages("empty", path);
    for (unsigned turn = 0; turn < sizeof(turns) / sizeof(turns[0]); turn++) {
        char name[16];
        take_turn(env, &turns[turn]);
        snprintf(name, sizeof(name), "turn%u", turn);
        save_pages(name, path);
    }
    mdb_env_close(env);
    unlink(path);
    rmdir(folder);
}

/* --- sessions ----------------------------------------------------------------------------- */

static void save_stream(const char *name, uint8_t options, const struct tls_rig_flight *f)
{
    struct buf b;

    start_stream(&b, options);
    buf_put(&b, f->bytes, f->size);
    save("handshake", name, &b);
}

/* A handshake and the first words, as each of the two sees it. */
static void save_handshakes(void)
{
    static struct tls_rig_flight to_vm, to_caller;
    struct net_tls *caller = tls_rig_end(true, true), *vm = tls_rig_end(false, true);
    const struct iovec iov = {"hello", 5};
    static const uint8_t edits[] = {1, 100, 0, 4, 0, 50, 0, 1, 4, 30, 0, 0};
    ssize_t written;
    size_t hello;

    int rc = tls_rig_step(caller, true, "", 0, &to_vm);
    hello = to_vm.size;
    assert(rc == TRK_AGAIN);
    rc = tls_rig_step(vm, false, to_vm.bytes, hello, &to_caller);
    assert(rc == TRK_AGAIN);
    rc = tls_rig_step(caller, true, to_caller.bytes, to_caller.size, &to_vm);
    assert(rc == 0);
    rc = tls_rig_step(vm, false, to_vm.bytes + hello, to_vm.size - hello, &to_caller);
    assert(rc == 0);
    written = net_tls_write(caller, &iov, 1);
    assert(written == 5);
    net_tls_rekey(caller);
    net_tls_end(caller);
    tls_rig_output(caller, &to_vm);
    written = net_tls_write(vm, &iov, 1);
    assert(written == 5);
    tls_rig_output(vm, &to_caller);
    save_stream("to_vm", 0, &to_vm);
    save_stream("to_vm_of_another_key", 4, &to_vm);
    save_stream("to_caller", 1, &to_caller);
    save_stream("to_caller_of_another_key", 5, &to_caller);
    save_stream("plain_text", 0, &(struct tls_rig_flight){.bytes = "Tk\3\1", .size = 16});
    memcpy(to_vm.bytes, edits, sizeof(edits));
    save_stream("unchanged", 2, &(struct tls_rig_flight){.size = 0});
    to_vm.size = sizeof(edits);
    save_stream("changed", 2, &to_vm);
    net_tls_free(caller);
    net_tls_free(vm);
}

static void put_step(struct buf *b, uint8_t what, const void *bytes, size_t size)
{
    buf_put_u8(b, what);
    buf_put_u16(b, (uint16_t)size);
    buf_put(b, bytes, size);
}

static void save_tls(void)
{
    static uint8_t large[20000];
    struct buf b;

    for (uint8_t side = 0; side < 2; side++) {
        start_stream(&b, side);
        put_step(&b, 0, "hello", 5);
        put_step(&b, 0, "", 0);
        put_step(&b, 2, "\x16\x18\0\0\1\0", 6); /* KeyUpdate */
        put_step(&b, 0, "under new keys", 14);
        put_step(&b, 6, "", 0);
        put_step(&b, 2, "\x15\1\0", 3); /* close_notify */
        put_step(&b, 0, "too late", 8);
        save("tls", side == 0 ? "talk_to_vm" : "talk_to_caller", &b);
    }
    start_stream(&b, 0);
    put_step(&b, 0, "hello", 5);
    put_step(&b, 4, "\7\0\1hello", 8);
    save("tls", "changed", &b);
    start_stream(&b, 0);
    put_step(&b, 5, "hello", 5);
    put_step(&b, 0, "hello", 5);
    save("tls", "left_out", &b);
    start_stream(&b, 0);
    put_step(&b, 0, large, 16384);
    put_step(&b, 3, "\x17\3\3\x40\x11 none", 10);
    save("tls", "large", &b);
    start_stream(&b, 0);
    put_step(&b, 2, "\x15\2\x14", 3); /* bad_record_mac */
    save("tls", "alert", &b);
}

/* --- a VM --------------------------------------------------------------------------------- */

static void put_sample_step(struct buf *b, uint8_t what, enum sample_kind kind)
{
    struct blob *body = sample_body(kind);

    put_step(b, what, body->data, body->size);
    blob_unref(body);
}

static void put_note_step(struct buf *b, uint8_t what, struct wire_note note)
{
    struct blob *body = wire_note_encode(&note);

    put_step(b, what, body->data, body->size);
    blob_unref(body);
}

/* A durable stage and count elements of it, 100 and on. */
static void start_work(struct buf *b, uint32_t stage, uint32_t count)
{
    const struct wire_stage declared = {.stage = stage, .flags = WIRE_STAGE_DURABLE,
                                        .function = "f", .size = 1};
    const struct wire_state state = {.stage = stage, .index = 101, .bytes = "half", .size = 4};
    struct wire_part parts[8];
    struct blob *body[3] = {wire_stage_encode(&declared), wire_state_encode(&state), NULL};

    for (size_t i = 0; i < 8; i++) {
        parts[i] = (struct wire_part){"an element", i + 1};
    }
    body[2] = wire_run_encode(stage, 1, 100, parts, count);
    put_step(b, 1, body[0]->data, body[0]->size);
    put_step(b, 6, body[1]->data, body[1]->size);
    put_step(b, 2, body[2]->data, body[2]->size);
    for (size_t i = 0; i < 3; i++) {
        blob_unref(body[i]);
    }
}

static void put_steps(struct buf *b, const char *steps)
{
    buf_put(b, steps, strlen(steps));
}

/* The numbers of steps are those of fuzz_agent: messages 0 .. 7, then what the VM does. */
static void save_agent(void)
{
    struct buf b;

    buf_init(&b);
    start_work(&b, 3, 5);
    put_steps(&b, "\x8\x8\x8\x9\xa\xb");
    put_note_step(&b, 3, (struct wire_note){.seq = 1});
    put_note_step(&b, 7, (struct wire_note){.seq = 1});
    put_steps(&b, "\x8\x8\x8\xe");
    save("agent", "work", &b);
    buf_init(&b);
    start_work(&b, 3, 8);
    put_note_step(&b, 4, (struct wire_note){.stage = 3, .first = 106, .count = 2});
    put_note_step(&b, 5, (struct wire_note){.stage = 3, .first = 102, .count = 2});
    put_note_step(&b, 4, (struct wire_note){.stage = 3, .first = 100, .count = 1});
    put_steps(&b, "\x8\xc\xc\xc");
    save("agent", "recall", &b);
    buf_init(&b);
    put_note_step(&b, 5, (struct wire_note){.stage = 3});
    start_work(&b, 3, 2);
    start_work(&b, 4, 2);
    put_steps(&b, "\x8");
    put_note_step(&b, 5, (struct wire_note){.stage = 4, .flag = 1});
    put_steps(&b, "\x8\x8");
    save("agent", "cancel", &b);
    buf_init(&b);
    put_sample_step(&b, 0, SAMPLE_REQUEST);
    start_work(&b, 1, 3);
    put_steps(&b, "\x8\x8\xa\xd\x8");
    put_sample_step(&b, 2, SAMPLE_RUN);
    save("agent", "orphan", &b);
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
    save_natives();
    save_execs();
    save_texts();
    save_spools();
    save_stores();
    save_handshakes();
    save_tls();
    save_agent();
    return has_failed ? 1 : 0;
}
