/* SPDX-License-Identifier: MIT */
/* error.h - every error number of Trickle, from one list.
 *
 * 0 is success. Negative numbers are failures: pass them up unchanged. Positive
 * numbers (TRK_AGAIN and the like) are answers that belong to the contract of the
 * function that returns them; its caller must deal with them.
 * Numbers end up in logs and stores: append only, never renumber. */
#ifndef TRICKLE_ERROR_H
#define TRICKLE_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TRK_MUST_USE __attribute__((warn_unused_result))
#define TRK_API __attribute__((visibility("default")))
#define TRK_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define TRK_MUST_USE
#define TRK_API
#define TRK_PRINTF(fmt, args)
#endif

/* X(name, number, text) */
#define TRK_ERROR_MAP(X)                                                              \
    X(ENOMEM, -1, "out of memory")                                                    \
    X(EFULL, -2, "a configured limit was hit")                                        \
    X(EINVAL, -3, "the caller broke the contract of the function")                    \
    X(ECORRUPT, -4, "data is damaged or not in Trickle's format")                     \
    X(EIO, -5, "an operating system call failed")                                     \
    X(EVMLOST, -6, "the VM is lost")                                                  \
    X(ENOVMS, -7, "not enough VMs answered")                                          \
    X(ETOOBIG, -8, "larger than the limit of 1 GiB for one element, call or result")  \
    X(EFORKED, -9, "used after fork: only the process that opened the farm may use it") \
    X(ECLOSED, -10, "already closed")                                                 \
    X(EVERSION, -11, "versions differ")                                               \
    X(EDENIED, -12, "refused by the other side")                                      \
    X(ETIMEDOUT, -13, "no answer in time")                                            \
    X(ECANCELLED, -14, "cancelled")                                                   \
    X(ECHANGED, -15, "the program or its work is not what was recorded")      \
    X(EMOVED, -16, "the VM is to leave: its element goes on elsewhere")               \
    X(ENOTKEPT, -17, "the store does not have the bytes of the element")

enum trk_error {
    TRK_OK = 0,
#define TRK_ERROR_ENUM(name, number, text) TRK_##name = number,
    TRK_ERROR_MAP(TRK_ERROR_ENUM)
#undef TRK_ERROR_ENUM
};

/* Answers, not errors. */
enum trk_answer {
    TRK_AGAIN = 1, /* the timeout passed or a signal came: look at signals, call again */
    TRK_END = 2,   /* there will be no more */
    TRK_FULL = 3,  /* no room now: take results first, then offer the same element again */
};

/* The text for an error number; a constant string, never NULL. Any thread. */
TRK_API const char *trk_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif
