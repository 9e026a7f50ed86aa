/* SPDX-License-Identifier: MIT */
/* broken.c - modules that Trickle is to refuse, each by its own -D (test_modules.py): RAI
 * modules, with DISCOVERY discovery modules. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <trickle/discovery.h>
#include <trickle/rai.h>

#ifndef ABI
#define ABI 1
#endif
#ifndef SIZE
#define SIZE sizeof(module)
#endif
#ifndef NAME
#define NAME "broken"
#endif
#ifndef RUN
#define RUN run
#endif
#ifndef ASK
#define ASK ask
#endif

#ifndef GIVES
#define GIVES &module
#endif

#ifdef LOADING
__attribute__((constructor)) static void loading(void)
{
    LOADING;
}
#endif

#ifndef DISCOVERY

static int stage_open(void *state, uint32_t stage, const void *function, size_t size,
                      struct trk_rai_reply *reply)
{
    return TRK_STATUS_OK;
}

__attribute__((unused)) static int run(void *state, const struct trk_rai_element *element,
                                       struct trk_rai_reply *reply)
{
    return TRK_STATUS_OK;
}

static int open_module(void **state, struct trk_rai_reply *why)
{
#ifdef OPENING
    OPENING;
#endif
    int rc = trk_rai_reply_write(why, "the licence server is away", 26);
    (void)rc;
    return TRK_STATUS_ERROR;
}

static const struct trk_rai_module module = {.abi = ABI, .size = SIZE, .name = NAME,
                                             .version = "1", .stage_open = stage_open,
                                             .run = RUN, .open = open_module};
#ifndef NONE
const struct trk_rai_module *trickle_rai_module(void)
{
    return GIVES;
}
#endif

#else

static int open_module(const struct trk_discovery_config *config,
                       const struct trk_discovery_sink *sink, void **state)
{
    return TRK_EIO;
}

__attribute__((unused)) static int ask(void *state)
{
    return 0;
}

static int fd(void *state)
{
    return -1;
}

static void nothing(void *state)
{
}

static const struct trk_discovery_module module = {
    .abi = ABI, .size = SIZE, .name = NAME, .is_immediate = true, .open = open_module, .ask = ASK,
    .fd = fd, .process = nothing, .close = nothing};
#ifndef NONE
const struct trk_discovery_module *trickle_discovery_module(void)
{
    return GIVES;
}
#endif

#endif
