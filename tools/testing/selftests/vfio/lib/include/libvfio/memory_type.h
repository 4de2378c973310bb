/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_TYPE_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_TYPE_H

#include <stdbool.h>

#include <linux/types.h>

/*
 * x86 decides by a list of physical ranges what type of memory a page is mapped as,
 * and shows that list as well as the page tables. Other architectures do not.
 */

/* Whether x86 was booted without PAT, and so has no list and no write-combining */
bool memory_types_off(void);

/* Whether this one does, so that there is something to look at */
bool memory_types_shown(void);
/* Why this kernel does not show them although the architecture does, or NULL */
const char *memory_types_hidden(void);

/* Types by the names that the list has for them */
#define TYPE_WRITE_COMBINING	"write-combining"
#define TYPE_UNCACHED_MINUS	"uncached-minus"

/*
 * A copy of the list, to be freed and to be compared with another one. Empty where
 * memory types are not shown.
 */
char *memory_type_list(void);

/* The number of entries with an address from start up to end, of a type or (NULL) of any */
int memory_type_count(u64 start, u64 end, const char *type);
/* The same of those that are exactly from start up to end */
int memory_type_count_exact(u64 start, u64 end, const char *type);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_TYPE_H */
