// CAST5 is reached through functions that libcrypto calls old: its new ones load it from a file of the machine.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/cast.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
