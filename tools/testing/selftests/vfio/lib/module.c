// SPDX-License-Identifier: GPL-2.0-only
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/syscall.h>

#include <linux/limits.h>

#include <libvfio.h>

static bool module_loaded(const char *name)
{
	char path[PATH_MAX];

	snprintf_assert(path, sizeof(path), "/sys/module/%s", name);
	return !access(path, F_OK);
}

static void module_insert(const char *name)
{
	char program[PATH_MAX] = {}, path[PATH_MAX];
	int fd;

	VFIO_ASSERT_GT(readlink("/proc/self/exe", program, sizeof(program) - 1), 0);
	snprintf_assert(path, sizeof(path), "%.3000s/test_modules/%s.ko", dirname(program), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;

	if (syscall(SYS_finit_module, fd, "", 0))
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	VFIO_ASSERT_EQ(close(fd), 0);
}

const char *module_load(const char *name)
{
	static char reason[128];
	char command[128];

	if (!module_loaded(name))
		module_insert(name);
	if (!module_loaded(name)) {
		snprintf_assert(command, sizeof(command), "modprobe %s", name);
		if (system(command))
			fprintf(stderr, "\"%s\" failed\n", command);
	}
	if (module_loaded(name))
		return NULL;

	snprintf_assert(reason, sizeof(reason), "There is no module %s for this kernel", name);
	return reason;
}
