/* SPDX-License-Identifier: Apache-2.0 */
/* Private to await: how an id is made and taken apart. */
#pragma once

#include "syncgate/await.h"

#define AWAIT_ID_RANDOM 4
void await_id_make(struct await_id *id, const uint8_t random[AWAIT_ID_RANDOM], uint32_t instance,
                   unsigned loop_number, uint32_t slot, uint32_t generation);
uint32_t await_id_slot(const struct await_id *id);
uint32_t await_id_generation(const struct await_id *id);
