// SPDX-License-Identifier: GPL-2.0-only
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <libvfio.h>

#define LIST		"/sys/kernel/debug/x86/pat_memtype_list"
#define PAGE_TABLES	"/sys/kernel/debug/page_tables/current_kernel"

bool memory_types_off(void)
{
#ifdef __x86_64__
	char line[4096] = {}, *save = NULL, *word;
	FILE *file;

	file = fopen("/proc/cmdline", "r");
	VFIO_ASSERT_NOT_NULL(file);
	VFIO_ASSERT_NOT_NULL(fgets(line, sizeof(line), file));
	VFIO_ASSERT_EQ(fclose(file), 0);

	for (word = strtok_r(line, "\n ", &save); word; word = strtok_r(NULL, "\n ", &save)) {
		if (!strcmp(word, "nopat"))
			return true;
	}
#endif
	return false;
}

static bool arch_shows_memory_types(void)
{
#ifdef __x86_64__
	return !memory_types_off();
#else
	return false;
#endif
}

bool memory_types_shown(void)
{
	return arch_shows_memory_types() && !memory_types_hidden();
}

const char *memory_types_hidden(void)
{
	if (!arch_shows_memory_types())
		return NULL;
	if (access(LIST, R_OK))
		return "There is no " LIST;
	if (access(PAGE_TABLES, R_OK))
		return "There is no " PAGE_TABLES;
	return NULL;
}

char *memory_type_list(void)
{
	size_t size = 0, done = 0, len;
	char *list = NULL;
	FILE *file = NULL;

	if (memory_types_shown())
		file = fopen(LIST, "r");
	do {
		if (size - done < 2) {
			size += 4096;
			list = realloc(list, size);
			VFIO_ASSERT_NOT_NULL(list);
		}
		len = file ? fread(list + done, 1, size - done - 1, file) : 0;
		done += len;
	} while (len);
	list[done] = 0;

	if (file)
		VFIO_ASSERT_EQ(fclose(file), 0);
	return list;
}

static int count(u64 start, u64 end, const char *type, bool exact)
{
	char *list = memory_type_list(), *save = NULL, *line, name[32];
	u64 entry_start, entry_end;
	int nr = 0;

	/* "PAT: [mem 0x00000000fe000000-0x00000000fe001000] uncached-minus" */
	for (line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (sscanf(line, "PAT: [mem 0x%lx-0x%lx] %31s", &entry_start, &entry_end,
			   name) != 3)
			continue;
		if (type && strcmp(type, name))
			continue;
		/* The end is the first address behind the range. */
		if (exact)
			nr += entry_start == start && entry_end == end;
		else
			nr += entry_start < end && start < entry_end;
	}
	free(list);
	return nr;
}

int memory_type_count(u64 start, u64 end, const char *type)
{
	return count(start, end, type, false);
}

int memory_type_count_exact(u64 start, u64 end, const char *type)
{
	return count(start, end, type, true);
}
