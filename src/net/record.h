/* SPDX-License-Identifier: MIT */
/* record.h - TLS 1.3 records (RFC 8446, section 5) in one direction of a connection whose handshake
 * OpenSSL has done: with the traffic secret of that direction.
 *
 *   u8 23, u16 0x0303, u16 length | plain text, u8 type | u8[16] tag       no padding
 *
 * Why not OpenSSL's own: it copies each byte twice on its way out and twice on its way in, which
 * takes as long as the encryption, and both directions share one state. These two functions work
 * from where the bytes are to where they belong, and reading and writing share nothing. */
#ifndef NET_RECORD_H
#define NET_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include <openssl/evp.h>

#include "trickle/error.h"

#define RECORD_PLAIN 16384 /* bytes of plain text, at most */
#define RECORD_HEAD 5
#define RECORD_TAG 16
#define RECORD_EXTRA (RECORD_HEAD + 1 + RECORD_TAG)
#define RECORD_MAX (RECORD_PLAIN + RECORD_EXTRA)
#define RECORD_SECRET 32 /* both of our cipher suites hash with SHA-256 */

enum net_record_type { RECORD_ALERT = 21, RECORD_HANDSHAKE = 22, RECORD_DATA = 23 };

struct net_record {
    EVP_CIPHER_CTX *ctx;           /* owned; has the key */
    bool is_writing;
    uint8_t secret[RECORD_SECRET]; /* that the next keys come from */
    uint8_t iv[12];                /* exclusive-or the number: the nonce */
    uint64_t number;               /* of the next record under this key */
};

/* Zeroed before. TRK_ENOMEM. */
TRK_MUST_USE int net_record_init(struct net_record *r, const EVP_CIPHER *cipher,
                                 const uint8_t secret[RECORD_SECRET], bool is_writing);
void net_record_fini(struct net_record *r);
/* The keys that follow a KeyUpdate. TRK_ENOMEM. */
TRK_MUST_USE int net_record_rekey(struct net_record *r);

/* Encrypts size bytes, from skip bytes into the first of the pieces on, to out (size +
 * RECORD_EXTRA). TRK_EIO: r is of no use any more. */
TRK_MUST_USE int net_record_seal(struct net_record *r, enum net_record_type type,
                                 const struct iovec *iov, size_t skip, size_t size, uint8_t *out);
/* Looks at a head. Returns the bytes of the whole record, or 0: it is none that can come here. */
size_t net_record_size(const uint8_t head[RECORD_HEAD]);
/* Decrypts a whole record: the first room bytes of the plain text to out, the rest to rest (of
 * RECORD_PLAIN). *size: of the plain text. What is in both counts only when 0 is returned.
 * TRK_ECORRUPT: it was changed, or is not the one that is next. */
TRK_MUST_USE int net_record_open(struct net_record *r, const uint8_t *bytes, uint8_t *out,
                                 size_t room, uint8_t *rest, uint8_t *type, size_t *size);

#endif
