/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/err.h"

#include <stdarg.h>
#include <stdio.h>

static const struct err_info err_table[] = {
#define X(code, wire, status, retriable, counts, label) {#code, wire, status, retriable, counts, label},
    ERR_TABLE(X)
#undef X
};

const struct err_info *err_info(enum err_code code)
{
    SG_ASSERT((unsigned)code < ERR_COUNT);
    return &err_table[code];
}

enum err_code err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->text, sizeof(err->text), fmt, ap);
        va_end(ap);
        err->code = code;
    }
    return code;
}
