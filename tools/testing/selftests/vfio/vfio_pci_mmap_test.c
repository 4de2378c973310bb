// SPDX-License-Identifier: GPL-2.0-only
/*
 * What holds for any mapping of a device's memory, be it made through the
 * device's fd or through a DMABUF that was exported from it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/mman.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

#include "kselftest_harness.h"

static const char *device_bdf;

struct mmap_test {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct bar_source source;
	size_t page_size;
};

FIXTURE(vfio_pci_mmap_test) {
	struct mmap_test test;
};

FIXTURE_VARIANT(vfio_pci_mmap_test) {
	const char *iommu_mode;
	bool delegated;
};

/* A group and a cdev are opened in different ways. No more of the IOMMU counts. */
FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, bar_group) {
	.iommu_mode = MODE_VFIO_TYPE1V2_IOMMU,
	.delegated = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, bar_iommufd) {
	.iommu_mode = MODE_IOMMUFD,
	.delegated = false,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, dmabuf_group) {
	.iommu_mode = MODE_VFIO_TYPE1V2_IOMMU,
	.delegated = true,
};

FIXTURE_VARIANT_ADD(vfio_pci_mmap_test, dmabuf_iommufd) {
	.iommu_mode = MODE_IOMMUFD,
	.delegated = true,
};

FIXTURE_SETUP(vfio_pci_mmap_test)
{
	self->test.page_size = getpagesize();
	self->test.iommu = iommu_init(variant->iommu_mode);
	self->test.device = vfio_pci_device_init(device_bdf, self->test.iommu);
	vfio_pci_bar_unmap_all(self->test.device);
	vfio_pci_cmd_set(self->test.device, PCI_COMMAND_MEMORY);
}

FIXTURE_TEARDOWN(vfio_pci_mmap_test)
{
	vfio_pci_device_cleanup(self->test.device);
	iommu_cleanup(self->test.iommu);
}

/*
 * A test that is done with each BAR that can be mapped, as self->source. It
 * returns why it cannot be done with this one, or NULL.
 */
#define TEST_EACH_BAR(_name)								\
static const char *each_bar_##_name(struct __test_metadata *_metadata,			\
				    struct mmap_test *self);				\
											\
TEST_F(vfio_pci_mmap_test, _name)							\
{											\
	const char *reason = "The device has no BAR", *skipped;				\
	bool done = false;								\
	int bar;									\
											\
	for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {					\
		if (!self->test.device->bars[bar].info.size)				\
			continue;							\
		skipped = bar_source_open(&self->test.source, self->test.device, bar,	\
					  variant->delegated);				\
		if (!skipped) {								\
			TH_LOG("BAR%d", bar);						\
			skipped = each_bar_##_name(_metadata, &self->test);		\
			bar_source_close(&self->test.source);				\
		}									\
		reason = skipped;							\
		done |= !skipped;							\
	}										\
	if (!done)									\
		SKIP(return, "%s", reason);						\
}											\
											\
static const char *each_bar_##_name(struct __test_metadata *_metadata,			\
				    struct mmap_test *self)

#define try_write(_vaddr, _value) \
	bar_word_try_write(&self->source.word, (_vaddr) + self->source.word.offset, _value)
#define try_check(_vaddr, _value) \
	bar_word_try_check(&self->source.word, (_vaddr) + self->source.word.offset, _value)

TEST_EACH_BAR(whole)
{
	void *vaddr = bar_source_mmap(&self->source, 0, self->source.size);

	ASSERT_TRUE(try_write(vaddr, 0x12345678));
	ASSERT_TRUE(try_check(vaddr, 0x12345678));
	ASSERT_TRUE(try_write(vaddr, 0x87654321));
	ASSERT_TRUE(try_check(vaddr, 0x87654321));

	ASSERT_TRUE(mmio_try_touch(vaddr + self->source.size - self->page_size));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

/* Each part is seen where it is, and nowhere else. */
TEST_EACH_BAR(part)
{
	const u64 offsets[] = {
		0,
		self->page_size,
		self->source.size / 2,
		self->source.size - self->page_size,
	};
	void *whole, *part;
	int i;

	if (self->source.size < 2 * self->page_size)
		return "The BAR has a single page";

	whole = bar_source_mmap(&self->source, 0, self->source.size);
	for (i = 0; self->source.word.ram && i < ARRAY_SIZE(offsets); i++)
		ASSERT_TRUE(try_write(whole + offsets[i], 0x50415254 + offsets[i]));
	ASSERT_TRUE(try_write(whole, 0x50415254));

	for (i = 0; i < ARRAY_SIZE(offsets); i++) {
		part = bar_source_mmap(&self->source, offsets[i], self->page_size);
		ASSERT_TRUE(mmio_try_touch(part));
		if (self->source.word.ram) {
			ASSERT_TRUE(try_check(part, 0x50415254 + offsets[i]));
			ASSERT_TRUE(try_write(part, i));
			ASSERT_TRUE(try_check(whole + offsets[i], i));
		} else if (self->source.word.mask) {
			ASSERT_EQ(!offsets[i], try_check(part, 0x50415254));
		}
		ASSERT_EQ(0, munmap(part, self->page_size));
	}
	ASSERT_EQ(0, munmap(whole, self->source.size));
	return NULL;
}

TEST_EACH_BAR(beyond_the_end)
{
	struct bar_source *source = &self->source;

	ASSERT_EQ(MAP_FAILED, mmap(NULL, source->size + self->page_size, PROT_READ,
				   MAP_SHARED, source->fd, source->offset));
	ASSERT_EQ(EINVAL, errno);

	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
				   source->fd, source->offset + source->size));
	ASSERT_EQ(EINVAL, errno);

	ASSERT_EQ(MAP_FAILED, mmap(NULL, 2 * self->page_size, PROT_READ, MAP_SHARED, source->fd,
				   source->offset + source->size - self->page_size));
	ASSERT_EQ(EINVAL, errno);

	/* The last page that an offset can tell, where a sum could overflow */
	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_SHARED,
				   source->fd, -self->page_size));
	ASSERT_TRUE(errno == EINVAL || errno == EOVERFLOW);
	return NULL;
}

TEST_EACH_BAR(private)
{
	struct bar_source *source = &self->source;

	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ, MAP_PRIVATE,
				   source->fd, source->offset));
	ASSERT_EQ(EINVAL, errno);

	ASSERT_EQ(MAP_FAILED, mmap(NULL, self->page_size, PROT_READ | PROT_WRITE, MAP_PRIVATE,
				   source->fd, source->offset));
	ASSERT_EQ(EINVAL, errno);
	return NULL;
}

TEST_EACH_BAR(twice)
{
	void *one = bar_source_mmap(&self->source, 0, self->source.size);
	void *two = bar_source_mmap(&self->source, 0, self->source.size);

	ASSERT_TRUE(try_write(one, 0x11111111));
	ASSERT_TRUE(try_check(two, 0x11111111));
	ASSERT_TRUE(try_write(two, 0x22222222));
	ASSERT_TRUE(try_check(one, 0x22222222));

	/* One does not need the other. */
	ASSERT_EQ(0, munmap(one, self->source.size));
	ASSERT_TRUE(try_check(two, 0x22222222));
	ASSERT_EQ(0, munmap(two, self->source.size));
	return NULL;
}

/* A BAR and a DMABUF of it are the same memory. */
TEST_EACH_BAR(other_way)
{
	struct bar_source other;
	const char *reason;
	void *one, *two;

	reason = bar_source_open(&other, self->device, self->source.bar, !self->source.delegated);
	if (reason)
		return reason;

	one = bar_source_mmap(&self->source, 0, self->source.size);
	two = bar_source_mmap(&other, 0, other.size);

	ASSERT_TRUE(try_write(one, 0x33333333));
	ASSERT_TRUE(try_check(two, 0x33333333));
	ASSERT_TRUE(try_write(two, 0x44444444));
	ASSERT_TRUE(try_check(one, 0x44444444));

	ASSERT_EQ(0, munmap(one, self->source.size));
	ASSERT_EQ(0, munmap(two, other.size));
	bar_source_close(&other);
	return NULL;
}

/* /proc/PID/maps has the offset that mmap() was given ... */
TEST_EACH_BAR(offset_in_proc_maps)
{
	u64 offset = self->source.size - self->page_size;
	void *vaddr = bar_source_mmap(&self->source, offset, self->page_size);
	char column[32];

	snprintf_assert(column, sizeof(column), " rw-s %08lx ", self->source.offset + offset);
	ASSERT_TRUE(proc_maps_has(vaddr, column));

	/* The VMA is the same one after it was touched. */
	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_TRUE(proc_maps_has(vaddr, column));
	ASSERT_EQ(0, munmap(vaddr, self->page_size));
	return NULL;
}

/* ... and the name of the device and the BAR. */
TEST_EACH_BAR(name_in_proc_maps)
{
	const char *reason;
	char name[64];
	void *vaddr;

	reason = vfio_pci_no_dmabuf_mmap(self->device);
	if (reason)
		return reason;

	vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	if (self->source.delegated)
		snprintf_assert(name, sizeof(name), "/dmabuf:");
	else
		snprintf_assert(name, sizeof(name), "vfio:%s/BAR%d", device_bdf, self->source.bar);
	ASSERT_TRUE(proc_maps_has(vaddr, name));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

/* A child has the access, and a loss takes it from both. */
static int forked(int sock, void *arg)
{
	void **args = arg;
	struct bar_source *source = args[0];
	void *vaddr = args[1];

	vaddr += source->word.offset;

	VFIO_ASSERT_TRUE(bar_word_try_check(&source->word, vaddr, 0x55555555));
	VFIO_ASSERT_TRUE(bar_word_try_write(&source->word, vaddr, 0x66666666));
	meet(sock);
	meet(sock);
	VFIO_ASSERT_FALSE(mmio_try_touch(vaddr));
	meet(sock);
	meet(sock);
	VFIO_ASSERT_TRUE(mmio_try_touch(vaddr));
	return 0;
}

TEST_EACH_BAR(fork)
{
	void *vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	void *args[] = { &self->source, vaddr };
	struct client child;

	ASSERT_TRUE(try_write(vaddr, 0x55555555));

	child = client_start(forked, args);
	meet(child.sock);
	ASSERT_TRUE(try_check(vaddr, 0x66666666));

	vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
	meet(child.sock);
	ASSERT_FALSE(mmio_try_touch(vaddr));
	meet(child.sock);

	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	meet(child.sock);
	ASSERT_TRUE(mmio_try_touch(vaddr));

	ASSERT_EQ(0, client_wait(&child));
	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

TEST_EACH_BAR(mremap_moves)
{
	void *from = bar_source_mmap(&self->source, 0, self->source.size);
	void *to = mmap_reserve(self->source.size, self->page_size, 0);

	ASSERT_TRUE(try_write(from, 0x77777777));
	ASSERT_EQ(to, mremap(from, self->source.size, self->source.size,
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	ASSERT_TRUE(try_check(to, 0x77777777));
	ASSERT_EQ(-1, msync(from, self->source.size, MS_ASYNC));
	ASSERT_EQ(ENOMEM, errno);

	/* Not a way to map more */
	ASSERT_EQ(MAP_FAILED, mremap(to, self->source.size,
				     self->source.size + self->page_size, MREMAP_MAYMOVE));
	ASSERT_EQ(EFAULT, errno);
	ASSERT_EQ(MAP_FAILED, mremap(to, 0, self->source.size, MREMAP_MAYMOVE));

	/* It is found there, too. */
	vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
	ASSERT_FALSE(mmio_try_touch(to));
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);
	ASSERT_TRUE(mmio_try_touch(to));
	ASSERT_EQ(0, munmap(to, self->source.size));
	return NULL;
}

TEST_EACH_BAR(madvise)
{
	static const int refused[] = {
		MADV_DONTNEED, MADV_DONTNEED_LOCKED, MADV_FREE, MADV_WIPEONFORK,
		MADV_COLD, MADV_PAGEOUT, MADV_POPULATE_READ, MADV_POPULATE_WRITE,
	};
	void *vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	int i;

	ASSERT_TRUE(try_write(vaddr, 0x0badcafe));
	for (i = 0; i < ARRAY_SIZE(refused); i++) {
		ASSERT_EQ(-1, madvise(vaddr, self->page_size, refused[i]))
			TH_LOG("madvise %d", refused[i]);
		ASSERT_EQ(EINVAL, errno);
	}
	ASSERT_TRUE(try_check(vaddr, 0x0badcafe));

	ASSERT_EQ(0, madvise(vaddr, self->page_size, MADV_DONTFORK));
	ASSERT_TRUE(try_check(vaddr, 0x0badcafe));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

TEST_EACH_BAR(mprotect)
{
	void *vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	u32 value = 0;
	int pipes[2];

	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(sizeof(value), write(pipes[1], &value, sizeof(value)));
	ASSERT_TRUE(try_write(vaddr, 0x12121212));

	ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ));
	ASSERT_TRUE(try_check(vaddr, 0x12121212));
	ASSERT_EQ(-1, read(pipes[0], vaddr, sizeof(value)));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_NONE));
	ASSERT_EQ(-1, write(pipes[1], vaddr, sizeof(value)));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, mprotect(vaddr, self->page_size, PROT_READ | PROT_WRITE));
	ASSERT_TRUE(try_check(vaddr, 0x12121212));
	ASSERT_TRUE(try_write(vaddr, 0x21212121));
	ASSERT_TRUE(try_check(vaddr, 0x21212121));

	ASSERT_EQ(0, close(pipes[0]));
	ASSERT_EQ(0, close(pipes[1]));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

TEST_EACH_BAR(partial_munmap)
{
	size_t page_size = self->page_size;
	size_t last = self->source.size - page_size;
	void *vaddr;

	if (self->source.size < 3 * page_size)
		return "The BAR has less than 3 pages";

	vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	ASSERT_TRUE(try_write(vaddr, 0x34343434));
	ASSERT_TRUE(mmio_try_touch(vaddr + page_size));
	ASSERT_TRUE(mmio_try_touch(vaddr + last));

	/* A hole, and then the other end of the first part */
	ASSERT_EQ(0, munmap(vaddr + page_size, page_size));
	ASSERT_TRUE(try_check(vaddr, 0x34343434));
	ASSERT_TRUE(mmio_try_touch(vaddr + last));

	vfio_pci_cmd_clear(self->device, PCI_COMMAND_MEMORY);
	ASSERT_FALSE(mmio_try_touch(vaddr));
	ASSERT_FALSE(mmio_try_touch(vaddr + last));
	vfio_pci_cmd_set(self->device, PCI_COMMAND_MEMORY);

	ASSERT_TRUE(try_write(vaddr, 0x43434343));
	if (self->source.word.ram)
		ASSERT_TRUE(try_write(vaddr + last, 0x56565656));
	ASSERT_EQ(0, munmap(vaddr, page_size));
	ASSERT_TRUE(mmio_try_touch(vaddr + last));
	if (self->source.word.ram)
		ASSERT_TRUE(try_check(vaddr + last, 0x56565656));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

/* These are no pages that somebody else could hold on to. */
TEST_EACH_BAR(no_pages)
{
	void *vaddr = bar_source_mmap(&self->source, 0, self->source.size);
	struct iovec iov = {
		.iov_base = vaddr,
		.iov_len = self->page_size,
	};
	int pipes[2];

	ASSERT_TRUE(mmio_try_touch(vaddr));
	ASSERT_EQ(0, pipe(pipes));
	ASSERT_EQ(-1, vmsplice(pipes[1], &iov, 1, 0));
	ASSERT_EQ(EFAULT, errno);

	ASSERT_EQ(0, close(pipes[0]));
	ASSERT_EQ(0, close(pipes[1]));
	ASSERT_EQ(0, munmap(vaddr, self->source.size));
	return NULL;
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	return test_harness_run(argc, argv);
}
