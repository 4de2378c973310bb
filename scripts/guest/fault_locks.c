// SPDX-License-Identifier: GPL-2.0-only
/*
 * What do two threads share that take page faults on one buffer? Time says little
 * about it where others use the machine, so count: each lock that a page fault
 * takes, with lock_stat. A lock of the whole device is none of them.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <linux/sizes.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define THREADS		2
#define FAULTS		1024
#define LOCK_STAT	"/proc/lock_stat"
#define MAX_LOCKS	2048

static const char *device_bdf;

struct lock {
	char name[64];
	unsigned long acquisitions;
};

struct locks {
	struct lock lock[MAX_LOCKS];
	int nr;
};

FIXTURE(fault_locks) {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	char *space;
	struct locks *locks;
};

FIXTURE_SETUP(fault_locks)
{
	if (access(LOCK_STAT, W_OK))
		SKIP(return, "The kernel has no lock_stat");

	self->iommu = iommu_init(MODE_IOMMUFD);
	self->device = vfio_pci_device_init(device_bdf, self->iommu);
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	ASSERT_LE(THREADS * FAULTS * SZ_4K, self->device->bars[2].info.size);
	/* Shifted against the memory by a page, so that no huge page fits */
	self->space = mmap_reserve(THREADS * FAULTS * SZ_4K + SZ_2M, SZ_2M, SZ_4K);
	self->locks = calloc_assert(1, sizeof(*self->locks));
}

FIXTURE_TEARDOWN(fault_locks)
{
	free(self->locks);
	vfio_pci_device_cleanup(self->device);
	iommu_cleanup(self->iommu);
}

static void *touch(void *part)
{
	for (size_t i = 0; i < FAULTS; i++)
		*(volatile u32 *)(part + i * SZ_4K);
	return NULL;
}

/* The ninth column is how often a lock was taken; "-R" behind its name: to read */
static void read_locks(struct locks *locks)
{
	FILE *file = fopen(LOCK_STAT, "r");
	char line[512];

	VFIO_ASSERT_NOT_NULL(file);
	locks->nr = 0;
	while (fgets(line, sizeof(line), file)) {
		struct lock *lock = &locks->lock[locks->nr];
		char *end = strrchr(line, ':');

		if (!end || sscanf(end + 1, "%*s %*s %*s %*s %*s %*s %*s %lu",
				   &lock->acquisitions) != 1)
			continue;
		*end = '\0';
		if (sscanf(line, " %63[^\n]", lock->name) != 1)
			continue;
		VFIO_ASSERT_LT(++locks->nr, MAX_LOCKS);
	}
	fclose(file);
}

static void count(struct __test_metadata *_metadata, FIXTURE_DATA(fault_locks) *self,
		  const char *name, int fd, off_t at)
{
	pthread_t threads[THREADS];
	unsigned long device = 0;
	FILE *file;
	int i;

	ASSERT_NE(MAP_FAILED, mmap(self->space, THREADS * FAULTS * SZ_4K, PROT_READ,
				   MAP_SHARED | MAP_FIXED, fd, at));
	file = fopen(LOCK_STAT, "w");
	ASSERT_NE(NULL, file);
	ASSERT_LE(0, fprintf(file, "0\n"));
	ASSERT_EQ(0, fclose(file));

	for (i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_create(&threads[i], NULL, touch,
					    self->space + i * FAULTS * SZ_4K));
	for (i = 0; i < THREADS; i++)
		ASSERT_EQ(0, pthread_join(threads[i], NULL));
	read_locks(self->locks);

	printf("# locks of a page fault, %s:", name);
	for (i = 0; i < self->locks->nr; i++) {
		const struct lock *lock = &self->locks->lock[i];

		if (strstr(lock->name, "memory_lock"))
			device += lock->acquisitions;
		if (lock->acquisitions >= THREADS * FAULTS)
			printf(" %s %lu.%02lu", lock->name,
			       lock->acquisitions / (THREADS * FAULTS),
			       lock->acquisitions * 100 / (THREADS * FAULTS) % 100);
	}
	printf("\n");
	/* Or lock_stat has seen nothing */
	ASSERT_NE(0, self->locks->nr);
	ASSERT_EQ(0, device);
}

TEST_F_TIMEOUT(fault_locks, bar, 600)
{
	count(_metadata, self, "BAR", self->device->fd, self->device->bars[2].info.offset);
}

TEST_F_TIMEOUT(fault_locks, dmabuf, 600)
{
	int fd = vfio_pci_dmabuf_export_range(self->device, 2, 0, THREADS * FAULTS * SZ_4K);

	count(_metadata, self, "DMABUF", fd, 0);
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
