#include "CPlatter.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>

int platter_has_crc32c(void) { return __builtin_cpu_supports("sse4.2"); }

__attribute__((target("sse4.2"))) uint32_t platter_crc32c(uint32_t state, const void *bytes, size_t count) {
  const unsigned char *at = bytes;
  uint64_t wide = state;
  for (; count >= 8; count -= 8, at += 8) {
    uint64_t word;
    memcpy(&word, at, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  uint32_t crc = (uint32_t)wide;
  for (; count > 0; count--, at++) crc = _mm_crc32_u8(crc, *at);
  return crc;
}

#elif defined(__aarch64__)
#include <arm_acle.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

int platter_has_crc32c(void) {
#ifdef __linux__
  return (getauxval(AT_HWCAP) & (1 << 7)) != 0;  // HWCAP_CRC32
#else
  return 1;
#endif
}

__attribute__((target("crc"))) uint32_t platter_crc32c(uint32_t state, const void *bytes, size_t count) {
  const unsigned char *at = bytes;
  for (; count >= 8; count -= 8, at += 8) {
    uint64_t word;
    memcpy(&word, at, 8);
    state = __crc32cd(state, word);
  }
  for (; count > 0; count--, at++) state = __crc32cb(state, *at);
  return state;
}

#else

int platter_has_crc32c(void) { return 0; }
uint32_t platter_crc32c(uint32_t state, const void *bytes, size_t count) { return state; }

#endif
