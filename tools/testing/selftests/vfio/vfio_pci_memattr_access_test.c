// SPDX-License-Identifier: GPL-2.0-only
/*
 * read() and write() of the device's fd work on, and so do ioeventfds. Whether any
 * of the BAR is write-combining makes no difference to them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/align.h>
#include <linux/compiler.h>
#include <linux/kernel.h>
#include <linux/pci_regs.h>
#include <linux/sizes.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

/* Relative to when some of the BAR is write-combining */
enum when {
	BEFORE,
	DURING,
	AFTER,
	NR_WHENS,
};

FIXTURE(vfio_pci_memattr_access_test) {
	struct memattr_test test;
	/* Pages 4 to 7 of the BAR, while they are write-combining */
	int fd;
	/* Through which to look at the first 32 pages, whatever they are */
	void *bar;
};

#define access_data		FIXTURE_DATA(vfio_pci_memattr_access_test)

#define VIEW_PAGES	32
#define WC_FIRST	4
#define WC_NR		4

static void map_piece(access_data *self, int fd, u64 from, u64 nr, u64 at)
{
	const size_t page = self->test.page_size;
	void *vaddr;

	vaddr = mmap(self->bar + from * page, nr * page, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_FIXED, fd, at);
	VFIO_ASSERT_NE(vaddr, MAP_FAILED);
}

static void unmap_view(access_data *self)
{
	/* Nothing else may come to where it is. */
	VFIO_ASSERT_NE(mmap(self->bar, VIEW_PAGES * self->test.page_size, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), MAP_FAILED);
}

static void map_view(access_data *self)
{
	struct memattr_test *test = &self->test;
	const u64 bar = test->device->bars[test->bar].info.offset, page = test->page_size;
	const u64 behind = WC_FIRST + WC_NR;

	if (self->fd < 0) {
		map_piece(self, test->device->fd, 0, VIEW_PAGES, bar);
		return;
	}
	map_piece(self, test->device->fd, 0, WC_FIRST, bar);
	map_piece(self, self->fd, WC_FIRST, WC_NR, 0);
	map_piece(self, test->device->fd, behind, VIEW_PAGES - behind, bar + behind * page);
}

static void go_to(access_data *self, enum when when)
{
	const size_t page = self->test.page_size;

	unmap_view(self);
	if (when == DURING)
		self->fd = vfio_pci_dmabuf_export_wc(self->test.device, self->test.bar,
						     WC_FIRST * page, WC_NR * page);
	if (when == AFTER) {
		VFIO_ASSERT_EQ(close(self->fd), 0);
		self->fd = -1;
	}
	map_view(self);
}

FIXTURE_SETUP(vfio_pci_memattr_access_test)
{
	struct memattr_test *test = &self->test;
	const char *reason = memattr_open_wc(test, device_bdf);

	if (!reason && !test->scratch.ram)
		reason = "The BAR is no RAM";
	if (reason)
		SKIP(return, "%s", reason);

	self->fd = -1;
	self->bar = mmap_reserve(VIEW_PAGES * test->page_size, test->page_size, 0);
}

FIXTURE_TEARDOWN(vfio_pci_memattr_access_test)
{
	VFIO_ASSERT_EQ(munmap(self->bar, VIEW_PAGES * self->test.page_size), 0);
	if (self->fd >= 0)
		VFIO_ASSERT_EQ(close(self->fd), 0);
	memattr_close(&self->test);
}

static ssize_t bar_read(struct memattr_test *test, void *data, size_t size, u64 pos)
{
	ssize_t ret = pread(test->device->fd, data, size,
			    test->device->bars[test->bar].info.offset + pos);

	return ret < 0 ? -errno : ret;
}

static ssize_t bar_write(struct memattr_test *test, const void *data, size_t size, u64 pos)
{
	ssize_t ret;

	ret = pwrite(test->device->fd, data, size,
		     test->device->bars[test->bar].info.offset + pos);
	return ret < 0 ? -errno : ret;
}

/* Bytes that tell where they are, and when they were written */
static void fill(u8 *data, size_t size, u32 seed)
{
	size_t i;

	for (i = 0; i < size; i++) {
		seed = seed * 1103515245 + 12345;
		data[i] = seed >> 16;
	}
}

/* Byte by byte, which takes no alignment */
static void copy(u8 *to, const u8 *from, size_t size)
{
	while (size--)
		WRITE_ONCE(*to++, READ_ONCE(*from++));
}

static void check_bytes(struct __test_metadata *_metadata, access_data *self, u64 pos, size_t size)
{
	u8 *expected = calloc_assert(size + 2, 1), *got = calloc_assert(size + 2, 1);
	u8 *bar = self->bar + pos;
	static u32 seed;

	/* Write to memory, read through the fd. */
	fill(expected, size, ++seed);
	copy(bar, expected, size);
	memattr_sync();
	ASSERT_EQ(size, bar_read(&self->test, got, size, pos));
	ASSERT_EQ(0, memcmp(expected, got, size)) TH_LOG("%#zx bytes at %#lx", size, pos);

	/* And the other way round. The neighbours stay what they are. */
	fill(expected, size + 2, ++seed);
	if (pos)
		WRITE_ONCE(bar[-1], expected[0]);
	WRITE_ONCE(bar[size], expected[size + 1]);
	memattr_sync();
	ASSERT_EQ(size, bar_write(&self->test, expected + 1, size, pos));
	memattr_sync();
	copy(got + 1, bar, size + 1);
	got[0] = pos ? READ_ONCE(bar[-1]) : expected[0];
	ASSERT_EQ(0, memcmp(expected, got, size + 2)) TH_LOG("%#zx bytes at %#lx", size, pos);
	free(expected);
	free(got);
}

TEST_F(vfio_pci_memattr_access_test, read_and_write)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page, uc = wc + WC_NR * page;
	static const size_t sizes[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 64, 100 };
	/* The start of the BAR, a page of each type, and each border between them */
	const u64 places[] = { 0, page, wc, wc + page, uc, uc + page };
	enum when when;
	int i, j, k;

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		for (i = 0; i < ARRAY_SIZE(places); i++) {
			for (j = 0; j < ARRAY_SIZE(sizes); j++) {
				/* Up to it, across it, and from it on, aligned or not */
				for (k = -9; k <= 8; k++) {
					if (places[i] || k >= 0)
						check_bytes(_metadata, self, places[i] + k,
							    sizes[j]);
				}
				if (places[i])
					check_bytes(_metadata, self, places[i] - sizes[j],
						    sizes[j]);
			}
		}
		check_bytes(_metadata, self, wc - 1, WC_NR * page + 2);
		check_bytes(_metadata, self, 0, SZ_64K + 1);
		check_bytes(_metadata, self, 3, SZ_64K + 1);
		ASSERT_TYPES(when != BEFORE ? when == DURING : 1, memattr_nr_types(test, NULL));
	}
}

/* Where the BAR ends, and behind that */
TEST_F(vfio_pci_memattr_access_test, end_of_bar)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, size = test->size;
	u8 *data = calloc_assert(4, page), *again = calloc_assert(4, page);
	int fd = -1, i;

	/* Before, during, after; with the last page write-combining, and the one before */
	for (i = 0; i < 5; i++) {
		if (i == 1 || i == 3)
			fd = vfio_pci_dmabuf_export_wc(test->device, test->bar,
						       size - (i == 1 ? 1 : 2) * page, page);

		fill(data, 2 * page, i + 1);
		ASSERT_EQ(page, bar_write(test, data, 2 * page, size - page));
		ASSERT_EQ(page, bar_read(test, again, 2 * page, size - page));
		ASSERT_EQ(0, memcmp(data, again, page));
		ASSERT_EQ(page + 3, bar_write(test, data, 4 * page, size - page - 3));
		ASSERT_EQ(page + 3, bar_read(test, again, 4 * page, size - page - 3));
		ASSERT_EQ(0, memcmp(data, again, page + 3));
		ASSERT_EQ(1, bar_read(test, again, 8, size - 1));
		ASSERT_EQ(data[page + 2], again[0]);
		ASSERT_EQ(1, bar_write(test, data, 8, size - 1));
		ASSERT_EQ(1, bar_read(test, again, 1, size - 1));
		ASSERT_EQ(data[0], again[0]);
		ASSERT_EQ(-EINVAL, bar_read(test, again, 1, size));
		ASSERT_EQ(-EINVAL, bar_write(test, data, 1, size));
		ASSERT_EQ(-EINVAL, bar_read(test, again, 8, size + page));
		ASSERT_EQ(-EINVAL, bar_write(test, data, page, size + page));
		ASSERT_EQ(0, bar_read(test, again, 0, 0));

		if (fd >= 0)
			ASSERT_EQ(0, close(fd));
		fd = -1;
	}
	free(data);
	free(again);
}

TEST_F(vfio_pci_memattr_access_test, memory_disabled)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page;
	const u64 places[] = { 0, wc - 8, wc, wc + page, wc + WC_NR * page - 8 };
	u8 data[4096] = {};
	enum when when;
	int i;

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		vfio_pci_memory_decode.disable(test->device);
		for (i = 0; i < ARRAY_SIZE(places); i++) {
			ASSERT_EQ(-EIO, bar_read(test, data, 4, places[i]));
			ASSERT_EQ(-EIO, bar_write(test, data, 4, places[i]));
			ASSERT_EQ(-EIO, bar_read(test, data, sizeof(data), places[i]));
			ASSERT_EQ(-EIO, bar_write(test, data, sizeof(data), places[i]));
		}
		vfio_pci_memory_decode.enable(test->device);
		check_bytes(_metadata, self, wc - 8, 16);
	}
}

TEST_F(vfio_pci_memattr_access_test, bad_pointer)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page;
	const u64 places[] = { 0, wc - 8, wc, wc + 2 * page - 8, wc + WC_NR * page - 8 };
	enum when when;
	void *pages;
	int i;

	pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, pages);
	ASSERT_EQ(0, mprotect(pages + page, page, PROT_NONE));

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		for (i = 0; i < ARRAY_SIZE(places); i++) {
			ASSERT_EQ(-EFAULT, bar_read(test, NULL, 16, places[i]));
			ASSERT_EQ(-EFAULT, bar_write(test, NULL, 16, places[i]));
			ASSERT_EQ(-EFAULT, bar_read(test, pages + page, 16, places[i]));
			/* After a part of it is done */
			ASSERT_EQ(-EFAULT, bar_read(test, pages + page - 8, 16, places[i]));
			ASSERT_EQ(-EFAULT, bar_write(test, pages + page - 8, 16, places[i]));
			ASSERT_EQ(-EFAULT, bar_read(test, pages, 2 * page, places[i]));
			ASSERT_EQ(-EFAULT, bar_write(test, pages, 2 * page, places[i]));
		}
		check_bytes(_metadata, self, wc - 8, 16);
	}
	ASSERT_EQ(0, munmap(pages, 2 * page));
}

/* Read right into a mapping of the BAR, of the page that is read or of another one. */
TEST_F(vfio_pci_memattr_access_test, to_and_from_itself)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page;
	const u64 places[] = { page, wc - 8, wc, wc + page - 8, wc + WC_NR * page - 8 };
	u8 data[16], again[16];
	enum when when;
	int i;

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		for (i = 0; i < ARRAY_SIZE(places) * ARRAY_SIZE(places); i++) {
			u64 from = places[i / ARRAY_SIZE(places)];
			u64 to = places[i % ARRAY_SIZE(places)];

			/* Neither the same nor parts of each other */
			if (from < to + sizeof(data) && to < from + sizeof(data))
				continue;
			fill(data, sizeof(data), 2 * i);
			copy(self->bar + from, data, sizeof(data));
			memattr_sync();
			/* Not mapped when the kernel gets there */
			unmap_view(self);
			map_view(self);
			ASSERT_EQ(sizeof(data), bar_read(test, self->bar + to, sizeof(data), from));
			copy(again, self->bar + to, sizeof(data));
			ASSERT_EQ(0, memcmp(data, again, sizeof(data)));

			fill(data, sizeof(data), 2 * i + 1);
			copy(self->bar + from, data, sizeof(data));
			memattr_sync();
			ASSERT_EQ(sizeof(data),
				  bar_write(test, self->bar + from, sizeof(data), to));
			copy(again, self->bar + to, sizeof(data));
			ASSERT_EQ(0, memcmp(data, again, sizeof(data)));
		}
	}
}

static int set_ioeventfd(struct memattr_test *test, int fd, u64 pos, int size, u64 data)
{
	struct vfio_device_ioeventfd ioeventfd = {
		.argsz = sizeof(ioeventfd),
		.flags = size,
		.offset = test->device->bars[test->bar].info.offset + pos,
		.data = data,
		.fd = fd,
	};

	return ioctl(test->device->fd, VFIO_DEVICE_IOEVENTFD, &ioeventfd) ? -errno : 0;
}

/* Long enough for what a thread of the kernel may have to do */
#define PATIENCE_US	20000000

/* Signal it, and wait for what it writes. */
static void check_ioeventfd(struct __test_metadata *_metadata, access_data *self, int fd,
			    u64 pos, int size, u64 data)
{
	u8 *bar = self->bar + pos;
	u64 got = 0, count = 1;
	int waited = 0;
	u8 zero[8] = {};

	copy(bar, zero, size);
	memattr_sync();
	ASSERT_EQ(sizeof(count), write(fd, &count, sizeof(count)));
	do {
		copy((u8 *)&got, bar, size);
		if (got == data)
			break;
		usleep(100);
		waited += 100;
	} while (waited < PATIENCE_US);
	ASSERT_EQ(data, got) TH_LOG("%d bytes at %#lx", size, pos);
}

TEST_F(vfio_pci_memattr_access_test, ioeventfd)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page, uc = wc + WC_NR * page;
	const struct {
		u64 pos;
		int size;
		u64 data;
	} events[] = {
		{ 0, 4, 0x11223344 },
		{ wc - 8, 8, 0x1122334455667788 },
		{ wc - 1, 1, 0x99 },
		{ uc, 2, 0xaabb },
		{ uc + 4, 8, 0x8877665544332211 },
		{ test->size - 4, 4, 0x55667788 },
	};
	int fds[ARRAY_SIZE(events)], fd, i;
	enum when when;

	for (i = 0; i < ARRAY_SIZE(events); i++) {
		fds[i] = eventfd(0, EFD_CLOEXEC);
		ASSERT_LE(0, fds[i]);
		ASSERT_EQ(0, set_ioeventfd(test, fds[i], events[i].pos, events[i].size,
					   events[i].data));
	}
	fd = eventfd(0, EFD_CLOEXEC);
	ASSERT_LE(0, fd);

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		/* Made before; the last one is behind what is mapped here. */
		for (i = 0; i < ARRAY_SIZE(events) - 1; i++)
			check_ioeventfd(_metadata, self, fds[i], events[i].pos, events[i].size,
					events[i].data);

		/* Made now */
		ASSERT_EQ(0, set_ioeventfd(test, fd, page + 16, 4, 0x0badcafe + when));
		check_ioeventfd(_metadata, self, fd, page + 16, 4, 0x0badcafe + when);
		ASSERT_EQ(-EEXIST, set_ioeventfd(test, fd, page + 16, 4, 0x0badcafe + when));
		ASSERT_EQ(0, set_ioeventfd(test, -1, page + 16, 4, 0x0badcafe + when));
	}

	/* For the next round they are in the way. */
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 0, page));
	for (i = 0; i < ARRAY_SIZE(events); i++) {
		u64 first = ALIGN_DOWN(events[i].pos, page);

		ASSERT_EQ(-EBUSY, memattr_export_wc(test, first, page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, first, page));
	}
	ASSERT_TYPES(0, memattr_nr_types(test, TYPE_WRITE_COMBINING));
	for (i = 0; i < ARRAY_SIZE(events); i++) {
		ASSERT_EQ(0, set_ioeventfd(test, -1, events[i].pos, events[i].size,
					   events[i].data));
		ASSERT_EQ(0, close(fds[i]));
	}
	ASSERT_EQ(0, close(fd));
	unmap_view(self);
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 0, test->size));
}

TEST_F(vfio_pci_memattr_access_test, ioeventfd_in_the_way)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page, behind = wc + WC_NR * page;
	struct vfio_region_dma_range ranges[] = {
		{ 0, page }, { wc, 2 * page },
	};
	int fd = eventfd(0, EFD_CLOEXEC), round;
	char *types;

	ASSERT_LE(0, fd);
	for (round = 0; round < 2; round++) {
		ASSERT_EQ(0, set_ioeventfd(test, fd, wc + page + 8, 4, 0x11223344));
		types = memory_type_list();
		ASSERT_EQ(-EBUSY, memattr_export_wc(test, wc + page, page));
		ASSERT_EQ(-EBUSY, memattr_export_wc(test, wc, WC_NR * page));
		ASSERT_EQ(-EBUSY, memattr_export_wc(test, 0, test->size));
		ASSERT_EQ(-EBUSY, memattr_export_ranges(test, ATTR_WC, ranges, ARRAY_SIZE(ranges)));
		expect_memory_types(types);
		free(types);
		ASSERT_EQ(0, memattr_try_export(test, ATTR_UC, wc, WC_NR * page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, wc, page));
		ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, wc + 2 * page, page));
		ASSERT_EQ(0, set_ioeventfd(test, -1, wc + page + 8, 4, 0x11223344));

		go_to(self, DURING);
		ASSERT_EQ(-EBUSY, set_ioeventfd(test, fd, wc, 4, 0x11223344));
		ASSERT_EQ(-EBUSY, set_ioeventfd(test, fd, wc + page + 8, 4, 0x11223344));
		ASSERT_EQ(-EBUSY, set_ioeventfd(test, fd, behind - 1, 1, 0x11));
		/* One that does not exist is none. */
		ASSERT_EQ(-ENODEV, set_ioeventfd(test, -1, wc, 4, 0x11223344));
		ASSERT_EQ(0, set_ioeventfd(test, fd, wc - 4, 4, 0x11223344));
		ASSERT_EQ(0, set_ioeventfd(test, fd, behind, 4, 0x11223344));
		check_ioeventfd(_metadata, self, fd, wc - 4, 4, 0x11223344);
		check_ioeventfd(_metadata, self, fd, behind, 4, 0x11223344);
		ASSERT_EQ(0, set_ioeventfd(test, -1, wc - 4, 4, 0x11223344));
		ASSERT_EQ(0, set_ioeventfd(test, -1, behind, 4, 0x11223344));

		/* The pages are free when the DMABUF is revoked. */
		vfio_pci_dmabuf_revoke(test->device, self->fd);
		ASSERT_EQ(0, set_ioeventfd(test, fd, wc, 4, 0x55667788));
		go_to(self, AFTER);
		check_ioeventfd(_metadata, self, fd, wc, 4, 0x55667788);
		ASSERT_EQ(0, set_ioeventfd(test, -1, wc, 4, 0x55667788));
		unmap_view(self);
	}
	ASSERT_EQ(0, close(fd));
}

/* Of two pages, which may be of two types otherwise */
TEST_F(vfio_pci_memattr_access_test, ioeventfd_across_pages)
{
	struct memattr_test *test = &self->test;
	const u64 page = test->page_size, wc = WC_FIRST * page, uc = wc + WC_NR * page;
	const u64 data = 0x1122334455667788;
	int fd = eventfd(0, EFD_CLOEXEC);
	enum when when;

	ASSERT_LE(0, fd);
	if (set_ioeventfd(test, fd, 2 * page - 4, 8, data))
		SKIP(return, "There is no ioeventfd across pages");

	for (when = BEFORE; when < NR_WHENS; when++) {
		go_to(self, when);
		check_ioeventfd(_metadata, self, fd, 2 * page - 4, 8, data);
		if (when == DURING) {
			ASSERT_EQ(-EBUSY, set_ioeventfd(test, fd, wc - 4, 8, data));
			ASSERT_EQ(-EBUSY, set_ioeventfd(test, fd, uc - 4, 8, data));
		}
	}
	unmap_view(self);
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, page, page));
	ASSERT_EQ(-EBUSY, memattr_export_wc(test, 2 * page, page));
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 0, page));
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 3 * page, page));
	ASSERT_EQ(0, set_ioeventfd(test, -1, 2 * page - 4, 8, data));
	ASSERT_EQ(0, memattr_try_export(test, ATTR_WC, 0, test->size));
	ASSERT_EQ(0, close(fd));
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
