/* SPDX-License-Identifier: Apache-2.0 */
/* The 64-bit finaliser of MurmurHash3 (fmix64): every bit of the input moves every bit of the result. path_place() is
 * defined by it, so it can never change. */
#pragma once

#include <stdint.h>

static inline uint64_t path_mix64(uint64_t x)
{
    x ^= x >> 33;
    x *= UINT64_C(0xff51afd7ed558ccd);
    x ^= x >> 33;
    x *= UINT64_C(0xc4ceb9fe1a85ec53);
    return x ^ x >> 33;
}
