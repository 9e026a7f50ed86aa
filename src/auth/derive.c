/* SPDX-License-Identifier: MIT */
/* derive.c - see derive.h; the algorithms are OpenSSL's. Its error queue belongs to the program
 * we are part of, so it is left as it was. */
#include "auth/derive.h"

#include <assert.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <string.h>

#include "auth/crypto.h"
#include "base/fail.h"

static const char *const infos[AUTH_USE_COUNT] = {
    [AUTH_TLS_INITIATOR] = "trickle 1 tls initiator",
    [AUTH_TLS_VM] = "trickle 1 tls vm",
    [AUTH_DISCOVERY_ASK] = "trickle 1 discovery ask",
    [AUTH_DISCOVERY_ANSWER] = "trickle 1 discovery answer",
};

static bool hkdf(uint8_t *out, size_t size, const struct auth_key *key, const char *info)
{
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)key->secret,
                                          sizeof(key->secret)),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, (void *)info, strlen(info)),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_HKDF, NULL);
    EVP_KDF_CTX *ctx = kdf != NULL ? EVP_KDF_CTX_new(kdf) : NULL;
    bool is_done = ctx != NULL && EVP_KDF_derive(ctx, out, size, params) == 1;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    return is_done;
}

int auth_derive(uint8_t out[AUTH_DERIVED_BYTES], const struct auth_key *key, enum auth_use use)
{
    assert(use < AUTH_USE_COUNT);
    if (!auth_crypto_enter()) {
        return fail(TRK_ECLOSED, "the process is ending");
    }
    ERR_set_mark();
    bool is_done = hkdf(out, AUTH_DERIVED_BYTES, key, infos[use]);
    ERR_pop_to_mark();
    auth_crypto_leave();
    /* The input is always in order: what can fail is memory, or an OpenSSL without HKDF. */
    return is_done ? 0 : fail(TRK_ENOMEM, "OpenSSL cannot derive a key (HKDF-SHA256)");
}

int auth_mac(uint8_t out[AUTH_MAC_BYTES], const uint8_t derived[AUTH_DERIVED_BYTES],
             const void *bytes, size_t size)
{
    unsigned out_size = AUTH_MAC_BYTES;
    if (!auth_crypto_enter()) {
        return fail(TRK_ECLOSED, "the process is ending");
    }
    ERR_set_mark();
    bool is_done = HMAC(EVP_sha256(), derived, AUTH_DERIVED_BYTES, bytes, size, out, &out_size)
                   != NULL;
    ERR_pop_to_mark();
    auth_crypto_leave();
    return is_done ? 0 : fail(TRK_ENOMEM, "OpenSSL cannot make a MAC (HMAC-SHA256)");
}

bool auth_is_same(const void *a, const void *b, size_t size)
{
    return CRYPTO_memcmp(a, b, size) == 0;
}
