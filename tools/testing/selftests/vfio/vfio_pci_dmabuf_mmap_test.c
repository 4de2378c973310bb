// SPDX-License-Identifier: GPL-2.0-only
/*
 * A DMABUF lets a process map the ranges that it was exported with, back to
 * back in the order that they were given, with the access of its fd, and
 * nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/dma-buf.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define MAX_RANGES 4096

static const char *device_bdf;

FIXTURE(vfio_pci_dmabuf_mmap_test) {
	struct vfio_pci_device *device;
	/* The BARs, through the device's fd */
	struct mmap_target targets[MAX_MMAP_TARGETS];
	size_t page_size;
};

FIXTURE_VARIANT(vfio_pci_dmabuf_mmap_test) {
	const char *iommu_mode;
};

/* A group and a character device are opened in different ways. */
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_mmap_test, group) { MODE_VFIO_TYPE1V2_IOMMU };
FIXTURE_VARIANT_ADD(vfio_pci_dmabuf_mmap_test, iommufd) { MODE_IOMMUFD };

FIXTURE_SETUP(vfio_pci_dmabuf_mmap_test)
{
	struct mmap_target *target;
	const char *reason;

	self->page_size = getpagesize();
	self->device = vfio_pci_device_open(device_bdf, variant->iommu_mode);

	reason = mmap_targets_open(self->targets, self->device, true);
	if (reason)
		SKIP(return, "%s", reason);

	/* Those that can be exported are opened once more, to look at them. */
	for (target = self->targets; target->size; target++) {
		mmap_target_close(target);
		ASSERT_EQ(NULL, mmap_target_open(target, self->device, target->bar, false));
	}
}

FIXTURE_TEARDOWN(vfio_pci_dmabuf_mmap_test)
{
	mmap_targets_close(self->targets);
	vfio_pci_device_close(self->device);
}

static u32 page_tag(size_t page)
{
	return 0xbadc0de ^ (page * 0x01010101);
}

/*
 * Export the ranges and look at each of their pages through a mapping of all of
 * it, and through one of each page alone.
 */
static void check_ranges(struct __test_metadata *_metadata,
			 const struct mmap_target *target,
			 const struct vfio_region_dma_range *ranges, int nr_ranges)
{
	size_t page_size = getpagesize(), size = 0, offset, pos = 0;
	const struct vfio_pci_scratch *scratch = &target->scratch;
	void *bar, *all, *page;
	int i, fd;

	bar = mmap_target_map(target, 0, target->size);
	for (i = 0; i < nr_ranges; i++) {
		size += ranges[i].length;
		for (offset = 0; scratch->ram && offset < ranges[i].length; offset += page_size)
			ASSERT_TRUE(target_try_write(target, bar + ranges[i].offset + offset,
						     page_tag((ranges[i].offset + offset) /
							      page_size)));
	}
	ASSERT_TRUE(target_try_write(target, bar, page_tag(0)));

	fd = vfio_pci_dmabuf_export(target->device, target->bar, O_RDWR | O_CLOEXEC,
				    ranges, nr_ranges);
	ASSERT_EQ(size, lseek(fd, 0, SEEK_END));
	all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, all);

	for (i = 0; i < nr_ranges; i++) {
		for (offset = 0; offset < ranges[i].length; offset += page_size) {
			size_t where = ranges[i].offset + offset;
			u32 tag = page_tag(where / page_size);

			page = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, pos);
			ASSERT_NE(MAP_FAILED, page);
			ASSERT_TRUE(mmio_try_touch(all + pos));
			if (scratch->ram || (scratch->mask && !where)) {
				ASSERT_TRUE(target_try_check(target, all + pos, tag))
					TH_LOG("%#zx should be %#zx of the BAR", pos, where);
				ASSERT_TRUE(target_try_check(target, page, tag));
				ASSERT_TRUE(target_try_write(target, page, ~tag));
				ASSERT_TRUE(target_try_check(target, bar + where, ~tag));
				ASSERT_TRUE(target_try_write(target, all + pos, tag));
				ASSERT_TRUE(target_try_check(target, bar + where, tag));
			} else if (scratch->mask) {
				ASSERT_FALSE(target_try_check(target, all + pos, page_tag(0)));
				ASSERT_FALSE(target_try_check(target, page, page_tag(0)));
			}
			ASSERT_EQ(0, munmap(page, page_size));
			pos += page_size;
		}
	}

	/* There is no way to what is behind. */
	ASSERT_EQ(MAP_FAILED, mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, size));
	ASSERT_EQ(EINVAL, errno);
	ASSERT_EQ(MAP_FAILED, mmap(NULL, size + page_size, PROT_READ, MAP_SHARED, fd, 0));
	ASSERT_EQ(EINVAL, errno);

	ASSERT_EQ(0, munmap(all, size));
	ASSERT_EQ(0, munmap(bar, target->size));
	ASSERT_EQ(0, close(fd));
}

TEST_F(vfio_pci_dmabuf_mmap_test, ranges_in_any_order)
{
	struct mmap_target *target;

	if (mmap_targets_max_size(self->targets) < 2 * self->page_size)
		SKIP(return, "No BAR has 2 pages");

	for (target = self->targets; target->size; target++) {
		size_t page_size = self->page_size;
		struct vfio_region_dma_range two[] = {
			{ page_size, page_size }, { 0, page_size },
		};
		struct vfio_region_dma_range five[] = {
			{ 7 * page_size, page_size }, { 2 * page_size, 3 * page_size },
			{ 0, page_size }, { page_size, page_size },
			{ 10 * page_size, 6 * page_size },
		};

		if (target->size < 2 * self->page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		check_ranges(_metadata, target, two, ARRAY_SIZE(two));
		if (target->size >= 16 * page_size)
			check_ranges(_metadata, target, five, ARRAY_SIZE(five));
	}
}

TEST_F(vfio_pci_dmabuf_mmap_test, ranges_overlap)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		size_t page_size = self->page_size;
		struct vfio_region_dma_range same[] = {
			{ 0, page_size }, { 0, page_size }, { 0, page_size },
		};
		struct vfio_region_dma_range more[] = {
			{ 0, 3 * page_size }, { page_size, 3 * page_size },
			{ 2 * page_size, page_size }, { 0, 4 * page_size },
		};

		TH_LOG("BAR%d", target->bar);
		check_ranges(_metadata, target, same, ARRAY_SIZE(same));
		if (target->size >= 4 * page_size)
			check_ranges(_metadata, target, more, ARRAY_SIZE(more));
	}
}

/* An offset that is not the start of the BAR */
TEST_F(vfio_pci_dmabuf_mmap_test, range_at_the_end)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		struct vfio_region_dma_range last = {
			target->size - self->page_size, self->page_size
		};

		TH_LOG("BAR%d", target->bar);
		check_ranges(_metadata, target, &last, 1);
	}
}

/* None of them next to its neighbour, so that there is nothing to merge */
TEST_F(vfio_pci_dmabuf_mmap_test, many_ranges)
{
	struct mmap_target *target;

	if (mmap_targets_max_size(self->targets) < 2 * self->page_size)
		SKIP(return, "No BAR has 2 pages");

	for (target = self->targets; target->size; target++) {
		size_t nr = min_t(size_t, target->size / self->page_size, MAX_RANGES), i;
		struct vfio_region_dma_range *ranges;

		if (target->size < 2 * self->page_size)
			continue;

		TH_LOG("BAR%d", target->bar);
		ranges = calloc_assert(nr, sizeof(*ranges));
		for (i = 0; i < nr; i++) {
			ranges[i].offset = (nr - 1 - i) * self->page_size;
			ranges[i].length = self->page_size;
		}
		check_ranges(_metadata, target, ranges, nr);
		free(ranges);
	}
}

TEST_F(vfio_pci_dmabuf_mmap_test, bad_ranges)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		size_t page_size = self->page_size, size = target->size;
		struct vfio_region_dma_range bad[] = {
			{ 0, 0 }, { 0, page_size / 2 }, { page_size / 2, page_size },
			{ 0, size + page_size }, { size, page_size }, { -page_size, page_size },
			{ -page_size, 2 * page_size }, { page_size, -page_size },
		};
		int bar = target->bar, i, ret;

		TH_LOG("BAR%d", bar);
		for (i = 0; i < ARRAY_SIZE(bad); i++) {
			struct vfio_region_dma_range two[] = { { 0, page_size }, bad[i] };

			ret = __vfio_pci_dmabuf_export(self->device, bar, O_RDWR, &bad[i], 1);
			ASSERT_TRUE(ret == -EINVAL || ret == -EOVERFLOW)
				TH_LOG("range %d: %d", i, ret);
			ret = __vfio_pci_dmabuf_export(self->device, bar, O_RDWR, two, 2);
			ASSERT_TRUE(ret == -EINVAL || ret == -EOVERFLOW)
				TH_LOG("range %d: %d", i, ret);
		}
		ret = __vfio_pci_dmabuf_export(self->device, bar, O_RDWR, bad, 0);
		ASSERT_EQ(-EINVAL, ret);
	}
}

/*
 * What is no flag must not pass for one later. That of memory attributes has its own
 * test.
 */
TEST_F(vfio_pci_dmabuf_mmap_test, unknown_flags)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		struct {
			struct vfio_device_feature feature;
			struct vfio_device_feature_dma_buf dma_buf;
			struct vfio_region_dma_range range;
		} export = {
			.feature.argsz = sizeof(export),
			.feature.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
			.dma_buf.region_index = target->bar,
			.dma_buf.open_flags = O_RDWR | O_CLOEXEC,
			.dma_buf.nr_ranges = 1,
			.range.length = self->page_size,
		};
		int bit, fd;

		TH_LOG("BAR%d", target->bar);
		for (bit = 0; bit < 32; bit++) {
			export.dma_buf.flags = 1U << bit;
			if (export.dma_buf.flags == VFIO_DEVICE_FEATURE_DMA_BUF_ATTR_WC)
				continue;
			ASSERT_EQ(-1, ioctl(self->device->fd, VFIO_DEVICE_FEATURE, &export))
				TH_LOG("bit %d", bit);
			ASSERT_EQ(EINVAL, errno);
		}
		export.dma_buf.flags = 0;
		fd = ioctl(self->device->fd, VFIO_DEVICE_FEATURE, &export);
		ASSERT_LE(0, fd);
		ASSERT_EQ(0, close(fd));
	}
}

/* The access mode of the fd is the most that a mapping of it can have. */
TEST_F(vfio_pci_dmabuf_mmap_test, read_only)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		size_t page_size = self->page_size;
		struct vfio_region_dma_range range = { 0, page_size };
		void *bar, *vaddr;
		char path[64];
		int fd;

		TH_LOG("BAR%d", target->bar);
		bar = mmap_target_map(target, 0, page_size);
		ASSERT_TRUE(target_try_write(target, bar, 0x5ec2e7));

		fd = vfio_pci_dmabuf_export(self->device, target->bar, O_RDONLY | O_CLOEXEC,
					    &range, 1);

		ASSERT_EQ(MAP_FAILED, mmap(NULL, page_size, PROT_WRITE, MAP_SHARED, fd, 0));
		ASSERT_EQ(EACCES, errno);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED,
					   fd, 0));
		ASSERT_EQ(EACCES, errno);
		ASSERT_EQ(MAP_FAILED, mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
					   fd, 0));
		ASSERT_EQ(EINVAL, errno);

		vaddr = mmap(NULL, page_size, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		ASSERT_TRUE(target_try_check(target, vaddr, 0x5ec2e7));

		ASSERT_EQ(-1, mprotect(vaddr, page_size, PROT_READ | PROT_WRITE));
		ASSERT_EQ(EACCES, errno);
		ASSERT_EQ(-1, mprotect(vaddr, page_size, PROT_WRITE));
		ASSERT_EQ(EACCES, errno);
		ASSERT_TRUE(target_try_check(target, vaddr, 0x5ec2e7));

		/* It does not get any better by opening it again. */
		snprintf_assert(path, sizeof(path), "/proc/self/fd/%d", fd);
		ASSERT_EQ(-1, open(path, O_RDWR));
		ASSERT_EQ(ENXIO, errno);

		ASSERT_EQ(0, munmap(vaddr, page_size));
		ASSERT_EQ(0, munmap(bar, page_size));
		ASSERT_EQ(0, close(fd));
	}
}

/* Whether a line of an fd's fdinfo is this one */
static bool fdinfo_has(int fd, const char *expected)
{
	char path[64], line[256];
	bool found = false;
	FILE *file;

	snprintf_assert(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	file = fopen(path, "r");
	VFIO_ASSERT_NOT_NULL(file);
	while (!found && fgets(line, sizeof(line), file))
		found = !strcmp(line, expected);
	VFIO_ASSERT_EQ(fclose(file), 0);
	return found;
}

/* The device and the BAR, until somebody gives the DMABUF another name */
TEST_F(vfio_pci_dmabuf_mmap_test, named)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		char fdinfo[64], maps[64];
		void *vaddr;
		int fd;

		TH_LOG("BAR%d", target->bar);
		snprintf_assert(fdinfo, sizeof(fdinfo), "name:\tvfio:%s/BAR%d\n", device_bdf,
				target->bar);
		snprintf_assert(maps, sizeof(maps), " /dmabuf:vfio:%s/BAR%d\n", device_bdf,
				target->bar);

		fd = vfio_pci_dmabuf_export_range(self->device, target->bar, 0, self->page_size);
		vaddr = mmap(NULL, self->page_size, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, vaddr);
		ASSERT_TRUE(fdinfo_has(fd, fdinfo));
		ASSERT_TRUE(proc_maps_has(vaddr, maps));

		ASSERT_EQ(0, ioctl(fd, DMA_BUF_SET_NAME, "doorbells"));
		ASSERT_FALSE(fdinfo_has(fd, fdinfo));
		ASSERT_TRUE(fdinfo_has(fd, "name:\tdoorbells\n"));
		ASSERT_TRUE(proc_maps_has(vaddr, " /dmabuf:doorbells\n"));
		ASSERT_EQ(0, munmap(vaddr, self->page_size));
		ASSERT_EQ(0, close(fd));

		/* That was the name of this one only. */
		fd = vfio_pci_dmabuf_export_range(self->device, target->bar, 0, self->page_size);
		ASSERT_TRUE(fdinfo_has(fd, fdinfo));
		ASSERT_EQ(0, close(fd));
	}
}

/* The fd is all it takes, and who has it needs nothing else from there on. */
struct client_args {
	struct vfio_pci_scratch scratch;
	size_t size;
};

static int map_and_use(int sock, void *arg)
{
	struct client_args *args = arg;
	int fd = recv_fd(sock);
	void *vaddr;

	vaddr = mmap(NULL, args->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
	vaddr += args->scratch.offset;

	VFIO_ASSERT_TRUE(scratch_try_check(&args->scratch, vaddr, 0x0f0f0f0f));
	VFIO_ASSERT_TRUE(scratch_try_write(&args->scratch, vaddr, 0xf0f0f0f0));
	client_sync(sock);

	/* The owner has closed its fd. Neither is this one needed. */
	client_sync(sock);
	VFIO_ASSERT_EQ(close(fd), 0);
	VFIO_ASSERT_TRUE(scratch_try_check(&args->scratch, vaddr, 0xf0f0f0f0));
	VFIO_ASSERT_TRUE(scratch_try_write(&args->scratch, vaddr, 0x12ff21ff));
	return 0;
}

TEST_F(vfio_pci_dmabuf_mmap_test, client)
{
	struct mmap_target *target;

	for (target = self->targets; target->size; target++) {
		struct client (* const start[])(int (*main)(int sock, void *arg), void *arg) = {
			client_start,
			client_start_unprivileged,
		};
		struct client_args args = {
			.scratch = target->scratch,
			.size = self->page_size,
		};
		struct client client;
		void *bar;
		int i, fd;

		TH_LOG("BAR%d", target->bar);
		for (i = 0; i < ARRAY_SIZE(start); i++) {
			client = start[i](map_and_use, &args);

			bar = mmap_target_map(target, 0, self->page_size);
			ASSERT_TRUE(target_try_write(target, bar, 0x0f0f0f0f));

			fd = vfio_pci_dmabuf_export_range(self->device, target->bar, 0, args.size);
			send_fd(client.sock, fd);
			client_sync(client.sock);
			ASSERT_TRUE(target_try_check(target, bar, 0xf0f0f0f0));

			ASSERT_EQ(0, close(fd));
			client_sync(client.sock);
			ASSERT_EQ(0, client_wait(&client));
			ASSERT_TRUE(target_try_check(target, bar, 0x12ff21ff));
			ASSERT_EQ(0, munmap(bar, self->page_size));
		}
	}
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
