// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver with an mmap() of its own: its mappings of BARs are no DMABUFs, and die
 * and return with the memory all the same. DMABUFs can be exported and imported,
 * and a process cannot map them.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/mman.h>

#include <linux/align.h>
#include <linux/iommufd.h>
#include <linux/pci_regs.h>

#include <libvfio.h>

#include "kselftest_harness.h"

#define DRIVER		"vfio-pci"
#define OWN_DRIVER	"vfio_pci_own_mmap"

static const char *device_bdf;
static pid_t main_pid;

struct mapping {
	struct mmap_target target;
	void *vaddr;
};

struct own_mmap_test {
	struct iommu *iommu;
	struct vfio_pci_device *device;
	struct mmap_target targets[MAX_MMAP_TARGETS];
	/* One of each, and one at the end that has no vaddr */
	struct mapping mappings[MAX_MMAP_TARGETS];
	size_t page_size;
	const struct vfio_pci_memory_event *event;
};

static void device_open(struct own_mmap_test *test)
{
	test->iommu = iommu_init(MODE_IOMMUFD);
	test->device = vfio_pci_device_init(device_bdf, test->iommu);
	vfio_pci_bar_unmap_all(test->device);
	vfio_pci_cmd_set(test->device, PCI_COMMAND_MEMORY);
}

static void device_close(struct own_mmap_test *test)
{
	vfio_pci_device_cleanup(test->device);
	iommu_cleanup(test->iommu);
	test->device = NULL;
}

static void set_no_dmabuf(bool value)
{
	int fd = open("/sys/module/" OWN_DRIVER "/parameters/no_dmabuf", O_WRONLY);

	VFIO_ASSERT_GE(fd, 0);
	VFIO_ASSERT_EQ(write(fd, value ? "1" : "0", 1), 1);
	VFIO_ASSERT_EQ(close(fd), 0);
}

/* Map each BAR. Returns why the test cannot be done, or NULL. */
static const char *own_mmap_setup(struct own_mmap_test *test)
{
	struct mapping *mapping = test->mappings;
	struct mmap_target *target;
	const char *reason;

	reason = module_load(OWN_DRIVER);
	if (reason)
		return reason;

	/* A test that has failed may have left it behind. */
	set_no_dmabuf(false);
	sysfs_driver_override(OWN_DRIVER, device_bdf);
	test->page_size = getpagesize();
	device_open(test);
	reason = mmap_targets_open(test->targets, test->device, false);
	if (reason)
		return reason;

	for (target = test->targets; target->size; target++) {
		mapping->target = *target;
		mapping->vaddr = mmap_target_map(target, 0, target->size);
		mapping++;
	}
	return NULL;
}

static void own_mmap_unmap_all(struct own_mmap_test *test)
{
	struct mapping *mapping;

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		VFIO_ASSERT_EQ(munmap(mapping->vaddr, mapping->target.size), 0);
		mapping->vaddr = NULL;
	}
}

static void own_mmap_teardown(struct own_mmap_test *test)
{
	own_mmap_unmap_all(test);
	if (test->device)
		device_close(test);
}

/* The tests that come next expect the driver that the device had. */
static void restore_driver(void)
{
	char *bound;

	/* Also called where a test exits. */
	if (getpid() != main_pid)
		return;

	bound = sysfs_driver_get(device_bdf);
	if (!bound || !strcmp(bound, OWN_DRIVER))
		sysfs_driver_override(DRIVER, device_bdf);
	free(bound);
}

static bool is_there(const struct mapping *mapping, u32 value)
{
	void *last = mapping->vaddr + mapping->target.size - sizeof(u32);

	return target_try_write(&mapping->target, mapping->vaddr, value) &&
	       target_try_check(&mapping->target, mapping->vaddr, value) &&
	       mmio_try_touch(last);
}

static bool is_gone(const struct mapping *mapping)
{
	void *last = mapping->vaddr + mapping->target.size - sizeof(u32);

	return !mmio_try_touch(mapping->vaddr) && !mmio_try_touch(last) &&
	       !mmio_try_write(mapping->vaddr + mapping->target.scratch.offset, 0);
}

/* A BAR may be smaller than a page, a range of a DMABUF is of whole pages. */
static bool can_export(struct own_mmap_test *test, const struct mapping *mapping)
{
	return IS_ALIGNED(test->device->bars[mapping->target.bar].info.size, test->page_size);
}

/* Why nothing can be exported, or NULL */
static const char *no_export(struct own_mmap_test *test)
{
	const char *reason = vfio_pci_no_dmabuf(test->device);
	struct mapping *mapping;

	if (reason)
		return reason;
	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (can_export(test, mapping))
			return NULL;
	}
	return "No BAR is of whole pages";
}

FIXTURE(vfio_pci_own_mmap_event_test) {
	struct own_mmap_test test;
};

FIXTURE_VARIANT(vfio_pci_own_mmap_event_test) {
	const struct vfio_pci_memory_event *event;
};

#define EVENT(_variant) FIXTURE_VARIANT_ADD(vfio_pci_own_mmap_event_test, _variant)

EVENT(memory_decode) { &vfio_pci_memory_decode };
EVENT(d3hot) { &vfio_pci_d3hot };
EVENT(low_power) { &vfio_pci_low_power };
EVENT(function_reset) { &vfio_pci_function_reset };
EVENT(hot_reset) { &vfio_pci_hot_reset };
EVENT(flr) { &vfio_pci_flr };

FIXTURE_SETUP(vfio_pci_own_mmap_event_test)
{
	const char *reason = own_mmap_setup(&self->test);

	if (!reason)
		reason = variant->event->unsupported(self->test.device);
	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_own_mmap_event_test)
{
	own_mmap_teardown(&self->test);
}

TEST_F(vfio_pci_own_mmap_event_test, zap_and_refault)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping;
	int round;

	for (round = 0; round < 2; round++) {
		for (mapping = test->mappings; mapping->vaddr; mapping++) {
			ASSERT_TRUE(is_there(mapping, 0x12345678 + round));
			ASSERT_EQ(0, mmio_count_faults(mapping->vaddr, 1, 1));
		}

		event->disable(test->device);
		if (event->enable) {
			for (mapping = test->mappings; mapping->vaddr; mapping++) {
				ASSERT_TRUE(is_gone(mapping))
					TH_LOG("BAR%d", mapping->target.bar);
			}
			event->enable(test->device);
		}

		/* The old page table entries did not survive either. */
		for (mapping = test->mappings; mapping->vaddr; mapping++) {
			ASSERT_EQ(1, mmio_count_faults(mapping->vaddr, 1, 1))
				TH_LOG("BAR%d", mapping->target.bar);
			ASSERT_TRUE(is_there(mapping, 0x87654321 + round))
				TH_LOG("BAR%d", mapping->target.bar);
		}
	}
}

/* Not by the process that has the importer, so that it can be killed. */
static int disable_memory(int sock, void *arg)
{
	struct own_mmap_test *test = arg;

	test->device->fd = recv_fd(sock);
	test->event->disable(test->device);
	return 0;
}

/* Importers are no matter of mmap(). */
TEST_F(vfio_pci_own_mmap_event_test, imported_dmabuf)
{
	const struct vfio_pci_memory_event *event = variant->event;
	struct own_mmap_test *test = &self->test;
	const char *reason = importer_missing();
	struct mapping *mapping;
	struct client client;
	int fd, importer;

	if (!reason)
		reason = no_export(test);
	if (reason)
		SKIP(return, "%s", reason);

	test->event = event;
	importer = importer_open();
	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (!can_export(test, mapping))
			continue;
		fd = vfio_pci_dmabuf_export_range(test->device, mapping->target.bar, 0,
						  test->page_size);
		ASSERT_EQ(0, importer_attach(importer, fd, device_bdf,
					     VFIO_DMABUF_IMPORTER_UNMAP_DELAYED, 0));
		ASSERT_EQ(0, importer_map(importer));

		client = client_start(disable_memory, test);
		send_fd(client.sock, test->device->fd);
		ASSERT_EQ(0, client_wait(&client));
		ASSERT_EQ(1, importer_nr_invalidated(importer));
		ASSERT_EQ(0, importer_mapped(importer));
		if (event->enable) {
			ASSERT_EQ(-ENODEV, importer_map(importer));
			event->enable(test->device);
		}
		ASSERT_EQ(0, importer_map(importer));
		ASSERT_EQ(0, importer_detach(importer));
		ASSERT_EQ(0, close(fd));
	}
	importer_close(importer);
}

FIXTURE(vfio_pci_own_mmap_test) {
	struct own_mmap_test test;
};

FIXTURE_SETUP(vfio_pci_own_mmap_test)
{
	const char *reason = own_mmap_setup(&self->test);

	if (reason)
		SKIP(return, "%s", reason);
}

FIXTURE_TEARDOWN(vfio_pci_own_mmap_test)
{
	own_mmap_teardown(&self->test);
}

TEST_F(vfio_pci_own_mmap_test, faults_in)
{
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping;
	char line[512];

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		ASSERT_TRUE(proc_maps_line(mapping->vaddr, line, sizeof(line)));
		ASSERT_EQ(NULL, strstr(line, "dmabuf")) TH_LOG("%s", line);
		ASSERT_EQ(1, mmio_count_faults(mapping->vaddr, 1, 1));
		ASSERT_EQ(0, mmio_count_faults(mapping->vaddr, 1, 1));
		ASSERT_TRUE(is_there(mapping, 0x600df00d));
	}
}

/* A zap has to find them wherever they are. */
TEST_F(vfio_pci_own_mmap_test, zap_moved_and_split)
{
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping;

	if (mmap_targets_max_size(test->targets) < 3 * test->page_size)
		SKIP(return, "No BAR has 3 pages");

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		size_t size = mapping->target.size;
		void *to;

		if (size < 3 * test->page_size)
			continue;

		to = mmap_reserve(size, test->page_size, 0);
		ASSERT_EQ(to, mremap(mapping->vaddr, size, size,
				     MREMAP_MAYMOVE | MREMAP_FIXED, to));
		mapping->vaddr = to;
		ASSERT_TRUE(is_there(mapping, 0x01010101));
		ASSERT_EQ(0, munmap(to + test->page_size, test->page_size));

		vfio_pci_memory_decode.disable(test->device);
		ASSERT_TRUE(is_gone(mapping));
		vfio_pci_memory_decode.enable(test->device);
		ASSERT_EQ(1, mmio_count_faults(to, 1, 1));
		ASSERT_TRUE(is_there(mapping, 0x02020202));
	}
}

/* The VMA has the file of the device. */
TEST_F(vfio_pci_own_mmap_test, device_closed)
{
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping;

	device_close(test);
	for (mapping = test->mappings; mapping->vaddr; mapping++)
		ASSERT_TRUE(is_there(mapping, 0xc105ed));
	own_mmap_unmap_all(test);
	device_open(test);
}

/* What may be seen of the memory, and how, is known to the driver's mmap() only. */
TEST_F(vfio_pci_own_mmap_test, dmabuf_cannot_be_mapped)
{
	struct own_mmap_test *test = &self->test;
	const char *reason = no_export(test);
	const int prots[] = { PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE };
	struct mapping *mapping;
	int fd, i;

	if (reason)
		SKIP(return, "%s", reason);

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (!can_export(test, mapping))
			continue;
		fd = vfio_pci_dmabuf_export_range(test->device, mapping->target.bar, 0,
						  test->page_size);
		for (i = 0; i < ARRAY_SIZE(prots); i++) {
			ASSERT_EQ(MAP_FAILED, mmap(NULL, test->page_size, prots[i], MAP_SHARED,
						   fd, 0));
			ASSERT_EQ(EOPNOTSUPP, errno);
		}
		ASSERT_EQ(0, close(fd));
		ASSERT_TRUE(is_there(mapping, 0xd3abf));
	}
}

/* Nor what type of memory it is for others. */
TEST_F(vfio_pci_own_mmap_test, dmabuf_write_combined)
{
	struct own_mmap_test *test = &self->test;
	const char *reason = no_export(test);
	char *types = memory_type_list(), *after;
	struct mapping *mapping;

	if (!reason)
		reason = vfio_pci_no_dmabuf_attr(test->device);
	if (reason)
		SKIP(return, "%s", reason);

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (!can_export(test, mapping))
			continue;
		ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_export_wc(test->device,
								   mapping->target.bar, 0,
								   test->page_size));
		ASSERT_TRUE(is_there(mapping, 0xbadca5e));
	}
	after = memory_type_list();
	ASSERT_STREQ(types, after);
	free(after);
	free(types);
}

/* iommufd asks for the addresses, and not for a scatterlist. */
TEST_F(vfio_pci_own_mmap_test, dmabuf_for_iommufd)
{
	struct own_mmap_test *test = &self->test;
	const char *reason = no_export(test);
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = test->iommu->ioas_id,
		.length = test->page_size,
	};
	struct mapping *mapping;

	if (reason)
		SKIP(return, "%s", reason);

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (!can_export(test, mapping))
			continue;
		args.fd = vfio_pci_dmabuf_export_range(test->device, mapping->target.bar, 0,
						       test->page_size);
		ASSERT_EQ(0, ioctl(test->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args));
		vfio_pci_memory_decode.disable(test->device);
		ASSERT_EQ(-1, ioctl(test->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args));
		ASSERT_EQ(ENODEV, errno);
		vfio_pci_memory_decode.enable(test->device);
		ASSERT_EQ(0, close(args.fd));
	}
}

/* What can be exported can be revoked, and the driver's own mappings are untouched. */
TEST_F(vfio_pci_own_mmap_test, dmabuf_revoked)
{
	struct own_mmap_test *test = &self->test;
	const char *reason = no_export(test);
	struct iommu_ioas_map_file args = {
		.size = sizeof(args),
		.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = test->iommu->ioas_id,
		.length = test->page_size,
	};
	struct mapping *mapping;

	if (!reason)
		reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (reason)
		SKIP(return, "%s", reason);

	for (mapping = test->mappings; mapping->vaddr; mapping++) {
		if (!can_export(test, mapping))
			continue;
		ASSERT_TRUE(is_there(mapping, 0x1e70ced));
		args.fd = vfio_pci_dmabuf_export_range(test->device, mapping->target.bar, 0,
						       test->page_size);
		ASSERT_EQ(0, ioctl(test->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args));
		ASSERT_EQ(0, __vfio_pci_dmabuf_revoke(test->device, args.fd));
		ASSERT_EQ(0, mmio_count_faults(mapping->vaddr, 1, 1));
		ASSERT_EQ(-1, ioctl(test->iommu->iommufd, IOMMU_IOAS_MAP_FILE, &args));
		ASSERT_EQ(ENODEV, errno);
		ASSERT_EQ(-EBADFD, __vfio_pci_dmabuf_revoke(test->device, args.fd));
		ASSERT_EQ(0, close(args.fd));
	}
}

/* A driver that cannot export has nothing to revoke, whatever it is given. */
TEST_F(vfio_pci_own_mmap_test, no_dmabuf)
{
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping = test->mappings;
	const char *reason = no_export(test);
	int fd;

	if (!reason)
		reason = vfio_pci_no_dmabuf_revoke(test->device);
	if (reason)
		SKIP(return, "%s", reason);

	while (!can_export(test, mapping))
		mapping++;
	fd = vfio_pci_dmabuf_export_range(test->device, mapping->target.bar, 0, test->page_size);
	own_mmap_unmap_all(test);
	device_close(test);
	set_no_dmabuf(true);
	sysfs_driver_override(DRIVER, device_bdf);
	sysfs_driver_override(OWN_DRIVER, device_bdf);
	set_no_dmabuf(false);
	device_open(test);

	ASSERT_NE(NULL, vfio_pci_no_dmabuf(test->device));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_export_wc(test->device, mapping->target.bar, 0,
							   test->page_size));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_revoke(test->device, fd));
	ASSERT_EQ(-EOPNOTSUPP, __vfio_pci_dmabuf_revoke(test->device, -1));
	ASSERT_EQ(0, close(fd));

	device_close(test);
	sysfs_driver_override(DRIVER, device_bdf);
	sysfs_driver_override(OWN_DRIVER, device_bdf);
	device_open(test);
	ASSERT_EQ(NULL, vfio_pci_no_dmabuf_revoke(test->device));
}

/* Whether lockdep is still at work, or -ENOENT without it */
static int lockdep_works(void)
{
	int works = -ENOENT;
	char line[128];
	FILE *file;

	file = fopen("/proc/lockdep_stats", "r");
	if (!file)
		return works;
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " debug_locks: %d", &works) == 1)
			break;
	}
	VFIO_ASSERT_EQ(fclose(file), 0);
	return works;
}

/*
 * A page fault of this driver takes memory_lock, with the locks of a page fault
 * held. The other way round is what core declares for all drivers that map with
 * its help, some of which copy from user memory under memory_lock. Use both.
 */
TEST_F(vfio_pci_own_mmap_test, lock_class)
{
	struct own_mmap_test *test = &self->test;
	struct mapping *mapping;

	if (lockdep_works() < 0)
		SKIP(return, "The kernel has no lockdep");
	if (!lockdep_works())
		SKIP(return, "Lockdep has found something before, and is off");

	for (mapping = test->mappings; mapping->vaddr; mapping++)
		ASSERT_TRUE(is_there(mapping, 0x10c));

	own_mmap_unmap_all(test);
	device_close(test);
	sysfs_driver_override(DRIVER, device_bdf);
	device_open(test);
	vfio_pci_memory_decode.disable(test->device);
	vfio_pci_memory_decode.enable(test->device);
	ASSERT_EQ(1, lockdep_works());
}

int main(int argc, char *argv[])
{
	device_bdf = vfio_selftests_get_bdf(&argc, argv);
	main_pid = getpid();
	VFIO_ASSERT_EQ(atexit(restore_driver), 0);
	return test_harness_run(argc, argv);
}
