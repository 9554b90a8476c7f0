/* SPDX-License-Identifier: Apache-2.0 */
#include "syncgate/path.h"

const char *path_mode_name(enum path_mode mode)
{
    return mode == PATH_MODE_PRIMARY ? "primary" : mode == PATH_MODE_ONLY ? "only" : "off";
}

const char *path_taken_name(enum path_taken taken)
{
    return taken == PATH_TAKEN_KAFKA ? "kafka" : taken == PATH_TAKEN_LEGACY ? "legacy" : "none";
}

const char *path_fallback_name(enum path_fallback reason)
{
    static const char *const names[] = {
#define X(code, name) name,
        PATH_FALLBACKS(X)
#undef X
    };
    SG_ASSERT((unsigned)reason < PATH_FALLBACK_COUNT);
    return names[reason];
}

enum err_code path_mode_parse(struct span text, const char *where, enum path_mode *ret_mode, struct err *err)
{
    static const struct {
        const char *text;
        enum path_mode mode;
    } values[] = {{"false", PATH_MODE_LEGACY},
                  {"off", PATH_MODE_LEGACY},
                  {"true", PATH_MODE_PRIMARY},
                  {"primary", PATH_MODE_PRIMARY},
                  {"only", PATH_MODE_ONLY}};
    for (size_t i = 0; i < SG_ARRAY_LEN(values); i++) {
        if (span_eq(text, span_of(values[i].text))) {
            *ret_mode = values[i].mode;
            return ERR_OK;
        }
    }
    return err_set(err, ERR_CONFIG, "%s: '%.*s': expected false, off, true, primary or only", where,
                   (int)text.len, text.ptr);
}
