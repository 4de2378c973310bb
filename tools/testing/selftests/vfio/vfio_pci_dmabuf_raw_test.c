// SPDX-License-Identifier: GPL-2.0-only
/*
 * What it takes to hand out a piece of a device and to take it back, as a program
 * has it that knows of nothing but <linux/vfio.h>: a group in a type1 container.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <linux/compiler.h>
#include <linux/limits.h>
#include <linux/vfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

static sigjmp_buf sigbus_env;
static void *sigbus_addr;

static void sigbus_handler(int sig, siginfo_t *info, void *context)
{
	sigbus_addr = info->si_addr;
	siglongjmp(sigbus_env, 1);
}

static bool try_touch(void *vaddr)
{
	if (sigsetjmp(sigbus_env, 1))
		return false;

	READ_ONCE(*(__u32 *)vaddr);
	return true;
}

FIXTURE(vfio_pci_dmabuf_raw_test) {
	int container;
	int group;
	int device;
	/* A BAR that can be mapped */
	struct vfio_region_info bar;
	size_t page_size;
	int dmabuf;
};

static int group_open(const char *bdf)
{
	char link[PATH_MAX], path[PATH_MAX] = {};

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", bdf);
	if (readlink(link, path, sizeof(path) - 1) < 0)
		return -1;

	snprintf(link, sizeof(link), "/dev/vfio/%.16s", basename(path));
	return open(link, O_RDWR);
}

FIXTURE_SETUP(vfio_pci_dmabuf_raw_test)
{
	struct sigaction action = {
		.sa_sigaction = sigbus_handler,
		.sa_flags = SA_SIGINFO,
	};
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_dma_buf dma_buf;
		struct vfio_region_dma_range range;
	} export = {
		.feature.argsz = sizeof(export),
		.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
		.dma_buf.open_flags = O_RDWR | O_CLOEXEC,
		.dma_buf.nr_ranges = 1,
	};
	struct vfio_pci_dmabuf_revoke probe = {};
	int i;

	self->page_size = getpagesize();
	ASSERT_EQ(0, sigaction(SIGBUS, &action, NULL));

	self->container = open("/dev/vfio/vfio", O_RDWR);
	if (self->container < 0)
		SKIP(return, "There are no containers");
	self->group = group_open(device_bdf);
	if (self->group < 0)
		SKIP(return, "The device has no group: %s", strerror(errno));
	ASSERT_EQ(0, ioctl(self->group, VFIO_GROUP_SET_CONTAINER, &self->container));
	ASSERT_EQ(0, ioctl(self->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU));
	self->device = ioctl(self->group, VFIO_GROUP_GET_DEVICE_FD, device_bdf);
	ASSERT_LE(0, self->device);

	if (ioctl(self->device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &probe) && errno == ENOTTY)
		SKIP(return, "The kernel does not revoke DMABUFs");

	for (i = VFIO_PCI_BAR0_REGION_INDEX; i <= VFIO_PCI_BAR5_REGION_INDEX; i++) {
		self->bar.argsz = sizeof(self->bar);
		self->bar.index = i;
		ASSERT_EQ(0, ioctl(self->device, VFIO_DEVICE_GET_REGION_INFO, &self->bar));
		if (self->bar.flags & VFIO_REGION_INFO_FLAG_MMAP &&
		    self->bar.size >= self->page_size)
			break;
	}
	if (i > VFIO_PCI_BAR5_REGION_INDEX)
		SKIP(return, "The device has no BAR to map");

	export.dma_buf.region_index = i;
	export.range.length = self->page_size;
	self->dmabuf = ioctl(self->device, VFIO_DEVICE_FEATURE, &export);
	ASSERT_LE(0, self->dmabuf);
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_raw_test)
{
	close(self->dmabuf);
	close(self->device);
	close(self->group);
	close(self->container);
}

TEST_F(vfio_pci_dmabuf_raw_test, revoke)
{
	struct vfio_pci_dmabuf_revoke revoke = {
		.argsz = sizeof(revoke),
		.dmabuf_fd = self->dmabuf,
	};
	void *dmabuf, *bar;
	int pipe_fds[2], status;
	pid_t pid;
	char c;

	bar = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->device, self->bar.offset);
	ASSERT_NE(MAP_FAILED, bar);
	dmabuf = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->dmabuf, 0);
	ASSERT_NE(MAP_FAILED, dmabuf);
	ASSERT_TRUE(try_touch(bar));
	ASSERT_TRUE(try_touch(dmabuf));

	ASSERT_EQ(0, pipe(pipe_fds));
	pid = fork();
	ASSERT_LE(0, pid);
	if (!pid) {
		if (!try_touch(dmabuf) || write(pipe_fds[1], "t", 1) != 1)
			_exit(1);
		while (try_touch(dmabuf))
			;
		_exit(sigbus_addr == dmabuf ? 0 : 2);
	}
	ASSERT_EQ(1, read(pipe_fds[0], &c, 1));

	ASSERT_EQ(0, ioctl(self->device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke));
	ASSERT_FALSE(try_touch(dmabuf));
	ASSERT_EQ(dmabuf, sigbus_addr);
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	ASSERT_EQ(0, status);

	ASSERT_TRUE(try_touch(bar));
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->dmabuf, 0));
	ASSERT_EQ(ENODEV, errno);
	ASSERT_EQ(-1, ioctl(self->device, VFIO_DEVICE_PCI_DMABUF_REVOKE, &revoke));
	ASSERT_EQ(EBADFD, errno);

	ASSERT_EQ(0, munmap(dmabuf, self->page_size));
	ASSERT_EQ(0, munmap(bar, self->page_size));
	ASSERT_EQ(0, close(pipe_fds[0]));
	ASSERT_EQ(0, close(pipe_fds[1]));
}

TEST_F(vfio_pci_dmabuf_raw_test, address_is_no_dma_address)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ,
		.size = self->page_size,
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.size = self->page_size,
	};
	void *dmabuf, *bar;

	bar = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->device, self->bar.offset);
	ASSERT_NE(MAP_FAILED, bar);
	dmabuf = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, self->dmabuf, 0);
	ASSERT_NE(MAP_FAILED, dmabuf);

	map.vaddr = (__u64)dmabuf;
	ASSERT_EQ(-1, ioctl(self->container, VFIO_IOMMU_MAP_DMA, &map));
	ASSERT_EQ(EFAULT, errno);
	map.vaddr = (__u64)bar;
	ASSERT_EQ(0, ioctl(self->container, VFIO_IOMMU_MAP_DMA, &map));
	ASSERT_EQ(0, ioctl(self->container, VFIO_IOMMU_UNMAP_DMA, &unmap));

	ASSERT_EQ(0, munmap(dmabuf, self->page_size));
	ASSERT_EQ(0, munmap(bar, self->page_size));
}

int main(int argc, char *argv[])
{
	device_bdf = getenv("VFIO_SELFTESTS_BDF");
	/* "DDDD:BB:DD.F" behind all options */
	if (argc > 1 && strchr(argv[argc - 1], ':'))
		device_bdf = argv[--argc];
	if (!device_bdf) {
		fprintf(stderr, "Which device? Give its BDF, or set VFIO_SELFTESTS_BDF\n");
		return KSFT_SKIP;
	}
	return test_harness_run(argc, argv);
}
