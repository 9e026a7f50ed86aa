/* SPDX-License-Identifier: MIT */
/* record.c - see record.h. OpenSSL's error queue is the caller's to care for. */
#include "net/record.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#define KEY_MAX 32
#define LABEL_MAX 32

/* HKDF-Expand-Label of RFC 8446, section 7.1, without a context. */
static bool expand(uint8_t *out, size_t size, const uint8_t secret[RECORD_SECRET],
                   const char *label)
{
    uint8_t info[4 + LABEL_MAX];
    size_t length = strlen(label);
    int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
    assert(length < LABEL_MAX && size < 256);
    info[0] = 0;
    info[1] = (uint8_t)size;
    info[2] = (uint8_t)length;
    memcpy(info + 3, label, length);
    info[3 + length] = 0;
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret, RECORD_SECRET),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, 4 + length),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_HKDF, NULL);
    EVP_KDF_CTX *ctx = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
    bool is_done = ctx != NULL && EVP_KDF_derive(ctx, out, size, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return is_done;
}

/* Key and IV from r->secret, for cipher or (NULL) the one that there is already. */
static int set_key(struct net_record *r, const EVP_CIPHER *cipher)
{
    uint8_t key[KEY_MAX];
    size_t size = (size_t)EVP_CIPHER_get_key_length(
        cipher != NULL ? cipher : EVP_CIPHER_CTX_get0_cipher(r->ctx));
    assert(size <= sizeof(key));
    bool is_done = expand(key, size, r->secret, "tls13 key") &&
                   expand(r->iv, sizeof(r->iv), r->secret, "tls13 iv") &&
                   EVP_CipherInit_ex(r->ctx, cipher, NULL, key, NULL, r->is_writing) == 1;
    OPENSSL_cleanse(key, sizeof(key));
    r->number = 0;
    return is_done ? 0 : TRK_ENOMEM;
}

int net_record_init(struct net_record *r, const EVP_CIPHER *cipher,
                    const uint8_t secret[RECORD_SECRET], bool is_writing)
{
    r->is_writing = is_writing;
    memcpy(r->secret, secret, RECORD_SECRET);
    r->ctx = EVP_CIPHER_CTX_new();
    return r->ctx != NULL ? set_key(r, cipher) : TRK_ENOMEM;
}

void net_record_fini(struct net_record *r)
{
    EVP_CIPHER_CTX_free(r->ctx);
    OPENSSL_cleanse(r, sizeof(*r));
}

int net_record_rekey(struct net_record *r)
{
    uint8_t next[RECORD_SECRET];
    if (!expand(next, sizeof(next), r->secret, "tls13 traffic upd")) {
        return TRK_ENOMEM;
    }
    memcpy(r->secret, next, sizeof(next));
    OPENSSL_cleanse(next, sizeof(next));
    return set_key(r, NULL);
}

/* Begins with the next record: its nonce, which no other has under this key, and its head. */
static bool begin(struct net_record *r, const uint8_t head[RECORD_HEAD])
{
    uint8_t nonce[sizeof(r->iv)];
    int n;
    memcpy(nonce, r->iv, sizeof(nonce));
    for (int i = 0; i < 8; i++) {
        nonce[sizeof(nonce) - 1 - (size_t)i] ^= (uint8_t)(r->number >> 8 * i);
    }
    r->number++;
    return EVP_CipherInit_ex(r->ctx, NULL, NULL, NULL, nonce, r->is_writing) == 1 &&
           EVP_CipherUpdate(r->ctx, NULL, &n, head, RECORD_HEAD) == 1;
}

static bool add(struct net_record *r, uint8_t *out, const uint8_t *in, size_t size)
{
    int n = 0;
    return size == 0 ||
           (EVP_CipherUpdate(r->ctx, out, &n, in, (int)size) == 1 && n == (int)size);
}

int net_record_seal(struct net_record *r, enum net_record_type type, const struct iovec *iov,
                    size_t skip, size_t size, uint8_t *out)
{
    uint8_t last = (uint8_t)type, *at = out + RECORD_HEAD, end[RECORD_TAG];
    size_t cipher_size = size + 1 + RECORD_TAG;
    int n;
    assert(size <= RECORD_PLAIN);
    out[0] = RECORD_DATA;
    out[1] = out[2] = 3;
    out[3] = (uint8_t)(cipher_size >> 8);
    out[4] = (uint8_t)cipher_size;
    bool is_fine = begin(r, out);
    while (is_fine && size > 0) {
        size_t take = iov->iov_len - skip < size ? iov->iov_len - skip : size;
        is_fine = add(r, at, (const uint8_t *)iov->iov_base + skip, take);
        at += take;
        size -= take;
        iov++;
        skip = 0;
    }
    is_fine = is_fine && add(r, at, &last, 1) && EVP_CipherFinal_ex(r->ctx, end, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(r->ctx, EVP_CTRL_AEAD_GET_TAG, RECORD_TAG, at + 1) == 1;
    return is_fine ? 0 : TRK_EIO;
}

size_t net_record_size(const uint8_t head[RECORD_HEAD])
{
    size_t size = (size_t)head[3] << 8 | head[4];
    bool is_ours = head[0] == RECORD_DATA && head[1] == 3 && head[2] == 3 &&
                   size > RECORD_TAG && size <= RECORD_PLAIN + 1 + RECORD_TAG;
    return is_ours ? RECORD_HEAD + size : 0;
}

int net_record_open(struct net_record *r, const uint8_t *bytes, uint8_t *out, size_t room,
                    uint8_t *rest, uint8_t *type, size_t *size)
{
    const uint8_t *in = bytes + RECORD_HEAD;
    size_t plain = net_record_size(bytes) - RECORD_EXTRA, first = plain < room ? plain : room;
    uint8_t tag[RECORD_TAG], end[RECORD_TAG];
    int n;
    memcpy(tag, in + plain + 1, RECORD_TAG);
    if (!begin(r, bytes) || !add(r, out, in, first) || !add(r, rest, in + first, plain - first) ||
        !add(r, type, in + plain, 1) ||
        EVP_CIPHER_CTX_ctrl(r->ctx, EVP_CTRL_AEAD_SET_TAG, RECORD_TAG, tag) != 1 ||
        EVP_CipherFinal_ex(r->ctx, end, &n) != 1) {
        return TRK_ECORRUPT;
    }
    *size = plain;
    return 0;
}
