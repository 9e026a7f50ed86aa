/* SPDX-License-Identifier: MIT */
/* poly.c - an example of a RAI module: VMs that evaluate polynomials.
 *
 *   a function is a text of coefficients, the highest power first: "1 0 -2" is x^2 - 2
 *   an element is a number as text, and its result is the value there, as text
 *
 *   meson setup build && ninja -C build
 *   trickle vm --rai build/poly.so
 *   build/evaluate "1 0 -2" 0 1 2 3
 *
 * docs/modules.md explains each part. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <trickle/rai.h>

#define TERMS_MAX 64
#define TEXT_MAX 4096 /* of a function or an element */

/* A function that was declared. */
struct stage {
    struct stage *next;
    uint32_t number;
    unsigned count;          /* of terms */
    double terms[TERMS_MAX]; /* the highest power first */
};

/* What open makes. All is used by one thread, but for what interrupt sets. */
struct poly {
    struct stage *stages;
    atomic_bool is_interrupted;
};

/* Answers with a text. That it did not fit, or that memory ran out, is remembered by the reply. */
static int answer(struct trk_rai_reply *reply, int status, const char *text)
{
    int rc = trk_rai_reply_write(reply, text, strlen(text));
    (void)rc;
    return status;
}

/* What comes from outside is no terminated string. False: it is too long for us. */
static bool take_text(char text[TEXT_MAX], const void *bytes, size_t size)
{
    if (size >= TEXT_MAX) {
        return false;
    }
    memcpy(text, bytes, size);
    text[size] = '\0';
    return true;
}

static int poly_open(void **state, struct trk_rai_reply *why)
{
    struct poly *p = calloc(1, sizeof(*p));
    if (p == NULL) {
        return answer(why, TRK_STATUS_ERROR, "out of memory");
    }
    *state = p;
    return TRK_STATUS_OK;
}

static void poly_close(void *state)
{
    struct poly *p = state;
    while (p->stages != NULL) {
        struct stage *s = p->stages;
        p->stages = s->next;
        free(s);
    }
    free(p);
}

static bool parse(struct stage *s, const char *text)
{
    char *end;
    for (; s->count < TERMS_MAX; text = end) {
        double term = strtod(text, &end);
        if (end == text) {
            break;
        }
        s->terms[s->count++] = term;
    }
    return s->count > 0 && text[strspn(text, " \n")] == '\0';
}

static int poly_stage_open(void *state, uint32_t number, const void *function, size_t size,
                           struct trk_rai_reply *reply)
{
    struct poly *p = state;
    char text[TEXT_MAX];
    struct stage *s = calloc(1, sizeof(*s));
    if (s == NULL || !take_text(text, function, size) || !parse(s, text)) {
        free(s);
        return answer(reply, TRK_STATUS_ERROR, "a polynomial is 1 to 64 numbers, as in: 1 0 -2");
    }
    s->number = number;
    s->next = p->stages;
    p->stages = s;
    return TRK_STATUS_OK;
}

static void poly_stage_close(void *state, uint32_t number)
{
    struct poly *p = state;
    struct stage **at = &p->stages;
    while ((*at)->number != number) { /* only stages that were opened are closed */
        at = &(*at)->next;
    }
    struct stage *s = *at;
    *at = s->next;
    free(s);
}

static int poly_run(void *state, const struct trk_rai_element *element,
                    struct trk_rai_reply *reply)
{
    struct poly *p = state;
    const struct stage *s = p->stages;
    char text[TEXT_MAX], *end = text;
    double value = 0;
    atomic_store(&p->is_interrupted, false);
    while (s->number != element->stage) {
        s = s->next;
    }
    double x = take_text(text, element->payload, element->size) ? strtod(text, &end) : 0;
    if (end == text || *end != '\0') {
        return answer(reply, TRK_STATUS_EXCEPTION, "an element is one number");
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (atomic_load(&p->is_interrupted)) { /* in longer loops than this one it pays */
            return answer(reply, TRK_STATUS_EXCEPTION, "interrupted");
        }
        value = value * x + s->terms[i];
    }
    snprintf(text, sizeof(text), "%.17g", value);
    return answer(reply, TRK_STATUS_OK, text);
}

/* Called by another thread, at any time while run is at work: it only leaves a mark. */
static void poly_interrupt(void *state)
{
    struct poly *p = state;
    atomic_store(&p->is_interrupted, true);
}

const struct trk_rai_module *trickle_rai_module(void)
{
    static const struct trk_rai_module module = {
        .abi = TRK_RAI_ABI,
        .size = sizeof(module),
        .name = "poly",
        .version = "1.0",
        .stage_open = poly_stage_open,
        .run = poly_run,
        .stage_close = poly_stage_close,
        .interrupt = poly_interrupt,
        .open = poly_open,
        .close = poly_close,
    };
    return &module;
}
